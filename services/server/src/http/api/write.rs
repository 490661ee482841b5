//! POST /api/v1/write: Prometheus's remote-write, versions 1.0 and 2.0.
//!
//! Prometheus tries again on 5xx (and on 429, where it is told to), and drops the samples of any other refusal. So what may succeed later is 5xx or
//! 429, and whatever can be stored of a request is stored before it is refused. Prometheus logs the body of a refusal: it is plain text.

use axum::RequestExt as _;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use golectra_protocol::remote_write::{Decoded, Message, decode};
use golectra_protocol::{ErrorCode, Source, header as names};

use super::super::AppState;
use super::super::error::{ApiError, TextError};
use super::super::extract::{ClientAddress, Sender, SnappyPayload};
use crate::clock::rfc3339;
use crate::store::{Applied, Refusal, RefusedSamples, SampleName};

/// The source of requests that name none.
const DEFAULT_SOURCE: &str = "remote-write";

/// A decoded message may be so many times as large as the largest body: a table of symbols makes messages small.
const DECODED_TIMES_BODY: usize = 4;

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
    let applied = if sent == 0 { Applied::Repeat } else { state.ingest.write_samples(source, payload.digest(), metrics, peer).await? };
    if !decoded.metadata.is_empty() {
        state.ingest.write_metadata(std::mem::take(&mut decoded.metadata)).await;
    }
    let refused = if let Applied::Partly(refused) = applied { *refused } else { RefusedSamples::default() };
    state.metrics.remote_write(&decoded, &refused);
    Ok(Written { samples: sent - refused.total(), refusal: refusal(sent, &decoded, &refused) })
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
