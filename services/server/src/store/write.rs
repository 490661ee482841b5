//! Writing: batches, and sources that are to be forgotten.

use async_trait::async_trait;
use golectra_protocol::remote_write::Metadata;
use golectra_protocol::{IdempotencyKey, MAX_AHEAD_MILLIS, Metrics, Source};

use super::{Lifetimes, StoreError, WriterLoad};
use crate::audit::Draft;

/// A validated batch of one source, ready to be applied.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The node that measured.
    pub source: Source,
    /// The batch's key, whose time is the batch's time.
    pub key: IdempotencyKey,
    /// Whether the client sent the key. A key that the server made for itself can't be repeated and needs no memory of its own.
    pub keyed: bool,
    /// SHA-256 of the request as it was sent, which tells a repeat from another batch under the same key.
    pub digest: [u8; 32],
    /// Not empty. Without times of their own, one metric a series; samples with times may name a series more than once.
    pub metrics: Metrics,
    /// What the audit trail is to say of this write, where there is one.
    pub audit: Option<Draft>,
}

impl Batch {
    /// Whether each of its samples is stored once for its series and time, whatever comes again in which composition. So it is where samples have
    /// times of their own and the client sent no key: then their times are all that tells a repeat.
    ///
    /// Such a batch is applied as far as it can be: samples that are refused leave the others alone. Its source may have any number of series.
    pub fn is_once_per_time(&self) -> bool {
        !self.keyed && self.metrics.has_times()
    }

    /// Takes out the samples that are too old for the history or too far ahead of this time, and says how many they are. Too old are those from before
    /// `dropped_until_millis` as well, up to where the history was dropped.
    pub fn take_out_of_range(&mut self, lifetimes: &Lifetimes, now_millis: u64, dropped_until_millis: u64) -> RefusedSamples {
        let mut refused = RefusedSamples::default();
        let as_time = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
        let oldest = as_time(now_millis.saturating_sub(lifetimes.retention_raw_millis()).max(dropped_until_millis));
        let newest = as_time(now_millis.saturating_add(MAX_AHEAD_MILLIS));
        let metrics = &self.metrics;
        let time = |index: usize| metrics.at_millis(index).unwrap_or(0);
        if (0..metrics.len()).all(|index| (oldest..=newest).contains(&time(index))) {
            return refused;
        }
        let mut keep = vec![true; metrics.len()];
        for (index, keep) in keep.iter_mut().enumerate() {
            let at_millis = time(index);
            let refusal = match at_millis {
                at if at < oldest => Refusal::TooOld,
                at if at > newest => Refusal::TooNew,
                _ => continue,
            };
            *keep = false;
            refused.add(refusal, 1, || SampleName { id: metrics.get(index).id.to_owned(), at_millis });
        }
        self.metrics.retain(|index| keep[index]);
        refused
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was applied now.
    New,
    /// It had been applied before; nothing changed.
    Repeat,
    /// Only of a batch whose samples are stored once for each time: these were refused, and the others are stored.
    Partly(Box<RefusedSamples>),
}

impl Applied {
    /// What became of a batch whose samples are stored once for each time.
    pub fn of_samples(stored: usize, refused: RefusedSamples) -> Self {
        match stored {
            _ if refused.total() > 0 => Self::Partly(Box::new(refused)),
            0 => Self::Repeat,
            _ => Self::New,
        }
    }
}

/// Why a sample is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is older than the history is kept.
    TooOld,
    /// It is too far ahead of the store's clock.
    TooNew,
    /// Its series has another value at this time.
    Conflict,
    /// Its series is new, and the store holds as many as it may.
    SeriesLimit,
}

/// A sample as an error names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleName {
    /// The series.
    pub id: String,
    /// The time, in unix milliseconds.
    pub at_millis: i64,
}

/// The samples of a batch that were refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusedSamples {
    /// By reason.
    counts: [usize; 4],
    /// The first that was found for each reason.
    firsts: [Option<SampleName>; 4],
}

impl RefusedSamples {
    /// Counts samples. `name` names the first of them.
    pub fn add(&mut self, refusal: Refusal, samples: usize, name: impl FnOnce() -> SampleName) {
        self.counts[refusal as usize] += samples;
        self.firsts[refusal as usize].get_or_insert_with(name);
    }

    /// Counts those of a later batch as well.
    pub fn merge(&mut self, later: Self) {
        for (count, more) in self.counts.iter_mut().zip(later.counts) {
            *count += more;
        }
        for (first, of_later) in self.firsts.iter_mut().zip(later.firsts) {
            *first = first.take().or(of_later);
        }
    }

    /// How many were refused for this reason.
    pub fn count(&self, refusal: Refusal) -> usize {
        self.counts[refusal as usize]
    }

    /// One that was refused for this reason.
    pub fn first(&self, refusal: Refusal) -> Option<&SampleName> {
        self.firsts[refusal as usize].as_ref()
    }

    /// How many were refused in all.
    pub fn total(&self) -> usize {
        self.counts.iter().sum()
    }
}

/// Changes what the store holds.
#[async_trait]
pub trait Write: Send + Sync + 'static {
    /// Applies a batch once, and answers when it is as durable as the store promises. Bounded at 3 s.
    async fn apply(&self, batch: Batch) -> Result<Applied, StoreError>;

    /// Keeps what is said about metrics, as far as there is room. Bounded at 3 s.
    async fn keep_metadata(&self, metadata: Vec<Metadata>) -> Result<(), StoreError>;

    /// Forgets a named source: its series leave the newest state and the caps at once, as those of a source that was silent for too long do.
    /// Its keys and its history stay. Answers whether there was such a source. Bounded at 3 s.
    async fn forget_source(&self, source: &Source, audit: Option<Draft>) -> Result<bool, StoreError>;

    /// The time by which batches are too old or too new, in unix milliseconds.
    fn unix_millis(&self) -> u64;

    /// How busy it is with batches.
    fn writer_load(&self) -> WriterLoad;
}
