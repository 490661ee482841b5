//! What the agent measures. Each collector has a thread of its own, so that one that fails or hangs does not affect the others.

mod collector;
mod cpu;
mod devices;
mod host;
pub mod kubelet;
mod memory;
mod runtime;
pub mod scrape;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::LogLimiter;
use golectra_protocol::Metric;

pub use self::collector::{CollectError, Collector, Readings};
#[cfg(fuzzing)]
pub use self::host::fuzzing;
pub use self::host::{
    Choice, Filter, HostPaths, HostSettings, Pattern, PatternError, RenderedGauge, hides_first_process, textfile_findings,
};
use self::worker::{Report, Worker};
use crate::metrics::{AgentMetrics, SkipReason};

static SKIPPED: LogLimiter<(&'static str, SkipReason)> = LogLimiter::new();

/// The collectors that are asked in each poll, in their order. The agent's own memory comes last, so that it is measured while the others work.
pub fn of_each_poll() -> Vec<Box<dyn Collector>> {
    vec![Box::new(cpu::Cpu::default()), Box::new(memory::Memory::default()), Box::new(runtime::Runtime::default())]
}

/// The collectors that are asked for each report: those of the host under node_exporter's names.
pub fn of_the_host(settings: &HostSettings) -> Vec<Box<dyn Collector>> {
    host::all(settings)
}

/// How long something took, in seconds, to a tenth of a millisecond. The digits behind it say nothing, and with them these few series took 30 % of a node's
/// sealed history.
fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 10_000.0).round() / 10_000.0
}

/// What was measured for a report or in a poll.
#[derive(Debug, Default)]
pub struct Sample {
    /// Metrics that a collector names anew each time.
    pub metrics: Vec<Metric>,
    /// Gauges whose ids are kept.
    pub gauges: Vec<RenderedGauge>,
}

/// The running collectors.
pub struct Collectors {
    workers: Vec<Worker>,
    metrics: Arc<AgentMetrics>,
    max_series: usize,
}

impl Collectors {
    /// Starts a thread for each.
    pub fn start(collectors: Vec<Box<dyn Collector>>, metrics: Arc<AgentMetrics>) -> io::Result<Self> {
        let workers = collectors.into_iter().map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self { workers, metrics, max_series: usize::MAX })
    }

    /// The same with a limit on the gauges of a sample. What is over it is counted as skipped.
    #[must_use]
    pub fn with_max_series(self, max_series: usize) -> Self {
        Self { max_series, ..self }
    }

    /// One poll: asks all collectors at once and waits at most a second. The result has the readings of those that answered; for a
    /// collector that is late again, those that the poll before asked for; and for each collector how long it took (in seconds) and
    /// whether it succeeded (1 or 0).
    pub async fn sample(&mut self) -> Sample {
        for worker in &mut self.workers {
            worker.ask();
        }
        let deadline = tokio::time::Instant::now() + worker::LIMIT;
        let mut sample = Readings::default();
        let max_series = self.max_series;
        for worker in &mut self.workers {
            let Report { mut readings, seconds, success } = worker.answer(deadline).await;
            let name = worker.name();
            self.metrics.collected(name, seconds, success);
            let over_limit = (sample.gauges.len() + readings.gauges.len()).saturating_sub(max_series);
            readings.gauges.truncate(readings.gauges.len() - over_limit);
            readings.skip(SkipReason::Limit, over_limit as u64, format_args!("the host has more than {max_series} series"));
            sample.gauges.append(&mut readings.gauges);
            sample.metrics.extend(log_skipped(name, readings, &self.metrics));
            for (metric, value) in [("duration_seconds", seconds), ("success", f64::from(u8::from(success)))] {
                sample.labelled_gauge(&format!("golectra_agent_collector_{metric}"), ("collector", name), value);
            }
        }
        Sample { metrics: sample.metrics, gauges: sample.gauges }
    }
}

/// Counts and logs what a collector could not report; what it could.
fn log_skipped(collector: &'static str, readings: Readings, metrics: &AgentMetrics) -> Vec<Metric> {
    for (reason, skipped) in readings.skipped {
        metrics.readings_skipped(collector, reason, skipped.count);
        SKIPPED.log((collector, reason), move |count| {
            tracing::warn!(
                count,
                collector,
                reason = reason.as_str(),
                readings = skipped.count,
                example = skipped.example,
                "readings cannot be reported: they are skipped"
            );
        });
    }
    readings.metrics
}

#[cfg(test)]
mod tests {
    use golectra_protocol::Value;

    use super::*;

    #[test]
    fn durations_have_four_decimals() {
        for (micros, rounded) in [(0, 0.0), (49, 0.0), (51, 0.0001), (123_456, 0.1235), (2_000_049, 2.0)] {
            assert!((seconds(Duration::from_micros(micros)) - rounded).abs() < f64::EPSILON, "{micros}");
        }
    }

    fn value(sample: &[Metric], id: &str) -> Option<f64> {
        sample.iter().find(|metric| metric.id.as_str() == id).map(|metric| match metric.value {
            Value::Gauge(value) => value,
            Value::Counter(_) => panic!("{id} is a gauge"),
        })
    }

    fn metrics() -> Arc<AgentMetrics> {
        Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(2)).unwrap())
    }

    #[tokio::test]
    async fn this_machine_has_every_metric_of_the_contract() {
        let mut collectors = Collectors::start(of_each_poll(), metrics()).unwrap();
        collectors.sample().await;
        tokio::time::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL).await;
        let sample = collectors.sample().await.metrics;
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

    #[tokio::test]
    async fn the_host_is_measured_by_each_of_its_collectors() {
        const GROUPS: [&str; 5] = ["host", "fs", "processors", "sensors", "cpufreq"];
        let root = Some("/".into());
        let own = HostPaths { proc: "/proc".into(), sys: "/sys".into(), root, sees_first_process: true, shares_network: true };
        let settings =
            HostSettings { paths: own, node_name: "node-1".into(), max_series: 10_000, textfile_folders: vec![], filter: Arc::default() };
        let mut collectors = Collectors::start(of_the_host(&settings), metrics()).unwrap().with_max_series(10_000);
        let success =
            |sample: &Sample, name: &str| value(&sample.metrics, &format!("golectra_agent_collector_success{{collector=\"{name}\"}}"));
        // On a busy machine a collector may be late.
        let in_time = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let sample = collectors.sample().await;
                if GROUPS.iter().all(|name| success(&sample, name) == Some(1.0)) {
                    return sample;
                }
            }
        });
        let first = in_time.await.expect("each of them succeeds");
        assert!(first.gauges.len() > 100, "{} gauges", first.gauges.len());
        let second = collectors.sample().await;
        let kept = second.gauges.iter().filter(|gauge| first.gauges.iter().any(|other| Arc::ptr_eq(&gauge.start, &other.start))).count();
        assert!(kept * 100 >= second.gauges.len() * 95, "{kept} of {} ids are kept", second.gauges.len());

        let metrics = metrics();
        let mut few = Collectors::start(of_the_host(&settings), Arc::clone(&metrics)).unwrap().with_max_series(50);
        assert_eq!(few.sample().await.gauges.len(), 50);
        let skipped: u64 = GROUPS.iter().map(|name| metrics.readings_skipped_so_far(name, SkipReason::Limit)).sum();
        assert!(skipped.abs_diff(first.gauges.len() as u64 - 50) < 20, "{skipped} are counted");
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
            readings.count(self.name, u64::from(self.polls));
            readings.gauge("not a number", f64::NAN);
            (self.act)(self.polls)
        }
    }

    #[tokio::test]
    async fn a_collector_that_fails_panics_or_hangs_does_not_affect_the_others() {
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
        let metrics = metrics();
        let success = |sample: &[Metric], name: &str| value(sample, &format!("golectra_agent_collector_success{{collector=\"{name}\"}}"));
        let mut collectors = Collectors::start(collectors, Arc::clone(&metrics)).unwrap();
        for (poll, poll_number) in [(1.0, 1), (2.0, 2)] {
            let before = std::time::Instant::now();
            let sample = collectors.sample().await.metrics;
            assert!(before.elapsed() < worker::LIMIT + Duration::from_millis(500));
            assert_eq!(value(&sample, "works"), Some(poll));
            assert_eq!(value(&sample, "fails"), Some(poll), "readings before the error are kept");
            assert_eq!(metrics.readings_skipped_so_far("works", SkipReason::InvalidValue), poll_number, "a skipped reading is no failure");
            assert_eq!(value(&sample, "hangs"), None);
            for name in ["fails", "panics", "hangs"] {
                assert_eq!(success(&sample, name), Some(0.0), "{name}");
            }
            assert_eq!(success(&sample, "works"), Some(1.0));
        }
        // It answers what it was asked in the second poll at the earliest.
        let back = tokio::time::timeout(Duration::from_secs(20), async {
            while success(&collectors.sample().await.metrics, "hangs") != Some(1.0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        back.await.expect("a collector that came back is asked again");
    }

    #[tokio::test]
    async fn a_collector_that_is_always_late_is_reported_one_poll_later() {
        let act = |_| {
            std::thread::sleep(worker::LIMIT * 3);
            Ok(())
        };
        let slow: Vec<Box<dyn Collector>> = vec![Box::new(Faulty { name: "slow", polls: 0, act })];
        let mut collectors = Collectors::start(slow, metrics()).unwrap();
        for poll in [1.0, 2.0] {
            let reported = tokio::time::timeout(Duration::from_secs(30), async {
                loop {
                    let sample = collectors.sample().await.metrics;
                    let of = |metric: &str| value(&sample, &format!("golectra_agent_collector_{metric}{{collector=\"slow\"}}"));
                    if let Some(measured) = value(&sample, "slow") {
                        return (measured, of("success"), of("duration_seconds"));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            let (measured, success, seconds) = reported.await.expect("a late answer is reported");
            assert_eq!((Some(measured), success), (Some(poll), Some(1.0)), "each answer once, in order");
            assert!(seconds.is_some_and(|seconds| seconds >= worker::LIMIT.as_secs_f64()), "{seconds:?}");
        }
    }
}
