//! A sealed batch: a compressed body and its idempotency key, neither of which changes.
//!
//! A server applies a key once. A batch that may have reached the server is therefore only sent again as it is: adding its
//! counters to a later batch would count them twice. A batch that was certainly not applied and is dropped returns its
//! deltas to the spool, and the next batch adds them to its own, so that the sum of PollCount stays exact.

mod attempts;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use golectra_process::Secret;
use golectra_protocol::gzip::UnpackError;
use golectra_protocol::{IdempotencyKey, Metric, MetricId, Value, gzip, hash, json};
use tokio::time::Instant;

pub use self::attempts::{Attempts, Failure};

/// The counter of polls.
pub const POLL_COUNT: &str = "PollCount";

/// The longest uncompressed body, which is also what a server accepts by default.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// The most metrics of a batch. A server takes 10,000 by default.
pub const MAX_BATCH_ITEMS: usize = 5_000;

/// What an entry of [`Deltas`] takes in memory besides its id, about.
const DELTA_BYTES: usize = 64;

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

    /// Adds all deltas of `other`.
    pub fn add_all(&mut self, other: &Self) {
        for (id, delta) in other.iter() {
            self.add(id, delta);
        }
    }

    /// Each counter's delta, sorted by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&MetricId, i64)> {
        self.0.iter().map(|(id, delta)| (id, *delta))
    }

    /// The delta of PollCount.
    pub fn polls(&self) -> i64 {
        self.iter().filter(|(id, _)| id.as_str() == POLL_COUNT).map(|(_, delta)| delta).sum()
    }

    /// What the deltas take in memory, about.
    fn memory_bytes(&self) -> usize {
        self.0.keys().map(|id| id.as_str().len() + DELTA_BYTES).sum()
    }
}

/// How long ago a batch was sealed, by a clock that is never set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// When this process sealed it, or found it on disk.
    pub known_since: Instant,
    /// How long before that an earlier process had sealed it, as far as this can be told.
    pub before: Duration,
}

impl Age {
    /// The age of a batch that is sealed now.
    pub fn zero() -> Self {
        Self { known_since: Instant::now(), before: Duration::ZERO }
    }

    /// How long this process has had the batch. Exact, unlike the total of a batch that was found on disk.
    pub fn in_this_process(&self) -> Duration {
        self.known_since.elapsed()
    }

    /// The time since the batch was sealed.
    pub fn total(&self) -> Duration {
        self.in_this_process() + self.before
    }
}

/// A sealed batch.
#[derive(Debug, Clone)]
pub struct Batch {
    key: IdempotencyKey,
    body: Bytes,
    hash: Option<String>,
    items: u64,
    deltas: Deltas,
    age: Age,
    attempts: Attempts,
}

/// A batch as it was kept on disk.
#[derive(Debug)]
pub struct StoredBatch {
    /// Its key.
    pub key: IdempotencyKey,
    /// The compressed body.
    pub body: Bytes,
    /// What it adds to counters.
    pub deltas: Deltas,
    /// When it was sealed.
    pub age: Age,
    /// What came of earlier tries.
    pub attempts: Attempts,
}

/// Why a batch cannot be restored: its body is not what was sealed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The body is not gzip.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The body is not an array of metrics.
    #[error("the body is not a JSON array")]
    NotAnArray,
}

impl Batch {
    /// A new batch with this uncompressed body of so many items. `hash_key` makes its HashSHA256.
    pub fn seal(unix_millis: u64, body: &[u8], items: u64, deltas: Deltas, hash_key: Option<&Secret>) -> Self {
        let mut packed = gzip::pack(body);
        packed.shrink_to_fit();
        Self {
            key: IdempotencyKey::at(unix_millis),
            body: packed.into(),
            hash: hash_key.map(|key| hash::body_hash(body, key.expose().as_bytes())),
            items,
            deltas,
            age: Age::zero(),
            attempts: Attempts::default(),
        }
    }

    /// A new batch with these items of a JSON array, which are separated by commas, and what dropped batches add to counters.
    pub fn of_items(unix_millis: u64, mut items: String, mut count: u64, returned: Deltas, hash_key: Option<&Secret>) -> Self {
        for (id, delta) in returned.iter() {
            let counter = json::encode_metric(&Metric { id: id.clone(), value: Value::Counter(delta) });
            if !items.is_empty() {
                items.push(',');
            }
            items.push_str(&String::from_utf8_lossy(&counter));
            count += 1;
        }
        items.insert(0, '[');
        items.push(']');
        Self::seal(unix_millis, items.as_bytes(), count, returned, hash_key)
    }

    /// A batch from disk. Its hash is computed again, so that a batch sealed before KEY was changed is sent with the new one.
    pub fn restored(stored: StoredBatch, hash_key: Option<&Secret>) -> Result<Self, RestoreError> {
        let StoredBatch { key, body, deltas, age, attempts } = stored;
        let unpacked = gzip::unpack(&body, MAX_BODY_BYTES)?;
        let items = json::count_items(&unpacked).ok_or(RestoreError::NotAnArray)?;
        let hash = hash_key.map(|key| hash::body_hash(&unpacked, key.expose().as_bytes()));
        Ok(Self { key, body, hash, items, deltas, age, attempts })
    }

    /// The same metrics under a new key with this time. Only for a batch whose every try was refused because of the
    /// clock (see [`Attempts::may_be_sealed_again`]): under its old key it was not applied and is not sent any more.
    #[must_use]
    pub fn sealed_again(self, unix_millis: u64) -> Self {
        Self { key: IdempotencyKey::at(unix_millis), attempts: Attempts::default(), ..self }
    }

    /// The idempotency key, the same on every try. Its time is when the batch was sealed.
    pub const fn key(&self) -> IdempotencyKey {
        self.key
    }

    /// The gzipped JSON array.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// HashSHA256 of the uncompressed body, when there is a key.
    pub fn hash(&self) -> Option<&str> {
        self.hash.as_deref()
    }

    /// How many metrics the body has.
    pub const fn items(&self) -> u64 {
        self.items
    }

    /// What the batch adds to counters.
    pub const fn deltas(&self) -> &Deltas {
        &self.deltas
    }

    /// The batch's delta of PollCount.
    pub fn polls(&self) -> i64 {
        self.deltas.polls()
    }

    /// How long ago it was sealed.
    pub const fn age(&self) -> Age {
        self.age
    }

    /// What came of the tries so far.
    pub const fn attempts(&self) -> Attempts {
        self.attempts
    }

    /// Records a try that did not settle the batch.
    pub fn record(&mut self, failure: Failure) {
        self.attempts.record(failure);
    }

    /// Keeps the batch from getting another key.
    pub fn assume_sent(&mut self) {
        self.attempts.assume_sent();
    }

    /// What it takes in memory, about, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.body.len() + self.hash.as_ref().map_or(0, String::len) + self.deltas.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MetricId {
        MetricId::parse(text).unwrap()
    }

    fn batch(deltas: Deltas) -> Batch {
        Batch::seal(1_700_000_000_123, br#"[{"id":"a"},{"id":"b"}]"#, 2, deltas, Some(&Secret::from("key")))
    }

    #[test]
    fn a_restored_batch_is_the_one_that_was_sealed() {
        let key = Secret::from("key");
        let mut deltas = Deltas::default();
        deltas.add(&id(POLL_COUNT), 3);
        let sealed = batch(deltas);
        let stored = |body: &'static [u8]| StoredBatch {
            key: sealed.key(),
            body: if body.is_empty() { sealed.body().clone() } else { body.into() },
            deltas: sealed.deltas().clone(),
            age: sealed.age(),
            attempts: Attempts::of_an_earlier_process(false),
        };
        let restored = Batch::restored(stored(b""), Some(&key)).unwrap();
        assert_eq!((restored.key(), restored.body(), restored.hash()), (sealed.key(), sealed.body(), sealed.hash()));
        assert_eq!((restored.polls(), restored.items()), (3, 2));
        assert!(matches!(Batch::restored(stored(b"no gzip"), None), Err(RestoreError::Unpack(_))));
        let text: &'static [u8] = gzip::pack(b"{}").leak();
        assert!(matches!(Batch::restored(stored(text), None), Err(RestoreError::NotAnArray)));
    }

    #[test]
    fn items_become_a_batch_with_the_deltas_that_were_returned() {
        let text = |batch: &Batch| String::from_utf8(gzip::unpack(batch.body(), MAX_BODY_BYTES).unwrap()).unwrap();
        let item = r#"{"id":"a","type":"gauge","value":1}"#;
        let batch = Batch::of_items(1, item.to_owned(), 1, Deltas::default(), None);
        assert_eq!((text(&batch), batch.items(), batch.polls()), (format!("[{item}]"), 1, 0));
        let mut returned = Deltas::default();
        returned.add(&id(POLL_COUNT), 3);
        let batch = Batch::of_items(1, item.to_owned(), 1, returned, None);
        assert_eq!(text(&batch), format!("[{item},{{\"id\":\"PollCount\",\"type\":\"counter\",\"delta\":3}}]"));
        assert_eq!((batch.items(), batch.polls()), (2, 3));
    }

    #[test]
    fn a_batch_that_is_sealed_again_has_another_key_and_the_same_body() {
        let mut first = batch(Deltas::default());
        first.record(Failure::TooNew);
        let again = first.clone().sealed_again(1_600_000_000_000);
        assert_ne!(again.key(), first.key());
        assert_eq!(again.key().unix_millis(), 1_600_000_000_000);
        assert_eq!((again.body(), again.hash(), again.items(), again.age()), (first.body(), first.hash(), 2, first.age()));
        assert_eq!(again.attempts(), Attempts::default());
    }

    #[test]
    fn long_ids_count_towards_memory() {
        let mut deltas = Deltas::default();
        deltas.add(&id("short"), 1);
        let short = batch(deltas.clone()).memory_bytes();
        let long = "x".repeat(4096);
        deltas.add(&id(&long), 1);
        assert!(batch(deltas).memory_bytes() >= short + long.len());
    }
}
