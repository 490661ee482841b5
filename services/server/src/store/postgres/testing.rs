//! Databases for tests: each test has one of its own and drops it at its end.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use golectra_process::Secret;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

use super::maintenance::Maintenance;
use super::sealer::{Pace, Sealer, SealerLimits, Steps};
use super::{CacheConfig, CacheMetrics, Lifetimes, PostgresConfig, PostgresStore, READ_WAIT, SeriesLimits, WriteLimits};
use crate::clock::Clock;
use crate::metrics::history::HistoryMetrics;
use crate::metrics::postgres::WriterMetrics;

/// Says why a test can't run here; where everything must run, that is a failure.
pub(crate) fn cannot_run(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "this test must run with CI=true, but {why}");
    println!("not run: {why}");
}

/// A database of one's own on the server that TEST_DATABASE_URL names.
pub(crate) struct TestDatabase {
    admin: PgConnectOptions,
    name: String,
}

impl TestDatabase {
    /// Makes an empty database, or says why it can't.
    pub(crate) async fn create() -> Option<Self> {
        let Ok(url) = std::env::var("TEST_DATABASE_URL") else {
            cannot_run("TEST_DATABASE_URL is not set; `make test` starts a PostgreSQL and sets it");
            return None;
        };
        let admin = PgConnectOptions::from_str(&url).expect("TEST_DATABASE_URL is a PostgreSQL URL").disable_statement_logging();
        let name = format!("golectra_test_{}", uuid::Uuid::now_v7().simple());
        let mut conn = admin.connect().await.expect("the PostgreSQL of TEST_DATABASE_URL can be reached");
        sqlx::query(&format!("CREATE DATABASE {name}")).execute(&mut conn).await.expect("a database can be made");
        conn.close().await.unwrap();
        Some(Self { admin, name })
    }

    /// Where it is.
    pub(crate) fn dsn(&self) -> Secret {
        Secret::from(self.admin.clone().database(&self.name).to_url_lossy().to_string())
    }

    /// A connection to it, which sees golectra's tables by their plain names.
    pub(crate) async fn connect(&self) -> PgConnection {
        self.admin.clone().database(&self.name).options([("search_path", "golectra")]).connect().await.unwrap()
    }

    /// A store on it whose schema is there.
    pub(crate) async fn store(&self) -> Arc<PostgresStore> {
        let store = PostgresStore::open(config(self.dsn()), Clock::System).unwrap();
        assert!(ready(&store).await);
        store
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (admin, statement) = (self.admin.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        // The test's own runtime can't be waited for here.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut conn = admin.connect().await?;
                sqlx::query(&statement).execute(&mut conn).await?;
                conn.close().await
            })
        });
        // One that is left behind costs no more than room on the disk, so the test does not fail by it.
        match dropped.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("the database {} of a test is left behind: {error}", self.name),
            Err(_) => eprintln!("the database {} of a test is left behind", self.name),
        }
    }
}

/// Ends all other sessions of a connection's database: they tell at their end what they read.
pub(crate) async fn end_sessions(conn: &mut PgConnection) {
    // One that ends by itself meanwhile is not there any more to be ended.
    let end = "SELECT count(pg_terminate_backend(pid, 30000)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let mut looks = 0..10;
    while sqlx::query_scalar::<_, i64>(end).fetch_one(&mut *conn).await.unwrap() > 0 {
        assert!(looks.next().is_some(), "sessions that do not end");
    }
}

/// Two days of history, plenty of room, and so much time for a read and a write that none fails because the machine is busy.
pub(crate) fn config(dsn: Secret) -> PostgresConfig {
    let limits = SeriesLimits { total: 1_000_000, per_source: 100_000 };
    let two_days = Duration::from_hours(48);
    let lifetimes = Lifetimes { retention_raw: two_days, retention_5m: two_days, retention_1h: two_days, ..Lifetimes::default() };
    let (metrics, history) = (WriterMetrics::unregistered(), HistoryMetrics::unregistered());
    PostgresConfig {
        dsn,
        lifetimes,
        limits,
        write_limits: WriteLimits { queued: Duration::from_secs(20), done: Duration::from_secs(25), answered: Duration::from_secs(26) },
        read_wait: Duration::from_secs(20),
        connections: 10,
        query_connections: 4,
        query_timeout: Duration::from_secs(30),
        history_max_bytes: None,
        hook: None,
        metrics,
        history,
        index_cache: cache(1 << 20, &CacheMetrics::default()),
        chunk_cache: cache(1 << 20, &CacheMetrics::default()),
        frame_cache: cache(1 << 20, &CacheMetrics::default()),
    }
}

/// The same with the time for a read and a write that a server gives them.
pub(super) fn config_with_default_limits(dsn: Secret) -> PostgresConfig {
    PostgresConfig { write_limits: WriteLimits::default(), read_wait: READ_WAIT, ..config(dsn) }
}

/// A cache of so much memory, and what it is to count.
pub(super) fn cache(max_bytes: usize, metrics: &CacheMetrics) -> CacheConfig {
    CacheConfig { max_bytes, metrics: metrics.clone() }
}

/// The store's maintenance, to be run by a test.
pub(super) fn maintenance(store: &PostgresStore) -> Maintenance {
    let context = &store.writers.context;
    Maintenance {
        options: context.options.clone(),
        clock: context.clock.clone(),
        lifetimes: context.lifetimes,
        partitions: Arc::clone(&context.partitions),
        metrics: context.metrics.clone(),
    }
}

/// The store's sealer, to be run by a test.
pub(super) fn sealer(store: &PostgresStore) -> Sealer {
    let context = &store.writers.context;
    Sealer {
        options: context.options.clone(),
        clock: context.clock.clone(),
        lifetimes: context.lifetimes,
        max_bytes: None,
        partitions: Arc::clone(&context.partitions),
        metrics: HistoryMetrics::unregistered(),
        limits: SealerLimits::default(),
        steps: Steps::default(),
        pace: Pace::new(context.load.clone()),
        warned_at: Mutex::default(),
        unsealed_age: Mutex::default(),
    }
}

/// Waits for the schema, a minute at most.
pub(crate) async fn ready(store: &PostgresStore) -> bool {
    tokio::time::timeout(Duration::from_mins(1), store.ready()).await.unwrap_or(false)
}

/// A PostgreSQL of one's own, for tests that stop it.
pub(crate) struct TestCluster {
    dir: tempfile::TempDir,
}

impl TestCluster {
    /// Makes and starts one, or says why it can't.
    pub(crate) fn start_new() -> Option<Self> {
        // Not TMPDIR: the user postgres must be able to get there, and a socket's path is short.
        let dir = tempfile::Builder::new().prefix("golectra-cluster").tempdir_in("/tmp").unwrap();
        let path = dir.path().to_owned();
        let mut permissions = std::fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o711);
        std::fs::set_permissions(&path, permissions).unwrap();
        let cluster = Self { dir };
        let output = cluster.run(&["start"], None);
        if output.status.success() {
            return Some(cluster);
        }
        cannot_run(&format!("no PostgreSQL could be started: {}", String::from_utf8_lossy(&output.stderr).trim()));
        None
    }

    /// Starts it again where it was.
    pub(crate) fn start(&self) {
        let output = self.run(&["start"], None);
        assert!(output.status.success(), "{output:?}");
    }

    /// Stops it without a goodbye to anyone.
    pub(crate) fn stop(&self) {
        let output = self.run(&["stop"], Some("immediate"));
        assert!(output.status.success(), "{output:?}");
    }

    /// Where it is.
    pub(crate) fn dsn(&self) -> Secret {
        let output = self.run(&["url"], None);
        Secret::from(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// The cluster's data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("postgres")
    }

    fn run(&self, action: &[&str], how: Option<&str>) -> Output {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres");
        Command::new(script).args(action).arg(self.folder()).args(how).output().expect("scripts/postgres runs")
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        drop(self.run(&["stop"], Some("immediate")));
    }
}

/// Has commits wait for this standby, or for none.
pub(crate) async fn set_standby(conn: &mut PgConnection, name: Option<&str>) {
    let statement = match name {
        Some(name) => format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"),
        None => "ALTER SYSTEM RESET synchronous_standby_names".to_owned(),
    };
    for statement in [statement.as_str(), "SELECT pg_reload_conf()"] {
        conn.execute(statement).await.unwrap();
    }
}
