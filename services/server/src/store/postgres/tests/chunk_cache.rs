//! Sealed chunks that are read again.

use golectra_promql::MemoryBudget;
use golectra_promql::store::{Hints, Selection};
use golectra_protocol::IdempotencyKey;
use sqlx::Executor as _;

use super::sealing::queried::read;
use super::*;
use crate::store::conformance::{batch, counter, gauge};
use crate::store::history::{History as _, SeriesFilter, TimeRange};
use crate::store::postgres::partitions::CHUNKS;

const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;
const START: u64 = 20_000 * 24 * HOUR;

/// Two servers of one database of which the second has no cache. Chunks of eight hours are sealed.
struct Lab {
    clock: Clock,
    store: Arc<PostgresStore>,
    anew: Arc<PostgresStore>,
    metrics: CacheMetrics,
    database: TestDatabase,
}

impl Lab {
    async fn new() -> Option<Self> {
        let database = TestDatabase::create().await?;
        let (clock, metrics) = (Clock::at(START), CacheMetrics::default());
        let open = |chunk_cache| {
            let config = PostgresConfig { chunk_cache, frame_cache: CacheConfig::default(), ..config(database.dsn()) };
            PostgresStore::open(config, clock.clone()).unwrap()
        };
        let (store, anew) = (open(cache(1 << 20, &metrics)), open(CacheConfig::default()));
        assert!(ready(&store).await && ready(&anew).await);
        let lab = Self { clock, store, anew, metrics, database };
        for minute in (0..8 * 60).step_by(10) {
            lab.put(START + minute * MINUTE).await;
        }
        lab.seal(START + 10 * HOUR).await;
        Some(lab)
    }

    async fn put(&self, at: u64) {
        self.put_of("a", at).await;
    }

    async fn put_of(&self, source: &str, at: u64) {
        self.clock.set(self.clock.unix_millis().max(at));
        let metrics = (0..6).map(|n| gauge(&format!("g{n}"), 0.5)).chain([counter("c", 2)]).collect();
        assert_eq!(self.anew.apply(batch(source, IdempotencyKey::at(at), metrics)).await.unwrap(), Applied::New);
    }

    async fn seal(&self, now: u64) {
        self.clock.set(now);
        let sealer = sealer(&self.anew);
        while sealer.round().await.unwrap().frames > 0 {}
    }

    /// How many rows the cache had and had not.
    async fn counted(&self, start: u64, end: u64) -> (u64, u64) {
        let before = (self.metrics.hits(), self.metrics.misses());
        let (start_ms, end_ms) = (i64::try_from(start).unwrap(), i64::try_from(end).unwrap());
        assert_eq!(read(&self.store, start_ms, end_ms).await, read(&self.anew, start_ms, end_ms).await);
        (self.metrics.hits() - before.0, self.metrics.misses() - before.1)
    }
}

#[tokio::test]
async fn what_was_read_is_read_again_only_where_it_changed() {
    let Some(lab) = Lab::new().await else { return };
    let all = (START, START + 10 * HOUR);
    let (hits, rows) = lab.counted(all.0, all.1).await;
    assert!(hits == 0 && rows >= 4, "{hits} {rows}");
    assert_eq!(lab.counted(all.0, all.1).await, (rows, 0));
    // A part of the time has a part of the rows.
    let (hits, misses) = lab.counted(START + 3 * HOUR, START + 4 * HOUR).await;
    assert!((1..rows).contains(&hits) && misses == 0, "{hits} {misses}");
    // Late samples are merged with what is sealed, or make a row beside it.
    lab.put(START + 3 * HOUR + MINUTE).await;
    lab.seal(START + 12 * HOUR).await;
    let (hits, misses) = lab.counted(all.0, all.1).await;
    assert!(misses > 0 && hits > 0 && hits < rows, "{hits} {misses}: totals of later windows changed as well");
    assert_eq!(lab.counted(all.0, all.1).await.1, 0);
    assert!(lab.metrics.bytes() > 0);
    // What a query begins with is what it sees: rows that are gone are not answered.
    let mut conn = lab.database.connect().await;
    conn.execute("DELETE FROM chunks WHERE window_start = (SELECT min(window_start) FROM chunks)").await.unwrap();
    let (hits, misses) = lab.counted(all.0, all.1).await;
    assert!(hits > 0 && misses == 0, "{hits} {misses}");
    assert_eq!(lab.counted(all.0, all.1).await, (hits, 0));
    // Nor are those of a partition that is gone.
    conn.execute(format!("DROP TABLE {}", CHUNKS.partition(CHUNKS.slot_of(START))).as_str()).await.unwrap();
    assert_eq!(lab.counted(all.0, all.1).await, (0, 0));
    assert_eq!(lab.metrics.bytes(), 0);
}

#[tokio::test]
async fn windows_without_rows_are_not_asked_for_again() {
    let Some(lab) = Lab::new().await else { return };
    let (start, end) = (START + 20 * HOUR, START + 30 * HOUR);
    assert_eq!(lab.counted(start, end).await, (0, 0));
    let mut conn = lab.database.connect().await;
    // A query that reads chunks would fail.
    conn.execute("ALTER TABLE chunks RENAME COLUMN data TO hidden").await.unwrap();
    read(&lab.store, i64::try_from(start).unwrap(), i64::try_from(end).unwrap()).await;
    conn.execute("ALTER TABLE chunks RENAME COLUMN hidden TO data").await.unwrap();
    // Rows that come are found.
    lab.put(start).await;
    lab.seal(START + 40 * HOUR).await;
    let (hits, misses) = lab.counted(start, end).await;
    assert!(hits == 0 && misses > 0, "{hits} {misses}");
}

#[tokio::test]
async fn only_what_changed_is_asked_for() {
    let Some(lab) = Lab::new().await else { return };
    for at in [START + HOUR, START + 5 * HOUR] {
        lab.put_of("b", at).await;
    }
    lab.seal(START + 12 * HOUR).await;
    let all = (START, START + 10 * HOUR);
    let (_, rows) = lab.counted(all.0, all.1).await;
    // What is known stands between what is not.
    let mut conn = lab.database.connect().await;
    let ends = "UPDATE chunks SET part = part WHERE source_id = (SELECT id FROM sources WHERE name = 'a')
        AND window_start IN ((SELECT min(window_start) FROM chunks), (SELECT max(window_start) FROM chunks))";
    let changed = conn.execute(ends).await.unwrap().rows_affected();
    assert!((2..rows).contains(&changed), "{changed} of {rows}");
    assert_eq!(lab.counted(all.0, all.1).await, (rows - changed, changed));
    // Another source's samples are not read again for that of one.
    lab.put_of("b", START + HOUR + MINUTE).await;
    lab.seal(START + 14 * HOUR).await;
    let (hits, misses) = lab.counted(all.0, all.1).await;
    assert!(hits >= 4 && (1..=2).contains(&misses), "{hits} {misses} of {rows}");
    // Rows that are moved are where they are then.
    conn.execute("UPDATE chunks SET window_start = window_start + interval '12 hours'").await.unwrap();
    let (hits, misses) = lab.counted(START + 12 * HOUR, START + 30 * HOUR).await;
    assert_eq!((hits, misses > 0), (0, true));
    assert_eq!(lab.counted(all.0, all.1).await, (0, 0));
    // Where it is not known any more what changed, all is read again, not only what the newest change was about.
    for statement in [
        "UPDATE chunks SET part = part",
        "UPDATE chunks SET part = part WHERE window_start = (SELECT min(window_start) FROM chunks)",
        "DELETE FROM chunk_changes WHERE change < (SELECT changes FROM chunk_total)",
    ] {
        conn.execute(statement).await.unwrap();
    }
    let (hits, misses) = lab.counted(START + 12 * HOUR, START + 30 * HOUR).await;
    assert_eq!((hits, misses > 0), (0, true));
    // An emptied partition is another one.
    conn.execute("TRUNCATE chunks").await.unwrap();
    assert_eq!(lab.counted(START, START + 30 * HOUR).await, (0, 0));
}

#[tokio::test]
async fn changes_are_counted_in_the_order_of_commits() {
    let Some(lab) = Lab::new().await else { return };
    let (mut one, mut other) = (lab.database.connect().await, lab.database.connect().await);
    let first = "UPDATE chunks SET part = part WHERE window_start = (SELECT min(window_start) FROM chunks)";
    let last = "UPDATE chunks SET part = part WHERE window_start = (SELECT max(window_start) FROM chunks)";
    let code = |error: &sqlx::Error| error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default().into_owned();
    one.execute(format!("BEGIN; {first}").as_str()).await.unwrap();
    let waits = other.execute(format!("SET lock_timeout = '50ms'; {last}").as_str()).await.unwrap_err();
    assert_eq!(code(&waits), "55P03");
    // Who waited counts behind the other.
    other.execute("SET lock_timeout = '30s'").await.unwrap();
    let (waited, ended) = tokio::join!(other.execute(last), one.execute("COMMIT"));
    assert!(waited.is_ok() && ended.is_ok(), "{waited:?} {ended:?}");
    let order = "SELECT array_agg(window_start ORDER BY change) = ARRAY[min(window_start), max(window_start)]
        FROM (SELECT * FROM chunk_changes ORDER BY change DESC LIMIT 2) AS newest";
    assert!(sqlx::query_scalar::<_, bool>(order).fetch_one(&mut other).await.unwrap());
    // A rollback leaves no gap, a transaction counts once, and what changes nothing does not count.
    let changes = "SELECT (SELECT changes FROM chunk_total), (SELECT max(change) FROM chunk_changes)";
    let before: (i64, i64) = sqlx::query_as(changes).fetch_one(&mut other).await.unwrap();
    one.execute(format!("BEGIN; {first}; ROLLBACK; BEGIN; {last}; {last}; {first}; COMMIT; DELETE FROM chunks WHERE false").as_str())
        .await
        .unwrap();
    let after: (i64, i64) = sqlx::query_as(changes).fetch_one(&mut other).await.unwrap();
    assert_eq!((before.0, after), (before.1, (before.0 + 1, before.0 + 1)));
    // Who can't count does not change anything: not who saw no number, nor who saw an older one.
    for meanwhile in [
        "WITH row AS (SELECT * FROM chunk_total) SELECT * INTO TEMP kept FROM row; TRUNCATE chunk_total; INSERT INTO chunk_total SELECT * FROM kept",
        last,
    ] {
        one.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM chunks").await.unwrap();
        other.execute(meanwhile).await.unwrap();
        assert_eq!(code(&one.execute(first).await.unwrap_err()), "40001");
        one.execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn exports_leave_the_cache_to_queries() {
    let Some(lab) = Lab::new().await else { return };
    let (start_ms, end_ms) = (i64::try_from(START).unwrap(), i64::try_from(START + 10 * HOUR).unwrap());
    let range = TimeRange { start_ms, end_ms };
    let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
    let filter = SeriesFilter { any: vec![], range, limit: usize::MAX };
    let listed = lab.store.list(&filter, &mut reservation).await.unwrap();
    for of_source in &listed {
        let read = lab.store.read_listed(&of_source.source, &of_source.series, range, &mut reservation).await.unwrap();
        assert_eq!(read.len(), 7);
    }
    assert_eq!((listed.len(), lab.metrics.bytes(), lab.metrics.misses()), (1, 0, 0));
}

#[tokio::test]
async fn what_a_query_has_from_the_cache_is_charged_to_it() {
    let Some(lab) = Lab::new().await else { return };
    let selection = Selection {
        matchers: [].into(),
        start_ms: i64::try_from(START).unwrap(),
        end_ms: i64::try_from(START + 10 * HOUR).unwrap(),
        hints: Hints::default(),
    };
    let mut charged = Vec::new();
    for _ in 0..2 {
        let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
        lab.store.select(&selection, 1_000, &mut reservation).await.unwrap();
        charged.push(reservation.used_bytes());
    }
    assert_eq!(charged[0], charged[1]);
    assert!(lab.metrics.hits() > 0 && charged[1] > lab.metrics.bytes() / 2, "{charged:?}");
    let mut reservation = MemoryBudget::new(1 << 30).reserve(charged[1] - 1);
    lab.store.select(&selection, 1_000, &mut reservation).await.map(drop).unwrap_err();
}
