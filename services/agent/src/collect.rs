//! What the agent measures: one collector a file, each on a thread of its own so that one that fails or hangs stops nothing else.

mod cpu;
mod filesystem;
mod memory;
mod network;
mod runtime;
mod worker;

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use golectra_protocol::{Metric, MetricId, Value};

use self::worker::{Report, Worker};
use crate::stats::Stats;

/// Why a collector has no reading, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A file of the system could not be read.
    #[error("{path} cannot be read: {error}")]
    Read {
        /// The file.
        path: Cow<'static, str>,
        /// What the system says.
        error: io::Error,
    },
    /// A file of the system does not say what it should.
    #[error("{path} does not say {wanted}")]
    Missing {
        /// The file.
        path: Cow<'static, str>,
        /// What was looked for.
        wanted: &'static str,
    },
    /// There is more of something than an agent reports.
    #[error("{path} has more than {limit} {what}: the rest is not reported")]
    TooMany {
        /// The file.
        path: Cow<'static, str>,
        /// What there is so much of.
        what: &'static str,
        /// How many are reported.
        limit: usize,
    },
    /// sysinfo does not know this system.
    #[error("sysinfo cannot be used here: {0}")]
    System(#[from] sysinfo::Error),
    /// A reading that no metric can carry.
    #[error("the reading {name} cannot be reported: {reason}")]
    Reading {
        /// The metric's id.
        name: String,
        /// Which rule it breaks.
        reason: String,
    },
}

/// One source of readings.
pub trait Collector: Send {
    /// As the label `collector` has it; also part of its thread's name, so at most 7 letters.
    fn name(&self) -> &'static str;

    /// Adds what is measured now. Readings added before an error are kept.
    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError>;
}

/// Gauges as they are measured; every one in here is valid.
#[derive(Debug, Default)]
pub struct Readings(Vec<Metric>);

impl Readings {
    /// Adds a gauge.
    pub fn gauge(&mut self, name: &str, value: f64) -> Result<(), CollectError> {
        let bad = |reason: String| CollectError::Reading { name: name.to_owned(), reason };
        let id = MetricId::parse(name).map_err(|error| bad(error.to_string()))?;
        let value = Value::gauge(value).map_err(|error| bad(error.to_string()))?;
        self.0.push(Metric { id, value });
        Ok(())
    }

    /// Adds a gauge that counts something.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; up to 8 PiB nothing is lost")]
    pub fn count(&mut self, name: &str, value: u64) -> Result<(), CollectError> {
        self.gauge(name, value as f64)
    }
}

/// Where the node's own folders are seen from here; what is not named is not looked at.
#[derive(Clone, Debug, Default)]
pub struct HostFolders {
    /// Its /proc.
    pub proc: Option<PathBuf>,
    /// Its root.
    pub root: Option<PathBuf>,
}

/// Every collector of this agent, in the order they are asked. The agent's own memory comes last, so that it is looked at
/// while the others work rather than in the moment of rest before.
pub fn all(host: HostFolders) -> Vec<Box<dyn Collector>> {
    let mut all: Vec<Box<dyn Collector>> = vec![Box::new(cpu::Cpu::default()), Box::new(memory::Memory::default())];
    if let Some(proc) = host.proc {
        all.push(Box::new(network::Network::of(&proc)));
    }
    if let Some(root) = host.root {
        all.push(Box::new(filesystem::Filesystems::under(root)));
    }
    all.push(Box::new(runtime::Runtime::default()));
    all
}

/// A label's value as it stands between the quotes.
fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        Cow::Owned(value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    } else {
        Cow::Borrowed(value)
    }
}

/// The collectors at work.
pub struct Collectors {
    workers: Vec<Worker>,
    stats: Arc<Stats>,
}

impl Collectors {
    /// Starts a thread for each.
    pub fn start(collectors: Vec<Box<dyn Collector>>, stats: Arc<Stats>) -> io::Result<Self> {
        let workers = collectors.into_iter().map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self { workers, stats })
    }

    /// One poll: asks all of them at once and waits at most a second. The readings of those that answered, and of each how
    /// long it took (in seconds) and whether it succeeded (1 or 0).
    pub async fn sample(&mut self) -> Vec<Metric> {
        for worker in &mut self.workers {
            worker.ask();
        }
        let deadline = tokio::time::Instant::now() + worker::LIMIT;
        let mut sample = Readings::default();
        for worker in &mut self.workers {
            let Report { readings, seconds, success } = worker.answer(deadline).await;
            sample.0.extend(readings);
            let name = worker.name();
            self.stats.collected(name, seconds, success);
            for (metric, value) in [("duration_seconds", seconds), ("success", f64::from(u8::from(success)))] {
                let id = format!("golectra_agent_collector_{metric}{{collector=\"{name}\"}}");
                if let Err(error) = sample.gauge(&id, value) {
                    tracing::error!(%error, "a figure of the agent's own is left out");
                }
            }
        }
        sample.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use golectra_protocol::Value;

    use super::*;

    fn value(sample: &[Metric], id: &str) -> Option<f64> {
        sample.iter().find(|metric| metric.id.as_str() == id).map(|metric| match metric.value {
            Value::Gauge(value) => value,
            Value::Counter(_) => panic!("{id} is a gauge"),
        })
    }

    fn stats() -> Arc<Stats> {
        Arc::new(Stats::new(&prometheus::Registry::new(), Duration::from_secs(2)).unwrap())
    }

    #[tokio::test]
    async fn this_machine_has_every_metric_of_the_contract() {
        let mut collectors = Collectors::start(all(HostFolders::default()), stats()).unwrap();
        collectors.sample().await;
        tokio::time::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL).await;
        let sample = collectors.sample().await;
        for name in "Alloc BuckHashSys Frees GCCPUFraction GCSys HeapAlloc HeapIdle HeapInuse HeapObjects HeapReleased HeapSys \
            LastGC Lookups MCacheInuse MCacheSys MSpanInuse MSpanSys Mallocs NextGC NumForcedGC NumGC OtherSys PauseTotalNs \
            StackInuse StackSys Sys TotalAlloc RandomValue TotalMemory FreeMemory CPUutilization1"
            .split_whitespace()
        {
            assert!(value(&sample, name).is_some(), "{name} is missing");
        }
        for name in ["runtime", "memory", "cpu"] {
            assert_eq!(value(&sample, &format!("golectra_agent_collector_success{{collector=\"{name}\"}}")), Some(1.0));
        }
        let free = value(&sample, "FreeMemory").unwrap();
        assert!(free > 0.0 && free < value(&sample, "TotalMemory").unwrap());
        assert!((0.0..=100.0).contains(&value(&sample, "CPUutilization1").unwrap()));
    }

    /// This machine's own folders stand for a node's.
    #[tokio::test]
    async fn with_the_nodes_folders_there_is_more() {
        let own = HostFolders { proc: Some("/proc".into()), root: Some("/".into()) };
        let sample = Collectors::start(all(own), stats()).unwrap().sample().await;
        for name in ["network", "fs"] {
            assert_eq!(value(&sample, &format!("golectra_agent_collector_success{{collector=\"{name}\"}}")), Some(1.0), "{name}");
        }
        let nothing = HostFolders { proc: Some("/nothing".into()), root: None };
        let sample = Collectors::start(all(nothing), stats()).unwrap().sample().await;
        assert_eq!(value(&sample, "golectra_agent_collector_success{collector=\"network\"}"), Some(0.0));
        assert_eq!(value(&sample, "golectra_agent_collector_success{collector=\"fs\"}"), None);
    }

    struct Faulty {
        name: &'static str,
        polls: u32,
        act: fn(u32) -> Result<(), CollectError>,
    }

    impl Collector for Faulty {
        fn name(&self) -> &'static str {
            self.name
        }

        fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError> {
            self.polls += 1;
            readings.count(self.name, u64::from(self.polls))?;
            (self.act)(self.polls)
        }
    }

    #[tokio::test]
    async fn one_that_fails_panics_or_hangs_stops_nothing_else() {
        let missing = |_| Err(CollectError::Missing { path: "/proc/none".into(), wanted: "anything" });
        let collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(Faulty { name: "fails", polls: 0, act: missing }),
            Box::new(Faulty { name: "panics", polls: 0, act: |_| panic!("a collector's bug") }),
            Box::new(Faulty {
                name: "hangs",
                polls: 0,
                act: |poll| {
                    std::thread::sleep(if poll == 1 { worker::LIMIT * 2 } else { Duration::ZERO });
                    Ok(())
                },
            }),
            Box::new(Faulty { name: "works", polls: 0, act: |_| Ok(()) }),
        ];
        let success = |sample: &[Metric], name: &str| value(sample, &format!("golectra_agent_collector_success{{collector=\"{name}\"}}"));
        let mut collectors = Collectors::start(collectors, stats()).unwrap();
        for poll in [1.0, 2.0] {
            let before = std::time::Instant::now();
            let sample = collectors.sample().await;
            assert!(before.elapsed() < worker::LIMIT + Duration::from_millis(500));
            assert_eq!(value(&sample, "works"), Some(poll));
            assert_eq!(value(&sample, "fails"), Some(poll), "readings before the error are kept");
            assert_eq!(value(&sample, "hangs"), None);
            for name in ["fails", "panics", "hangs"] {
                assert_eq!(success(&sample, name), Some(0.0), "{name}");
            }
            assert_eq!(success(&sample, "works"), Some(1.0));
        }
        // It comes back with what it was asked in the second poll at the earliest.
        let back = tokio::time::timeout(Duration::from_secs(20), async {
            while success(&collectors.sample().await, "hangs") != Some(1.0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        back.await.expect("a collector that came back is asked again");
    }
}
