//! PostgreSQL for tests: a new database on the shared server, or a separate cluster that may be stopped.

use std::future::Future;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::runtime;

/// The time limit of the harness's own statements on the shared PostgreSQL.
const LIMIT: Duration = Duration::from_mins(1);

/// Reports that a test is skipped; panics if no test may be skipped.
pub fn skip(missing: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "with CI=true no test may be left out, but {missing}");
    // Not with eprintln, because the test runner hides that output of a passing test.
    let _ = writeln!(std::io::stderr(), "left out: {missing}");
}

/// An empty database, dropped with its last reference.
pub struct Database {
    admin: String,
    name: String,
    url: String,
}

impl Database {
    /// Creates a database on TEST_DATABASE_URL. None, with a message, if that is not set.
    pub fn create() -> Option<Arc<Self>> {
        Self::create_with("")
    }

    /// Like `create`, with additional options of CREATE DATABASE.
    pub fn create_with(words: &str) -> Option<Arc<Self>> {
        let Some(admin) = std::env::var("TEST_DATABASE_URL").ok().filter(|url| !url.is_empty()) else {
            skip("TEST_DATABASE_URL is not set; `make test` sets it");
            return None;
        };
        let name = format!("golectra_test_{}", Uuid::now_v7().simple());
        let (whole, query) = admin.split_once('?').map_or((admin.as_str(), String::new()), |(whole, query)| (whole, format!("?{query}")));
        let after_host = whole.find("://").map_or(0, |at| at + 3);
        let host_end = whole[after_host..].find('/').map_or(whole.len(), |at| after_host + at);
        let url = format!("{}/{name}{query}", &whole[..host_end]);
        let database = Self { admin: admin.clone(), name, url };
        database
            .as_admin(format!("CREATE DATABASE {} {words}", database.name))
            .unwrap_or_else(|error| panic!("no database for a test: {error}"));
        Some(Arc::new(database))
    }

    /// The DSN of the database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The DSN for another role, whose name and password need no escaping.
    pub fn url_of(&self, role: &str, password: &str) -> String {
        let (_, place) = self.url.rsplit_once('@').expect("TEST_DATABASE_URL names a user");
        format!("postgres://{role}:{password}@{place}")
    }

    /// The password of the database's owner.
    pub fn password(&self) -> &str {
        let (credentials, _) = self.url.rsplit_once('@').expect("TEST_DATABASE_URL names a user");
        credentials.rsplit_once(':').expect("TEST_DATABASE_URL has a password").1
    }

    /// A connection to the database.
    pub async fn connect(&self) -> PgConnection {
        let options = self.options();
        let connected = runtime().spawn(async move { PgConnection::connect_with(&options).await });
        connected.await.expect("no panic").expect("the test's database can be reached")
    }

    /// Runs statements in the database as its owner.
    pub async fn execute(&self, statements: &str) {
        let mut connection = self.connect().await;
        let statements = statements.to_owned();
        let work = async move { connection.execute(statements.as_str()).await };
        runtime().spawn(work).await.expect("no panic").expect("the statements work");
    }

    /// The database as options of sqlx.
    pub fn options(&self) -> PgConnectOptions {
        self.url.parse().expect("TEST_DATABASE_URL is a PostgreSQL URL")
    }

    /// The DSN through a proxy on another port.
    pub fn url_through(&self, port: u16) -> String {
        through(&self.url, port)
    }

    /// The CPU time of all processes of this PostgreSQL, in seconds, where it runs on this machine.
    pub fn cpu_seconds(&self) -> f64 {
        let backend = runtime().block_on(self.number("SELECT pg_backend_pid()::bigint"));
        let status = std::fs::read_to_string(format!("/proc/{backend}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        parent.map_or(0.0, crate::family_cpu_seconds)
    }

    /// The port on which PostgreSQL listens.
    pub fn port(&self) -> u16 {
        let (head, _) = self.url.rsplit_once('/').expect("made with one");
        head.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("TEST_DATABASE_URL names the port")
    }

    /// The number that a query returns; golectra's tables are in the search path.
    pub async fn number(&self, query: &str) -> i64 {
        let options = self.options().options([("search_path", "golectra")]);
        let query = query.to_owned();
        let work = async move {
            let mut connection = PgConnection::connect_with(&options).await?;
            let (number,): (i64,) = sqlx::query_as(&query).fetch_one(&mut connection).await?;
            Ok::<_, sqlx::Error>(number)
        };
        runtime().spawn(work).await.expect("no panic").expect("the query works")
    }

    fn as_admin(&self, statement: String) -> Result<(), sqlx::Error> {
        let url = self.admin.clone();
        block_on(async move {
            let mut tries = 0;
            loop {
                let mut connection = PgConnection::connect(&url).await?;
                let done = sqlx::query(&statement).execute(&mut connection).await;
                tries += 1;
                match done {
                    // Creating two databases at the same time may fail, because they use the same template.
                    Err(_) if tries < 100 => tokio::time::sleep(Duration::from_millis(100)).await,
                    done => return done.map(|_| ()),
                }
            }
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Err(error) = self.as_admin(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)) {
            eprintln!("the database {} of a test is left behind: {error}", self.name);
        }
    }
}

/// A DSN with another port.
fn through(url: &str, port: u16) -> String {
    let (head, tail) = url.rsplit_once('/').expect("a URL with a database");
    let (before, _) = head.rsplit_once(':').expect("the URL names the port");
    format!("{before}:{port}/{tail}")
}

/// Runs work on the harness's runtime and waits for it; may be called on any thread.
fn block_on<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    runtime().spawn(async move { drop(sender.send(work.await)) });
    done.recv_timeout(LIMIT).expect("PostgreSQL answers within a minute")
}

/// A folder for a cluster.
fn new_folder(parent: &Path) -> TempDir {
    let folder = tempfile::Builder::new().prefix("golectra-pg-").tempdir_in(parent).expect("a folder can be made there");
    // Started by root, PostgreSQL runs as another user, who needs access to this folder.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("our own folder");
    folder
}

/// Sends a signal to a process of a cluster, unless it has ended.
fn signal(pid: libc::pid_t, signal: i32) {
    #[expect(unsafe_code, reason = "the standard library can only kill child processes")]
    // SAFETY: the process id is from a cluster's own file, or that of a child of such a process.
    let code = unsafe { libc::kill(pid, signal) };
    let error = std::io::Error::last_os_error();
    assert!(code == 0 || error.raw_os_error() == Some(libc::ESRCH), "PostgreSQL's processes can be signalled: {error}");
}

/// The state of a process as a letter; none when it has ended and was waited for. Until then PostgreSQL takes it for one that runs.
fn state(pid: libc::pid_t) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Waits until processes are in a state.
fn wait_for(pids: &[libc::pid_t], wanted: Option<char>) {
    let start = std::time::Instant::now();
    while pids.iter().any(|pid| state(*pid) != wanted) {
        assert!(start.elapsed() < LIMIT, "PostgreSQL's processes are not {wanted:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A separate PostgreSQL cluster, which a test may stop and start.
pub struct PostgresCluster {
    folder: TempDir,
    url: String,
}

impl PostgresCluster {
    /// Creates and starts a cluster. None, with a message, if PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        Self::start_in(Path::new("/tmp"))
    }

    /// The same in a folder that every user can reach.
    pub fn start_in(parent: &Path) -> Option<Self> {
        let installed = Path::new("/usr/lib/postgresql").is_dir() || Command::new("initdb").arg("--version").output().is_ok();
        if !installed {
            skip("PostgreSQL is not installed; `make test` installs it where it can");
            return None;
        }
        let mut cluster = Self { folder: new_folder(parent), url: String::new() };
        cluster.url = cluster.script(&["start"]);
        Some(cluster)
    }

    /// Creates and starts a standby of another cluster, which it reaches on this port.
    pub fn standby_of(other: &Self, port: u16) -> Self {
        let mut standby = Self { folder: new_folder(Path::new("/tmp")), url: String::new() };
        let (of, port) = (other.folder.path().join("pg"), port.to_string());
        standby.url = standby.script_then(&["standby"], &[of.to_str().expect("made with UTF-8"), &port]);
        standby
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        self.script(&["promote"]);
    }

    /// The DSN of its database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The DSN through a proxy on another port.
    pub fn url_through(&self, port: u16) -> String {
        through(&self.url, port)
    }

    /// The port on which it listens, which stays the same.
    pub fn port(&self) -> u16 {
        let (head, _) = self.url.rsplit_once('/').expect("an URL with a database");
        head.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an URL with a port")
    }

    /// Whether its main process runs.
    pub fn is_running(&self) -> bool {
        let text = std::fs::read_to_string(self.folder.path().join("pg/data/postmaster.pid")).unwrap_or_default();
        text.lines().next().is_some_and(|pid| Path::new("/proc").join(pid.trim()).exists())
    }

    /// Stops it: its clients are disconnected and its port is closed.
    pub fn stop(&self) {
        self.script(&["stop"]);
    }

    /// Starts it again.
    pub fn start_again(&self) {
        self.script(&["start"]);
    }

    /// Stops it like a crash: without a checkpoint, so that the next start recovers from the write-ahead log.
    pub fn stop_immediately(&self) {
        self.script_then(&["stop"], &["immediate"]);
    }

    /// Sends SIGKILL to its main process, and waits for its end. Its other processes then end; the next start waits for them.
    pub fn kill(&self) {
        let main = self.main_process();
        signal(main, libc::SIGKILL);
        wait_for(&[main], None);
    }

    /// Sends SIGKILL to all of its processes at once, like the end of its machine, and waits for their end.
    pub fn kill_all(&self) {
        let main = self.main_process();
        // Stopped first, so that it starts no other while those that there are get listed.
        signal(main, libc::SIGSTOP);
        wait_for(&[main], Some('T'));
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).expect("a stopped process is there");
        let mut all = vec![main];
        all.extend(children.split_whitespace().map(|pid| pid.parse::<libc::pid_t>().expect("a process id")));
        for pid in &all {
            signal(*pid, libc::SIGKILL);
        }
        wait_for(&all, None);
    }

    /// Sends SIGKILL to the process of one session: PostgreSQL ends all sessions and recovers, and its main process goes on. Returns when sessions are ended.
    pub async fn crash_a_session(&self) {
        let url = self.url.clone();
        let work = async move {
            let (mut one, mut other) = (PgConnection::connect(&url).await?, PgConnection::connect(&url).await?);
            let (pid,): (i32,) = sqlx::query_as("SELECT pg_backend_pid()").fetch_one(&mut one).await?;
            signal(pid, libc::SIGKILL);
            let ended = sqlx::query("SELECT pg_sleep($1)").bind(LIMIT.as_secs_f64()).execute(&mut other).await;
            assert!(ended.is_err(), "PostgreSQL does not end its sessions");
            Ok::<_, sqlx::Error>(())
        };
        runtime().spawn(work).await.expect("no panic").expect("sessions can be opened");
    }

    fn main_process(&self) -> libc::pid_t {
        let path = self.folder.path().join("pg/data/postmaster.pid");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("the first line is the process id")
    }

    /// Starts it again after a crash, once the processes of the former one have ended.
    pub fn start_after_crash(&self) {
        let start = std::time::Instant::now();
        while let Err(error) = self.try_script(&["start"], &[]) {
            assert!(start.elapsed() < LIMIT, "PostgreSQL does not come back: {error}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends every session except its own, like an operator's `pg_terminate_backend`; returns their number.
    pub async fn terminate_backends(&self) -> i64 {
        let url = self.url.clone();
        let work = async move {
            let mut connection = PgConnection::connect(&url).await?;
            let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            let (ended,): (i64,) = sqlx::query_as(query).fetch_one(&mut connection).await?;
            Ok::<_, sqlx::Error>(ended)
        };
        runtime().spawn(work).await.expect("no panic").expect("the superuser may end sessions")
    }

    fn script(&self, words: &[&str]) -> String {
        self.script_then(words, &[])
    }

    fn script_then(&self, words: &[&str], after: &[&str]) -> String {
        self.try_script(words, after).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs the script with `words`, the folder, and `after`.
    fn try_script(&self, words: &[&str], after: &[&str]) -> Result<String, String> {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/postgres");
        let mut run = Command::new(&script);
        // The daemon inherits the output that is not redirected; with a file it does not keep the test's own output open.
        let outcome = run.args(words).arg(self.folder.path().join("pg")).args(after).output();
        let outcome = outcome.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        if outcome.status.success() {
            Ok(String::from_utf8_lossy(&outcome.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&outcome.stderr).into_owned())
        }
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}
