//! /api/v1/silences: alerts of which nobody is to be told for a while.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use golectra_promql::parse::parse_duration;
use golectra_protocol::ErrorCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::AppState;
use super::error::ApiError;
use super::extract::{ClientAddress, JsonChange, SentBy};
use crate::access::Caller;
use crate::alerts::{Silence, SilenceMatcher};
use crate::clock::rfc3339;
use crate::history::time::parse_time_ms;

/// The answer of GET /api/v1/silences.
#[derive(Serialize)]
pub struct Silences {
    silences: Vec<SilenceView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SilenceView {
    id: Uuid,
    /// `pending`, `active` or `expired`.
    state: &'static str,
    matchers: Vec<SilenceMatcher>,
    starts_at: String,
    ends_at: String,
    created_by: String,
    comment: String,
}

/// What a client sends: Alertmanager's form of a silence, with a duration instead of an end where that is easier.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewSilence {
    matchers: Vec<SilenceMatcher>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    duration: Option<String>,
    created_by: String,
    comment: String,
}

/// The answer of POST /api/v1/silences, as Alertmanager's.
#[derive(Serialize)]
pub struct Created {
    #[serde(rename = "silenceID")]
    silence_id: Uuid,
}

fn malformed(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Malformed, message)
}

/// GET /api/v1/silences: those that hold, that are to come, and that ended within a day; the newest first.
pub async fn list(State(state): State<AppState>) -> Result<Json<Silences>, ApiError> {
    let stored = state.alerts.stored().await?;
    let now_ms = state.alerts.now_ms();
    let time = |ms: i64| rfc3339(ms.max(0).unsigned_abs());
    let view = |silence: &Silence| SilenceView {
        id: silence.id,
        state: if now_ms >= silence.ends_ms {
            "expired"
        } else if now_ms < silence.starts_ms {
            "pending"
        } else {
            "active"
        },
        matchers: silence.matchers.clone(),
        starts_at: time(silence.starts_ms),
        ends_at: time(silence.ends_ms),
        created_by: silence.created_by.clone(),
        comment: silence.comment.clone(),
    };
    let mut silences: Vec<SilenceView> = stored.silences.iter().map(view).collect();
    silences.sort_by_key(|silence| std::cmp::Reverse(silence.id));
    Ok(Json(Silences { silences }))
}

/// POST /api/v1/silences: makes one.
pub async fn create(
    State(state): State<AppState>,
    ClientAddress(peer): ClientAddress,
    sent_by: SentBy,
    JsonChange(payload): JsonChange,
) -> Result<Json<Created>, ApiError> {
    let new: NewSilence = serde_json::from_slice(&payload.bytes).map_err(|error| malformed(format!("the body is no silence: {error}")))?;
    let now_ms = state.alerts.now_ms();
    let read = |name: &str, text: &str| {
        parse_time_ms(text).ok_or_else(|| malformed(format!("{name} {text:?} is no time such as 2026-01-02T03:04:05Z")))
    };
    let starts_ms = new.starts_at.as_deref().map(|text| read("startsAt", text)).transpose()?.map_or(now_ms, |ms| ms.max(now_ms));
    let ends_ms = match (new.ends_at.as_deref(), new.duration.as_deref()) {
        (Some(text), None) => read("endsAt", text)?,
        (None, Some(text)) => {
            let ms = parse_duration(text).ok_or_else(|| malformed(format!("duration {text:?} is no duration such as 2h")))?;
            starts_ms.saturating_add(ms)
        }
        _ => return Err(malformed("a silence needs either endsAt or duration")),
    };
    // Who was signed in by a proxy is who made it, whatever the client says.
    let created_by = match &sent_by.0 {
        Some(Caller::User(user)) => user.to_string(),
        _ => new.created_by,
    };
    let silence = Silence { id: Uuid::nil(), matchers: new.matchers, starts_ms, ends_ms, created_by, comment: new.comment };
    let (created_by, comment) = (silence.created_by.clone(), silence.comment.clone());
    let silence_id = state.alerts.add_silence(silence).await?.map_err(malformed)?;
    tracing::info!(%silence_id, created_by, comment, by = sent_by.as_text(), %peer, "a silence was made");
    Ok(Json(Created { silence_id }))
}

/// DELETE /api/v1/silences/:id: ends one now.
pub async fn end(
    State(state): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    ClientAddress(peer): ClientAddress,
    sent_by: SentBy,
    payload: JsonChange,
) -> Result<StatusCode, ApiError> {
    // The body is only read for its signature and hash: the silence is named in the path.
    drop(payload);
    let Path(id) = id.map_err(|error| malformed(error.body_text()))?;
    let unknown = || ApiError::new(ErrorCode::UnknownSilence, format!("there is no silence {id:?} that is not over"));
    let silence_id = Uuid::parse_str(&id).map_err(|_| unknown())?;
    if !state.alerts.end_silence(silence_id).await? {
        return Err(unknown());
    }
    tracing::info!(%silence_id, by = sent_by.as_text(), %peer, "a silence was ended");
    Ok(StatusCode::NO_CONTENT)
}
