//! The samples that are not sealed yet, cut out of frames.
//!
//! A frame has one value for each series of a list, mostly one that many frames share, a layout. Where the wanted series stand in a layout is worked
//! out here; the database cuts just these values out, reads each frame once for all series of its source that stand side by side, and gives the
//! frames of half an hour as one row, so that a row stays small.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::failed;
use super::layouts::{LayoutList, LayoutLists};
use crate::store::history::HistoryError;
use crate::store::postgres::partitions::{FRAMES, day_of};
use crate::store::postgres::sealed::{key_mark, marks};
use crate::store::postgres::timestamp::Timestamp;
use crate::store::postgres::words::Words;
use crate::store::postgres::writer::as_delta;

/// Wanted values that stand so close in a frame are cut out in one piece.
const MAX_GAP: usize = 16;

/// A sample that is not sealed. Ordered by its time, then by its arrival.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnsealedSample {
    pub(super) at_ms: i64,
    pub(super) arrival: i64,
    /// A gauge's value.
    pub(super) value: f64,
    /// What was added to a counter.
    pub(super) delta: i64,
}

/// Whose samples are wanted, and from when.
pub(super) struct Wanted<'a> {
    /// The series with their sources.
    pub(super) series: &'a [(i32, i32)],
    /// Samples before this may be left out.
    pub(super) start_ms: i64,
    /// Samples after this may be left out.
    pub(super) end_ms: i64,
    /// Samples before this are left out: the others of their time were dropped, and they are not sealed any more.
    pub(super) dropped_ms: i64,
    /// The partitions of frames that there are, in order.
    pub(super) partitions: &'a [i32],
}

/// Frames of a source and half an hour that are sealed as well: what stands for their keys.
type SealedKeys = HashMap<(i32, i64), HashSet<[u8; 8]>>;

/// A piece of a layout: the places from `first` to `last`, counted from 1, of which some are wanted.
struct Piece {
    source_id: i32,
    layout_id: i32,
    first: i32,
    last: i32,
    /// For each place the wanted series that stands there.
    series: Box<[Option<i32>]>,
}

/// Gives each wanted sample, as it comes from the database, with its series. An error of `take` ends it.
pub(super) async fn each(
    conn: &mut PgConnection,
    layouts: &LayoutLists,
    wanted: &Wanted<'_>,
    mut take: impl FnMut(i32, UnsealedSample) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    if wanted.series.is_empty() {
        return Ok(());
    }
    // No sample is newer than its frame; one with a time of its own may be older.
    let from = millis(wanted.start_ms);
    let slots: Vec<i32> = wanted.partitions.iter().copied().filter(|slot| FRAMES.end_of(*slot) > from).collect();
    let Some(oldest) = slots.first().map(|slot| FRAMES.start_of(*slot)) else { return Ok(()) };
    let scope = Scope {
        sources: wanted.series.iter().map(|(source_id, _)| *source_id).collect::<HashSet<_>>().into_iter().collect(),
        starts: slots.iter().map(|slot| Timestamp(FRAMES.start_of(*slot))).collect(),
        from: Timestamp(from),
        until: Timestamp(millis(wanted.end_ms)),
        ids: wanted.series.iter().map(|(_, id)| *id).collect(),
    };
    let (layout_ids, sealed) = scope.layouts_and_sealed_keys(conn, day_of(oldest.max(from))).await.map_err(failed)?;
    let of_sources = layouts.of_ids(conn, layout_ids).await.map_err(failed)?;
    let ids: HashSet<i32> = scope.ids.iter().copied().collect();
    let pieces: Vec<Piece> = of_sources.iter().flat_map(|list| pieces(list, &ids)).collect();
    let mut take = |id, sample: UnsealedSample| if sample.at_ms < wanted.dropped_ms { Ok(()) } else { take(id, sample) };
    scope.each_of_frames(conn, &pieces, &sealed, &mut take).await
}

fn millis(unix_millis: i64) -> u64 {
    u64::try_from(unix_millis).unwrap_or(0)
}

/// The places of a list that are wanted, in pieces.
fn pieces(layout: &LayoutList, wanted: &HashSet<i32>) -> Vec<Piece> {
    let ids = &layout.series_ids;
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    for place in (0..ids.len()).filter(|place| wanted.contains(&ids[*place])) {
        match pieces.last_mut() {
            Some((_, last)) if place - *last <= MAX_GAP => *last = place,
            _ => pieces.push((place, place)),
        }
    }
    let piece = |(first, last): (usize, usize)| Piece {
        source_id: layout.source_id,
        layout_id: layout.id,
        first: number(first),
        last: number(last),
        series: ids[first..=last].iter().map(|id| wanted.contains(id).then_some(*id)).collect(),
    };
    pieces.into_iter().map(piece).collect()
}

/// A place as PostgreSQL counts, from 1.
fn number(place: usize) -> i32 {
    i32::try_from(place + 1).unwrap_or(i32::MAX)
}

/// Which frames are read.
struct Scope {
    sources: Vec<i32>,
    /// When the partitions begin that are read.
    starts: Vec<Timestamp>,
    from: Timestamp,
    until: Timestamp,
    ids: Vec<i32>,
}

/// The frames of a source, half an hour and layout: of each frame one element, or one for each value of the piece. Or one frame with a list of its own,
/// as far as that is wanted.
#[derive(FromRow)]
struct FramesRow {
    source_id: i32,
    start: Timestamp,
    piece: Option<i64>,
    ats: Words,
    arrivals: Words,
    values: Words,
    times: Option<Words>,
    deltas: Option<Words>,
    keys: Option<Vec<Uuid>>,
    ids: Option<Vec<i32>>,
}

/// Frames of a source and a half hour. Each is found by the primary key.
const OF_A_HALF_HOUR: &str = "frames.source_id = source.id AND frames.at >= slot.start AND frames.at < slot.start + $1
    AND coalesce(frames.newest_at, frames.at) >= $2 AND coalesce(frames.oldest_at, frames.at) <= $3";

/// So many series at most are looked for in a frame's own list before it is taken apart: comparing each of them with each of the list takes a fraction of the time
/// then.
const MAX_COMPARED_SERIES: usize = 16;

/// Between which places of a frame's own list the wanted series stand.
const OWN_SPAN: &str = "CROSS JOIN LATERAL (
        SELECT min(own.place) AS first, max(own.place) AS last
        FROM (SELECT unnest(frames.series_ids) AS id, generate_subscripts(frames.series_ids, 1) AS place) AS own WHERE own.id = ANY($13)
    ) AS span";

impl Scope {
    /// The layouts that frames of this day (counted from 1970) or later ones may have, and the keys of frames that are sealed as well. Mostly there are
    /// none of these: sealed frames are dropped soon.
    async fn layouts_and_sealed_keys(&self, conn: &mut PgConnection, day: i32) -> Result<(Vec<i32>, SealedKeys), sqlx::Error> {
        let statement = "SELECT id, NULL::timestamptz AS start, NULL::bytea AS keys FROM layouts
            WHERE source_id = ANY($2) AND last_day >= date '1970-01-01' + $3
            UNION ALL SELECT source_id, frames_start, keys FROM sealed_reports WHERE frames_start = ANY($1) AND source_id = ANY($2)";
        let query = sqlx::query_as::<_, (i32, Option<Timestamp>, Option<Vec<u8>>)>(statement);
        let mut rows = query.bind(&self.starts).bind(&self.sources).bind(day).fetch(conn);
        let (mut layouts, mut sealed) = (Vec::new(), SealedKeys::new());
        while let Some((id, start, keys)) = rows.try_next().await? {
            match start.zip(keys) {
                Some((start, keys)) => sealed.entry((id, millis_of(start))).or_default().extend(marks(&keys).map(|mark| mark.key)),
                None => layouts.push(id),
            }
        }
        Ok((layouts, sealed))
    }

    async fn each_of_frames(
        &self,
        conn: &mut PgConnection,
        pieces: &[Piece],
        sealed: &SealedKeys,
        take: &mut impl FnMut(i32, UnsealedSample) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        let of_layouts = format!(
            r#"SELECT source.id AS source_id, slot.start, cut.*, NULL::integer[] AS ids
            FROM unnest($6::integer[], $7::integer[], $8::integer[]) AS source (id, first, last)
            CROSS JOIN unnest($5::timestamptz[]) AS slot (start) CROSS JOIN LATERAL (
                SELECT source.first - 1 + piece.n AS piece, array_agg(frames.at) AS ats, array_agg(frames.arrival) AS arrivals,
                    array_agg(frames."values"[piece.first:piece.last]) AS "values",
                    array_agg(frames.times[piece.first:piece.last]) FILTER (WHERE frames.times IS NOT NULL) AS times,
                    array_agg(frames.deltas[piece.first:piece.last]) FILTER (WHERE frames.deltas IS NOT NULL) AS deltas,
                    array_agg(frames.key) FILTER (WHERE $9) AS keys
                FROM frames JOIN unnest(
                    ($10::integer[])[source.first:source.last], ($11::integer[])[source.first:source.last],
                    ($12::integer[])[source.first:source.last]
                ) WITH ORDINALITY AS piece (layout_id, first, last, n) ON piece.layout_id = frames.layout_id
                WHERE {OF_A_HALF_HOUR}
                GROUP BY piece.n, frames.times IS NULL, frames.deltas IS NULL
            ) AS cut UNION ALL "#
        );
        // Few series are looked for in a frame's own list before it is taken apart, and then only the part is in which they stand.
        let (has_some, span, part) = if self.ids.len() <= MAX_COMPARED_SERIES {
            ("AND frames.series_ids && $13", OWN_SPAN, "[span.first:span.last]")
        } else {
            ("", "", "")
        };
        // Lists that are taken apart in the target list are not stored on the way, as they would be in FROM.
        let statement = format!(
            r#"{of_layouts}SELECT source.id, slot.start, NULL, ARRAY[frames.at], ARRAY[frames.arrival], cut."values", cut.times, cut.deltas,
                ARRAY[frames.key], cut.ids
            FROM unnest($4::integer[]) AS source (id) CROSS JOIN unnest($5::timestamptz[]) AS slot (start)
            JOIN frames ON {OF_A_HALF_HOUR} AND frames.series_ids IS NOT NULL {has_some}
            {span}
            CROSS JOIN LATERAL (
                SELECT array_agg(own.id) AS ids, array_agg(own.value) AS "values",
                    array_agg(own.at) FILTER (WHERE frames.times IS NOT NULL) AS times,
                    array_agg(own.delta) FILTER (WHERE frames.deltas IS NOT NULL) AS deltas
                FROM (
                    SELECT unnest(frames.series_ids{part}) AS id, unnest(frames."values"{part}) AS value, unnest(frames.times{part}) AS at,
                        unnest(frames.deltas{part}) AS delta
                ) AS own
                WHERE own.id = ANY($13) AND coalesce(own.at, frames.at) >= $2 AND coalesce(own.at, frames.at) <= $3
            ) AS cut
            WHERE cut.ids IS NOT NULL"#
        );
        let layout_ids: Vec<i32> = pieces.iter().map(|piece| piece.layout_id).collect();
        let firsts: Vec<i32> = pieces.iter().map(|piece| piece.first).collect();
        let lasts: Vec<i32> = pieces.iter().map(|piece| piece.last).collect();
        let (mut sources, mut pieces_from, mut pieces_to) = (Vec::new(), Vec::new(), Vec::new());
        let mut pieces_before = 0;
        for of_source in pieces.chunk_by(|one, other| one.source_id == other.source_id) {
            sources.extend(of_source.first().map(|piece| piece.source_id));
            pieces_from.push(number(pieces_before));
            pieces_before += of_source.len();
            pieces_to.push(number(pieces_before - 1));
        }
        let mut rows = sqlx::query_as::<_, FramesRow>(&statement)
            .bind(half_hour())
            .bind(self.from)
            .bind(self.until)
            .bind(&self.sources)
            .bind(&self.starts)
            .bind(sources)
            .bind(pieces_from)
            .bind(pieces_to)
            .bind(!sealed.is_empty())
            .bind(layout_ids)
            .bind(firsts)
            .bind(lasts)
            .bind(&self.ids)
            .fetch(conn);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let series: Vec<Option<i32>>;
            let series: &[Option<i32>] = match (&row.ids, row.piece) {
                (Some(ids), _) => {
                    series = ids.iter().copied().map(Some).collect();
                    &series
                }
                (None, Some(piece)) => {
                    let piece = usize::try_from(piece - 1).ok().and_then(|piece| pieces.get(piece));
                    &piece.ok_or_else(|| odd("a piece"))?.series
                }
                (None, None) => continue,
            };
            row.each(series, sealed, take)?;
        }
        Ok(())
    }
}

impl FramesRow {
    /// Gives the samples of the series that stand at these places.
    fn each(
        &self,
        series: &[Option<i32>],
        sealed: &SealedKeys,
        take: &mut impl FnMut(i32, UnsealedSample) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        let (width, frames) = (series.len(), self.ats.len());
        let whole = |words: &Words| words.len() == frames * width;
        if !whole(&self.values) || !self.times.as_ref().is_none_or(whole) || !self.deltas.as_ref().is_none_or(whole) {
            return Err(odd("values"));
        }
        let is_sealed = sealed.get(&(self.source_id, millis_of(self.start)));
        for frame in 0..frames {
            let key = self.keys.as_ref().and_then(|keys| keys.get(frame));
            if is_sealed.zip(key).is_some_and(|(sealed, key)| sealed.contains(&key_mark(*key))) {
                continue;
            }
            for (place, id) in series.iter().enumerate().filter_map(|(place, id)| Some((frame * width + place, (*id)?))) {
                let own = self.times.as_ref().and_then(|times| times.millis(place));
                let at_ms = own.or_else(|| self.ats.millis(frame)).ok_or_else(|| odd("times"))?;
                let arrival = self.arrivals.integer(frame).ok_or_else(|| odd("arrivals"))?;
                let value = self.values.double(place).ok_or_else(|| odd("values"))?;
                let delta = self.deltas.as_ref().and_then(|deltas| deltas.integer(place)).unwrap_or_else(|| as_delta(value));
                take(id, UnsealedSample { at_ms, arrival, value, delta })?;
            }
        }
        Ok(())
    }
}

fn half_hour() -> sqlx::postgres::types::PgInterval {
    let microseconds = i64::try_from(FRAMES.span_millis * 1000).unwrap_or(i64::MAX);
    sqlx::postgres::types::PgInterval { months: 0, days: 0, microseconds }
}

fn millis_of(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn odd(what: &str) -> HistoryError {
    crate::store::StoreError::Unavailable(format!("the database holds a frame whose {what} do not fit its list of series")).into()
}
