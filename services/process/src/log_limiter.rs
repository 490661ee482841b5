//! Rate-limited log lines for conditions that may occur thousands of times a second, such as requests that are refused while
//! the database is down.
//!
//! The first occurrence is logged at once, which shows when an outage began. Later ones are counted and logged as one line
//! every [`INTERVAL`], also after the last occurrence, so that the counts in the log add up to the number of occurrences. Counts that
//! are pending when the process ends are logged by [`write_pending_lines`].

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

/// The time between two lines about one condition.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The number of conditions that are counted separately at a time. All further conditions share one count and one line.
pub const MAX_CONDITIONS: usize = 64;

/// Limits the log lines of any number of conditions. `C` identifies a condition: usually a constant such as a reason's code.
///
/// ```
/// static REFUSALS: golectra_process::LogLimiter = golectra_process::LogLimiter::new();
///
/// fn refused(cause: String) {
///     REFUSALS.log("store_unavailable", move |count| {
///         tracing::warn!(count, cause, "writes are refused: the store is unavailable");
///     });
/// }
/// ```
pub struct LogLimiter<C = &'static str>(OnceLock<Arc<Conditions<C>>>);

/// Every limiter in use, for [`write_pending_lines`].
static LIMITERS: Mutex<Vec<Weak<dyn WriteLines>>> = Mutex::new(Vec::new());

/// The key None counts the conditions that did not fit.
type Conditions<C> = Mutex<HashMap<Option<C>, Condition>>;

/// Writes one line for this number of occurrences.
type Line = Box<dyn FnOnce(u64) + Send>;

/// A condition that occurred within the last [`INTERVAL`].
struct Condition {
    /// When the next line may be written.
    next_line_at: Instant,
    /// Occurrences since the last line.
    count: u64,
    /// Writes the line of the first of these occurrences.
    line: Option<Line>,
}

impl<C> LogLimiter<C> {
    /// A limiter without conditions.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }
}

impl<C> Default for LogLimiter<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> fmt::Debug for LogLimiter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimiter").finish_non_exhaustive()
    }
}

/// Logs the counts that are pending.
impl<C> Drop for LogLimiter<C> {
    fn drop(&mut self) {
        if let Some(conditions) = self.0.get() {
            write_lines(conditions);
        }
    }
}

impl<C: Eq + Hash + Clone + Send + 'static> LogLimiter<C> {
    /// Logs an occurrence of a condition: now, or as part of the next line that is due. `line` writes the line and gets the
    /// number of occurrences that it stands for; the line of the first of them is written.
    ///
    /// Inside a runtime a task writes the lines that are due later. Outside of a runtime they are written at the next
    /// occurrence.
    pub fn log(&self, condition: C, line: impl FnOnce(u64) + Send + 'static) {
        let conditions = self.0.get_or_init(|| {
            let conditions = Arc::<Conditions<C>>::default();
            let limiter: Weak<dyn WriteLines> = Arc::<Conditions<C>>::downgrade(&conditions);
            let mut limiters = LIMITERS.lock().unwrap_or_else(PoisonError::into_inner);
            limiters.retain(|limiter| limiter.strong_count() > 0);
            limiters.push(limiter);
            conditions
        });
        let now = Instant::now();
        let mut locked = lock(conditions);
        let key = key(&mut locked, condition, now);
        let count = if let Some(known) = locked.get_mut(&key) {
            known.count += 1;
            if now < known.next_line_at {
                known.line.get_or_insert_with(|| Box::new(line));
                return;
            }
            known.take(now).0
        } else {
            locked.insert(key.clone(), Condition { next_line_at: now + INTERVAL, count: 0, line: None });
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(write_due_lines(Arc::clone(conditions), key));
            }
            1
        };
        // Writing may block, and other callers should not wait for it.
        drop(locked);
        line(count);
    }
}

impl Condition {
    /// Resets the count for a line that is written now, and returns what it was.
    fn take(&mut self, now: Instant) -> (u64, Option<Line>) {
        self.next_line_at = now + INTERVAL;
        (std::mem::take(&mut self.count), self.line.take())
    }
}

/// The key under which a condition is counted.
fn key<C: Eq + Hash>(conditions: &mut HashMap<Option<C>, Condition>, condition: C, now: Instant) -> Option<C> {
    let key = Some(condition);
    if conditions.len() >= MAX_CONDITIONS && !conditions.contains_key(&key) {
        // A task removes a condition that has ended; only conditions that were logged outside of a runtime are removed here.
        conditions.retain(|_, condition| condition.next_line_at > now || condition.count > 0);
    }
    if conditions.len() < MAX_CONDITIONS || conditions.contains_key(&key) { key } else { None }
}

/// Writes a condition's lines when they are due, until it has not occurred for [`INTERVAL`].
async fn write_due_lines<C: Eq + Hash>(conditions: Arc<Conditions<C>>, key: Option<C>) {
    loop {
        let Some(due) = lock(&conditions).get(&key).map(|condition| condition.next_line_at) else { return };
        sleep_until(due).await;
        let (count, line) = {
            let mut locked = lock(&conditions);
            let Some(condition) = locked.get_mut(&key) else { return };
            let now = Instant::now();
            if condition.next_line_at > now {
                continue;
            }
            if condition.count == 0 {
                locked.remove(&key);
                return;
            }
            condition.take(now)
        };
        if let Some(line) = line {
            line(count);
        }
    }
}

/// Logs the pending counts of every limiter. Called when the process ends, because lines that are due later would be lost.
pub fn write_pending_lines() {
    let limiters: Vec<_> = LIMITERS.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
    for limiter in limiters {
        limiter.write_lines();
    }
}

/// A limiter of any type of condition.
trait WriteLines: Send + Sync {
    /// Logs the pending counts.
    fn write_lines(&self);
}

impl<C: Send> WriteLines for Conditions<C> {
    fn write_lines(&self) {
        write_lines(self);
    }
}

fn write_lines<C>(conditions: &Conditions<C>) {
    let now = Instant::now();
    let pending: Vec<_> =
        lock(conditions).values_mut().filter(|condition| condition.count > 0).map(|condition| condition.take(now)).collect();
    for (count, line) in pending {
        if let Some(line) = line {
            line(count);
        }
    }
}

fn lock<C>(conditions: &Conditions<C>) -> MutexGuard<'_, HashMap<Option<C>, Condition>> {
    conditions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    /// A limiter that records its lines: each as the condition, the count and the number of the occurrence that wrote it.
    #[derive(Default)]
    struct Log {
        limiter: LogLimiter<u32>,
        lines: Arc<Mutex<Vec<(u32, u64, u32)>>>,
        occurrences: u32,
    }

    impl Log {
        fn occurs(&mut self, condition: u32) {
            let (lines, occurrence) = (Arc::clone(&self.lines), self.occurrences);
            self.occurrences += 1;
            self.limiter.log(condition, move |count| lines.lock().unwrap().push((condition, count, occurrence)));
        }

        fn lines(&self) -> Vec<(u32, u64, u32)> {
            std::mem::take(&mut self.lines.lock().unwrap())
        }

        fn known(&self) -> usize {
            self.limiter.0.get().map_or(0, |conditions| lock(conditions).len())
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_first_line_is_written_at_once_and_then_one_every_ten_seconds_with_a_count() {
        let mut log = Log::default();
        for _ in 0..100 {
            log.occurs(1);
        }
        assert_eq!(log.lines(), [(1, 1, 0)], "the first at once");
        sleep(INTERVAL + SECOND).await;
        assert_eq!(log.lines(), [(1, 99, 1)], "the others as one line, without another occurrence");
        log.occurs(1);
        assert_eq!(log.lines(), [], "none within ten seconds of the last line");
        sleep(INTERVAL).await;
        assert_eq!(log.lines(), [(1, 1, 100)]);
        sleep(INTERVAL * 2).await;
        assert_eq!((log.lines(), log.known()), (vec![], 0), "a condition that has ended is removed");
        log.occurs(1);
        assert_eq!(log.lines(), [(1, 1, 101)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_two_minutes_is_a_dozen_lines_that_count_every_occurrence() {
        let mut log = Log::default();
        for _ in 0..2400 {
            log.occurs(1);
            sleep(SECOND / 20).await;
        }
        sleep(INTERVAL * 2).await;
        let lines = log.lines();
        assert!((12..=13).contains(&lines.len()), "{lines:?}");
        assert_eq!(lines.iter().map(|(_, count, _)| count).sum::<u64>(), 2400);
    }

    #[tokio::test(start_paused = true)]
    async fn conditions_are_counted_separately_and_their_number_is_bounded() {
        let mut log = Log::default();
        for condition in 0..1000 {
            log.occurs(condition);
            log.occurs(condition);
        }
        let lines = log.lines();
        assert_eq!(lines.len(), MAX_CONDITIONS + 1);
        assert!(lines.iter().all(|(_, count, _)| *count == 1));
        assert_eq!(log.known(), MAX_CONDITIONS + 1);
        sleep(INTERVAL + SECOND).await;
        let lines = log.lines();
        assert_eq!(lines.len(), MAX_CONDITIONS + 1);
        assert_eq!(lines.iter().map(|(_, count, _)| count).sum::<u64>(), 2000 - 65);
        sleep(INTERVAL).await;
        assert_eq!(log.known(), 0);
    }

    #[test]
    fn it_limits_and_is_bounded_outside_of_a_runtime_too() {
        let mut log = Log::default();
        for condition in 0..1000 {
            log.occurs(condition);
            log.occurs(condition);
        }
        assert_eq!((log.lines().len(), log.known()), (MAX_CONDITIONS + 1, MAX_CONDITIONS + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_counts_are_written_once_when_the_process_ends() {
        let mut log = Log::default();
        for _ in 0..100 {
            log.occurs(1);
        }
        log.occurs(2);
        log.lines();
        // What write_pending_lines does for every limiter of the process, among them those of other tests.
        write_lines(log.limiter.0.get().unwrap());
        assert_eq!(log.lines(), [(1, 99, 1)]);
        sleep(INTERVAL * 2).await;
        assert_eq!(log.lines(), []);
    }

    #[test]
    fn pending_counts_are_written_when_a_limiter_is_dropped() {
        let mut log = Log::default();
        for _ in 0..3 {
            log.occurs(1);
        }
        let lines = Arc::clone(&log.lines);
        drop(log);
        assert_eq!(*lines.lock().unwrap(), [(1, 1, 0), (1, 2, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_occurrence_at_the_time_of_a_due_line_is_counted_in_it() {
        let mut log = Log::default();
        log.occurs(1);
        log.occurs(1);
        log.lines();
        // The task has not run yet.
        advance(INTERVAL).await;
        log.occurs(1);
        sleep(INTERVAL * 2).await;
        assert_eq!(log.lines().iter().map(|(_, count, _)| count).sum::<u64>(), 2);
    }
}
