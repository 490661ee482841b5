//! A database whose synchronous standby is away.

use std::time::Instant;

use sqlx::Connection;

use super::*;
use crate::clock::Clock;
use crate::store::Health as _;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::testing::{TestCluster, config, ready, set_standby};

/// How long a setting may take to arrive, or a database to be noticed that answers again.
const NOTICED: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_wait_for_no_standby_leave_few_sessions_behind() {
    let Some(cluster) = TestCluster::start_new() else { return };
    let store = PostgresStore::open(config(cluster.dsn()), Clock::System).unwrap();
    assert!(ready(&store).await);
    let drafts: Vec<Draft> = (0..300).map(draft).collect();
    let mut transaction = store.pool().begin().await.unwrap();
    insert(&mut transaction, &drafts.iter().collect::<Vec<_>>(), &["webhook".to_owned()], true).await.unwrap();
    transaction.commit().await.unwrap();
    let connections = Connections { pool: store.pool().clone(), commits: Arc::clone(store.commits()) };
    let (_sender, is_ready) = watch::channel(true);
    let outbox = PostgresOutbox::new(connections, is_ready, "webhook".into(), Arc::new(Notify::new()));

    let mut conn = PgConnection::connect(cluster.dsn().expose()).await.unwrap();
    set_standby(&mut conn, Some("nobody")).await;
    let started = Instant::now();
    while outbox.claim(1).await.is_ok() {
        assert!(started.elapsed() < NOTICED, "the setting does not arrive");
        sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..4 {
        let error = outbox.claim(64).await.unwrap_err();
        assert!(error.to_string().contains("synchronous standby"), "{error}");
    }
    let statement = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND (query LIKE '%deliveries%' OR query LIKE '%pg_logical_emit_message%')";
    let waiting: i64 = sqlx::query_scalar(statement).fetch_one(&mut conn).await.unwrap();
    assert!(waiting <= 2, "{waiting} sessions: more than the first claim's, and one that waits for all");

    set_standby(&mut conn, None).await;
    let claimed = async {
        loop {
            if let Ok(claimed) = outbox.claim(64).await {
                return claimed;
            }
        }
    };
    assert_eq!(timeout(NOTICED, claimed).await.expect("it recovers").len(), 64);
    store.close().await.unwrap();
}
