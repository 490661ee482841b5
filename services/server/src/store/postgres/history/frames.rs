//! The samples that are not sealed yet, cut out of frames.
//!
//! A frame has one value for each series of a list, mostly one that many frames share, a layout. Where the wanted series stand in a layout is worked
//! out here; the database cuts just these values out, reads a frame once for all series of its source that stand side by side, and gives the
//! frames of half an hour as one row, so that a row stays small. What is asked for again comes from [`super::frame_cache`], and only newer frames are read.

mod columns;
mod question;
mod statement;

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use golectra_promql::Reservation;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

pub(super) use self::columns::Frames;
use self::columns::frames_count;
use self::question::{AskedPiece, Piece, Question, pieces};
use self::statement::{of_all, with_cache};
use super::failed;
use super::frame_cache::{FrameView, FramesKey, FramesOfPiece, Kept};
use super::layouts::{LayoutList, LayoutLists};
use crate::store::history::HistoryError;
use crate::store::postgres::partitions::{FRAMES, day_of};
use crate::store::postgres::sealed::{key_mark, marks};
use crate::store::postgres::timestamp::Timestamp;
use crate::store::postgres::words::Words;

/// So many partitions at most are named in a statement: each set of them is a statement of its own, which each session plans and keeps.
const MAX_NAMED: usize = 8;
/// So many pieces of partitions at most are looked for in the cache.
const MAX_LOOKED_FOR: usize = 10_000;
/// After so many pieces other queries have their turn.
const PIECES_AT_ONCE: usize = 256;

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
    pub(super) partitions: &'a [FramesPartition],
    /// When the database server that is read started, in unix microseconds.
    pub(super) server_started: i64,
    /// What is known already.
    pub(super) cache: Option<&'a FrameView<'a>>,
}

/// A partition of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FramesPartition {
    pub(super) slot: i32,
    /// The numbers of its table and of its file.
    pub(super) table: (i64, i64),
}

impl FramesPartition {
    /// Reads a list of names and numbers, as `read_state` answers it; in order.
    pub(super) fn read_all(text: &str) -> Vec<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let one = |words: &[&str]| match words {
            [name, table, file] => Some(Self { slot: FRAMES.slot_by_name(name)?, table: (table.parse().ok()?, file.parse().ok()?) }),
            _ => None,
        };
        let mut all: Vec<Self> = words.chunks(3).filter_map(one).collect();
        all.sort_unstable_by_key(|partition| partition.slot);
        all
    }
}

/// Frames of a source and half an hour that are sealed as well: what stands for their keys.
type SealedKeys = HashMap<(i32, u64), HashSet<[u8; 8]>>;

/// Takes samples of a series, which belong to its wanted ones, and answers how much memory they take now.
pub(super) trait TakeSamples: FnMut(i32, &mut dyn Iterator<Item = UnsealedSample>) -> Result<usize, HistoryError> {}

impl<T: FnMut(i32, &mut dyn Iterator<Item = UnsealedSample>) -> Result<usize, HistoryError>> TakeSamples for T {}

/// Gives each wanted sample, as it comes from the database, with its series. A series may come several times. What is taken is charged. An error of `take`
/// ends it.
pub(super) async fn each(
    conn: &mut PgConnection,
    layouts: &LayoutLists,
    wanted: &Wanted<'_>,
    reservation: &mut Reservation,
    mut take: impl TakeSamples,
) -> Result<(), HistoryError> {
    if wanted.series.is_empty() {
        return Ok(());
    }
    // No sample is newer than its frame; one with a time of its own may be older.
    let from = millis(wanted.start_ms);
    let partitions: Vec<FramesPartition> =
        wanted.partitions.iter().copied().filter(|partition| FRAMES.end_of(partition.slot) > from).collect();
    let Some(oldest) = partitions.first().map(|partition| FRAMES.start_of(partition.slot)) else { return Ok(()) };
    let scope = Scope {
        sources: wanted.series.iter().map(|(source_id, _)| *source_id).collect::<HashSet<_>>().into_iter().collect(),
        partitions,
        from: Timestamp(from),
        until: Timestamp(millis(wanted.end_ms)),
        dropped_ms: wanted.dropped_ms,
        ids: wanted.series.iter().map(|(_, id)| *id).collect(),
    };
    let day = day_of(oldest.max(from));
    let held = Layouts::Held(layouts.held(wanted.server_started, &scope.sources, day), day);
    let found = scope.each_of_frames(conn, held, wanted.cache, reservation, &mut take).await?;
    layouts.hold(wanted.server_started, &found);
    if !found.is_empty() {
        scope.each_of_frames(conn, Layouts::Found(found), None, reservation, &mut take).await?;
    }
    Ok(())
}

fn millis(unix_millis: i64) -> u64 {
    u64::try_from(unix_millis).unwrap_or(0)
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
    /// In order.
    partitions: Vec<FramesPartition>,
    from: Timestamp,
    until: Timestamp,
    dropped_ms: i64,
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
    /// Which of [`Question::pieces`], counted from 1.
    piece: Option<i64>,
    ats: Option<Words>,
    arrivals: Option<Words>,
    values: Option<Words>,
    times: Option<Words>,
    deltas: Option<Words>,
    /// Only of what is kept, or where some frames are sealed as well.
    keys: Option<Vec<Uuid>>,
    ids: Option<Vec<i32>>,
    sealed_keys: Option<Vec<u8>>,
    last_day: Option<i32>,
}

impl Scope {
    /// Gives the samples, and answers the layouts that were found.
    async fn each_of_frames(
        &self,
        conn: &mut PgConnection,
        layouts: Layouts,
        cache: Option<&FrameView<'_>>,
        reservation: &mut Reservation,
        take: &mut impl TakeSamples,
    ) -> Result<Vec<LayoutList>, HistoryError> {
        let ids: HashSet<i32> = self.ids.iter().copied().collect();
        let (known, day) = match layouts {
            Layouts::Held(lists, day) => (lists, Some(day)),
            Layouts::Found(lists) => (lists, None),
        };
        let pieces: Vec<Piece> = known.iter().flat_map(|list| pieces(list, &ids)).collect();
        let (mut question, cache) = self.question(&pieces, cache, reservation)?;
        // What is charged until the end: what is asked, what is known, and what is kept.
        let mut charged_bytes = question.memory_bytes();
        let statement = if cache.is_some() { with_cache(&self.partitions, self.ids.len()) } else { of_all(self.ids.len()) };
        // Where only some layouts are asked for, everything else of their sources was read already.
        let others_of: &[i32] = if day.is_some() { &self.sources } else { &[] };
        let starts: Vec<Timestamp> = self.partitions.iter().map(|partition| Timestamp(FRAMES.start_of(partition.slot))).collect();
        let known_ids: Vec<i32> = known.iter().map(|list| list.id).collect();
        let layout_ids: Vec<i32> = question.pieces.iter().map(|asked| asked.piece.layout_id).collect();
        let firsts: Vec<i32> = question.pieces.iter().map(|asked| asked.piece.first).collect();
        let lasts: Vec<i32> = question.pieces.iter().map(|asked| asked.piece.last).collect();
        let mut query = sqlx::query_as::<_, Row>(&statement)
            .bind(self.from)
            .bind(self.until)
            .bind(others_of)
            .bind(&starts)
            .bind(&self.ids)
            .bind(&self.sources)
            .bind(day.unwrap_or_default())
            .bind(known_ids)
            .bind(&question.sources)
            .bind(&question.firsts)
            .bind(&question.lasts)
            .bind(layout_ids)
            .bind(firsts)
            .bind(lasts);
        if cache.is_some() {
            query = query
                .bind(&question.since)
                .bind(&question.until)
                .bind(&question.since_transaction)
                .bind(&question.is_kept)
                .bind(&question.parts_first)
                .bind(&question.parts_last);
        }
        let mut rows = query.fetch(conn);
        let (mut sealed, mut sealed_is_complete, mut found) = (SealedKeys::new(), false, Vec::new());
        let (mut kept_bytes, max_kept_bytes, mut too_large) = (0, cache.map_or(0, FrameView::max_kept_bytes), Vec::new());
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
                    let frames = Frames { ats, arrivals, values, times: row.times, deltas: row.deltas, keys: row.keys };
                    if let Some(ids) = row.ids {
                        let ids: Vec<Option<i32>> = ids.into_iter().map(Some).collect();
                        frames.check(ids.len())?;
                        self.give(&frames, &ids, row.source_id, &sealed, reservation, take)?;
                        continue;
                    }
                    let asked = row.piece.and_then(|piece| question.pieces.get_mut(usize::try_from(piece - 1).ok()?));
                    let asked = asked.ok_or_else(|| odd("a piece"))?;
                    frames.check(asked.piece.series.len())?;
                    let bytes = frames.memory_bytes();
                    let has_room = kept_bytes + bytes <= max_kept_bytes;
                    let is_kept = if asked.known.is_some() {
                        reservation.grow(bytes)?;
                        true
                    } else {
                        asked.key.is_some() && has_room && reservation.grow(bytes).is_ok()
                    };
                    if is_kept {
                        kept_bytes += bytes;
                        charged_bytes += bytes;
                        asked.read.push(frames);
                    } else {
                        too_large.extend(asked.key.take().filter(|_| !has_room));
                        self.give(&frames, &asked.piece.series, row.source_id, &sealed, reservation, take)?;
                    }
                }
                _ => return Err(odd("kind")),
            }
        }
        drop(rows);
        let kept = self.give_kept(question, cache, &sealed, reservation, take).await?;
        if let Some(cache) = cache {
            cache.put(kept.into_iter().chain(too_large.into_iter().map(|key| (key, Kept::Nothing))));
        }
        reservation.shrink(charged_bytes);
        found.sort_unstable_by_key(|list| (list.source_id, list.id));
        Ok(found)
    }

    /// What is asked about these pieces, for which it is charged, and the cache, if that is used: without room for what is known the query goes on without it.
    fn question<'a, 'b>(
        &self,
        pieces: &'a [Piece],
        cache: Option<&'b FrameView<'b>>,
        reservation: &mut Reservation,
    ) -> Result<(Question<'a>, Option<&'b FrameView<'b>>), HistoryError> {
        let cache = cache.filter(|_| self.partitions.len() <= MAX_NAMED && pieces.len() * self.partitions.len() <= MAX_LOOKED_FOR);
        if let Some(cache) = cache {
            let question = Question::with_cache(self, pieces, cache);
            if reservation.grow(question.memory_bytes()).is_ok() {
                cache.note_charge();
                return Ok((question, Some(cache)));
            }
        }
        let question = Question::of_all(self, pieces);
        reservation.grow(question.memory_bytes())?;
        Ok((question, None))
    }

    /// Gives the samples of what is kept for other queries, and answers that.
    async fn give_kept(
        &self,
        question: Question<'_>,
        cache: Option<&FrameView<'_>>,
        sealed: &SealedKeys,
        reservation: &mut Reservation,
        take: &mut impl TakeSamples,
    ) -> Result<Vec<(FramesKey, Kept)>, HistoryError> {
        let mut kept = Vec::new();
        for (number, AskedPiece { piece, key, known, read }) in question.pieces.into_iter().enumerate() {
            if number % PIECES_AT_ONCE == PIECES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            if key.is_none() && read.is_empty() {
                continue;
            }
            let known: FramesOfPiece = known.map_or_else(Default::default, |held| held.frames);
            let before = frames_count(&known);
            let frames = if read.is_empty() { known } else { Frames::join(&known, read, piece.series.len()) };
            if let Some(cache) = cache {
                cache.count(true, before);
                cache.count(false, frames_count(&frames) - before);
            }
            for of_shape in frames.iter() {
                self.give(of_shape, &piece.series, piece.source_id, sealed, reservation, take)?;
            }
            kept.extend(key.map(|key| (key, Kept::Frames(frames))));
        }
        Ok(kept)
    }

    /// Gives the wanted samples of frames of one source and half hour, but for those that are sealed.
    fn give(
        &self,
        frames: &Frames,
        series: &[Option<i32>],
        source_id: i32,
        sealed: &SealedKeys,
        reservation: &mut Reservation,
        take: &mut impl TakeSamples,
    ) -> Result<(), HistoryError> {
        let Some(first) = frames.ats.millis(0) else { return Ok(()) };
        let sealed = sealed.get(&(source_id, FRAMES.start_of(FRAMES.slot_of(millis(first)))));
        let is_sealed = |frame| sealed.zip(frames.keys.as_ref()?.get(frame)).map(|(sealed, key)| sealed.contains(&key_mark(*key)));
        // Samples with a time of their own are looked at one by one.
        let is_of_time =
            |frame| frames.times.is_some() || frames.ats.millis(frame).is_some_and(|at| (self.from.0..=self.until.0).contains(&millis(at)));
        let wanted: Vec<usize> = (0..frames.len()).filter(|frame| is_of_time(*frame) && is_sealed(*frame) != Some(true)).collect();
        for (place, id) in series.iter().enumerate().filter_map(|(place, id)| Some((place, (*id)?))) {
            let samples = wanted.iter().filter_map(|frame| frames.sample(*frame, *frame * series.len() + place));
            let bytes = take(id, &mut samples.filter(|sample| sample.at_ms >= self.dropped_ms))?;
            reservation.grow(bytes)?;
        }
        Ok(())
    }
}

fn odd(what: &str) -> HistoryError {
    crate::store::StoreError::Unavailable(format!("the database holds a frame whose {what} do not fit its list of series")).into()
}
