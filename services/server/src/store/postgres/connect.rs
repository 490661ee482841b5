//! Connections: how they are opened, what every session is told, and when a connection is not used again.
//!
//! Session settings are part of the startup packet, and the first query of a session asks whether they arrived. A connection
//! pooler in transaction mode, such as PgBouncer, refuses them or leaves them out. Nothing was set and no statement was prepared
//! by then, so nothing of ours stays behind in a session that the pooler hands to another client.

use std::fmt::Write as _;
use std::sync::Once;
use std::time::Duration;

use golectra_process::LogLimiter;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection as _, Executor as _, PgConnection, PgPool, Postgres, Row as _};
use tokio::time::{sleep, timeout};

use super::dsn::Dsn;
use super::error::{Unusable, describe, has_code};
use super::schema_name::SchemaName;

/// How long a pool waits after a connection to a database that can't be used, before it opens another one.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Databases that became unusable after the schema was there, by the reason.
static REFUSED: LogLimiter<String> = LogLimiter::new();

/// Whether it was said that the database does not look for connections that were closed.
static NO_LOOK: Once = Once::new();

/// A setting without meaning to PostgreSQL, by which a session shows that it got those of its startup packet.
const MARK: &str = "golectra.session";

/// What the planner of a writer's session is told. Its plans don't depend on how many rows there are or are asked for: rows are met
/// by their index, one by one, in the order of the arrays that ask for them. With other plans two writers could take the same rows
/// in another order and wait for each other.
pub(super) const WRITER_PLANS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// What the planner of a query's session is told. Plans are made for the values that are asked for: which partitions are read depends on them. Compiling a
/// statement takes longer than most queries, and a query is to have one core of the database at most.
const QUERY_PLANS: [(&str, &str); 3] = [("plan_cache_mode", "force_custom_plan"), ("jit", "off"), ("max_parallel_workers_per_gather", "0")];

/// A connection that was in use so lately is taken to be there.
const FRESH: Duration = Duration::from_millis(200);

/// How much longer than its caller the database lets a query run.
const QUERY_GRACE: Duration = Duration::from_secs(5);

/// The advisory locks that servers agree on, beside the number that makes them golectra's. All servers of a database share them or, where it is said, those
/// whose tables are in one schema: see [`Lock::numbers`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    /// Changing the schema.
    Migrate = 1,
    /// Making or dropping a partition of a schema.
    Partition = 2,
    /// Expiring and removing what is too old in a schema.
    Maintenance = 3,
    /// Sealing and dropping history.
    Seal = 4,
    /// Evaluating the rules of a schema.
    EvaluateRules = 5,
    /// Making a test commit, see [`super::commits`].
    AwaitCommit = 6,
}

impl Lock {
    /// The first half of every lock's number: "gole".
    pub(super) const SPACE: i32 = 0x676f_6c65;

    /// Both halves of the lock's number, as SQL. In the schema `golectra` the second half is the number above; where a lock belongs to a schema, it has a hash
    /// of the name of any other one too.
    ///
    /// Servers of earlier versions have one number for all schemas. While some of them run beside newer ones in a schema of another name, such a lock has two
    /// holders there:
    ///
    /// - `Partition`: the second one fails to make what is there by then, and is tried again.
    /// - `Maintenance`: each step locks what it changes, or skips what is locked. Names and label pairs may stay whose last series both remove at once.
    /// - `EvaluateRules`: an evaluation is committed once for each time. Where one takes longer than the interval, a notification may come twice.
    ///
    /// The others keep one number for all schemas:
    ///
    /// - `Seal`: when one server folds a window while another seals what came late for it, counters' totals would be wrong for good. A round ends within
    ///   minutes, and a pause follows, in which the servers of another schema have their turn.
    /// - `Migrate`: two servers that make one schema at once would fail. It takes a moment, and the others wait.
    /// - `AwaitCommit`: there is to be one test commit in the whole database.
    fn numbers(self) -> String {
        let (space, number) = (Self::SPACE, self as i32);
        match self {
            Self::Partition | Self::Maintenance | Self::EvaluateRules => {
                format!("{space}, {number} | CASE current_schema() WHEN 'golectra' THEN 0 ELSE hashtext(current_schema()::text) << 3 END")
            }
            Self::Migrate | Self::Seal | Self::AwaitCommit => format!("{space}, {number}"),
        }
    }
}

/// Takes the lock for the session, unless another holds it.
pub(super) async fn try_lock(conn: &mut PgConnection, lock: Lock) -> Result<bool, sqlx::Error> {
    let statement = format!("SELECT pg_try_advisory_lock({})", lock.numbers());
    sqlx::query_scalar(&statement).fetch_one(conn).await
}

/// Releases it at once. Where the session just ends, others may find it taken until the database sees the end.
pub(super) async fn unlock(conn: &mut PgConnection, lock: Lock) -> Result<(), sqlx::Error> {
    let statement = format!("SELECT pg_advisory_unlock({})", lock.numbers());
    sqlx::query(&statement).execute(conn).await.map(drop)
}

/// Waits for the lock, which is held until the end of the transaction.
pub(super) async fn lock_in_transaction(conn: &mut PgConnection, lock: Lock) -> Result<(), sqlx::Error> {
    let statement = format!("SELECT pg_advisory_xact_lock({})", lock.numbers());
    sqlx::query(&statement).execute(conn).await.map(drop)
}

/// Where the database is and what its sessions are told.
#[derive(Clone)]
pub(super) struct DatabaseOptions {
    dsn: Dsn,
    /// The value of [`MARK`]. No other process uses it.
    mark: String,
}

/// How long statements of a session, and their waits for locks, may take.
#[derive(Clone, Copy)]
struct SessionLimits {
    statement: &'static str,
    lock: &'static str,
}

impl SessionLimits {
    /// `statement_timeout` must be longer than the client's own limit on a write, so that it is the client that gives up: a retry with the same key learns
    /// the outcome. It closes the connection, which the database looks for several times a second (from version 14 on) so that the
    /// locks are soon free. A COMMIT that waits for a synchronous replica is not ended by it: PostgreSQL stops the clock before.
    const REQUESTS: Self = Self { statement: "6s", lock: "2s" };
    /// Statements that change the schema may take long, but none waits long for a lock, since all writers would wait behind it. Those of migrations wait
    /// less, see [`super::migrate`].
    const SCHEMA: Self = Self { statement: "0", lock: "5s" };
}

impl DatabaseOptions {
    pub(super) fn new(dsn: Dsn) -> Self {
        Self { dsn, mark: format!("{:016x}", fastrand::u64(..)) }
    }

    /// Where golectra's tables are.
    pub(super) fn schema(&self) -> &SchemaName {
        &self.dsn.schema
    }

    /// The options of sessions with these limits and further settings.
    fn session(&self, limits: SessionLimits, more: &[(&str, &str)]) -> PgConnectOptions {
        let schema = self.schema().to_string();
        let own = [
            (MARK, self.mark.as_str()),
            ("search_path", &schema),
            // Writers and maintenance rely on it that a statement after a lock sees what was committed before the lock was had.
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", limits.statement),
            ("lock_timeout", limits.lock),
            ("idle_in_transaction_session_timeout", "5s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ];
        // The last one counts where a setting comes twice.
        let wanted = self.dsn.session.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = wanted.chain(own).chain(more.iter().copied());
        self.dsn.options.clone().options(all.map(|(name, value)| (name, escape(value))))
    }

    /// Opens a connection and makes sure that it can be used.
    async fn open(&self, limits: SessionLimits, more: &[(&str, &str)]) -> Result<PgConnection, sqlx::Error> {
        let options = self.session(limits, more);
        let opened = async {
            let mut conn = options.connect().await.map_err(name_pooler)?;
            check(&mut conn, &self.mark).await?;
            Ok(conn)
        };
        let limit = self.dsn.connect_limit;
        timeout(limit, opened).await.unwrap_or_else(|_| Err(timed_out(limit)))
    }
}

/// A value in the startup packet's `options`, where spaces separate.
fn escape(value: &str) -> String {
    value.chars().fold(String::new(), |mut escaped, c| {
        if c == '\\' || c.is_ascii_whitespace() {
            escaped.push('\\');
        }
        let _ = escaped.write_char(c);
        escaped
    })
}

/// A pool that opens connections when they are needed. A call waits for one for `wait` at most.
pub(super) fn pool(options: &DatabaseOptions, size: u32, wait: Duration) -> PgPool {
    pool_options(options, size, wait, None).connect_lazy_with(options.session(SessionLimits::REQUESTS, &[]))
}

/// The connections of queries, which may take `limit`. The caller gives up then, which ends the statement since the connection closes; the database's
/// own limit is for versions that don't look. Each begins with the statement `prepare`, which may fail where the schema is not there yet.
pub(super) fn query_pool(options: &DatabaseOptions, size: u32, limit: Duration, prepare: &'static str) -> PgPool {
    let statement_limit = format!("{}ms", (limit + QUERY_GRACE).as_millis());
    let mut more = QUERY_PLANS.to_vec();
    more.push(("statement_timeout", &statement_limit));
    // One that was just in use is not asked whether it is still there: a query would take a tenth longer.
    let pool = pool_options(options, size, limit, Some(prepare))
        .before_acquire(|conn, meta| Box::pin(async move { Ok(meta.idle_for < FRESH || conn.ping().await.is_ok()) }));
    pool.connect_lazy_with(options.session(SessionLimits::REQUESTS, &more))
}

fn pool_options(options: &DatabaseOptions, size: u32, acquire_limit: Duration, prepare: Option<&'static str>) -> PgPoolOptions {
    let mark = options.mark.clone();
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(acquire_limit)
        .idle_timeout(Duration::from_mins(10))
        .max_lifetime(Duration::from_mins(30))
        // sqlx's own test logs a line for each idle connection that an outage cut.
        .test_before_acquire(false)
        .before_acquire(|conn, _| Box::pin(async move { Ok(conn.ping().await.is_ok()) }))
        .after_connect(move |conn, _| {
            let mark = mark.clone();
            Box::pin(async move {
                let checked = check(conn, &mark).await;
                if let Err(error @ sqlx::Error::Configuration(_)) = &checked {
                    let problem = describe(error);
                    REFUSED.log(problem.clone(), move |count| {
                        tracing::warn!(problem, count, "the database can't be used");
                    });
                    // sqlx would log this one as well and open the next connection at once, again and again until the caller's
                    // time is up.
                    sleep(REFUSED_PAUSE).await;
                }
                if let Some(prepare) = prepare.filter(|_| checked.is_ok()) {
                    let _ = conn.execute(prepare).await;
                }
                checked
            })
        })
}

/// A connection of one's own for changes of the schema.
pub(super) async fn open_for_schema(options: &DatabaseOptions) -> Result<PgConnection, sqlx::Error> {
    options.open(SessionLimits::SCHEMA, &[]).await
}

/// A connection of one's own for work that is as short as a request's.
pub(super) async fn open_for_requests(options: &DatabaseOptions) -> Result<PgConnection, sqlx::Error> {
    options.open(SessionLimits::REQUESTS, &[]).await
}

/// A writer's connection.
pub(super) async fn open_for_writing(options: &DatabaseOptions) -> Result<PgConnection, sqlx::Error> {
    options.open(SessionLimits::REQUESTS, &WRITER_PLANS).await
}

/// What a call that took too long is told.
pub(super) fn timed_out(limit: Duration) -> sqlx::Error {
    let text = format!("no answer within {:.1} s", limit.as_secs_f32());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

/// The first queries of a session, which sqlx sends without preparing them since they are plain text: the session must be one of PostgreSQL itself, on a primary, in a
/// database that takes any text.
async fn check(conn: &mut PgConnection, mark: &str) -> Result<(), sqlx::Error> {
    let query = format!(
        "SELECT current_setting('{MARK}', true) AS mark, pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding,
            current_setting('session_replication_role', true) AS replication_role, current_setting('server_version_num')::integer AS version"
    );
    let row = conn.fetch_one(query.as_str()).await?;
    if row.try_get::<Option<String>, _>("mark")?.as_deref() != Some(mark) {
        return Err(pooler().into());
    }
    if row.try_get::<bool, _>("standby")? {
        let text = "the database is a standby, which takes no writes: DATABASE_DSN must lead to the primary";
        return Err(Unusable(text.to_owned()).into());
    }
    let encoding: String = row.try_get("encoding")?;
    if encoding != "UTF8" {
        return Err(Unusable(format!(
            "the database's encoding is {encoding}, and metrics are UTF-8: create another database with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0 and name it in DATABASE_DSN"
        ))
        .into());
    }
    // Only a superuser may set it, so it can't be in the startup packet.
    if row.try_get::<Option<String>, _>("replication_role")?.as_deref() == Some("replica") {
        let text = "session_replication_role is replica, so that triggers do not fire, which golectra's tables need: ALTER ROLE … RESET session_replication_role, or ALTER DATABASE … RESET session_replication_role";
        return Err(Unusable(text.to_owned()).into());
    }
    // Earlier versions refuse it, so it can't be in the startup packet.
    if row.try_get::<i32, _>("version")? >= 140_000
        && let Err(error) = conn.execute("SET client_connection_check_interval = '200ms'").await
    {
        // invalid_parameter_value: on some systems, such as Windows, PostgreSQL can't look.
        if !has_code(&error, "22023") {
            return Err(error);
        }
        NO_LOOK.call_once(|| {
            tracing::info!(
                "the database does not look for closed connections (client_connection_check_interval is refused): a statement that was given up ends at its time limit, and holds its locks until then"
            );
        });
    }
    Ok(())
}

fn pooler() -> Unusable {
    Unusable(
        "DATABASE_DSN leads to a connection pooler that does not pass session settings on, such as PgBouncer: it must lead to PostgreSQL itself (golectra-server has a pool of its own, see DATABASE_CONNECTIONS)"
            .to_owned(),
    )
}

/// What poolers say about a startup packet with session settings: PgBouncer and those modelled on it name the parameter, RDS Proxy
/// says that it takes no command-line options.
fn name_pooler(error: sqlx::Error) -> sqlx::Error {
    let Some(message) = error.as_database_error().map(|cause| cause.message().to_ascii_lowercase()) else { return error };
    let refused = has_code(&error, "08P01") && message.contains("startup parameter");
    if refused || message.contains("command-line options") { pooler().into() } else { error }
}

/// A connection out of the pool. It goes back only by [`Lease::give_back`]: after an error, or when the caller gave up in the
/// middle, nobody knows what state it is in, so it is cut.
pub(super) struct Lease(Option<PoolConnection<Postgres>>);

impl Lease {
    /// Waits for a connection.
    pub(super) async fn acquire(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    /// The connection.
    pub(super) fn conn(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("only give_back takes the connection, and it takes the lease too")
    }

    /// Returns it to the pool.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            // Without a goodbye, which could hang as well: the server rolls back when the socket closes.
            drop(conn.detach());
        }
    }
}
