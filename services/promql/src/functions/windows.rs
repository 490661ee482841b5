//! Which samples a range covers at each step.

use crate::steps::Steps;

/// The samples of one series, oldest first, without stale markers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples<'a> {
    pub(crate) timestamps_ms: &'a [i64],
    pub(crate) values: &'a [f64],
}

/// The samples that a window covers: from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Bounds {
    pub(crate) fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

/// How far a selector looks back, and from when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "names carry units")]
pub(crate) struct Window {
    pub(crate) range_ms: i64,
    pub(crate) offset_ms: i64,
    /// The time of `@`, instead of the step's.
    pub(crate) at_ms: Option<i64>,
}

impl Window {
    /// The last time that the window of a step covers.
    pub(crate) fn end_ms(&self, step_time_ms: i64) -> i64 {
        self.at_ms.unwrap_or(step_time_ms) - self.offset_ms
    }

    /// The time just before the window of a step: ranges are open on the left.
    pub(crate) fn start_ms(&self, step_time_ms: i64) -> i64 {
        self.end_ms(step_time_ms) - self.range_ms
    }

    /// The first and the last time that any step's window covers.
    pub(crate) fn covered_ms(&self, steps: &Steps) -> (i64, i64) {
        (self.start_ms(steps.start_ms()) + 1, self.end_ms(steps.end_ms()))
    }

    /// The bounds of every step's window.
    pub(crate) fn bounds(&self, timestamps_ms: &[i64], steps: &Steps, bounds: &mut Vec<Bounds>) {
        bounds.clear();
        let (mut start, mut end) = (0, 0);
        let distinct = if self.at_ms.is_some() { 1 } else { steps.len() };
        bounds.extend((0..distinct).map(|step| {
            let time_ms = steps.time_ms(step);
            start = first_after(timestamps_ms, start, self.start_ms(time_ms));
            end = first_after(timestamps_ms, end.max(start), self.end_ms(time_ms));
            Bounds { start, end }
        }));
        bounds.resize(steps.len(), bounds[0]);
    }
}

/// The times of the series before, as series come one after the other. Those that one source reports together have the same times, so what follows from
/// times alone is computed once for them.
#[derive(Default)]
pub(crate) struct TimesBefore {
    /// How many there were, the first and the last.
    outline: Option<(usize, i64, i64)>,
    /// All of them; empty until a second series has the same outline, because a copy costs about what one series saves.
    timestamps_ms: Vec<i64>,
}

impl TimesBefore {
    /// Whether the next series has the same times as the one before. A second one of a row is not told, those behind it are.
    pub(crate) fn are(&mut self, timestamps_ms: &[i64]) -> bool {
        let outline = timestamps_ms.first().zip(timestamps_ms.last()).map(|(first, last)| (timestamps_ms.len(), *first, *last));
        if outline.is_none() || self.outline != outline {
            self.outline = outline;
            self.timestamps_ms.clear();
            return false;
        }
        let same = self.timestamps_ms == timestamps_ms;
        if !same {
            self.timestamps_ms.clear();
            self.timestamps_ms.extend_from_slice(timestamps_ms);
        }
        same
    }

    /// Forgets them, where a series comes that has no times of samples.
    pub(crate) fn forget(&mut self) {
        self.outline = None;
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.timestamps_ms.capacity() * size_of::<i64>()
    }
}

/// The first index, from `from` on, whose time is after `limit_ms`. Close ones are found first.
pub(crate) fn first_after(timestamps_ms: &[i64], from: usize, limit_ms: i64) -> usize {
    let rest = &timestamps_ms[from..];
    let mut reach = 1;
    while reach < rest.len() && rest[reach - 1] <= limit_ms {
        reach *= 2;
    }
    let (low, high) = (reach / 2, reach.min(rest.len()));
    from + low + rest[low..high].partition_point(|timestamp_ms| *timestamp_ms <= limit_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_open_on_the_left() {
        let window = Window { range_ms: 20, offset_ms: 0, at_ms: None };
        let mut bounds = Vec::new();
        window.bounds(&[0, 10, 20, 30], &Steps::range(0, 30, 10).unwrap(), &mut bounds);
        assert_eq!(bounds.iter().map(|bounds| (bounds.start, bounds.end)).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 3), (2, 4)]);
        assert_eq!(window.covered_ms(&Steps::range(0, 30, 10).unwrap()), (-19, 30));
    }

    #[test]
    fn a_fixed_time_is_the_same_at_every_step() {
        let window = Window { range_ms: 15, offset_ms: 10, at_ms: Some(30) };
        let mut bounds = Vec::new();
        window.bounds(&[0, 10, 20, 30], &Steps::range(0, 30, 10).unwrap(), &mut bounds);
        assert_eq!(bounds, [Bounds { start: 1, end: 3 }; 4]);
    }

    #[test]
    fn only_equal_times_are_the_same() {
        let mut before = TimesBefore::default();
        let mut are = |timestamps_ms: &[i64]| before.are(timestamps_ms);
        assert_eq!([are(&[1, 2, 4]), are(&[1, 2, 4]), are(&[1, 2, 4]), are(&[1, 2, 4])], [false, false, true, true]);
        // Others with the same ends.
        assert_eq!([are(&[1, 3, 4]), are(&[1, 3, 4]), are(&[1, 2, 4])], [false, true, false]);
        assert_eq!([are(&[1, 4]), are(&[1, 2, 4]), are(&[]), are(&[])], [false; 4]);
        assert_eq!([are(&[1, 2, 4]), are(&[1, 2, 4]), are(&[1, 2, 4])], [false, false, true]);
        before.forget();
        assert!(!before.are(&[1, 2, 4]));
    }

    proptest! {
        #[test]
        fn bounds_equal_a_search_of_all_samples(
            gaps in prop::collection::vec(1..50_i64, 0..60),
            (start, step, count) in (-100..500_i64, 1..200_i64, 1..20_i64),
            (range_ms, offset_ms) in (1..400_i64, -200..200_i64),
        ) {
            let timestamps: Vec<i64> = gaps.iter().scan(0, |time, gap| { *time += gap; Some(*time) }).collect();
            let steps = Steps::range(start, start + step * (count - 1), step).unwrap();
            let window = Window { range_ms, offset_ms, at_ms: None };
            let mut bounds = Vec::new();
            window.bounds(&timestamps, &steps, &mut bounds);
            for (step, bounds) in bounds.iter().enumerate() {
                let end = steps.time_ms(step) - offset_ms;
                let expected: Vec<_> = timestamps.iter().filter(|time| **time > end - range_ms && **time <= end).collect();
                prop_assert_eq!(timestamps[bounds.start..bounds.end].iter().collect::<Vec<_>>(), expected);
            }
        }
    }
}
