//! golectra-agent under test.

use std::ops::{Deref, DerefMut};

use crate::{Client, Program, ProgramBuilder, free_port};

/// The gauges that an agent reports about itself and its host, apart from CPUutilization1 and up.
pub const AGENT_GAUGES: [&str; 30] = [
    "Alloc",
    "BuckHashSys",
    "Frees",
    "GCCPUFraction",
    "GCSys",
    "HeapAlloc",
    "HeapIdle",
    "HeapInuse",
    "HeapObjects",
    "HeapReleased",
    "HeapSys",
    "LastGC",
    "Lookups",
    "MCacheInuse",
    "MCacheSys",
    "MSpanInuse",
    "MSpanSys",
    "Mallocs",
    "NextGC",
    "NumForcedGC",
    "NumGC",
    "OtherSys",
    "PauseTotalNs",
    "StackInuse",
    "StackSys",
    "Sys",
    "TotalAlloc",
    "RandomValue",
    "TotalMemory",
    "FreeMemory",
];

/// The configuration of an agent.
#[derive(Clone)]
pub struct AgentBuilder {
    program: ProgramBuilder,
    metrics_port: u16,
}

impl AgentBuilder {
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

    /// Starts the agent.
    pub fn start(self) -> Agent {
        let program = self.program.env("METRICS_ADDRESS", format!("127.0.0.1:{}", self.metrics_port)).start();
        Agent { program, metrics: Client::new(&format!("http://127.0.0.1:{}", self.metrics_port), None) }
    }
}

/// A running agent.
pub struct Agent {
    program: Program,
    metrics: Client,
}

impl Agent {
    /// An agent that reports to this URL under the name `agent`.
    pub fn builder(url: &str) -> AgentBuilder {
        let program = ProgramBuilder::new("golectra-agent").env("ADDRESS", url).env("SOURCE", "agent").env("LOG_LEVEL", "info");
        AgentBuilder { program, metrics_port: free_port() }
    }

    /// A client of its metrics listener.
    pub fn metrics_client(&self) -> &Client {
        &self.metrics
    }

    /// A metric of its own /metrics; None if it does not answer or has no metric of that name.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.try_get("/metrics").await?.metric(name)
    }
}

impl Deref for Agent {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}
