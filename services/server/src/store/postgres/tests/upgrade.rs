//! A schema of an earlier version, brought up to this one.

use sqlx::Executor as _;

use super::super::migrate::migrator;
use super::*;

/// How long the migration is watched: its first attempts.
const WATCHED: Duration = Duration::from_secs(4);

/// Makes the schema as it was after its first migrations.
pub(super) async fn make_schema_of(conn: &mut PgConnection, last: i64) {
    conn.execute("CREATE SCHEMA golectra").await.unwrap();
    let mut earlier = migrator();
    earlier.migrations.to_mut().retain(|migration| migration.version <= last);
    earlier.run_direct(conn).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_waits_for_a_long_read_stops_no_other() {
    let Some(database) = TestDatabase::create().await else { return };
    let (mut dump, mut look) = (database.connect().await, database.connect().await);
    make_schema_of(&mut dump, 4).await;
    // As pg_dump does.
    dump.execute("BEGIN; LOCK TABLE expired_series IN ACCESS SHARE MODE").await.unwrap();
    look.execute("SET lock_timeout = '2s'").await.unwrap();
    let store = PostgresStore::open(config(database.dsn()), Clock::System).unwrap();
    let started = Instant::now();
    while started.elapsed() < WATCHED {
        look.execute("SELECT FROM expired_series").await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    let problem = store.ping().await.unwrap_err().to_string();
    assert!(problem.contains("a long read, such as pg_dump's"), "{problem}");
    dump.execute("COMMIT").await.unwrap();
    assert!(ready(&store).await);
    look.execute("SELECT reported_at FROM expired_series").await.unwrap();
    store.close().await.unwrap();
}
