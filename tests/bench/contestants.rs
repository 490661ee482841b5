//! Who is measured: each is started fresh for each round, and looked at afterwards to see that it did the work.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use golectra_loadgen::Address;
use golectra_tests::{Client, Database, KEY, Program, ProgramBuilder, Server, free_port, runtime};

use crate::bodies::Pool;
use crate::cases::CONNECTIONS;
use crate::load::Tally;
use crate::wire::{self, Sources, Turn};

/// How long a program may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    Echo,
    Golectra,
    VictoriaMetrics,
    Pushgateway,
}

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "bare echo",
            Self::Golectra => "golectra",
            Self::VictoriaMetrics => "VictoriaMetrics",
            Self::Pushgateway => "Pushgateway",
        }
    }

    /// Where Debian's package puts the program; None for what this project builds.
    fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Echo | Self::Golectra => None,
            Self::VictoriaMetrics => Some(("victoria-metrics", "/usr/bin/victoria-metrics")),
            Self::Pushgateway => Some(("prometheus-pushgateway", "/usr/bin/prometheus-pushgateway")),
        }
    }

    /// Debian's package of a program that this machine lacks.
    pub fn missing(self) -> Option<&'static str> {
        self.program().filter(|(_, path)| !Path::new(path).is_file()).map(|(name, _)| name)
    }

    /// Whether it takes Prometheus's text instead of golectra's JSON.
    pub fn takes_text(self) -> bool {
        matches!(self, Self::VictoriaMetrics | Self::Pushgateway)
    }

    /// How many connections it gets, each a source of its own. Pushgateway holds each push against all that it has: with as
    /// many as the others it would answer later than any client waits.
    pub fn connections(self) -> usize {
        if self == Self::Pushgateway { 4 } else { CONNECTIONS }
    }

    /// Starts it with nothing in it.
    pub fn start(self) -> Started {
        match self {
            Self::Golectra => Started::servers(vec![Server::builder().key(Some(KEY)).start()]),
            Self::Echo => {
                let path = std::env::current_exe().expect("this program has a path");
                Started::program(self, |port| ProgramBuilder::foreign("echo", &path).flags(["echo".to_owned(), port.to_string()]))
            }
            Self::VictoriaMetrics => Started::program(self, |port| {
                let listen = format!("-httpListenAddr=127.0.0.1:{port}");
                self.foreign().flags([listen.as_str(), "-storageDataPath=data", "-retentionPeriod=1", "-loggerLevel=WARN"])
            }),
            Self::Pushgateway => Started::program(self, |port| {
                self.foreign().flags([format!("--web.listen-address=127.0.0.1:{port}"), "--log.level=warn".to_owned()])
            }),
        }
    }

    fn foreign(self) -> ProgramBuilder {
        let (name, path) = self.program().expect("only asked of another's program");
        ProgramBuilder::foreign(name, path)
    }

    /// Writes a request for it.
    pub fn write(self, out: &mut Vec<u8>, path: &str, pool: &Pool, sources: Sources, turn: Turn) {
        match self {
            Self::Echo | Self::Golectra => wire::golectra(out, path, pool, sources, turn),
            Self::VictoriaMetrics => wire::prometheus(out, "/api/v1/import/prometheus?extra_label=instance=", pool, sources, turn),
            Self::Pushgateway => wire::prometheus(out, "/metrics/job/bench/instance/", pool, sources, turn),
        }
    }
}

/// What runs.
enum Running {
    Program(Program),
    Server(Server),
}

/// A contestant that answers.
pub struct Started {
    pub addresses: Vec<Address>,
    running: Vec<Running>,
}

impl Started {
    /// Servers of golectra, started by the caller.
    pub fn servers(servers: Vec<Server>) -> Self {
        let addresses = servers.iter().map(|server| Address::local(server.port())).collect();
        Self { addresses, running: servers.into_iter().map(Running::Server).collect() }
    }

    /// A server on a database, with its audit trail on, so that every batch goes through ledger and outbox.
    pub fn on_database(database: &Arc<Database>) -> Server {
        Server::builder().key(Some(KEY)).database(database).env("AUDIT_FILE", "audit.ndjson").start()
    }

    fn program(contestant: Contestant, build: impl Fn(u16) -> ProgramBuilder) -> Self {
        let port = free_port();
        let mut program = build(port).start();
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(program.exited().is_none(), "{} ended at its start\n{}", contestant.name(), program.tail());
            assert!(start.elapsed() < START_LIMIT, "{} does not listen\n{}", contestant.name(), program.tail());
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { addresses: vec![Address::local(port)], running: vec![Running::Program(program)] }
    }

    fn programs(&self) -> impl Iterator<Item = &Program> {
        self.running.iter().map(|running| match running {
            Running::Program(program) => program,
            Running::Server(server) => server,
        })
    }

    /// The first program.
    pub fn first(&self) -> &Program {
        self.programs().next().expect("at least one was started")
    }

    /// CPU time spent so far, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.programs().map(Program::cpu_seconds).sum()
    }

    /// Panics unless what was acknowledged is there, all of it, and nothing that was not sent.
    pub fn check(&self, contestant: Contestant, tallies: &[&Tally]) {
        let base = format!("http://{}", self.addresses[0]);
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(|tally| of(tally)).sum::<u64>();
        match contestant {
            // What was refused or not answered may or may not have been applied; where nothing was, the two are one.
            Contestant::Golectra => {
                let (acknowledged, stored, issued) = (sum(|tally| tally.deltas), counted(&base), sum(|tally| tally.issued_deltas));
                assert!(acknowledged <= stored, "golectra lost what it acknowledged: {acknowledged} acknowledged, {stored} stored");
                assert!(stored <= issued, "golectra counted twice: {stored} stored, {issued} issued");
            }
            Contestant::VictoriaMetrics => {
                assert_eq!(rows_inserted(&base), sum(|tally| tally.metrics), "VictoriaMetrics took every metric");
            }
            // Neither keeps a count of what it took; they answered 2xx.
            Contestant::Echo | Contestant::Pushgateway => {}
        }
    }

    /// Ends it without waiting for what it would save: its folder goes with it.
    pub fn end(self) {
        for running in self.running {
            match running {
                Running::Program(mut program) => program.kill(),
                Running::Server(mut server) => server.kill(),
            }
        }
    }
}

/// The sum of all counters of a golectra-server.
fn counted(base: &str) -> u64 {
    let client = Client::new(base, Some(KEY));
    let snapshot = runtime().block_on(async { client.get("/api/v1/snapshot").send().await.json() });
    let counters = snapshot["counters"].as_object().expect("a snapshot has counters");
    counters.values().map(|total| total.as_u64().expect("a total is a whole number")).sum()
}

fn rows_inserted(base: &str) -> u64 {
    const NAME: &str = "vm_rows_inserted_total{type=\"prometheus\"} ";
    // VictoriaMetrics brings its own figures up to date once a second.
    std::thread::sleep(Duration::from_millis(1100));
    let http = page(&format!("{base}/metrics"));
    http.lines().find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok()).expect("VictoriaMetrics counts its rows")
}

/// A page of a program that does not keep golectra's rules for answers.
fn page(url: &str) -> String {
    // The harness's client decides on the provider of TLS, which reqwest wants even without it.
    let _ = Client::new(url, None);
    runtime().block_on(async {
        let http = reqwest::Client::builder().no_proxy().timeout(START_LIMIT).build().expect("a client can be built");
        http.get(url).send().await.expect("the program answers").text().await.expect("the answer is text")
    })
}
