//! The audit trail: who wrote which metrics when, delivered to each sink.

use golectra_protocol::audit::Event;

/// An event on its way into the outbox, with what its delivery needs to know.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The event, the bytes that every sink gets.
    pub event: Event,
    /// The W3C trace context of the write, carried on to the webhook.
    pub traceparent: Option<String>,
}
