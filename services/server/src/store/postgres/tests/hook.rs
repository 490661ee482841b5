//! What joins a batch's transaction stands and falls with it, and what takes too long is given up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use golectra_protocol::IdempotencyKey;
use sqlx::Executor as _;

use super::*;
use crate::audit::NameList;
use crate::store::conformance::samples::samples;
use crate::store::conformance::{batch, counter, name};

/// Counts drafts; hangs when told to.
#[derive(Default)]
struct Probe {
    drafts: AtomicUsize,
    hang: AtomicBool,
    fail: AtomicBool,
}

#[async_trait]
impl TransactionHook for Probe {
    async fn in_transaction(&self, conn: &mut PgConnection, drafts: &[&Draft]) -> Result<(), sqlx::Error> {
        assert!(!drafts.is_empty() && drafts.iter().all(|draft| draft.ts == 7));
        self.drafts.fetch_add(drafts.len(), Ordering::SeqCst);
        if self.hang.load(Ordering::SeqCst) {
            sqlx::query("SELECT pg_sleep(60)").execute(&mut *conn).await?;
        }
        let statement = if self.fail.load(Ordering::SeqCst) { "SELECT 1/0" } else { "SELECT 1" };
        sqlx::query(statement).execute(conn).await.map(drop)
    }
}

#[tokio::test]
async fn the_hook_gets_each_draft_once_and_can_undo_its_transaction() {
    let Some(database) = TestDatabase::create().await else { return };
    let probe = Arc::new(Probe::default());
    let config = PostgresConfig { hook: Some(Arc::<Probe>::clone(&probe)), connections: 1, ..config_with_default_limits(database.dsn()) };
    let store = PostgresStore::open(config, Clock::System).unwrap();
    assert!(ready(&store).await);
    let names = Arc::new(NameList::of(&vec![counter("c", 1)].into()));
    let draft = Draft { ts: 7, ip_address: [127, 0, 0, 1].into(), names, repeated: false, traceparent: None };
    let fresh = || {
        let plain = batch("a", IdempotencyKey::at(store.writers.context.clock.unix_millis()), vec![counter("c", 1)]);
        Batch { audit: Some(draft.clone()), ..plain }
    };
    let drafts = || probe.drafts.load(Ordering::SeqCst);

    let first = fresh();
    assert_eq!(store.apply(first.clone()).await.unwrap(), Applied::New);
    assert_eq!(store.apply(first.clone()).await.unwrap(), Applied::Repeat);
    assert_eq!(store.apply(Batch { audit: None, ..fresh() }).await.unwrap(), Applied::New);
    assert_eq!(drafts(), 1);

    probe.fail.store(true, Ordering::SeqCst);
    let undone = fresh();
    assert!(matches!(store.apply(undone.clone()).await.unwrap_err(), StoreError::Unavailable(_)));
    probe.fail.store(false, Ordering::SeqCst);
    assert_eq!(store.apply(undone).await.unwrap(), Applied::New);

    // A writer's connection hangs: the write is given up in time and the next one has another connection.
    probe.hang.store(true, Ordering::SeqCst);
    let (stuck, started) = (fresh(), Instant::now());
    assert!(matches!(store.apply(stuck.clone()).await.unwrap_err(), StoreError::Unavailable(_)));
    // The limit is 2.75 s; the database would end the statement after 6 s.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    probe.hang.store(false, Ordering::SeqCst);
    assert_eq!(store.apply(Batch { source: golectra_protocol::Source::unnamed(), ..fresh() }).await.unwrap(), Applied::New);
    // The source is free once the database noticed; then the same key is applied, once.
    let applied = tokio::time::timeout(Duration::from_secs(30), async {
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

#[tokio::test]
async fn all_that_a_write_waits_for_has_one_limit() {
    let Some(database) = TestDatabase::create().await else { return };
    // Learning up to where history was dropped may take 2 s by itself, while the table is locked.
    let config = config(database.dsn());
    let write_limits = WriteLimits { answered: Duration::from_millis(500), ..config.write_limits };
    let store = PostgresStore::open(PostgresConfig { write_limits, ..config }, Clock::System).unwrap();
    assert!(ready(&store).await);
    let mut holder = database.connect().await;
    holder.execute("BEGIN; LOCK TABLE dropped_history IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let at = store.writers.context.clock.unix_millis() - 120_000;
    let refused = store.apply(samples("a", &[("g", 1.0, at)])).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable(why) if why == "no answer within 0.50 s"), "{refused:?}");
}
