//! Takes one sink's events from its outbox to the sink, for as long as the process lives.
//!
//! One task a sink, several deliveries at once where the sink likes that. A sink that fails is left alone for a while;
//! meanwhile its events wait in the outbox, and no write ever waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::figures::Figures;
use super::health::{Health, pause};
use super::outbox::{Delivery, LEASE, Outbox, Settlement, Verdict};
use super::sinks::{Fault, Sink};

/// An event that its sink refuses is given up after so many tries.
const TRIES_OF_A_REFUSED_EVENT: u32 = 5;

/// An event whose lease ends sooner than this is not tried: someone else might be at it before we are done.
const LEASE_MARGIN: Duration = Duration::from_secs(12);

/// Events claimed ahead of those being delivered, so that the outbox is asked less often than the sink.
const AHEAD: usize = 64;

/// The longest pause once the process is ending.
const LAST_CALL_PAUSE: Duration = Duration::from_millis(250);

/// The same trouble is logged at most this often.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Takes one sink's events to the sink.
pub struct Courier {
    outbox: Arc<dyn Outbox>,
    sink: Arc<dyn Sink>,
    figures: Figures,
    retention: Duration,
    /// Claimed and not yet on their way.
    ready: VecDeque<Claimed>,
    flying: JoinSet<(Vec<Claimed>, Result<(), Fault>)>,
    /// Settlements that the outbox has yet to note.
    settled: Vec<Settlement>,
    /// What is thought of the sink, and of the outbox.
    sink_health: Health,
    outbox_health: Health,
    /// There may be something to claim.
    look: bool,
    logged: Option<Instant>,
}

struct Claimed {
    delivery: Delivery,
    at: Instant,
}

impl Courier {
    /// `retention` is the age at which an event is given up.
    pub fn new(outbox: Arc<dyn Outbox>, sink: Arc<dyn Sink>, figures: Figures, retention: Duration) -> Self {
        Self {
            outbox,
            sink,
            figures,
            retention,
            ready: VecDeque::new(),
            flying: JoinSet::new(),
            settled: Vec::new(),
            sink_health: Health::default(),
            outbox_health: Health::default(),
            look: true,
            logged: None,
        }
    }

    /// Runs until `stop`; then finishes what is on its way, and all that would be lost with the process.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        let mut more = true;
        loop {
            if stopping {
                self.sink_health.hurry(LAST_CALL_PAUSE);
            }
            self.note().await;
            if more {
                self.claim().await;
                self.launch();
            }
            if stopping && self.flying.is_empty() && self.ready.is_empty() && self.settled.is_empty() && self.over(more).await {
                return;
            }
            let pausing = self.sink_health.pausing().max(self.outbox_health.pausing());
            tokio::select! {
                Some(landed) = self.flying.join_next() => {
                    self.land(landed);
                    while let Some(landed) = self.flying.try_join_next() {
                        self.land(landed);
                    }
                }
                () = sleep_until(pausing.unwrap_or_else(Instant::now)), if pausing.is_some() => self.look = true,
                () = self.outbox.wait(), if pausing.is_none() && self.room() > 0 => self.look = true,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.look = true;
                    more = self.outbox.last_call();
                    if !more {
                        self.put_back();
                    }
                }
            }
        }
    }

    /// Whether nothing is left that could be lost.
    async fn over(&self, more: bool) -> bool {
        !more || self.outbox.backlog().await.is_ok_and(|backlog| backlog.events == 0)
    }

    /// How many events may be claimed now.
    fn room(&self) -> usize {
        // Few at a time while many are ready would only ask the outbox more often.
        if self.ready.len() > AHEAD / 2 {
            return 0;
        }
        let pace = self.sink.pace();
        let most = if self.sink_health.doubtful() { pace.batch } else { (pace.batch * pace.at_once).max(AHEAD) };
        // A sink that takes whole batches gets the next one when it is done with the last.
        let busy = if pace.at_once == 1 { self.flying.len() * pace.batch } else { 0 };
        most.saturating_sub(self.ready.len() + busy)
    }

    async fn claim(&mut self) {
        let room = self.room();
        // What is not noted yet would be claimed again.
        let waits = self.sink_health.pausing().is_some() || self.outbox_health.pausing().is_some() || !self.settled.is_empty();
        if !self.look || waits || room == 0 {
            return;
        }
        let at = Instant::now();
        match self.outbox.claim(room).await {
            Ok(claimed) => {
                self.look = claimed.len() == room;
                self.outbox_health.succeeded();
                self.ready.extend(claimed.into_iter().map(|delivery| Claimed { delivery, at }));
            }
            Err(error) => self.outbox_failed(&error.to_string()),
        }
    }

    fn launch(&mut self) {
        if self.sink_health.pausing().is_some() {
            self.put_back();
            return;
        }
        let pace = self.sink.pace();
        let at_once = if self.sink_health.doubtful() { 1 } else { pace.at_once };
        while self.flying.len() < at_once {
            let mut batch: Vec<Claimed> = self.ready.drain(..pace.batch.min(self.ready.len())).collect();
            // Dropped without a word: the lease has a moment left, and then they are claimed anew.
            batch.retain(|claimed| claimed.at.elapsed() + LEASE_MARGIN < LEASE);
            if batch.is_empty() {
                if self.ready.is_empty() {
                    return;
                }
                continue;
            }
            let sink = Arc::clone(&self.sink);
            self.flying.spawn(async move {
                let deliveries: Vec<Delivery> = batch.iter().map(|claimed| claimed.delivery.clone()).collect();
                let result = sink.deliver(&deliveries).await;
                (batch, result)
            });
        }
    }

    /// Gives back what is not on its way, so that others needn't wait for the lease.
    fn put_back(&mut self) {
        let back = self.ready.drain(..).map(|claimed| Settlement { ticket: claimed.delivery.ticket, verdict: Verdict::Return });
        self.settled.extend(back);
    }

    fn land(&mut self, landed: Result<(Vec<Claimed>, Result<(), Fault>), tokio::task::JoinError>) {
        self.look = true;
        let (batch, result) = match landed {
            Ok(landed) => landed,
            Err(error) => {
                // A bug; its events come back when the lease ends.
                tracing::error!(sink = self.sink.name(), %error, "a delivery of audit events broke down");
                return;
            }
        };
        match result {
            Ok(()) => {
                self.sink_health.succeeded();
                self.figures.attempt("delivered", batch.len());
                for Claimed { delivery, at } in batch {
                    self.figures.delivered(delivery.age + at.elapsed());
                    self.settled.push(Settlement { ticket: delivery.ticket, verdict: Verdict::Delivered });
                }
            }
            Err(fault) => {
                self.sink_health.failed(&fault);
                self.figures.attempt(fault.label(), batch.len());
                self.complain(&fault.to_string());
                for claimed in batch {
                    let verdict = self.verdict(&claimed, &fault);
                    self.settled.push(Settlement { ticket: claimed.delivery.ticket, verdict });
                }
            }
        }
    }

    /// What becomes of an event after this fault.
    fn verdict(&self, Claimed { delivery, at }: &Claimed, fault: &Fault) -> Verdict {
        let failures = delivery.attempts.saturating_add(1);
        let given_up = match fault {
            Fault::Refused { .. } if failures >= TRIES_OF_A_REFUSED_EVENT => true,
            _ => delivery.age + at.elapsed() >= self.retention,
        };
        if given_up {
            self.figures.dead.inc();
            tracing::error!(sink = self.sink.name(), id = %delivery.id, %fault, "an audit event is given up");
            return Verdict::Dead(fault.to_string());
        }
        match fault {
            // The pause is the sink's, and the event keeps its place: it was not even looked at.
            Fault::Down { .. } => Verdict::Return,
            Fault::Failed { retry_after, .. } => Verdict::Retry(pause(failures).max(retry_after.unwrap_or_default())),
            Fault::Refused { .. } => Verdict::Retry(pause(failures)),
        }
    }

    /// Tells the outbox what became of events.
    async fn note(&mut self) {
        if self.settled.is_empty() || self.outbox_health.pausing().is_some() {
            return;
        }
        match self.outbox.settle(&self.settled).await {
            Ok(()) => {
                self.settled.clear();
                self.outbox_health.succeeded();
            }
            Err(error) => self.outbox_failed(&error.to_string()),
        }
    }

    fn outbox_failed(&mut self, error: &str) {
        self.outbox_health.failed(&Fault::Down { reason: String::new() });
        self.outbox_health.hurry(Duration::from_secs(5));
        self.complain(error);
    }

    fn complain(&mut self, trouble: &str) {
        if self.logged.is_none_or(|last| last.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(sink = self.sink.name(), trouble, "audit events wait: they are tried again");
        }
    }
}

#[cfg(test)]
mod tests;
