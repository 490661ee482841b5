//! The two windows that are compared, in steps.

use golectra_promql::Steps;

use super::super::kept::is_shortly_before;
use super::super::window::Window;

/// The number of steps of each window.
const STEPS: i64 = 40;
/// The smallest step: agents report every 10 s.
const MIN_STEP_MS: i64 = 15_000;
/// The smallest window of rates; many scrape once a minute.
const MIN_RATE_MS: i64 = 120_000;

/// The two windows in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Windows {
    pub end_ms: i64,
    pub step_ms: i64,
    /// Of each window.
    pub count: usize,
}

impl Windows {
    pub fn of(window: &Window) -> Self {
        let length = (window.end_ms - window.start_ms).max(MIN_STEP_MS * 4);
        let step_ms = (length / STEPS).max(MIN_STEP_MS);
        // Whole steps, so that a ranking serves everyone until the next step.
        let end_ms = window.end_ms - window.end_ms.rem_euclid(step_ms);
        Self { end_ms, step_ms, count: usize::try_from(length / step_ms).unwrap_or_default().max(2) }
    }

    /// Whether they are as long as others and end with them, or at most a step or a minute before.
    pub fn are_shortly_before(self, others: Self) -> bool {
        Self { end_ms: others.end_ms, ..self } == others && is_shortly_before(self.end_ms, others.end_ms, self.step_ms)
    }

    pub fn steps(self) -> Steps {
        let before = i64::try_from(self.count).unwrap_or(STEPS) * 2 - 1;
        Steps::range(self.end_ms - before * self.step_ms, self.end_ms, self.step_ms).unwrap_or_else(|| Steps::at(self.end_ms))
    }

    pub fn rate_ms(self) -> i64 {
        self.step_ms.max(MIN_RATE_MS)
    }

    /// The length of a window in hours.
    #[expect(clippy::cast_precision_loss, reason = "a window is a few years at most")]
    pub fn hours(self) -> f64 {
        self.count as f64 * self.step_ms as f64 / 3_600_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_move_by_whole_steps() {
        let windows = Windows::of(&Window { start_ms: 1_000_000_000, end_ms: 1_003_600_000, preset: None });
        assert_eq!((windows.step_ms, windows.count, windows.end_ms % 90_000), (90_000, 40, 0));
        assert_eq!(windows.steps().len(), 80);
        let earlier = |steps: i64| Windows { end_ms: windows.end_ms - steps * windows.step_ms, ..windows };
        assert!(earlier(1).are_shortly_before(windows) && !earlier(2).are_shortly_before(windows));
        assert!(!Windows { count: 39, ..windows }.are_shortly_before(windows));
        let short = Windows::of(&Window { start_ms: 0, end_ms: 60_000, preset: None });
        assert_eq!((short.step_ms, short.count), (15_000, 4));
    }
}
