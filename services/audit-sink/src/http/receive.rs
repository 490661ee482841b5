//! Takes an event: who sent it, whether it is one, whether it is new.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use golectra_process::trace;
use golectra_protocol::audit::Event;
use golectra_protocol::header::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tracing::Instrument as _;

use super::error::ApiError;
use crate::app::App;
use crate::journal::{Appended, id};

/// 200 once the event is on disk, now or since an earlier try.
pub(crate) async fn event(State(app): State<App>, request: Request) -> Response {
    let span = tracing::info_span!("receive audit event", otel.kind = "consumer");
    trace::set_parent(&span, request.headers());
    let result = take(&app, request).instrument(span).await;
    let label = match &result {
        Ok(Appended::Stored) => "stored",
        Ok(Appended::Repeat) => "repeat",
        Err(error) => error.label(),
    };
    app.figures.received.with_label_values(&[label]).inc();
    match result {
        Ok(_) => Json(serde_json::json!({ "result": label })).into_response(),
        Err(error) => {
            tracing::debug!(%error, "an event is not taken");
            error.into_response()
        }
    }
}

async fn take(app: &App, request: Request) -> Result<Appended, ApiError> {
    let (head, body) = request.into_parts();
    let id = text(&head.headers, WEBHOOK_ID).filter(|text| id::acceptable(text)).ok_or(ApiError::Id)?.to_owned();
    if let Some(encoding) = head.headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(ApiError::Encoding(String::from_utf8_lossy(encoding.as_bytes()).into_owned()));
    }
    let body = read(app, body).await?;
    let now = (app.clock)();
    if let Some(secret) = &app.secret {
        let signed = |name| text(&head.headers, name).ok_or(ApiError::Unsigned(name));
        secret.verify(&id, signed(WEBHOOK_TIMESTAMP)?, signed(WEBHOOK_SIGNATURE)?, &body, now)?;
    }
    let event: Event = serde_json::from_slice(&body).map_err(ApiError::Event)?;
    // Written anew rather than as it came: a reader of the file finds one event a line, whatever the sender's layout.
    app.journal.append(id, event.to_json(), now).await.map_err(ApiError::Unavailable)
}

async fn read(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let limit = app.max_body_bytes;
    let whole = tokio::time::timeout(app.body_limit, Limited::new(body, limit).collect());
    match whole.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge { limit }),
        Ok(Err(_)) => Err(ApiError::Broken),
        Err(_) => Err(ApiError::TooSlow { seconds: app.body_limit.as_secs() }),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
