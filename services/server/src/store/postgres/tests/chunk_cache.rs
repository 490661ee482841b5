//! Sealed chunks that are read again.

use golectra_protocol::IdempotencyKey;
use sqlx::Executor as _;

use super::sealing::queried::read;
use super::*;
use crate::store::conformance::{batch, counter, gauge};

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
        let open = |chunk_cache| PostgresStore::open(PostgresConfig { chunk_cache, ..config(database.dsn()) }, clock.clone()).unwrap();
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
        self.clock.set(self.clock.unix_millis().max(at));
        let metrics = (0..6).map(|n| gauge(&format!("g{n}"), 0.5)).chain([counter("c", 2)]).collect();
        assert_eq!(self.anew.apply(batch("a", IdempotencyKey::at(at), metrics)).await.unwrap(), Applied::New);
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
}
