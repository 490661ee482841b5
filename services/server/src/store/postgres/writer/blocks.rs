//! The newest state of series, 64 of them a row. A report's series stand together, so that writing them all costs little more
//! than writing one. A row is read under its lock, changed here and written whole.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::context::BLOCK;
use super::failure::GroupFailure;
use super::fold::{Change, Fold};
use crate::store::postgres::timestamp::Timestamp;

/// A slot whose time is so much later than now was set before the clock went back: no time is later than its arrival, and servers' estimates of the database's
/// clock differ by less.
const WENT_BACK_MILLIS: u64 = 60 * 1000;

/// When a series was set: the time of its value, then the arrival of the last batch that named it.
type When = (Timestamp, i64);

/// A row, with a time for each slot.
#[derive(Debug, Clone, PartialEq)]
struct Block {
    id: i32,
    /// Whose series these are.
    source_id: i32,
    /// Bit n is set where the series of slot n exists.
    used: u64,
    /// As far as the last slot that is a gauge's.
    values: Vec<f64>,
    /// As far as the last slot that is a counter's.
    totals: Vec<i64>,
    whens: [When; BLOCK as usize],
    /// The latest time of a sample that was ahead of its arrival, whose slot's time is earlier than its own; or, where a series was brought back or the clock
    /// went back, up to when it may have samples from before.
    ahead_until: Option<Timestamp>,
}

/// What a row says of the newest sample of a gauge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NewestSample {
    /// Its time, or its arrival where it was ahead of that.
    pub(super) at: Timestamp,
    pub(super) value: f64,
    /// Up to here, samples may be stored that are newer than this one.
    pub(super) ahead_until: Option<Timestamp>,
}

impl Block {
    /// A row that is not there yet.
    fn new(id: i32, source_id: i32) -> Self {
        let whens = [(Timestamp(0), 0); BLOCK as usize];
        Self { id, source_id, used: 0, values: Vec::new(), totals: Vec::new(), whens, ahead_until: None }
    }

    /// The newest sample of a gauge; none where the series is not live.
    fn newest(&self, series: i32) -> Option<NewestSample> {
        let slot = usize::try_from(series % BLOCK).ok().filter(|slot| self.used & 1 << slot != 0)?;
        let value = self.values.get(slot).copied().unwrap_or_default();
        Some(NewestSample { at: self.whens[slot].0, value, ahead_until: self.ahead_until })
    }

    /// Where the series stands, for one that is live or is made live now. Another one has expired or was deleted meanwhile.
    fn slot(&mut self, series: i32, made: &BTreeSet<i32>) -> Result<usize, GroupFailure> {
        let slot = usize::try_from(series % BLOCK).map_err(|_| GroupFailure::Stale)?;
        let bit = 1 << slot;
        if self.used & bit == 0 {
            if !made.contains(&series) {
                return Err(GroupFailure::Stale);
            }
            self.used |= bit;
            self.whens[slot] = (Timestamp(0), 0);
            clear(&mut self.values, slot);
            clear(&mut self.totals, slot);
        }
        Ok(slot)
    }

    /// Where the slot was set before the clock went back, what comes now is newer.
    fn allow_earlier(&mut self, slot: usize, now: Timestamp) {
        let at = self.whens[slot].0;
        if at.0 > now.0.saturating_add(WENT_BACK_MILLIS) {
            self.ahead_until = self.ahead_until.max(Some(at));
            self.whens[slot].0 = Timestamp(0);
        }
    }

    /// Sets a gauge to the value of a batch with this arrival, unless a later one has set it. `seen` is the arrival of the last batch that names it.
    fn set(&mut self, slot: usize, value: f64, when: When, seen: i64) {
        if when >= self.whens[slot] {
            *reach(&mut self.values, slot) = value;
            self.whens[slot].0 = when.0;
        }
        self.whens[slot].1 = self.whens[slot].1.max(seen);
    }

    /// Adds to a counter, or says that it has no room.
    fn add(&mut self, slot: usize, delta: i64, time: Timestamp, seen: i64) -> bool {
        let total = reach(&mut self.totals, slot);
        let Some(sum) = total.checked_add(delta) else { return false };
        *total = sum;
        self.whens[slot] = (self.whens[slot].0.max(time), self.whens[slot].1.max(seen));
        true
    }

    /// The time that all of its series have, if there is one.
    fn common(&self) -> Option<When> {
        let mut whens = (0..BLOCK as usize).filter(|slot| self.used & 1 << slot != 0).map(|slot| self.whens[slot]);
        let first = whens.next()?;
        whens.all(|when| when == first).then_some(first)
    }
}

/// A slot's place in an array that grows up to it.
fn reach<T: Copy + Default>(slots: &mut Vec<T>, slot: usize) -> &mut T {
    if slots.len() <= slot {
        slots.resize(slot + 1, T::default());
    }
    &mut slots[slot]
}

/// Forgets what stood in a slot before.
fn clear<T: Copy + Default>(slots: &mut [T], slot: usize) {
    if let Some(slot) = slots.get_mut(slot) {
        *slot = T::default();
    }
}

/// Rows of this transaction, locked.
pub(super) struct Blocks {
    rows: BTreeMap<i32, Block>,
    /// Those that are not there yet, and their sources.
    new: Vec<(i32, i32)>,
    changed: BTreeSet<i32>,
    now: Timestamp,
}

impl Blocks {
    /// Reads and locks the rows of these series; `made_blocks` are the sources of rows that may not be there yet. `now` is the database's time.
    pub(super) async fn lock(
        conn: &mut PgConnection,
        series: impl Iterator<Item = i32>,
        made_blocks: &BTreeMap<i32, i32>,
        now: Timestamp,
    ) -> Result<Self, GroupFailure> {
        let ids = touched(series);
        let mut rows = read(conn, &ids).await?;
        let mut new = Vec::new();
        for id in ids.iter().filter(|id| !rows.contains_key(id)) {
            new.push((*id, *made_blocks.get(id).ok_or(GroupFailure::Stale)?));
        }
        rows.extend(new.iter().map(|(id, source_id)| (*id, Block::new(*id, *source_id))));
        Ok(Self { rows, new, changed: BTreeSet::new(), now })
    }

    /// Makes changes; `made` are the series that this transaction made live. Returns the counters that have no room for theirs: then the
    /// transaction is not to be committed.
    pub(super) fn change(&mut self, fold: &Fold, arrival: i64, made: &BTreeSet<i32>) -> Result<Vec<i32>, GroupFailure> {
        self.changed.extend(touched(fold.series()));
        change(&mut self.rows, fold, arrival, made, self.now)
    }

    /// The newest sample of a gauge whose row is here; none where the series is not live.
    pub(super) fn newest(&self, series: i32) -> Option<NewestSample> {
        self.rows.get(&(series / BLOCK))?.newest(series)
    }

    /// Notes that samples of this series may be stored up to this time, whatever the time of its slot.
    pub(super) fn is_ahead(&mut self, series: i32, at: Timestamp) {
        if let Some(row) = self.rows.get_mut(&(series / BLOCK)) {
            row.ahead_until = row.ahead_until.max(Some(at));
        }
    }

    /// Writes the changed rows.
    pub(super) async fn write(&self, conn: &mut PgConnection) -> Result<(), GroupFailure> {
        let changed = || self.rows.values().filter(|row| self.changed.contains(&row.id));
        let new: Vec<(i32, i32)> = self.new.iter().filter(|(id, _)| self.changed.contains(id)).copied().collect();
        insert(conn, &new).await?;
        update(conn, &Columns::of(changed())?).await
    }
}

/// The rows that these series are in, in order.
fn touched(series: impl Iterator<Item = i32>) -> Vec<i32> {
    let mut ids: Vec<i32> = series.map(|id| id / BLOCK).collect();
    ids.dedup();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Changes the rows. Returns the counters that have no room.
fn change(
    blocks: &mut BTreeMap<i32, Block>,
    fold: &Fold,
    arrival: i64,
    made: &BTreeSet<i32>,
    now: Timestamp,
) -> Result<Vec<i32>, GroupFailure> {
    let arrival_of = |place: usize| Ok::<i64, GroupFailure>(arrival + i64::try_from(place + 1).map_err(|_| GroupFailure::Stale)?);
    for gauges in of_one_block(&fold.gauges) {
        let block = blocks.get_mut(&(gauges[0].series / BLOCK)).ok_or(GroupFailure::Stale)?;
        for gauge in gauges {
            let slot = block.slot(gauge.series, made)?;
            block.allow_earlier(slot, now);
            block.set(slot, gauge.value, (gauge.time, arrival_of(gauge.place)?), arrival_of(gauge.last)?);
        }
    }
    let mut full = Vec::new();
    for counters in of_one_block(&fold.counters) {
        let block = blocks.get_mut(&(counters[0].series / BLOCK)).ok_or(GroupFailure::Stale)?;
        for counter in counters {
            let slot = block.slot(counter.series, made)?;
            block.allow_earlier(slot, now);
            if !block.add(slot, counter.value, counter.time, arrival_of(counter.last)?) {
                full.push(counter.series);
            }
        }
    }
    Ok(full)
}

/// Changes that are in the same row, together.
fn of_one_block<T>(changes: &[Change<T>]) -> impl Iterator<Item = &[Change<T>]> {
    changes.chunk_by(|one, next| one.series / BLOCK == next.series / BLOCK)
}

/// Reads rows and locks them, one after the other.
async fn read(conn: &mut PgConnection, ids: &[i32]) -> Result<BTreeMap<i32, Block>, GroupFailure> {
    let rows = sqlx::query!(
        r#"SELECT block.id, block.source_id, block.used, block.at AS "at: Timestamp", block.arrival, block."values", block.totals,
            block.ats AS "ats: Vec<Timestamp>", block.arrivals, block.ahead_until AS "ahead_until: Timestamp"
        FROM unnest($1::integer[]) AS asked (id) JOIN latest_blocks AS block ON block.id = asked.id FOR NO KEY UPDATE OF block"#,
        ids,
    )
    .fetch_all(conn)
    .await?;
    let blocks = rows.into_iter().map(|row| {
        let mut whens = [(row.at, row.arrival); BLOCK as usize];
        for (when, own) in whens.iter_mut().zip(row.ats.into_iter().zip(row.arrivals)) {
            *when = own;
        }
        let used = row.used.cast_unsigned();
        let (source_id, values, totals, ahead_until) = (row.source_id, row.values, row.totals, row.ahead_until);
        (row.id, Block { id: row.id, source_id, used, values, totals, whens, ahead_until })
    });
    Ok(blocks.collect())
}

/// Rows as the statements want them: each array's elements in one, and where in it each row's begin and end, counted from 1.
#[derive(Default)]
struct Columns {
    ids: Vec<i32>,
    used: Vec<i64>,
    at: Vec<Timestamp>,
    arrival: Vec<i64>,
    values: Vec<f64>,
    values_to: Vec<i32>,
    totals: Vec<i64>,
    totals_to: Vec<i32>,
    ats: Vec<Timestamp>,
    arrivals: Vec<i64>,
    ats_to: Vec<i32>,
    ahead_until: Vec<Option<Timestamp>>,
}

impl Columns {
    fn of<'a>(blocks: impl Iterator<Item = &'a Block>) -> Result<Self, GroupFailure> {
        let end = |length: usize| i32::try_from(length).map_err(|_| GroupFailure::Stale);
        let mut columns = Self::default();
        for block in blocks {
            columns.ids.push(block.id);
            columns.used.push(block.used.cast_signed());
            let common = block.common();
            let (at, arrival) = common.or_else(|| block.whens.iter().max().copied()).unwrap_or((Timestamp(0), 0));
            columns.at.push(at);
            columns.arrival.push(arrival);
            if common.is_none() {
                columns.ats.extend(block.whens.iter().map(|when| when.0));
                columns.arrivals.extend(block.whens.iter().map(|when| when.1));
            }
            columns.ats_to.push(end(columns.ats.len())?);
            columns.ahead_until.push(block.ahead_until);
            columns.values.extend_from_slice(&block.values);
            columns.values_to.push(end(columns.values.len())?);
            columns.totals.extend_from_slice(&block.totals);
            columns.totals_to.push(end(columns.totals.len())?);
        }
        Ok(columns)
    }
}

/// Where each row's elements begin, from where those of all rows end.
fn from(to: &[i32]) -> Vec<i32> {
    std::iter::once(1).chain(to.iter().map(|end| end + 1)).take(to.len()).collect()
}

/// Writes rows that are there and locked.
async fn update(conn: &mut PgConnection, columns: &Columns) -> Result<(), GroupFailure> {
    sqlx::query!(
        r#"UPDATE latest_blocks AS block SET used = fresh.used, at = fresh.at, arrival = fresh.arrival,
            "values" = ($5::double precision[])[values_from:values_to], totals = ($8::bigint[])[totals_from:totals_to],
            ats = ($11::timestamptz[])[ats_from:ats_to], arrivals = ($12::bigint[])[ats_from:ats_to], ahead_until = fresh.ahead_until
        FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::bigint[], $6::integer[], $7::integer[], $9::integer[], $10::integer[],
            $13::integer[], $14::integer[], $15::timestamptz[])
            AS fresh (id, used, at, arrival, values_from, values_to, totals_from, totals_to, ats_from, ats_to, ahead_until)
        WHERE block.id = fresh.id"#,
        &columns.ids,
        &columns.used,
        &columns.at as &[Timestamp],
        &columns.arrival,
        &columns.values,
        &from(&columns.values_to),
        &columns.values_to,
        &columns.totals,
        &from(&columns.totals_to),
        &columns.totals_to,
        &columns.ats as &[Timestamp],
        &columns.arrivals,
        &from(&columns.ats_to),
        &columns.ats_to,
        &columns.ahead_until as &[Option<Timestamp>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes rows for series that this transaction made live. It holds their source, so nobody else makes the same.
async fn insert(conn: &mut PgConnection, new: &[(i32, i32)]) -> Result<(), GroupFailure> {
    if !new.is_empty() {
        let (ids, source_ids): (Vec<i32>, Vec<i32>) = new.iter().copied().unzip();
        sqlx::query!(
            r#"INSERT INTO latest_blocks (id, source_id, used, at, arrival, "values", totals, ats, arrivals)
            SELECT id, source_id, 0, '-infinity', 0, '{}', '{}', '{}', '{}' FROM unnest($1::integer[], $2::integer[]) AS new (id, source_id)"#,
            &ids,
            &source_ids,
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOTHING: Block = Block {
        id: 1,
        source_id: 1,
        used: 0,
        values: Vec::new(),
        totals: Vec::new(),
        whens: [(Timestamp(0), 0); BLOCK as usize],
        ahead_until: None,
    };

    #[test]
    fn a_series_that_is_neither_there_nor_made_was_deleted() {
        let mut block = NOTHING;
        assert!(matches!(block.slot(64 + 3, &[64 + 2, 64 + 4].into()), Err(GroupFailure::Stale)));
        assert_eq!(block.slot(64 + 63, &[64 + 63].into()).unwrap(), 63);
        assert_eq!(block.slot(64 + 63, &BTreeSet::new()).unwrap(), 63, "made once, it is there");
        assert_eq!(block.used, 1 << 63);
    }

    #[test]
    fn a_slot_that_is_used_again_has_nothing_of_its_last_series() {
        let mut block = NOTHING;
        let slot = block.slot(64, &[64].into()).unwrap();
        assert!(block.add(slot, i64::MAX, Timestamp(9), 9));
        assert!(!block.add(slot, 1, Timestamp(10), 10), "no room");
        block.used = 0;
        let slot = block.slot(64, &[64].into()).unwrap();
        assert!(block.add(slot, 1, Timestamp(1), 1));
        assert_eq!((block.totals[0], block.whens[0]), (1, (Timestamp(1), 1)));
    }

    #[test]
    fn a_late_batch_changes_no_value_and_shows_that_the_series_is_reported() {
        let mut block = NOTHING;
        let slot = block.slot(64, &[64].into()).unwrap();
        block.set(slot, 1.0, (Timestamp(9), 1), 1);
        block.set(slot, 2.0, (Timestamp(3), 2), 2);
        assert_eq!((block.values[0], block.whens[0]), (1.0, (Timestamp(9), 2)));
    }

    #[test]
    fn what_comes_after_the_clock_went_back_is_newer() {
        let mut block = NOTHING;
        let slot = block.slot(64, &[64].into()).unwrap();
        let at = Timestamp(WENT_BACK_MILLIS + 10);
        block.set(slot, 1.0, (at, 1), 1);
        block.allow_earlier(slot, Timestamp(10));
        block.set(slot, 2.0, (Timestamp(10), 2), 2);
        assert_eq!((block.values[0], block.whens[0], block.ahead_until), (1.0, (at, 2), None), "servers may differ by so much");
        block.allow_earlier(slot, Timestamp(9));
        block.set(slot, 2.0, (Timestamp(9), 3), 3);
        assert_eq!((block.values[0], block.whens[0], block.ahead_until), (2.0, (Timestamp(9), 3), Some(at)));
    }

    #[test]
    fn one_time_for_all_is_written_once() {
        let mut block = NOTHING;
        for series in 64..67 {
            let slot = block.slot(series, &[64, 65, 66].into()).unwrap();
            block.set(slot, 1.0, (Timestamp(5), 1), 1);
        }
        let columns = Columns::of([&block].into_iter()).unwrap();
        assert_eq!((&*columns.at, &*columns.arrival, columns.ats.len()), (&[Timestamp(5)][..], &[1][..], 0));
        block.set(1, 2.0, (Timestamp(6), 2), 2);
        let columns = Columns::of([&block].into_iter()).unwrap();
        assert_eq!((&*columns.at, columns.ats.len(), columns.arrivals.len()), (&[Timestamp(6)][..], 64, 64));
    }

    #[test]
    fn each_row_has_its_own_part_of_the_columns() {
        let mut blocks = [NOTHING, Block { id: 2, ..NOTHING }, Block { id: 3, ..NOTHING }];
        blocks[0].slot(64, &[64].into()).unwrap();
        blocks[0].set(0, 7.0, (Timestamp(1), 1), 1);
        blocks[2].slot(193, &[193].into()).unwrap();
        blocks[2].add(1, 8, Timestamp(1), 1);
        let columns = Columns::of(blocks.iter()).unwrap();
        assert_eq!((from(&columns.values_to), columns.values_to), (vec![1, 2, 2], vec![1, 1, 1]));
        assert_eq!((from(&columns.totals_to), columns.totals_to), (vec![1, 1, 1], vec![0, 0, 2]));
        assert_eq!((columns.values, columns.totals), (vec![7.0], vec![0, 8]));
    }

    proptest! {
        #[test]
        fn gauges_keep_the_newest_and_counters_the_sum(
            writes in prop::collection::vec((0..8_usize, 0..6_u64, 0..1_000_i64), 1..40)
        ) {
            let ids: Vec<i32> = (64..72).collect();
            let made: BTreeSet<i32> = ids.iter().copied().collect();
            let mut block = NOTHING;
            let (mut gauges, mut totals) = ([(0, 0, 0); 4], [(0, 0); 4]);
            for (arrival, (series, at, value)) in writes.iter().enumerate() {
                let slot = block.slot(ids[*series], &made).unwrap();
                let (time, seen) = (Timestamp(*at), i64::try_from(arrival).unwrap());
                if *series < 4 {
                    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                    block.set(slot, *value as f64, (time, seen), seen);
                    gauges[*series] = gauges[*series].max((*at, arrival, *value));
                } else {
                    prop_assert!(block.add(slot, *value, time, seen));
                    let total = &mut totals[*series - 4];
                    *total = (total.0 + value, total.1.max(*at));
                }
            }
            for (series, ..) in &writes {
                if *series < 4 {
                    let (at, _, value) = gauges[*series];
                    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                    let value = value as f64;
                    prop_assert_eq!((block.values[*series], block.whens[*series].0), (value, Timestamp(at)));
                } else {
                    let (total, at) = totals[*series - 4];
                    prop_assert_eq!((block.totals[*series], block.whens[*series].0), (total, Timestamp(at)));
                }
            }
        }
    }
}
