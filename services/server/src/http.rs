//! The HTTP side: one file a resource, each doing no more than extract, call, respond.

pub mod client_error;
pub mod error;
pub mod extract;

pub mod api;
pub mod fallback;
pub mod latest;
pub mod ping;
pub mod receivers;
mod selector;
pub mod silences;
pub mod snapshot;
pub mod sources;
pub mod stream;
pub mod ui;
pub mod update;
pub mod updates;
pub mod value;

use std::sync::Arc;

use golectra_process::Secret;

use crate::access::{ProxyAuth, Tokens};
use crate::alerts::Alerts;
use crate::history::query::Queries;
use crate::ingest::Ingest;
use crate::metrics::ServerMetrics;
use crate::store::Store;
use api::status::ProcessInfo;
use extract::body::BodyLimits;
use extract::signature::Signatures;
use latest::budget::ListingBudget;

/// What handlers share, counted once: a request holds it in several places.
pub type AppState = Arc<App>;

/// See [`AppState`].
pub struct App {
    /// Where metrics are read.
    pub store: Arc<dyn Store>,
    /// How metrics are written.
    pub ingest: Ingest,
    /// How history is queried.
    pub queries: Queries,
    /// Rules, their alerts and whom they are told.
    pub alerts: Alerts,
    /// What the status routes tell about this process.
    pub process: ProcessInfo,
    /// What a request's body may cost.
    pub bodies: BodyLimits,
    /// The memory that all listings have together.
    pub listings: ListingBudget,
    /// The most metrics in one batch.
    pub max_batch_items: usize,
    /// The key of HashSHA256.
    pub key: Option<Secret>,
    /// What holds requests to their signatures.
    pub signatures: Arc<Signatures>,
    /// Who may read and write over Prometheus's interfaces.
    pub tokens: Option<Tokens>,
    /// How proxies name people whom they have signed in.
    pub proxy: Option<ProxyAuth>,
    /// Whose X-Forwarded-For is believed, and who may name people.
    pub trusted_proxies: crate::config::Networks,
    /// What the server says about itself.
    pub metrics: ServerMetrics,
    /// Tells open pages when to look again.
    pub pulse: stream::Pulse,
    /// The nodes, as pages are finding them.
    pub clusters: ui::KeptClusters,
    /// What changed, as pages found it last.
    pub changes: ui::KeptChanges,
    /// What happened, as pages found it last.
    pub events: ui::KeptEvents,
    /// The graphs of the pages.
    pub panels: ui::PanelBook,
}
