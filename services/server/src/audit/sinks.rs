//! Where audit events go: a [`mod@file`] of this server, and a [`webhook`].

pub mod file;
pub mod webhook;

use std::time::Duration;

use async_trait::async_trait;

use super::outbox::Delivery;

/// A place that takes events.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Its name in metrics and logs.
    fn name(&self) -> &'static str;

    /// How it wants its events.
    fn pace(&self) -> Pace;

    /// Tries to deliver these events once, all or none. Bounded in time unless a disk hangs.
    async fn deliver(&self, batch: &[Delivery]) -> Result<(), Fault>;
}

/// How a sink wants its events.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Events in one call, at most.
    pub batch: usize,
    /// Calls at once, at most.
    pub at_once: usize,
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The sink can't be reached or can't be written, whatever the event.
    #[error("{reason}")]
    Down {
        /// For the log; no secrets.
        reason: String,
    },
    /// It did not work out this time; another event may fare better.
    #[error("{reason}")]
    Failed {
        /// For the log; no secrets.
        reason: String,
        /// When the sink wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The sink says that this event is not acceptable.
    #[error("{reason}")]
    Refused {
        /// For the log; no secrets.
        reason: String,
    },
}

impl Fault {
    /// As a label's value.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Failed { .. } => "failed",
            Self::Refused { .. } => "refused",
        }
    }
}
