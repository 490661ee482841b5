//! Brings the schema up while the server already runs: waits for the database, changes the schema, makes the first partitions.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connect::{self, Lock};
use super::error::describe;
use super::retention::Keeper;

/// How long one attempt may take, waiting for another server's migration included.
const ATTEMPT_LIMIT: Duration = Duration::from_mins(15);
/// The first pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether the tables are there.
#[derive(Debug, Clone)]
pub(super) enum Schema {
    /// Not yet, and why.
    Missing(String),
    /// They are.
    Ready,
}

/// The migrations in this program. Those of a newer server are none of its business: both run side by side during an update.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    // sqlx waits for its lock inside of one statement, without end; ours is polled.
    migrator.set_locking(false);
    migrator
}

/// Returns once the schema is there.
pub(super) async fn bring_up(keeper: &Keeper, schema: &watch::Sender<Schema>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let problem = match timeout(ATTEMPT_LIMIT, attempt(keeper)).await {
            Ok(Ok(())) => break,
            Ok(Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))) => describe(&error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the schema was not done within {} minutes", ATTEMPT_LIMIT.as_secs() / 60),
        };
        tracing::warn!(problem, "the database is not ready, trying again");
        schema.send_replace(Schema::Missing(problem));
        sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::info!("the database is ready");
    schema.send_replace(Schema::Ready);
}

/// One attempt on a connection of its own.
async fn attempt(keeper: &Keeper) -> Result<(), MigrateError> {
    let mut conn = connect::open_for_schema(&keeper.options).await?;
    // Held by the session: it ends with the connection, however that ends.
    while !try_lock(&mut conn, Lock::Migrate).await? {
        sleep(Duration::from_millis(fastrand::u64(20..100))).await;
    }
    migrator().run_direct(&mut conn).await?;
    keeper.create_partitions(&mut conn).await?;
    // All is done; a goodbye that fails changes nothing.
    drop(timeout(Duration::from_secs(1), conn.close()).await);
    Ok(())
}

/// Takes the lock for the session, unless another holds it.
pub(super) async fn try_lock(conn: &mut PgConnection, lock: Lock) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1, $2) AS "taken!""#, Lock::SPACE, lock as i32).fetch_one(conn).await
}
