//! Batches without a key whose samples have times of their own: each (series, time) is stored once.
//!
//! A sender such as Prometheus sends again what may not have arrived, and in other compositions. So it is each sample that is compared with what is
//! stored, under the lock of its series' row of latest_blocks, which whoever writes the series holds until its commit. A sample that is newer than
//! the series' newest is new, and one of the newest's time is compared with that: nearly all samples are decided by rows that are read anyway.
//! The others are looked for in the history (`lookup`), in a transaction that no other batch waits for.

mod lookup;

use std::collections::HashMap;

use golectra_protocol::{IdempotencyKey, MAX_AHEAD_MILLIS, Metrics, Value};
use sqlx::PgConnection;

use super::blocks::Blocks;
use super::failure::GroupFailure;
use super::fold::{Change, Fold, Placed};
use super::frames::{self, Frame};
use super::group::Group;
use super::layouts::{Layout, NO_SERIES};
use super::queue::QueuedBatch;
use crate::store::postgres::timestamp::Timestamp;
use crate::store::{Applied, Refusal, RefusedSamples, SampleName};

/// How far a frame's time is behind its arrival at most. Older samples stand in frames of this time, so that they come into partitions that are not
/// sealed yet.
const MAX_BEHIND_MILLIS: u64 = 60 * 1000;

/// What became of a batch.
pub(super) struct SampleOutcome {
    /// Its place in the group.
    pub(super) place: usize,
    /// The places, in the batch, of the samples that are stored now and were not before. In order.
    pub(super) accepted: Vec<u32>,
    /// Samples that are not stored.
    pub(super) refused: RefusedSamples,
}

/// A key for these samples that nobody else has. No sample is newer than its time.
pub(super) fn key(metrics: &Metrics, now_millis: u64) -> IdempotencyKey {
    let newest = (0..metrics.len()).filter_map(|index| metrics.at_millis(index)).max().unwrap_or(0);
    let newest = u64::try_from(newest).unwrap_or(0);
    let at = newest.clamp(now_millis.saturating_sub(MAX_BEHIND_MILLIS), now_millis.saturating_add(MAX_AHEAD_MILLIS));
    IdempotencyKey::with_random(at, fastrand::u128(..))
}

/// The series of these batches.
pub(super) fn series(batches: &[Placed<'_>]) -> impl Iterator<Item = i32> {
    batches.iter().flat_map(|(.., layout)| layout.series_ids.iter().copied()).filter(|series| *series != NO_SERIES)
}

/// Stores the samples of these batches that are not stored yet, and changes the rows of their series, which are locked.
pub(super) async fn apply(
    conn: &mut PgConnection,
    group: &Group<'_>,
    batches: &[Placed<'_>],
    blocks: &mut Blocks,
) -> Result<Vec<SampleOutcome>, GroupFailure> {
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let samples = sorted(batches);
    let unknown = unknown(&samples, group, blocks)?;
    let found = if unknown.is_empty() {
        HashMap::new()
    } else if group.batches.len() > 1 {
        // Looking into the history takes time, which others need not spend.
        let places = unknown.iter().map(|(of, ..)| batches[*of].0);
        return Err(GroupFailure::Apart(places.collect()));
    } else {
        let (_, _, layout) = batches[0];
        lookup::find(conn, layout.source_id, unknown.into_iter().map(|(_, series, at)| (series, at)).collect()).await?
    };
    let decided = decide(batches, &samples, group, blocks, &found)?;

    let frames = decided.iter().zip(batches).filter(|(one, _)| !one.accepted.is_empty()).map(|(one, (place, queued, layout))| {
        let only = (one.accepted.len() < queued.batch.metrics.len()).then_some(&*one.accepted);
        Frame { place: *place, queued, layout, with_values: true, only }
    });
    let frames: Vec<Frame<'_>> = frames.collect();
    if !frames.is_empty() {
        let written = frames::insert(conn, frames).await?;
        if !written.old.is_empty() {
            // Two keys of 74 random bits were the same; the next ones are not.
            return Err(GroupFailure::Stale);
        }
        let (fold, ahead) = fold(batches, &decided);
        blocks.change(&fold, written.arrival, &group.made_series)?;
        for (series, at) in ahead {
            blocks.is_ahead(series, at);
        }
    }
    let outcomes = decided.into_iter().zip(batches).map(|(one, (place, ..))| SampleOutcome {
        place: *place,
        accepted: one.accepted,
        refused: one.refused,
    });
    Ok(outcomes.collect())
}

/// Notes the series of an ordinary batch whose samples are ahead of their arrival.
pub(super) fn note_ahead(queued: &QueuedBatch, layout: &Layout, blocks: &mut Blocks) {
    let has_times = queued.batch.metrics.has_times();
    if !has_times && queued.at <= queued.arrived {
        return;
    }
    for (index, series) in layout.series_ids.iter().enumerate() {
        let at = if has_times { time_of(&queued.batch.metrics, index) } else { queued.at };
        if at > queued.arrived {
            blocks.is_ahead(*series, at);
        }
    }
}

fn time_of(metrics: &Metrics, index: usize) -> Timestamp {
    Timestamp(metrics.at_millis(index).and_then(|at| u64::try_from(at).ok()).unwrap_or(0))
}

/// A sample of one of the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    series: i32,
    at: Timestamp,
    /// Which of the batches, in the order of their arrival.
    of: u32,
    /// The sample's place in it.
    index: u32,
}

impl Sample {
    /// The bits of its value.
    fn bits(&self, batches: &[Placed<'_>]) -> u64 {
        bits(batches[self.of as usize].1.batch.metrics.get(self.index as usize).value)
    }
}

fn bits(value: Value) -> u64 {
    match value {
        Value::Gauge(value) => value.to_bits(),
        Value::Counter(delta) => delta.cast_unsigned(),
    }
}

/// Samples of one series and time, in the order of their arrival.
fn of_one_time(samples: &[Sample]) -> impl Iterator<Item = &[Sample]> {
    samples.chunk_by(|one, next| (one.series, one.at) == (next.series, next.at))
}

/// All samples whose series are there, by series and time.
fn sorted(batches: &[Placed<'_>]) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(batches.iter().map(|(_, queued, _)| queued.batch.metrics.len()).sum());
    for (of, (_, queued, layout)) in (0..).zip(batches) {
        for (index, series) in (0..).zip(&layout.series_ids).filter(|(_, series)| **series != NO_SERIES) {
            let at = time_of(&queued.batch.metrics, index as usize);
            samples.push(Sample { series: *series, at, of, index });
        }
    }
    samples.sort_unstable();
    samples
}

/// What is known of a series at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It has no sample then.
    New,
    /// It has this value then, by its bits.
    Stored(u64),
    /// The history has to be asked.
    Unknown,
}

/// What the locked rows say. A series that is neither live nor made was deleted or has expired a moment ago.
fn known(sample: &Sample, group: &Group<'_>, blocks: &Blocks) -> Result<Known, GroupFailure> {
    let Some(newest) = blocks.newest(sample.series) else {
        return match group.made_series.contains(&sample.series) {
            false => Err(GroupFailure::Stale),
            true if group.back_series.contains_key(&sample.series) => Ok(Known::Unknown),
            true => Ok(Known::New),
        };
    };
    Ok(match sample.at {
        at if newest.ahead_until.is_some_and(|until| at <= until) => Known::Unknown,
        at if at > newest.at => Known::New,
        at if at == newest.at => Known::Stored(newest.value.to_bits()),
        _ => Known::Unknown,
    })
}

/// The batch, series and time of the samples for which the history has to be asked.
fn unknown(samples: &[Sample], group: &Group<'_>, blocks: &Blocks) -> Result<Vec<(usize, i32, Timestamp)>, GroupFailure> {
    let mut unknown = Vec::new();
    for alike in of_one_time(samples) {
        if known(&alike[0], group, blocks)? == Known::Unknown {
            // Each of the batches that have it has to wait.
            unknown.extend(alike.iter().map(|sample| (sample.of as usize, sample.series, sample.at)));
        }
    }
    Ok(unknown)
}

/// What becomes of the samples of a batch.
#[derive(Default)]
struct Decided {
    /// The places of those that are stored now.
    accepted: Vec<u32>,
    refused: RefusedSamples,
}

/// Decides on every sample. `found` is what the history has of the unknown ones.
fn decide(
    batches: &[Placed<'_>],
    samples: &[Sample],
    group: &Group<'_>,
    blocks: &Blocks,
    found: &HashMap<(i32, Timestamp), u64>,
) -> Result<Vec<Decided>, GroupFailure> {
    let mut decided: Vec<Decided> =
        batches.iter().map(|(_, queued, layout)| without_series(queued, layout.series_ids.iter().copied())).collect();
    for alike in of_one_time(samples) {
        let first = &alike[0];
        let stored = match known(first, group, blocks)? {
            Known::New => None,
            Known::Stored(bits) => Some(bits),
            Known::Unknown => found.get(&(first.series, first.at)).copied(),
        };
        let value = stored.unwrap_or_else(|| first.bits(batches));
        if stored.is_none() {
            decided[first.of as usize].accepted.push(first.index);
        }
        for sample in alike.iter().filter(|sample| sample.bits(batches) != value) {
            let metrics = &batches[sample.of as usize].1.batch.metrics;
            decided[sample.of as usize].refused.add(Refusal::Conflict, 1, || name(metrics, sample.index as usize));
        }
    }
    for one in &mut decided {
        one.accepted.sort_unstable();
    }
    Ok(decided)
}

/// What is decided before the samples are looked at: those without a series are refused.
fn without_series(queued: &QueuedBatch, series_ids: impl Iterator<Item = i32>) -> Decided {
    let mut refused = queued.samples.as_ref().map(|samples| samples.refused.clone()).unwrap_or_default();
    for (index, _) in series_ids.enumerate().filter(|(_, series)| *series == NO_SERIES) {
        refused.add(Refusal::SeriesLimit, 1, || name(&queued.batch.metrics, index));
    }
    Decided { accepted: Vec::new(), refused }
}

/// The outcome of a batch of which no series is there or may be made.
pub(super) fn refused_for_series(queued: &QueuedBatch) -> Applied {
    let none = std::iter::repeat_n(NO_SERIES, queued.batch.metrics.len());
    Applied::of_samples(0, without_series(queued, none).refused)
}

fn name(metrics: &Metrics, index: usize) -> SampleName {
    SampleName { id: metrics.get(index).id.to_owned(), at_millis: metrics.at_millis(index).unwrap_or_default() }
}

/// One change a series, sorted by series, and the series of samples that are ahead of their arrival.
fn fold(batches: &[Placed<'_>], decided: &[Decided]) -> (Fold, Vec<(i32, Timestamp)>) {
    let (mut newest, mut ahead): (Vec<(i32, Timestamp, Change<f64>)>, _) = (Vec::new(), Vec::new());
    for ((place, queued, layout), one) in batches.iter().zip(decided) {
        for index in one.accepted.iter().map(|index| *index as usize) {
            let series = layout.series_ids[index];
            let at = time_of(&queued.batch.metrics, index);
            if at > queued.arrived {
                ahead.push((series, at));
            }
            let value = f64::from_bits(bits(queued.batch.metrics.get(index).value));
            let time = queued.effective_time(index);
            newest.push((series, at, Change { series, time, place: *place, last: *place, value }));
        }
    }
    newest.sort_unstable_by_key(|(series, at, change)| (*series, *at, change.place));
    let gauges = newest.chunk_by(|one, next| one.0 == next.0).filter_map(|of_series| {
        let last = of_series.iter().map(|(.., change)| change.last).max()?;
        of_series.last().map(|(.., change)| Change { last, ..*change })
    });
    (Fold { gauges: gauges.collect(), counters: Vec::new() }, ahead)
}
