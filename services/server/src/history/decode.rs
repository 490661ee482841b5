//! Decodes the series of a selection for an evaluation, which takes one after the other.
//!
//! Where there is much to decode and a processor is free, threads decode ahead of the evaluation. They and the thread that evaluates take the next
//! series that nobody has taken, so none waits while there is work: without any helper everything is decoded where it is evaluated.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use golectra_promql::store::{Bucket, Rollup, SeriesSet, StoreError, StoredSamples, StoredSeries};

use super::threads::{Priority, Threads};
use crate::store::history::{CorruptHistory, HistorySeries};

/// Series that are decoded in one go have so many samples together, so that taking a turn costs little beside it.
const UNIT_SAMPLES: usize = 8_192;

/// Less is decoded sooner than another thread begins.
const LEAST_SAMPLES_FOR_HELP: usize = 128 * 1024;

/// The most threads that help one query.
const MAX_HELPERS: usize = 3;

/// The most threads that help, however many processors there are.
const MAX_THREADS: usize = 8;

/// They decode, and evaluate nothing.
const STACK_BYTES: usize = 1 << 20;

/// How many units may be decoded ahead of the evaluation.
const MAX_UNITS_AHEAD: usize = 2 * MAX_HELPERS;

/// What units that are decoded ahead may take; a selection of longer series is decoded by its query's thread alone.
const MAX_BYTES_AHEAD: usize = 16 << 20;

/// What a decoded sample takes: its time and its value.
pub const SAMPLE_BYTES: usize = size_of::<i64>() + size_of::<f64>();

/// Threads that help queries, one for each processor but one, within a bound.
pub struct Helpers {
    threads: Threads,
    free: Arc<AtomicUsize>,
}

impl Helpers {
    /// Starts them.
    pub fn start() -> io::Result<Self> {
        Self::start_threads(thread::available_parallelism().map_or(0, |processors| (processors.get() - 1).min(MAX_THREADS)))
    }

    fn start_threads(count: usize) -> io::Result<Self> {
        Ok(Self { threads: Threads::start(count, STACK_BYTES, Priority::Low)?, free: Arc::new(AtomicUsize::new(count)) })
    }

    /// Whether one is free.
    pub fn any_is_free(&self) -> bool {
        self.free.load(Ordering::Relaxed) > 0
    }

    /// Runs a job, which must not panic, if a thread is free.
    fn try_run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let is_free = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok();
        if is_free {
            let free = Arc::clone(&self.free);
            self.threads.run(move || {
                job();
                free.fetch_add(1, Ordering::Relaxed);
            });
        }
        is_free
    }
}

/// The memory that decoding ahead takes, in bytes; None where it would not pay or takes too much.
pub fn bytes_ahead(series: &[HistorySeries]) -> Option<usize> {
    let samples: usize = series.iter().map(|series| series.samples.max_samples()).sum();
    let each = if series.first()?.samples.rollup().is_some() { size_of::<Bucket>() } else { SAMPLE_BYTES };
    let bytes = (MAX_UNITS_AHEAD + MAX_HELPERS) * longest(series).max(UNIT_SAMPLES) * each;
    (samples >= LEAST_SAMPLES_FOR_HELP && series.len() > 1 && bytes <= MAX_BYTES_AHEAD).then_some(bytes)
}

/// How many samples or buckets the longest series has at most.
pub fn longest(series: &[HistorySeries]) -> usize {
    series.iter().map(|series| series.samples.max_samples()).max().unwrap_or(0)
}

/// The series of a selection, in order.
pub struct Decoding {
    work: Arc<Work>,
    unit: Unit,
    /// The next series.
    next: usize,
}

/// What the threads share.
struct Work {
    series: Arc<[HistorySeries]>,
    series_per_unit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Units before this one are decoded or being decoded.
    taken: usize,
    /// The unit that the evaluation is at.
    evaluated: usize,
    /// Units that wait for the evaluation; None where decoding panicked.
    decoded: BTreeMap<usize, Option<Result<Unit, CorruptHistory>>>,
    /// Memory that is used again.
    spare: Vec<Unit>,
    helpers: usize,
    is_over: bool,
}

/// Decoded series that stand side by side.
#[derive(Default)]
struct Unit {
    timestamps_ms: Vec<i64>,
    values: Vec<f64>,
    buckets: Vec<Bucket>,
    /// Where the samples and the buckets of each series end.
    ends: Vec<(usize, usize)>,
}

impl Unit {
    fn decode(&mut self, series: &[HistorySeries]) -> Result<(), CorruptHistory> {
        self.timestamps_ms.clear();
        self.values.clear();
        self.buckets.clear();
        self.ends.clear();
        for one in series {
            match one.samples.rollup() {
                Some(rollup) => rollup.read(&mut self.buckets)?,
                None => one.samples.read(&mut self.timestamps_ms, &mut self.values)?,
            }
            self.ends.push((self.values.len(), self.buckets.len()));
        }
        Ok(())
    }
}

impl Decoding {
    /// Begins. What [`bytes_ahead`] says is charged by the caller if there are helpers.
    pub fn begin(series: &Arc<[HistorySeries]>, helpers: Option<&Helpers>) -> Self {
        let work = Arc::new(Work {
            series: Arc::clone(series),
            series_per_unit: if helpers.is_some() { (UNIT_SAMPLES / longest(series).max(1)).max(1) } else { 1 },
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        if let Some(helpers) = helpers {
            for _ in 0..MAX_HELPERS.min(work.units().saturating_sub(1)) {
                work.lock().helpers += 1;
                let helped = Arc::clone(&work);
                if !helpers.try_run(move || helped.help()) {
                    work.lock().helpers -= 1;
                    break;
                }
            }
        }
        Self { work, unit: Unit::default(), next: 0 }
    }

    /// Goes on to the next unit, which has this number.
    fn advance(&mut self, number: usize) -> Result<(), CorruptHistory> {
        let work = Arc::clone(&self.work);
        let mut state = work.lock();
        state.evaluated = number;
        state.spare.push(std::mem::take(&mut self.unit));
        work.changed.notify_all();
        while state.taken > number && !state.decoded.contains_key(&number) {
            state = match work.take(state) {
                Ok((taken, unit)) => work.decode(taken, unit),
                Err(state) => work.wait(state),
            };
        }
        if let Some(decoded) = state.decoded.remove(&number).flatten() {
            self.unit = decoded?;
            return Ok(());
        }
        // It is the next one, or panicked elsewhere: here that is told.
        state.taken = state.taken.max(number + 1);
        let mut unit = state.spare.pop().unwrap_or_default();
        drop(state);
        unit.decode(work.of_unit(number))?;
        self.unit = unit;
        Ok(())
    }
}

impl SeriesSet for Decoding {
    fn next(&mut self) -> Result<Option<StoredSeries<'_>>, StoreError> {
        if self.next >= self.work.series.len() {
            return Ok(None);
        }
        let (number, place) = (self.next / self.work.series_per_unit, self.next % self.work.series_per_unit);
        if place == 0 {
            self.advance(number).map_err(|error| StoreError::Failed(Box::new(error)))?;
        }
        let (start, end) = (place.checked_sub(1).map_or((0, 0), |before| self.unit.ends[before]), self.unit.ends[place]);
        let series = &self.work.series[self.next];
        self.next += 1;
        let samples = match series.samples.rollup() {
            Some(rollup) => StoredSamples::Rollup(Rollup { bucket_ms: rollup.bucket_ms(), buckets: &self.unit.buckets[start.1..end.1] }),
            None => {
                StoredSamples::Raw { timestamps_ms: &self.unit.timestamps_ms[start.0..end.0], values: &self.unit.values[start.0..end.0] }
            }
        };
        Ok(Some(StoredSeries { labels: &series.labels, samples }))
    }
}

impl Drop for Decoding {
    /// Helpers end with the unit that they are at. What is charged for their memory is charged until then.
    fn drop(&mut self) {
        let mut state = self.work.lock();
        state.is_over = true;
        self.work.changed.notify_all();
        while state.helpers > 0 {
            state = self.work.wait(state);
        }
    }
}

impl Work {
    fn units(&self) -> usize {
        self.series.len().div_ceil(self.series_per_unit)
    }

    fn of_unit(&self, number: usize) -> &[HistorySeries] {
        let start = number * self.series_per_unit;
        &self.series[start..(start + self.series_per_unit).min(self.series.len())]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next unit, unless all are taken or enough wait for the evaluation.
    fn take<'a>(&self, mut state: MutexGuard<'a, State>) -> Result<(usize, Unit), MutexGuard<'a, State>> {
        if state.taken >= self.units() || state.taken > state.evaluated + MAX_UNITS_AHEAD {
            return Err(state);
        }
        state.taken += 1;
        Ok((state.taken - 1, state.spare.pop().unwrap_or_default()))
    }

    /// Decodes a unit that was taken, for whoever evaluates it.
    fn decode(&self, number: usize, mut unit: Unit) -> MutexGuard<'_, State> {
        let decoded = catch_unwind(AssertUnwindSafe(|| unit.decode(self.of_unit(number)).map(|()| unit)));
        let mut state = self.lock();
        state.decoded.insert(number, decoded.ok());
        self.changed.notify_all();
        state
    }

    /// Decodes ahead until all is taken or the evaluation is over.
    fn help(&self) {
        let mut state = self.lock();
        while !state.is_over && state.taken < self.units() {
            state = match self.take(state) {
                Ok((number, unit)) => self.decode(number, unit),
                Err(state) => self.wait(state),
            };
        }
        state.helpers -= 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use golectra_promql::Labels;
    use proptest::prelude::*;

    use super::*;
    use crate::store::history::ReadSamples;

    /// So many samples whose values tell the series.
    struct Made {
        number: usize,
        samples: usize,
        is_corrupt: bool,
        /// Other threads panic.
        only_on: Option<ThreadId>,
    }

    impl ReadSamples for Made {
        fn read(&self, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), CorruptHistory> {
            assert!(self.only_on.is_none_or(|only| only == thread::current().id()), "a helper that fails");
            if self.is_corrupt {
                return Err(CorruptHistory(self.number.to_string()));
            }
            timestamps_ms.extend((0..self.samples).map(|at| i64::try_from(at).unwrap()));
            values.extend((0..self.samples).map(|at| self.value(at)));
            Ok(())
        }

        fn max_samples(&self) -> usize {
            self.samples
        }
    }

    impl Made {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        fn value(&self, at: usize) -> f64 {
            (self.number * 1_000_000 + at) as f64
        }
    }

    fn made(lengths: &[usize], change: impl Fn(Made) -> Made) -> Arc<[HistorySeries]> {
        let one = |(number, samples): (usize, &usize)| HistorySeries {
            labels: Labels::default(),
            samples: Box::new(change(Made { number, samples: *samples, is_corrupt: false, only_on: None })),
        };
        lengths.iter().enumerate().map(one).collect()
    }

    /// The values of each series up to the first that can't be read.
    fn read(mut decoding: Decoding) -> (Vec<Vec<f64>>, Option<String>) {
        let mut all = Vec::new();
        loop {
            match decoding.next() {
                Ok(Some(StoredSeries { samples: StoredSamples::Raw { timestamps_ms, values }, .. })) => {
                    assert_eq!(timestamps_ms.len(), values.len());
                    all.push(values.to_vec());
                }
                Ok(Some(_)) => unreachable!("there are no rollups"),
                Ok(None) => return (all, None),
                Err(error) => return (all, Some(error.to_string())),
            }
        }
    }

    fn expected(lengths: &[usize]) -> Vec<Vec<f64>> {
        let one = |(number, samples): (usize, &usize)| {
            let made = Made { number, samples: *samples, is_corrupt: false, only_on: None };
            (0..*samples).map(|at| made.value(at)).collect()
        };
        lengths.iter().enumerate().map(one).collect()
    }

    proptest! {
        #[test]
        fn helpers_change_nothing(
            lengths in prop::collection::vec(0..2 * UNIT_SAMPLES, 0..40),
            few in prop::collection::vec(0..50_usize, 0..400),
            threads in 0..4_usize,
        ) {
            let helpers = Helpers::start_threads(threads).unwrap();
            for lengths in [lengths, few] {
                let series = made(&lengths, |made| made);
                prop_assert_eq!(read(Decoding::begin(&series, Some(&helpers))), (expected(&lengths), None));
                prop_assert_eq!(read(Decoding::begin(&series, None)), (expected(&lengths), None));
            }
        }
    }

    #[test]
    fn what_is_corrupt_is_told_where_the_evaluation_gets_to_it() {
        let helpers = Helpers::start_threads(2).unwrap();
        let lengths = [UNIT_SAMPLES; 30];
        let series = made(&lengths, |made| Made { is_corrupt: made.number >= 20, ..made });
        for helpers in [None, Some(&helpers)] {
            let (values, error) = read(Decoding::begin(&series, helpers));
            assert_eq!(values, expected(&lengths[..20]));
            assert_eq!(error.as_deref(), Some("stored history can't be decoded: 20"));
        }
    }

    #[test]
    fn helpers_that_fail_leave_the_work_to_the_evaluation() {
        let helpers = Helpers::start_threads(2).unwrap();
        let lengths = [UNIT_SAMPLES; 30];
        let here = thread::current().id();
        let series = made(&lengths, |made| Made { only_on: Some(here), ..made });
        for _ in 0..3 {
            assert_eq!(read(Decoding::begin(&series, Some(&helpers))), (expected(&lengths), None));
        }
    }

    #[test]
    fn an_evaluation_that_ends_early_ends_its_helpers() {
        let helpers = Helpers::start_threads(2).unwrap();
        let series = made(&[UNIT_SAMPLES; 1000], |made| made);
        for _ in 0..20 {
            let mut decoding = Decoding::begin(&series, Some(&helpers));
            decoding.next().unwrap().unwrap();
            let work = Arc::clone(&decoding.work);
            drop(decoding);
            assert_eq!(work.lock().helpers, 0);
            assert!(work.lock().taken <= 2 + MAX_UNITS_AHEAD, "no more than may wait is decoded");
        }
    }

    #[test]
    fn only_what_is_long_is_decoded_ahead() {
        assert_eq!(bytes_ahead(&made(&[], |made| made)), None);
        assert_eq!(bytes_ahead(&made(&[100; 50], |made| made)), None, "too little");
        assert_eq!(bytes_ahead(&made(&[1_000_000], |made| made)), None, "one series is decoded in one go");
        assert_eq!(bytes_ahead(&made(&[1_000_000; 9], |made| made)), None, "too much memory");
        assert_eq!(bytes_ahead(&made(&[8_640; 50], |made| made)), Some(9 * 8_640 * 16));
    }
}
