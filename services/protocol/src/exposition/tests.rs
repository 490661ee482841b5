use proptest::prelude::*;

use super::*;
use crate::MetricId;

/// The samples of the captured answers, as Prometheus counts them in scrape_samples_scraped.
const NODE_EXPORTER_SAMPLES: usize = 507;
const PROMETHEUS_SAMPLES: usize = 273;

/// The ids and values of a body, or its error.
fn read(text: &str, format: Format) -> Result<Vec<(String, f64)>, ExpositionError> {
    Exposition::new(text.as_bytes(), format)?
        .map(|sample| {
            let sample = sample?;
            let parts = sample.series.parts().map_err(|reason| ExpositionError { line: 0, reason })?;
            let labels = parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
            let id = MetricId::from_parts(&parts.name, labels).map_or_else(|error| error.to_string(), |id| id.as_str().to_owned());
            Ok((id, sample.value))
        })
        .collect()
}

fn ids(text: &str, format: Format) -> Vec<String> {
    read(text, format).unwrap().into_iter().map(|(id, _)| id).collect()
}

fn refusal(text: &str, format: Format) -> (usize, Reason) {
    let error = read(text, format).unwrap_err();
    (error.line, error.reason)
}

#[test]
fn the_text_format() {
    let text = "# HELP a b\\n c\n# TYPE a counter\na 1\na{} 2 1700000000000\n\n  # just a comment\n#TYPE is a comment\n# TYPES too\n\
        a{k=\"v\"}3\n\ta{ k = \"w\" , l=\"x\", }\t-4.5\t-1 \r\na{k=\"x\"l=\"y\"} +Inf\nb:c_1 0x";
    assert_eq!(refusal(text, Format::Text), (12, Reason::Value));
    let text = text.strip_suffix("x").unwrap();
    assert_eq!(
        read(text, Format::Text).unwrap(),
        [("a", 1.0), ("a", 2.0), ("a{k=\"v\"}", 3.0), ("a{k=\"w\",l=\"x\"}", -4.5), ("a{k=\"x\",l=\"y\"}", f64::INFINITY), ("b:c_1", 0.0)]
            .map(|(id, value)| (id.to_owned(), value))
    );
    assert_eq!(read("", Format::Text), Ok(vec![]));
    assert_eq!(read("\n\n# nothing", Format::Text), Ok(vec![]));
    assert!(read("a NaN", Format::Text).unwrap()[0].1.is_nan());
}

#[test]
fn labels_are_unescaped_as_prometheus_does() {
    let text = r#"a{k="q\"b\\n\nd\x",empty=""} 1"#;
    assert_eq!(ids(text, Format::Text), [r#"a{k="q\"b\\n\nd\\x"}"#]);
    let text = "a{k=\"}{,= # é\\\u{e9}\"} 1";
    assert_eq!(ids(text, Format::Text), ["a{k=\"}{,= # é\\\\é\"}"]);
}

#[test]
fn names_in_quotes() {
    let text = "{\"a.b\"} 1\n{ \"a.b\" , \"k.l\" = \"v\", m=\"w\"} 2\n{m=\"w\",\"a.b\"} 3\na{\"k.l\"=\"v\"} 4\n# TYPE \"a.b\" histogram\n{\"a.b\",le=\"1\"} 5\n";
    let expected = ["a.b", "{\"a.b\",\"k.l\"=\"v\",m=\"w\"}", "{\"a.b\",m=\"w\"}", "a{\"k.l\"=\"v\"}", "{\"a.b\",le=\"1.0\"}"];
    assert_eq!(ids(text, Format::Text), expected);
    assert_eq!(ids(&format!("{text}# EOF\n"), Format::OpenMetrics), expected);
}

#[test]
fn bounds_have_one_form() {
    let text = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_bucket{quantile=\"1\"} 1\n# TYPE s summary\n\
        s{quantile=\"0\"} 1\ns{quantile=\"x\"} 1\n# TYPE g gauge\ng{le=\"1\"} 1\n";
    let expected = [
        "h_bucket{le=\"1.0\"}",
        "h_bucket{le=\"+Inf\"}",
        "h_bucket{quantile=\"1\"}",
        "s{quantile=\"0.0\"}",
        "s{quantile=\"x\"}",
        "g{le=\"1\"}",
    ];
    assert_eq!(ids(text, Format::Text), expected);
}

#[test]
fn openmetrics_with_exemplars_and_timestamps() {
    let text = "# TYPE h histogram\n# UNIT h seconds\n# HELP h text\n\
        h_bucket{le=\"0.1\"} 8 # {} 0.054\n\
        h_bucket{le=\"1\"} 11 1520879607.789 # {trace_id=\"KOO5S4vxi0o\"} 0.67 1520879608\n\
        h_bucket{le=\"+Inf\"} 17 # {trace_id=\"a\\\"}\",b=\"c\"} 9.8 1520879607.789\n\
        h_created 1520430000.123\n# TYPE i info\ni_info{v=\"1\"} 1\n# EOF\n";
    let expected = ["h_bucket{le=\"0.1\"}", "h_bucket{le=\"1.0\"}", "h_bucket{le=\"+Inf\"}", "h_created", "i_info{v=\"1\"}"];
    assert_eq!(ids(text, Format::OpenMetrics), expected);
    // As Prometheus, without the last line feed too.
    assert_eq!(ids(text.trim_end(), Format::OpenMetrics), expected);
    for (line, reason) in [
        ("a 1 # {", Reason::Exemplar),
        ("a 1 # {}", Reason::Exemplar),
        ("a 1 # {b=\"c\"} x", Reason::Exemplar),
        ("a 1 # {b=\"c\"} 1 x", Reason::Exemplar),
        ("a 1 # {b=\"c\"} 1 1 1", Reason::Exemplar),
        ("a 1 # {\"b\"} 1", Reason::Exemplar),
        ("a 1 # comment", Reason::Exemplar),
        ("a 1 NaN", Reason::Timestamp),
        ("a 1 2 3", Reason::Timestamp),
        ("# TYPE a untyped", Reason::Type),
    ] {
        assert_eq!(refusal(&format!("{line}\n# EOF\n"), Format::OpenMetrics), (1, reason), "{line}");
    }
}

#[test]
fn openmetrics_that_was_cut_off_is_refused() {
    assert_eq!(refusal("", Format::OpenMetrics), (1, Reason::NoEof));
    assert_eq!(refusal("a 1\nb 2\n", Format::OpenMetrics), (3, Reason::NoEof));
    assert_eq!(refusal("a 1\n# EOF\nb 2\n", Format::OpenMetrics), (3, Reason::AfterEof));
    assert_eq!(ids("a 1\n# EOF\n\n", Format::OpenMetrics), ["a"]);
    // It is a comment in the other format.
    assert_eq!(ids("a 1\n# EOF\nb 2\n", Format::Text), ["a", "b"]);
}

#[test]
fn what_is_no_exposition_is_refused_with_its_line() {
    for (line, reason) in [
        ("<html>", Reason::Name),
        ("{\"a\": 1}", Reason::LabelEquals),
        ("1a 1", Reason::Name),
        ("é 1", Reason::Name),
        ("a", Reason::Value),
        ("a{} ", Reason::Value),
        ("a one", Reason::Value),
        ("a 1e999", Reason::Value),
        ("a 1 1.5", Reason::Timestamp),
        ("a 1 1 1", Reason::Timestamp),
        ("a 1 # {} 1", Reason::Timestamp),
        ("a{", Reason::LabelName),
        ("a{,}", Reason::LabelName),
        ("a{k}", Reason::LabelEquals),
        ("a{1=\"v\"} 1", Reason::LabelName),
        ("a{:k=\"v\"} 1", Reason::LabelName),
        ("a{k=v} 1", Reason::LabelValue),
        ("a{k=\"v} 1", Reason::LabelValue),
        ("a{k=\"v\\", Reason::LabelValue),
        ("a{k=\"v\"", Reason::LabelName),
        ("a{\"\"=\"v\"} 1", Reason::LabelName),
        ("a{\"b\"} 1", Reason::NameCount),
        ("{\"a\",\"b\"} 1", Reason::NameCount),
        ("{} 1", Reason::NameCount),
        ("{k=\"v\"} 1", Reason::NameCount),
        ("# TYPE a nothing", Reason::Type),
        ("# TYPE 1 gauge", Reason::Type),
        ("# TYPE a", Reason::Type),
        ("# TYPE a unknown", Reason::Type),
    ] {
        assert_eq!(refusal(&format!("# HELP a text\na 1\n{line}\nb 1"), Format::Text), (3, reason), "{line}");
    }
    for line in ["a{k=\"v\",k=\"w\"} 1", "a{k=\"v\",\"k\"=\"v\"} 1", "a{__name__=\"b\"} 1"] {
        assert_eq!(refusal(line, Format::Text).1, Reason::LabelTwice, "{line}");
    }
    let error = Exposition::new(b"a 1\nb \xff\n", Format::Text).unwrap_err();
    assert_eq!(error.to_string(), "line 2: it is not UTF-8");
}

#[test]
fn nothing_follows_an_error() {
    let mut samples = Exposition::new(b"a 1\nb\nc 1\n", Format::Text).unwrap();
    assert!(samples.next().unwrap().is_ok());
    assert!(samples.next().unwrap().is_err());
    assert!(samples.next().is_none());
    let mut samples = Exposition::new(b"a 1\nb\nc 1\n", Format::OpenMetrics).unwrap();
    assert_eq!(samples.by_ref().filter(Result::is_err).count(), 1);
}

#[test]
fn the_format_is_that_of_the_content_type() {
    for (content_type, format) in [
        (None, Some(Format::Text)),
        (Some(""), Some(Format::Text)),
        (Some("text/plain; version=0.0.4; charset=utf-8"), Some(Format::Text)),
        (Some("Text/Plain"), Some(Format::Text)),
        (Some("application/openmetrics-text; version=1.0.0; charset=utf-8"), Some(Format::OpenMetrics)),
        (Some("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"), None),
        (Some("text/html"), None),
        (Some("application/json"), None),
    ] {
        assert_eq!(Format::of_content_type(content_type), format, "{content_type:?}");
    }
}

#[test]
fn captured_answers_are_read() {
    for (text, samples, some) in [
        (include_str!("testdata/node_exporter-1.5.prom"), NODE_EXPORTER_SAMPLES, "node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"}"),
        (include_str!("testdata/prometheus-2.42.prom"), PROMETHEUS_SAMPLES, "go_gc_duration_seconds{quantile=\"0.25\"}"),
    ] {
        let found = ids(text, Format::Text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!((found.len(), lines), (samples, samples));
        assert!(found.iter().any(|id| id == some), "{some}");
        // With the last line of OpenMetrics, they are read in the same way; the types have other names there.
        let text = text.replace(" untyped", " unknown") + "# EOF\n";
        assert_eq!(ids(&text, Format::OpenMetrics), found);
    }
}

/// A line of a quarter of a megabyte in which each way to end a part fails only at its end.
#[test]
fn long_lines_take_linear_time() {
    let start = std::time::Instant::now();
    for part in ["a", " ", "{", "\"", "\\", "\\\"", "a{", "k=\"v\",", "# ", "a=\"b\" "] {
        for head in ["", "a{", "a{k=\"", "a 1 # {", "# TYPE ", "{\"a\",", "a 1 "] {
            let text = head.to_owned() + &part.repeat((1 << 18) / part.len());
            let _ = read(&text, Format::Text);
            let _ = read(&text, Format::OpenMetrics);
        }
    }
    // About a second in a debug build; were it quadratic, a single line would take minutes.
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}

/// A label's value, as it is and as the formats write it.
fn value() -> impl Strategy<Value = (String, String)> {
    "[a-z\"\\\\\n{}=,é ]{0,8}".prop_map(|value| {
        let written = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        (value, written)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,8}|[a-z.é/]{1,8}",
        labels in proptest::collection::btree_map("[a-zA-Z][a-zA-Z0-9_]{0,6}|[a-z.é]{1,6}", value(), 0..5),
        number in any::<f64>(),
        format in prop_oneof![Just(Format::Text), Just(Format::OpenMetrics)],
        space in "[ \t]{0,2}",
    ) {
        let plain = |name: &str| series::plain_len(name, false) == Some(name.len());
        let mut pairs: Vec<String> = labels.iter().map(|(key, (_, written))| {
            if plain(key) { format!("{key}{space}={space}\"{written}\"") } else { format!("\"{key}\"=\"{written}\"") }
        }).collect();
        let is_plain_name = series::plain_len(&name, true) == Some(name.len());
        if !is_plain_name {
            pairs.insert(pairs.len() / 2, format!("\"{name}\""));
        }
        let written = if is_plain_name { name.as_str() } else { "" };
        let number = if number.is_nan() { f64::NAN } else { number };
        let text = format!("{written}{{{}}} {number}\n# EOF\n", pairs.join(&format!("{space},{space}")));
        let samples: Vec<_> = Exposition::new(text.as_bytes(), format).unwrap().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(samples.len(), 1);
        prop_assert_eq!(samples[0].value.to_bits(), number.to_bits());
        let parts = samples[0].series.parts().unwrap();
        prop_assert_eq!(parts.name.as_ref(), name.as_str());
        let expected: Vec<_> = labels.iter().filter(|(_, (value, _))| !value.is_empty()).map(|(key, (value, _))| (key.as_str(), value.as_str())).collect();
        let found: Vec<_> = parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "([a-z_{}\"\\\\=,#.é 0-9\t\r]|\n|# TYPE |# EOF\n| # \\{|NaN){0,60}") {
        for format in [Format::Text, Format::OpenMetrics] {
            let mut lines = 0;
            for sample in Exposition::new(text.as_bytes(), format).unwrap().flatten() {
                prop_assert!(text.contains(sample.series.text()));
                let _ = sample.series.parts();
                lines += 1;
            }
            prop_assert!(lines <= text.lines().count());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::Text, Format::OpenMetrics] {
            if let Ok(samples) = Exposition::new(&body, format) {
                samples.flatten().for_each(|sample| drop(sample.series.parts()));
            }
        }
    }
}
