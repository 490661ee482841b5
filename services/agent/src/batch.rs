//! Samples become a sealed batch: a packed body, its hash and its key, none of which ever changes.
//!
//! A server applies a key once. So a batch that may have reached it is only ever sent again as it is; folding its counters
//! into a later batch would count them twice. A batch that certainly was not applied and never will be gives its
//! deltas back through [`Carry`], so that no poll goes missing from the sum.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use golectra_process::Secret;
use golectra_protocol::{IdempotencyKey, Metric, MetricId, Value, gzip, hash, json};

/// The counter of polls.
pub const POLL_COUNT: &str = "PollCount";

/// Polls that a window holds at most; of a longer report interval the newest are kept.
const WINDOW_POLLS: usize = 16;

/// A sealed batch.
#[derive(Debug, Clone)]
pub struct Batch {
    key: IdempotencyKey,
    body: Bytes,
    hash: Option<String>,
    deltas: Vec<(MetricId, i64)>,
    tries: u32,
    may_be_applied: bool,
}

impl Batch {
    /// The same on every try; its time is when the batch was sealed.
    pub const fn key(&self) -> IdempotencyKey {
        self.key
    }

    /// The gzipped JSON array.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// HashSHA256 of the unpacked body, when there is a key to make it with.
    pub fn hash(&self) -> Option<&str> {
        self.hash.as_deref()
    }

    /// What the batch adds to counters.
    pub fn deltas(&self) -> &[(MetricId, i64)] {
        &self.deltas
    }

    /// How many polls the batch tells of.
    pub fn polls(&self) -> i64 {
        self.deltas.iter().filter(|(id, _)| id.as_str() == POLL_COUNT).map(|(_, delta)| delta).sum()
    }

    /// What it takes in memory, about, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.body.len() + self.hash.as_ref().map_or(0, String::len) + self.deltas.len() * 64
    }

    /// Tries that reached the server, or may have.
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// Whether the server may have applied it without the agent knowing.
    pub const fn may_be_applied(&self) -> bool {
        self.may_be_applied
    }

    /// Remembers a try that reached the server and did not settle the batch.
    pub fn tried(&mut self, may_be_applied: bool) {
        self.tries = self.tries.saturating_add(1);
        self.may_be_applied |= may_be_applied;
    }
}

/// Counter deltas that no batch holds any more and the next one takes in; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Carry(Arc<Mutex<BTreeMap<MetricId, i64>>>);

impl Carry {
    /// Takes back what a batch that will never be applied would have added. Nothing is taken of one that may have been.
    pub fn take_back(&self, batch: &Batch) {
        if !batch.may_be_applied {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, delta) in &batch.deltas {
                let sum = kept.entry(id.clone()).or_default();
                *sum = sum.saturating_add(*delta);
            }
        }
    }

    /// Polls that wait for the next batch.
    pub fn polls(&self) -> i64 {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|(id, _)| id.as_str() == POLL_COUNT).map(|(_, delta)| delta).sum()
    }

    fn take(&self) -> BTreeMap<MetricId, i64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Gathers polls and seals them into batches.
#[derive(Debug)]
pub struct Sealer {
    key: Option<Secret>,
    carry: Carry,
    poll_count: MetricId,
    polls: i64,
    window: VecDeque<Vec<Metric>>,
}

impl Sealer {
    /// Nothing is gathered yet. `key` makes the batches' hashes.
    pub fn new(key: Option<Secret>, carry: Carry) -> Self {
        let poll_count = MetricId::parse(POLL_COUNT).expect("the name is written here");
        Self { key, carry, poll_count, polls: 0, window: VecDeque::new() }
    }

    /// Adds a poll. The window of polls since the last batch is kept, not just the newest: a collector that missed
    /// the last poll still reports what it measured before.
    pub fn add_poll(&mut self, sample: Vec<Metric>) {
        self.polls = self.polls.saturating_add(1);
        if self.window.len() == WINDOW_POLLS {
            self.window.pop_front();
        }
        self.window.push_back(sample);
    }

    /// Polls since the last batch.
    pub const fn polls(&self) -> i64 {
        self.polls
    }

    /// Seals what was gathered: of each gauge the newest value, of each counter what has been added since the last batch.
    ///
    /// Metrics are sorted by id, so that a server sees the same series in the same order every time.
    pub fn seal(&mut self, unix_millis: u64) -> Batch {
        let mut deltas = self.carry.take();
        let polls = deltas.entry(self.poll_count.clone()).or_default();
        *polls = polls.saturating_add(std::mem::take(&mut self.polls));

        let gauges: BTreeMap<MetricId, Value> =
            std::mem::take(&mut self.window).into_iter().flatten().map(|metric| (metric.id, metric.value)).collect();
        let counters = deltas.iter().map(|(id, delta)| (id.clone(), Value::Counter(*delta)));
        let mut metrics: Vec<Metric> = gauges.into_iter().chain(counters).map(|(id, value)| Metric { id, value }).collect();
        metrics.sort_by(|a, b| a.id.cmp(&b.id));

        let body = json::encode_batch(&metrics);
        let mut packed = gzip::pack(&body);
        packed.shrink_to_fit();
        Batch {
            key: IdempotencyKey::at(unix_millis),
            hash: self.key.as_ref().map(|key| hash::body_hash(&body, key.expose().as_bytes())),
            body: packed.into(),
            deltas: deltas.into_iter().collect(),
            tries: 0,
            may_be_applied: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(id: &str, value: f64) -> Metric {
        Metric { id: MetricId::parse(id).unwrap(), value: Value::gauge(value).unwrap() }
    }

    fn text(batch: &Batch) -> String {
        String::from_utf8(gzip::unpack(batch.body(), 1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn a_batch_has_the_newest_gauges_and_true_deltas() {
        let mut sealer = Sealer::new(Some(Secret::from("key")), Carry::default());
        sealer.add_poll(vec![gauge("b", 1.0), gauge("only_once", 7.0)]);
        sealer.add_poll(vec![gauge("b", 2.0), gauge("Z", 0.5)]);
        let batch = sealer.seal(1_700_000_000_123);
        let expected = r#"[{"id":"PollCount","type":"counter","delta":2},{"id":"Z","type":"gauge","value":0.5},{"id":"b","type":"gauge","value":2.0},{"id":"only_once","type":"gauge","value":7.0}]"#;
        assert_eq!(text(&batch), expected);
        assert_eq!(batch.hash(), Some(hash::body_hash(expected.as_bytes(), b"key").as_str()));
        assert_eq!(batch.key().unix_millis(), 1_700_000_000_123);
        assert_eq!((batch.polls(), sealer.polls()), (2, 0));
        sealer.add_poll(vec![]);
        assert_eq!(text(&sealer.seal(1)), r#"[{"id":"PollCount","type":"counter","delta":1}]"#);
    }

    #[test]
    fn only_a_batch_that_was_certainly_not_applied_gives_its_polls_back() {
        let carry = Carry::default();
        let mut sealer = Sealer::new(None, carry.clone());
        sealer.add_poll(vec![]);
        let mut refused = sealer.seal(1);
        refused.tried(false);
        carry.take_back(&refused);
        assert_eq!(carry.polls(), 1);
        sealer.add_poll(vec![]);
        let mut unknown = sealer.seal(2);
        assert_eq!((unknown.polls(), carry.polls()), (2, 0));
        unknown.tried(true);
        unknown.tried(false);
        carry.take_back(&unknown);
        assert_eq!(carry.polls(), 0);
    }

    #[test]
    fn the_window_is_bounded_and_no_poll_is_forgotten() {
        let mut sealer = Sealer::new(None, Carry::default());
        for poll in 0..1000_u32 {
            sealer.add_poll(vec![gauge(&format!("poll_{poll}"), 1.0)]);
        }
        let batch = sealer.seal(1);
        assert_eq!(batch.polls(), 1000);
        assert_eq!(text(&batch).matches("poll_").count(), WINDOW_POLLS);
    }
}
