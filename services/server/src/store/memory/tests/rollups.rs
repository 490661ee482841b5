//! Rollups held to what all samples come to, to the bit, and to what happens to them.

use std::collections::BTreeMap;

use golectra_chunks::rollup::{CounterBucket, GaugeBucket, Resolution, roll_up_buckets, roll_up_counter, roll_up_gauge};
use golectra_promql::MemoryBudget;
use golectra_promql::store::{Bucket, Hints, Selection};
use golectra_protocol::{Kind, Value};

use super::super::disk::Paths;
use super::super::load;
use super::history::{Model, SeriesValues, millis, read};
use super::*;
use crate::history::labels;
use crate::store::history::rollups::DAY_MILLIS;
use crate::store::history::{History, HistoryError};

/// A bucket with the bits of its values.
type Bits = (i64, i64, u32, [u64; 6]);
/// The buckets of series, by their labels.
type Rollups = BTreeMap<String, Vec<Bits>>;

fn bits(bucket: &GaugeBucket) -> Bits {
    let values = [bucket.sum, bucket.min, bucket.max, bucket.first, bucket.last, bucket.lost].map(f64::to_bits);
    (bucket.first_ms, bucket.last_ms, bucket.count, values)
}

fn selection(start_ms: i64, end_ms: i64) -> Selection {
    let hints = Hints { rollup_span_ms: Some(DAY_MILLIS), range_ms: DAY_MILLIS, steps: 1, ..Hints::default() };
    Selection { matchers: [].into(), start_ms, end_ms, hints }
}

/// The rollups that a selection of this time is answered from.
async fn select(store: &MemoryStore, start_ms: i64, end_ms: i64) -> (Option<i64>, Rollups) {
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    let (mut found, mut bucket_ms) = (Rollups::new(), None);
    for series in store.select(&selection(start_ms, end_ms), 100_000, &mut reservation).await.unwrap() {
        let rollup = series.samples.rollup().expect("a long time is answered from rollups");
        bucket_ms = Some(rollup.bucket_ms());
        let mut buckets = Vec::new();
        rollup.read(&mut buckets).unwrap();
        let of = |bucket: &Bucket| {
            let Bucket { first_ms, last_ms, count, sum, min, max, first, last, lost } = *bucket;
            bits(&GaugeBucket { first_ms, last_ms, count, sum, min, max, first, last, lost })
        };
        if !buckets.is_empty() {
            found.insert(series.labels.to_string(), buckets.iter().map(of).collect());
        }
    }
    (bucket_ms, found)
}

/// What the samples come to.
fn expected(series: &SeriesValues, resolution: Resolution, start_ms: i64, end_ms: i64) -> Rollups {
    let start_ms = resolution.bucket_start_ms(start_ms.saturating_sub(1));
    let mut all = Rollups::new();
    for ((source, id, kind), samples) in series {
        let beside = *kind == Kind::Counter && series.contains_key(&(source.clone(), id.clone(), Kind::Gauge));
        let (mut ats, mut values, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
        for (at, value) in samples.range(..=end_ms) {
            ats.push(*at);
            match value {
                Value::Gauge(value) => values.push(*value),
                Value::Counter(delta) => deltas.push(*delta),
            }
        }
        let mut buckets: Vec<GaugeBucket> = Vec::new();
        if *kind == Kind::Counter {
            let (mut of_deltas, mut total) = (Vec::new(), 0);
            roll_up_counter(&ats, &deltas, resolution, &mut of_deltas);
            for bucket in of_deltas {
                let bucket: CounterBucket = bucket;
                buckets.push(bucket.totals(total));
                total += bucket.delta;
            }
        } else {
            // Only what is asked for of the first bucket's window: it is aligned.
            let mut shorter = Vec::new();
            roll_up_gauge(&ats, &values, Resolution::FiveMinutes, &mut shorter);
            roll_up_buckets(&shorter, resolution, &mut buckets);
        }
        let asked: Vec<Bits> = buckets.iter().filter(|bucket| bucket.first_ms >= start_ms).map(bits).collect();
        if !asked.is_empty() {
            all.insert(labels::of_series(source, id, beside).to_string(), asked);
        }
    }
    all
}

/// Asserts that queries of long times see the rollups of everything up to a time, whatever of it is sealed, folded or dropped.
pub(super) async fn check(store: &MemoryStore, series: &SeriesValues, middle_ms: i64, end_ms: i64) {
    for (resolution, start_ms, end_ms) in [
        (Resolution::FiveMinutes, end_ms - 10 * DAY_MILLIS, end_ms),
        (Resolution::OneHour, end_ms - 70 * DAY_MILLIS, end_ms),
        (Resolution::FiveMinutes, middle_ms, middle_ms + 4 * DAY_MILLIS),
        (Resolution::OneHour, middle_ms, middle_ms + 61 * DAY_MILLIS),
    ] {
        let (bucket_ms, found) = select(store, start_ms, end_ms).await;
        assert!(bucket_ms.is_none_or(|bucket_ms| bucket_ms == resolution.bucket_ms()), "{bucket_ms:?}");
        // Whether the last bucket has what is behind the end of the range is of no interest: ranges end where buckets begin.
        let cut = |mut all: Rollups| {
            for buckets in all.values_mut() {
                buckets.retain(|bucket| bucket.0 < resolution.bucket_start_ms(end_ms));
            }
            all.retain(|_, buckets| !buckets.is_empty());
            all
        };
        assert_eq!(cut(found), cut(expected(series, resolution, start_ms, end_ms)), "{resolution:?} from {start_ms} to {end_ms}");
    }
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The beginning of a day.
const START: u64 = NOW / DAY * DAY;

/// A store, and what all of its samples come to.
struct Lab {
    store: Arc<MemoryStore>,
    clock: Clock,
    model: Model,
    config: MemoryConfig,
}

impl Lab {
    fn new(path: Option<PathBuf>, max_bytes: usize, lifetimes: Lifetimes) -> Self {
        let clock = Clock::at(START);
        let config = MemoryConfig { lifetimes, history_max_bytes: max_bytes, ..config(path, Duration::from_hours(1), true) };
        let store = MemoryStore::open(config.clone(), clock.clone()).unwrap();
        Self { store, clock, model: Model::default(), config }
    }

    fn now(&self) -> u64 {
        self.clock.unix_millis()
    }

    async fn put(&mut self, source: &str, at: u64, metrics: Vec<Metric>) {
        let one = batch(source, IdempotencyKey::at(at), metrics);
        assert_eq!(self.store.apply(one.clone()).await.unwrap(), Applied::New);
        self.model.apply(&one, self.now());
    }

    /// A gauge, a counter and a series of its own each ten minutes of some days.
    async fn fill(&mut self, days: std::ops::Range<u64>) {
        for minutes in (days.start * 24 * 60..days.end * 24 * 60).step_by(10) {
            self.clock.set(START + minutes * MINUTE + 1_234);
            let value = f64::from(u32::try_from(minutes * 7 % 1_000).unwrap()) / 10.0;
            let metrics = vec![conformance::gauge("g", value), conformance::counter("c", i64::try_from(minutes % 13).unwrap())];
            self.put("a", self.now(), metrics).await;
            if minutes % 120 == 60 {
                self.put("b", self.now(), vec![conformance::counter("c", 5)]).await;
                self.store.keeper.maintain();
            }
        }
        self.clock.set(START + days.end * DAY);
    }

    async fn check(&self, start: u64) {
        check(&self.store, &self.model.series(), millis(start), millis(self.now())).await;
    }

    fn reopen(&mut self) {
        self.store = MemoryStore::open(self.config.clone(), self.clock.clone()).unwrap();
    }

    async fn restart(&mut self) {
        self.store.close().await.unwrap();
        self.reopen();
    }
}

/// In days.
fn lifetimes(raw: u64, five_minutes: u64, hours: u64) -> Lifetimes {
    let days = |days: u64| Duration::from_hours(24 * days);
    Lifetimes {
        dedup_window: days(60),
        retention_raw: days(raw),
        retention_5m: days(five_minutes),
        retention_1h: days(hours),
        ..Lifetimes::default()
    }
}

async fn raw(store: &MemoryStore, start_ms: i64) -> Result<usize, HistoryError> {
    let selection = Selection { hints: Hints::default(), ..selection(start_ms, i64::MAX) };
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    store.select(&selection, 100, &mut reservation).await.map(|series| series.len())
}

#[tokio::test]
async fn rollups_outlive_their_samples_and_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(Some(folder.path().join("m.json")), 64 << 20, lifetimes(2, 5, 9));
    lab.fill(0..4).await;
    let first = millis(START);
    for _ in 0..2 {
        lab.store.keeper.maintain();
        lab.check(START).await;
        lab.check(START + DAY + 3 * HOUR).await;
        assert_eq!(lab.store.shards.history.raw_from_ms(), first + 2 * DAY_MILLIS);
        assert!(matches!(raw(&lab.store, first).await, Err(HistoryError::RawSamplesGone)));
        assert_eq!(raw(&lab.store, first + 2 * DAY_MILLIS).await.unwrap(), 3);
        lab.restart().await;
        assert_eq!(lab.store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
    }
    // What comes for a time whose samples are gone changes no rollup.
    let late = batch("a", IdempotencyKey::at(START + 2 * DAY - 1), vec![conformance::gauge("g", 1e9), conformance::counter("c", 7)]);
    assert_eq!(lab.store.apply(late).await.unwrap(), Applied::New);
    lab.check(START).await;
    // Rollups of 5 minutes go before those of an hour.
    lab.clock.set(START + 7 * DAY);
    lab.store.keeper.maintain();
    let (bucket_ms, found) = select(&lab.store, first, first + DAY_MILLIS).await;
    assert_eq!((bucket_ms, found.len()), (Some(Resolution::OneHour.bucket_ms()), 3));
    // The bucket just before the range is read as well.
    let (bucket_ms, _) = select(&lab.store, first + 2 * DAY_MILLIS + 1, first + 3 * DAY_MILLIS).await;
    assert_eq!(bucket_ms, Some(Resolution::FiveMinutes.bucket_ms()));
    lab.restart().await;
    assert_eq!(select(&lab.store, first, first + DAY_MILLIS).await, (Some(Resolution::OneHour.bucket_ms()), found));
    lab.clock.set(START + 20 * DAY);
    lab.store.keeper.maintain();
    assert!(select(&lab.store, first, first + 3 * DAY_MILLIS).await.1.is_empty());
    assert_eq!(lab.store.shards.history.rollup_bytes(), 0);
    assert_eq!(lab.store.shards.history.used_bytes(), 0);
}

#[tokio::test]
async fn samples_go_before_rollups_where_there_is_no_room() {
    let mut lab = Lab::new(None, 256 << 10, lifetimes(300, 300, 300));
    let mut days = 0;
    while lab.store.shards.history.samples_dropped() == 0 {
        lab.fill(days..days + 1).await;
        days += 1;
        if lab.store.shards.history.is_crowded() {
            lab.store.keeper.make_room();
        }
        assert!(days < 200, "{} bytes", lab.store.shards.history.used_bytes());
    }
    assert!(days > 3, "{days}");
    assert!(lab.store.shards.history.raw_from_ms() > millis(START));
    assert_eq!(lab.store.shards.history.rollup_days_dropped(), 0);
    lab.check(START).await;
    while lab.store.shards.history.rollup_days_dropped() == 0 {
        lab.fill(days..days + 1).await;
        days += 1;
        if lab.store.shards.history.is_crowded() {
            lab.store.keeper.make_room();
        }
        assert!(days < 400, "{} bytes", lab.store.shards.history.used_bytes());
    }
    // About a day of samples is left (the store makes room by itself as well), and those of 5 minutes are gone where those of an hour are not.
    assert!(lab.store.shards.history.raw_from_ms() >= millis(lab.now() - 2 * DAY - 2 * HOUR));
    let (bucket_ms, hours) = select(&lab.store, millis(START), millis(lab.now())).await;
    assert_eq!(bucket_ms, Some(Resolution::OneHour.bucket_ms()));
    assert_eq!(hours, expected(&lab.model.series(), Resolution::OneHour, millis(START), millis(lab.now())));
    assert!(lab.store.shards.history.used_bytes() <= 256 << 10);
}

#[tokio::test]
async fn rollups_that_there_is_no_room_for_are_not_read_into_memory_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let mut lab = Lab::new(Some(path.clone()), 64 << 20, lifetimes(1, 300, 300));
    lab.fill(0..60).await;
    lab.store.keeper.maintain();
    let (used, of_rollups) = (lab.store.shards.history.used_bytes(), lab.store.shards.history.rollup_bytes());
    assert!(of_rollups > used * 2 / 3, "{of_rollups} of {used}");
    lab.store.close().await.unwrap();

    // Room is made down to three quarters of it, for which a part of the rollups of 5 minutes suffices.
    let max_bytes = used * 9 / 10;
    let shards = Shards::new(SeriesLimits { total: 1000, per_source: 1000 }, lab.config.lifetimes, 100_000, max_bytes);
    load::restore(&shards, None, &Paths::of(&path), &MemoryMetrics::default(), lab.now()).unwrap();
    let read_bytes = shards.history.used_bytes();
    assert!(read_bytes <= max_bytes, "{read_bytes} were read, and {max_bytes} may be");
    assert!(read_bytes > max_bytes / 2, "no more is left out than is needed: {read_bytes} of {max_bytes} are used");
    assert!(shards.history.rollup_days_dropped() > 0);

    lab.config.history_max_bytes = max_bytes;
    lab.reopen();
    assert!(lab.store.shards.history.used_bytes() <= max_bytes);
    assert!(lab.store.shards.history.rollup_days_dropped() > 0);
    // Those of 5 minutes go first, and what is left is right.
    let hours = expected(&lab.model.series(), Resolution::OneHour, millis(START), millis(lab.now()));
    let hour = Some(Resolution::OneHour.bucket_ms());
    assert_eq!(select(&lab.store, millis(START), millis(lab.now())).await, (hour, hours.clone()));
    // The next save writes the files without what was left out.
    lab.store.close().await.unwrap();
    lab.config.history_max_bytes = 64 << 20;
    lab.reopen();
    assert!(lab.store.shards.history.used_bytes() <= max_bytes);
    assert_eq!(select(&lab.store, millis(START), millis(lab.now())).await, (hour, hours));
}

#[tokio::test]
async fn rollups_that_are_too_old_take_no_room_from_younger_ones_at_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let mut lab = Lab::new(Some(path.clone()), 64 << 20, lifetimes(1, 40, 40));
    lab.fill(0..40).await;
    lab.store.close().await.unwrap();
    // Nothing runs for a month. Ten days are young enough then.
    lab.clock.set(START + 70 * DAY);
    lab.reopen();
    let used = lab.store.shards.history.used_bytes();
    assert!(lab.store.shards.history.rollup_bytes() > 0);

    // The files still have all 40 days.
    let max_bytes = used * 5 / 4;
    let shards = Shards::new(SeriesLimits { total: 1000, per_source: 1000 }, lab.config.lifetimes, 100_000, max_bytes);
    load::restore(&shards, None, &Paths::of(&path), &MemoryMetrics::default(), lab.now()).unwrap();
    assert_eq!(shards.history.rollup_days_dropped(), 0, "none of those that are young enough");
    let read_bytes = shards.history.used_bytes();
    assert!(read_bytes <= max_bytes, "{read_bytes} were read, and {max_bytes} may be");
}

#[tokio::test]
async fn files_without_rollups_get_them_of_the_samples_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(Some(folder.path().join("m.json")), 64 << 20, lifetimes(30, 60, 90));
    lab.fill(0..2).await;
    let samples = read(&lab.store, i64::MIN, i64::MAX).await;
    lab.store.close().await.unwrap();
    // As a version without rollups wrote it: they are the last records but one.
    let history = folder.path().join("m.json.history");
    let names = std::fs::read_dir(&history).unwrap().map(|file| file.unwrap().path());
    let index = names.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("index-")).unwrap();
    let (bytes, mut kept, mut at) = (std::fs::read(&index).unwrap(), Vec::new(), 0);
    while at < bytes.len() {
        let length = usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
        if bytes[at + 8] != 5 {
            kept.extend(&bytes[at..at + 8 + length]);
        }
        at += 8 + length;
    }
    assert!(kept.len() < bytes.len());
    std::fs::write(&index, &kept).unwrap();
    lab.reopen();
    assert_eq!(lab.store.shards.history.rollup_bytes(), 0);
    assert_eq!(lab.store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(read(&lab.store, i64::MIN, i64::MAX).await, samples);
    lab.check(START).await;
    lab.store.keeper.maintain();
    assert!(lab.store.shards.history.rollup_bytes() > 0);
    lab.check(START).await;
    // And they are all that is left in the end.
    lab.clock.set(lab.now() + 35 * DAY);
    lab.store.keeper.maintain();
    lab.check(START).await;
}

#[tokio::test]
async fn windows_that_are_rolled_up_while_the_clock_is_ahead_lack_no_rollups() {
    let mut lab = Lab::new(None, 64 << 20, lifetimes(1, 40, 90));
    for minutes in (0..240).step_by(10) {
        lab.clock.set(START + minutes * MINUTE + 1_234);
        lab.put("a", lab.now(), vec![conformance::gauge("g", f64::from(u32::try_from(minutes).unwrap()))]).await;
    }
    let right = START + 6 * HOUR;
    lab.clock.set(right + 50 * DAY);
    // What is open is sealed first, and then rolled up.
    lab.store.keeper.maintain_at(lab.now(), right);
    lab.store.keeper.maintain_at(lab.now(), right);
    // The samples leave, and the rollups stay.
    lab.clock.set(right + 3 * DAY);
    lab.store.keeper.maintain();
    lab.check(START).await;
}

#[tokio::test]
async fn files_of_a_newer_version_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(Some(folder.path().join("m.json")), 64 << 20, lifetimes(30, 60, 90));
    lab.fill(0..1).await;
    lab.store.close().await.unwrap();
    let history = folder.path().join("m.json.history");
    let files: Vec<PathBuf> = std::fs::read_dir(&history).unwrap().map(|file| file.unwrap().path()).collect();
    for (begins, version) in [("segment-", &b"golectra parts "[..]), ("index-", b"golectra history ")] {
        let path = files.iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(begins)).unwrap();
        let bytes = std::fs::read(path).unwrap();
        let mut newer = bytes.clone();
        let at = newer.windows(version.len()).position(|bytes| bytes == version).unwrap() + version.len();
        assert_eq!(newer[at], b'1');
        newer[at] = b'9';
        if begins == "index-" {
            let length = usize::try_from(u32::from_le_bytes(newer[..4].try_into().unwrap())).unwrap();
            let sum = super::super::framing::sum(&newer[8..8 + length]);
            newer[4..8].copy_from_slice(&sum.to_le_bytes());
        }
        std::fs::write(path, &newer).unwrap();
        let error =
            MemoryStore::open(lab.config.clone(), lab.clock.clone()).err().expect("a newer version's files are refused").to_string();
        assert!(error.contains("newer version of golectra-server") && error.contains(begins), "{error}");
        assert_eq!(std::fs::read(path).unwrap(), newer);
        std::fs::write(path, &bytes).unwrap();
    }
    lab.reopen();
    lab.check(START).await;
}

#[tokio::test]
async fn torn_rollups_are_skipped_and_counted_and_made_again_where_samples_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(Some(folder.path().join("m.json")), 64 << 20, lifetimes(1, 60, 90));
    lab.fill(0..3).await;
    lab.store.keeper.maintain();
    lab.store.close().await.unwrap();
    let history = folder.path().join("m.json.history");
    let files = std::fs::read_dir(&history).unwrap().map(|file| file.unwrap().path());
    let segments: Vec<PathBuf> = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("segment-")).collect();
    assert_eq!(segments.len(), 3, "of samples and of rollups of both resolutions");
    let whole = [Resolution::FiveMinutes, Resolution::OneHour]
        .map(|resolution| expected(&lab.model.series(), resolution, millis(START), millis(lab.now())));
    let mut lacking = 0;
    for segment in &segments {
        let bytes = std::fs::read(segment).unwrap();
        let cuts = (16..bytes.len()).step_by(bytes.len() / 14);
        for (cut, flipped) in cuts.flat_map(|cut| [(cut, false), (cut, true)]) {
            let mut damaged = bytes.clone();
            if flipped {
                damaged[cut] ^= 4;
            } else {
                damaged.truncate(cut);
            }
            std::fs::write(segment, &damaged).unwrap();
            let store = MemoryStore::open(lab.config.clone(), lab.clock.clone()).unwrap();
            assert!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed) > 0, "byte {cut}");
            store.keeper.maintain();
            let (bucket_ms, found) = select(&store, millis(START) - 10 * DAY_MILLIS, millis(lab.now())).await;
            // Where those of 5 minutes are gone, those of an hour answer.
            let whole = &whole[usize::from(bucket_ms == Some(Resolution::OneHour.bucket_ms()))];
            for (labels, buckets) in found.iter().filter(|(labels, _)| labels.starts_with("g{")) {
                // A bucket of samples that are left is whole.
                assert!(buckets.iter().all(|bucket| whole[labels].contains(bucket)), "byte {cut}: {labels}");
                lacking += usize::from(buckets.len() < whole[labels].len());
            }
            store.crash();
        }
        std::fs::write(segment, &bytes).unwrap();
    }
    assert!(lacking > 0);
}
