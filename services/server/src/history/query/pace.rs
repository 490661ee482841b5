//! How queries make way for writers.
//!
//! While writers are busy all the time, queries run on threads of the class SCHED_IDLE (`threads.rs`). That does not suffice where the database runs on the
//! same processors: the scheduler first shares these out between groups of processes, as pods and sessions are, and only then by class among the threads
//! of a group. So a query also pauses while queries together have used more than a share of the processors' time. It pauses neither in the first
//! moments of its computing, so that what takes little is answered at once, nor for longer than a part of the time it may take, nor where no
//! processor is wanting: writers may be busy because the database is far away.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{QueryUnderWay, WriterLoad};

/// The share of the processors' time that queries get while writers are pressed. What the database does for them, which is not measured, comes to a
/// tenth of it and more, and writers are to be at most a tenth slower.
const SHARE: f64 = 0.03;
/// So much that is not used is saved for later.
const SAVED: Duration = Duration::from_millis(250);
/// What a query computes before it may have to pause.
const UNPAUSED: Duration = Duration::from_millis(25);
/// The longest that a query pauses in all.
const MAX_PAUSES: Duration = Duration::from_secs(5);
/// A query also pauses at most for one of so many parts of the time that it may take.
const PARTS: u32 = 4;
/// Where a thread waits less than this share of the time that it computes, processors are not wanting.
const WAITS_FROM: f64 = 0.1;
/// What counts of the past: so much of what the query computed.
const RECENT: Duration = Duration::from_millis(50);
/// How often it is looked how much was used, as that is a system call.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A pause is at most so long before it is looked whether the query is still wanted.
const LOOK_WHILE_PAUSED: Duration = Duration::from_millis(20);

/// The processor time that queries may use while writers are pressed.
pub struct Allowance {
    writers: WriterLoad,
    /// In seconds, for each second that passes.
    rate: f64,
    left: Mutex<Left>,
}

/// What is left of it.
struct Left {
    /// Below 0 where more was used.
    seconds: f64,
    at: Instant,
}

impl Allowance {
    /// That of queries on so many processors.
    pub fn of(writers: WriterLoad, processors: u32) -> Self {
        let left = Mutex::new(Left { seconds: SAVED.as_secs_f64(), at: Instant::now() });
        Self { writers, rate: SHARE * f64::from(processors), left }
    }

    /// Queries used this much. Returns how long it is until something is left for them; zero while writers are not pressed.
    fn take(&self, used: Duration) -> Duration {
        let is_pressed = self.writers.are_pressed();
        let now = Instant::now();
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = self.rate * (now - left.at).as_secs_f64();
        // Nobody pauses for longer than this, so a longer debt is none. What was used while there was enough is none either.
        let least = if is_pressed { -self.rate * MAX_PAUSES.as_secs_f64() } else { 0.0 };
        left.seconds = ((left.seconds + gained).min(SAVED.as_secs_f64()) - used.as_secs_f64()).max(least);
        left.at = now;
        Duration::from_secs_f64((-left.seconds).max(0.0) / self.rate)
    }
}

/// The pauses of one query. It is made, asked and dropped on the thread that the query runs on.
pub struct Pace {
    allowance: Arc<Allowance>,
    thread: ThreadClock,
    looked: Cell<Instant>,
    /// What the thread computed and waited when it was looked last.
    seen: Cell<Spent>,
    /// What the query computed in all.
    computed: Cell<Duration>,
    /// What it computed and waited lately.
    recent: Cell<Spent>,
    longest: Duration,
    paused: Cell<Duration>,
    /// As long as it exists, sealing rests for longer.
    _under_way: QueryUnderWay,
}

impl Pace {
    /// That of a query that begins now and may take so long.
    pub fn of_query(allowance: &Arc<Allowance>, timeout: Duration) -> Self {
        Self::begin(allowance, MAX_PAUSES.min(timeout / PARTS))
    }

    /// That of an export, which may take as long as it likes.
    pub fn of_export(allowance: &Arc<Allowance>) -> Self {
        Self::begin(allowance, Duration::MAX)
    }

    fn begin(allowance: &Arc<Allowance>, longest: Duration) -> Self {
        let thread = ThreadClock::of_this_thread();
        let (looked, seen) = (Cell::new(Instant::now()), Cell::new(thread.spent()));
        let (allowance, under_way) = (Arc::clone(allowance), allowance.writers.begin_query());
        Self {
            allowance,
            thread,
            looked,
            seen,
            computed: Cell::default(),
            recent: Cell::default(),
            longest,
            paused: Cell::default(),
            _under_way: under_way,
        }
    }

    /// How long to pause now, before asking again; None where the query may go on.
    pub fn due(&self) -> Option<Duration> {
        let now = Instant::now();
        if now - self.looked.get() < LOOK_EVERY {
            return None;
        }
        self.looked.set(now);
        let due = self.tell();
        if self.computed.get() < UNPAUSED || !self.recent.get().shows_want() {
            return None;
        }
        let paused = self.paused.get();
        let pause = due.min(LOOK_WHILE_PAUSED).min(self.longest.saturating_sub(paused));
        self.paused.set(paused + pause);
        (!pause.is_zero()).then_some(pause)
    }

    /// For how long it paused.
    pub fn paused(&self) -> Duration {
        self.paused.get()
    }

    fn tell(&self) -> Duration {
        let spent = self.thread.spent();
        let since = spent.since(self.seen.replace(spent));
        self.computed.set(self.computed.get() + since.computed);
        self.recent.set(self.recent.get().and(since));
        self.allowance.take(since.computed)
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.tell();
    }
}

/// What a thread did.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    computed: Duration,
    /// For how long it waited for a processor when it could have computed.
    waited: Duration,
}

impl Spent {
    fn since(self, before: Self) -> Self {
        Self { computed: self.computed.saturating_sub(before.computed), waited: self.waited.saturating_sub(before.waited) }
    }

    /// With what it did since; of what is long ago less and less counts.
    fn and(self, since: Self) -> Self {
        let sum = Self { computed: self.computed + since.computed, waited: self.waited + since.waited };
        if sum.computed < 2 * RECENT { sum } else { Self { computed: sum.computed / 2, waited: sum.waited / 2 } }
    }

    /// Whether others wanted the processors.
    fn shows_want(self) -> bool {
        self.waited >= self.computed.mul_f64(WAITS_FROM)
    }
}

/// Tells what one thread did: /proc/PID/task/TID/schedstat of Linux, in nanoseconds. Where there is none it did nothing, and nothing pauses.
struct ThreadClock(Option<File>);

impl ThreadClock {
    fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    fn spent(&self) -> Spent {
        let mut line = [0; 96];
        let length = self.0.as_ref().and_then(|file| file.read_at(&mut line, 0).ok()).unwrap_or(0);
        let line = line.get(..length).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
        let mut times = line.split_ascii_whitespace().map(|nanoseconds| Duration::from_nanos(nanoseconds.parse().unwrap_or(0)));
        Spent { computed: times.next().unwrap_or_default(), waited: times.next().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::time::advance;

    use super::*;

    const PROCESSORS: u32 = 2;
    const RATE: f64 = SHARE * PROCESSORS as f64;

    /// After this time, in which writers were busy for this share of it, queries used so much.
    async fn take(allowance: &Allowance, passed: Duration, busy: f64, used: Duration) -> f64 {
        advance(passed).await;
        allowance.writers.add(passed.mul_f64(busy));
        allowance.take(used).as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn queries_that_used_more_than_their_share_wait_until_it_is_made_up_for() {
        let allowance = Allowance::of(WriterLoad::of(1), PROCESSORS);
        let second = Duration::from_secs(1);
        let is = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        is(take(&allowance, second, 0.0, 10 * second).await, 0.0);
        // It is not owed later, and nothing was saved since.
        is(take(&allowance, second, 1.0, second.mul_f64(RATE)).await, 0.0);
        is(take(&allowance, second, 1.0, second.mul_f64(2.0 * RATE)).await, 1.0);
        is(take(&allowance, second / 2, 1.0, Duration::ZERO).await, 0.5);
        is(take(&allowance, second / 2, 1.0, 1000 * second).await, MAX_PAUSES.as_secs_f64());
        is(take(&allowance, second, 0.0, Duration::ZERO).await, 0.0);
        // What is saved is bounded.
        is(take(&allowance, 100 * second, 1.0, Duration::ZERO).await, 0.0);
        is(take(&allowance, second / 10, 1.0, SAVED + second.mul_f64(RATE)).await, 1.0);
    }

    /// Computes for about so long, and looks as often as queries do.
    fn compute(pace: &Pace, time: Duration) {
        let (until, begun) = (pace.thread.spent().computed + time, std::time::Instant::now());
        while pace.thread.spent().computed < until {
            pace.due();
            assert!(begun.elapsed() < Duration::from_mins(1), "/proc/thread-self/schedstat tells what a thread computed");
        }
    }

    #[test]
    fn a_query_pauses_while_writers_are_pressed_but_not_at_its_beginning_and_not_for_ever() {
        let writers = WriterLoad::of(1);
        let allowance = Arc::new(Allowance::of(writers.clone(), 1));
        let timeout = Duration::from_millis(400);
        // As if the thread had waited for as long as it computed, and as if writers had been busy for long, whenever it is looked.
        let want = |pace: &Pace| pace.recent.set(Spent { waited: RECENT, ..pace.recent.get() });
        let press = || writers.add(Duration::from_mins(10));
        let pace = Pace::of_query(&allowance, timeout);
        want(&pace);
        compute(&pace, 2 * UNPAUSED);
        assert_eq!(pace.paused(), Duration::ZERO, "writers have little to do");
        drop(pace);
        let (pace, export) = (Pace::of_query(&allowance, timeout), Pace::of_export(&allowance));
        press();
        want(&pace);
        compute(&pace, UNPAUSED / 2);
        assert_eq!(pace.paused(), Duration::ZERO, "it has only begun");
        while pace.paused() < timeout / PARTS {
            press();
            want(&pace);
            compute(&pace, LOOK_EVERY);
        }
        assert_eq!(pace.paused(), timeout / PARTS);
        press();
        want(&pace);
        compute(&pace, UNPAUSED);
        assert_eq!(pace.paused(), timeout / PARTS, "it paused for long enough");
        while export.paused() <= timeout / PARTS {
            press();
            want(&export);
            thread::sleep(LOOK_EVERY);
            export.due();
        }
    }

    #[test]
    fn what_a_thread_waited_shows_whether_processors_are_wanting() {
        let spent = |computed, waited| Spent { computed: Duration::from_millis(computed), waited: Duration::from_millis(waited) };
        assert!(!spent(30, 2).shows_want());
        assert!(spent(30, 3).shows_want());
        assert!(spent(30, 3).and(spent(10, 1)).shows_want());
        assert!(!spent(30, 3).and(spent(40, 0)).shows_want());
        let mut recent = spent(90, 90);
        for _ in 0..10 {
            recent = recent.and(spent(100, 0));
        }
        assert!(!recent.shows_want(), "that is long ago: {recent:?}");
        assert!(recent.and(spent(50, 50)).shows_want());
        assert_eq!(ThreadClock(None).spent().computed, Duration::ZERO);
    }
}
