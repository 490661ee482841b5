//! Receives an event: checks its signature and its content, and stores it unless it is a repeat.

mod event_line;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use golectra_process::{LogLimiter, trace};
use golectra_protocol::header::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt as _;
use tracing::Instrument as _;

use self::event_line::event_line;
use super::error::ApiError;
use crate::inflight::{Inflight, InflightShare};
use crate::journal::{Appended, id};
use crate::state::SinkState;

/// Log lines about refused events, by [`ApiError::label`].
static REFUSED_LOG: LogLimiter = LogLimiter::new();

/// 200 once the event is on disk, because of this request or an earlier one.
pub(crate) async fn event(State(state): State<SinkState>, request: Request) -> Response {
    let span = tracing::info_span!("receive audit event", otel.kind = "consumer");
    trace::set_parent(&span, request.headers());
    let result = store(&state, request).instrument(span).await;
    let label = match &result {
        Ok(Appended::Stored) => "stored",
        Ok(Appended::Repeat) => "repeat",
        Err(error) => error.label(),
    };
    state.metrics.received.with_label_values(&[label]).inc();
    match result {
        Ok(_) => Json(serde_json::json!({ "result": label })).into_response(),
        Err(error) => {
            let text = error.to_string();
            REFUSED_LOG.log(label, move |count| tracing::warn!(count, error = text, "audit events are refused"));
            error.into_response()
        }
    }
}

async fn store(state: &SinkState, request: Request) -> Result<Appended, ApiError> {
    let (head, body) = request.into_parts();
    let id = text(&head.headers, WEBHOOK_ID).filter(|text| id::acceptable(text)).ok_or(ApiError::Id)?.to_owned();
    if let Some(encoding) = head.headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(ApiError::Encoding(String::from_utf8_lossy(encoding.as_bytes()).into_owned()));
    }
    let mut share = state.inflight.share();
    let read = tokio::time::timeout(state.body_limit, read(body, state.max_body_bytes, &mut share));
    let body = read.await.map_err(|_| ApiError::TooSlow { seconds: state.body_limit.as_secs() })??;
    let now = (state.clock)();
    if let Some(secret) = &state.secret {
        let signed = |name| text(&head.headers, name).ok_or(ApiError::Unsigned(name));
        secret.verify(&id, signed(WEBHOOK_TIMESTAMP)?, signed(WEBHOOK_SIGNATURE)?, &body, now)?;
    }
    let line = event_line(&body).map_err(ApiError::Event)?;
    drop(body);
    state.journal.append(id, line, now, share).await.map_err(ApiError::Unavailable)
}

/// The whole body. The memory for it is taken as it comes, with what the event's line will need.
async fn read(mut body: Body, max_bytes: usize, share: &mut InflightShare) -> Result<Bytes, ApiError> {
    let (mut whole, mut first) = (Vec::new(), Bytes::new());
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| ApiError::CutOff)?.into_data() else { continue };
        let taken = first.len() + whole.len() + piece.len();
        if taken > max_bytes {
            return Err(ApiError::TooLarge { limit: max_bytes });
        }
        if !share.raise_to(Inflight::needed(taken)) {
            return Err(ApiError::Unavailable("too many events are under way: try again later"));
        }
        if taken == piece.len() {
            // Most events come in one piece, which need not be copied.
            first = piece;
            continue;
        }
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
