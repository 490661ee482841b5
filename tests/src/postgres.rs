//! PostgreSQL for tests: a database of one's own on the shared one, or a whole cluster that may be stopped.

use std::future::Future;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::runtime;

/// How long the shared PostgreSQL may take for one of the harness's own wishes.
const LIMIT: Duration = Duration::from_mins(1);

/// Says that a test was left out, or fails it where nothing may be left out.
pub fn skip(missing: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "with CI=true no test may be left out, but {missing}");
    // Not by a macro: the test runner swallows what a passing test prints that way.
    let _ = writeln!(std::io::stderr(), "left out: {missing}");
}

/// An empty database, dropped with its last user.
pub struct Database {
    admin: String,
    name: String,
    url: String,
}

impl Database {
    /// Creates one on TEST_DATABASE_URL. None, with a line said, when that is not set.
    pub fn create() -> Option<Arc<Self>> {
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
        database.as_admin(format!("CREATE DATABASE {}", database.name)).unwrap_or_else(|error| panic!("no database for a test: {error}"));
        Some(Arc::new(database))
    }

    /// How a server reaches it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How a server reaches it through a proxy on another port.
    pub fn url_through(&self, port: u16) -> String {
        let (head, tail) = self.url.rsplit_once('/').expect("made with one");
        let (before, _) = head.rsplit_once(':').expect("the URL names the port");
        format!("{before}:{port}/{tail}")
    }

    /// The port that PostgreSQL listens on.
    pub fn port(&self) -> u16 {
        let (head, _) = self.url.rsplit_once('/').expect("made with one");
        head.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("TEST_DATABASE_URL names the port")
    }

    /// The number that a query gives.
    pub async fn number(&self, query: &str) -> i64 {
        let (url, query) = (self.url.clone(), query.to_owned());
        let work = async move {
            let mut connection = PgConnection::connect(&url).await?;
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
                    // Two databases made at once may meet on their template.
                    Err(_) if tries < 10 => tokio::time::sleep(Duration::from_millis(100)).await,
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

/// Runs work on the harness's runtime and waits for it, from a thread of any kind.
fn block_on<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    runtime().spawn(async move { drop(sender.send(work.await)) });
    done.recv_timeout(LIMIT).expect("PostgreSQL answers within a minute")
}

/// A PostgreSQL of its own, which a test may stop and start.
pub struct PostgresCluster {
    folder: TempDir,
    url: String,
}

impl PostgresCluster {
    /// Makes one and starts it. None, with a line said, when PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let installed = Path::new("/usr/lib/postgresql").is_dir() || Command::new("initdb").arg("--version").output().is_ok();
        if !installed {
            skip("PostgreSQL is not installed; `make test` installs it where it can");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("golectra-pg-").tempdir_in("/tmp").expect("a folder in /tmp can be made");
        // Root's PostgreSQL runs as another user, who has to walk through.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("our own folder");
        let mut cluster = Self { folder, url: String::new() };
        cluster.url = cluster.script(&["start"]);
        Some(cluster)
    }

    /// How a server reaches its database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port it listens on, also after another start.
    pub fn port(&self) -> u16 {
        let (head, _) = self.url.rsplit_once('/').expect("an URL with a database");
        head.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an URL with a port")
    }

    /// Stops it: its clients are cut off and its port is closed.
    pub fn stop(&self) {
        self.script(&["stop"]);
    }

    /// Starts it again.
    pub fn start_again(&self) {
        self.script(&["start"]);
    }

    fn script(&self, words: &[&str]) -> String {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/postgres");
        let (command, rest) = words.split_first().expect("a command");
        let mut run = Command::new(&script);
        // The daemon inherits what is not piped; a file keeps it from holding the test's own output open.
        let outcome = run.arg(command).arg(self.folder.path().join("pg")).args(rest).output();
        let outcome = outcome.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
        String::from_utf8_lossy(&outcome.stdout).trim().to_owned()
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}
