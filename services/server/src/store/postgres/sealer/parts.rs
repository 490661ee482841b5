//! Writes gathered samples as rows of chunks, and keeps counters' running totals right.
//!
//! A row says what its counters' totals were at the start of its window. So deltas that come for a window add to the totals of the
//! windows behind it; mostly there are none.

use std::collections::{BTreeMap, BTreeSet};

use golectra_chunks::{Column, ColumnValues, EncodedBlock, encode};
use sqlx::PgConnection;

use super::collect::{Block, Kinds, Samples};
use super::{Steps, WINDOW_MILLIS, rollups};
use crate::store::postgres::partitions::CHUNKS;
use crate::store::postgres::timestamp::Timestamp;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) samples: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// How writing ended.
pub(super) enum Outcome {
    /// All is written.
    Written(Written),
    /// Nothing is, for want of these partitions of chunks.
    NeedsDays(BTreeSet<i32>),
}

/// A window, in unix milliseconds.
pub(super) type Window = i64;

/// The window that a time is in.
fn window_of(at_millis: i64) -> Window {
    at_millis - at_millis.rem_euclid(WINDOW_MILLIS)
}

/// Writes the blocks of a source, in the caller's transaction.
pub(super) async fn write(
    conn: &mut PgConnection,
    source_id: i32,
    kinds: &Kinds,
    mut blocks: BTreeMap<i32, Block>,
    chunk_days: &BTreeSet<i32>,
    steps: &Steps,
) -> Result<Outcome, sqlx::Error> {
    let mut windows: BTreeMap<i32, BTreeSet<Window>> = BTreeMap::new();
    for (id, block) in &mut blocks {
        for samples in block.values_mut() {
            samples.merge();
            windows.entry(*id).or_default().extend(samples.times().iter().map(|at| window_of(*at)));
        }
    }
    let days = windows.values().flatten().map(|window| CHUNKS.slot_of(Timestamp::from_millis(*window).0));
    let missing: BTreeSet<i32> = days.filter(|day| !chunk_days.contains(day)).collect();
    if !missing.is_empty() {
        return Ok(Outcome::NeedsDays(missing));
    }
    let parts = last_parts(conn, &windows).await?;
    let with_counters: BTreeMap<i32, Window> =
        windows.iter().filter(|(id, _)| kinds.of(**id).counters != 0).filter_map(|(id, windows)| Some((*id, *windows.first()?))).collect();
    let mut totals = Totals::read(conn, &with_counters).await?;
    let mut written = Written::default();
    for (id, block) in blocks {
        let of_block = windows.get(&id).into_iter().flatten().copied();
        let mut bases = totals.0.remove(&id);
        if let Some(totals) = &mut bases {
            totals.add(&block, of_block.clone());
        }
        for window in of_block {
            let part = parts.get(&(id, window)).map_or(1, |last| last.saturating_add(1));
            let (encoded, samples) = encode_window(&block, window);
            let bases = bases.as_ref().and_then(|totals| totals.bases.get(&window)).map(|bases| bases.values.as_slice());
            insert(conn, &Row { source_id, block_id: id, window, part, bases, encoded: &encoded }).await?;
            steps.step()?;
            written.samples += samples;
            written.rows += 1;
            written.bytes += (encoded.times.len() + encoded.data.len()) as u64;
        }
        if let Some(totals) = bases {
            totals.write(conn, id).await?;
            steps.step()?;
        }
    }
    Ok(Outcome::Written(written))
}

/// The last part of each of these windows that there is.
async fn last_parts(
    conn: &mut PgConnection,
    windows: &BTreeMap<i32, BTreeSet<Window>>,
) -> Result<BTreeMap<(i32, Window), i16>, sqlx::Error> {
    let (ids, starts): (Vec<i32>, Vec<Timestamp>) =
        windows.iter().flat_map(|(id, windows)| windows.iter().map(|window| (*id, Timestamp::from_millis(*window)))).unzip();
    let rows = sqlx::query!(
        r#"SELECT asked.block_id AS "block_id!", asked.window_start AS "window_start!: Timestamp", max(chunks.part) AS "part!"
        FROM unnest($1::integer[], $2::timestamptz[]) AS asked (block_id, window_start)
        JOIN chunks ON chunks.block_id = asked.block_id AND chunks.window_start = asked.window_start
        GROUP BY asked.block_id, asked.window_start"#,
        &ids,
        &starts as &[Timestamp],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.block_id, i64::try_from(row.window_start.0).unwrap_or(0)), row.part)).collect())
}

/// Codes the samples of a block that are in a window; says how many.
pub(super) fn encode_window(block: &Block, window: Window) -> (EncodedBlock, u64) {
    let slots = block.keys().last().map_or(0, |last| last + 1);
    let mut columns = vec![Column { timestamps_ms: &[], values: ColumnValues::Gauge(&[]) }; slots];
    let mut count = 0;
    for (slot, samples) in block {
        let times = samples.times();
        let from = times.partition_point(|at| *at < window);
        let to = times.partition_point(|at| *at < window + WINDOW_MILLIS);
        count += (to - from) as u64;
        columns[*slot] = match samples {
            Samples::Gauge(times, values) => Column { timestamps_ms: &times[from..to], values: ColumnValues::Gauge(&values[from..to]) },
            Samples::Counter(times, deltas) => Column { timestamps_ms: &times[from..to], values: ColumnValues::Counter(&deltas[from..to]) },
        };
    }
    (encode(&columns), count)
}

/// A row of chunks.
pub(super) struct Row<'a> {
    pub(super) source_id: i32,
    pub(super) block_id: i32,
    pub(super) window: Window,
    pub(super) part: i16,
    pub(super) bases: Option<&'a [i64]>,
    pub(super) encoded: &'a EncodedBlock,
}

/// Writes a row.
pub(super) async fn insert(conn: &mut PgConnection, row: &Row<'_>) -> Result<(), sqlx::Error> {
    let offsets: Vec<i32> = row.encoded.offsets.iter().map(|offset| i32::try_from(*offset).unwrap_or(i32::MAX)).collect();
    sqlx::query!(
        "INSERT INTO chunks (window_start, source_id, block_id, part, times, offsets, data, bases) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        Timestamp::from_millis(row.window) as Timestamp,
        row.source_id,
        row.block_id,
        row.part,
        &row.encoded.times,
        &offsets,
        &row.encoded.data,
        row.bases,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counters' totals at the start of a window, by slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Bases {
    values: Vec<i64>,
    /// Whether there are rows that say something else.
    stale: bool,
}

/// Totals of a block's counters: after all sealed samples, and at the start of each window that matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct BlockTotals {
    totals: Vec<i64>,
    bases: BTreeMap<Window, Bases>,
    /// What is added now, by slot.
    added: BTreeMap<Window, Vec<i64>>,
}

/// By block.
struct Totals(BTreeMap<i32, BlockTotals>);

impl Totals {
    /// Reads those of blocks, with the windows from the given one on.
    async fn read(conn: &mut PgConnection, blocks: &BTreeMap<i32, Window>) -> Result<Self, sqlx::Error> {
        let mut all: BTreeMap<i32, BlockTotals> = blocks.keys().map(|id| (*id, BlockTotals::default())).collect();
        let Some(oldest) = blocks.values().min().map(|window| Timestamp::from_millis(*window)) else { return Ok(Self(all)) };
        let ids: Vec<i32> = blocks.keys().copied().collect();
        let rows = sqlx::query!("SELECT block_id, totals FROM sealed_totals WHERE block_id = ANY($1)", &ids).fetch_all(&mut *conn).await?;
        for row in rows {
            all.entry(row.block_id).or_default().totals = row.totals;
        }
        let rows = sqlx::query!(
            r#"SELECT block_id, window_start AS "window_start: Timestamp", bases FROM chunks WHERE block_id = ANY($1) AND window_start >= $2"#,
            &ids,
            oldest as Timestamp,
        )
        .fetch_all(conn)
        .await?;
        for row in rows {
            let window = i64::try_from(row.window_start.0).unwrap_or(0);
            let bases = all.entry(row.block_id).or_default().bases.entry(window).or_default();
            let values = row.bases.unwrap_or_default();
            // The same but for slots that one of them does not have.
            if values.len() > bases.values.len() {
                bases.values = values;
            }
        }
        Ok(Self(all))
    }
}

impl BlockTotals {
    /// Adds a block's deltas, and makes bases for its windows.
    fn add(&mut self, block: &Block, windows: impl Iterator<Item = Window>) {
        // First as it was: nothing was added between a window and the next that there is.
        for window in windows {
            if !self.bases.contains_key(&window) {
                let values = self.bases.range(window..).next().map_or(&self.totals, |(_, next)| &next.values).clone();
                self.bases.insert(window, Bases { values, stale: false });
            }
        }
        for (slot, samples) in block {
            let Samples::Counter(times, deltas) = samples else { continue };
            let mut by_window: BTreeMap<Window, i64> = BTreeMap::new();
            for (at, delta) in times.iter().zip(deltas) {
                let sum = by_window.entry(window_of(*at)).or_default();
                *sum = sum.wrapping_add(*delta);
            }
            for (window, sum) in by_window.into_iter().filter(|(_, sum)| *sum != 0) {
                add_to(&mut self.totals, *slot, sum);
                add_to(self.added.entry(window).or_default(), *slot, sum);
                for (_, bases) in self.bases.range_mut(window + 1..) {
                    add_to(&mut bases.values, *slot, sum);
                    bases.stale = true;
                }
            }
        }
    }

    /// Writes them down; of windows, those whose rows say something else.
    async fn write(self, conn: &mut PgConnection, block_id: i32) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "INSERT INTO sealed_totals (block_id, totals) VALUES ($1, $2) ON CONFLICT (block_id) DO UPDATE SET totals = excluded.totals",
            block_id,
            &self.totals,
        )
        .execute(&mut *conn)
        .await?;
        for (window, bases) in self.bases.into_iter().filter(|(_, bases)| bases.stale) {
            sqlx::query!(
                "UPDATE chunks SET bases = $3 WHERE block_id = $1 AND window_start = $2 AND bases IS DISTINCT FROM $3",
                block_id,
                Timestamp::from_millis(window) as Timestamp,
                &bases.values,
            )
            .execute(&mut *conn)
            .await?;
        }
        rollups::raise_totals(conn, block_id, &self.added).await
    }
}

/// Adds to a slot, modulo 2^64, as the sum of deltas is told.
fn add_to(slots: &mut Vec<i64>, slot: usize, sum: i64) {
    if slots.len() <= slot {
        slots.resize(slot + 1, 0);
    }
    slots[slot] = slots[slot].wrapping_add(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: i64 = WINDOW_MILLIS;

    fn bases(totals: &BlockTotals) -> Vec<(Window, Vec<i64>, bool)> {
        totals.bases.iter().map(|(window, bases)| (*window / W, bases.values.clone(), bases.stale)).collect()
    }

    fn counters(columns: &[(usize, &[(i64, i64)])]) -> Block {
        columns
            .iter()
            .map(|(slot, samples)| {
                (*slot, Samples::Counter(samples.iter().map(|one| one.0).collect(), samples.iter().map(|one| one.1).collect()))
            })
            .collect()
    }

    #[test]
    fn a_late_delta_raises_the_windows_behind_it() {
        let mut totals = BlockTotals::default();
        totals.add(&counters(&[(0, &[(W, 1), (3 * W, 2)])]), [W, 3 * W].into_iter());
        assert_eq!((bases(&totals), &totals.totals), (vec![(1, vec![], false), (3, vec![1], true)], &vec![3]));
        for bases in totals.bases.values_mut() {
            bases.stale = false;
        }
        totals.add(&counters(&[(2, &[(2 * W + 5, 7)])]), [2 * W].into_iter());
        assert_eq!(
            (bases(&totals), &totals.totals),
            (vec![(1, vec![], false), (2, vec![1], false), (3, vec![1, 0, 7], true)], &vec![3, 0, 7])
        );
        totals.add(&counters(&[(0, &[(9 * W, 1)])]), [9 * W].into_iter());
        assert_eq!(totals.bases[&(9 * W)].values, [3, 0, 7]);
    }

    #[test]
    fn samples_go_to_the_window_of_their_time() {
        let block: Block = [(3, Samples::Gauge(vec![W - 1, W, W + 1, 2 * W], vec![1.0, 2.0, 3.0, 4.0]))].into();
        assert_eq!((window_of(W - 1), window_of(W), window_of(2 * W - 1)), (0, W, W));
        let counts: Vec<u64> = [0, W, 2 * W, 3 * W].map(|window| encode_window(&block, window).1).into();
        assert_eq!(counts, [1, 2, 1, 0]);
        assert_eq!(encode_window(&block, W).0.offsets.len(), 5);
    }
}
