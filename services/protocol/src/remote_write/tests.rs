//! Against messages that prost encodes.

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{MetricId, Value};

/// The messages as Prometheus publishes them, for an encoder that is not ours.
mod published {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
        #[prost(message, repeated, tag = "3")]
        pub metadata: Vec<MetricMetadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub exemplars: Vec<Other>,
        #[prost(message, repeated, tag = "4")]
        pub histograms: Vec<Other>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
        #[prost(int64, tag = "3")]
        pub start_timestamp: i64,
    }

    /// Some message that is only counted.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Other {
        #[prost(double, tag = "3")]
        pub value: f64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricMetadata {
        #[prost(uint32, tag = "1")]
        pub kind: u32,
        #[prost(string, tag = "2")]
        pub metric_family_name: String,
        #[prost(string, tag = "4")]
        pub help: String,
        #[prost(string, tag = "5")]
        pub unit: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RequestV2 {
        #[prost(string, repeated, tag = "4")]
        pub symbols: Vec<String>,
        #[prost(message, repeated, tag = "5")]
        pub timeseries: Vec<TimeSeriesV2>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeriesV2 {
        #[prost(uint32, repeated, tag = "1")]
        pub labels_refs: Vec<u32>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub histograms: Vec<Other>,
        #[prost(message, repeated, tag = "4")]
        pub exemplars: Vec<Other>,
        #[prost(message, optional, tag = "5")]
        pub metadata: Option<MetadataV2>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct MetadataV2 {
        #[prost(uint32, tag = "1")]
        pub kind: u32,
        #[prost(uint32, tag = "3")]
        pub help_ref: u32,
        #[prost(uint32, tag = "4")]
        pub unit_ref: u32,
    }
}

use published::{Label, MetadataV2, MetricMetadata, Other, RequestV2, Sample, TimeSeries, TimeSeriesV2, WriteRequest};

/// Labels and samples of series.
type Series = (Vec<(String, String)>, Vec<(i64, f64)>);

/// The bits of Prometheus's stale marker.
const STALE: u64 = 0x7ff0_0000_0000_0002;

fn samples(of: &[(i64, f64)]) -> Vec<Sample> {
    of.iter().map(|(timestamp, value)| Sample { value: *value, timestamp: *timestamp, start_timestamp: 0 }).collect()
}

fn v1(series: &[Series]) -> Vec<u8> {
    let one = |(labels, of): &Series| TimeSeries {
        labels: labels.iter().map(|(name, value)| Label { name: name.clone(), value: value.clone() }).collect(),
        samples: samples(of),
        ..TimeSeries::default()
    };
    WriteRequest { timeseries: series.iter().map(one).collect(), metadata: Vec::new() }.encode_to_vec()
}

fn reference(symbols: &mut Vec<String>, text: &str) -> u32 {
    let at = symbols.iter().position(|symbol| symbol == text).unwrap_or_else(|| {
        symbols.push(text.to_owned());
        symbols.len() - 1
    });
    u32::try_from(at).unwrap()
}

fn v2(series: &[Series]) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut timeseries = Vec::new();
    for (labels, of) in series {
        let labels_refs = labels.iter().flat_map(|(key, value)| [reference(&mut symbols, key), reference(&mut symbols, value)]).collect();
        timeseries.push(TimeSeriesV2 { labels_refs, samples: samples(of), ..TimeSeriesV2::default() });
    }
    RequestV2 { symbols, timeseries }.encode_to_vec()
}

fn labels(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn read(body: &[u8], message: Message) -> Result<Decoded, DecodeError> {
    decode(body, message, 1 << 20, |_| true)
}

/// Ids, times and the bits of values.
fn rows(metrics: &Metrics) -> Vec<(String, i64, u64)> {
    let row = |(at, metric): (usize, crate::MetricRef<'_>)| {
        let Value::Gauge(value) = metric.value else { panic!("remote-write's series are gauges") };
        (metric.id.to_owned(), metrics.at_millis(at).unwrap(), value.to_bits())
    };
    metrics.iter().enumerate().map(row).collect()
}

#[test]
fn golden_bytes() {
    // By the published field numbers, by hand: one series up{a="b"}, 1.5 at 1000 ms.
    let v1 = b"\x0a\x26\x0a\x0e\x0a\x08__name__\x12\x02up\x0a\x06\x0a\x01a\x12\x01b\x12\x0c\x09\0\0\0\0\0\0\xf8\x3f\x10\xe8\x07";
    let v2 =
        b"\x22\0\x22\x08__name__\x22\x02up\x22\x01a\x22\x01b\x2a\x14\x0a\x04\x01\x02\x03\x04\x12\x0c\x09\0\0\0\0\0\0\xf8\x3f\x10\xe8\x07";
    for (body, message) in [(&v1[..], Message::V1), (&v2[..], Message::V2)] {
        let decoded = read(body, message).unwrap();
        assert_eq!(rows(&decoded.metrics), [("up{a=\"b\"}".to_owned(), 1_000, 1.5_f64.to_bits())], "{message:?}");
    }
}

#[test]
fn bits_of_values_are_kept_and_labels_may_be_in_any_order() {
    let stale = f64::from_bits(STALE);
    let series = [
        (labels(&[("z", "1"), ("__name__", "up"), ("A", "x\"y\\\n"), ("none", "")]), vec![(3, stale), (2, f64::NEG_INFINITY), (-1, -1.5)]),
        (labels(&[("__name__", "a.b"), ("k.l", "v")]), vec![(i64::MAX, f64::from_bits(0x7ff0_dead_beef_0001))]),
        (labels(&[("__name__", "no_samples")]), vec![]),
    ];
    let up = "up{A=\"x\\\"y\\\\\\n\",z=\"1\"}".to_owned();
    let expected = [
        (up.clone(), 3, STALE),
        (up.clone(), 2, f64::NEG_INFINITY.to_bits()),
        (up, -1, (-1.5_f64).to_bits()),
        ("{\"a.b\",\"k.l\"=\"v\"}".to_owned(), i64::MAX, 0x7ff0_dead_beef_0001),
    ];
    for (body, message) in [(v1(&series), Message::V1), (v2(&series), Message::V2)] {
        let decoded = read(&body, message).unwrap();
        assert_eq!(rows(&decoded.metrics), expected, "{message:?}");
        assert_eq!(decoded.invalid, Invalid::default());
    }
}

#[test]
fn series_that_no_metric_may_be_are_left_out_and_counted() {
    let long = "x".repeat(5_000);
    for (bad, problem) in [
        (labels(&[("a", "b")]), "no label __name__"),
        (labels(&[("__name__", "")]), "no label __name__"),
        (labels(&[("__name__", "up"), ("a", "1"), ("a", "2")]), "the label \"a\" twice"),
        (labels(&[("__name__", "up"), ("", "2")]), "name is empty"),
        (labels(&[("__name__", "u\np")]), "control characters"),
        (labels(&[("__name__", "up"), ("a", "\0")]), "no NUL"),
        (labels(&[("__name__", "up"), ("a", &long)]), "at most 4096 bytes"),
    ] {
        let good = (labels(&[("__name__", "good")]), vec![(1, 1.0)]);
        let series = [good.clone(), (bad, vec![(1, 1.0), (2, 2.0)]), good];
        for (body, message) in [(v1(&series), Message::V1), (v2(&series), Message::V2)] {
            let decoded = read(&body, message).unwrap();
            assert_eq!((decoded.metrics.len(), decoded.invalid.samples), (2, 2), "{problem}");
            let first = decoded.invalid.first.unwrap();
            assert!(first.contains(problem), "{first} should say {problem}");
        }
    }
}

#[test]
fn texts_that_are_not_utf8_are_a_bad_series_and_not_a_bad_message() {
    let mut body = v1(&[(labels(&[("__name__", "up"), ("a", "QQ")]), vec![(1, 1.0)]), (labels(&[("__name__", "up")]), vec![(1, 1.0)])]);
    let at = body.windows(2).position(|two| two == b"QQ").unwrap();
    body[at] = 0xff;
    let decoded = read(&body, Message::V1).unwrap();
    assert_eq!((decoded.metrics.len(), decoded.invalid.samples), (1, 1));
    assert_eq!(decoded.invalid.first.as_deref(), Some("a label is not UTF-8"));
}

#[test]
fn symbols_are_checked() {
    let good = RequestV2 {
        symbols: ["", "__name__", "up", "help", "s"].map(str::to_owned).into(),
        timeseries: vec![TimeSeriesV2 { labels_refs: vec![1, 2], samples: samples(&[(1, 1.0)]), ..TimeSeriesV2::default() }],
    };
    let with = |change: &dyn Fn(&mut RequestV2)| {
        let mut request = good.clone();
        change(&mut request);
        read(&request.encode_to_vec(), Message::V2)
    };
    assert_eq!(with(&|_| {}).unwrap().metrics.len(), 1);
    let first = |change: &dyn Fn(&mut RequestV2)| with(change).unwrap().invalid.first.unwrap_or_default();
    assert_eq!(
        first(&|request| request.timeseries[0].labels_refs = vec![1, 5]),
        "a label refers to a symbol that the message does not have"
    );
    assert_eq!(first(&|request| request.timeseries[0].labels_refs = vec![1, 2, 3]), "a label refers to a name without a value");
    let error = with(&|request| request.symbols[0] = "x".into()).unwrap_err().to_string();
    assert_eq!(error, "the body is not a valid io.prometheus.write.v2.Request message: its first symbol is not empty");
    // Metadata whose references lead nowhere costs no sample.
    let metadata = Some(MetadataV2 { kind: 1, help_ref: 3, unit_ref: 99 });
    let decoded = with(&|request| request.timeseries[0].metadata = metadata).unwrap();
    let expected = Metadata { name: "up".into(), kind: MetadataKind::Counter, help: "help".into(), unit: String::new() };
    assert_eq!((decoded.metrics.len(), decoded.metadata), (1, vec![expected]));
}

#[test]
fn metadata_is_by_name_without_the_endings_of_a_histograms_series() {
    let request = WriteRequest {
        timeseries: Vec::new(),
        metadata: vec![
            MetricMetadata { kind: 3, metric_family_name: "h_seconds".into(), help: "Time.".into(), unit: "seconds".into() },
            MetricMetadata { kind: 99, metric_family_name: "later".into(), help: String::new(), unit: String::new() },
        ],
    };
    let decoded = read(&request.encode_to_vec(), Message::V1).unwrap();
    let seconds = Metadata { name: "h_seconds".into(), kind: MetadataKind::Histogram, help: "Time.".into(), unit: "seconds".into() };
    let later = Metadata { name: "later".into(), kind: MetadataKind::Unknown, help: String::new(), unit: String::new() };
    assert_eq!(decoded.metadata, [seconds.clone(), later]);

    let symbols = ["", "__name__", "h_seconds_bucket", "h_seconds_sum", "Time.", "seconds"].map(str::to_owned).into();
    let metadata = Some(MetadataV2 { kind: 3, help_ref: 4, unit_ref: 5 });
    let series = |name| TimeSeriesV2 { labels_refs: vec![1, name], samples: samples(&[(1, 1.0)]), metadata, ..TimeSeriesV2::default() };
    let request = RequestV2 { symbols, timeseries: vec![series(2), series(2), series(3)] };
    let decoded = read(&request.encode_to_vec(), Message::V2).unwrap();
    assert_eq!(decoded.metadata, [seconds], "said once");
    for kind in MetadataKind::ALL {
        assert_eq!(MetadataKind::parse(kind.as_str()), kind);
    }
}

#[test]
fn histograms_and_exemplars_are_counted() {
    let one = TimeSeries {
        labels: vec![Label { name: "__name__".into(), value: "h".into() }],
        samples: samples(&[(1, 1.0)]),
        exemplars: vec![Other { value: 1.0 }; 2],
        histograms: vec![Other { value: 1.0 }; 3],
    };
    let decoded = read(&WriteRequest { timeseries: vec![one], metadata: Vec::new() }.encode_to_vec(), Message::V1).unwrap();
    assert_eq!((decoded.metrics.len(), decoded.exemplars, decoded.histograms), (1, 2, 3));
}

#[test]
fn a_bomb_ends_at_its_limit() {
    // One symbol of 4 KB, named by each of 10,000 series of 20 bytes.
    let big = "x".repeat(4_000);
    let symbols = vec![String::new(), "__name__".into(), big];
    let one = TimeSeriesV2 { labels_refs: vec![1, 2], samples: samples(&[(1, 1.0)]), ..TimeSeriesV2::default() };
    let texts = RequestV2 { symbols, timeseries: vec![one; 10_000] }.encode_to_vec();
    // Samples of two bytes that become 24.
    let empty = vec![Sample::default(); 100_000];
    let many =
        WriteRequest { timeseries: vec![TimeSeries { samples: empty, ..TimeSeries::default() }], metadata: Vec::new() }.encode_to_vec();
    // References of one byte that become labels of 32.
    let references = TimeSeriesV2 { labels_refs: vec![0; 200_000], ..TimeSeriesV2::default() };
    let references = RequestV2 { symbols: vec![String::new()], timeseries: vec![references] }.encode_to_vec();
    for (body, message) in [(texts, Message::V2), (many, Message::V1), (references, Message::V2)] {
        assert!(body.len() < 1 << 19, "{} bytes", body.len());
        let mut asked = 0;
        let room = |bytes: usize| {
            asked = bytes;
            true
        };
        assert_eq!(decode(&body, message, 1 << 20, room), Err(DecodeError::TooLarge(1 << 20)));
        assert!(asked <= 1 << 20, "{asked}");
        assert!(matches!(decode(&body, message, usize::MAX, |bytes| bytes < 1 << 18), Err(DecodeError::NoRoom(_))));
    }
}

#[test]
fn content_types() {
    for (text, message) in [
        ("application/x-protobuf", Some(Message::V1)),
        ("Application/X-Protobuf ; proto=prometheus.WriteRequest", Some(Message::V1)),
        ("application/x-protobuf;proto=io.prometheus.write.v2.Request", Some(Message::V2)),
        ("application/x-protobuf; charset=utf-8; proto=\"io.prometheus.write.v2.Request\"", Some(Message::V2)),
        ("application/x-protobuf;proto=io.prometheus.write.v3.Request", None),
        ("application/x-protobuf;proto", None),
        ("application/json", None),
        ("", None),
    ] {
        assert_eq!(Message::of_content_type(text), message, "{text}");
    }
}

fn any_label() -> impl Strategy<Value = (String, String)> {
    ("[a-c_]{1,2}|__name__|a\\.b|é", "[a-d\"\\\\\n{}=,é]{0,3}")
}

fn any_series() -> impl Strategy<Value = Series> {
    let bits = prop_oneof![any::<u64>(), Just(STALE), Just(0.5_f64.to_bits())];
    let sample = (any::<i64>(), bits).prop_map(|(at, bits)| (at, f64::from_bits(bits)));
    (prop::collection::vec(any_label(), 0..5), prop::collection::vec(sample, 0..4))
}

proptest! {
    #[test]
    fn both_messages_of_the_same_series_are_what_from_parts_makes_of_them(series in prop::collection::vec(any_series(), 0..8)) {
        let mut expected = Vec::new();
        let mut invalid = 0;
        for (labels, samples) in &series {
            let mut keys: Vec<&str> = labels.iter().map(|(key, _)| key.as_str()).collect();
            keys.sort_unstable();
            keys.dedup();
            let name = labels.iter().find(|(key, _)| key == "__name__").map_or("", |(_, value)| value);
            let rest = labels.iter().filter(|(key, _)| key != "__name__").map(|(key, value)| (key.as_str(), value.as_str()));
            match MetricId::from_parts(name, rest) {
                Ok(id) if keys.len() == labels.len() => {
                    expected.extend(samples.iter().map(|(at, value)| (id.as_str().to_owned(), *at, value.to_bits())));
                }
                _ => invalid += samples.len(),
            }
        }
        for (body, message) in [(v1(&series), Message::V1), (v2(&series), Message::V2)] {
            let decoded = read(&body, message).unwrap();
            prop_assert_eq!(rows(&decoded.metrics), expected.clone());
            prop_assert_eq!(decoded.invalid.samples, invalid);
            for metric in &decoded.metrics {
                prop_assert_eq!(MetricId::parse(metric.id), Ok(metric.to_id()), "canonical");
            }
        }
    }

    #[test]
    fn a_message_that_is_cut_off_or_damaged_is_refused_or_read_but_nothing_else(
        series in prop::collection::vec(any_series(), 1..4), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        for (mut body, message) in [(v1(&series), Message::V1), (v2(&series), Message::V2)] {
            if body.is_empty() {
                continue;
            }
            let at = at.index(body.len());
            let _ = read(&body[..at], message);
            body[at] = byte;
            if let Ok(decoded) = read(&body, message) {
                for metric in &decoded.metrics {
                    prop_assert_eq!(MetricId::parse(metric.id), Ok(metric.to_id()));
                }
            }
        }
    }

    #[test]
    fn whatever_comes_takes_no_more_than_its_limit(body in prop::collection::vec(any::<u8>(), 0..300), limit in 0..4_096_usize) {
        for message in [Message::V1, Message::V2] {
            if let Ok(decoded) = decode(&body, message, limit, |bytes| bytes <= limit) {
                prop_assert!(decoded.metrics.held_bytes() <= limit.max(16 << 10));
            }
        }
    }
}
