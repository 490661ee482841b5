//! What happens to samples after they have come: they are sealed, folded and in the end dropped.
//!
//! A window's open samples are sealed into a part when the oldest of them have waited for half an hour, when the window is over, when a save
//! writes the files, or when memory is short. Parts of one size are folded into a larger one, and all parts of a window that is over into
//! one. What is older than RETENTION_RAW is dropped, and the oldest windows of all sources where HISTORY_MAX_BYTES does not suffice.
//!
//! The work is done on copies; a shard is locked to take them and to put the result in place.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use golectra_protocol::Source;

use super::super::shards::{SHARDS, Shards};
use super::part::{Part, foldable};
use super::source::{SourceHistory, WINDOW_MILLIS, Window};
use crate::clock::Clock;

/// How long open samples wait for others that are sealed with them.
const SEAL_AFTER_MILLIS: u64 = 30 * 60 * 1000;
/// How long after its end samples of a window may still be on their way, and how long late ones wait for each other.
const LATE_MILLIS: u64 = 60 * 1000;
/// How often to look for what is to be sealed, folded and dropped.
const EVERY: Duration = Duration::from_secs(20);
/// How soon the end of the store is seen.
const LONGEST_PARK: Duration = Duration::from_secs(1);

/// One window of one source.
type Place = (Source, i64);

/// What is to be done with a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Seal,
    /// Makes one part of these.
    Fold(usize, usize),
}

/// Seals, folds and drops.
pub(in crate::store::memory) struct Keeper {
    shards: Arc<Shards>,
    clock: Clock,
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
        while matches!(stop.try_recv(), Err(TryRecvError::Empty)) {
            // Writers end this when memory is short.
            std::thread::park_timeout(LONGEST_PARK.mul_f64(0.75 + fastrand::f64() / 4.0));
            if self.shards.history.is_crowded() {
                self.make_room();
            }
            if Instant::now() >= next {
                self.maintain();
                next = Instant::now() + EVERY;
            }
        }
    }

    /// Drops what is too old or too much of what a start has read.
    pub(in crate::store::memory) fn begin(&self) {
        let changing = change(&self.shards);
        self.expire(&changing, self.clock.unix_millis());
        if self.shards.history.is_crowded() {
            self.drop_oldest(&changing);
        }
    }

    /// Does once what is due.
    pub(in crate::store::memory) fn maintain(&self) {
        let changing = change(&self.shards);
        let now_millis = self.clock.unix_millis();
        self.expire(&changing, now_millis);
        self.work(&changing, |window, start| due(window, start, now_millis));
    }

    /// Seals and folds everything, whether it is due or not.
    #[cfg(test)]
    pub(in crate::store::memory) fn maintain_all(&self) {
        let changing = change(&self.shards);
        self.expire(&changing, self.clock.unix_millis());
        self.work(&changing, |window, _| (!window.open.is_empty()).then_some(Work::Seal));
        self.work(&changing, |window, _| (window.parts.len() > 1).then_some(Work::Fold(0, window.parts.len())));
    }

    /// Makes room: what is open is sealed, which takes about an eighth; then the oldest windows go.
    pub(in crate::store::memory) fn make_room(&self) {
        let changing = change(&self.shards);
        self.work(&changing, |window, _| (!window.open.is_empty()).then_some(Work::Seal));
        self.drop_oldest(&changing);
    }

    /// Drops the oldest windows until there is room.
    fn drop_oldest(&self, changing: &Changing<'_>) {
        let shared = &self.shards.history;
        if shared.used_bytes() <= shared.low_bytes() {
            return;
        }
        let mut oldest: BinaryHeap<Reverse<(i64, Source)>> = BinaryHeap::new();
        for shard in self.shards.each() {
            for (source, history) in shard.history.iter() {
                oldest.extend(history.windows.keys().map(|start| Reverse((*start, source.clone()))));
            }
        }
        let now_millis = self.clock.unix_millis();
        let (mut samples, mut up_to) = (0, None);
        while shared.used_bytes() > shared.low_bytes()
            && let Some(Reverse((start, source))) = oldest.pop()
        {
            samples += self.drop_window(changing, &source, start);
            up_to = Some(start);
            // What is sampled now is taken even where there is no room for two hours of it.
            if let Some(end) = u64::try_from(start.saturating_add(WINDOW_MILLIS)).ok().filter(|end| *end <= now_millis) {
                shared.dropped_until_millis.fetch_max(end, Ordering::Relaxed);
            }
        }
        shared.samples_dropped.fetch_add(samples, Ordering::Relaxed);
        tracing::debug!(samples, oldest_window_millis = up_to, "the oldest history was dropped, since HISTORY_MAX_BYTES does not suffice");
    }

    fn expire(&self, changing: &Changing<'_>, now_millis: u64) {
        let oldest = self.shards.history.oldest_millis(now_millis);
        for (source, start) in self.places(|_, start| start.saturating_add(WINDOW_MILLIS) <= oldest) {
            self.drop_window(changing, &source, start);
        }
    }

    /// Drops a window and says how many samples it had.
    fn drop_window(&self, _changing: &Changing<'_>, source: &Source, start: i64) -> u64 {
        let drop = |history: &mut SourceHistory| history.drop_window(self.shards.hasher(), start);
        let dropped = self.shards.of(source).shard.history.change(&self.shards.history, source, drop).flatten();
        if dropped.as_ref().is_some_and(|window| window.parts.iter().any(|part| part.stored.get().is_some())) {
            // The next save writes the files without it.
            self.shards.next_arrival();
        }
        // Freed without the lock.
        dropped.map_or(0, |window| window.samples())
    }

    /// The windows that are asked for.
    fn places(&self, asked: impl Fn(&Window, i64) -> bool) -> Vec<Place> {
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

    /// Does what is to be done, window by window.
    fn work(&self, changing: &Changing<'_>, of: impl Fn(&Window, i64) -> Option<Work>) {
        for (source, start) in self.places(|window, start| of(window, start).is_some()) {
            let work = self.window(&source, start, |window| of(window, start)).flatten();
            match work {
                Some(Work::Seal) => seal(&self.shards, changing, &source, start, self.clock.unix_millis()),
                Some(Work::Fold(first, end)) => self.fold(changing, &source, start, first..end),
                None => {}
            }
        }
    }

    fn window<T>(&self, source: &Source, start: i64, read: impl FnOnce(&Window) -> T) -> Option<T> {
        let locked = self.shards.of(source);
        locked.shard.history.get(source)?.windows.get(&start).map(read)
    }

    fn fold(&self, _changing: &Changing<'_>, source: &Source, start: i64, parts: std::ops::Range<usize>) {
        let Some(some) = self.window(source, start, |window| window.parts[parts.clone()].to_vec()) else { return };
        let (folded, corrupt) = Part::fold(&some);
        if corrupt > 0 {
            self.shards.history.corrupt_columns.fetch_add(corrupt, Ordering::Relaxed);
            tracing::error!(
                source = source.as_str(),
                window_millis = start,
                columns = corrupt,
                "stored history could not be decoded and is left out"
            );
        }
        let put = |window: &mut Window| drop(window.parts.splice(parts, [Arc::new(folded)]));
        let _ = self.shards.of(source).shard.history.change(&self.shards.history, source, |history| history.change_window(start, put));
    }
}

/// What is due of a window.
fn due(window: &Window, start: i64, now_millis: u64) -> Option<Work> {
    let waited = |millis: u64| now_millis.saturating_sub(window.opened_millis) >= millis;
    let is_over = start.saturating_add(WINDOW_MILLIS).saturating_add_unsigned(LATE_MILLIS) <= i64::try_from(now_millis).unwrap_or(i64::MAX);
    if !window.open.is_empty() {
        return waited(if is_over { LATE_MILLIS } else { SEAL_AFTER_MILLIS }).then_some(Work::Seal);
    }
    if is_over {
        return (window.parts.len() > 1).then_some(Work::Fold(0, window.parts.len()));
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
