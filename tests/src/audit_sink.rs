//! golectra-audit-sink under test.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::program::new_folder;
use crate::{Client, Program, ProgramBuilder, free_port, raw};

/// How long a sink may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How a sink is to be started.
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

    /// Where it will take events when it is started: what AUDIT_URL is to be.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, AuditSink::WEBHOOK_PATH)
    }

    /// Starts it and waits until it answers.
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

/// A sink that answers.
pub struct AuditSink {
    program: Program,
    builder: AuditSinkBuilder,
}

impl AuditSink {
    /// A sink in a folder of its own.
    pub fn builder() -> AuditSinkBuilder {
        let program = ProgramBuilder::new("golectra-audit-sink").folder(&new_folder()).env("LOG_LEVEL", "info");
        AuditSinkBuilder { program, port: free_port() }
    }

    /// Where events are posted.
    pub const WEBHOOK_PATH: &str = "/";

    /// Where the newest events are.
    pub const EVENTS_PATH: &str = "/events";

    /// Where all events are, as NDJSON.
    pub const NDJSON_PATH: &str = "/events.ndjson";

    /// Where it takes events: what AUDIT_URL is to be.
    pub fn url(&self) -> String {
        self.builder.url()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.builder.port
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(&format!("http://127.0.0.1:{}", self.builder.port), None)
    }

    /// All events it has, one a line.
    pub async fn ndjson(&self) -> String {
        self.client().get(Self::NDJSON_PATH).send().await.expect(200).text()
    }

    /// Starts it again with its files, after it has ended.
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
