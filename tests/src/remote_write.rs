//! A sender of Prometheus's remote-write, which encodes its messages with prost.

use prost::Message as _;

use crate::{Client, RequestBuilder};

/// A series: labels, and samples as (unix milliseconds, value).
pub type RemoteSeries = (Vec<(String, String)>, Vec<(i64, f64)>);

/// The labels of a series of something that has labels of its own.
pub fn joined_labels<'a>(first: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    first.iter().chain(more).copied().collect()
}

/// A series with a name and other labels.
pub fn remote_series(name: &str, labels: &[(&str, &str)], samples: &[(i64, f64)]) -> RemoteSeries {
    let mut all: Vec<(String, String)> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    all.push(("__name__".to_owned(), name.to_owned()));
    all.sort();
    (all, samples.to_vec())
}

/// A request of remote-write 1.0, packed with snappy.
pub fn remote_write_v1(series: &[RemoteSeries]) -> Vec<u8> {
    pack(&message_v1(series).encode_to_vec())
}

/// The message of remote-write 1.0.
pub fn message_v1(series: &[RemoteSeries]) -> v1::WriteRequest {
    let one = |(labels, samples): &RemoteSeries| v1::TimeSeries {
        labels: labels.iter().map(|(name, value)| v1::Label { name: name.clone(), value: value.clone() }).collect(),
        samples: samples.iter().map(|(timestamp, value)| Sample { value: *value, timestamp: *timestamp }).collect(),
        histograms: Vec::new(),
    };
    v1::WriteRequest { timeseries: series.iter().map(one).collect(), metadata: Vec::new() }
}

/// A request of remote-write 2.0, packed with snappy.
pub fn remote_write_v2(series: &[RemoteSeries]) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut reference = |text: &String| {
        let at = symbols.iter().position(|symbol| symbol == text).unwrap_or_else(|| {
            symbols.push(text.clone());
            symbols.len() - 1
        });
        u32::try_from(at).expect("few symbols")
    };
    let mut timeseries = Vec::new();
    for (labels, samples) in series {
        let labels_refs = labels.iter().flat_map(|(key, value)| [reference(key), reference(value)]).collect();
        let samples = samples.iter().map(|(timestamp, value)| Sample { value: *value, timestamp: *timestamp }).collect();
        timeseries.push(v2::TimeSeries { labels_refs, samples });
    }
    pack(&v2::Request { symbols, timeseries }.encode_to_vec())
}

/// Packs a message with snappy.
pub fn pack(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("a message is smaller than snappy's 4 GiB")
}

impl Client {
    /// Starts building a remote-write request of version 1.0 without a hash.
    pub fn remote_write(&self, body: Vec<u8>) -> RequestBuilder<'_> {
        let request = self.post("/api/v1/write").header("content-type", "application/x-protobuf").header("content-encoding", "snappy");
        request.header("x-prometheus-remote-write-version", "0.1.0").body(body).unsigned()
    }

    /// Starts building a remote-write request of version 2.0 without a hash.
    pub fn remote_write_2(&self, body: Vec<u8>) -> RequestBuilder<'_> {
        let content_type = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
        let request = self.post("/api/v1/write").header("content-type", content_type).header("content-encoding", "snappy");
        request.header("x-prometheus-remote-write-version", "2.0.0").body(body).unsigned()
    }
}

/// A sample, the same in both versions.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Sample {
    /// Its value.
    #[prost(double, tag = "1")]
    pub value: f64,
    /// Its time in unix milliseconds.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

/// Messages of remote-write 1.0.
pub mod v1 {
    /// `prometheus.WriteRequest`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WriteRequest {
        /// Series with samples.
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
        /// What is said about metrics.
        #[prost(message, repeated, tag = "3")]
        pub metadata: Vec<MetricMetadata>,
    }

    /// A series.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        /// Its labels.
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        /// Its samples.
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<super::Sample>,
        /// Its native histograms, without their content.
        #[prost(bytes = "vec", repeated, tag = "4")]
        pub histograms: Vec<Vec<u8>>,
    }

    /// A label.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        /// Its key.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Its value.
        #[prost(string, tag = "2")]
        pub value: String,
    }

    /// What is said about a metric.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricMetadata {
        /// Its type: 1 is a counter, 2 a gauge.
        #[prost(int32, tag = "1")]
        pub kind: i32,
        /// Its name.
        #[prost(string, tag = "2")]
        pub metric_family_name: String,
        /// A sentence about it.
        #[prost(string, tag = "4")]
        pub help: String,
        /// Its unit.
        #[prost(string, tag = "5")]
        pub unit: String,
    }
}

/// Messages of remote-write 2.0.
mod v2 {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(string, repeated, tag = "4")]
        pub(super) symbols: Vec<String>,
        #[prost(message, repeated, tag = "5")]
        pub(super) timeseries: Vec<TimeSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeries {
        #[prost(uint32, repeated, tag = "1")]
        pub(super) labels_refs: Vec<u32>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<super::Sample>,
    }
}
