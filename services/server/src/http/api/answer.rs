//! Answers as Prometheus gives them, written straight from what was found.
//!
//! A small answer is one body. A large one is written piece by piece while it is sent: its text, several times as large as the
//! values, is never in memory as a whole, nor is a tree of it.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use golectra_process::LogLimiter;
use golectra_promql::{Labels, Severity, Value};
use serde::Serialize;
use tokio::time::Instant;

use crate::history::number::{write_plain, write_sample};
use crate::history::query::{Evaluated, Listed, Truncated};
use crate::middleware::answer::Streamed;

/// A piece ends after the sample that brings it to this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How long sending may take. The answer holds its share of the memory all the while.
const SENDING_LIMIT: Duration = Duration::from_mins(2);

/// Log lines about answers that were cut off.
static CUT_OFF_LOG: LogLimiter = LogLimiter::new();

/// What Prometheus says about a list that the request's limit cut.
const TRUNCATED: &str = "results truncated due to limit";

/// The answer to a request that went well.
pub struct Answer {
    data: Data,
    warnings: Vec<String>,
    infos: Vec<String>,
}

enum Data {
    /// The value of a query, at most so many series of it, and what stands behind it.
    Evaluated {
        evaluated: Box<Evaluated>,
        shown: usize,
        stats: Option<Vec<u8>>,
    },
    Series(Listed<Labels>),
    Names(Listed<String>),
    Json(Vec<u8>),
}

impl Answer {
    /// The value of a query, at most `limit` series of it.
    pub fn evaluated(evaluated: Evaluated, limit: Option<usize>, stats: Option<&impl Serialize>) -> Self {
        let (annotations, text) = (&evaluated.outcome.annotations, evaluated.query.text());
        let mut warnings = annotations.texts(Severity::Warning, text);
        let infos = annotations.texts(Severity::Info, text);
        let series = match &evaluated.outcome.value {
            Value::Scalar { .. } | Value::Text { .. } => 1,
            Value::Vector { samples, .. } => samples.len(),
            Value::RangeVector(series) => series.len(),
            Value::Matrix(matrix) => matrix.series.len(),
        };
        let shown = limit.map_or(series, |limit| limit.min(series));
        if shown < series {
            warnings.push(TRUNCATED.to_owned());
        }
        let stats = stats.map(json);
        Self { data: Data::Evaluated { evaluated: Box::new(evaluated), shown, stats }, warnings, infos }
    }

    /// A list of label sets.
    pub fn series(listed: Listed<Labels>) -> Self {
        let warnings = truncation(listed.truncated);
        Self { data: Data::Series(listed), warnings, infos: Vec::new() }
    }

    /// A list of names or values.
    pub fn names(listed: Listed<String>) -> Self {
        let warnings = truncation(listed.truncated);
        Self { data: Data::Names(listed), warnings, infos: Vec::new() }
    }

    /// Something small.
    pub fn json(data: &impl Serialize) -> Self {
        Self { data: Data::Json(json(data)), warnings: Vec::new(), infos: Vec::new() }
    }

    /// Says something else about it.
    pub fn warn(mut self, truncated: Option<Truncated>) -> Self {
        self.warnings.extend(truncation(truncated));
        self
    }
}

fn truncation(truncated: Option<Truncated>) -> Vec<String> {
    let text = |truncated| match truncated {
        Truncated::Asked => TRUNCATED.to_owned(),
        Truncated::MaxSeries(limit) => format!("results truncated at {limit} series (QUERY_MAX_SERIES)"),
    };
    truncated.map(text).into_iter().collect()
}

fn json(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers in memory can be written")
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut pieces = Pieces { answer: self, next: Next::Beginning };
        let first = pieces.next().unwrap_or_default();
        let mut response = if pieces.next == Next::Nothing {
            Body::from(first).into_response()
        } else {
            let deadline = Instant::now() + SENDING_LIMIT;
            let all = std::iter::once(first).chain(pieces);
            let timed = all.map(move |piece| {
                if Instant::now() < deadline {
                    return Ok(piece);
                }
                CUT_OFF_LOG.log("cut_off", |count| tracing::warn!(count, cause = %TooSlow, "answers to queries were cut off"));
                Err(TooSlow)
            });
            let mut response = Body::from_stream(stream::iter(timed)).into_response();
            response.extensions_mut().insert(Streamed);
            response
        };
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// The connection is closed without the body's end, so that no client takes a part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("sending the answer took longer than {} s", SENDING_LIMIT.as_secs())]
struct TooSlow;

/// The text of an answer, piece by piece.
struct Pieces {
    answer: Answer,
    next: Next,
}

/// What is written next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Beginning,
    /// A series or a name, and within a series a sample.
    Item {
        item: usize,
        sample: usize,
    },
    Nothing,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::with_capacity(if self.next == Next::Beginning { 512 } else { PIECE_BYTES + 512 });
        while out.len() < PIECE_BYTES {
            self.next = match self.next {
                Next::Beginning => {
                    self.answer.write_beginning(&mut out);
                    Next::Item { item: 0, sample: 0 }
                }
                Next::Item { item, .. } if item >= self.answer.data.len() => {
                    self.answer.write_end(&mut out);
                    Next::Nothing
                }
                Next::Item { item, sample } => self.answer.data.write_item(item, sample, &mut out),
                Next::Nothing => break,
            };
        }
        (!out.is_empty()).then(|| out.into())
    }
}

impl Answer {
    fn write_beginning(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"status\":\"success\",\"data\":");
        match &self.data {
            Data::Evaluated { evaluated, .. } => out.extend_from_slice(match &evaluated.outcome.value {
                Value::Scalar { .. } => b"{\"resultType\":\"scalar\",\"result\":".as_slice(),
                Value::Text { .. } => b"{\"resultType\":\"string\",\"result\":",
                Value::Vector { .. } => b"{\"resultType\":\"vector\",\"result\":[",
                Value::RangeVector(_) | Value::Matrix(_) => b"{\"resultType\":\"matrix\",\"result\":[",
            }),
            Data::Series(_) | Data::Names(_) => out.push(b'['),
            Data::Json(_) => {}
        }
    }

    fn write_end(&self, out: &mut Vec<u8>) {
        match &self.data {
            Data::Evaluated { evaluated, stats, .. } => {
                if !matches!(evaluated.outcome.value, Value::Scalar { .. } | Value::Text { .. }) {
                    out.push(b']');
                }
                if let Some(stats) = stats {
                    out.extend_from_slice(b",\"stats\":");
                    out.extend_from_slice(stats);
                }
                out.push(b'}');
            }
            Data::Series(_) | Data::Names(_) => out.push(b']'),
            Data::Json(_) => {}
        }
        for (name, texts) in [("warnings", &self.warnings), ("infos", &self.infos)] {
            if !texts.is_empty() {
                out.extend_from_slice(format!(",\"{name}\":").as_bytes());
                write_json(out, texts);
            }
        }
        out.push(b'}');
    }
}

impl Data {
    /// How many items it has.
    fn len(&self) -> usize {
        match self {
            Self::Evaluated { shown, .. } => *shown,
            Self::Series(listed) => listed.items.len(),
            Self::Names(listed) => listed.items.len(),
            Self::Json(_) => 1,
        }
    }

    /// Writes an item, or a part of one that is longer than a piece.
    fn write_item(&self, item: usize, sample: usize, out: &mut Vec<u8>) -> Next {
        if item > 0 && sample == 0 {
            out.push(b',');
        }
        let samples_written = match self {
            Self::Json(json) => {
                out.extend_from_slice(json);
                None
            }
            Self::Series(listed) => {
                write_labels(out, &listed.items[item]);
                None
            }
            Self::Names(listed) => {
                write_json(out, &listed.items[item]);
                None
            }
            Self::Evaluated { evaluated, .. } => write_value(&evaluated.outcome.value, item, sample, out),
        };
        match samples_written {
            Some(samples) => Next::Item { item, sample: sample + samples },
            None => Next::Item { item: item + 1, sample: 0 },
        }
    }
}

/// Writes a series of a value from a sample on. None: to its end; else so many samples.
fn write_value(value: &Value, item: usize, sample: usize, out: &mut Vec<u8>) -> Option<usize> {
    match value {
        Value::Scalar { time_ms, value } => {
            out.push(b'[');
            write_seconds(out, *time_ms);
            out.extend_from_slice(b",\"");
            write_plain(out, *value);
            out.extend_from_slice(b"\"]");
            None
        }
        Value::Text { time_ms, text } => {
            out.push(b'[');
            write_seconds(out, *time_ms);
            out.push(b',');
            write_json(out, text);
            out.push(b']');
            None
        }
        Value::Vector { time_ms, samples } => {
            out.extend_from_slice(b"{\"metric\":");
            write_labels(out, &samples[item].labels);
            out.extend_from_slice(b",\"value\":");
            write_sample(out, *time_ms, samples[item].value);
            out.push(b'}');
            None
        }
        Value::RangeVector(series) => {
            let series = &series[item];
            let samples = series.timestamps_ms[sample..].iter().copied().zip(series.values[sample..].iter().copied());
            write_samples(&series.labels, sample, samples, out)
        }
        Value::Matrix(matrix) => {
            let series = &matrix.series[item];
            write_samples(&series.labels, sample, series.samples(&matrix.steps).skip(sample), out)
        }
    }
}

/// As [`write_value`], for a series with several samples.
fn write_samples(labels: &Labels, first: usize, samples: impl Iterator<Item = (i64, f64)>, out: &mut Vec<u8>) -> Option<usize> {
    if first == 0 {
        out.extend_from_slice(b"{\"metric\":");
        write_labels(out, labels);
        out.extend_from_slice(b",\"values\":[");
    }
    for (written, (time_ms, value)) in samples.enumerate() {
        // The first sample of a piece makes sure that there is progress.
        if written > 0 && out.len() >= PIECE_BYTES {
            return Some(written);
        }
        if first + written > 0 {
            out.push(b',');
        }
        write_sample(out, time_ms, value);
    }
    out.extend_from_slice(b"]}");
    None
}

/// A time as Prometheus writes it beside a scalar or a text.
fn write_seconds(out: &mut Vec<u8>, time_ms: i64) {
    #[expect(clippy::cast_precision_loss, reason = "times are far below 2^53")]
    write_plain(out, time_ms as f64 / 1000.0);
}

fn write_labels(out: &mut Vec<u8>, labels: &Labels) {
    out.push(b'{');
    for (place, (name, value)) in labels.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_json(out, name);
        out.push(b':');
        write_json(out, value);
    }
    out.push(b'}');
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("texts in memory can be written");
}

#[cfg(test)]
mod tests {
    use golectra_promql::store::MemoryStore;
    use golectra_promql::{Engine, MemoryBudget, NoInterrupt, Query, Steps};
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;
    use crate::history::query::Costs;

    /// What a query gives on series `x{n="…"}` with samples at each second from 0 to 19,999 s.
    fn evaluated(text: &str, steps: Option<Steps>) -> Evaluated {
        let mut store = MemoryStore::default();
        for number in ["0", "1\"<é"] {
            for second in 0..20_000_u16 {
                store.add(&Labels::new([("__name__", "x"), ("n", number)]), i64::from(second) * 1_000, f64::from(second) / 8.0);
            }
        }
        let (engine, budget) = (Engine::default(), MemoryBudget::new(1 << 30));
        let query = Query::parse(text, &engine.parse_limits).unwrap();
        let outcome = match steps {
            Some(steps) => engine.range(&query, steps, &store, &NoInterrupt, &budget),
            None => engine.instant(&query, 10_500, &store, &NoInterrupt, &budget),
        };
        Evaluated { query, outcome: outcome.unwrap(), costs: Costs::default() }
    }

    fn pieces(answer: Answer) -> Vec<Bytes> {
        Pieces { answer, next: Next::Beginning }.collect()
    }

    fn text(answer: Answer) -> String {
        String::from_utf8(pieces(answer).concat()).unwrap()
    }

    fn answer(text: &str, steps: Option<Steps>, limit: Option<usize>) -> Answer {
        Answer::evaluated(evaluated(text, steps), limit, None::<&()>)
    }

    #[test]
    fn answers_are_written_as_prometheus_writes_them() {
        for (query, expected) in [
            ("1e-7", r#"{"resultType":"scalar","result":[10.5,"0.0000001"]}"#),
            ("\"a\\n\"", r#"{"resultType":"string","result":[10.5,"a\n"]}"#),
            ("nothing", r#"{"resultType":"vector","result":[]}"#),
            (
                "x",
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"x","n":"0"},"value":[10.500,"1.25"]},{"metric":{"__name__":"x","n":"1\"<é"},"value":[10.500,"1.25"]}]}"#,
            ),
            (
                "x{n=\"0\"}[2s]",
                r#"{"resultType":"matrix","result":[{"metric":{"__name__":"x","n":"0"},"values":[[9,"1.125"],[10,"1.25"]]}]}"#,
            ),
        ] {
            assert_eq!(text(answer(query, None, None)), format!(r#"{{"status":"success","data":{expected}}}"#), "{query}");
        }
        let steps = Steps::range(500, 1_500, 500).unwrap();
        let expected = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0.500,"1e-09"],[1,"1e-09"],[1.500,"1e-09"]]}]}}"#;
        assert_eq!(text(answer("1e-9", Some(steps), None)), expected);
    }

    #[test]
    fn a_limit_cuts_series_and_says_so() {
        let cut = text(answer("x", None, Some(1)));
        assert!(cut.ends_with(r#"[10.500,"1.25"]}]},"warnings":["results truncated due to limit"]}"#), "{cut}");
        assert!(!text(answer("x", None, Some(2))).contains("warnings"));
        assert!(!text(answer("1", None, Some(1))).contains("warnings"));
    }

    #[test]
    fn remarks_and_statistics_stand_behind_the_data() {
        let stats = Answer::evaluated(evaluated("quantile(2, x)", None), None, Some(&json!({"timings": 1})));
        let stats = text(stats);
        let (data, warning) = stats.split_once("\"warnings\":[").expect("a warning");
        assert!(data.ends_with(r#"],"stats":{"timings":1}},"#) && warning.contains("quantile value should be between 0 and 1"), "{stats}");
        let info = text(answer("rate(x[5s])", None, None));
        assert!(info.contains("\"infos\":[\"PromQL info: metric might not be a counter"), "{info}");
    }

    #[test]
    fn large_answers_come_in_pieces_of_bounded_size() {
        let steps = Steps::range(0, 10_000_000, 1_000).unwrap();
        for (query, steps, samples) in [("x", Some(steps), 10_001), ("x[20000s]", None, 11)] {
            let pieces = pieces(answer(query, steps, None));
            assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 512 && piece.len() > 50));
            let json: serde_json::Value = serde_json::from_slice(&pieces.concat()).unwrap();
            for series in json["data"]["result"].as_array().unwrap() {
                let values = series["values"].as_array().unwrap();
                assert_eq!(values.len(), samples);
                assert!(values.iter().zip(0_u32..).all(|(sample, at)| {
                    sample[0].as_f64() == Some(f64::from(at)) && sample[1].as_str().unwrap().parse() == Ok(f64::from(at) / 8.0)
                }));
            }
        }
        assert!(pieces(answer("x", Some(steps), None)).len() > 4);
    }

    #[tokio::test]
    async fn small_answers_are_whole_and_large_ones_streamed() {
        let steps = Steps::range(0, 10_000_000, 1_000).unwrap();
        for (query, steps, streamed) in [("x", None, false), ("x", Some(steps), true)] {
            let expected = text(answer(query, steps, None));
            let response = answer(query, steps, None).into_response();
            assert_eq!(response.extensions().get::<Streamed>().is_some(), streamed);
            assert_eq!(response.headers().get(header::CONTENT_TYPE).unwrap(), "application/json");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), expected.as_bytes());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_too_long_is_cut_off() {
        let steps = Steps::range(0, 10_000_000, 1_000).unwrap();
        let mut body = answer("x", Some(steps), None).into_response().into_body();
        tokio::time::advance(SENDING_LIMIT.mul_f64(0.99)).await;
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::advance(SENDING_LIMIT.mul_f64(0.01)).await;
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "sending the answer took longer than 120 s");
    }
}
