//! The times at which an expression is evaluated.

/// Evenly spaced times; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    start_ms: i64,
    step_ms: i64,
    count: usize,
    until_ms: i64,
}

impl Steps {
    /// One time.
    pub fn at(time_ms: i64) -> Self {
        Self { start_ms: time_ms, step_ms: 1, count: 1, until_ms: time_ms }
    }

    /// The times from `start_ms` to `end_ms`, both included if a step meets them. `None` if the step is not positive, the
    /// end is before the start, or the count does not fit into memory's addresses.
    pub fn range(start_ms: i64, end_ms: i64, step_ms: i64) -> Option<Self> {
        if step_ms <= 0 || end_ms < start_ms {
            return None;
        }
        let steps = end_ms.checked_sub(start_ms)? / step_ms;
        Some(Self { start_ms, step_ms, count: usize::try_from(steps).ok()?.checked_add(1)?, until_ms: end_ms })
    }

    /// How many times there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The time of a step.
    pub fn time_ms(&self, index: usize) -> i64 {
        self.start_ms + self.step_ms * i64::try_from(index).unwrap_or(i64::MAX)
    }

    /// The first time.
    pub fn start_ms(&self) -> i64 {
        self.start_ms
    }

    /// The last time.
    pub fn end_ms(&self) -> i64 {
        self.time_ms(self.count - 1)
    }

    /// The end that was asked for, which is `@ end()`: the last time, or less than a step after it.
    pub fn until_ms(&self) -> i64 {
        self.until_ms
    }

    /// The time between two steps; 1 if there is only one.
    pub fn step_ms(&self) -> i64 {
        self.step_ms
    }

    /// All times.
    pub fn times_ms(&self) -> impl Iterator<Item = i64> {
        (0..self.count).map(|index| self.time_ms(index))
    }

    /// The first time alone.
    pub(crate) fn first(&self) -> Self {
        Self { count: 1, until_ms: self.start_ms, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_included_if_a_step_meets_it() {
        assert_eq!(Steps::range(0, 30, 10).unwrap().times_ms().collect::<Vec<_>>(), [0, 10, 20, 30]);
        assert_eq!(Steps::range(-5, 14, 10).unwrap().times_ms().collect::<Vec<_>>(), [-5, 5]);
        assert_eq!(Steps::range(7, 7, 10).unwrap().end_ms(), 7);
        let steps = Steps::range(0, 34, 10).unwrap();
        assert_eq!((steps.end_ms(), steps.until_ms(), steps.first().until_ms()), (30, 34, 0));
        assert_eq!(Steps::range(1, 0, 10), None);
        assert_eq!(Steps::range(0, 1, 0), None);
        assert_eq!(Steps::range(i64::MIN, i64::MAX, 1), None);
    }
}
