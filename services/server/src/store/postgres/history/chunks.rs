//! Sealed samples: columns cut out of the rows of `chunks`. A row's times are for all of its columns, and are decoded once for all that are read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use golectra_chunks::Times;
use sqlx::{FromRow, PgConnection};

use super::chunk_cache::{ChunkCache, Cut, PieceKey, RowKey};
use super::failed;
use crate::store::history::{CorruptHistory, HistoryError, TimeRange};
use crate::store::postgres::sealer::WINDOW_MILLIS;
use crate::store::postgres::timestamp::Timestamp;

/// How many series have their columns in one row.
pub(super) const BLOCK_SERIES: i32 = 64;
/// Columns that stand so close in a row are cut out in one piece.
const MAX_GAP: i32 = 4;
/// So many rows of the cache at most are named to the database in one read.
const MAX_KNOWN: usize = 20_000;

/// The samples of one series in one row.
pub(super) struct SealedColumn {
    pub(super) series_id: i32,
    pub(super) window_start_ms: i64,
    /// Of the rows of one window the later ones have higher parts.
    pub(super) part: i16,
    pub(super) times: Arc<Times>,
    /// Not empty.
    pub(super) data: Bytes,
    /// A counter's total when the window begins.
    pub(super) base: i64,
}

impl SealedColumn {
    /// What can't be decoded, and where it is.
    pub(super) fn corrupt(&self, problem: &impl std::fmt::Display) -> CorruptHistory {
        corrupt(self.series_id, self.window_start_ms, self.part, problem)
    }
}

fn corrupt(series_id: i32, window_start_ms: i64, part: i16, problem: &impl std::fmt::Display) -> CorruptHistory {
    let window_start = window_start_ms / 1000;
    CorruptHistory(format!(
        "series {series_id} in the chunk of block {} at {window_start}, part {part}: {problem}",
        series_id / BLOCK_SERIES
    ))
}

/// Slots of a block, from `first` to `last`, of which some are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) block_id: i32,
    pub(super) first: i32,
    pub(super) last: i32,
    /// The wanted slots, as bits.
    pub(super) slots: u64,
}

impl Piece {
    fn key(&self) -> PieceKey {
        (self.block_id, self.first, self.last)
    }
}

#[derive(FromRow)]
struct Row {
    piece: i64,
    window_start: Timestamp,
    part: i16,
    version: i64,
    /// None where the cache has the row, as what follows.
    times: Option<Vec<u8>>,
    offsets: Option<Vec<i32>>,
    data: Option<Vec<u8>>,
    bases: Option<Vec<Option<i64>>>,
}

/// Rows that the cache has, by the place of their piece, as the statement asks for them.
#[derive(Default)]
struct Known {
    cuts: HashMap<(usize, RowKey), Arc<Cut>>,
    pieces: Vec<i64>,
    windows: Vec<Timestamp>,
    parts: Vec<i16>,
    versions: Vec<i64>,
}

impl Known {
    fn of(
        cache: &ChunkCache,
        server_started: i64,
        pieces: &[Piece],
        (from_ms, to_ms): (i64, i64),
        only: Option<&BTreeSet<(i32, i64)>>,
    ) -> Self {
        let mut known = Self::default();
        for (place, piece) in pieces.iter().enumerate() {
            for (row, cut) in cache.rows(server_started, piece.key(), from_ms, to_ms) {
                if known.parts.len() == MAX_KNOWN {
                    return known;
                }
                if only.is_some_and(|only| !only.contains(&(piece.block_id, row.0))) {
                    continue;
                }
                known.pieces.push(i64::try_from(place + 1).unwrap_or(i64::MAX));
                known.windows.push(Timestamp(u64::try_from(row.0).unwrap_or(0)));
                known.parts.push(row.1);
                known.versions.push(cut.version);
                known.cuts.insert((place, row), cut);
            }
        }
        known
    }
}

/// Gives each column of these series that may have samples in the time, in no order, and how much memory it takes; or only those of these blocks and windows. An
/// error of `take` ends it. The database, which started then, sends only what the cache does not have.
pub(super) async fn each(
    conn: &mut PgConnection,
    (cache, server_started): (&ChunkCache, i64),
    series_ids: &[i32],
    range: TimeRange,
    only: Option<&BTreeSet<(i32, i64)>>,
    mut take: impl FnMut(SealedColumn, usize) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    if series_ids.is_empty() || only.is_some_and(BTreeSet::is_empty) {
        return Ok(());
    }
    let pieces = pieces(series_ids);
    let block_ids: Vec<i32> = pieces.iter().map(|piece| piece.block_id).collect();
    let firsts: Vec<i32> = pieces.iter().map(|piece| piece.first).collect();
    let lasts: Vec<i32> = pieces.iter().map(|piece| piece.last).collect();
    let from = range.start_ms.div_euclid(WINDOW_MILLIS).saturating_mul(WINDOW_MILLIS);
    let known = Known::of(cache, server_started, &pieces, (from, range.end_ms), only);
    // OFFSET keeps the planner from joining the other way round, which reads all blocks of the time where there are few; from looking up more than once
    // whether a row is known; and from doing so in the scan of each partition, which would each make a hash table of all known rows. What is stored apart from
    // a known row, its data, is not read.
    let statement = "SELECT piece.n AS piece, cut.*
        FROM unnest($1::integer[], $2::integer[], $3::integer[]) WITH ORDINALITY AS piece (block_id, first, last, n)
        CROSS JOIN LATERAL (
            SELECT window_start, part, version,
                CASE WHEN NOT is_known THEN times END AS times,
                CASE WHEN NOT is_known THEN bases[piece.first + 1:piece.last + 1] END AS bases,
                CASE WHEN NOT is_known THEN offsets[piece.first + 1:least(piece.last + 2, cardinality(offsets))] END AS offsets,
                CASE WHEN NOT is_known THEN substring(data FROM offsets[piece.first + 1] + 1
                    FOR offsets[least(piece.last + 2, cardinality(offsets))] - offsets[piece.first + 1]) END AS data
            FROM (
                SELECT stored.*, (piece.n, window_start, part, version)
                    IN (SELECT * FROM unnest($9::bigint[], $10::timestamptz[], $11::smallint[], $12::bigint[])) AS is_known
                FROM (
                    SELECT window_start, part, times, bases, offsets, data, xmin::text::bigint AS version
                    FROM chunks
                    WHERE block_id = piece.block_id AND window_start >= $4 AND window_start <= $5
                        AND ($6 OR (block_id, window_start) IN (SELECT * FROM unnest($7::integer[], $8::timestamptz[])))
                    OFFSET 0
                ) AS stored
                OFFSET 0
            ) AS chunk
            WHERE CASE WHEN is_known THEN true ELSE offsets[piece.first + 1] < offsets[least(piece.last + 2, cardinality(offsets))] END
            OFFSET 0
        ) AS cut";
    let (only_blocks, only_windows): (Vec<i32>, Vec<Timestamp>) =
        only.into_iter().flatten().map(|(block_id, window)| (*block_id, Timestamp(u64::try_from(*window).unwrap_or(0)))).unzip();
    let mut rows = sqlx::query_as::<_, Row>(statement)
        .bind(block_ids)
        .bind(firsts)
        .bind(lasts)
        .bind(Timestamp(u64::try_from(from).unwrap_or(0)))
        .bind(Timestamp(u64::try_from(range.end_ms).unwrap_or(0)))
        .bind(only.is_none())
        .bind(only_blocks)
        .bind(only_windows)
        .bind(&known.pieces)
        .bind(&known.windows)
        .bind(&known.parts)
        .bind(&known.versions)
        .fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let window_start_ms = i64::try_from(row.window_start.0).unwrap_or(i64::MAX);
        let place = usize::try_from(row.piece - 1).unwrap_or(usize::MAX);
        let Some(piece) = pieces.get(place) else { continue };
        let first_id = piece.block_id * BLOCK_SERIES + piece.first;
        let damaged = |problem: &dyn std::fmt::Display| HistoryError::from(corrupt(first_id, window_start_ms, row.part, &problem));
        let key = (window_start_ms, row.part);
        let (cut, is_hit) = match (row.times, row.offsets, row.data) {
            (Some(times), Some(offsets), Some(data)) => {
                let times = Arc::new(Times::decode(&times).map_err(|error| damaged(&error))?);
                (Arc::new(Cut { version: row.version, times, offsets, data: Bytes::from(data), bases: row.bases }), false)
            }
            _ => (known.cuts.get(&(place, key)).cloned().ok_or_else(|| damaged(&"it was not sent"))?, true),
        };
        cache.put(server_started, piece.key(), key, &cut, is_hit);
        let Cut { times, data, .. } = &*cut;
        let begin = cut.offsets.first().copied().unwrap_or_default();
        // The row's memory is counted with its first column.
        let mut bytes = cut.memory_bytes();
        for (index, ends) in cut.offsets.windows(2).enumerate() {
            let slot = piece.first + i32::try_from(index).unwrap_or(i32::MAX);
            if piece.slots & (1 << slot) == 0 || ends[0] == ends[1] {
                continue;
            }
            let within = |offset: i32| usize::try_from(offset - begin).ok().filter(|offset| *offset <= data.len());
            let (from, to) = within(ends[0]).zip(within(ends[1])).filter(|(from, to)| from <= to).ok_or_else(|| damaged(&"its offsets"))?;
            let base = cut.bases.as_ref().and_then(|bases| bases.get(index).copied().flatten()).unwrap_or_default();
            let column = SealedColumn {
                series_id: piece.block_id * BLOCK_SERIES + slot,
                window_start_ms,
                part: row.part,
                times: Arc::clone(times),
                data: data.slice(from..to),
                base,
            };
            take(column, std::mem::take(&mut bytes) + size_of::<SealedColumn>())?;
        }
    }
    Ok(())
}

/// The slots of each block, in pieces.
pub(super) fn pieces(series_ids: &[i32]) -> Vec<Piece> {
    let mut blocks: BTreeMap<i32, u64> = BTreeMap::new();
    for id in series_ids {
        *blocks.entry(id / BLOCK_SERIES).or_default() |= 1 << (id % BLOCK_SERIES);
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for (block_id, slots) in blocks {
        for slot in (0..BLOCK_SERIES).filter(|slot| slots & (1 << slot) != 0) {
            match pieces.last_mut() {
                Some(piece) if piece.block_id == block_id && slot - piece.last <= MAX_GAP => piece.last = slot,
                _ => pieces.push(Piece { block_id, first: slot, last: slot, slots }),
            }
        }
    }
    pieces
}

/// Gives the total that each counter has when the first window after this time begins: of counters without a sealed sample up to then what was sealed
/// before.
pub(super) async fn each_total_after(
    conn: &mut PgConnection,
    series_ids: &[i32],
    end_ms: i64,
    mut take: impl FnMut(i32, i64),
) -> Result<(), sqlx::Error> {
    if series_ids.is_empty() {
        return Ok(());
    }
    let mut blocks: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for id in series_ids {
        blocks.entry(id / BLOCK_SERIES).or_default().push(*id);
    }
    let block_ids: Vec<i32> = blocks.keys().copied().collect();
    let statement = "SELECT block.id, coalesce(
            (SELECT coalesce(chunks.bases, '{}') FROM chunks WHERE chunks.block_id = block.id AND chunks.window_start > $2
                ORDER BY chunks.window_start, chunks.part LIMIT 1),
            (SELECT totals FROM sealed_totals WHERE sealed_totals.block_id = block.id)
        ) FROM unnest($1::integer[]) AS block (id)";
    let end = Timestamp(u64::try_from(end_ms).unwrap_or(0));
    let mut rows = sqlx::query_as::<_, (i32, Option<Vec<Option<i64>>>)>(statement).bind(block_ids).bind(end).fetch(conn);
    while let Some((block_id, totals)) = rows.try_next().await? {
        let Some((totals, ids)) = totals.zip(blocks.get(&block_id)) else { continue };
        for id in ids {
            let total = usize::try_from(id % BLOCK_SERIES).ok().and_then(|slot| totals.get(slot).copied().flatten());
            take(*id, total.unwrap_or_default());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_stand_close_are_one_piece() {
        let piece = |block_id, first, last, slots| Piece { block_id, first, last, slots };
        assert_eq!(pieces(&[]), []);
        assert_eq!(pieces(&[64]), [piece(1, 0, 0, 1)]);
        assert_eq!(pieces(&[68, 64, 63]), [piece(0, 63, 63, 1 << 63), piece(1, 0, 4, 0b1_0001)]);
        assert_eq!(pieces(&[0, 5]), [piece(0, 0, 0, 0b10_0001), piece(0, 5, 5, 0b10_0001)]);
    }
}
