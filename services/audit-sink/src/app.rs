//! Every route of the sink on one page, and what its handlers share.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use golectra_protocol::webhook::Secret;
use tokio::sync::Semaphore;

use crate::figures::Figures;
use crate::http::{error, events, ping, receive};
use crate::journal::Journal;

/// Whole journals sent at once; each holds a file open for as long as its client takes.
pub(crate) const DOWNLOADS: usize = 8;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) journal: Journal,
    pub(crate) figures: Figures,
    /// What events are signed with; without it they needn't be.
    pub(crate) secret: Option<Arc<Secret>>,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_limit: Duration,
    /// Now, in unix seconds.
    pub(crate) clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    pub(crate) downloads: Arc<Semaphore>,
}

impl App {
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/", post(receive::event))
            .route("/events", post(receive::event).get(events::newest))
            .route("/events.ndjson", get(events::everything))
            .route("/ping", get(ping::ready))
            .route("/ping/live", get(ping::live))
            .fallback(error::unknown_route)
            .method_not_allowed_fallback(error::wrong_method)
            .with_state(self)
    }
}
