//! Frames, their partitions, and what is remembered of them.

use golectra_promql::MemoryBudget;
use golectra_promql::store::{Hints, Selection};
use golectra_protocol::IdempotencyKey;
use sqlx::{Executor, PgConnection};

use super::super::partitions::FRAMES;
use super::*;
use crate::store::conformance::{batch, counter, gauge};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

async fn half_hours(conn: &mut PgConnection) -> Vec<i32> {
    FRAMES.existing(conn).await.unwrap()
}

#[tokio::test]
async fn half_hours_come_and_go() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * DAY + DAY / 2;
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let mut conn = database.connect().await;
    let now = FRAMES.slot_of(start);
    assert_eq!(half_hours(&mut conn).await, (now..=now + 4).collect::<Vec<_>>());

    // Each list comes twice, so that it has a layout.
    let old = batch("a", IdempotencyKey::at(start - DAY), vec![counter("c", 1), gauge("g", 1.0)]);
    assert_eq!(store.apply(old.clone()).await.unwrap(), Applied::New);
    let again = batch("a", IdempotencyKey::at(start - DAY), vec![counter("c", 0), gauge("g", 1.0)]);
    assert_eq!(store.apply(again).await.unwrap(), Applied::New);
    for delta in [1, 0] {
        assert_eq!(store.apply(batch("a", IdempotencyKey::at(start), vec![counter("c", delta)])).await.unwrap(), Applied::New);
    }
    assert_eq!(half_hours(&mut conn).await[..2], [now - 48, now], "a late batch makes its own");

    // Sealed ones go five minutes after their end; the repeat is still one.
    clock.set(start + HOUR / 2 + 5 * 60_000 - 1);
    assert_eq!(sealer(&store).round().await.unwrap().half_hours, [now - 48]);
    clock.set(start + HOUR / 2 + 5 * 60_000);
    assert_eq!(sealer(&store).round().await.unwrap().half_hours, [now]);
    maintenance(&store).round().await.unwrap();
    assert_eq!(half_hours(&mut conn).await, (now + 1..=now + 5).collect::<Vec<_>>());
    assert_eq!(store.apply(old.clone()).await.unwrap(), Applied::Repeat);
    assert_eq!(half_hours(&mut conn).await[0], now - 48, "it is made again for the question");

    // 48 h after a batch's half hour and an hour of grace, its key goes and its repeat is refused; the day's layouts go with the day.
    let rows = "SELECT (SELECT count(*) FROM frames), (SELECT count(*) FROM layouts), (SELECT count(*) FROM sealed_reports),
        (SELECT total FROM latest WHERE total IS NOT NULL)";
    let first = start - DAY + HOUR / 2 + 49 * HOUR;
    for (at, expected) in [(first - 1, (0, 2, 2, 2)), (first, (0, 2, 1, 2)), (first + DAY, (0, 1, 0, 2))] {
        clock.set(at);
        sealer(&store).round().await.unwrap();
        sealer(&store).round().await.unwrap();
        maintenance(&store).round().await.unwrap();
        let left: (i64, i64, i64, i64) = sqlx::query_as(rows).fetch_one(&mut conn).await.unwrap();
        assert_eq!(left, expected);
    }
    assert!(matches!(store.apply(old).await.unwrap_err(), StoreError::Window(_)));
}

#[tokio::test]
async fn one_server_at_a_time_seals() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * DAY;
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    store.apply(batch("a", IdempotencyKey::at(start), vec![gauge("g", 1.0)])).await.unwrap();
    clock.set(start + HOUR);
    let mut conn = database.connect().await;
    assert!(connect::try_lock(&mut conn, connect::Lock::Seal).await.unwrap());
    assert_eq!(sealer(&store).round_once().await.unwrap(), sealer::Round { held: 1, ..sealer::Round::default() });
    drop(conn);
    assert_eq!(sealer(&store).round().await.unwrap().frames, 1);
}

#[tokio::test]
async fn a_batch_of_a_half_hour_without_a_partition_makes_it() {
    let Some(database) = TestDatabase::create().await else { return };
    let clock = Clock::at(Clock::System.unix_millis());
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    // The process slept over many midnights.
    let later = clock.unix_millis() + 30 * DAY;
    clock.set(later);
    assert_eq!(store.apply(batch("a", IdempotencyKey::at(later), vec![counter("c", 1)])).await.unwrap(), Applied::New);
    // Another hand dropped the half hour that this process knows of.
    let mut conn = database.connect().await;
    let slot = half_hours(&mut conn).await.pop().unwrap();
    conn.execute(&*format!("DROP TABLE {}", FRAMES.partition(slot))).await.unwrap();
    assert_eq!(store.apply(batch("a", IdempotencyKey::at(later), vec![counter("c", 1)])).await.unwrap(), Applied::New);
    assert!(half_hours(&mut conn).await.contains(&FRAMES.slot_of(later)));
}

#[tokio::test]
async fn deleted_series_come_back_with_the_next_batch() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let now = store.writers.context.clock.unix_millis();
    let put = || batch("a", IdempotencyKey::at(now), vec![counter("c", 1), gauge("g", 1.0), counter("d", 1)]);
    let mut conn = database.connect().await;
    for delete in ["DELETE FROM series WHERE metric = 'c'", "DELETE FROM series WHERE metric = 'g'", "DELETE FROM sources"] {
        for _ in 0..2 {
            assert_eq!(store.apply(put()).await.unwrap(), Applied::New);
        }
        let done = conn.execute(delete).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{delete}");
        assert_eq!(store.apply(put()).await.unwrap(), Applied::New, "after {delete}");
        let listed = crate::store::conformance::every(store.latest(LatestFilter::default()).await.unwrap()).await;
        assert_eq!((listed.len(), store.sources().await.unwrap()[0].series), (3, 3), "after {delete}");
    }
    let total: i64 = sqlx::query_scalar("SELECT series FROM series_total").fetch_one(&mut conn).await.unwrap();
    assert_eq!(total, 3);
}

/// How many samples of each series a query sees.
async fn seen(store: &PostgresStore) -> Vec<(String, usize)> {
    let selection = Selection { matchers: [].into(), start_ms: 0, end_ms: i64::MAX, hints: Hints::default() };
    let mut reservation = MemoryBudget::new(1 << 20).reserve(1 << 20);
    let found = crate::store::History::select(store, &selection, 100, &mut reservation).await.unwrap();
    let count = |series: &crate::store::history::HistorySeries| {
        let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
        series.samples.read(&mut timestamps_ms, &mut values).unwrap();
        (series.labels.value("__name__").to_owned(), values.len())
    };
    found.iter().map(count).collect()
}

/// Ends all sessions and says how many frames were read.
async fn frames_read(conn: &mut PgConnection) -> i64 {
    testing::end_sessions(conn).await;
    let read = "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'frames\\_%'";
    sqlx::query_scalar(read).fetch_one(conn).await.unwrap()
}

#[tokio::test]
async fn a_query_reads_frames_of_its_time_and_no_others() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * DAY;
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let end = start + 10 * HOUR;
    for at in (start..=end).step_by(300_000) {
        clock.set(at);
        store.apply(batch("a", IdempotencyKey::at(at), vec![gauge("g", 1.0)])).await.unwrap();
    }
    let mut conn = database.connect().await;
    drop(store);
    let before = frames_read(&mut conn).await;
    let again = PostgresStore::open(config(database.dsn()), clock).unwrap();
    assert!(ready(&again).await);
    let start_ms = i64::try_from(end - 600_000).unwrap();
    let selection = Selection { matchers: [].into(), start_ms, end_ms: i64::MAX, hints: Hints::default() };
    let mut reservation = MemoryBudget::new(1 << 20).reserve(1 << 20);
    let found = crate::store::History::select(&*again, &selection, 100, &mut reservation).await.unwrap();
    assert_eq!(found.iter().map(|series| series.samples.max_samples()).collect::<Vec<_>>(), [3]);
    drop(again);
    let read = frames_read(&mut conn).await - before;
    // Of 121 frames those of two half hours, once: none has a list of its own.
    assert!(read <= 7, "{read}");
    // A partition has all indexes from the beginning, and they are those of the table.
    let indexes =
        "SELECT count(*), count(inhparent) FROM pg_index LEFT JOIN pg_inherits ON inhrelid = indexrelid WHERE indrelid = $1::regclass";
    let partition = FRAMES.partition(FRAMES.slot_of(end));
    assert_eq!(sqlx::query_as::<_, (i64, i64)>(indexes).bind(partition).fetch_one(&mut conn).await.unwrap(), (3, 3));
}

#[tokio::test]
async fn a_query_sees_what_stands_in_a_list_of_other_series_than_before() {
    let Some(database) = TestDatabase::create().await else { return };
    let (store, mut conn) = (database.store().await, database.connect().await);
    let now = store.writers.context.clock.unix_millis();
    let put = async |number: u64| {
        let one = batch("a", IdempotencyKey::at(now + number), vec![gauge("f", 1.0), gauge("g", 1.0)]);
        assert_eq!(store.apply(one).await.unwrap(), Applied::New);
    };
    for number in 0..3 {
        put(number).await;
    }
    let of = |f, g| vec![("f".to_owned(), f), ("g".to_owned(), g)];
    assert_eq!(seen(&store).await, of(3, 3), "the list of series is remembered");
    conn.execute("DELETE FROM series WHERE metric = 'g'").await.unwrap();
    for number in 3..5 {
        put(number).await;
    }
    assert_eq!(seen(&store).await, of(5, 2));
    assert_eq!(seen(&*database.store().await).await, of(5, 2), "another server");
    let layouts: i64 = sqlx::query_scalar("SELECT count(*) FROM layouts").fetch_one(&mut conn).await.unwrap();
    assert_eq!(layouts, 2);
}

#[tokio::test]
async fn samples_are_there_for_plain_sql() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let now = store.writers.context.clock.unix_millis();
    let odd = f64::from_bits(1);
    store.apply(batch("node-1", IdempotencyKey::at(now), vec![gauge("g", odd), counter("c", 7)])).await.unwrap();
    store.apply(batch("", IdempotencyKey::at(now - 1), vec![gauge("g", -0.0)])).await.unwrap();
    let mut conn = database.connect().await;
    let rows: Vec<(String, String, String, f64, i64)> =
        sqlx::query_as("SELECT source, name, kind, value, (extract(epoch FROM at) * 1000)::bigint FROM samples ORDER BY source, name")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    let at = i64::try_from(now).unwrap();
    let read: Vec<_> = rows.iter().map(|(source, name, kind, value, at)| (&**source, &**name, &**kind, value.to_bits(), *at)).collect();
    assert_eq!(
        read,
        [
            ("", "g", "gauge", (-0.0_f64).to_bits(), at - 1),
            ("node-1", "c", "counter", 7.0_f64.to_bits(), at),
            ("node-1", "g", "gauge", 1, at)
        ]
    );
    let mut out = sqlx::postgres::PgConnection::copy_out_raw(&mut conn, "COPY (SELECT * FROM samples) TO STDOUT").await.unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = futures_util::StreamExt::next(&mut out).await {
        text.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(String::from_utf8(text).unwrap().lines().count(), 3);
}

#[tokio::test]
async fn a_repeat_writes_nothing() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let one = batch("a", IdempotencyKey::at(store.writers.context.clock.unix_millis()), vec![gauge("g", 1.0), counter("c", 1)]);
    store.apply(one.clone()).await.unwrap();
    let mut conn = database.connect().await;
    // A row that is written, even to the value it had, stands somewhere else afterwards.
    let places = "SELECT array_agg(ctid::text || xmin::text ORDER BY 1) FROM (SELECT ctid, xmin FROM latest_blocks
        UNION ALL SELECT ctid, xmin FROM layouts UNION ALL SELECT ctid, xmin FROM series UNION ALL SELECT ctid, xmin FROM frames) AS rows";
    let before: Vec<String> = sqlx::query_scalar(places).fetch_one(&mut conn).await.unwrap();
    let seen = store.sources().await.unwrap();
    // Another server knows nothing of the layout.
    for store in [&store, &store, &database.store().await] {
        assert_eq!(store.apply(one.clone()).await.unwrap(), Applied::Repeat);
    }
    let after: Vec<String> = sqlx::query_scalar(places).fetch_one(&mut conn).await.unwrap();
    assert_eq!(before, after);
    assert_eq!(store.sources().await.unwrap(), seen);
}

#[tokio::test]
async fn updates_of_latest_touch_no_index() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    for round in 0..50 {
        let metrics = (0..60).map(|i| gauge(&format!("g{i}"), f64::from(round))).collect();
        store.apply(batch("a", IdempotencyKey::at(store.writers.context.clock.unix_millis()), metrics)).await.unwrap();
    }
    store.close().await.unwrap();
    let mut conn = database.connect().await;
    // The statistics come when the backends are gone.
    let counted = tokio::time::timeout(Duration::from_mins(1), async {
        loop {
            let (all, hot): (i64, i64) =
                sqlx::query_as("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'latest_blocks'")
                    .fetch_one(&mut conn)
                    .await
                    .unwrap();
            if all >= 49 {
                return (all, hot);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (all, hot) = counted.await.expect("the statistics come");
    // An index on what changes would make it none; some miss where autovacuum looks on.
    assert!(hot * 2 >= all, "{hot} of {all} updates were hot");
    let storage: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT attstorage::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relname LIKE 'frames%' AND attname = 'values'",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(storage, ["e"], "EXTERNAL in every partition");
}

#[tokio::test]
async fn a_list_that_comes_once_leaves_no_layout() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let mut conn = database.connect().await;
    let now = store.writers.context.clock.unix_millis();
    let list = |n: u32| vec![gauge("kept", 1.0), gauge(&format!("g{n}"), f64::from(n))];
    for n in 0..50 {
        store.apply(batch("a", IdempotencyKey::at(now), list(n))).await.unwrap();
    }
    let layouts = "SELECT count(*) FROM layouts";
    assert_eq!(sqlx::query_scalar::<_, i64>(layouts).fetch_one(&mut conn).await.unwrap(), 0);
    for round in 1..4 {
        store.apply(batch("a", IdempotencyKey::at(now + round), list(7))).await.unwrap();
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(layouts).fetch_one(&mut conn).await.unwrap(), 1, "the second time it gets one");
    let read: (i64, f64) =
        sqlx::query_as("SELECT count(*), sum(value) FROM samples WHERE name LIKE 'g%'").fetch_one(&mut conn).await.unwrap();
    assert_eq!(read, (53, f64::from((0..50).sum::<u32>() + 3 * 7)), "the history has both kinds of frames");
}

#[tokio::test]
async fn samples_with_times_of_their_own_are_told_by_them() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let now = store.writers.context.clock.unix_millis();
    let at = i64::try_from(now).unwrap();
    let mut metrics = golectra_protocol::Metrics::default();
    for (value, back) in [(1.0, 3_000), (f64::NAN, 2_000), (2.0, 1_000)] {
        metrics.push_parsed_at("g", Value::Gauge(value), at - back).unwrap();
    }
    let one = Batch { metrics, ..batch("a", IdempotencyKey::at(now), vec![gauge("unused", 0.0)]) };
    store.apply(one.clone()).await.unwrap();
    assert_eq!(store.apply(one).await.unwrap(), Applied::Repeat);
    let mut conn = database.connect().await;
    let rows: Vec<(f64, i64)> = sqlx::query_as("SELECT value, (extract(epoch FROM at) * 1000)::bigint FROM samples ORDER BY at")
        .fetch_all(&mut conn)
        .await
        .unwrap();
    let read: Vec<_> = rows.iter().map(|(value, at)| (value.to_bits(), *at)).collect();
    assert_eq!(read, [(1.0_f64.to_bits(), at - 3_000), (f64::NAN.to_bits(), at - 2_000), (2.0_f64.to_bits(), at - 1_000)]);
}

#[tokio::test]
async fn values_leave_before_their_keys() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * DAY + DAY / 2;
    let clock = Clock::at(start);
    let lifetimes = Lifetimes { retention_raw: Duration::from_hours(1), ..Lifetimes::default() };
    let config = PostgresConfig { lifetimes, ..config(database.dsn()) };
    let too_old = config.history.too_old_samples.clone();
    let store = PostgresStore::open(config, clock.clone()).unwrap();
    assert!(ready(&store).await);
    let one = batch("a", IdempotencyKey::at(start), vec![gauge("g", 1.0)]);
    store.apply(one.clone()).await.unwrap();
    clock.set(start + HOUR);
    assert_eq!(sealer(&store).round().await.unwrap().frames, 1);
    let mut conn = database.connect().await;
    let rows = "SELECT (SELECT count(*) FROM frames), (SELECT count(*) FROM chunks), (SELECT count(*) FROM sealed_reports)";
    assert_eq!(sqlx::query_as::<_, (i64, i64, i64)>(rows).fetch_one(&mut conn).await.unwrap(), (0, 1, 1));
    // A day of chunks goes whole, when what came for it at the last moment is sealed.
    clock.set(start + DAY / 2 + 3 * HOUR);
    let round = sealer(&store).round().await.unwrap();
    assert_eq!(round.days, [20_000]);
    assert_eq!(store.apply(one).await.unwrap(), Applied::Repeat);
    // A batch that is older than the history when it comes is remembered by its key alone.
    let late = batch("a", IdempotencyKey::at(start + 1), vec![gauge("g", 3.0), counter("c", 1)]);
    store.apply(late.clone()).await.unwrap();
    assert_eq!(sealer(&store).round().await.unwrap().frames, 1);
    assert_eq!(sqlx::query_as::<_, (i64, i64, i64)>(rows).fetch_one(&mut conn).await.unwrap(), (0, 0, 2));
    assert_eq!(store.apply(late).await.unwrap(), Applied::Repeat);
    // What is not kept is counted, once.
    assert_eq!(too_old.get(), 2);
}

#[tokio::test]
async fn what_forgets_keys_raises_the_oldest_accepted_time_for_every_server() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = 20_000 * DAY + DAY / 2;
    let clock = Clock::at(start);
    let open = |hours: u64| {
        let window = Duration::from_hours(hours);
        let lifetimes = Lifetimes { dedup_window: window, retention_raw: window, ..Lifetimes::default() };
        PostgresStore::open(PostgresConfig { lifetimes, ..config(database.dsn()) }, clock.clone()).unwrap()
    };
    let (short, long) = (open(1), open(24 * 7));
    assert!(ready(&short).await && ready(&long).await);
    let one = batch("a", IdempotencyKey::at(start), vec![counter("c", 1)]);
    assert_eq!(long.apply(one.clone()).await.unwrap(), Applied::New);
    clock.set(start + 2 * DAY);
    assert_eq!(long.apply(one.clone()).await.unwrap(), Applied::Repeat);
    for _ in 0..2 {
        sealer(&short).round().await.unwrap();
    }
    for _ in 0..2 {
        // It is in a group with one that passes.
        let other = batch("a", IdempotencyKey::at(start + 2 * DAY), vec![counter("other", 1)]);
        let (refused, taken) = tokio::join!(long.apply(one.clone()), long.apply(other));
        assert!(matches!(refused.unwrap_err(), StoreError::Window(golectra_protocol::WindowError::TooOld)));
        assert_eq!(taken.unwrap(), Applied::New);
    }
    assert_eq!(
        long.value(&Selector { kind: golectra_protocol::Kind::Counter, id: crate::store::conformance::name("c") }).await.unwrap(),
        Some(Value::Counter(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_read_makes_no_writer_wait_for_partitions() {
    let Some(database) = TestDatabase::create().await else { return };
    let clock = Clock::at(20_000 * DAY + DAY / 2);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    store.apply(batch("a", IdempotencyKey::at(clock.unix_millis()), vec![counter("c", 1)])).await.unwrap();
    // As pg_dump does, for as long as it runs.
    let mut dump = database.connect().await;
    dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE frames IN ACCESS SHARE MODE; SELECT count(*) FROM samples")
        .await
        .unwrap();
    clock.set(20_001 * DAY + DAY / 2);
    let stop = CancellationToken::new();
    let writer = {
        let (store, clock, stop) = (Arc::clone(&store), clock.clone(), stop.clone());
        tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !stop.is_cancelled() {
                let started = std::time::Instant::now();
                store.apply(batch("a", IdempotencyKey::at(clock.unix_millis()), vec![counter("c", 1)])).await.unwrap();
                longest = longest.max(started.elapsed());
            }
            longest
        })
    };
    // In one of the last rounds a drop waits for longer.
    for _ in 0..12 {
        let round = sealer(&store).round_once().await.unwrap();
        assert!(round.half_hours.is_empty(), "the drop gives up");
        maintenance(&store).round().await.unwrap();
    }
    let mut look = database.connect().await;
    let now = FRAMES.slot_of(clock.unix_millis());
    assert!(half_hours(&mut look).await.contains(&(now + 4)), "partitions are made all the same");
    let sealed: i64 = sqlx::query_scalar("SELECT count(*) FROM sealed_reports").fetch_one(&mut look).await.unwrap();
    assert_eq!(sealed, 1, "and frames are sealed, once");
    stop.cancel();
    let longest = writer.await.unwrap();
    // A write that waits behind a DROP fails after 2 s; this bound is for a busy machine.
    assert!(longest < Duration::from_secs(10), "a write took {longest:?}");
    dump.execute("COMMIT").await.unwrap();
    assert!(!sealer(&store).round().await.unwrap().half_hours.is_empty());
}

#[tokio::test]
async fn a_server_with_a_wrong_clock_goes_by_the_databases() {
    let Some(database) = TestDatabase::create().await else { return };
    // Two hours behind: with its own clock it would refuse what is sampled now, and remember a day too much.
    let wrong = Clock::Wrong(-2 * 60 * 60 * 1000);
    let plain = config(database.dsn());
    let metrics = plain.metrics.clone();
    let store = PostgresStore::open(plain, wrong).unwrap();
    assert!(ready(&store).await);
    let now = Clock::System.unix_millis();
    assert_eq!(store.apply(batch("a", IdempotencyKey::at(now), vec![gauge("g", 1.0)])).await.unwrap(), Applied::New);
    let hours = 60 * 60 * 1000;
    let old = store.apply(batch("a", IdempotencyKey::at(now - 49 * hours), vec![gauge("g", 1.0)])).await.unwrap_err();
    assert!(matches!(old, StoreError::Window(golectra_protocol::WindowError::TooOld)), "{old}");
    let seen = store.sources().await.unwrap().remove(0).last_seen_millis;
    assert!(seen.abs_diff(now) < 60_000, "{seen} is not the database's time");
    let offset = metrics.clock_offset_seconds.get();
    assert!((7_200.0 - offset).abs() < 60.0, "{offset}");
}
