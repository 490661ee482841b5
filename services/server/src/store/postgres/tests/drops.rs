//! Partitions that reads keep from being dropped.

use golectra_protocol::IdempotencyKey;
use sqlx::Executor as _;
use tokio::time::interval_at;

use super::*;
use crate::store::conformance::{batch, counter};

const HOUR: u64 = 60 * 60 * 1000;
const START: u64 = 20_000 * 24 * HOUR;
/// How long a read has its lock.
const READ: Duration = Duration::from_millis(300);
/// How long after a read the next one begins, which has its lock for longer than a drop waits.
const NEXT_READ: Duration = Duration::from_millis(100);
const READERS: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_dropped_although_there_is_never_a_moment_without_a_read() {
    let Some(database) = TestDatabase::create().await else { return };
    let clock = Clock::at(START);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    store.apply(batch("a", IdempotencyKey::at(START), vec![counter("c", 1)])).await.unwrap();
    clock.set(START + HOUR);
    let stop = CancellationToken::new();
    let (mut readers, started) = (Vec::new(), Instant::now());
    for turn in 0..READERS {
        let (mut conn, stop) = (database.connect().await, stop.clone());
        readers.push(tokio::spawn(async move {
            let mut turns = interval_at(started + NEXT_READ * turn, NEXT_READ * READERS);
            while !stop.is_cancelled() {
                turns.tick().await;
                conn.execute("BEGIN; LOCK TABLE frames IN ACCESS SHARE MODE").await.unwrap();
                sleep(READ).await;
                conn.execute("COMMIT").await.unwrap();
            }
        }));
    }
    sleep(NEXT_READ * READERS).await;
    let mut dropped = Vec::new();
    // Ten that are held up and one that is not; some may find the lock of the session before.
    for _ in 0..30 {
        dropped = sealer(&store).round_once().await.unwrap().half_hours;
        if !dropped.is_empty() {
            break;
        }
    }
    assert_eq!(dropped.len(), 1);
    // Nobody was refused meanwhile.
    stop.cancel();
    for reader in readers {
        reader.await.unwrap();
    }
    store.apply(batch("a", IdempotencyKey::at(START + HOUR), vec![counter("c", 1)])).await.unwrap();
}
