//! What joins a batch's transaction stands and falls with it, and what takes too long is given up.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use golectra_protocol::IdempotencyKey;
use golectra_protocol::audit::Event;

use super::*;
use crate::store::conformance::{batch, counter, name};

/// Counts its calls; hangs when told to.
#[derive(Default)]
struct Probe {
    calls: AtomicUsize,
    hang: AtomicBool,
    fail: AtomicBool,
}

#[async_trait]
impl TransactionHook for Probe {
    async fn in_transaction(&self, conn: &mut PgConnection, draft: &Draft) -> Result<(), sqlx::Error> {
        assert_eq!(draft.event.ts, 7);
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hang.load(Ordering::SeqCst) {
            sqlx::query("SELECT pg_sleep(60)").execute(&mut *conn).await?;
        }
        let statement = if self.fail.load(Ordering::SeqCst) { "SELECT 1/0" } else { "SELECT 1" };
        sqlx::query(statement).execute(conn).await.map(drop)
    }
}

#[tokio::test]
async fn the_hook_is_called_once_a_batch_and_can_undo_it() {
    let Some(database) = TestDatabase::create().await else { return };
    let probe = Arc::new(Probe::default());
    let config = PostgresConfig { hook: Some(Arc::<Probe>::clone(&probe)), pool_size: 1, ..config(database.dsn()) };
    let store = PostgresStore::open(config, Clock::System).unwrap();
    assert!(ready(&store).await);
    let event = Event { ts: 7, metrics: vec!["c".into()], ip_address: "127.0.0.1".into() };
    let fresh = || {
        let plain = batch("a", IdempotencyKey::at(store.clock.unix_millis()), vec![counter("c", 1)]);
        Batch { audit: Some(Draft { event: event.clone(), traceparent: None }), ..plain }
    };
    let calls = || probe.calls.load(Ordering::SeqCst);

    let first = fresh();
    assert_eq!(store.apply(first.clone()).await.unwrap(), Applied::New);
    assert_eq!(store.apply(first.clone()).await.unwrap(), Applied::Repeat);
    assert_eq!(store.apply(Batch { audit: None, ..fresh() }).await.unwrap(), Applied::New);
    assert_eq!(calls(), 1);

    probe.fail.store(true, Ordering::SeqCst);
    let undone = fresh();
    assert!(matches!(store.apply(undone.clone()).await.unwrap_err(), StoreError::Unavailable(_)));
    probe.fail.store(false, Ordering::SeqCst);
    assert_eq!(store.apply(undone).await.unwrap(), Applied::New);

    // The only connection hangs: the write is given up in time and the next one has a connection again.
    probe.hang.store(true, Ordering::SeqCst);
    let (stuck, started) = (fresh(), Instant::now());
    assert!(matches!(store.apply(stuck.clone()).await.unwrap_err(), StoreError::Unavailable(_)));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    probe.hang.store(false, Ordering::SeqCst);
    assert_eq!(store.apply(Batch { source: golectra_protocol::Source::unnamed(), ..fresh() }).await.unwrap(), Applied::New);
    // The source is free once the database noticed; then the same key is applied, once.
    let applied = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Ok(applied) = store.apply(stuck.clone()).await {
                return applied;
            }
        }
    });
    assert_eq!(applied.await.unwrap(), Applied::New);
    let total = store.value(&Selector { id: name("c"), kind: golectra_protocol::Kind::Counter }).await.unwrap();
    assert_eq!(total, Some(Value::Counter(5)));
}
