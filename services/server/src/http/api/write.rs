//! POST /api/v1/write: Prometheus's remote-write, versions 1.0 and 2.0.
//!
//! Prometheus tries again on 5xx (and on 429, where it is told to), and drops the samples of any other refusal. So what may succeed later is 5xx or
//! 429, and whatever can be stored of a request is stored before it is refused. Prometheus logs the body of a refusal: it is plain text.
//!
//! The store gets a request with very many samples in parts, one after the other: as one batch, a database might need longer for it than a write may
//! take, each time that it comes again. Each sample is stored once for its series and time, so a repeat finds what a request that failed midway has
//! stored, and samples of one time meet each other in two parts as they do in one.

use std::time::Duration;

use axum::RequestExt as _;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use golectra_protocol::remote_write::{Decoded, Message, decode};
use golectra_protocol::{ErrorCode, Metrics, Source, header as names};
use tokio::time::Instant;

use super::super::AppState;
use super::super::error::{ApiError, TextError};
use super::super::extract::{ClientAddress, Sender, SnappyPayload};
use crate::clock::rfc3339;
use crate::store::{Applied, Refusal, RefusedSamples, SampleName, StoreError};

/// The source of requests that name none.
const DEFAULT_SOURCE: &str = "remote-write";

/// A decoded message may be so many times as large as the largest body: a table of symbols makes messages small.
const DECODED_TIMES_BODY: usize = 4;

/// As many samples the store gets at once. Prometheus puts 2,000 into a request unless it is told otherwise. Where all are of new series, 10,000 take a database
/// a third of a second.
const PART_SAMPLES: usize = 10_000;

/// No part begins later than this: Prometheus waits for 30 s. It is not shorter because a repeat has to get beyond the parts that it finds stored.
const PARTS_LIMIT: Duration = Duration::from_secs(20);

/// What an error quotes of a series, in characters.
const QUOTED_CHARS: usize = 200;

/// When a sender may try again that met the limit of series, in seconds.
const SERIES_RETRY_AFTER: u32 = 60;

const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");
const HISTOGRAMS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-histograms-written");
const EXEMPLARS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-exemplars-written");

/// Stores what can be stored, and says what can't.
pub async fn post(State(state): State<AppState>, request: Request) -> Response {
    let message = message(request.headers());
    let is_v2 = matches!(message, Ok(Message::V2));
    let written = match message {
        Ok(message) => write(&state, message, request).await,
        Err(error) => Err(error),
    };
    let (samples, mut response) = match written {
        Ok(Written { samples, refusal: Some(refusal) }) => (samples, TextError(refusal).into_response()),
        Ok(Written { samples, refusal: None }) => (samples, StatusCode::NO_CONTENT.into_response()),
        Err(error) => (0, TextError(recoverable(error)).into_response()),
    };
    let headers = response.headers_mut();
    // Version 2.0 wants these with a failure as well.
    if is_v2 {
        headers.insert(SAMPLES_WRITTEN, HeaderValue::from(samples));
        headers.insert(HISTOGRAMS_WRITTEN, HeaderValue::from(0));
        headers.insert(EXEMPLARS_WRITTEN, HeaderValue::from(0));
    }
    if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("snappy"));
    }
    response
}

/// What became of a request that could be read.
struct Written {
    /// How many of its samples are stored.
    samples: usize,
    /// Where not all of it is.
    refusal: Option<ApiError>,
}

async fn write(state: &AppState, message: Message, mut request: Request) -> Result<Written, ApiError> {
    let is_named = request.headers().contains_key(names::SOURCE);
    let Sender(source) = request.extract_parts().await?;
    let source = if is_named { source } else { Source::parse(DEFAULT_SOURCE).unwrap_or(source) };
    let Ok(ClientAddress(peer)) = request.extract_parts_with_state(state).await;
    let SnappyPayload(mut payload) = request.extract_with_state(state).await?;

    let limit = state.bodies.max_bytes.saturating_mul(DECODED_TIMES_BODY);
    let body = payload.bytes.clone();
    let mut decoded = decode(&body, message, limit, |bytes| payload.cover_decoded(bytes))?;
    let sent = decoded.metrics.len();
    let metrics = std::mem::take(&mut decoded.metrics);
    let (ingest, digest) = (&state.ingest, payload.digest());
    let stored = in_parts(metrics, PART_SAMPLES, move |part| ingest.write_samples(source.clone(), digest, part, peer)).await;
    if let Some(error) = stored.failure {
        // What was refused is refused again, and counted, when the request is repeated.
        return Ok(Written { samples: stored.samples, refusal: Some(recoverable(error)) });
    }
    if !decoded.metadata.is_empty() {
        ingest.write_metadata(std::mem::take(&mut decoded.metadata)).await;
    }
    state.metrics.remote_write(&decoded, &stored.refused);
    Ok(Written { samples: stored.samples, refusal: refusal(sent, &decoded, &stored.refused) })
}

/// What became of the samples of a request.
#[derive(Debug, Default)]
struct Stored {
    /// How many are stored, now or before.
    samples: usize,
    refused: RefusedSamples,
    /// Why a part could not be stored. Those behind it were not tried.
    failure: Option<ApiError>,
}

/// Gives samples to the store, at most so many at once. What is no more than that is given as it is.
async fn in_parts<Answer>(mut metrics: Metrics, at_most: usize, mut store: impl FnMut(Metrics) -> Answer) -> Stored
where
    Answer: Future<Output = Result<Applied, StoreError>>,
{
    let (begun, sent) = (Instant::now(), metrics.len());
    let (mut stored, mut from) = (Stored::default(), 0);
    while from < sent {
        if from > 0 && begun.elapsed() > PARTS_LIMIT {
            stored.failure = Some(ApiError::overloaded("storing the parts of a remote-write request took 20 s"));
            break;
        }
        let to = sent.min(from + at_most);
        let part = if to - from == sent { std::mem::take(&mut metrics) } else { metrics.part(from..to) };
        match store(part).await {
            Ok(applied) => {
                let refused = if let Applied::Partly(refused) = applied { *refused } else { RefusedSamples::default() };
                stored.samples += to - from - refused.total();
                stored.refused.merge(refused);
            }
            Err(error) => {
                stored.failure = Some(error.into());
                break;
            }
        }
        from = to;
    }
    stored
}

/// Which message the request has.
fn message(headers: &HeaderMap) -> Result<Message, ApiError> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (first, second) = (values.next(), values.next());
    let text = first.filter(|_| second.is_none()).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Message::of_content_type(text).ok_or_else(|| {
        let message = "Content-Type must be application/x-protobuf, with proto=prometheus.WriteRequest or \
            proto=io.prometheus.write.v2.Request where it says one";
        ApiError::new(ErrorCode::ContentType, message)
    })
}

/// What is told of a request of which something was not stored.
fn refusal(sent: usize, decoded: &Decoded, refused: &RefusedSamples) -> Option<ApiError> {
    let mut reasons = Vec::new();
    let mut say = |refusal: Refusal, what: &str| {
        if let Some(first) = refused.first(refusal) {
            reasons.push(format!("{} {what}, such as {}", refused.count(refusal), sample(first)));
        }
    };
    say(Refusal::SeriesLimit, "are of new series, and the server holds its maximum (MAX_SERIES)");
    say(Refusal::Conflict, "have another value than the one that is stored for their series and time");
    say(Refusal::TooOld, "are older than the history is kept (RETENTION_RAW)");
    say(Refusal::TooNew, "are more than 10 minutes ahead of the server's clock");
    let invalid = &decoded.invalid;
    if invalid.samples > 0 {
        reasons.push(format!("{} are of invalid series: {}", invalid.samples, invalid.first.as_deref().unwrap_or_default()));
    }
    let samples = refused.total() + invalid.samples;
    let mut sentences = Vec::new();
    if samples > 0 {
        sentences.push(format!(
            "{samples} of {} samples were refused, the others are stored: {}",
            sent + invalid.samples,
            reasons.join("; ")
        ));
    }
    if decoded.histograms > 0 {
        let histograms = decoded.histograms;
        sentences.push(format!(
            "{histograms} native histograms were refused: golectra stores classic histograms only; all other samples that \
            are not named here are stored"
        ));
    }
    if sentences.is_empty() {
        return None;
    }
    let message = sentences.join(". ");
    // The sender's other samples are stored, so it loses none of them if it does not try again.
    if refused.count(Refusal::SeriesLimit) > 0 {
        return Some(ApiError::new(ErrorCode::SeriesLimit, message).retry_after(SERIES_RETRY_AFTER));
    }
    Some(ApiError::new(ErrorCode::SamplesRefused, message))
}

/// A sample in words.
fn sample(name: &SampleName) -> String {
    let id: String = name.id.chars().take(QUOTED_CHARS).collect();
    match u64::try_from(name.at_millis) {
        Ok(at) => format!("{id} at {}", rfc3339(at)),
        Err(_) => format!("{id} at {} ms", name.at_millis),
    }
}

/// Makes a refusal that says nothing about the samples one after which Prometheus tries again.
fn recoverable(error: ApiError) -> ApiError {
    match error.code() {
        ErrorCode::TooSlow | ErrorCode::CutOff | ErrorCode::TooOld | ErrorCode::TooNew | ErrorCode::KeyReused => {
            error.with_code(ErrorCode::Overloaded).retry_after(1)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Arc;

    use golectra_protocol::{IdempotencyKey, Value};
    use prometheus::Registry;
    use tokio::time::sleep;

    use super::*;
    use crate::clock::Clock;
    use crate::metrics::ServerMetrics;
    use crate::store::memory::{MemoryConfig, MemoryStore};
    use crate::store::{Batch, Lifetimes, Newest as _, SeriesLimits, Write as _};

    const NOW: i64 = 1_800_000_000_000;

    /// One sample each of so many series.
    fn samples(count: usize) -> Metrics {
        let mut metrics = Metrics::default();
        for number in 0..count {
            metrics.push_parsed_at(&format!("m{{n=\"{number}\"}}"), Value::Gauge(1.0), NOW).unwrap();
        }
        metrics
    }

    fn memory_store(max_series: usize) -> Arc<MemoryStore> {
        let config = MemoryConfig {
            path: None,
            store_interval: Duration::ZERO,
            restore: false,
            lifetimes: Lifetimes::default(),
            max_keys: 1_000,
            limits: SeriesLimits { total: max_series, per_source: max_series },
            history_max_bytes: 64 << 20,
            audit: None,
        };
        MemoryStore::open(config, Clock::at(NOW.unsigned_abs())).unwrap()
    }

    async fn give(store: &MemoryStore, metrics: Metrics, at_most: usize) -> Stored {
        let stored = in_parts(metrics, at_most, |metrics| {
            let (source, key) = (Source::parse("p").unwrap(), IdempotencyKey::at(NOW.unsigned_abs()));
            store.apply(Batch { source, key, keyed: false, digest: [0; 32], metrics, audit: None })
        });
        stored.await
    }

    /// A store that gets this at once and one that gets it in parts answer the same and hold the same, also when it comes again.
    async fn ends_alike(sent: &Metrics, max_series: usize, case: &str) {
        let (whole, parts) = (memory_store(max_series), memory_store(max_series));
        for repeat in [false, true] {
            let (one, many) = (give(&whole, sent.clone(), usize::MAX).await, give(&parts, sent.clone(), 7).await);
            assert!(one.failure.is_none() && many.failure.is_none(), "{case}, {repeat}");
            assert_eq!((one.samples, one.refused), (many.samples, many.refused), "{case}, {repeat}");
            assert_eq!(whole.snapshot().await.unwrap(), parts.snapshot().await.unwrap(), "{case}, {repeat}");
        }
    }

    #[tokio::test]
    async fn a_store_that_takes_a_few_thousand_samples_at_once_gets_many_more() {
        let (sent, mut parts) = (samples(25_000), Vec::new());
        let stored = in_parts(sent.clone(), PART_SAMPLES, |part| {
            // As a database does whose transaction takes too long.
            let answer = if part.len() > 10_000 { Err(StoreError::Unavailable("no answer".into())) } else { Ok(Applied::New) };
            parts.push(part);
            ready(answer)
        })
        .await;
        assert!(stored.failure.is_none(), "{stored:?}");
        assert_eq!((stored.samples, stored.refused.total()), (25_000, 0));
        assert_eq!(parts.iter().map(Metrics::len).collect::<Vec<_>>(), [10_000, 10_000, 5_000]);
        let given = parts.iter().flatten().map(|metric| metric.id);
        assert!(given.eq(sent.iter().map(|metric| metric.id)), "each of them once, in their order");
        assert!(parts.iter().all(|part| part.at_millis(part.len() - 1) == Some(NOW)));
    }

    #[tokio::test]
    async fn a_request_of_the_usual_size_is_given_as_it_is() {
        for count in [0, 1, 2_000, 10_000] {
            let sent = samples(count);
            let text = sent.iter().next().map(|metric| metric.id.as_ptr());
            let mut parts = Vec::new();
            let stored = in_parts(sent, PART_SAMPLES, |part| {
                parts.push(part);
                ready(Ok(Applied::New))
            })
            .await;
            assert_eq!((stored.samples, parts.len()), (count, usize::from(count > 0)));
            assert_eq!(parts.iter().flatten().next().map(|metric| metric.id.as_ptr()), text, "it is not copied");
        }
    }

    #[tokio::test]
    async fn after_a_part_that_fails_none_is_tried_and_what_was_stored_is_told() {
        let mut given = 0;
        let stored = in_parts(samples(45), 10, |part| {
            given += 1;
            let mut refused = RefusedSamples::default();
            refused.add(Refusal::Conflict, given, || SampleName { id: part.get(0).id.to_owned(), at_millis: NOW });
            ready(if given == 3 { Err(StoreError::Overloaded) } else { Ok(Applied::of_samples(1, refused)) })
        })
        .await;
        assert_eq!((given, stored.samples, stored.refused.count(Refusal::Conflict)), (3, 17, 3));
        assert_eq!(stored.refused.first(Refusal::Conflict).map(|name| &*name.id), Some("m{n=\"0\"}"));
        assert_eq!(stored.failure.map(|error| error.code()), Some(ErrorCode::Overloaded));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_when_its_parts_take_too_long() {
        let stored = in_parts(samples(200), 10, |_| async {
            sleep(Duration::from_secs(3)).await;
            Ok(Applied::New)
        })
        .await;
        assert_eq!(stored.samples, 70, "the last part began after 18 s");
        assert_eq!(stored.failure.map(|error| error.code()), Some(ErrorCode::Overloaded));
        // One part is never refused for its time, which the store limits.
        let stored = in_parts(samples(10), 10, |_| async {
            sleep(Duration::from_secs(30)).await;
            Ok(Applied::New)
        })
        .await;
        assert!(stored.failure.is_none() && stored.samples == 10);
    }

    #[tokio::test]
    async fn parts_are_stored_and_refused_as_the_whole_would_be() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..60 {
            // A time of a series may be there several times, with one value or with two, and some are too old or too new.
            let mut sent = Metrics::default();
            for _ in 0..random.usize(1..80) {
                let id = format!("m{{s=\"{}\"}}", random.u8(0..6));
                let at = match random.u8(0..20) {
                    0 => NOW - 40 * 24 * 3_600_000,
                    1 => NOW + 3_600_000,
                    _ => NOW - 1_000 * random.i64(0..12),
                };
                sent.push_parsed_at(&id, Value::Gauge(f64::from(random.u8(0..2))), at).unwrap();
            }
            ends_alike(&sent, 100, &format!("round {round}")).await;
        }
    }

    #[tokio::test]
    async fn of_new_series_as_many_get_in_by_parts_as_there_is_room_for() {
        let mut sent = samples(30);
        for number in (0..30).rev() {
            sent.push_parsed_at(&format!("m{{n=\"{number}\"}}"), Value::Gauge(2.0), NOW - 1_000).unwrap();
        }
        for max_series in [1, 5, 7, 29, 30, 31] {
            ends_alike(&sent, max_series, &format!("{max_series} series")).await;
        }
    }

    #[test]
    fn the_runbook_of_refused_writes_names_every_reason() {
        const OF_OTHER_ROUTES: [ErrorCode; 6] = [
            ErrorCode::BadSelector,
            ErrorCode::UnknownMetric,
            ErrorCode::UnknownSource,
            ErrorCode::UnknownSilence,
            ErrorCode::UnknownReceiver,
            ErrorCode::ReceiverFailed,
        ];
        let runbook = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runbooks/GolectraWritesRefused.md"));
        for code in ErrorCode::ALL.iter().filter(|code| !OF_OTHER_ROUTES.contains(code)) {
            assert!(runbook.contains(&format!("`{}`", code.as_str())), "{code:?}");
        }
        let registry = Registry::new();
        ServerMetrics::register(&registry).unwrap();
        let families = registry.gather();
        let refused = families.iter().find(|family| family.name() == "golectra_remote_write_refused_total").unwrap();
        for metric in refused.get_metric() {
            let reason = metric.get_label()[0].value();
            assert!(runbook.contains(&format!("\n- `{reason}`: ")), "{reason} has no line that begins with it");
        }
    }
}
