//! Where audit events go: a [`mod@file`] of this server, and a [`webhook`].

pub mod file;
pub mod webhook;

use std::time::Duration;

use async_trait::async_trait;

use super::outbox::Delivery;

/// A receiver of events.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Its name in metrics and logs.
    fn name(&self) -> &'static str;

    /// How many events it takes at a time.
    fn concurrency(&self) -> Concurrency;

    /// Tries once to deliver these events: all of them, or with an error none. Bounded in time, except by a disk that hangs.
    async fn deliver(&self, batch: &[Delivery]) -> Result<(), DeliveryError>;
}

/// How many events a sink takes at a time.
#[derive(Debug, Clone, Copy)]
pub struct Concurrency {
    /// Most events in one call.
    pub batch: usize,
    /// Most calls at the same time.
    pub calls: usize,
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The sink can't be reached or written, whatever the event.
    #[error("{reason}")]
    Down {
        /// For the log; without secrets.
        reason: String,
    },
    /// It failed this time; another event may succeed.
    #[error("{reason}")]
    Failed {
        /// For the log; without secrets.
        reason: String,
        /// When the sink wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The sink does not accept this event.
    #[error("{reason}")]
    Refused {
        /// For the log; without secrets.
        reason: String,
    },
}

impl DeliveryError {
    /// As a label's value.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Failed { .. } => "failed",
            Self::Refused { .. } => "refused",
        }
    }
}
