//! Functions of a range vector, each evaluated for one series over all steps at once.

use super::extrapolate::{Extrapolation, Stretch, reset_corrections};
use super::kahan::{self, Sum};
use super::math;
use super::quantile::SortedWindow;
use super::regression::{Line, Spread};
use super::sliding::sliding;
use super::windows::{Bounds, Samples, Window};
use crate::column::{ABSENT, ScalarColumn, is_absent};
use crate::limits::{Interrupt, Interrupted};
use crate::steps::Steps;

/// A function of a range vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the functions")]
pub enum OverTime {
    Avg,
    Changes,
    Count,
    Delta,
    Deriv,
    First,
    Idelta,
    Increase,
    Irate,
    Last,
    Max,
    Min,
    PredictLinear,
    Present,
    Quantile,
    Rate,
    Resets,
    Stddev,
    Stdvar,
    Sum,
}

/// One series and the windows in which it is looked at.
pub(crate) struct Ranges<'a> {
    pub(crate) samples: Samples<'a>,
    pub(crate) bounds: &'a [Bounds],
    /// For a function that extrapolates what [`stretches`] gives for these bounds.
    pub(crate) stretches: &'a [Stretch],
    pub(crate) steps: &'a Steps,
    /// The scalar that some functions take.
    pub(crate) parameter: &'a ScalarColumn<'a>,
    /// Asked now and then where the work grows with the length of the windows.
    pub(crate) interrupt: &'a dyn Interrupt,
}

/// What the times in each window contribute to a function that extrapolates.
pub(crate) fn stretches(
    extrapolation: Extrapolation,
    timestamps_ms: &[i64],
    bounds: &[Bounds],
    window: &Window,
    steps: &Steps,
    stretches: &mut Vec<Stretch>,
) {
    stretches.clear();
    stretches.extend(bounds.iter().enumerate().map(|(step, bounds)| {
        if bounds.len() < 2 {
            return Stretch::default();
        }
        let time_ms = steps.time_ms(step);
        let ends_ms = (timestamps_ms[bounds.start], timestamps_ms[bounds.end - 1]);
        Stretch::of(extrapolation, ends_ms, bounds.len(), (window.start_ms(time_ms), window.end_ms(time_ms)))
    }));
}

/// How many samples are looked at between two questions whether the query may go on.
const SAMPLES_BETWEEN_CHECKS: usize = 65_536;

impl OverTime {
    /// How a query writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Avg => "avg_over_time",
            Self::Changes => "changes",
            Self::Count => "count_over_time",
            Self::Delta => "delta",
            Self::Deriv => "deriv",
            Self::First => "first_over_time",
            Self::Idelta => "idelta",
            Self::Increase => "increase",
            Self::Irate => "irate",
            Self::Last => "last_over_time",
            Self::Max => "max_over_time",
            Self::Min => "min_over_time",
            Self::PredictLinear => "predict_linear",
            Self::Present => "present_over_time",
            Self::Quantile => "quantile_over_time",
            Self::Rate => "rate",
            Self::Resets => "resets",
            Self::Stddev => "stddev_over_time",
            Self::Stdvar => "stdvar_over_time",
            Self::Sum => "sum_over_time",
        }
    }

    /// Whether the result is a sample of the series and keeps its name.
    pub(crate) fn keeps_name(self) -> bool {
        matches!(self, Self::First | Self::Last)
    }

    /// Whether it is meant for counters.
    pub(crate) fn is_for_counters(self) -> bool {
        matches!(self, Self::Rate | Self::Increase)
    }

    /// Whether the result depends on the time of the step, not only on the window.
    pub(crate) fn uses_step_time(self) -> bool {
        self == Self::PredictLinear
    }

    /// How it extrapolates, if it does.
    pub(crate) fn extrapolation(self) -> Option<Extrapolation> {
        match self {
            Self::Rate => Some(Extrapolation::Rate),
            Self::Increase => Some(Extrapolation::Increase),
            Self::Delta => Some(Extrapolation::Delta),
            _ => None,
        }
    }

    /// Fills `out` with the value of each step, or [`ABSENT`].
    pub(crate) fn evaluate(self, ranges: &Ranges<'_>, out: &mut Vec<f64>) -> Result<(), Interrupted> {
        out.clear();
        out.resize(ranges.bounds.len(), ABSENT);
        let values = ranges.samples.values;
        match self {
            Self::Rate | Self::Increase => ranges.extrapolate(true, out),
            Self::Delta => ranges.extrapolate(false, out),
            Self::Irate => ranges.last_two(true, out),
            Self::Idelta => ranges.last_two(false, out),
            Self::Count => ranges.each(1, out, |bounds| bounds.len() as f64),
            Self::Present => ranges.each(1, out, |_| 1.0),
            Self::First => ranges.each(1, out, |bounds| values[bounds.start]),
            Self::Last => ranges.each(1, out, |bounds| values[bounds.end - 1]),
            Self::Changes => ranges.count_pairs(out, |before, after| before != after && !(before.is_nan() && after.is_nan())),
            Self::Resets => ranges.count_pairs(out, |before, after| after < before),
            Self::Max => ranges.join(out, |index| values[index], math::larger, |max| max),
            Self::Min => ranges.join(out, |index| values[index], math::smaller, |min| min),
            Self::Sum => ranges.join(out, |index| Sum::of(values[index]), Sum::join, Sum::total),
            Self::Avg => ranges.average(out)?,
            Self::Stdvar => ranges.join(out, |index| Spread::of(values[index]), Spread::join, Spread::variance),
            Self::Stddev => ranges.join(out, |index| Spread::of(values[index]), Spread::join, |spread| spread.variance().sqrt()),
            Self::Quantile => {
                let mut sorted = SortedWindow::default();
                ranges.each_whole(|step, bounds| {
                    sorted.move_to(bounds, values);
                    out[step] = sorted.quantile(ranges.parameter.at(step));
                })?;
            }
            Self::Deriv => ranges.line(out, |line, _| line.slope()),
            Self::PredictLinear => ranges.line(out, |line, step| {
                let now = ranges.seconds(ranges.steps.time_ms(step));
                line.at(now) + line.slope() * ranges.parameter.at(step)
            }),
        }
        Ok(())
    }
}

impl Ranges<'_> {
    /// The windows with so many samples at least.
    fn filled(&self, samples: usize) -> impl Iterator<Item = (usize, Bounds)> {
        self.bounds.iter().copied().enumerate().filter(move |(_, bounds)| bounds.len() >= samples)
    }

    /// Calls `of` for each window that is not empty; for what looks at a whole window at each step.
    fn each_whole(&self, mut of: impl FnMut(usize, Bounds)) -> Result<(), Interrupted> {
        let mut samples = 0;
        for (step, bounds) in self.filled(1) {
            samples += bounds.len();
            if samples >= SAMPLES_BETWEEN_CHECKS {
                samples = 0;
                self.interrupt.check()?;
            }
            of(step, bounds);
        }
        Ok(())
    }

    fn each(&self, samples: usize, out: &mut [f64], of: impl Fn(Bounds) -> f64) {
        for (step, bounds) in self.filled(samples) {
            out[step] = of(bounds);
        }
    }

    fn join<T: Copy>(&self, out: &mut [f64], lift: impl Fn(usize) -> T, join: impl Fn(T, T) -> T, result: impl Fn(T) -> f64) {
        sliding(self.bounds, lift, join, |step, joined| {
            if let Some(joined) = joined {
                out[step] = result(joined);
            }
        });
    }

    fn extrapolate(&self, is_counter: bool, out: &mut [f64]) {
        debug_assert_eq!(self.stretches.len(), self.bounds.len(), "what extrapolates is given the stretches of its windows");
        let values = self.samples.values;
        if is_counter {
            reset_corrections(self.samples, self.bounds, |step, lost| out[step] = lost);
        }
        for ((out, bounds), stretch) in out.iter_mut().zip(self.bounds).zip(self.stretches) {
            // Until here a step holds what its window's resets took away, if there are any.
            let reset_by = std::mem::replace(out, ABSENT);
            if bounds.len() < 2 {
                continue;
            }
            let first = values[bounds.start];
            let grown = values[bounds.end - 1] - first;
            *out = stretch.extrapolate(is_counter, first, if is_absent(reset_by) { grown } else { grown + reset_by });
        }
    }

    /// From the last but one sample to the last one; per second and with resets for a counter.
    fn last_two(&self, counter: bool, out: &mut [f64]) {
        let Samples { timestamps_ms, values } = self.samples;
        self.each(2, out, |bounds| {
            let (before, last) = (bounds.end - 2, bounds.end - 1);
            let reset = counter && values[last] < values[before];
            let difference = if reset { values[last] } else { values[last] - values[before] };
            if counter { difference / ((timestamps_ms[last] - timestamps_ms[before]) as f64 / 1000.0) } else { difference }
        });
    }

    /// How many neighbouring samples are as asked for.
    fn count_pairs(&self, out: &mut [f64], counts: impl Fn(f64, f64) -> bool) {
        let mut total: u32 = 0;
        // For each sample how many pairs there are up to it.
        let totals: Vec<u32> = std::iter::once(0)
            .chain(self.samples.values.windows(2).map(|pair| {
                total += u32::from(counts(pair[0], pair[1]));
                total
            }))
            .collect();
        self.each(1, out, |bounds| f64::from(totals[bounds.end - 1] - totals[bounds.start]));
    }

    fn average(&self, out: &mut [f64]) -> Result<(), Interrupted> {
        let values = self.samples.values;
        self.join(
            out,
            |index| Sum::of(values[index]),
            Sum::join,
            |sum| if sum.sum.is_infinite() { f64::INFINITY } else { sum.sum + sum.lost },
        );
        self.each_whole(|step, bounds| {
            out[step] = if out[step].is_infinite() {
                // The sum is too large, or the values are: the mean may still be a number.
                kahan::mean(values[bounds.start..bounds.end].iter().copied())
            } else {
                out[step] / bounds.len() as f64
            };
        })
    }

    /// Seconds from the first sample: near zero, products lose less.
    fn seconds(&self, time_ms: i64) -> f64 {
        (time_ms - self.samples.timestamps_ms.first().copied().unwrap_or_default()) as f64 / 1000.0
    }

    fn line(&self, out: &mut [f64], result: impl Fn(Line, usize) -> f64) {
        let Samples { timestamps_ms, values } = self.samples;
        sliding(
            self.bounds,
            |index| Line::of(self.seconds(timestamps_ms[index]), values[index]),
            Line::join,
            |step, line| {
                if let Some(line) = line.filter(|_| self.bounds[step].len() >= 2) {
                    out[step] = result(line, step);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests;
