//! One connection and the agents that share it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use golectra_protocol::IdempotencyKey;
use tokio::time::Instant;

use super::Shared;
use super::backoff::Backoff;
use crate::plan::{Content, Pace, Retry};
use crate::request::{PreparedRequest, Signature};
use crate::wire::{Answer, Connection, Failure};

pub(super) struct Worker {
    shared: Arc<Shared>,
    /// Whose batches it sends, in turn.
    agents: Vec<u32>,
    connection: Option<Connection>,
    random: fastrand::Rng,
    /// The request being sent.
    request: Vec<u8>,
}

impl Worker {
    /// Each agent belongs to one connection; where there are more connections than agents, several serve one agent.
    pub(super) fn new(shared: &Arc<Shared>, connection: u32) -> Self {
        let (agents, connections) = (shared.workload.agents, shared.plan.connections());
        let mut own: Vec<u32> = (0..agents).filter(|agent| agent % connections == connection).collect();
        // In an open loop an agent's batches follow one another; a second connection of its own has nothing to do.
        if own.is_empty() && shared.plan.pace == Pace::Closed {
            own.push(connection % agents);
        }
        Self { shared: Arc::clone(shared), agents: own, connection: None, random: fastrand::Rng::new(), request: Vec::new() }
    }

    /// Sends until the run ends.
    pub(super) async fn work(mut self) {
        let mut turn = 0;
        while !self.agents.is_empty() {
            let agent = self.agents[turn % self.agents.len()];
            let due = match self.shared.plan.pace {
                Pace::Closed => Instant::now(),
                Pace::Every(interval) => match self.wait_for(agent, turn / self.agents.len(), interval).await {
                    Some(due) => due,
                    None => return,
                },
            };
            if !self.shared.begin() {
                return;
            }
            let give_up = self.shared.give_up.clone();
            tokio::select! {
                biased;
                () = self.deliver(agent, due) => {}
                () = give_up.cancelled() => {
                    self.shared.counts.lock().expect("no holder panics").batches.given_up += 1;
                    return;
                }
            }
            turn += 1;
        }
    }

    /// Waits for the time of an agent's batch; none when the run ends before.
    async fn wait_for(&self, agent: u32, round: usize, interval: Duration) -> Option<Instant> {
        let round = u32::try_from(round).expect("a run has less than 2^32 rounds");
        let offset = interval.mul_f64(f64::from(agent) / f64::from(self.shared.workload.agents)) + interval.saturating_mul(round);
        let due = self.shared.start + offset;
        if offset >= self.shared.plan.duration {
            return None;
        }
        tokio::select! {
            () = tokio::time::sleep_until(due) => Some(due),
            () = self.shared.stop.cancelled() => None,
        }
    }

    /// Sends one batch until it is settled.
    async fn deliver(&mut self, agent: u32, due: Instant) {
        let shared = Arc::clone(&self.shared);
        let number = shared.numbers[agent as usize].fetch_add(1, Ordering::Relaxed);
        let body = shared.workload.body(agent, number);
        let made;
        let prepared = if let Some(prepared) = shared.requests.prepared(body) {
            prepared
        } else {
            made = shared.requests.build(body);
            &made
        };
        let source = &shared.sources[agent as usize];
        let mut at = unix_millis();
        let Some(record) = shared.in_ledger(|ledger| ledger.intend(agent, body, at)) else { return };
        let mut key = self.key(at);
        let (first, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            let start = Instant::now();
            let outcome = match self.write(prepared, source, key).await {
                Ok(()) => self.send().await.map_err(|failure| failure.to_string()),
                Err(NoKey) => Err("no signing key".to_owned()),
            };
            let (what, asked, final_word) = match outcome {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    if shared.in_ledger(|ledger| ledger.acknowledge(record)).is_some() {
                        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                        let mut counts = shared.counts.lock().expect("no holder panics");
                        counts.accepted(answer.replayed, start.elapsed(), due.elapsed());
                    }
                    return;
                }
                Ok(answer) => (status(&answer), answer.retry_after, is_final(answer.status)),
                Err(what) => (what, None, false),
            };
            shared.failed_tries.fetch_add(1, Ordering::Relaxed);
            let wait = backoff.next(asked, &mut self.random);
            let over = final_word || shared.plan.retry == Retry::None || first.elapsed() + wait >= shared.plan.retry_for;
            {
                let mut counts = shared.counts.lock().expect("no holder panics");
                counts.failed(what);
                if over {
                    let count = if final_word { &mut counts.batches.refused } else { &mut counts.batches.given_up };
                    *count += 1;
                }
            }
            if over {
                return;
            }
            tokio::time::sleep(wait).await;
            if shared.plan.retry == Retry::FreshKey {
                at = unix_millis();
                if shared.in_ledger(|ledger| ledger.renew(record, at)).is_none() {
                    return;
                }
                key = self.key(at);
            }
        }
    }

    /// A new key of this time.
    fn key(&mut self, at: u64) -> Option<IdempotencyKey> {
        self.shared.plan.keyed.then(|| {
            let mut random = [0; 10];
            self.random.fill(&mut random);
            let uuid = uuid::Builder::from_unix_timestamp_millis(at, &random).into_uuid();
            IdempotencyKey::from_uuid(uuid).expect("the builder makes UUIDs of version 7")
        })
    }

    /// Makes the request, signed for now: a signature is refused when it is old.
    async fn write(&mut self, prepared: &PreparedRequest, source: &str, key: Option<IdempotencyKey>) -> Result<(), NoKey> {
        let shared = &self.shared;
        let source = (!matches!(shared.plan.content, Content::Custom { .. })).then_some(source);
        let target = shared.requests.target();
        if let Some(signing) = &shared.plan.signing {
            let secret = signing.keys.fresh(signing.id.as_str()).await.ok_or(NoKey)?;
            let signature = Signature { key_id: signing.id.as_str(), key: secret.expose(), unix_seconds: unix_millis() / 1000 };
            prepared.write(target, source, key, Some(&signature), &mut self.request);
        } else {
            prepared.write(target, source, key, None, &mut self.request);
        }
        Ok(())
    }

    /// One try.
    async fn send(&mut self) -> Result<Answer, Failure> {
        let limit = self.shared.plan.timeout;
        if self.connection.as_ref().is_some_and(|connection| !connection.is_open()) {
            self.connection = None;
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.shared.plan.address, limit).await?,
        };
        let answer = connection.exchange(&self.request, limit, false).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

/// The folder of keys does not have the one that signs.
struct NoKey;

/// Whether trying again can't change the answer: the batch itself is refused. A 429 may be over later, and 408 and 5xx
/// say nothing about the batch.
fn is_final(status: u16) -> bool {
    (300..500).contains(&status) && !matches!(status, 408 | 429)
}

/// A refusal as the report names it. A server that sheds load without Retry-After is reported as such.
fn status(answer: &Answer) -> String {
    let bare = matches!(answer.status, 429 | 503) && answer.retry_after.is_none();
    format!("status {}{}", answer.status, if bare { " without Retry-After" } else { "" })
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
