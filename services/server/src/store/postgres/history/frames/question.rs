//! What is asked of frames, and what is known of it.

use std::collections::HashSet;

use super::{Frames, FramesPartition, Scope};
use crate::store::postgres::history::frame_cache::{FrameView, FramesKey, HeldFrames, Known, frames_bytes};
use crate::store::postgres::history::layouts::LayoutList;
use crate::store::postgres::partitions::FRAMES;
use crate::store::postgres::timestamp::Timestamp;

/// Wanted values that stand so close in a frame are cut out in one piece.
const MAX_GAP: usize = 16;

/// A piece of a layout: the places from `first` to `last`, counted from 1, of which some are wanted.
pub(super) struct Piece {
    pub(super) source_id: i32,
    pub(super) layout_id: i32,
    pub(super) first: i32,
    pub(super) last: i32,
    /// For each place the wanted series that stands there.
    pub(super) series: Box<[Option<i32>]>,
}

/// The places of a list that are wanted, in pieces.
pub(super) fn pieces(layout: &LayoutList, wanted: &HashSet<i32>) -> Vec<Piece> {
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

/// A piece as it is read in a partition.
pub(super) struct AskedPiece<'a> {
    pub(super) piece: &'a Piece,
    /// Under which key what there is is kept for later queries, if it is.
    pub(super) key: Option<FramesKey>,
    /// What is known. Only newer frames are read.
    pub(super) known: Option<HeldFrames>,
    /// What was read and is kept.
    pub(super) read: Vec<Frames>,
}

/// What a piece that is asked for takes, with its place in the statement's parameters.
const ASKED_PIECE_BYTES: usize = 320;

/// What the database is asked about the frames of layouts.
#[derive(Default)]
pub(super) struct Question<'a> {
    pub(super) pieces: Vec<AskedPiece<'a>>,
    // For each source, and with a cache for each partition and way in which its pieces are read:
    pub(super) sources: Vec<i32>,
    pub(super) firsts: Vec<i32>,
    pub(super) lasts: Vec<i32>,
    pub(super) since: Vec<Timestamp>,
    pub(super) until: Vec<Timestamp>,
    /// Only frames of this transaction and later ones.
    pub(super) since_transaction: Vec<i64>,
    pub(super) is_kept: Vec<bool>,
    // With a cache, for each partition twice, those that are read whole and those of which only newer frames are read: which of the above.
    pub(super) parts_first: Vec<i32>,
    pub(super) parts_last: Vec<i32>,
}

impl<'a> Question<'a> {
    /// Asks for these pieces, those of a source side by side, in the same way in each partition.
    pub(super) fn of_all(scope: &Scope, pieces: &'a [Piece]) -> Self {
        let mut question = Self::default();
        for of_source in pieces.chunk_by(|one, other| one.source_id == other.source_id) {
            let asked = of_source.iter().map(|piece| AskedPiece { piece, key: None, known: None, read: Vec::new() });
            question.ask(scope, asked.collect());
        }
        question
    }

    /// Asks in each partition for what the cache does not have of these pieces, those of a source side by side.
    pub(super) fn with_cache(scope: &Scope, pieces: &'a [Piece], cache: &FrameView<'_>) -> Self {
        let mut question = Self::default();
        let key = |partition: &FramesPartition, piece: &Piece| FramesKey {
            partition: partition.table,
            source_id: piece.source_id,
            layout_id: piece.layout_id,
            places: (piece.first, piece.last),
        };
        // Later partitions have samples of the time only where these have times of their own, as those of layouts do not.
        let is_looked_for = |partition: &FramesPartition| FRAMES.start_of(partition.slot) <= scope.until.0;
        let partitions = scope.partitions.iter().filter(|partition| is_looked_for(partition));
        let keys = partitions.flat_map(|partition| pieces.iter().map(move |piece| key(partition, piece)));
        let mut known = cache.ask(keys).into_iter();
        for partition in &scope.partitions {
            let is_looked_for = is_looked_for(partition);
            let (mut whole, mut newer) = (Vec::new(), Vec::new());
            for of_source in pieces.chunk_by(|one, other| one.source_id == other.source_id) {
                let (mut once, mut kept, mut known_ones) = (Vec::new(), Vec::new(), Vec::new());
                for piece in of_source {
                    let known = if is_looked_for { known.next() } else { None };
                    let (list, is_kept, known) = match known {
                        None | Some(Known::Nothing) => (&mut once, false, None),
                        Some(Known::Asked) => (&mut kept, true, None),
                        Some(Known::Frames(held)) => (&mut known_ones, true, Some(held)),
                    };
                    list.push(AskedPiece { piece, key: is_kept.then(|| key(partition, piece)), known, read: Vec::new() });
                }
                whole.extend([once, kept]);
                newer.push(known_ones);
            }
            for part in [whole, newer] {
                question.parts_first.push(number(question.sources.len()));
                for pieces in part {
                    question.ask(scope, pieces);
                }
                question.parts_last.push(number(question.sources.len()) - 1);
            }
        }
        question
    }

    /// What it takes, with what is known.
    pub(super) fn memory_bytes(&self) -> usize {
        let known = self.pieces.iter().filter_map(|asked| asked.known.as_ref());
        self.pieces.len() * ASKED_PIECE_BYTES + known.map(|held| frames_bytes(&held.frames)).sum::<usize>()
    }

    /// Asks for pieces of a source that are read alike.
    fn ask(&mut self, scope: &Scope, pieces: Vec<AskedPiece<'a>>) {
        let Some(first) = pieces.first() else { return };
        let first_open = |piece: &AskedPiece<'_>| piece.known.as_ref().map_or(0, |held| held.snapshot.first_open);
        let (since, until) = if first.key.is_some() { (Timestamp(0), LATEST) } else { (scope.from, scope.until) };
        self.sources.push(first.piece.source_id);
        self.is_kept.push(first.key.is_some());
        self.since.push(since);
        self.until.push(until);
        self.since_transaction.push(pieces.iter().map(first_open).min().unwrap_or_default());
        self.firsts.push(number(self.pieces.len()));
        self.pieces.extend(pieces);
        self.lasts.push(number(self.pieces.len()) - 1);
    }
}

/// The year 9999: a frame that is later is not written.
const LATEST: Timestamp = Timestamp(253_370_764_800_000);
