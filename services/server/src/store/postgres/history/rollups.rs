//! Answers from rollups: buckets of 5 minutes or an hour in place of samples.
//!
//! A row of rollups knows the samples that were folded, which is all of most windows. Where a block has more for a window, in other rows of chunks or in
//! frames, its samples are read and rolled up here instead. So what is not sealed or folded yet is in the answer all the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use golectra_chunks::rollup::{GaugeBucket, decode_counter_rollup, decode_gauge_rollup, roll_up_buckets, roll_up_gauge};
use golectra_chunks::{DecodeError, Times};
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Reservation};
use sqlx::{FromRow, PgConnection};

use super::chunks::{BLOCK_SERIES, pieces};
use super::frame_cache::FrameView;
use super::frames::{self, UnsealedSample};
use super::samples::{SamplesBuilder, StoredSamples};
use super::search::FoundSeries;
use super::{ReadTransaction, chunks, failed};
use crate::store::history::rollups::{Kept, ReadBuckets, Source, day_of, first_bucket_ms, join_equal, most_buckets};
use crate::store::history::{CorruptHistory, HistoryError, HistorySeries, ReadSamples as _, TimeRange};
use crate::store::postgres::HistoryReader;
use crate::store::postgres::rollups::{Resolution, WINDOWS, table_of, totals_of};
use crate::store::postgres::sealer::WINDOW_MILLIS;
use crate::store::postgres::timestamp::Timestamp;

/// Chooses where a selection is answered from. It is an error where what is left does not suffice.
pub(super) async fn choose(transaction: &mut ReadTransaction, selection: &Selection, series_ids: &[i32]) -> Result<Source, HistoryError> {
    let (raw_ms, five_minutes_ms) = (transaction.dropped_ms, transaction.five_minutes_dropped_ms);
    let conn = transaction.conn();
    let mut gone = async |dropped_ms: i64, start_ms: i64, of: &str| -> Result<bool, HistoryError> {
        let until = dropped_ms.min(selection.end_ms.saturating_add(1));
        if start_ms >= until {
            return Ok(false);
        }
        let blocks: Vec<i32> = series_ids.iter().map(|id| id / BLOCK_SERIES).collect::<BTreeSet<_>>().into_iter().collect();
        let statement = format!("SELECT EXISTS (SELECT FROM {of} WHERE block_id = ANY($1) AND day_start >= $2 AND day_start < $3)");
        let found = sqlx::query_scalar(&statement)
            .bind(blocks)
            .bind(Timestamp::from_millis(day_of(start_ms)))
            .bind(Timestamp::from_millis(until))
            .fetch_one(&mut *conn)
            .await;
        found.map_err(failed)
    };
    // Of rollups a bucket before is read as well.
    let five_minutes_are_gone = gone(five_minutes_ms, first_bucket_ms(selection, Resolution::FiveMinutes), "rollups_1h").await?;
    let raw_is_gone = five_minutes_are_gone || gone(raw_ms, selection.start_ms, "rollups_5m").await?;
    Kept { raw_is_gone, five_minutes_are_gone }.source_of(selection)
}

impl HistoryReader {
    /// Reads the rollups of these series.
    pub(super) async fn select_rollups(
        &self,
        transaction: &mut ReadTransaction,
        resolution: Resolution,
        (found, unsealed): (Vec<FoundSeries>, Option<&FrameView<'_>>),
        selection: &Selection,
        max_series: usize,
        reservation: &mut Reservation,
    ) -> Result<Vec<HistorySeries>, HistoryError> {
        let range = TimeRange { start_ms: first_bucket_ms(selection, resolution), end_ms: selection.end_ms };
        let dropped_ms = transaction.dropped_ms;
        reservation.grow(found.len() * size_of::<Collected>())?;
        let mut collected: Vec<Collected> = found.into_iter().map(|found| Collected { found, ..Collected::default() }).collect();
        let places: HashMap<i32, usize> = collected.iter().enumerate().map(|(place, one)| (one.found.id, place)).collect();
        let ids: Vec<i32> = collected.iter().map(|one| one.found.id).collect();

        let mut dirty = unfolded(transaction.conn(), &ids, range).await?;
        for is_counter in [false, true] {
            let of_kind = collected.iter().filter(|one| one.found.is_counter == is_counter);
            let series: Vec<(i32, i32)> = of_kind.map(|one| (one.found.source_id, one.found.id)).collect();
            let start_ms = if is_counter { i64::MIN } else { range.start_ms };
            let (partitions, server_started) = (&transaction.frames, transaction.server_started);
            let cache = unsealed;
            let wanted = frames::Wanted { series: &series, start_ms, end_ms: range.end_ms, dropped_ms, partitions, server_started, cache };
            frames::each(transaction.lease.conn(), &self.layouts, &wanted, reservation, |id, samples: &mut dyn Iterator<Item = _>| {
                let Some(one) = places.get(&id).and_then(|place| collected.get_mut(*place)) else { return Ok(0) };
                let before = one.unsealed.len();
                one.unsealed.extend(samples);
                let new = &one.unsealed[before..];
                let in_range = new.iter().filter(|sample| sample.at_ms >= range.start_ms && sample.at_ms <= range.end_ms);
                dirty.extend(in_range.map(|sample| (id / BLOCK_SERIES, window_of(sample.at_ms))));
                Ok(size_of_val(new))
            })
            .await?;
        }
        let bases = bases_at(transaction.conn(), &dirty).await?;
        let cache = self.chunks.view(transaction.lease.conn(), &transaction.chunks).await.map_err(failed)?;
        chunks::each(transaction.conn(), cache.as_ref(), &ids, range, Some(&dirty), reservation, |column| {
            if let Some(one) = places.get(&column.series_id).and_then(|place| collected.get_mut(*place)) {
                let window = column.window_start_ms;
                one.windows.entry(window).or_insert_with(|| window_builder(window, range, one.found.is_counter)).push_sealed(column);
            }
            Ok(())
        })
        .await?;
        let mut with_buckets = 0;
        each_day(transaction.conn(), resolution, &ids, range, |id, day, bytes| {
            let Some(one) = places.get(&id).and_then(|place| collected.get_mut(*place)) else { return Ok(()) };
            with_buckets += usize::from(one.days.is_empty());
            if with_buckets > max_series {
                return Err(HistoryError::TooManySeries { limit: max_series });
            }
            one.days.push(day);
            Ok(reservation.grow(bytes)?)
        })
        .await?;

        let mut series: Vec<(Labels, StoredRollup)> = Vec::new();
        for one in collected {
            let block_id = one.found.id / BLOCK_SERIES;
            let dirty = dirty.range((block_id, i64::MIN)..=(block_id, i64::MAX)).map(|(_, window)| *window).collect();
            let slot = usize::try_from(one.found.id % BLOCK_SERIES).unwrap_or(0);
            let base_of = |window: i64| bases.get(&(block_id, window)).and_then(|bases| bases.get(slot)).copied().unwrap_or_default();
            series.extend(one.build(resolution, range, dirty, base_of));
        }
        if series.len() > max_series {
            return Err(HistoryError::TooManySeries { limit: max_series });
        }
        Ok(join_equal(resolution, series))
    }
}

/// A series whose rollups are being read.
#[derive(Default)]
struct Collected {
    found: FoundSeries,
    days: Vec<RolledUpDay>,
    /// Windows whose samples are read instead.
    windows: BTreeMap<i64, SamplesBuilder>,
    unsealed: Vec<UnsealedSample>,
}

impl Collected {
    /// Its rollups; nothing where there are none.
    fn build(
        mut self,
        resolution: Resolution,
        range: TimeRange,
        dirty: Vec<i64>,
        base_of: impl Fn(i64) -> i64,
    ) -> Option<(Labels, StoredRollup)> {
        let is_counter = self.found.is_counter;
        self.unsealed.sort_by_key(|sample| (sample.at_ms, sample.arrival));
        for sample in &self.unsealed {
            if sample.at_ms >= range.start_ms && sample.at_ms <= range.end_ms {
                let window = window_of(sample.at_ms);
                self.windows.entry(window).or_insert_with(|| window_builder(window, range, is_counter));
            }
        }
        let added: Vec<(i64, i64)> =
            if is_counter { self.unsealed.iter().map(|sample| (sample.at_ms, sample.delta)).collect() } else { Vec::new() };
        let mut windows = Vec::new();
        for (window, mut builder) in self.windows {
            // What is before the window counts for a counter; what is behind it is left out.
            for sample in &self.unsealed {
                builder.push(*sample);
            }
            builder.set_sealed_total(base_of(window));
            windows.extend(builder.build());
        }
        if self.days.is_empty() && windows.is_empty() {
            return None;
        }
        self.days.sort_unstable_by_key(|day| day.start_ms);
        Some((self.found.labels, StoredRollup { resolution, range, days: self.days, dirty, windows, added }))
    }
}

fn window_builder(window: i64, range: TimeRange, is_counter: bool) -> SamplesBuilder {
    let end_ms = range.end_ms.min(window + WINDOW_MILLIS - 1);
    SamplesBuilder::new(TimeRange { start_ms: range.start_ms.max(window), end_ms }, is_counter)
}

/// The buckets of one series and day, coded.
struct RolledUpDay {
    series_id: i32,
    start_ms: i64,
    times: Arc<Times>,
    /// Not empty.
    data: Bytes,
    /// A counter's totals at the start of each window, where the buckets do not have them.
    bases: [i64; WINDOWS],
}

impl RolledUpDay {
    /// A counter's buckets have its totals.
    fn decode(&self, buckets: &mut Vec<GaugeBucket>) -> Result<(), CorruptHistory> {
        let corrupt = |error: DecodeError| {
            let (id, start) = (self.series_id, self.start_ms / 1000);
            CorruptHistory(format!("series {id} in the rollups of block {} and the day of {start}: {error}", id / BLOCK_SERIES))
        };
        match decode_gauge_rollup(&self.times, &self.data, buckets) {
            Ok(()) => Ok(()),
            Err(DecodeError::Kind) => {
                let mut counter = Vec::new();
                decode_counter_rollup(&self.times, &self.data, &mut counter).map_err(corrupt)?;
                totals_of(&counter, |window| self.bases[window], buckets);
                Ok(())
            }
            Err(error) => Err(corrupt(error)),
        }
    }
}

/// A series' rollups.
struct StoredRollup {
    resolution: Resolution,
    /// From the start of a bucket.
    range: TimeRange,
    /// In order.
    days: Vec<RolledUpDay>,
    /// Windows of which the rollups do not know everything, in order.
    dirty: Vec<i64>,
    /// The samples of those, in order.
    windows: Vec<StoredSamples>,
    /// What is not sealed of a counter, in order.
    added: Vec<(i64, i64)>,
}

impl ReadBuckets for StoredRollup {
    fn buckets(&self) -> Result<Vec<GaugeBucket>, CorruptHistory> {
        let mut buckets = Vec::new();
        for day in &self.days {
            day.decode(&mut buckets)?;
        }
        buckets.retain(|bucket| {
            (self.range.start_ms..=self.range.end_ms).contains(&bucket.first_ms)
                && self.dirty.binary_search(&window_of(bucket.first_ms)).is_err()
        });
        let (mut added, mut sum) = (self.added.iter().peekable(), 0_i64);
        for bucket in buckets.iter_mut().filter(|_| !self.added.is_empty()) {
            while let Some((_, delta)) = added.next_if(|(at_ms, _)| *at_ms < bucket.first_ms) {
                sum = sum.saturating_add(*delta);
            }
            raise(bucket, sum);
        }
        let (mut timestamps_ms, mut values, mut shorter) = (Vec::new(), Vec::new(), Vec::new());
        for window in &self.windows {
            timestamps_ms.clear();
            values.clear();
            shorter.clear();
            window.read(&mut timestamps_ms, &mut values)?;
            roll_up_gauge(&timestamps_ms, &values, Resolution::FiveMinutes, &mut shorter);
            roll_up_buckets(&shorter, self.resolution, &mut buckets);
        }
        buckets.sort_by_key(|bucket| bucket.first_ms);
        Ok(buckets)
    }

    fn max_buckets(&self) -> usize {
        most_buckets(self.resolution, self.days.len(), self.windows.len())
    }
}

/// Adds to all values of a bucket.
#[expect(clippy::cast_precision_loss, reason = "PromQL computes with doubles")]
fn raise(bucket: &mut GaugeBucket, by: i64) {
    let by = by as f64;
    bucket.sum += by * f64::from(bucket.count);
    for value in [&mut bucket.min, &mut bucket.max, &mut bucket.first, &mut bucket.last] {
        *value += by;
    }
}

/// The blocks and windows that have rows of chunks that are not folded.
async fn unfolded(conn: &mut PgConnection, series_ids: &[i32], range: TimeRange) -> Result<BTreeSet<(i32, i64)>, HistoryError> {
    let blocks: Vec<i32> = series_ids.iter().map(|id| id / BLOCK_SERIES).collect::<BTreeSet<_>>().into_iter().collect();
    let statement = "SELECT DISTINCT block_id, window_start FROM chunks
        WHERE part > 0 AND block_id = ANY($1) AND window_start >= $2 AND window_start <= $3";
    let rows: Vec<(i32, Timestamp)> = sqlx::query_as(statement)
        .bind(blocks)
        .bind(Timestamp::from_millis(window_of(range.start_ms)))
        .bind(Timestamp::from_millis(range.end_ms))
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    Ok(rows.into_iter().map(|(block_id, window)| (block_id, millis(window))).collect())
}

/// Counters' totals at the start of these windows, by slot: what was sealed before.
async fn bases_at(conn: &mut PgConnection, windows: &BTreeSet<(i32, i64)>) -> Result<HashMap<(i32, i64), Vec<i64>>, HistoryError> {
    if windows.is_empty() {
        return Ok(HashMap::new());
    }
    let (blocks, starts): (Vec<i32>, Vec<Timestamp>) =
        windows.iter().map(|(block_id, window)| (*block_id, Timestamp::from_millis(*window))).unzip();
    let statement = "SELECT asked.block_id, asked.window_start, coalesce(
            (SELECT coalesce(chunks.bases, '{}') FROM chunks WHERE chunks.block_id = asked.block_id AND chunks.window_start >= asked.window_start
                ORDER BY chunks.window_start, cardinality(coalesce(chunks.bases, '{}')) DESC LIMIT 1),
            (SELECT totals FROM sealed_totals WHERE sealed_totals.block_id = asked.block_id), '{}')
        FROM unnest($1::integer[], $2::timestamptz[]) AS asked (block_id, window_start)";
    let rows: Vec<(i32, Timestamp, Vec<i64>)> =
        sqlx::query_as(statement).bind(blocks).bind(starts).fetch_all(conn).await.map_err(failed)?;
    Ok(rows.into_iter().map(|(block_id, window, bases)| ((block_id, millis(window)), bases)).collect())
}

#[derive(FromRow)]
struct Row {
    piece: i64,
    day_start: Timestamp,
    times: Vec<u8>,
    offsets: Vec<i32>,
    data: Vec<u8>,
    bases: Option<Vec<i64>>,
}

/// Gives each day of these series that may have buckets in the time, in no order, and how much memory it takes.
async fn each_day(
    conn: &mut PgConnection,
    resolution: Resolution,
    series_ids: &[i32],
    range: TimeRange,
    mut take: impl FnMut(i32, RolledUpDay, usize) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    let pieces = pieces(series_ids);
    let block_ids: Vec<i32> = pieces.iter().map(|piece| piece.block_id).collect();
    let firsts: Vec<i32> = pieces.iter().map(|piece| piece.first).collect();
    let lasts: Vec<i32> = pieces.iter().map(|piece| piece.last).collect();
    let (table, bases) = match resolution {
        Resolution::FiveMinutes => (table_of(resolution).name, "bases[12 * piece.first + 1:12 * (piece.last + 1)]"),
        Resolution::OneHour => (table_of(resolution).name, "NULL::bigint[]"),
    };
    // As for chunks.
    let statement = format!(
        "SELECT piece.n AS piece, cut.*
        FROM unnest($1::integer[], $2::integer[], $3::integer[]) WITH ORDINALITY AS piece (block_id, first, last, n)
        CROSS JOIN LATERAL (
            SELECT day_start, times, {bases} AS bases, offsets[piece.first + 1:least(piece.last + 2, cardinality(offsets))] AS offsets,
                substring(data FROM offsets[piece.first + 1] + 1
                    FOR offsets[least(piece.last + 2, cardinality(offsets))] - offsets[piece.first + 1]) AS data
            FROM {table}
            WHERE block_id = piece.block_id AND day_start >= $4 AND day_start <= $5
                AND offsets[piece.first + 1] < offsets[least(piece.last + 2, cardinality(offsets))]
            OFFSET 0
        ) AS cut"
    );
    let mut rows = sqlx::query_as::<_, Row>(&statement)
        .bind(block_ids)
        .bind(firsts)
        .bind(lasts)
        .bind(Timestamp::from_millis(day_of(range.start_ms)))
        .bind(Timestamp::from_millis(range.end_ms))
        .fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let Some(piece) = usize::try_from(row.piece - 1).ok().and_then(|piece| pieces.get(piece)) else { continue };
        let start_ms = millis(row.day_start);
        let damaged = |problem: &dyn std::fmt::Display| {
            let start = start_ms / 1000;
            HistoryError::from(CorruptHistory(format!("the rollups of block {} and the day of {start}: {problem}", piece.block_id)))
        };
        let times = Arc::new(Times::decode(&row.times).map_err(|error| damaged(&error))?);
        let data = Bytes::from(row.data);
        let begin = row.offsets.first().copied().unwrap_or_default();
        let mut bytes = times.memory_bytes() + data.len();
        for (index, ends) in row.offsets.windows(2).enumerate() {
            let slot = piece.first + i32::try_from(index).unwrap_or(i32::MAX);
            if piece.slots & (1 << slot) == 0 || ends[0] == ends[1] {
                continue;
            }
            let within = |offset: i32| usize::try_from(offset - begin).ok().filter(|offset| *offset <= data.len());
            let (from, to) = within(ends[0]).zip(within(ends[1])).filter(|(from, to)| from <= to).ok_or_else(|| damaged(&"its offsets"))?;
            let mut bases = [0; WINDOWS];
            let stored = row.bases.as_deref().unwrap_or_default();
            for (base, stored) in bases.iter_mut().zip(stored.get(index * WINDOWS..).unwrap_or_default()) {
                *base = *stored;
            }
            let series_id = piece.block_id * BLOCK_SERIES + slot;
            let day = RolledUpDay { series_id, start_ms, times: Arc::clone(&times), data: data.slice(from..to), bases };
            take(series_id, day, std::mem::take(&mut bytes) + size_of::<RolledUpDay>())?;
        }
    }
    Ok(())
}

fn window_of(at_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(WINDOW_MILLIS)
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}
