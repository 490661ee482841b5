//! Brings golectra's schema up in the background while the server already runs: waits for the database, makes or changes the schema,
//! makes the first partitions.

use std::time::Duration;

use golectra_process::LogLimiter;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, Executor as _, PgConnection};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::clock::DatabaseClock;
use super::connect::{self, DatabaseOptions, Lock, try_lock};
use super::error::{Unusable, describe, has_code};
use super::partitions::Partitions;
use super::schema_name::SchemaName;

/// How long one attempt may take, waiting for another server's migration included.
const ATTEMPT_LIMIT: Duration = Duration::from_mins(15);
/// The first pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a migration waits for a lock of a table. All reads and writes of the table wait behind it meanwhile, those of other servers as well.
const LOCK_LIMIT_MILLIS: u32 = 200;
/// The same after [`SHORT_TRIES`] attempts: where many short reads follow each other there is never a moment without one, and an autovacuum gives way after a
/// second (`deadlock_timeout`). Writers wait for 2 s.
const LONG_LOCK_LIMIT_MILLIS: u32 = 1500;
const SHORT_TRIES: u32 = 10;

/// Failures are logged by their text, so that a new one is seen at once.
static FAILURES: LogLimiter<String> = LogLimiter::new();

/// Whether the tables are there.
#[derive(Debug, Clone)]
pub(super) enum SchemaState {
    /// The first attempt is under way. Requests wait for its outcome.
    FirstAttempt,
    /// The last attempt failed, for this reason.
    Missing(String),
    /// They are.
    Ready,
}

/// The migrations in this program. Those of a newer server are left alone: both run side by side during an update.
pub(super) fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    // sqlx waits for its lock inside of one statement, without end; ours is polled.
    migrator.set_locking(false);
    migrator
}

/// Returns once the schema is there. An operator may mend what is wrong with the database, so no failure is final.
pub(super) async fn bring_up(
    options: &DatabaseOptions,
    clock: &DatabaseClock,
    partitions: &Partitions,
    state: &watch::Sender<SchemaState>,
) {
    let (mut pause, mut held_up) = (FIRST_PAUSE, 0);
    loop {
        let lock_limit = if held_up < SHORT_TRIES { LOCK_LIMIT_MILLIS } else { LONG_LOCK_LIMIT_MILLIS };
        let problem = match timeout(ATTEMPT_LIMIT, attempt(options, clock, partitions, lock_limit)).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) if is_held_up(&error) => {
                // Each attempt makes others wait for a moment.
                pause = LONGEST_PAUSE;
                held_up += 1;
                "a long read, such as pg_dump's, or a vacuum keeps the schema from being changed: it is tried again".to_owned()
            }
            Ok(Err(error)) => describe_failure(&error, options.schema()),
            Err(_) => format!("the schema was not done within {} minutes", ATTEMPT_LIMIT.as_secs() / 60),
        };
        let logged = problem.clone();
        FAILURES.log(problem.clone(), move |attempts| {
            tracing::warn!(problem = logged, attempts, "the database is not ready, trying again");
        });
        state.send_replace(SchemaState::Missing(problem));
        sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::info!(schema = options.schema().as_str(), "the database is ready");
    state.send_replace(SchemaState::Ready);
}

/// One attempt on a connection of its own.
async fn attempt(
    options: &DatabaseOptions,
    clock: &DatabaseClock,
    partitions: &Partitions,
    lock_limit_millis: u32,
) -> Result<(), MigrateError> {
    let mut conn = connect::open_for_schema(options).await?;
    // Held by the session: it ends with the connection, however that ends.
    while !try_lock(&mut conn, Lock::Migrate).await? {
        sleep(Duration::from_millis(fastrand::u64(20..100))).await;
    }
    make_schema(&mut conn, options.schema()).await?;
    conn.execute(format!("SET lock_timeout = {lock_limit_millis}").as_str()).await?;
    migrator().run_direct(&mut conn).await?;
    conn.execute("RESET lock_timeout").await?;
    clock.measure(&mut conn).await?;
    partitions.ensure_around(&mut conn, clock.unix_millis()).await?;
    // All is done; a goodbye that fails changes nothing.
    drop(timeout(Duration::from_secs(1), conn.close()).await);
    Ok(())
}

/// Makes the schema where it is missing, and makes sure that this role may change what is in it.
async fn make_schema(conn: &mut PgConnection, schema: &SchemaName) -> Result<(), sqlx::Error> {
    let found = sqlx::query!(
        r#"SELECT namespace.oid IS NOT NULL AS "exists!",
            has_database_privilege(current_database(), 'CREATE') AS "may_create!",
            coalesce(has_schema_privilege(namespace.oid, 'USAGE') AND has_schema_privilege(namespace.oid, 'CREATE'), false) AS "may_use!",
            (SELECT format('%I', pg_get_userbyid(relowner)) FROM pg_class
                WHERE relnamespace = namespace.oid AND NOT pg_has_role(relowner, 'USAGE') LIMIT 1) AS other_owner,
            format('%I', current_user) AS "role!", format('%I', current_database()) AS "database!"
        FROM (SELECT $1 AS name) AS wanted LEFT JOIN pg_namespace AS namespace ON nspname = wanted.name"#,
        schema.as_str(),
    )
    .fetch_one(&mut *conn)
    .await?;
    let (role, database) = (found.role, found.database);
    if !found.exists {
        if !found.may_create {
            return Err(Unusable(format!(
                "the role {role} may not create golectra's schema: GRANT CREATE ON DATABASE {database} TO {role}; or, so that it may create no other one: CREATE SCHEMA {schema} AUTHORIZATION {role};"
            ))
            .into());
        }
        conn.execute(format!("CREATE SCHEMA IF NOT EXISTS {schema}").as_str()).await?;
        return Ok(());
    }
    if !found.may_use {
        let sentence = format!(
            "the role {role} may not create tables in the schema {schema} of the database {database}: GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"
        );
        return Err(Unusable(sentence).into());
    }
    if let Some(owner) = found.other_owner {
        let sentence = format!(
            "the schema {schema} of the database {database} holds tables of the role {owner}, which the role {role} may not change: GRANT {owner} TO {role}; or connect as {owner}"
        );
        return Err(Unusable(sentence).into());
    }
    Ok(())
}

/// Whether a migration did not get a lock in time (`lock_not_available`).
fn is_held_up(error: &MigrateError) -> bool {
    matches!(error, MigrateError::ExecuteMigration(error, _) if has_code(error, "55P03") || has_code(error, "40P01"))
}

/// What went wrong in a few words.
fn describe_failure(error: &MigrateError, schema: &SchemaName) -> String {
    // duplicate_table, duplicate_object, duplicate_function, duplicate_column, undefined_column.
    let foreign = |error: &sqlx::Error| ["42P07", "42710", "42723", "42701", "42703"].iter().any(|code| has_code(error, code));
    let (reason, foreign) = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => (describe(error), foreign(error)),
        error => (error.to_string(), true),
    };
    if !foreign {
        return reason;
    }
    format!(
        "the schema {schema} holds tables of another application, or of a golectra-server whose tables were different: give this one a schema of its own with the parameter search_path=NAME in DATABASE_DSN ({reason})"
    )
}
