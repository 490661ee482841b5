//! /api/v1/receivers: whom alerts are told, and whether that works.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use golectra_protocol::ErrorCode;
use serde::Serialize;

use super::AppState;
use super::error::ApiError;
use super::extract::{ClientAddress, JsonChange, SentBy};
use crate::alerts::{RawQuietHours, Receiver, Severity, held_up_to};

/// The answer of GET /api/v1/receivers. Addresses are not told: they may be secrets.
#[derive(Serialize)]
pub struct Receivers {
    receivers: Vec<ReceiverView>,
}

#[derive(Serialize)]
struct ReceiverView {
    name: String,
    kind: &'static str,
    min_severity: Severity,
    send_resolved: bool,
    quiet_hours: Vec<RawQuietHours>,
    /// The worst that quiet hours hold back now.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_up_to: Option<Severity>,
}

/// The answer of a test that went well.
#[derive(Serialize)]
pub struct Tested {
    delivered: bool,
}

/// GET /api/v1/receivers: in the order of RECEIVERS_FILE.
pub async fn list(State(state): State<AppState>) -> Json<Receivers> {
    let now_ms = state.alerts.now_ms();
    let view = |receiver: &Receiver| ReceiverView {
        name: receiver.name.clone(),
        kind: receiver.target.kind(),
        min_severity: receiver.min_severity,
        send_resolved: receiver.send_resolved,
        quiet_hours: receiver.quiet_hours.iter().map(|hours| hours.text().clone()).collect(),
        held_up_to: held_up_to(&receiver.quiet_hours, now_ms),
    };
    Json(Receivers { receivers: state.alerts.receivers().iter().map(view).collect() })
}

/// POST /api/v1/receivers/:name/test: sends it an alert that says that it is a test, once, and answers what became of that.
pub async fn test(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
    ClientAddress(peer): ClientAddress,
    sent_by: SentBy,
    payload: JsonChange,
) -> Result<Json<Tested>, ApiError> {
    // The body is only read for its signature and hash: the receiver is named in the path.
    drop(payload);
    let Path(name) = name.map_err(|error| ApiError::new(ErrorCode::Malformed, error.body_text()))?;
    let outcome = state.alerts.test_receiver(&name).await;
    if outcome.is_some() {
        tracing::info!(receiver = name, by = sent_by.as_text(), %peer, "a receiver was sent a test");
    }
    match outcome {
        None => Err(ApiError::new(ErrorCode::UnknownReceiver, format!("there is no receiver {name:?} in RECEIVERS_FILE"))),
        Some(Ok(())) => Ok(Json(Tested { delivered: true })),
        Some(Err(error)) => Err(ApiError::new(ErrorCode::ReceiverFailed, format!("the test did not reach the receiver {name:?}: {error}"))),
    }
}
