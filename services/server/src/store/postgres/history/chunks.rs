//! Sealed samples: columns cut out of the rows of `chunks`. A row's times are for all of its columns, and are decoded once for all that are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use golectra_chunks::Times;
use golectra_promql::Reservation;
use sqlx::{FromRow, PgConnection};

use super::chunk_cache::{ChunkView, Cut, ENTRY_BYTES, PartCut, PieceKey};
use super::failed;
use crate::store::history::{CorruptHistory, HistoryError, TimeRange};
use crate::store::postgres::sealer::WINDOW_MILLIS;
use crate::store::postgres::timestamp::Timestamp;

/// How many series have their columns in one row.
pub(super) const BLOCK_SERIES: i32 = 64;
/// Columns that stand so close in a row are cut out in one piece.
const MAX_GAP: i32 = 4;
/// A read of more pieces and windows than this does not use the cache: it would take all of it.
const MAX_LOOKUPS: usize = 100_000;

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

    fn corrupt(&self, window_start_ms: i64, part: i16, problem: &impl std::fmt::Display) -> CorruptHistory {
        corrupt(self.block_id * BLOCK_SERIES + self.first, window_start_ms, part, problem)
    }

    /// Gives each wanted column of a row that is not empty, and charges them.
    fn each_column(
        &self,
        window_start_ms: i64,
        part: i16,
        cut: &Cut,
        reservation: &mut Reservation,
        take: &mut impl FnMut(SealedColumn) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        let Cut { times, offsets, data, bases } = cut;
        let columns = offsets.len().saturating_sub(1).min(self.slots.count_ones() as usize);
        reservation.grow(cut.memory_bytes() + columns * size_of::<SealedColumn>())?;
        let begin = offsets.first().copied().unwrap_or_default();
        let within = |offset: i32| usize::try_from(offset - begin).ok().filter(|offset| *offset <= data.len());
        for (index, ends) in offsets.windows(2).enumerate() {
            let slot = self.first + i32::try_from(index).unwrap_or(i32::MAX);
            if self.slots & (1 << slot) == 0 || ends[0] == ends[1] {
                continue;
            }
            let bytes = within(ends[0]).zip(within(ends[1])).filter(|(from, to)| from <= to);
            let (from, to) = bytes.ok_or_else(|| self.corrupt(window_start_ms, part, &"its offsets"))?;
            take(SealedColumn {
                series_id: self.block_id * BLOCK_SERIES + slot,
                window_start_ms,
                part,
                times: Arc::clone(times),
                data: data.slice(from..to),
                base: bases.as_ref().and_then(|bases| bases.get(index).copied().flatten()).unwrap_or_default(),
            })?;
        }
        Ok(())
    }
}

#[derive(FromRow)]
struct Row {
    /// The place of its piece in what is asked for, from 1 on.
    place: i64,
    window_start: Timestamp,
    part: i16,
    times: Vec<u8>,
    offsets: Vec<i32>,
    data: Vec<u8>,
    bases: Option<Vec<Option<i64>>>,
}

/// What the database is asked for: a piece, from one window to another.
struct Asked<'a> {
    piece: &'a Piece,
    from_ms: i64,
    to_ms: i64,
    /// These windows, and what was read of them. None where no cache is used.
    windows: Option<BTreeMap<i64, Vec<PartCut>>>,
}

/// Gives each column of these series that may have samples in the time, in no order, and charges what they take; or only those of these blocks and windows. An
/// error of `take` ends it. The database is asked only for what the cache does not have.
pub(super) async fn each(
    conn: &mut PgConnection,
    cache: Option<&ChunkView<'_>>,
    series_ids: &[i32],
    range: TimeRange,
    only: Option<&BTreeSet<(i32, i64)>>,
    reservation: &mut Reservation,
    mut take: impl FnMut(SealedColumn) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    let (from_ms, to_ms) = (range.start_ms.div_euclid(WINDOW_MILLIS).saturating_mul(WINDOW_MILLIS), range.end_ms);
    if series_ids.is_empty() || from_ms > to_ms {
        return Ok(());
    }
    let pieces = pieces(series_ids);
    let windows = cache.map(|cache| cache.windows(from_ms, to_ms)).unwrap_or_default();
    let wanted_of =
        |piece: &Piece| only.map(|only| only.range((piece.block_id, from_ms)..=(piece.block_id, to_ms)).map(|(_, window)| *window));
    let lookups: usize = pieces.iter().map(|piece| wanted_of(piece).map_or(windows.len(), Iterator::count)).sum();
    let cache = cache.filter(|_| lookups <= MAX_LOOKUPS);
    let mut asked: Vec<Asked<'_>> = Vec::new();
    let mut missing_bytes = 0;
    for piece in &pieces {
        let of_piece = wanted_of(piece).map(Iterator::collect::<Vec<i64>>);
        let Some(cache) = cache else {
            let (from_ms, to_ms) = of_piece
                .as_ref()
                .map_or((from_ms, to_ms), |wanted| wanted.first().zip(wanted.last()).map_or((1, 0), |(first, last)| (*first, *last)));
            asked.extend((from_ms <= to_ms).then_some(Asked { piece, from_ms, to_ms, windows: None }));
            continue;
        };
        let wanted = of_piece.as_ref().unwrap_or(&windows);
        // Windows that follow each other are asked for together.
        let mut is_run = false;
        for (window, rows) in wanted.iter().zip(cache.rows(piece.key(), wanted)) {
            if let Some(rows) = rows {
                is_run = false;
                rows.iter().try_for_each(|(part, cut)| piece.each_column(*window, *part, cut, reservation, &mut take))?;
                continue;
            }
            if !is_run {
                asked.push(Asked { piece, from_ms: *window, to_ms: *window, windows: Some(BTreeMap::new()) });
                is_run = true;
            }
            if let Some(Asked { to_ms, windows: Some(windows), .. }) = asked.last_mut() {
                reservation.grow(ENTRY_BYTES)?;
                missing_bytes += ENTRY_BYTES;
                *to_ms = *window;
                windows.insert(*window, Vec::new());
            }
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    read(conn, &mut asked, only, reservation, &mut take).await?;
    for Asked { piece, windows, .. } in asked {
        for (window, rows) in windows.into_iter().flatten() {
            cache.inspect(|cache| cache.put(piece.key(), window, rows));
        }
    }
    reservation.shrink(missing_bytes);
    Ok(())
}

/// Reads what is asked for, gives each column of it, and puts the rows to the windows that want them.
async fn read(
    conn: &mut PgConnection,
    asked: &mut [Asked<'_>],
    only: Option<&BTreeSet<(i32, i64)>>,
    reservation: &mut Reservation,
    take: &mut impl FnMut(SealedColumn) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    // OFFSET keeps the planner from joining the other way round, which reads all blocks of the time where there are few. The times of all pieces leave out
    // partitions before the statement begins.
    let statement = "SELECT piece.n AS place, cut.*
        FROM unnest($1::integer[], $2::integer[], $3::integer[], $4::timestamptz[], $5::timestamptz[]) WITH ORDINALITY
            AS piece (block_id, first, last, start, until, n)
        CROSS JOIN LATERAL (
            SELECT window_start, part, times, bases[piece.first + 1:piece.last + 1] AS bases,
                offsets[piece.first + 1:least(piece.last + 2, cardinality(offsets))] AS offsets,
                substring(data FROM offsets[piece.first + 1] + 1
                    FOR offsets[least(piece.last + 2, cardinality(offsets))] - offsets[piece.first + 1]) AS data
            FROM chunks
            WHERE block_id = piece.block_id AND window_start >= piece.start AND window_start <= piece.until
                AND window_start >= $6 AND window_start <= $7
                AND offsets[piece.first + 1] < offsets[least(piece.last + 2, cardinality(offsets))]
                AND ($8 OR (block_id, window_start) IN (SELECT * FROM unnest($9::integer[], $10::timestamptz[])))
            OFFSET 0
        ) AS cut";
    let numbers = |of: fn(&Piece) -> i32| -> Vec<i32> { asked.iter().map(|asked| of(asked.piece)).collect() };
    let starts: Vec<Timestamp> = asked.iter().map(|asked| Timestamp::from_millis(asked.from_ms)).collect();
    let ends: Vec<Timestamp> = asked.iter().map(|asked| Timestamp::from_millis(asked.to_ms)).collect();
    let (only_blocks, only_windows): (Vec<i32>, Vec<Timestamp>) =
        only.into_iter().flatten().map(|(block_id, window)| (*block_id, Timestamp::from_millis(*window))).unzip();
    let mut rows = sqlx::query_as::<_, Row>(statement)
        .bind(numbers(|piece| piece.block_id))
        .bind(numbers(|piece| piece.first))
        .bind(numbers(|piece| piece.last))
        .bind(&starts)
        .bind(&ends)
        .bind(starts.iter().min())
        .bind(ends.iter().max())
        .bind(only.is_none())
        .bind(only_blocks)
        .bind(only_windows)
        .fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let window = i64::try_from(row.window_start.0).unwrap_or(i64::MAX);
        let Some(asked) = usize::try_from(row.place - 1).ok().and_then(|place| asked.get_mut(place)) else { continue };
        let times = Times::decode(&row.times).map_err(|error| asked.piece.corrupt(window, row.part, &error))?;
        let cut = Arc::new(Cut { times: Arc::new(times), offsets: row.offsets, data: Bytes::from(row.data), bases: row.bases });
        asked.piece.each_column(window, row.part, &cut, reservation, take)?;
        if let Some(rows) = asked.windows.as_mut().and_then(|windows| windows.get_mut(&window)) {
            rows.push((row.part, cut));
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
    let end = Timestamp::from_millis(end_ms);
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
