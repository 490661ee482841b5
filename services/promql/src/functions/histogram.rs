//! Quantiles and fractions of classic histograms: counters of observations up to a bound, in the label `le`.

use std::cmp::Ordering;

use crate::column::{ABSENT, Series, is_absent};
use crate::error::EvalError;
use crate::eval::{Charge, Evaluator, Sink};
use crate::labels::{BUCKET_LABEL, Labels};
use crate::matching::FastMap;
use crate::plan::{ScalarNode, VectorNode};
use crate::position::Span;
use crate::steps::Steps;

/// The buckets of one histogram over all steps.
struct Histogram {
    labels: Labels,
    drop_name: bool,
    /// The upper bound of each bucket and how many observations are up to it, sorted by bound.
    buckets: Vec<(f64, Vec<f64>)>,
}

/// How many observations are up to a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    upper: f64,
    count: f64,
}

/// The series of a vector as histograms. Series whose `le` is no number are left out with a warning.
fn histograms<'a>(
    evaluator: &'a Evaluator<'_>,
    buckets: &VectorNode,
    span: Span,
    steps: &Steps,
) -> Result<(Vec<Histogram>, Charge<'a>), EvalError> {
    let charge = evaluator.ledger.charge(0)?;
    let mut indices: FastMap<Labels, usize> = FastMap::default();
    let mut histograms: Vec<Histogram> = Vec::new();
    evaluator.stream(buckets, steps, &mut |series| {
        let bound = series.labels.value(BUCKET_LABEL);
        let Ok(upper) = bound.parse::<f64>() else {
            let metric = series.labels.metric_name();
            let metric = if metric.is_empty() { String::new() } else { format!(" for metric name {metric:?}") };
            evaluator.warn(format_args!("bucket label \"le\" is missing or has a malformed value of {bound:?}{metric}"), span);
            return Ok(());
        };
        let labels = series.labels.filtered(|label| label != BUCKET_LABEL);
        charge.add(series.memory_bytes())?;
        let index = *indices.entry(labels.clone()).or_insert_with(|| {
            histograms.push(Histogram { labels, drop_name: true, buckets: Vec::new() });
            histograms.len() - 1
        });
        histograms[index].buckets.push((upper, std::mem::take(&mut series.values)));
        Ok(())
    })?;
    for histogram in &mut histograms {
        histogram.buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
    }
    Ok((histograms, charge))
}

impl Histogram {
    /// The buckets at one step, with those of one bound put together.
    fn at(&self, step: usize, buckets: &mut Vec<Bucket>) {
        buckets.clear();
        for (upper, counts) in &self.buckets {
            let count = counts[step];
            if is_absent(count) {
                continue;
            }
            match buckets.last_mut() {
                Some(last) if last.upper == *upper => last.count += count,
                _ => buckets.push(Bucket { upper: *upper, count }),
            }
        }
    }
}

/// Evaluates each histogram at each step where it has a bucket.
fn each(
    evaluator: &Evaluator<'_>,
    histograms: Vec<Histogram>,
    steps: &Steps,
    sink: &mut Sink<'_>,
    mut of: impl FnMut(&Labels, usize, &mut Vec<Bucket>) -> f64,
) -> Result<(), EvalError> {
    let mut buckets = Vec::new();
    for histogram in histograms {
        evaluator.check_interrupt()?;
        let values = (0..steps.len()).map(|step| {
            histogram.at(step, &mut buckets);
            if buckets.is_empty() { ABSENT } else { of(&histogram.labels, step, &mut buckets) }
        });
        let mut series = Series { values: values.collect(), drop_name: histogram.drop_name, labels: histogram.labels.clone() };
        if series.has_values() {
            sink(&mut series)?;
        }
    }
    Ok(())
}

pub(crate) fn quantiles(
    evaluator: &Evaluator<'_>,
    quantile: &ScalarNode,
    buckets: &VectorNode,
    quantile_span: Span,
    span: Span,
    steps: &Steps,
    sink: &mut Sink<'_>,
) -> Result<(), EvalError> {
    let quantile = evaluator.scalar(quantile, steps)?;
    evaluator.warn_of_quantiles(quantile.values(), quantile_span);
    let (histograms, _charge) = histograms(evaluator, buckets, span, steps)?;
    each(evaluator, histograms, steps, sink, |labels, step, buckets| {
        let (value, forced) = bucket_quantile(quantile.at(step), buckets);
        if forced {
            let metric = labels.metric_name();
            let metric = if metric.is_empty() { String::new() } else { format!(" for metric name {metric:?}") };
            evaluator.inform(format_args!("input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){metric}"), span);
        }
        value
    })
}

pub(crate) fn fractions(
    evaluator: &Evaluator<'_>,
    lower: &ScalarNode,
    upper: &ScalarNode,
    buckets: &VectorNode,
    span: Span,
    steps: &Steps,
    sink: &mut Sink<'_>,
) -> Result<(), EvalError> {
    let (lower, upper) = (evaluator.scalar(lower, steps)?, evaluator.scalar(upper, steps)?);
    let (histograms, _charge) = histograms(evaluator, buckets, span, steps)?;
    each(evaluator, histograms, steps, sink, |_, step, buckets| bucket_fraction(lower.at(step), upper.at(step), buckets))
}

/// The quantile of a histogram, interpolated within its bucket, and whether counts had to be made to grow.
fn bucket_quantile(q: f64, buckets: &mut [Bucket]) -> (f64, bool) {
    if q.is_nan() {
        return (f64::NAN, false);
    }
    if !(0.0..=1.0).contains(&q) {
        return (if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY }, false);
    }
    let Some((last, others)) = buckets.split_last().filter(|(last, others)| last.upper == f64::INFINITY && !others.is_empty()) else {
        return (f64::NAN, false);
    };
    let _ = (last, others);
    let forced = make_monotonic(buckets);
    let highest = buckets.len() - 1;
    let observations = buckets[highest].count;
    if observations == 0.0 {
        return (f64::NAN, false);
    }
    let rank = q * observations;
    // NaN reaches no rank, so that a histogram of NaN has its quantiles in the last bucket.
    let below_rank = |bucket: &Bucket| bucket.count.partial_cmp(&rank).is_none_or(Ordering::is_lt);
    let found = buckets[..highest].partition_point(below_rank);
    let bucket = buckets[found];
    if found == highest {
        // Nothing is known about the bucket without a bound.
        return (buckets[highest - 1].upper, forced);
    }
    if found == 0 && bucket.upper <= 0.0 {
        return (bucket.upper, forced);
    }
    let below = if found > 0 { buckets[found - 1] } else { Bucket { upper: 0.0, count: 0.0 } };
    (below.upper + (bucket.upper - below.upper) * ((rank - below.count) / (bucket.count - below.count)), forced)
}

/// Makes counts that do not grow equal to the one before. Returns whether any was smaller by more than rounding.
fn make_monotonic(buckets: &mut [Bucket]) -> bool {
    const TOLERANCE: f64 = 1e-12;
    let mut forced = false;
    let mut highest = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let rounding = (bucket.count - highest).abs() <= TOLERANCE * (bucket.count.abs() + highest.abs());
        if rounding {
            bucket.count = highest;
        } else if bucket.count < highest {
            bucket.count = highest;
            forced = true;
        } else {
            highest = bucket.count;
        }
    }
    forced
}

/// Which part of the observations lies between two values, interpolated within their buckets. As in Prometheus, counts are not made to grow here; a bucket
/// that has more than the last one counts as much as that.
fn bucket_fraction(lower: f64, upper: f64, buckets: &[Bucket]) -> f64 {
    let Some(last) = buckets.last().filter(|last| last.upper == f64::INFINITY) else { return f64::NAN };
    let observations = last.count;
    if observations == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let rank = |value: f64| {
        let rank = rank_of(value, buckets);
        // A count that is NaN stays so.
        if rank > observations { observations } else { rank }
    };
    (rank(upper) - rank(lower)) / observations
}

/// How many observations are up to a value.
fn rank_of(value: f64, buckets: &[Bucket]) -> f64 {
    // Observations are taken to be positive if the first bound is.
    let mut below = Bucket { upper: if buckets[0].upper > 0.0 { 0.0 } else { f64::NEG_INFINITY }, count: 0.0 };
    for bucket in buckets {
        if value <= below.upper {
            return below.count;
        }
        if value < bucket.upper {
            if below.upper == f64::NEG_INFINITY {
                return bucket.count;
            }
            return below.count + (bucket.count - below.count) * (value - below.upper) / (bucket.upper - below.upper);
        }
        below = *bucket;
    }
    below.count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(buckets: &[(f64, f64)]) -> Vec<Bucket> {
        buckets.iter().map(|(upper, count)| Bucket { upper: *upper, count: *count }).collect()
    }

    const INF: f64 = f64::INFINITY;

    #[test]
    fn quantiles_are_interpolated_within_a_bucket() {
        let histogram = buckets(&[(1.0, 10.0), (2.0, 30.0), (INF, 40.0)]);
        for (q, expected) in [(0.0, 0.0), (0.125, 0.5), (0.25, 1.0), (0.5, 1.5), (0.75, 2.0), (0.9, 2.0), (-1.0, -INF), (2.0, INF)] {
            assert_eq!(bucket_quantile(q, &mut histogram.clone()), (expected, false), "{q}");
        }
        for histogram in [buckets(&[(1.0, 10.0)]), buckets(&[(INF, 10.0)]), buckets(&[(1.0, 0.0), (INF, 0.0)])] {
            assert!(bucket_quantile(0.5, &mut histogram.clone()).0.is_nan(), "{histogram:?}");
        }
        assert_eq!(bucket_quantile(0.1, &mut buckets(&[(-1.0, 5.0), (INF, 10.0)])), (-1.0, false));
        let nan = buckets(&[(1.0, f64::NAN), (2.0, f64::NAN), (INF, f64::NAN)]);
        for q in [0.0, 0.5, 1.0] {
            assert_eq!(bucket_quantile(q, &mut nan.clone()), (2.0, false), "{q}");
        }
    }

    #[test]
    fn counts_are_made_to_grow() {
        let mut histogram = buckets(&[(1.0, 10.0), (2.0, 5.0), (4.0, 20.0), (INF, 20.0)]);
        assert_eq!(bucket_quantile(0.75, &mut histogram), (3.0, true));
        let mut rounded = buckets(&[(1.0, 1.0), (2.0, 1.0 - 1e-15), (INF, 2.0)]);
        assert!(!make_monotonic(&mut rounded));
        assert_eq!(rounded[1].count, 1.0);
        let mut unknown = buckets(&[(1.0, 10.0), (2.0, f64::NAN), (4.0, 5.0), (INF, 20.0)]);
        assert!(!make_monotonic(&mut unknown), "as in Prometheus, nothing is compared with NaN");
        assert_eq!((unknown[2].count, unknown[3].count), (5.0, 20.0));
        assert_eq!(bucket_quantile(0.5, &mut unknown), (4.0, false));
    }

    #[test]
    fn fractions_are_interpolated() {
        let histogram = buckets(&[(1.0, 10.0), (2.0, 30.0), (INF, 40.0)]);
        for (lower, upper, expected) in
            [(-INF, INF, 1.0), (0.0, 1.0, 0.25), (0.5, 1.5, 0.375), (2.0, INF, 0.25), (1.0, 1.0, 0.0), (-5.0, 0.0, 0.0)]
        {
            assert_eq!(bucket_fraction(lower, upper, &histogram), expected, "{lower} {upper}");
        }
        assert!(bucket_fraction(f64::NAN, 1.0, &histogram).is_nan());
        assert!(bucket_fraction(0.0, 1.0, &buckets(&[(1.0, 1.0)])).is_nan());
    }

    #[test]
    fn fractions_of_counts_that_do_not_grow_stay_within_one() {
        let more_than_all = buckets(&[(1.0, 10.0), (INF, 8.0)]);
        for (lower, upper, expected) in [(0.0, 1.0, 1.0), (0.0, INF, 1.0), (1.0, INF, 0.0), (0.0, 0.4, 0.5)] {
            assert_eq!(bucket_fraction(lower, upper, &more_than_all), expected, "{lower} {upper}");
        }
        let falling = buckets(&[(1.0, 10.0), (2.0, 5.0), (INF, 20.0)]);
        for (lower, upper, expected) in [(0.0, 2.0, 0.25), (0.0, 1.0, 0.5), (2.0, INF, 0.75)] {
            assert_eq!(bucket_fraction(lower, upper, &falling), expected, "{lower} {upper}");
        }
        assert!(bucket_fraction(0.0, 1.0, &buckets(&[(1.0, f64::NAN), (INF, 8.0)])).is_nan());
    }
}
