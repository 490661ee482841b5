//! Samples become a sealed batch: a packed body and its key, neither of which ever changes.
//!
//! A server applies a key once. So a batch that may have reached it is only ever sent again as it is; folding its counters
//! into a later batch would count them twice. A batch that certainly was not applied and never will be gives its
//! deltas back to the spool, from which the next batch takes them, so that no poll goes missing from the sum.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use golectra_process::Secret;
use golectra_protocol::gzip::UnpackError;
use golectra_protocol::{IdempotencyKey, Metric, MetricId, Value, gzip, hash, json};

/// The counter of polls.
pub const POLL_COUNT: &str = "PollCount";

/// Polls that a window holds at most; of a longer report interval the newest are kept.
const WINDOW_POLLS: usize = 16;

/// The longest body that is unpacked again; a server takes no more by default either.
const MAX_BODY_BYTES: usize = 16 << 20;

/// What is added to counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deltas(BTreeMap<MetricId, i64>);

impl Deltas {
    /// Adds to one counter.
    pub fn add(&mut self, id: &MetricId, delta: i64) {
        match self.0.get_mut(id) {
            Some(sum) => *sum = sum.saturating_add(delta),
            None => drop(self.0.insert(id.clone(), delta)),
        }
    }

    /// Adds all of another one.
    pub fn add_all(&mut self, other: &Self) {
        for (id, delta) in other.iter() {
            self.add(id, delta);
        }
    }

    /// Each counter's delta, in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&MetricId, i64)> {
        self.0.iter().map(|(id, delta)| (id, *delta))
    }

    /// How many polls they tell of.
    pub fn polls(&self) -> i64 {
        self.iter().filter(|(id, _)| id.as_str() == POLL_COUNT).map(|(_, delta)| delta).sum()
    }
}

/// A sealed batch.
#[derive(Debug, Clone)]
pub struct Batch {
    key: IdempotencyKey,
    body: Bytes,
    hash: Option<String>,
    deltas: Deltas,
    tries: u32,
    may_be_applied: bool,
}

impl Batch {
    /// A batch as it was kept on disk, after that many tries. Its hash is made anew, so that one kept while the key was
    /// changed is sent with the key of now. An error says that the body is not what was sealed.
    pub fn restored(
        key: IdempotencyKey,
        body: Bytes,
        deltas: Deltas,
        hash_key: Option<&Secret>,
        (tries, may_be_applied): (u32, bool),
    ) -> Result<Self, UnpackError> {
        let unpacked = gzip::unpack(&body, MAX_BODY_BYTES)?;
        let hash = hash_key.map(|key| hash::body_hash(&unpacked, key.expose().as_bytes()));
        Ok(Self { key, body, hash, deltas, tries, may_be_applied })
    }

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
    pub const fn deltas(&self) -> &Deltas {
        &self.deltas
    }

    /// How many polls the batch tells of.
    pub fn polls(&self) -> i64 {
        self.deltas.polls()
    }

    /// What it takes in memory, about, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.body.len() + self.hash.as_ref().map_or(0, String::len) + self.deltas.0.len() * 64
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

/// Gathers polls and seals them into batches.
#[derive(Debug)]
pub struct Sealer {
    key: Option<Secret>,
    poll_count: MetricId,
    polls: i64,
    window: VecDeque<Vec<Metric>>,
}

impl Sealer {
    /// Nothing is gathered yet. `key` makes the batches' hashes.
    pub fn new(key: Option<Secret>) -> Self {
        let poll_count = MetricId::parse(POLL_COUNT).expect("the name is written here");
        Self { key, poll_count, polls: 0, window: VecDeque::new() }
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

    /// Seals what was gathered: of each gauge the newest value, of each counter what has been added since the last batch,
    /// and `given_back`, the deltas of batches that will never be applied.
    ///
    /// Metrics are sorted by id, so that a server sees the same series in the same order every time.
    pub fn seal(&mut self, unix_millis: u64, given_back: Deltas) -> Batch {
        let mut deltas = given_back;
        deltas.add(&self.poll_count, std::mem::take(&mut self.polls));

        let gauges: BTreeMap<MetricId, Value> =
            std::mem::take(&mut self.window).into_iter().flatten().map(|metric| (metric.id, metric.value)).collect();
        let counters = deltas.iter().map(|(id, delta)| (id.clone(), Value::Counter(delta)));
        let mut metrics: Vec<Metric> = gauges.into_iter().chain(counters).map(|(id, value)| Metric { id, value }).collect();
        metrics.sort_by(|a, b| a.id.cmp(&b.id));

        let body = json::encode_batch(&metrics);
        let mut packed = gzip::pack(&body);
        packed.shrink_to_fit();
        Batch {
            key: IdempotencyKey::at(unix_millis),
            hash: self.key.as_ref().map(|key| hash::body_hash(&body, key.expose().as_bytes())),
            body: packed.into(),
            deltas,
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
        let mut sealer = Sealer::new(Some(Secret::from("key")));
        sealer.add_poll(vec![gauge("b", 1.0), gauge("only_once", 7.0)]);
        sealer.add_poll(vec![gauge("b", 2.0), gauge("Z", 0.5)]);
        let batch = sealer.seal(1_700_000_000_123, Deltas::default());
        let expected = r#"[{"id":"PollCount","type":"counter","delta":2},{"id":"Z","type":"gauge","value":0.5},{"id":"b","type":"gauge","value":2.0},{"id":"only_once","type":"gauge","value":7.0}]"#;
        assert_eq!(text(&batch), expected);
        assert_eq!(batch.hash(), Some(hash::body_hash(expected.as_bytes(), b"key").as_str()));
        assert_eq!(batch.key().unix_millis(), 1_700_000_000_123);
        assert_eq!((batch.polls(), sealer.polls()), (2, 0));
        sealer.add_poll(vec![]);
        assert_eq!(text(&sealer.seal(1, Deltas::default())), r#"[{"id":"PollCount","type":"counter","delta":1}]"#);
    }

    #[test]
    fn what_was_given_back_is_in_the_next_batch_once() {
        let mut sealer = Sealer::new(None);
        sealer.add_poll(vec![]);
        let first = sealer.seal(1, Deltas::default());
        sealer.add_poll(vec![]);
        let second = sealer.seal(2, first.deltas().clone());
        assert_eq!((first.polls(), second.polls()), (1, 2));
        sealer.add_poll(vec![]);
        assert_eq!(sealer.seal(3, Deltas::default()).polls(), 1);
    }

    #[test]
    fn a_batch_from_disk_is_the_one_that_was_sealed() {
        let key = Secret::from("key");
        let mut sealer = Sealer::new(Some(key.clone()));
        sealer.add_poll(vec![gauge("b", 1.0)]);
        let batch = sealer.seal(1, Deltas::default());
        let (body, deltas) = (batch.body().clone(), batch.deltas().clone());
        let restored = Batch::restored(batch.key(), body, deltas.clone(), Some(&key), (2, true)).unwrap();
        assert_eq!((restored.key(), restored.body(), restored.hash()), (batch.key(), batch.body(), batch.hash()));
        assert_eq!((restored.polls(), restored.tries(), restored.may_be_applied()), (1, 2, true));
        assert!(Batch::restored(batch.key(), Bytes::from_static(b"no gzip"), deltas, None, (0, true)).is_err());
    }

    #[test]
    fn the_window_is_bounded_and_no_poll_is_forgotten() {
        let mut sealer = Sealer::new(None);
        for poll in 0..1000_u32 {
            sealer.add_poll(vec![gauge(&format!("poll_{poll}"), 1.0)]);
        }
        let batch = sealer.seal(1, Deltas::default());
        assert_eq!(batch.polls(), 1000);
        assert_eq!(text(&batch).matches("poll_").count(), WINDOW_POLLS);
    }
}
