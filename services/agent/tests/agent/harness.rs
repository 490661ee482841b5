//! An agent inside of the test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use golectra_agent::clock::Clock;
use golectra_agent::collect::Sample;
use golectra_agent::metrics::AgentMetrics;
use golectra_agent::schedule::{self, Intervals, Occasion};
use golectra_agent::sealer::Sealer;
use golectra_agent::sender::{self, Client, Signer};
use golectra_agent::spool::disk::DiskLimits;
use golectra_agent::spool::{Disk, Limits, Memory, Queue, Spool, Unsent};
use golectra_process::Secret;
use golectra_protocol::{Metric, MetricId, Source, Value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a report may wait in these tests.
const MAX_AGE: Duration = Duration::from_hours(47);

/// How an agent is to be started.
pub struct AgentBuilder<'a> {
    address: &'a str,
    senders: usize,
    key: Option<&'a str>,
    batches: usize,
    clock: Clock,
    spool: Option<&'a Path>,
}

impl<'a> AgentBuilder<'a> {
    pub fn senders(mut self, senders: usize) -> Self {
        self.senders = senders;
        self
    }

    pub fn key(mut self, key: Option<&'a str>) -> Self {
        self.key = key;
        self
    }

    /// How many batches wait in memory.
    pub fn batches(mut self, batches: usize) -> Self {
        self.batches = batches;
        self
    }

    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// With batches on disk.
    pub fn spool(mut self, folder: &'a Path) -> Self {
        self.spool = Some(folder);
        self
    }

    pub fn start(self) -> Agent {
        let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
        let key = self.key.map(Secret::from);
        let limits = Limits { batches: self.batches, bytes: 1 << 20, age: MAX_AGE };
        let memory = Memory::new(limits, Arc::clone(&metrics));
        let spool: Box<dyn Spool> = match self.spool {
            Some(folder) => {
                let limits = DiskLimits { bytes: 64 << 20, age: MAX_AGE };
                Box::new(Disk::open(folder, limits, memory, key.clone(), &self.clock, Arc::clone(&metrics)).unwrap())
            }
            None => Box::new(memory),
        };
        let queue = Queue::new(spool, self.clock.clone());
        let signer = Signer::with_key(key.as_ref(), self.clock.clone());
        let client = Client::new(&self.address.parse().unwrap(), &Source::parse("node-1").unwrap(), key.clone(), signer).unwrap();
        let stop = CancellationToken::new();
        let running = {
            let (metrics, queue, stop, clock, senders) =
                (Arc::clone(&metrics), queue.clone(), stop.clone(), self.clock.clone(), self.senders);
            tokio::spawn(async move {
                let senders = sender::start(client, queue.clone(), clock, &metrics, senders);
                let intervals = Intervals { poll: Duration::from_millis(20), report: Duration::from_millis(100) };
                let sample = async |occasion| match occasion {
                    Occasion::Poll => Sample { metrics: vec![a_gauge()], gauges: vec![] },
                    Occasion::Report => Sample::default(),
                };
                schedule::run(intervals, sample, &mut Sealer::new(key), &queue, &metrics, stop).await;
                queue.close();
                senders.hurry();
                senders.finish(Duration::from_secs(20)).await;
                queue.close_spool()
            })
        };
        Agent { stop, metrics, queue, running }
    }
}

/// An agent without collectors and with short intervals.
pub struct Agent {
    stop: CancellationToken,
    pub metrics: Arc<AgentMetrics>,
    pub queue: Queue,
    running: JoinHandle<Unsent>,
}

impl Agent {
    /// An agent with one sender that reports to this address.
    pub fn builder(address: &str) -> AgentBuilder<'_> {
        AgentBuilder { address, senders: 1, key: None, batches: 1000, clock: Clock::system(), spool: None }
    }

    /// Stops the agent, which must have sent everything; how many polls it made.
    pub async fn finish(self) -> i64 {
        self.stop.cancel();
        assert_eq!(self.running.await.unwrap(), Unsent::default());
        i64::try_from(self.metrics.polls()).unwrap()
    }

    /// Stops the agent before it has sent everything; the polls that stay on disk.
    pub async fn finish_early(self) -> u64 {
        self.stop.cancel();
        self.running.abort();
        let _ = self.running.await;
        let unsent = self.queue.close_spool();
        assert_eq!(unsent.lost_polls, 0);
        unsent.kept_polls
    }

    /// Waits until a condition holds.
    pub async fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let reached = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_mins(1), reached).await.is_ok(), "timeout while waiting for {what}");
    }
}

fn a_gauge() -> Metric {
    Metric { id: MetricId::parse("Alloc").unwrap(), value: Value::Gauge(1.5) }
}

/// Runs tests at the same time; their results in order.
pub async fn together<T: Send + 'static, F: Future<Output = T> + Send + 'static>(all: impl IntoIterator<Item = F>) -> Vec<T> {
    let tasks: Vec<_> = all.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
