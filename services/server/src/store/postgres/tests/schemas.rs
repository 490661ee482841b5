//! Several installations in one database, each with a schema of its own.

use golectra_protocol::IdempotencyKey;
use sqlx::Executor as _;

use super::super::connect::{Lock, open_for_requests, try_lock};
use super::*;
use crate::store::conformance::{batch, gauge};

const HOUR: u64 = 60 * 60 * 1000;
const START: u64 = 20_000 * 24 * HOUR;

/// The address of a schema, as `search_path` names it.
fn address(database: &TestDatabase, search_path: &str) -> Secret {
    Secret::from(format!("{}&search_path={search_path}", database.dsn().expose()))
}

/// A server whose tables are there.
async fn open(database: &TestDatabase, search_path: &str, clock: Clock) -> Arc<PostgresStore> {
    let store = PostgresStore::open(config(address(database, search_path)), clock).unwrap();
    assert!(ready(&store).await);
    store
}

#[tokio::test]
async fn in_each_schema_one_server_evaluates_rules() {
    let Some(database) = TestDatabase::create().await else { return };
    let (a, b) = (open(&database, "a", Clock::System).await, open(&database, "b", Clock::System).await);
    let (also_b, default) = (open(&database, "b", Clock::System).await, database.store().await);
    let (of_a, of_b, also_of_b, of_default) = (a.alerts(), b.alerts(), also_b.alerts(), default.alerts());
    assert!(of_a.lead().await.unwrap());
    assert!(of_b.lead().await.unwrap());
    assert!(of_default.lead().await.unwrap());
    assert!(!also_of_b.lead().await.unwrap());
}

#[tokio::test]
async fn only_some_locks_belong_to_a_schema() {
    let Some(database) = TestDatabase::create().await else { return };
    let mut admin = database.connect().await;
    let mut sessions = Vec::new();
    for schema in ["golectra", "a", "%22B%22"] {
        let name = schema.replace("%22", "\"");
        admin.execute(format!("CREATE SCHEMA {name}").as_str()).await.unwrap();
        let options = DatabaseOptions::new(dsn::parse(address(&database, schema).expose()).unwrap());
        sessions.push(open_for_requests(&options).await.unwrap());
    }
    for (lock, of_schema) in [
        (Lock::Migrate, false),
        (Lock::Partition, true),
        (Lock::Maintenance, true),
        (Lock::Seal, false),
        (Lock::EvaluateRules, true),
        (Lock::AwaitCommit, false),
    ] {
        let mut taken = Vec::new();
        for session in &mut sessions {
            taken.push(try_lock(session, lock).await.unwrap());
        }
        assert_eq!(taken, [true, of_schema, of_schema], "{lock:?}");
    }
    // Those that servers of earlier versions take.
    let numbers: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY objid::bigint",
    )
    .fetch_all(&mut sessions[0])
    .await
    .unwrap();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6].map(|number| (i64::from(Lock::SPACE), number)));
}

#[tokio::test]
async fn history_is_sealed_in_a_schema_whose_name_needs_quotes() {
    let Some(database) = TestDatabase::create().await else { return };
    for name in ["My metrics", "Upper"] {
        let clock = Clock::at(START);
        let store = open(&database, &format!("%22{}%22", name.replace(' ', "%20")), clock.clone()).await;
        store.apply(batch("a", IdempotencyKey::at(START), vec![gauge("g", 1.0)])).await.unwrap();
        clock.set(START + HOUR);
        let mut sealer = sealer(&store);
        let round = sealer.round().await.unwrap();
        assert_eq!((round.frames, round.half_hours.len()), (1, 1), "{name}");
        assert!(sealer.metrics.bytes.get() > 100_000, "{name}");
        // What fills the database is looked at, and there is nothing that may go.
        sealer.max_bytes = Some(1);
        let needed = sealer.round().await.unwrap().too_large;
        assert!(needed.is_some_and(|bytes| bytes > 100_000), "{name}: {needed:?}");
        store.close().await.unwrap();
    }
}
