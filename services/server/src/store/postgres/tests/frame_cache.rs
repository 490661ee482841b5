//! Frames that are read again.

use golectra_promql::MemoryBudget;
use golectra_promql::store::{Hints, Selection};
use golectra_protocol::{IdempotencyKey, Metric};
use sqlx::Executor as _;

use super::sealing::queried::{Read, read, read_metric};
use super::*;
use crate::store::conformance::{batch, counter, gauge};
use crate::store::history::{History as _, SeriesFilter, TimeRange};
use crate::store::postgres::partitions::FRAMES;

const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;
const START: u64 = 20_000 * 24 * HOUR;

/// Two servers of one database of which the second has no cache.
struct Lab {
    clock: Clock,
    store: Arc<PostgresStore>,
    anew: Arc<PostgresStore>,
    metrics: CacheMetrics,
    database: TestDatabase,
}

impl Lab {
    async fn new() -> Option<Self> {
        Self::with_cache_of(1 << 20).await
    }

    async fn with_cache_of(max_bytes: usize) -> Option<Self> {
        let database = TestDatabase::create().await?;
        let (clock, metrics) = (Clock::at(START), CacheMetrics::default());
        let open = |chunk_cache, frame_cache| {
            PostgresStore::open(PostgresConfig { chunk_cache, frame_cache, ..config(database.dsn()) }, clock.clone()).unwrap()
        };
        let store = open(cache(1 << 20, &CacheMetrics::default()), cache(max_bytes, &metrics));
        let anew = open(CacheConfig::default(), CacheConfig::default());
        assert!(ready(&store).await && ready(&anew).await);
        Some(Self { clock, store, anew, metrics, database })
    }

    async fn put(&self, source: &str, at: u64, metrics: Vec<Metric>) {
        self.clock.set(self.clock.unix_millis().max(at));
        assert_eq!(self.anew.apply(batch(source, IdempotencyKey::at(at), metrics)).await.unwrap(), Applied::New);
    }

    /// Reports of one source that share a layout, a minute apart.
    async fn put_some(&self, from: u64, count: u64) {
        for n in 0..count {
            self.put("a", from + n * MINUTE, vec![gauge("g", 0.5), counter("c", 2)]).await;
        }
    }

    /// What both servers read, which has to be the same.
    async fn read(&self, start: u64, end: u64) -> Read {
        let (start_ms, end_ms) = (i64::try_from(start).unwrap(), i64::try_from(end).unwrap());
        let read_anew = read(&self.anew, start_ms, end_ms).await;
        assert_eq!(read(&self.store, start_ms, end_ms).await, read_anew, "from {start} to {end}");
        read_anew
    }

    /// How many frames of the gauge and of the counter the cache had, and how many were read for it, when all was read once more.
    async fn counted(&self) -> (u64, u64) {
        let before = (self.metrics.hits(), self.metrics.misses());
        self.read(START, START + 10 * HOUR).await;
        (self.metrics.hits() - before.0, self.metrics.misses() - before.1)
    }
}

#[tokio::test]
async fn frames_are_read_once_where_they_are_asked_for_again() {
    let Some(lab) = Lab::new().await else { return };
    // A list gets its layout when it comes for the second time. The first query finds the layout when it reads gauges, and knows it when it reads counters.
    lab.put_some(START, 11).await;
    let counted = [lab.counted().await, lab.counted().await, lab.counted().await, lab.counted().await];
    assert_eq!(counted, [(0, 0), (0, 10), (10, 10), (20, 0)]);
    lab.put_some(START + 11 * MINUTE, 3).await;
    assert_eq!([lab.counted().await, lab.counted().await], [(20, 6), (26, 0)]);
    // Those of a part of the time come from what there is of the partition.
    let before = lab.metrics.hits();
    assert_eq!(lab.read(START + 5 * MINUTE, START + 7 * MINUTE).await.values().map(Vec::len).sum::<usize>(), 6);
    assert_eq!(lab.metrics.hits() - before, 26);
    // A late one is found as well.
    lab.put("a", START + MINUTE / 2, vec![gauge("g", 7.5), counter("c", 1)]).await;
    assert_eq!(lab.counted().await, (26, 2));
    // Another half hour is another partition, whose frames are noted, read and had.
    lab.put_some(START + 40 * MINUTE, 2).await;
    assert_eq!([lab.counted().await, lab.counted().await, lab.counted().await], [(28, 0), (28, 4), (32, 0)]);
    assert!(lab.metrics.bytes() > 32 * 40);
}

#[tokio::test]
async fn frames_of_transactions_that_were_open_are_found_when_these_are_over() {
    let Some(lab) = Lab::new().await else { return };
    lab.put_some(START, 6).await;
    for _ in 0..3 {
        lab.counted().await;
    }
    let (mut open, mut other) = (lab.database.connect().await, lab.database.connect().await);
    let copy = |minutes: u32| {
        format!(
            r#"INSERT INTO frames (at, arrival, source_id, key, layout_id, digest, "values")
            SELECT at + interval '{minutes} minutes', arrival + (1 << 20), source_id, gen_random_uuid(), layout_id, digest, "values"
            FROM frames WHERE layout_id IS NOT NULL ORDER BY at DESC LIMIT 1"#
        )
    };
    // The later transaction is over before the earlier one.
    open.execute(format!("BEGIN; {}", copy(1)).as_str()).await.unwrap();
    other.execute(copy(2).as_str()).await.unwrap();
    assert_eq!([lab.counted().await, lab.counted().await], [(10, 2), (12, 0)]);
    open.execute("COMMIT").await.unwrap();
    assert_eq!([lab.counted().await, lab.counted().await], [(12, 2), (14, 0)]);
    // What is rolled back never was.
    other.execute(format!("BEGIN; {}; ROLLBACK", copy(3)).as_str()).await.unwrap();
    assert_eq!(lab.counted().await, (14, 0));
    assert_eq!(lab.read(START, START + HOUR).await.values().map(Vec::len).sum::<usize>(), 16);
}

#[tokio::test]
async fn pieces_that_were_read_at_different_times_are_read_from_the_first_of_them_on() {
    let Some(lab) = Lab::new().await else { return };
    // Two layouts of one source.
    let put = async |minute: u64| {
        let at = START + minute * MINUTE;
        lab.put("a", at, vec![gauge("g", 0.5)]).await;
        lab.put("a", at + 1, vec![gauge("h", 1.5)]).await;
    };
    for minute in 0..3 {
        put(minute).await;
    }
    let read_one = async |metric: &str| read_metric(&lab.store, metric).await.values().map(Vec::len).sum::<usize>();
    for n in 0..4 {
        assert_eq!((read_one("g").await, read_one("h").await), (3, 3), "{n}");
    }
    put(3).await;
    assert_eq!(read_one("h").await, 4);
    put(4).await;
    // What is known of `g` is older than what is known of `h`.
    let all = lab.read(START, START + HOUR).await;
    assert_eq!(all.values().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
    assert_eq!((read_one("g").await, read_one("h").await), (5, 5));
}

#[tokio::test]
async fn frames_that_are_sealed_while_their_partition_stays_are_answered_once() {
    let Some(lab) = Lab::new().await else { return };
    lab.put_some(START, 8).await;
    for _ in 0..4 {
        lab.counted().await;
    }
    assert_eq!(lab.counted().await, (14, 0));
    // A long read keeps the partition from being dropped.
    let mut dump = lab.database.connect().await;
    dump.execute("BEGIN; LOCK TABLE frames IN ACCESS SHARE MODE").await.unwrap();
    lab.clock.set(START + HOUR);
    assert_eq!(sealer(&lab.anew).round().await.unwrap().half_hours, [] as [i32; 0]);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM frames, sealed_reports").fetch_one(&mut dump).await.unwrap();
    assert!(left > 0, "it is sealed, and its frames are there");
    assert_eq!(lab.counted().await, (14, 0));
    lab.put("a", START + 9 * MINUTE, vec![gauge("g", 2.5), counter("c", 1)]).await;
    assert_eq!(lab.read(START, START + HOUR).await.values().map(Vec::len).collect::<Vec<_>>(), [9, 9]);
}

#[tokio::test]
async fn frames_from_before_transactions_were_noted_are_read() {
    let Some(database) = TestDatabase::create().await else { return };
    let mut conn = database.connect().await;
    upgrade::make_schema_of(&mut conn, 9).await;
    let (clock, metrics) = (Clock::at(START), CacheMetrics::default());
    let open = |frame_cache| PostgresStore::open(PostgresConfig { frame_cache, ..config(database.dsn()) }, clock.clone()).unwrap();
    let (store, anew) = (open(cache(1 << 20, &metrics)), open(CacheConfig::default()));
    assert!(ready(&store).await && ready(&anew).await);
    let lab = Lab { clock, store, anew, metrics, database };
    lab.put_some(START, 6).await;
    // As the version before wrote them.
    conn.execute("UPDATE frames SET transaction_id = NULL WHERE at <= (SELECT min(at) + interval '3 minutes' FROM frames)").await.unwrap();
    for _ in 0..4 {
        assert_eq!(lab.read(START, START + HOUR).await.values().map(Vec::len).collect::<Vec<_>>(), [6, 6]);
    }
    lab.put_some(START + 6 * MINUTE, 2).await;
    assert_eq!(lab.read(START, START + HOUR).await.values().map(Vec::len).collect::<Vec<_>>(), [8, 8]);
}

#[tokio::test]
async fn a_partition_that_is_emptied_or_made_again_is_read_anew() {
    let Some(lab) = Lab::new().await else { return };
    lab.put_some(START, 6).await;
    for _ in 0..3 {
        lab.counted().await;
    }
    assert_eq!(lab.counted().await, (10, 0));
    let mut conn = lab.database.connect().await;
    let partition = FRAMES.partition(FRAMES.slot_of(START));
    let copied = format!("CREATE TEMP TABLE copied AS SELECT * FROM {partition}; TRUNCATE {partition}");
    conn.execute(copied.as_str()).await.unwrap();
    assert_eq!(lab.counted().await, (0, 0));
    conn.execute("INSERT INTO frames SELECT * FROM copied ORDER BY at DESC LIMIT 3").await.unwrap();
    assert_eq!([lab.counted().await, lab.counted().await, lab.counted().await], [(0, 0), (0, 6), (6, 0)]);
    // What is sealed is not in frames any more; a late batch makes the partition again.
    lab.clock.set(START + 3 * HOUR);
    let sealer = sealer(&lab.anew);
    while sealer.round().await.unwrap().frames > 0 {}
    lab.read(START, START + 10 * HOUR).await;
    for n in 0..4 {
        lab.put("a", START + 20 * MINUTE + n, vec![gauge("g", 1.5), counter("c", 3)]).await;
        lab.read(START, START + 10 * HOUR).await;
    }
}

#[tokio::test]
async fn answers_are_those_without_a_cache() {
    let Some(lab) = Lab::new().await else { return };
    let mut random = fastrand::Rng::with_seed(fastrand::u64(..));
    let seed = random.get_seed();
    let mut now = START;
    let sealer = sealer(&lab.anew);
    for step in 0..120 {
        match random.u32(0..10) {
            0..7 => {
                now += random.u64(0..3 * MINUTE);
                let at = if random.u32(0..4) == 0 { now - random.u64(0..2 * HOUR).min(now - START) } else { now };
                let source = ["a", "b"][random.usize(0..2)];
                // Two lists that come again, one that does not, and deltas that no double holds.
                let metrics = match random.u32(0..8) {
                    0..4 => vec![gauge("g", random.f64()), counter("c", random.i64(0..9)), gauge("h", 2.0), counter("d", 1)],
                    4..6 => vec![counter("c", random.i64(0..9)), gauge("g", random.f64())],
                    6 => vec![gauge("g", 3.0), gauge(&format!("once_{step}"), 1.0), counter("d", 4)],
                    _ => vec![gauge("g", 0.5), counter("c", (1 << 53) + 1), gauge("h", 1.0), counter("d", 1)],
                };
                lab.put(source, at, metrics).await;
            }
            7 => {
                now += random.u64(0..HOUR);
                lab.clock.set(now);
            }
            8 => drop(sealer.round().await.unwrap()),
            _ => {}
        }
        let start = START + random.u64(0..=now - START);
        for (start, end) in [(START - HOUR, now + HOUR), (start, start + random.u64(0..HOUR))] {
            let (start_ms, end_ms) = (i64::try_from(start).unwrap(), i64::try_from(end).unwrap());
            let (cached, anew) = (read(&lab.store, start_ms, end_ms).await, read(&lab.anew, start_ms, end_ms).await);
            assert_eq!(cached, anew, "seed {seed}, step {step}, from {start} to {end}");
        }
    }
    assert!(lab.metrics.hits() > 100, "seed {seed}: {}", lab.metrics.hits());
}

#[tokio::test]
async fn what_is_too_large_is_read_each_time() {
    // Of the frames of the gauge and of the counter neither fits.
    let Some(lab) = Lab::with_cache_of(8_000).await else { return };
    lab.put_some(START, 25).await;
    for _ in 0..4 {
        lab.counted().await;
        assert!(lab.metrics.bytes() < 1_500, "{}", lab.metrics.bytes());
    }
    assert_eq!(lab.counted().await, (0, 0));
}

#[tokio::test]
async fn exports_leave_the_cache_of_frames_to_queries() {
    let Some(lab) = Lab::new().await else { return };
    lab.put_some(START, 6).await;
    let range = TimeRange { start_ms: i64::try_from(START).unwrap(), end_ms: i64::try_from(START + HOUR).unwrap() };
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    let filter = SeriesFilter { any: vec![], range, limit: usize::MAX };
    for _ in 0..4 {
        for of_source in &lab.store.list(&filter, &mut reservation).await.unwrap() {
            let read = lab.store.read_listed(&of_source.source, &of_source.series, range, &mut reservation).await.unwrap();
            assert_eq!(read.len(), 2);
        }
    }
    assert_eq!((lab.metrics.bytes(), lab.metrics.misses()), (0, 0));
}

#[tokio::test]
async fn what_a_query_has_from_the_cache_is_charged_while_it_reads() {
    let Some(lab) = Lab::new().await else { return };
    lab.put_some(START, 25).await;
    let selection = Selection {
        matchers: [].into(),
        start_ms: i64::try_from(START).unwrap(),
        end_ms: i64::try_from(START + HOUR).unwrap(),
        hints: Hints::default(),
    };
    let (mut used, mut most) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
        lab.store.select(&selection, 1_000, &mut reservation).await.unwrap();
        used.push(reservation.used_bytes());
        most.push(reservation.peak_bytes());
    }
    assert!(lab.metrics.hits() > 0);
    assert!(used.iter().all(|bytes| *bytes == used[0]), "{used:?}");
    assert!(most[4] > most[0], "{most:?}");
    // Where there is room for the samples without the cache, there is with it.
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    lab.anew.select(&selection, 1_000, &mut reservation).await.unwrap();
    let least = reservation.peak_bytes();
    assert!(least < most[4], "{least} {most:?}");
    for max_bytes in [least, least, most[4] - 1] {
        let mut reservation = MemoryBudget::new(1 << 30).reserve(max_bytes);
        assert_eq!(lab.store.select(&selection, 1_000, &mut reservation).await.unwrap().len(), 2);
        assert_eq!(reservation.used_bytes(), used[0]);
    }
    let mut reservation = MemoryBudget::new(1 << 30).reserve(used[0] - 1);
    lab.store.select(&selection, 1_000, &mut reservation).await.map(drop).unwrap_err();
}
