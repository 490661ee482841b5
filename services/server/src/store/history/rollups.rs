//! What both stores have in common of rollups: where a selection is answered from, a series' buckets, and how series with the same labels become one.

use golectra_chunks::rollup::{CounterBucket, GaugeBucket, Resolution, RollupColumn, roll_up_buckets, roll_up_counter, roll_up_gauge};
use golectra_promql::Labels;
use golectra_promql::store::{Bucket, Selection};

use super::{CorruptHistory, HistoryError, HistorySeries, ReadRollup, ReadSamples, group_by_labels};

/// Rollups are kept by the UTC day, in milliseconds.
pub const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// Samples of so much time are read rather than rollups, where they are there, in milliseconds.
const RAW_SPAN_MILLIS: i64 = 3 * DAY_MILLIS;
/// Longer times are answered by the hour, where that suffices, in milliseconds.
const FIVE_MINUTES_SPAN_MILLIS: i64 = 60 * DAY_MILLIS;
/// How many buckets the time must have that a value is about.
const MIN_BUCKETS: i64 = 2;

/// When the day of a time begins.
pub fn day_of(at_millis: i64) -> i64 {
    at_millis.saturating_sub(at_millis.rem_euclid(DAY_MILLIS))
}

/// From when on a selection that is answered from rollups needs buckets. PromQL moves both ends of a range, and the time from which a selector looks
/// back, to where a bucket begins. So a selector whose first step is within a bucket needs the one before.
pub fn first_bucket_ms(selection: &Selection, resolution: Resolution) -> i64 {
    let range_ms = selection.hints.range_ms;
    // A window begins just before the first time that is selected.
    let first_end_ms = resolution.bucket_start_ms(selection.start_ms.saturating_sub(1).saturating_add(range_ms));
    resolution.bucket_start_ms(first_end_ms.saturating_sub(range_ms))
}

/// Where the answer to a selection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From samples.
    Samples,
    /// From rollups.
    Rollups(Resolution),
}

/// What is known of the history when a source is chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// Samples that are selected were dropped.
    pub raw_is_gone: bool,
    /// Rollups of 5 minutes that are selected were dropped.
    pub five_minutes_are_gone: bool,
}

impl Kept {
    /// Chooses where a selection is answered from. It is an error where what is left does not suffice.
    pub fn source_of(self, selection: &Selection) -> Result<Source, HistoryError> {
        let hints = &selection.hints;
        let span = selection.end_ms.saturating_sub(selection.start_ms);
        let suffices = |resolution: Resolution| hints.rollup_span_ms.is_some_and(|span| span >= MIN_BUCKETS * resolution.bucket_ms());
        // A graph with closer steps would show the buckets.
        let is_fine = hints.steps <= 1 || hints.step_ms >= Resolution::FiveMinutes.bucket_ms();
        if !self.raw_is_gone && (span <= RAW_SPAN_MILLIS || !is_fine || !suffices(Resolution::FiveMinutes)) {
            return Ok(Source::Samples);
        }
        let by_the_hour = self.five_minutes_are_gone || span > FIVE_MINUTES_SPAN_MILLIS;
        if by_the_hour && suffices(Resolution::OneHour) {
            return Ok(Source::Rollups(Resolution::OneHour));
        }
        if suffices(Resolution::FiveMinutes) && !self.five_minutes_are_gone {
            return Ok(Source::Rollups(Resolution::FiveMinutes));
        }
        Err(HistoryError::RawSamplesGone)
    }
}

/// The buckets of a series, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Buckets {
    /// A gauge's.
    Gauge(Vec<GaugeBucket>),
    /// A counter's, without the total before them.
    Counter(Vec<CounterBucket>),
}

impl Buckets {
    /// Those of 5 minutes of a gauge's samples, whose times are strictly increasing.
    pub fn of_gauge(timestamps_ms: &[i64], values: &[f64]) -> Self {
        let mut buckets = Vec::new();
        roll_up_gauge(timestamps_ms, values, Resolution::FiveMinutes, &mut buckets);
        Self::Gauge(buckets)
    }

    /// Those of 5 minutes of a counter's samples, whose times are strictly increasing.
    pub fn of_counter(timestamps_ms: &[i64], deltas: &[i64]) -> Self {
        let mut buckets = Vec::new();
        roll_up_counter(timestamps_ms, deltas, Resolution::FiveMinutes, &mut buckets);
        Self::Counter(buckets)
    }

    /// As it is coded.
    pub fn as_column(&self) -> RollupColumn<'_> {
        match self {
            Self::Gauge(buckets) => RollupColumn::Gauge(buckets),
            Self::Counter(buckets) => RollupColumn::Counter(buckets),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Gauge(buckets) => buckets.is_empty(),
            Self::Counter(buckets) => buckets.is_empty(),
        }
    }

    /// Puts other buckets in place of those from this time up to, not including, that one.
    pub fn replace(&mut self, start_ms: i64, end_ms: i64, with: Option<Self>) {
        fn splice<B>(buckets: &mut Vec<B>, first_ms: impl Fn(&B) -> i64, (start_ms, end_ms): (i64, i64), with: Vec<B>) {
            let start = buckets.partition_point(|bucket| first_ms(bucket) < start_ms);
            let end = buckets.partition_point(|bucket| first_ms(bucket) < end_ms);
            buckets.splice(start..end, with);
        }
        let range = (start_ms, end_ms);
        match (&mut *self, with) {
            (Self::Gauge(buckets), None) => splice(buckets, |bucket| bucket.first_ms, range, Vec::new()),
            (Self::Gauge(buckets), Some(Self::Gauge(with))) => splice(buckets, |bucket| bucket.first_ms, range, with),
            (Self::Counter(buckets), None) => splice(buckets, |bucket| bucket.first_ms, range, Vec::new()),
            (Self::Counter(buckets), Some(Self::Counter(with))) => splice(buckets, |bucket| bucket.first_ms, range, with),
            // A series keeps its kind.
            (_, Some(with)) => *self = with,
        }
    }
}

/// The rollups of one series, decoded when they are needed.
pub trait ReadBuckets: Send + Sync {
    /// Its buckets, in order; a counter's with its totals.
    fn buckets(&self) -> Result<Vec<GaugeBucket>, CorruptHistory>;

    /// How many buckets there are at most, before those outside of the time that was asked for are taken out.
    fn max_buckets(&self) -> usize;
}

/// How many buckets the rollups of so many days, and of so many windows of two hours beside them, have at most.
pub fn most_buckets(resolution: Resolution, days: usize, windows: usize) -> usize {
    let of_day = usize::try_from(DAY_MILLIS / resolution.bucket_ms()).unwrap_or(0);
    days * of_day + windows * of_day / 12
}

fn as_promql(bucket: &GaugeBucket) -> Bucket {
    let GaugeBucket { first_ms, last_ms, count, sum, min, max, first, last, lost } = *bucket;
    Bucket { first_ms, last_ms, count, sum, min, max, first, last, lost }
}

/// The rollups of series whose labels are the same: mostly one.
struct EqualRollups<R> {
    resolution: Resolution,
    all: Vec<R>,
}

impl<R: ReadBuckets> ReadSamples for EqualRollups<R> {
    fn read(&self, _: &mut Vec<i64>, _: &mut Vec<f64>) -> Result<(), CorruptHistory> {
        Ok(())
    }

    fn max_samples(&self) -> usize {
        self.all.iter().map(ReadBuckets::max_buckets).sum()
    }

    fn rollup(&self) -> Option<&dyn ReadRollup> {
        Some(self)
    }
}

impl<R: ReadBuckets> ReadRollup for EqualRollups<R> {
    fn bucket_ms(&self) -> i64 {
        self.resolution.bucket_ms()
    }

    fn read(&self, buckets: &mut Vec<Bucket>) -> Result<(), CorruptHistory> {
        if let [only] = &self.all[..] {
            buckets.extend(only.buckets()?.iter().map(as_promql));
            return Ok(());
        }
        let mut all = Vec::new();
        for one in &self.all {
            all.extend(one.buckets()?);
        }
        // To PromQL they are one series, of which each may have all, as those of a pair of Prometheus servers, or a part.
        all.sort_by_key(|bucket| (bucket.first_ms, bucket.last_ms));
        // Samples that came by two ways are one for each time.
        all.dedup();
        let mut joined = Vec::new();
        roll_up_buckets(&all, self.resolution, &mut joined);
        buckets.extend(joined.iter().map(as_promql));
        Ok(())
    }
}

/// Sorts series by their labels, and makes one of those that have the same.
pub fn join_equal<R: ReadBuckets + 'static>(resolution: Resolution, mut series: Vec<(Labels, R)>) -> Vec<HistorySeries> {
    series.sort_by(|one, other| one.0.cmp(&other.0));
    let one = |(labels, all)| HistorySeries { labels, samples: Box::new(EqualRollups { resolution, all }) };
    group_by_labels(series).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use golectra_promql::store::Hints;

    use super::*;

    struct Given(Vec<GaugeBucket>);

    impl ReadBuckets for Given {
        fn buckets(&self) -> Result<Vec<GaugeBucket>, CorruptHistory> {
            Ok(self.0.clone())
        }

        fn max_buckets(&self) -> usize {
            self.0.len()
        }
    }

    #[test]
    fn what_two_sources_report_of_one_counter_is_neither_reset_nor_counted_twice() {
        let resolution = Resolution::FiveMinutes;
        let read = |offsets_ms: [i64; 2]| {
            let all = offsets_ms.map(|offset_ms| {
                let times: Vec<i64> = (0..20).map(|number| number * 60_000 + offset_ms).collect();
                let values: Vec<f64> = (100..120_i32).map(f64::from).collect();
                let mut buckets = Vec::new();
                roll_up_gauge(&times, &values, resolution, &mut buckets);
                Given(buckets)
            });
            let mut found = Vec::new();
            ReadRollup::read(&EqualRollups { resolution, all: Vec::from(all) }, &mut found).unwrap();
            found.iter().map(|bucket| (bucket.count, bucket.first_ms, bucket.last_ms, bucket.lost.to_bits())).collect::<Vec<_>>()
        };
        let each = |count: u32, last_ms: i64| -> Vec<_> {
            (0..4).map(|number| number * 300_000).map(|start_ms| (count, start_ms + 5, start_ms + last_ms, 0.0_f64.to_bits())).collect()
        };
        assert_eq!(read([5, 30_000]), each(10, 270_000));
        assert_eq!(read([30_000, 5]), each(10, 270_000));
        assert_eq!(read([5, 5]), each(5, 240_005), "the same samples");
    }

    #[test]
    fn buckets_are_read_from_where_the_first_step_needs_them() {
        const MINUTE: i64 = 60_000;
        const HOUR: i64 = 60 * MINUTE;
        for (end_ms, range_ms, resolution, expected) in [
            // A range of whole buckets that ends within one.
            (10 * HOUR + 30 * MINUTE, 4 * HOUR, Resolution::OneHour, 6 * HOUR),
            (10 * HOUR, 4 * HOUR, Resolution::OneHour, 6 * HOUR),
            // A selector that looks back for less than a bucket.
            (10 * HOUR + 30 * MINUTE, 5 * MINUTE, Resolution::OneHour, 9 * HOUR),
            (10 * HOUR + MINUTE, 5 * MINUTE, Resolution::OneHour, 9 * HOUR),
            (10 * HOUR, 5 * MINUTE, Resolution::OneHour, 9 * HOUR),
            (10 * HOUR + 4 * MINUTE, MINUTE, Resolution::FiveMinutes, 9 * HOUR + 55 * MINUTE),
            (10 * HOUR + 4 * MINUTE, 5 * MINUTE, Resolution::FiveMinutes, 9 * HOUR + 55 * MINUTE),
            // Nothing is known of the range.
            (10 * HOUR + 30 * MINUTE, 0, Resolution::OneHour, 10 * HOUR),
        ] {
            let hints = Hints { range_ms, ..Hints::default() };
            let selection = Selection { matchers: [].into(), start_ms: end_ms - range_ms + 1, end_ms: 20 * HOUR, hints };
            let found = first_bucket_ms(&selection, resolution);
            assert_eq!(found, expected, "{end_ms}, {range_ms}, {resolution:?}");
            assert!(found <= resolution.bucket_start_ms(selection.start_ms - 1));
        }
        let hints = Hints { range_ms: HOUR, ..Hints::default() };
        let all = Selection { matchers: [].into(), start_ms: i64::MIN, end_ms: i64::MAX, hints };
        assert_eq!(first_bucket_ms(&all, Resolution::OneHour), i64::MIN);
    }

    #[test]
    fn the_time_the_function_the_steps_and_what_is_left_choose_the_source() {
        const HOUR: i64 = 3_600_000;
        let minutes = Source::Rollups(Resolution::FiveMinutes);
        let hours = Source::Rollups(Resolution::OneHour);
        let choose = |days: i64, rollup_span_ms: Option<i64>, step_ms: i64, kept: (bool, bool)| {
            let hints = Hints { rollup_span_ms, step_ms, steps: 100, ..Hints::default() };
            let selection = Selection { matchers: [].into(), start_ms: 0, end_ms: days * DAY_MILLIS, hints };
            Kept { raw_is_gone: kept.0, five_minutes_are_gone: kept.1 }.source_of(&selection).ok()
        };
        for (days, span, step, kept, expected) in [
            (3, Some(HOUR), HOUR, (false, false), Some(Source::Samples)),
            (4, Some(HOUR), HOUR, (false, false), Some(minutes)),
            (4, Some(HOUR), 60_000, (false, false), Some(Source::Samples)),
            (4, Some(599_999), HOUR, (false, false), Some(Source::Samples)),
            (4, None, HOUR, (false, false), Some(Source::Samples)),
            (61, Some(2 * HOUR), HOUR, (false, false), Some(hours)),
            (61, Some(HOUR), HOUR, (false, false), Some(minutes)),
            (1, Some(HOUR), 60_000, (true, false), Some(minutes)),
            (1, Some(2 * HOUR), HOUR, (true, true), Some(hours)),
            (1, Some(HOUR), HOUR, (true, true), None),
            (1, None, HOUR, (true, false), None),
        ] {
            assert_eq!(choose(days, span, step, kept), expected, "{days} days, {span:?}, {step}, {kept:?}");
        }
    }
}
