//! Rolls up the samples of a window when it is folded, in the same transaction: a row of chunks with part 0 and its rollups say the same.
//!
//! A block has one row a day for each resolution, which grows with each window of the day. What is late for a window is folded into it, and its
//! part of the day is replaced. A late delta of a counter raises the running totals of later windows already when it is sealed.

use std::collections::BTreeMap;

use golectra_chunks::rollup::{
    GaugeBucket, Resolution, RollupColumn, decode_counter_rollup, decode_gauge_rollup, encode_rollups, roll_up_buckets,
    roll_up_counter_buckets,
};
use golectra_chunks::{DecodeError, EncodedBlock, Times};
use sqlx::{FromRow, PgConnection};

use super::WINDOW_MILLIS;
use super::collect::{Block, BlockKinds, Samples};
use super::parts::Window;
use crate::store::history::rollups::{Buckets, DAY_MILLIS, day_of};
use crate::store::postgres::rollups::{WINDOWS, totals_of, window_index};
use crate::store::postgres::timestamp::Timestamp;

/// How many hours a row of rollups_1h has.
const HOURS: usize = 24;

/// A row of rollups_5m.
#[derive(FromRow)]
struct Row {
    day_start: Timestamp,
    source_id: i32,
    windows: i16,
    times: Vec<u8>,
    offsets: Vec<i32>,
    data: Vec<u8>,
    bases: Option<Vec<i64>>,
}

/// The buckets of 5 minutes of a series.
fn buckets_of(samples: &Samples) -> Buckets {
    match samples {
        Samples::Gauge(times, values) => Buckets::of_gauge(times, values),
        Samples::Counter(times, deltas) => Buckets::of_counter(times, deltas),
    }
}

/// A block's rollups of a day.
pub(super) struct Day {
    start: i64,
    source_id: i32,
    block_id: i32,
    windows: i16,
    series: BTreeMap<usize, Buckets>,
    /// By slot, a counter's total at the start of each window.
    bases: BTreeMap<usize, [i64; WINDOWS]>,
}

impl Day {
    /// The day of a window as it is stored, if it is.
    pub(super) async fn read(
        conn: &mut PgConnection,
        source_id: i32,
        block_id: i32,
        window: Window,
        kinds: BlockKinds,
    ) -> Result<Result<Self, DecodeError>, sqlx::Error> {
        let start = day_of(window);
        let row = sqlx::query_as::<_, Row>(
            "SELECT day_start, source_id, windows, times, offsets, data, bases FROM rollups_5m WHERE block_id = $1 AND day_start = $2",
        )
        .bind(block_id)
        .bind(Timestamp::from_millis(start))
        .fetch_optional(conn)
        .await?;
        let empty = Self { start, source_id, block_id, windows: 0, series: BTreeMap::new(), bases: BTreeMap::new() };
        Ok(row.map_or(Ok(empty), |row| Self::of_row(block_id, &row, Some(kinds))))
    }

    /// Without the series that are gone, where it is known which are there.
    fn of_row(block_id: i32, row: &Row, kinds: Option<BlockKinds>) -> Result<Self, DecodeError> {
        let start = millis(row.day_start);
        let mut day =
            Self { start, source_id: row.source_id, block_id, windows: row.windows, series: BTreeMap::new(), bases: BTreeMap::new() };
        let times = Times::decode(&row.times)?;
        let bases = row.bases.as_deref().unwrap_or_default();
        for (slot, ends) in row.offsets.windows(2).enumerate() {
            let is_known = kinds.is_none_or(|kinds| kinds.known >> slot & 1 == 1);
            let column = usize::try_from(ends[0]).ok().zip(usize::try_from(ends[1]).ok()).and_then(|(from, to)| row.data.get(from..to));
            let column = column.ok_or(DecodeError::Malformed("an offset is out of range"))?;
            if !is_known || column.is_empty() {
                continue;
            }
            let mut counter = Vec::new();
            let buckets = match decode_counter_rollup(&times, column, &mut counter) {
                Ok(()) => Buckets::Counter(counter),
                Err(DecodeError::Kind) => {
                    let mut gauge = Vec::new();
                    decode_gauge_rollup(&times, column, &mut gauge)?;
                    Buckets::Gauge(gauge)
                }
                Err(error) => return Err(error),
            };
            if matches!(buckets, Buckets::Counter(_)) {
                let mut of_slot = [0; WINDOWS];
                for (base, stored) in of_slot.iter_mut().zip(bases.get(slot * WINDOWS..).unwrap_or_default()) {
                    *base = *stored;
                }
                day.bases.insert(slot, of_slot);
            }
            day.series.insert(slot, buckets);
        }
        Ok(day)
    }

    /// Takes a window's buckets away, in whose place others are put.
    pub(super) fn clear(&mut self, window: Window) {
        for buckets in self.series.values_mut() {
            buckets.replace(window, window + WINDOW_MILLIS, None);
        }
        self.series.retain(|_, buckets| !buckets.is_empty());
        self.bases.retain(|slot, _| self.series.contains_key(slot));
        self.windows |= 1 << window_index(window);
    }

    /// Adds the samples that series have in a window. `bases` are counters' totals at its start.
    pub(super) fn add(&mut self, window: Window, block: &Block, bases: Option<&[i64]>) {
        for (slot, samples) in block {
            let with = buckets_of(samples);
            if matches!(with, Buckets::Counter(_)) {
                let base = bases.and_then(|bases| bases.get(*slot)).copied().unwrap_or(0);
                self.bases.entry(*slot).or_insert([0; WINDOWS])[window_index(window)] = base;
            }
            match self.series.get_mut(slot) {
                Some(buckets) => buckets.replace(window, window + WINDOW_MILLIS, Some(with)),
                None => drop(self.series.insert(*slot, with)),
            }
        }
    }

    /// Adds what came late for counters to their totals in later windows.
    fn raise(&mut self, added: &BTreeMap<Window, Vec<i64>>) {
        for (slot, bases) in &mut self.bases {
            for (index, base) in (0_i64..).zip(bases.iter_mut()) {
                let window = self.start + index * WINDOW_MILLIS;
                let sums = added.range(..window).filter_map(|(_, sums)| sums.get(*slot));
                *base = sums.fold(*base, |base, sum| base.wrapping_add(*sum));
            }
        }
    }

    /// Writes both resolutions.
    pub(super) async fn write(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.series.is_empty() {
            for table in ["rollups_5m", "rollups_1h"] {
                let statement = format!("DELETE FROM {table} WHERE block_id = $1 AND day_start = $2");
                sqlx::query(&statement).bind(self.block_id).bind(Timestamp::from_millis(self.start)).execute(&mut *conn).await?;
            }
            return Ok(());
        }
        let columns: Vec<RollupColumn<'_>> = self.columns(&self.series, Buckets::as_column);
        let EncodedBlock { times, offsets, data } = encode_rollups(&columns);
        sqlx::query(
            "INSERT INTO rollups_5m (day_start, source_id, block_id, windows, times, offsets, data, bases)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
            ON CONFLICT (block_id, day_start) DO UPDATE SET windows = excluded.windows, times = excluded.times, offsets = excluded.offsets,
                data = excluded.data, bases = excluded.bases",
        )
        .bind(Timestamp::from_millis(self.start))
        .bind(self.source_id)
        .bind(self.block_id)
        .bind(self.windows)
        .bind(times)
        .bind(as_integers(&offsets))
        .bind(data)
        .bind(self.flat_bases())
        .execute(&mut *conn)
        .await?;
        self.write_hours(conn).await
    }

    /// Writes the hours, which follow from the buckets of 5 minutes.
    async fn write_hours(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let hours: BTreeMap<usize, Vec<GaugeBucket>> = self.series.keys().map(|slot| (*slot, self.hours_of(*slot))).collect();
        let columns = self.columns(&hours, |buckets| RollupColumn::Gauge(buckets));
        let EncodedBlock { times, offsets, data } = encode_rollups(&columns);
        let places = columns.len() * HOURS;
        let mut counts = vec![0_i32; places];
        let (mut sums, mut mins, mut maxs, mut lasts) = (vec![0.0; places], vec![0.0; places], vec![0.0; places], vec![0.0; places]);
        for (slot, buckets) in &hours {
            for bucket in buckets {
                let hour = (bucket.first_ms - self.start) / Resolution::OneHour.bucket_ms();
                let place = slot * HOURS + usize::try_from(hour).unwrap_or(0);
                counts[place] = i32::try_from(bucket.count).unwrap_or(i32::MAX);
                (sums[place], mins[place], maxs[place], lasts[place]) = (bucket.sum, bucket.min, bucket.max, bucket.last);
            }
        }
        sqlx::query(
            "INSERT INTO rollups_1h (day_start, source_id, block_id, windows, times, offsets, data, counts, sums, mins, maxs, lasts)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
            ON CONFLICT (block_id, day_start) DO UPDATE SET windows = excluded.windows, times = excluded.times, offsets = excluded.offsets,
                data = excluded.data, counts = excluded.counts, sums = excluded.sums, mins = excluded.mins, maxs = excluded.maxs,
                lasts = excluded.lasts",
        )
        .bind(Timestamp::from_millis(self.start))
        .bind(self.source_id)
        .bind(self.block_id)
        .bind(self.windows)
        .bind(times)
        .bind(as_integers(&offsets))
        .bind(data)
        .bind(counts)
        .bind(sums)
        .bind(mins)
        .bind(maxs)
        .bind(lasts)
        .execute(conn)
        .await?;
        Ok(())
    }

    fn columns<'a, B>(&self, series: &'a BTreeMap<usize, B>, column: impl Fn(&'a B) -> RollupColumn<'a>) -> Vec<RollupColumn<'a>> {
        let slots = self.series.keys().last().map_or(0, |last| last + 1);
        let mut columns = vec![RollupColumn::Gauge(&[]); slots];
        for (slot, buckets) in series {
            columns[*slot] = column(buckets);
        }
        columns
    }

    fn hours_of(&self, slot: usize) -> Vec<GaugeBucket> {
        let mut hours = Vec::new();
        match self.series.get(&slot) {
            Some(Buckets::Gauge(buckets)) => roll_up_buckets(buckets, Resolution::OneHour, &mut hours),
            Some(Buckets::Counter(buckets)) => {
                let bases = self.bases.get(&slot).copied().unwrap_or_default();
                let mut of_hours = Vec::new();
                roll_up_counter_buckets(buckets, Resolution::OneHour, &mut of_hours);
                totals_of(&of_hours, |window| bases[window], &mut hours);
            }
            None => {}
        }
        hours
    }

    fn flat_bases(&self) -> Option<Vec<i64>> {
        let last = *self.bases.keys().last()?;
        let mut flat = vec![0; (last + 1) * WINDOWS];
        for (slot, bases) in &self.bases {
            flat[slot * WINDOWS..(slot + 1) * WINDOWS].copy_from_slice(bases);
        }
        Some(flat)
    }
}

/// Adds what is sealed late for a block's counters, by window and slot, to their totals in the rollups of later windows. The window's own rollups follow when
/// it is folded; until then readers take its samples.
pub(super) async fn raise_totals(conn: &mut PgConnection, block_id: i32, added: &BTreeMap<Window, Vec<i64>>) -> Result<(), sqlx::Error> {
    let Some(oldest) = added.keys().next() else { return Ok(()) };
    let later = u32::try_from(window_index(*oldest) + 1).unwrap_or(0);
    let rows = sqlx::query_as::<_, Row>(
        "SELECT day_start, source_id, windows, times, offsets, data, bases FROM rollups_5m
        WHERE block_id = $1 AND bases IS NOT NULL AND (day_start > $2 OR (day_start = $2 AND windows >> $3 <> 0))",
    )
    .bind(block_id)
    .bind(Timestamp::from_millis(day_of(*oldest)))
    .bind(later.cast_signed())
    .fetch_all(&mut *conn)
    .await?;
    for row in rows {
        match Day::of_row(block_id, &row, None) {
            Ok(mut day) => {
                day.raise(added);
                sqlx::query("UPDATE rollups_5m SET bases = $3 WHERE block_id = $1 AND day_start = $2")
                    .bind(block_id)
                    .bind(row.day_start)
                    .bind(day.flat_bases())
                    .execute(&mut *conn)
                    .await?;
                day.write_hours(conn).await?;
            }
            Err(error) => say_damaged(block_id, millis(row.day_start), &error),
        }
    }
    Ok(())
}

/// Left as it is, for those who look into it; readers say the same.
pub(super) fn say_damaged(block_id: i32, day_start: i64, error: &DecodeError) {
    tracing::error!(block_id, day_start_seconds = day_start / 1000, problem = %error, "a row of rollups_5m can't be read");
}

fn as_integers(offsets: &[u32]) -> Vec<i32> {
    offsets.iter().map(|offset| i32::try_from(*offset).unwrap_or(i32::MAX)).collect()
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

const _: () = assert!(DAY_MILLIS == WINDOW_MILLIS * 12 && WINDOWS == 12);
