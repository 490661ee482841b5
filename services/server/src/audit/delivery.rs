//! Delivers the events of one sink's outbox to the sink while the process runs.
//!
//! There is one task for each sink, with several deliveries at the same time if the sink allows that. After failures the sink
//! is paused; meanwhile its events stay in the outbox. A write never waits for a sink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::LogLimiter;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, pause};
use super::metrics::SinkMetrics;
use super::outbox::{CLAIM_BYTES, Delivery, DeliveryOutcome, LEASE, Outbox, Settlement};
use super::sinks::{DeliveryError, Sink};

/// An event that its sink refuses is given up after this many deliveries.
const TRIES_OF_A_REFUSED_EVENT: u32 = 5;

/// An event whose lease ends sooner than this is not delivered, because another server could claim it meanwhile. It is longer
/// than the delivery of the longest event and the recording of its outcome.
pub const LEASE_MARGIN: Duration = Duration::from_secs(20);

/// The number of events that are claimed in advance, so that there are fewer requests to the outbox than to the sink.
const AHEAD: usize = 64;

/// The longest pause during a shutdown.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause after a failure of the outbox.
const OUTBOX_PAUSE: Duration = Duration::from_secs(5);

/// Log lines about deliveries, by sink and condition.
static LOG: LogLimiter<(&'static str, &'static str)> = LogLimiter::new();

/// Delivers one sink's events.
pub struct DeliveryWorker {
    outbox: Arc<dyn Outbox>,
    sink: Arc<dyn Sink>,
    metrics: SinkMetrics,
    retention: Duration,
    /// Claimed events whose delivery has not begun.
    claimed: VecDeque<Claimed>,
    deliveries: JoinSet<(Vec<Claimed>, Result<(), DeliveryError>)>,
    /// The content of the events in `claimed` and `deliveries`, in bytes.
    held_bytes: usize,
    /// Outcomes that are not recorded in the outbox yet.
    outcomes: Vec<Settlement>,
    sink_backoff: Backoff,
    outbox_backoff: Backoff,
    /// Whether the outbox may have events to claim.
    look: bool,
}

struct Claimed {
    delivery: Delivery,
    at: Instant,
}

impl DeliveryWorker {
    /// `retention` is the age at which an undelivered event is given up.
    pub fn new(outbox: Arc<dyn Outbox>, sink: Arc<dyn Sink>, metrics: SinkMetrics, retention: Duration) -> Self {
        Self {
            outbox,
            sink,
            metrics,
            retention,
            claimed: VecDeque::new(),
            deliveries: JoinSet::new(),
            held_bytes: 0,
            outcomes: Vec::new(),
            sink_backoff: Backoff::default(),
            outbox_backoff: Backoff::default(),
            look: true,
        }
    }

    /// Runs until `stop`. Then it finishes the deliveries that have begun, and delivers the events that would otherwise be lost
    /// with the process.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        let mut more = true;
        loop {
            if stopping {
                self.sink_backoff.shorten(SHUTDOWN_PAUSE);
            }
            self.record_outcomes().await;
            if more {
                self.claim().await;
                self.start_deliveries();
            }
            if stopping && self.deliveries.is_empty() && self.claimed.is_empty() && self.outcomes.is_empty() && self.is_done(more).await {
                return;
            }
            let pausing = self.sink_backoff.pausing().max(self.outbox_backoff.pausing());
            tokio::select! {
                Some(finished) = self.deliveries.join_next() => {
                    self.finish_delivery(finished);
                    while let Some(finished) = self.deliveries.try_join_next() {
                        self.finish_delivery(finished);
                    }
                }
                () = sleep_until(pausing.unwrap_or_else(Instant::now)), if pausing.is_some() => self.look = true,
                () = self.outbox.wait(), if pausing.is_none() && self.room() > 0 => self.look = true,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.look = true;
                    more = self.outbox.begin_shutdown();
                    if !more {
                        self.put_back();
                    }
                }
            }
        }
    }

    /// Whether no event is left that would be lost with the process.
    async fn is_done(&self, more: bool) -> bool {
        !more || self.outbox.backlog().await.is_ok_and(|backlog| backlog.events == 0)
    }

    /// The number of events that may be claimed now.
    fn room(&self) -> usize {
        // Claiming a few more while many are claimed already would only cause more requests to the outbox.
        if self.claimed.len() > AHEAD / 2 || self.held_bytes >= CLAIM_BYTES {
            return 0;
        }
        let concurrency = self.sink.concurrency();
        let most = if self.sink_backoff.probing() { concurrency.batch } else { (concurrency.batch * concurrency.calls).max(AHEAD) };
        // A sink with one call at a time gets its next batch when the last one has ended.
        let busy = if concurrency.calls == 1 { self.deliveries.len() * concurrency.batch } else { 0 };
        most.saturating_sub(self.claimed.len() + busy)
    }

    async fn claim(&mut self) {
        let room = self.room();
        // Events whose outcome is not recorded yet would be claimed again.
        let waits = self.sink_backoff.pausing().is_some() || self.outbox_backoff.pausing().is_some() || !self.outcomes.is_empty();
        if !self.look || waits || room == 0 {
            return;
        }
        let at = Instant::now();
        match self.outbox.claim(room).await {
            Ok(claimed) => {
                let bytes: usize = claimed.iter().map(|delivery| delivery.content.bytes()).sum();
                self.look = claimed.len() == room || bytes >= CLAIM_BYTES;
                self.held_bytes += bytes;
                self.outbox_backoff.succeeded();
                self.claimed.extend(claimed.into_iter().map(|delivery| Claimed { delivery, at }));
            }
            Err(error) => self.outbox_failed(error.to_string()),
        }
    }

    fn start_deliveries(&mut self) {
        if self.sink_backoff.pausing().is_some() {
            self.put_back();
            return;
        }
        let concurrency = self.sink.concurrency();
        let calls = if self.sink_backoff.probing() { 1 } else { concurrency.calls };
        while self.deliveries.len() < calls && !self.claimed.is_empty() {
            let next = self.claimed.drain(..concurrency.batch.min(self.claimed.len()));
            let (batch, late): (Vec<_>, Vec<_>) = next.partition(|claimed| claimed.at.elapsed() + LEASE_MARGIN < LEASE);
            for claimed in late {
                self.settle(&claimed.delivery, DeliveryOutcome::NotTried);
            }
            if batch.is_empty() {
                continue;
            }
            let sink = Arc::clone(&self.sink);
            self.deliveries.spawn(async move {
                let deliveries: Vec<Delivery> = batch.iter().map(|claimed| claimed.delivery.clone()).collect();
                let result = sink.deliver(&deliveries).await;
                (batch, result)
            });
        }
    }

    /// Returns events whose delivery has not begun to the outbox, so that they can be claimed before their lease ends.
    fn put_back(&mut self) {
        for claimed in std::mem::take(&mut self.claimed) {
            self.settle(&claimed.delivery, DeliveryOutcome::NotTried);
        }
    }

    fn finish_delivery(&mut self, finished: Result<(Vec<Claimed>, Result<(), DeliveryError>), tokio::task::JoinError>) {
        self.look = true;
        let (batch, result) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                // A bug. The events become due again when their lease ends; their number of bytes is not known here.
                tracing::error!(sink = self.sink.name(), %error, "a delivery of audit events panicked");
                self.held_bytes = self.claimed.iter().map(|claimed| claimed.delivery.content.bytes()).sum();
                return;
            }
        };
        match result {
            Ok(()) => {
                self.sink_backoff.succeeded();
                self.metrics.attempt("delivered", batch.len());
                for Claimed { delivery, at } in batch {
                    self.metrics.delivered(delivery.age + at.elapsed());
                    self.settle(&delivery, DeliveryOutcome::Delivered);
                }
            }
            Err(error) => {
                self.sink_backoff.failed(&error);
                self.metrics.attempt(error.label(), batch.len());
                self.log_retry(error.label(), error.to_string());
                for claimed in batch {
                    let outcome = self.outcome(&claimed, &error);
                    self.settle(&claimed.delivery, outcome);
                }
            }
        }
    }

    /// The outcome of an event after this error.
    fn outcome(&self, Claimed { delivery, at }: &Claimed, error: &DeliveryError) -> DeliveryOutcome {
        let failures = delivery.attempts.saturating_add(1);
        let given_up = match error {
            DeliveryError::Refused { .. } if failures >= TRIES_OF_A_REFUSED_EVENT => true,
            _ => delivery.age + at.elapsed() >= self.retention,
        };
        if given_up {
            self.metrics.dead.inc();
            let (sink, id, error) = (self.sink.name(), delivery.id, error.to_string());
            let reason = error.clone();
            LOG.log((sink, "given up"), move |count| tracing::error!(count, sink, %id, error, "audit events are given up"));
            return DeliveryOutcome::GivenUp(reason);
        }
        match error {
            // The sink is paused. The event was not the cause, and keeps its place in the queue.
            DeliveryError::Down { .. } => DeliveryOutcome::NotTried,
            DeliveryError::Failed { retry_after, .. } => DeliveryOutcome::Retry(pause(failures).max(retry_after.unwrap_or_default())),
            DeliveryError::Refused { .. } => DeliveryOutcome::Retry(pause(failures)),
        }
    }

    /// Updates the held bytes when an event leaves the worker.
    fn settle(&mut self, delivery: &Delivery, outcome: DeliveryOutcome) {
        self.held_bytes = self.held_bytes.saturating_sub(delivery.content.bytes());
        self.outcomes.push(Settlement { ticket: delivery.ticket, outcome });
    }

    async fn record_outcomes(&mut self) {
        if self.outcomes.is_empty() || self.outbox_backoff.pausing().is_some() {
            return;
        }
        match self.outbox.settle(&self.outcomes).await {
            Ok(()) => {
                self.outcomes.clear();
                self.outbox_backoff.succeeded();
            }
            Err(error) => self.outbox_failed(error.to_string()),
        }
    }

    fn outbox_failed(&mut self, error: String) {
        self.outbox_backoff.failed(&DeliveryError::Down { reason: String::new() });
        self.outbox_backoff.shorten(OUTBOX_PAUSE);
        self.log_retry("outbox", error);
    }

    fn log_retry(&self, condition: &'static str, error: String) {
        let sink = self.sink.name();
        LOG.log((sink, condition), move |count| tracing::warn!(count, sink, error, "audit events could not be delivered: trying again"));
    }
}

#[cfg(test)]
mod tests;
