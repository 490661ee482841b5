//! `PgBouncer` in front of a test's database.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tempfile::TempDir;

use crate::process::Running;
use crate::{Database, free_port, runtime, skip};

const LIMIT: Duration = Duration::from_secs(30);

/// The pool mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A connection for each transaction.
    Transaction,
    /// A connection for each client.
    Session,
}

/// A `PgBouncer` with one connection to its database, which its clients take turns in using. It is ended when it is dropped.
pub struct PgBouncer {
    url: String,
    port: u16,
    // Ended before its folder is removed.
    _running: Running,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts a `PgBouncer`. It ignores these startup parameters and refuses others that it does not know. None, with a
    /// message, if `PgBouncer` is not installed.
    pub async fn start(database: &Database, mode: PoolMode, ignored_parameters: &[&str]) -> Option<Self> {
        let Some(program) = program() else {
            skip("PgBouncer is not installed; `make test` installs it where it can");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("golectra-pgbouncer-").tempdir_in("/tmp").expect("a folder in /tmp can be made");
        // Started by root, PgBouncer runs as another user, who has to read the file.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("our own folder");
        let path = folder.path().join("pgbouncer.ini");
        for _ in 0..5 {
            let port = free_port();
            std::fs::write(&path, configuration(database, mode, ignored_parameters, port)).expect("our own folder");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("our own file");
            let mut command = Command::new("setpriv");
            if std::fs::metadata(folder.path()).is_ok_and(|folder| std::os::unix::fs::MetadataExt::uid(&folder) == 0) {
                command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
            }
            command.args(["--pdeathsig=KILL", "--"]).arg(&program).arg(&path);
            let mut running = Running::start(command).expect("setpriv is part of every system");
            let start = Instant::now();
            while running.exited().is_none() {
                assert!(start.elapsed() < LIMIT, "PgBouncer did not listen in time: {}", running.stderr());
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(Self { url: database.url_through(port), port, _running: running, _folder: folder });
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(running.stderr().contains("Address already in use"), "PgBouncer ended: {}", running.stderr());
        }
        panic!("five ports in a row were taken by others");
    }

    /// The DSN of the database through this `PgBouncer`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection of another client, which sends no startup parameter that a `PgBouncer` does not know.
    pub async fn connect(&self) -> PgConnection {
        let options: PgConnectOptions = self.url.parse().expect("made from an URL");
        let options = options.extra_float_digits(None).disable_statement_logging();
        runtime().spawn(async move { options.connect().await }).await.expect("no panic").expect("PgBouncer takes a client")
    }
}

/// Debian installs it in a folder that is only in root's PATH.
fn program() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    folders.into_iter().chain([PathBuf::from("/usr/sbin")]).map(|folder| folder.join("pgbouncer")).find(|path| path.is_file())
}

fn configuration(database: &Database, mode: PoolMode, ignored_parameters: &[&str], port: u16) -> String {
    let options = database.options();
    let (user, password) = (options.get_username(), database.password());
    let mode = match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
    };
    format!(
        "[databases]\n* = host=127.0.0.1 port={} user={user} password={password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 1\nignore_startup_parameters = {}\n",
        database.port(),
        ignored_parameters.join(", ")
    )
}
