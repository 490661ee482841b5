//! What happens to samples after they have come: they are sealed, folded and in the end dropped.
//!
//! A window's open samples are sealed into a part when the oldest of them have waited for half an hour, when the window is over, when a save
//! writes the files, or when memory is short. Parts of one size are folded into a larger one, and all parts of a window that is over into
//! one, which is rolled up (`rollups.rs`) in the same step. What is dropped is in `retain.rs`.
//!
//! The work is done on copies; a shard is locked to take them and to put the result in place.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use golectra_protocol::Source;

use super::super::shards::{SHARDS, Shards};
use super::days::oldest;
use super::part::{Part, foldable};
use super::source::{SourceHistory, WINDOW_MILLIS, Window};
use crate::clock::Clock;
use crate::store::history::rollups::{DAY_MILLIS, day_of};

/// How long open samples wait for others that are sealed with them.
const SEAL_AFTER_MILLIS: u64 = 30 * 60 * 1000;
/// How long after its end samples of a window may still be on their way, and how long late ones wait for each other.
const LATE_MILLIS: u64 = 60 * 1000;
/// How often to look for what is to be sealed, folded and dropped.
const EVERY: Duration = Duration::from_secs(20);
/// How soon the end of the store is seen.
const LONGEST_PARK: Duration = Duration::from_secs(1);

/// One window of one source.
pub(super) type Place = (Source, i64);

/// What is to be done with a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Seal,
    /// Makes one part of these.
    Fold(usize, usize),
    /// Makes rollups of its only part.
    RollUp,
}

/// Seals, folds and drops.
pub(in crate::store::memory) struct Keeper {
    pub(super) shards: Arc<Shards>,
    pub(super) clock: Clock,
}

/// The right to change what is sealed.
pub(super) type Changing<'a> = MutexGuard<'a, ()>;

/// Takes the right to change what is sealed.
pub(super) fn change(shards: &Shards) -> Changing<'_> {
    shards.history.changing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    pub(in crate::store::memory) fn new(shards: Arc<Shards>, clock: Clock) -> Self {
        Self { shards, clock }
    }

    /// Works until `stop` is closed.
    pub(in crate::store::memory) fn run(&self, stop: &Receiver<()>) {
        let _ = self.shards.history.keeper.set(std::thread::current());
        let mut next = Instant::now() + EVERY;
        let expiry_clock = &self.shards.expiry_clock;
        expiry_clock.follow(self.clock.unix_millis());
        while matches!(stop.try_recv(), Err(TryRecvError::Empty)) {
            // Writers end this when memory is short.
            std::thread::park_timeout(LONGEST_PARK.mul_f64(0.75 + fastrand::f64() / 4.0));
            if self.shards.history.is_crowded() {
                self.make_room_at(expiry_clock.follow(self.clock.unix_millis()));
            }
            if Instant::now() >= next {
                let now_millis = self.clock.unix_millis();
                self.maintain_at(now_millis, expiry_clock.follow(now_millis));
                next = Instant::now() + EVERY;
            }
        }
    }

    /// Drops what is too old or too much of what a start has read.
    pub(in crate::store::memory) fn begin(&self) {
        let changing = change(&self.shards);
        if self.shards.history.samples_dropped() > 0 || self.shards.history.rollup_days_dropped() > 0 {
            // Some was not even read: the next save writes the files without it.
            self.shards.next_arrival();
        }
        let now_millis = self.clock.unix_millis();
        self.expire(&changing, now_millis);
        if self.shards.history.is_crowded() {
            self.drop_oldest(&changing, now_millis);
        }
    }

    /// Does once what is due.
    #[cfg(test)]
    pub(in crate::store::memory) fn maintain(&self) {
        let now_millis = self.clock.unix_millis();
        self.maintain_at(now_millis, now_millis);
    }

    /// Does once what is due, and drops what is too old at the second of these times.
    pub(in crate::store::memory) fn maintain_at(&self, now_millis: u64, drop_millis: u64) {
        let changing = change(&self.shards);
        self.expire(&changing, drop_millis);
        self.work(&changing, drop_millis, |window, start| due(window, start, now_millis));
    }

    /// Seals and folds everything, whether it is due or not.
    #[cfg(test)]
    pub(in crate::store::memory) fn maintain_all(&self) {
        let changing = change(&self.shards);
        let now_millis = self.clock.unix_millis();
        self.expire(&changing, now_millis);
        self.work(&changing, now_millis, |window, _| (!window.open.is_empty()).then_some(Work::Seal));
        self.work(&changing, now_millis, |window, _| (window.parts.len() > 1).then_some(Work::Fold(0, window.parts.len())));
        self.work(&changing, now_millis, |window, _| (!window.rolled_up).then_some(Work::RollUp));
    }

    /// Makes room.
    #[cfg(test)]
    pub(in crate::store::memory) fn make_room(&self) {
        self.make_room_at(self.clock.unix_millis());
    }

    /// Makes room: what is open is sealed, which takes about an eighth; then the oldest goes. Rollups that are too old at this time are not made of it.
    fn make_room_at(&self, drop_millis: u64) {
        let changing = change(&self.shards);
        self.work(&changing, drop_millis, |window, _| (!window.open.is_empty()).then_some(Work::Seal));
        self.drop_oldest(&changing, drop_millis);
    }

    /// The windows that are asked for.
    pub(super) fn places(&self, asked: impl Fn(&Window, i64) -> bool) -> Vec<Place> {
        let mut places = Vec::new();
        for number in 0..SHARDS {
            let shard = self.shards.number(number);
            for (source, history) in shard.history.iter() {
                let windows = history.windows.iter().filter(|(start, window)| asked(window, **start));
                places.extend(windows.map(|(start, _)| (source.clone(), *start)));
            }
        }
        places
    }

    /// Does what is to be done, window by window. Rollups that are too old at this time are not made.
    fn work(&self, changing: &Changing<'_>, drop_millis: u64, of: impl Fn(&Window, i64) -> Option<Work>) {
        for (source, start) in self.places(|window, start| of(window, start).is_some()) {
            let work = self.window(&source, start, |window| of(window, start)).flatten();
            match work {
                Some(Work::Seal) => seal(&self.shards, changing, &source, start, self.clock.unix_millis()),
                Some(Work::Fold(first, end)) => self.fold(changing, &source, start, first..end, drop_millis),
                Some(Work::RollUp) => self.roll_up(changing, &source, start, drop_millis),
                None => {}
            }
        }
    }

    /// Seals, folds and rolls up what is left to be of a window that is over.
    pub(super) fn complete(&self, changing: &Changing<'_>, source: &Source, start: i64, drop_millis: u64) {
        let state = |window: &Window| (window.open.is_empty(), window.parts.len(), window.rolled_up);
        if let Some((false, ..)) = self.window(source, start, state) {
            seal(&self.shards, changing, source, start, self.clock.unix_millis());
        }
        match self.window(source, start, state) {
            Some((_, parts, _)) if parts > 1 => self.fold(changing, source, start, 0..parts, drop_millis),
            Some((_, 1, false)) => self.roll_up(changing, source, start, drop_millis),
            _ => {}
        }
    }

    fn window<T>(&self, source: &Source, start: i64, read: impl FnOnce(&Window) -> T) -> Option<T> {
        let locked = self.shards.of(source);
        locked.shard.history.get(source)?.windows.get(&start).map(read)
    }

    fn fold(&self, changing: &Changing<'_>, source: &Source, start: i64, parts: std::ops::Range<usize>, drop_millis: u64) {
        let Some(some) = self.window(source, start, |window| window.parts[parts.clone()].to_vec()) else { return };
        let (folded, corrupt) = Part::fold(&some);
        self.note_corrupt(source, start, corrupt);
        let put = |window: &mut Window| {
            window.parts.splice(parts, [Arc::new(folded)]);
            window.parts.len() == 1
        };
        let put = |history: &mut SourceHistory| {
            let is_one = history.change_window(start, put) == Some(true);
            // The next start takes a window's only part for the one that was rolled up.
            let was_rolled_up = || history.is_rolled_up(start);
            is_one.then(was_rolled_up)
        };
        let one = self.shards.of(source).shard.history.change(&self.shards.history, source, put).flatten();
        let now_millis = self.shards.start_clock.latest_millis(self.clock.unix_millis());
        if one.is_some_and(|was_rolled_up| was_rolled_up || is_over(start, now_millis)) {
            self.roll_up(changing, source, start, drop_millis);
        }
    }

    /// Makes rollups of a window's only part, except those that are too old at `drop_millis`. That is the time of the expiry clock: rollups that were left out
    /// because the clock was wrong for a while would not be made later.
    fn roll_up(&self, _changing: &Changing<'_>, source: &Source, start: i64, drop_millis: u64) {
        let (day_start, lifetimes) = (day_of(start), &self.shards.history.lifetimes);
        let keeps = |retention_millis: u64| day_start.saturating_add(DAY_MILLIS) > oldest(drop_millis, retention_millis);
        let copy = {
            let locked = self.shards.of(source);
            locked.shard.history.get(source).and_then(|history| match history.windows.get(&start)?.parts.as_slice() {
                [part] => Some((Arc::clone(part), history.days.get(&day_start).cloned().unwrap_or_default())),
                _ => None,
            })
        };
        let Some((part, day)) = copy.filter(|_| keeps(lifetimes.retention_1h_millis())) else { return };
        let (day, corrupt) = day.with_window(start, &part, keeps(lifetimes.retention_5m_millis()));
        self.note_corrupt(source, start, corrupt);
        let put = |history: &mut SourceHistory| {
            history.put_day(day_start, day);
            history.change_window(start, |window| window.rolled_up = true);
        };
        let _ = self.shards.of(source).shard.history.change(&self.shards.history, source, put);
    }

    fn note_corrupt(&self, source: &Source, start: i64, columns: u64) {
        if columns > 0 {
            self.shards.history.corrupt_columns.fetch_add(columns, Ordering::Relaxed);
            let source = source.as_str();
            tracing::error!(source, window_millis = start, columns, "stored history could not be decoded and is left out");
        }
    }
}

/// Whether a window has ended and what is on its way for it has had time to come.
pub(super) fn is_over(start: i64, now_millis: u64) -> bool {
    start.saturating_add(WINDOW_MILLIS).saturating_add_unsigned(LATE_MILLIS) <= i64::try_from(now_millis).unwrap_or(i64::MAX)
}

/// What is due of a window.
fn due(window: &Window, start: i64, now_millis: u64) -> Option<Work> {
    let waited = |millis: u64| now_millis.saturating_sub(window.opened_millis) >= millis;
    let is_over = is_over(start, now_millis);
    if !window.open.is_empty() {
        return waited(if is_over { LATE_MILLIS } else { SEAL_AFTER_MILLIS }).then_some(Work::Seal);
    }
    if is_over {
        return match window.parts.len() {
            0 => None,
            1 => (!window.rolled_up).then_some(Work::RollUp),
            parts => Some(Work::Fold(0, parts)),
        };
    }
    let samples: Vec<u64> = window.parts.iter().map(|part| part.samples).collect();
    foldable(&samples).map(|parts| Work::Fold(parts.start, parts.end))
}

/// Seals a window's open samples.
pub(super) fn seal(shards: &Shards, _changing: &Changing<'_>, source: &Source, start: i64, now_millis: u64) {
    let copy = {
        let locked = shards.of(source);
        locked.shard.history.get(source).and_then(|history| {
            let open = &history.windows.get(&start)?.open;
            let blocks: Vec<(u32, u64)> = history.series.blocks().iter().map(|(number, block)| (*number, block.counters())).collect();
            Some((open.frames().clone(), open.samples(), blocks))
        })
    };
    let Some((frames, samples, blocks)) = copy.filter(|(frames, ..)| frames.len() > 0) else { return };
    let part = Arc::new(Part::seal(&frames, samples, &blocks));
    let many = frames.len();
    // Otherwise writers would copy what they append to.
    drop(frames);
    let put = |window: &mut Window| window.sealed(part, many, now_millis);
    let _ = shards.of(source).shard.history.change(&shards.history, source, |history| history.change_window(start, put));
}
