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
    /// The partitions of frames that have any, in order.
    pub(super) partitions: &'a [i32],
    /// When the database server that is read started, in unix microseconds.
    pub(super) server_started: i64,
}

/// Frames of a source and half an hour that are sealed as well: what stands for their keys.
type SealedKeys = HashMap<(i32, u64), HashSet<[u8; 8]>>;

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
    let day = day_of(oldest.max(from));
    let mut take = |id, sample: UnsealedSample| if sample.at_ms < wanted.dropped_ms { Ok(()) } else { take(id, sample) };
    let found = scope.each_of_frames(conn, Layouts::Held(layouts.held(wanted.server_started, &scope.sources, day), day), &mut take).await?;
    layouts.hold(wanted.server_started, &found);
    if !found.is_empty() {
        scope.each_of_frames(conn, Layouts::Found(found), &mut take).await?;
    }
    Ok(())
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

/// Of which layouts frames are read.
enum Layouts {
    /// Of those that are held; the others that frames of a day (counted from 1970) or later ones may have are looked for. Frames with a list of their own are
    /// read as well.
    Held(Vec<LayoutList>, i32),
    /// Only of those that were found.
    Found(Vec<LayoutList>),
}

/// Which frames are read.
struct Scope {
    sources: Vec<i32>,
    /// When the partitions begin that are read, in order.
    starts: Vec<Timestamp>,
    from: Timestamp,
    until: Timestamp,
    ids: Vec<i32>,
}

/// A row of the answer, one of:
/// - what stands for the keys of frames of a source and half an hour that are sealed as well;
/// - the frames of a source, half an hour and layout: of each frame one element, or one for each value of the piece;
/// - one frame with a list of its own, as far as that is wanted;
/// - a layout: its id in place of the piece, and its last day.
#[derive(FromRow)]
struct Row {
    source_id: i32,
    /// Of keys: when their half hour begins.
    start: Option<Timestamp>,
    piece: Option<i64>,
    ats: Option<Words>,
    arrivals: Option<Words>,
    values: Option<Words>,
    times: Option<Words>,
    deltas: Option<Words>,
    /// Only where some frames are sealed as well.
    keys: Option<Vec<Uuid>>,
    ids: Option<Vec<i32>>,
    sealed_keys: Option<Vec<u8>>,
    last_day: Option<i32>,
}

/// Frames that may have samples of the time.
const OF_A_TIME: &str = "AND coalesce(frames.newest_at, frames.at) >= $2 AND coalesce(frames.oldest_at, frames.at) <= $3";

/// So many series at most are looked for in a frame's own list before it is taken apart: comparing each of them with each of the list takes a fraction of the time
/// then.
const MAX_COMPARED_SERIES: usize = 16;

/// Between which places of a frame's own list the wanted series stand.
const OWN_SPAN: &str = "CROSS JOIN LATERAL (
        SELECT min(own.place) AS first, max(own.place) AS last
        FROM (SELECT unnest(frames.series_ids) AS id, generate_subscripts(frames.series_ids, 1) AS place) AS own WHERE own.id = ANY($12)
    ) AS span";

impl Scope {
    /// Gives the samples, and the layouts that were found.
    async fn each_of_frames(
        &self,
        conn: &mut PgConnection,
        layouts: Layouts,
        take: &mut impl FnMut(i32, UnsealedSample) -> Result<(), HistoryError>,
    ) -> Result<Vec<LayoutList>, HistoryError> {
        let ids: HashSet<i32> = self.ids.iter().copied().collect();
        let (known, day) = match layouts {
            Layouts::Held(lists, day) => (lists, Some(day)),
            Layouts::Found(lists) => (lists, None),
        };
        let pieces: Vec<Piece> = known.iter().flat_map(|list| pieces(list, &ids)).collect();
        let statement = statement(self.ids.len());
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
        // Where only some layouts are asked for, everything else of their sources was read already.
        let others_of: &[i32] = if day.is_some() { &self.sources } else { &[] };
        let known_ids: Vec<i32> = known.iter().map(|list| list.id).collect();
        let mut rows = sqlx::query_as::<_, Row>(&statement)
            .bind(half_hour())
            .bind(self.from)
            .bind(self.until)
            .bind(others_of)
            .bind(&self.starts)
            .bind(sources)
            .bind(pieces_from)
            .bind(pieces_to)
            .bind(layout_ids)
            .bind(firsts)
            .bind(lasts)
            .bind(&self.ids)
            .bind(&self.sources)
            .bind(day.unwrap_or_default())
            .bind(known_ids)
            .fetch(conn);
        let (mut sealed, mut sealed_is_complete, mut found) = (SealedKeys::new(), false, Vec::new());
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            match row {
                Row { sealed_keys: Some(keys), start: Some(start), source_id, .. } if !sealed_is_complete => {
                    sealed.entry((source_id, start.0)).or_default().extend(marks(&keys).map(|mark| mark.key));
                }
                Row { last_day: Some(last_day), piece: Some(id), ids: Some(series_ids), source_id, .. } => {
                    let id = i32::try_from(id).map_err(|_| odd("a layout"))?;
                    found.push(LayoutList { id, source_id, series_ids: series_ids.into(), last_day });
                }
                Row { ats: Some(ats), arrivals: Some(arrivals), values: Some(values), .. } => {
                    sealed_is_complete = true;
                    let at = ats.millis(0).ok_or_else(|| odd("times"))?;
                    let half_hour = FRAMES.start_of(FRAMES.slot_of(millis(at)));
                    let frames = Frames { ats, arrivals, values, times: row.times, deltas: row.deltas, keys: row.keys };
                    let sealed = sealed.get(&(row.source_id, half_hour));
                    if let Some(ids) = row.ids {
                        frames.each(&ids.into_iter().map(Some).collect::<Vec<_>>(), sealed, take)?;
                    } else {
                        let piece = row.piece.and_then(|piece| pieces.get(usize::try_from(piece - 1).ok()?));
                        frames.each(&piece.ok_or_else(|| odd("a piece"))?.series, sealed, take)?;
                    }
                }
                _ => return Err(odd("kind")),
            }
        }
        found.sort_unstable_by_key(|list| (list.source_id, list.id));
        Ok(found)
    }
}

/// The statement that gives each [`Row`] of these many series.
fn statement(series: usize) -> String {
    // Rows of a UNION ALL come part by part, since no parallel workers make them. Frames that are sealed as well are rare: they are dropped soon.
    let sealed_keys = r#"WITH sealed AS MATERIALIZED (
            SELECT source_id, frames_start, keys FROM sealed_reports WHERE frames_start = ANY($5) AND source_id = ANY($13)
        )
        SELECT source_id, frames_start AS start, NULL::bigint AS piece, NULL::timestamptz[] AS ats, NULL::bigint[] AS arrivals,
            NULL::double precision[] AS "values", NULL::timestamptz[] AS times, NULL::bigint[] AS deltas, NULL::uuid[] AS keys,
            NULL::integer[] AS ids, keys AS sealed_keys, NULL::integer AS last_day
        FROM sealed"#;
    let some_are_sealed = "(SELECT EXISTS (SELECT FROM sealed))";
    let of_layouts = format!(
        r#"SELECT source.id, NULL::timestamptz, cut.*, NULL, NULL, NULL
        FROM unnest($6::integer[], $7::integer[], $8::integer[]) AS source (id, first, last)
        CROSS JOIN unnest($5::timestamptz[]) AS slot (start) CROSS JOIN LATERAL (
            SELECT source.first - 1 + piece.n AS piece, array_agg(frames.at) AS ats, array_agg(frames.arrival) AS arrivals,
                array_agg(frames."values"[piece.first:piece.last]) AS "values",
                array_agg(frames.times[piece.first:piece.last]) FILTER (WHERE frames.times IS NOT NULL) AS times,
                array_agg(frames.deltas[piece.first:piece.last]) FILTER (WHERE frames.deltas IS NOT NULL) AS deltas,
                array_agg(frames.key) FILTER (WHERE {some_are_sealed}) AS keys
            FROM frames JOIN unnest(
                ($9::integer[])[source.first:source.last], ($10::integer[])[source.first:source.last],
                ($11::integer[])[source.first:source.last]
            ) WITH ORDINALITY AS piece (layout_id, first, last, n) ON piece.layout_id = frames.layout_id
            WHERE frames.source_id = source.id AND frames.at >= slot.start AND frames.at < slot.start + $1 {OF_A_TIME}
            GROUP BY piece.n, frames.times IS NULL, frames.deltas IS NULL
        ) AS cut"#
    );
    // Few series are looked for in a frame's own list before it is taken apart, and then only the part is in which they stand.
    let (has_some, span, part) =
        if series <= MAX_COMPARED_SERIES { ("AND frames.series_ids && $12", OWN_SPAN, "[span.first:span.last]") } else { ("", "", "") };
    // These frames have an index of their own. Lists that are taken apart in the target list are not stored on the way, as they would be in FROM.
    let of_own_lists = format!(
        r#"SELECT frames.source_id, NULL, NULL, ARRAY[frames.at], ARRAY[frames.arrival], cut."values", cut.times, cut.deltas,
            CASE WHEN {some_are_sealed} THEN ARRAY[frames.key] END, cut.ids, NULL, NULL
        FROM frames
        {span}
        CROSS JOIN LATERAL (
            SELECT array_agg(own.id) AS ids, array_agg(own.value) AS "values",
                array_agg(own.at) FILTER (WHERE frames.times IS NOT NULL) AS times,
                array_agg(own.delta) FILTER (WHERE frames.deltas IS NOT NULL) AS deltas
            FROM (
                SELECT unnest(frames.series_ids{part}) AS id, unnest(frames."values"{part}) AS value, unnest(frames.times{part}) AS at,
                    unnest(frames.deltas{part}) AS delta
            ) AS own
            WHERE own.id = ANY($12) AND coalesce(own.at, frames.at) >= $2 AND coalesce(own.at, frames.at) <= $3
        ) AS cut
        WHERE frames.source_id = ANY($4) AND frames.at >= ($5::timestamptz[])[1] AND frames.series_ids IS NOT NULL {OF_A_TIME} {has_some}
            AND cut.ids IS NOT NULL"#
    );
    let other_layouts = "SELECT source_id, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, series_ids, NULL, last_day - date '1970-01-01'
        FROM layouts WHERE source_id = ANY($4) AND last_day >= date '1970-01-01' + $14 AND id <> ALL($15)";
    [sealed_keys, &of_layouts, &of_own_lists, other_layouts].join(" UNION ALL ")
}

/// Frames of a source and half an hour.
struct Frames {
    ats: Words,
    arrivals: Words,
    values: Words,
    times: Option<Words>,
    deltas: Option<Words>,
    keys: Option<Vec<Uuid>>,
}

impl Frames {
    /// Gives the samples of the series that stand at these places, but for those of frames that are sealed.
    fn each(
        &self,
        series: &[Option<i32>],
        sealed: Option<&HashSet<[u8; 8]>>,
        take: &mut impl FnMut(i32, UnsealedSample) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        let (width, frames) = (series.len(), self.ats.len());
        let whole = |words: &Words| words.len() == frames * width;
        if !whole(&self.values) || !self.times.as_ref().is_none_or(whole) || !self.deltas.as_ref().is_none_or(whole) {
            return Err(odd("values"));
        }
        for frame in 0..frames {
            let key = self.keys.as_ref().and_then(|keys| keys.get(frame));
            if sealed.zip(key).is_some_and(|(sealed, key)| sealed.contains(&key_mark(*key))) {
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

fn odd(what: &str) -> HistoryError {
    crate::store::StoreError::Unavailable(format!("the database holds a frame whose {what} do not fit its list of series")).into()
}
