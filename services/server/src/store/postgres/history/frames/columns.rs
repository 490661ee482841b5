//! Frames as they are read.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::{UnsealedSample, odd};
use crate::store::history::HistoryError;
use crate::store::postgres::words::Words;
use crate::store::postgres::writer::as_delta;

/// How many frames there are.
pub(in super::super) fn frames_count(frames: &[Arc<Frames>]) -> usize {
    frames.iter().map(|frames| frames.len()).sum()
}

/// Frames of a source and half an hour, of one shape: each has what the others have. Of each frame one element, or one for each value of a piece.
#[derive(Clone, Default)]
pub(in super::super) struct Frames {
    pub(super) ats: Words,
    pub(super) arrivals: Words,
    pub(super) values: Words,
    pub(super) times: Option<Words>,
    pub(super) deltas: Option<Words>,
    pub(super) keys: Option<Vec<Uuid>>,
}

impl Frames {
    /// How many there are.
    pub(in super::super) fn len(&self) -> usize {
        self.ats.len()
    }

    /// What they take.
    pub(in super::super) fn memory_bytes(&self) -> usize {
        let words = [Some(&self.ats), Some(&self.arrivals), Some(&self.values), self.times.as_ref(), self.deltas.as_ref()];
        let keys = self.keys.as_ref().map_or(0, |keys| keys.capacity() * size_of::<Uuid>());
        size_of::<Self>() + words.into_iter().flatten().map(Words::memory_bytes).sum::<usize>() + keys
    }

    /// Refuses what is not of frames with so many values.
    pub(super) fn check(&self, width: usize) -> Result<(), HistoryError> {
        let whole = |words: &Words| words.len() == self.len() * width;
        let of_frames = self.arrivals.len() == self.len() && self.keys.as_ref().is_none_or(|keys| keys.len() == self.len());
        let of_values = whole(&self.values) && self.times.as_ref().is_none_or(whole) && self.deltas.as_ref().is_none_or(whole);
        if of_frames && of_values { Ok(()) } else { Err(odd("values")) }
    }

    /// One sample. None where it is not there.
    pub(super) fn sample(&self, frame: usize, place: usize) -> Option<UnsealedSample> {
        let own = self.times.as_ref().and_then(|times| times.millis(place));
        let value = self.values.double(place)?;
        let delta = self.deltas.as_ref().and_then(|deltas| deltas.integer(place)).unwrap_or_else(|| as_delta(value));
        Some(UnsealedSample { at_ms: own.or_else(|| self.ats.millis(frame))?, arrival: self.arrivals.integer(frame)?, value, delta })
    }

    /// Frames that are held, and those that were read later: those of one shape together, each once.
    pub(super) fn join(held: &[Arc<Self>], read: Vec<Self>, width: usize) -> Arc<[Arc<Self>]> {
        let mut all = held.to_vec();
        // What is read later is little, as a rule, and mostly new.
        let mut read_keys: Vec<Uuid> = read.iter().flat_map(|frames| frames.keys.iter().flatten().copied()).collect();
        read_keys.sort_unstable();
        let held_keys = held.iter().flat_map(|frames| frames.keys.iter().flatten());
        let known: HashSet<Uuid> = held_keys.filter(|key| read_keys.binary_search(key).is_ok()).copied().collect();
        for read in read {
            let new = read.without(&known, width);
            if new.len() == 0 {
                continue;
            }
            let same =
                |frames: &&mut Arc<Self>| frames.times.is_some() == new.times.is_some() && frames.deltas.is_some() == new.deltas.is_some();
            match all.iter_mut().find(same) {
                Some(frames) => Arc::make_mut(frames).append(&new),
                None => all.push(Arc::new(new)),
            }
        }
        all.into()
    }

    /// Those whose keys are not known.
    fn without(self, known: &HashSet<Uuid>, width: usize) -> Self {
        let Some(keys) = self.keys.as_ref().filter(|keys| keys.iter().any(|key| known.contains(key))) else { return self };
        let new: Vec<usize> = (0..self.len()).filter(|frame| !known.contains(&keys[*frame])).collect();
        let of_values = |words: &Words| words.select(new.iter().flat_map(|frame| frame * width..(frame + 1) * width));
        Self {
            ats: self.ats.select(new.iter().copied()),
            arrivals: self.arrivals.select(new.iter().copied()),
            values: of_values(&self.values),
            times: self.times.as_ref().map(of_values),
            deltas: self.deltas.as_ref().map(of_values),
            keys: Some(new.iter().map(|frame| keys[*frame]).collect()),
        }
    }

    fn append(&mut self, other: &Self) {
        self.ats.append(&other.ats);
        self.arrivals.append(&other.arrivals);
        self.values.append(&other.values);
        for (own, other) in [(&mut self.times, &other.times), (&mut self.deltas, &other.deltas)] {
            if let Some((own, other)) = own.as_mut().zip(other.as_ref()) {
                own.append(other);
            }
        }
        if let Some((own, other)) = self.keys.as_mut().zip(other.keys.as_ref()) {
            own.reserve_exact(other.len());
            own.extend_from_slice(other);
        }
    }

    /// So many frames of one value.
    #[cfg(test)]
    pub(in super::super) fn of_zeros(count: usize) -> Self {
        let words = || Words::zeros(count);
        Self { ats: words(), arrivals: words(), values: words(), keys: Some(vec![Uuid::nil(); count]), ..Self::default() }
    }
}
