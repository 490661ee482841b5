//! The sinks of audit events: a [`mod@file`] on this server's disk, and a [`webhook`].

pub mod file;
pub mod webhook;

use std::time::Duration;

use async_trait::async_trait;

use super::outbox::Delivery;

/// A sink of audit events.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// The name in metrics and logs.
    fn name(&self) -> &'static str;

    /// How many events may be delivered at a time.
    fn concurrency(&self) -> Concurrency;

    /// Tries once to deliver these events: all of them, or none with an error. The time is bounded, except for a disk that
    /// hangs.
    async fn deliver(&self, batch: &[Delivery]) -> Result<(), DeliveryError>;
}

/// How many events a sink accepts at a time.
#[derive(Debug, Clone, Copy)]
pub struct Concurrency {
    /// The most events in one call.
    pub batch: usize,
    /// The most calls at the same time.
    pub calls: usize,
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The sink can't be reached or written, independently of the event.
    #[error("{reason}")]
    Down {
        /// For the log; without secrets.
        reason: String,
    },
    /// This delivery failed; another event may succeed.
    #[error("{reason}")]
    Failed {
        /// For the log; without secrets.
        reason: String,
        /// The pause that the sink asked for.
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
    /// The error as a metric's label value.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Failed { .. } => "failed",
            Self::Refused { .. } => "refused",
        }
    }
}
