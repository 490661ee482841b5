//! Functions of ranges whose samples were rolled up into buckets.
//!
//! A range that begins and ends where buckets do gives what it gives for the samples, but for the rounding of sums that are added in another order. Other
//! ranges are moved back to such times at both ends. So a function can be answered if it only needs of a range how many samples there were, their
//! sum, the smallest, the largest, and the ends with what resets took between them.

use super::extrapolate::{Extrapolation, Stretch};
use super::kahan::Sum;
use super::math;
use super::over_time::OverTime;
use super::sliding::sliding;
use super::windows::{Bounds, Window};
use crate::column::ABSENT;
use crate::steps::Steps;
use crate::store::{Bucket, Rollup};

/// The functions of ranges that buckets can answer.
const ANSWERED: [OverTime; 11] = [
    OverTime::Avg,
    OverTime::Count,
    OverTime::Delta,
    OverTime::First,
    OverTime::Increase,
    OverTime::Last,
    OverTime::Max,
    OverTime::Min,
    OverTime::Present,
    OverTime::Rate,
    OverTime::Sum,
];

/// Whether buckets can answer the function of this name.
pub(crate) fn can_answer(function: &str) -> bool {
    function == "absent_over_time" || ANSWERED.iter().any(|answered| answered.as_str() == function)
}

/// What is said of an answer from buckets of this length.
pub(crate) fn answered_from(bucket_ms: i64) -> String {
    let length = match bucket_ms {
        300_000 => "5-minute".to_owned(),
        3_600_000 => "1-hour".to_owned(),
        _ => format!("{}-second", bucket_ms / 1000),
    };
    format!("answered from {length} rollups, whose ranges begin and end at multiples of that time")
}

/// The last time that is not after this and where a bucket begins.
pub(crate) fn boundary_ms(time_ms: i64, bucket_ms: i64) -> i64 {
    time_ms - time_ms.rem_euclid(bucket_ms)
}

/// The buckets that each step's window covers.
pub(crate) fn bounds(rollup: &Rollup<'_>, window: &Window, steps: &Steps, bounds: &mut Vec<Bounds>) {
    bounds.clear();
    let buckets = rollup.buckets;
    let first_from = |from: usize, time_ms: i64| {
        let boundary_ms = boundary_ms(time_ms, rollup.bucket_ms);
        // Steps are close to each other.
        from + buckets[from..].iter().take_while(|bucket| bucket.first_ms < boundary_ms).count()
    };
    let (mut start, mut end) = (0, 0);
    let distinct = if window.at_ms.is_some() { 1 } else { steps.len() };
    bounds.extend((0..distinct).map(|step| {
        let time_ms = steps.time_ms(step);
        start = first_from(start, window.start_ms(time_ms));
        end = first_from(end.max(start), window.end_ms(time_ms));
        Bounds { start, end }
    }));
    bounds.resize(steps.len(), bounds[0]);
}

/// The buckets of one series and the windows in which they are looked at.
pub(crate) struct RolledUpRanges<'a> {
    pub(crate) rollup: Rollup<'a>,
    pub(crate) bounds: &'a [Bounds],
    pub(crate) window: Window,
    pub(crate) steps: &'a Steps,
}

/// Sum and count of samples.
#[derive(Clone, Copy)]
struct Total {
    sum: Sum,
    count: u64,
}

impl Total {
    fn of(bucket: &Bucket) -> Self {
        Self { sum: Sum::of(bucket.sum), count: u64::from(bucket.count) }
    }

    fn join(self, other: Self) -> Self {
        Self { sum: self.sum.join(other.sum), count: self.count + other.count }
    }
}

/// What lies between the ends of some buckets.
#[derive(Clone, Copy)]
struct Span {
    first_ms: i64,
    last_ms: i64,
    first: f64,
    last: f64,
    lost: f64,
    count: u64,
}

impl Span {
    fn of(bucket: &Bucket) -> Self {
        let Bucket { first_ms, last_ms, first, last, lost, .. } = *bucket;
        Self { first_ms, last_ms, first, last, lost, count: u64::from(bucket.count) }
    }

    fn join(self, next: Self) -> Self {
        let between = if next.first < self.last { self.last } else { 0.0 };
        Self { last_ms: next.last_ms, last: next.last, lost: self.lost + between + next.lost, count: self.count + next.count, ..self }
    }
}

impl RolledUpRanges<'_> {
    /// Fills `out` with the value of each step, or [`ABSENT`]. Answers whether the function can be answered.
    pub(crate) fn evaluate(&self, function: OverTime, out: &mut Vec<f64>) -> bool {
        out.clear();
        out.resize(self.bounds.len(), ABSENT);
        let buckets = self.rollup.buckets;
        match function {
            OverTime::Rate => self.extrapolate(Extrapolation::Rate, out),
            OverTime::Increase => self.extrapolate(Extrapolation::Increase, out),
            OverTime::Delta => self.extrapolate(Extrapolation::Delta, out),
            OverTime::Count => self.join(out, Total::of, Total::join, |total| total.count as f64),
            OverTime::Sum => self.join(out, Total::of, Total::join, |total| total.sum.total()),
            OverTime::Avg => self.average(out),
            OverTime::Max => self.join(out, |bucket| bucket.max, math::larger, |max| max),
            OverTime::Min => self.join(out, |bucket| bucket.min, math::smaller, |min| min),
            OverTime::Present => self.each(out, |_| 1.0),
            OverTime::First => self.each(out, |bounds| buckets[bounds.start].first),
            OverTime::Last => self.each(out, |bounds| buckets[bounds.end - 1].last),
            OverTime::Changes
            | OverTime::Deriv
            | OverTime::Idelta
            | OverTime::Irate
            | OverTime::PredictLinear
            | OverTime::Quantile
            | OverTime::Resets
            | OverTime::Stddev
            | OverTime::Stdvar => return false,
        }
        true
    }

    fn each(&self, out: &mut [f64], of: impl Fn(Bounds) -> f64) {
        for (step, bounds) in self.bounds.iter().copied().enumerate().filter(|(_, bounds)| bounds.len() > 0) {
            out[step] = of(bounds);
        }
    }

    fn join<T: Copy>(&self, out: &mut [f64], lift: impl Fn(&Bucket) -> T, join: impl Fn(T, T) -> T, result: impl Fn(T) -> f64) {
        sliding(
            self.bounds,
            |index| lift(&self.rollup.buckets[index]),
            join,
            |step, joined| {
                if let Some(joined) = joined {
                    out[step] = result(joined);
                }
            },
        );
    }

    fn average(&self, out: &mut [f64]) {
        let total = |step: usize, total: Total| {
            if total.sum.sum.is_finite() {
                return total.sum.total() / total.count as f64;
            }
            // The sum is too large, or a value is: the mean may still be a number.
            let Bounds { start, end } = self.bounds[step];
            let parts = self.rollup.buckets[start..end].iter().map(|bucket| bucket.sum / total.count as f64);
            parts.fold(Sum::default(), Sum::plus).total()
        };
        sliding(
            self.bounds,
            |index| Total::of(&self.rollup.buckets[index]),
            Total::join,
            |step, joined| {
                if let Some(joined) = joined {
                    out[step] = total(step, joined);
                }
            },
        );
    }

    fn extrapolate(&self, extrapolation: Extrapolation, out: &mut [f64]) {
        sliding(
            self.bounds,
            |index| Span::of(&self.rollup.buckets[index]),
            Span::join,
            |step, span| {
                let Some(span) = span.filter(|span| span.count >= 2) else { return };
                let lost = if extrapolation.is_counter() { span.lost } else { 0.0 };
                let count = usize::try_from(span.count).unwrap_or(usize::MAX);
                let time_ms = self.steps.time_ms(step);
                let boundary = |time_ms| boundary_ms(time_ms, self.rollup.bucket_ms);
                let borders_ms = (boundary(self.window.start_ms(time_ms)), boundary(self.window.end_ms(time_ms)));
                let stretch = Stretch::of(extrapolation, (span.first_ms, span.last_ms), count, borders_ms);
                out[step] = stretch.extrapolate(extrapolation.is_counter(), span.first, span.last - span.first + lost);
            },
        );
    }
}

#[cfg(test)]
mod tests;
