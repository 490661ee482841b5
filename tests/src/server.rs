//! golectra-server under test.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::program::new_folder;
use crate::{Client, Database, Exit, Program, ProgramBuilder, free_port, raw};

/// The store of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    /// In memory, with a snapshot file.
    Memory,
    /// In a new database.
    Postgres,
}

/// How long a server may take to answer after its start; debug builds on a busy machine are slow.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The configuration of a server.
#[derive(Clone)]
pub struct ServerBuilder {
    program: ProgramBuilder,
    database: Option<Arc<Database>>,
    key: Option<String>,
    port: u16,
    metrics_port: Option<u16>,
}

impl ServerBuilder {
    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.program = self.program.env(name, value);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn flags<S: ToString>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.program = self.program.flags(flags);
        self
    }

    /// Runs the server in this folder.
    #[must_use]
    pub fn folder(mut self, folder: &Arc<TempDir>) -> Self {
        self.program = self.program.folder(folder);
        self
    }

    /// Listens on this port, which another server has just released.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets the server's key.
    #[must_use]
    pub fn key(mut self, key: Option<&str>) -> Self {
        self.key = key.map(str::to_owned);
        match key {
            Some(key) => self.env("KEY", key),
            None => self,
        }
    }

    /// Stores metrics in a database, which other servers may share.
    #[must_use]
    pub fn database(mut self, database: &Arc<Database>) -> Self {
        self.database = Some(Arc::clone(database));
        let url = database.url().to_owned();
        self.env("DATABASE_DSN", url)
    }

    /// Serves its metrics on another port.
    #[must_use]
    pub fn metrics(mut self) -> Self {
        self.metrics_port = Some(free_port());
        self
    }

    /// Starts the server and waits until it is ready for writes.
    pub fn start(self) -> Server {
        self.start_until("/ping")
    }

    /// Starts the server and waits until the process answers, whatever the state of its database.
    pub fn start_alive(self) -> Server {
        self.start_until("/ping/live")
    }

    fn start_until(mut self, path: &'static str) -> Server {
        for _ in 0..5 {
            if let Some(server) = self.try_start(path) {
                return server;
            }
            self.port = free_port();
            self.metrics_port = self.metrics_port.map(|_| free_port());
        }
        panic!("five ports in a row were taken by others");
    }

    /// None if another program has taken a port in the meantime.
    fn try_start(&self, path: &str) -> Option<Server> {
        let mut builder = self.program.clone().env("ADDRESS", format!("127.0.0.1:{}", self.port));
        if let Some(port) = self.metrics_port {
            builder = builder.env("METRICS_ADDRESS", format!("127.0.0.1:{port}"));
        }
        let mut program = builder.start();
        let start = Instant::now();
        while !raw::answers(self.port, path) {
            if let Some(exit) = program.exited() {
                program.wait(Duration::from_secs(1));
                if program.stderr().contains("another program has this port") {
                    return None;
                }
                panic!("golectra-server ended at its start with {exit:?}\n{}", program.tail());
            }
            assert!(start.elapsed() < START_LIMIT, "golectra-server did not answer within {START_LIMIT:?}\n{}", program.tail());
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Server { program, builder: self.clone() })
    }
}

/// A running server.
pub struct Server {
    // Ended before the database is dropped.
    program: Program,
    builder: ServerBuilder,
}

impl Server {
    /// A server of the memory store, in a new folder.
    pub fn builder() -> ServerBuilder {
        let program = ProgramBuilder::new("golectra-server").folder(&new_folder()).env("LOG_LEVEL", "info");
        // Rules write series of their own, and tests look at what exactly is stored. Tests of rules set it.
        let program = program.env("EVALUATION_INTERVAL", "0");
        ServerBuilder { program, database: None, key: None, port: free_port(), metrics_port: None }
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.builder.port
    }

    /// The server's URL without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// A client with the server's key.
    pub fn client(&self) -> Client {
        let client = Client::new(&self.url(), self.builder.key.as_deref());
        if self.builder.program.variable("SIGNATURES") == Some("required") { client.expecting_no_hashes() } else { client }
    }

    /// A client of the server's metrics listener.
    pub fn metrics_client(&self) -> Client {
        let port = self.builder.metrics_port.expect("the server was started with a listener for scrapers");
        Client::new(&format!("http://127.0.0.1:{port}"), None)
    }

    /// The snapshot file.
    pub fn snapshot_path(&self) -> PathBuf {
        self.program.folder().join(self.builder.program.variable("FILE_STORAGE_PATH").unwrap_or("metrics-db.json"))
    }

    /// The server's database.
    pub fn database(&self) -> Option<&Arc<Database>> {
        self.builder.database.as_ref()
    }

    /// Another server with the same settings and database, on another port and in another folder.
    pub fn twin(&self) -> ServerBuilder {
        let mut twin = self.builder.clone();
        twin.port = free_port();
        twin.metrics_port = twin.metrics_port.map(|_| free_port());
        twin.program = twin.program.folder(&new_folder());
        twin
    }

    /// Starts it again on the same port, with the same files and settings, after it has ended.
    #[must_use]
    pub fn start_again(mut self) -> Self {
        assert!(self.program.exited().is_some(), "the server still runs");
        self.builder.try_start("/ping").expect("nobody took the port of a server that was only just stopped")
    }

    /// Ends it with SIGTERM, and starts it again with additional settings.
    #[must_use]
    pub fn restart_with(mut self, settings: &[(&str, &str)]) -> Self {
        assert_eq!(self.program.stop(), Exit::Code(0), "{}", self.program.tail());
        for (name, value) in settings {
            self.builder = self.builder.clone().env(name, value);
        }
        self.start_again()
    }

    /// Kills it, and starts it again with additional settings.
    #[must_use]
    pub fn crash_and_restart_with(mut self, settings: &[(&str, &str)]) -> Self {
        self.program.kill();
        for (name, value) in settings {
            self.builder = self.builder.clone().env(name, value);
        }
        self.start_again()
    }
}

impl Deref for Server {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}
