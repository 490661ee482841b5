//! golectra-audit-sink under test.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::program::new_folder;
use crate::{Client, Program, ProgramBuilder, free_port, raw};

/// How long a sink may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The configuration of a sink.
#[derive(Clone)]
pub struct AuditSinkBuilder {
    program: ProgramBuilder,
    port: u16,
}

impl AuditSinkBuilder {
    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.program = self.program.env(name, value);
        self
    }

    /// The URL at which it will accept events: the value for AUDIT_URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, AuditSink::WEBHOOK_PATH)
    }

    /// Starts the sink and waits until it answers.
    pub fn start(self) -> AuditSink {
        let mut program = self.program.clone().env("ADDRESS", format!("127.0.0.1:{}", self.port)).env("DATA_DIR", "audit").start();
        let start = Instant::now();
        while !raw::answers(self.port, "/ping") {
            let exit = program.exited();
            assert!(exit.is_none(), "golectra-audit-sink ended at its start with {exit:?}\n{}", program.tail());
            assert!(start.elapsed() < START_LIMIT, "golectra-audit-sink did not answer in time\n{}", program.tail());
            std::thread::sleep(Duration::from_millis(10));
        }
        AuditSink { program, builder: self }
    }
}

/// A running sink.
pub struct AuditSink {
    program: Program,
    builder: AuditSinkBuilder,
}

impl AuditSink {
    /// A sink in a new folder.
    pub fn builder() -> AuditSinkBuilder {
        let program = ProgramBuilder::new("golectra-audit-sink").folder(&new_folder()).env("LOG_LEVEL", "info");
        AuditSinkBuilder { program, port: free_port() }
    }

    /// The path to which events are posted.
    pub const WEBHOOK_PATH: &str = "/";

    /// The path of the newest events.
    pub const EVENTS_PATH: &str = "/events";

    /// The path of all events as NDJSON.
    pub const NDJSON_PATH: &str = "/events.ndjson";

    /// The URL at which it accepts events: the value for AUDIT_URL.
    pub fn url(&self) -> String {
        self.builder.url()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.builder.port
    }

    /// A client of the sink.
    pub fn client(&self) -> Client {
        Client::new(&format!("http://127.0.0.1:{}", self.builder.port), None)
    }

    /// All its events, one on each line.
    pub async fn ndjson(&self) -> String {
        self.client().get(Self::NDJSON_PATH).send().await.expect(200).text()
    }

    /// Starts it again with the same files, after it has ended.
    #[must_use]
    pub fn start_again(mut self) -> Self {
        assert!(self.program.exited().is_some(), "the sink still runs");
        self.builder.clone().start()
    }
}

impl Deref for AuditSink {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for AuditSink {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}
