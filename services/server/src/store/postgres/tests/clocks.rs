//! Servers whose clocks differ, and a database whose clock was set back.

use golectra_protocol::IdempotencyKey;
use prometheus::Registry;

use super::*;
use crate::ingest::{self, Ingest, IngestError};
use crate::metrics::ServerMetrics;
use crate::store::conformance::samples::{refused, samples};
use crate::store::conformance::{batch, gauge, name};

const HOUR: u64 = 60 * 60 * 1000;

/// A server by whose clock the test sets that of the database.
async fn open(database: &TestDatabase, clock: &Clock) -> Arc<PostgresStore> {
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writes_without_a_key_the_last_counts_whatever_the_servers_clocks_show() {
    let Some(database) = TestDatabase::create().await else { return };
    let now = Clock::System.unix_millis();
    let clock = Clock::at(now);
    let stores = [open(&database, &clock).await, open(&database, &clock).await];
    // The second server's clock is behind. The last one is so far ahead that a key of the time would be refused.
    let writes = [(&stores[0], now), (&stores[1], now - 5_000), (&stores[0], now), (&stores[1], now - 5_000), (&stores[0], now + HOUR)];
    for (number, (store, server_millis)) in (1_u32..).zip(writes) {
        let one = batch("a", IdempotencyKey::at(server_millis), vec![gauge("g", f64::from(number))]);
        assert_eq!(store.apply(Batch { keyed: false, ..one }).await.unwrap(), Applied::New);
        let value = store.value(&Selector { id: name("g"), kind: golectra_protocol::Kind::Gauge }).await.unwrap();
        assert_eq!(value, Some(Value::Gauge(f64::from(number))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_was_seen_when_it_reported_last_also_where_the_clock_was_ahead_before() {
    let Some(database) = TestDatabase::create().await else { return };
    let now = Clock::System.unix_millis();
    let clock = Clock::at(now);
    let store = open(&database, &clock).await;
    // The last one is a little earlier than the one before it, as another server's estimate of the clock may be.
    for (at, seen) in
        [(now, now), (now + HOUR, now + HOUR), (now + 1_000, now + 1_000), (now + 3_000, now + 3_000), (now + 2_000, now + 3_000)]
    {
        clock.set(at);
        store.apply(batch("a", IdempotencyKey::at(at), vec![gauge("g", 1.0)])).await.unwrap();
        store.writers.touch().await;
        assert_eq!(store.sources().await.unwrap()[0].last_seen_millis, seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_samples_are_refused_as_too_new_the_databases_clock_is_measured() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let now = Clock::System.unix_millis();
    store.writers.context.clock.fall_behind(HOUR.cast_signed());
    assert_eq!(store.apply(samples("p", &[("g", 1.0, now)])).await.unwrap(), Applied::New);
    let applied = store.apply(samples("p", &[("g", 1.0, now + HOUR)])).await.unwrap();
    assert_eq!(refused(&applied), [0, 0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_new_is_told_the_databases_time_by_a_server_whose_clock_is_wrong() {
    let Some(database) = TestDatabase::create().await else { return };
    let clock = Clock::Wrong(-HOUR.cast_signed());
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let ingest = Ingest::new(store, None, ServerMetrics::register(&Registry::new()).unwrap(), clock);
    let now = Clock::System.unix_millis();
    let Batch { source, key, digest, metrics, .. } = batch("a", IdempotencyKey::at(now + HOUR), vec![gauge("g", 1.0)]);
    let refused = ingest.write(ingest::Write { source, key: Some(key), digest, metrics, peer: [127, 0, 0, 1].into() }).await;
    let Err(IngestError::TooNew { now_millis }) = refused else { panic!("{refused:?}") };
    assert!((now..now + HOUR / 2).contains(&(now_millis + 1_000)), "{now_millis} at {now}");
}
