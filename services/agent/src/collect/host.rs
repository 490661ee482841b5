//! What node_exporter shows of a host, under its names: one file a collector, as node_exporter has them.
//!
//! The host is read once for each report. Collectors that read only what the kernel answers at once share a thread; those of them whose series come late
//! in a report share a second one. Those that may take long or hang, because they read filesystems, sensors or the frequency of each processor, have threads of
//! their own.

mod cpu;
mod diskstats;
mod filesystem;
mod filter;
#[cfg(fuzzing)]
pub mod fuzzing;
mod loadavg;
mod meminfo;
mod net;
mod netdev;
mod output;
mod power_supply;
mod pressure;
mod reader;
mod schedstat;
mod sensors;
mod small;
mod softnet;
mod stat;
mod system;
mod textfile;
mod timex;
mod vmstat;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use golectra_process::LogLimiter;

pub use self::filter::{Choice, Filter, Pattern, PatternError};
use self::output::Output;
pub use self::output::RenderedGauge;
use self::reader::Reader;
pub use self::textfile::findings as textfile_findings;
use super::collector::{CollectError, Collector, Readings};

static FAILURES: LogLimiter<&'static str> = LogLimiter::new();

/// Where the host is read.
#[derive(Clone, Debug)]
pub struct HostPaths {
    /// Its /proc.
    pub proc: PathBuf,
    /// Its /sys.
    pub sys: PathBuf,
    /// Its root, where that is visible.
    pub root: Option<PathBuf>,
    /// Whether process 1 of `proc` is the host's, so that what belongs to its network namespace is the host's. Beside a mounted /proc it must not be
    /// hidden (see [`hides_first_process`]).
    pub sees_first_process: bool,
    /// Whether this process is in the host's network namespace, which a container that sees the host's processes may not be.
    pub shares_network: bool,
}

/// Whether a /proc is mounted with `hidepid`, which hides the first process from all but root and one group.
///
/// Its `net` is then that of the reading process: in a container the traffic of a pod, which must not pass as the node's.
pub fn hides_first_process(proc: &Path) -> bool {
    proc.join("stat").exists() && !proc.join("1/net").exists()
}

impl HostPaths {
    /// The folder of the host's network namespace.
    fn net(&self) -> PathBuf {
        let of_first_process = self.proc.join("1/net");
        // Outside of containers this process shares it with the first one, which may be hidden.
        if self.sees_first_process && of_first_process.exists() { of_first_process } else { self.proc.join("net") }
    }

    /// Whether /proc/sys/net and /sys/class/net, which are those of the reading process, are the host's.
    fn is_in_network_of_host(&self) -> bool {
        self.sees_first_process && self.shares_network && self.proc == Path::new("/proc")
    }
}

/// What is measured of the host.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Where it is read.
    pub paths: HostPaths,
    /// The name that `node_uname_info` gives the host.
    pub node_name: String,
    /// The most series of one collector, and of a report.
    pub max_series: usize,
    /// Folders with files of metrics that others write.
    pub textfile_folders: Vec<PathBuf>,
    /// Which series are reported.
    pub filter: Arc<Filter>,
}

/// One of node_exporter's collectors.
trait HostCollector: Send {
    /// node_exporter's name of it.
    fn name(&self) -> &'static str;

    /// Adds what is measured now.
    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError>;
}

/// The collectors of the host, by the thread that they share, in the order in which they are reported.
///
/// If there are more series than a report takes, the last ones are left out. So collectors with a bounded number of series come first, then filesystems and the
/// files of other programs, which may have thousands of series by mistake. Collectors with several series for each processor come last, except for the times
/// of processors: on a host with hundreds of processors they have thousands of series.
pub(super) fn all(settings: &HostSettings) -> Vec<Box<dyn Collector>> {
    let paths = &settings.paths;
    let mut kernel: Vec<Box<dyn HostCollector>> = vec![
        Box::new(cpu::Cpu::new(paths)),
        Box::new(loadavg::LoadAverage::new(paths)),
        Box::new(meminfo::Meminfo::new(paths)),
        Box::new(stat::Stat::new(paths)),
        Box::new(vmstat::Vmstat::new(paths)),
        Box::new(pressure::Pressure::new(paths)),
        Box::new(diskstats::Diskstats::new(paths)),
        Box::new(small::FileDescriptors::new(paths)),
        Box::new(small::Numbers::entropy(paths)),
        Box::new(small::Selinux::new(paths)),
        Box::new(system::Uname::of(&settings.node_name)),
        Box::new(system::Time::new(paths)),
        Box::new(timex::Timex),
    ];
    if let Some(root) = &paths.root {
        kernel.push(Box::new(system::Os::under(root.clone())));
    }
    if paths.sees_first_process {
        kernel.push(Box::new(netdev::Netdev::new(paths)));
        kernel.push(Box::new(net::Netstat::new(paths)));
        kernel.push(Box::new(net::Sockstat::new(paths)));
        kernel.push(Box::new(net::UdpQueues::new(paths)));
        kernel.push(Box::new(net::Arp::new(paths)));
    }
    if paths.is_in_network_of_host() {
        kernel.push(Box::new(netdev::Netclass::new(paths)));
        kernel.push(Box::new(small::Numbers::connections(paths)));
    }
    let processors: Vec<Box<dyn HostCollector>> = vec![Box::new(schedstat::Schedstat::new(paths)), Box::new(softnet::Softnet::new(paths))];
    let sensors: Vec<Box<dyn HostCollector>> =
        vec![Box::new(sensors::Thermal::new(paths)), Box::new(sensors::Hwmon::new(paths)), Box::new(power_supply::PowerSupply::new(paths))];
    let mut groups: Vec<Box<dyn Collector>> = vec![Box::new(Group::new("host", kernel, settings))];
    if let Some(root) = &paths.root {
        let filesystem = filesystem::Filesystem::under(root.clone(), Arc::clone(&settings.filter));
        groups.push(Box::new(Group::new("fs", vec![Box::new(filesystem)], settings)));
    }
    if !settings.textfile_folders.is_empty() {
        let textfile: Box<dyn HostCollector> = Box::new(textfile::Textfile::of(&settings.textfile_folders));
        let settings = HostSettings { filter: settings.filter.by_name().into(), ..settings.clone() };
        groups.push(Box::new(Group::new("text", vec![textfile], &settings)));
    }
    groups.push(Box::new(Group::new("processors", processors, settings)));
    groups.push(Box::new(Group::new("sensors", sensors, settings)));
    // On x86, kernels from 4.14 to 5.17 take 10 to 20 ms to measure the frequency of each processor, so that this may take longer than a report waits.
    groups.push(Box::new(Group::new("cpufreq", vec![Box::new(sensors::Cpufreq::new(paths))], settings)));
    groups
}

/// Collectors that share a thread.
struct Group {
    name: &'static str,
    members: Vec<Member>,
    /// Duration and success of each.
    outcomes: Output,
    reader: Reader,
}

struct Member {
    collector: Box<dyn HostCollector>,
    output: Output,
    failing: bool,
}

impl Group {
    fn new(name: &'static str, collectors: Vec<Box<dyn HostCollector>>, settings: &HostSettings) -> Self {
        let output = || Output::new(settings.max_series, Arc::clone(&settings.filter));
        let members = collectors.into_iter().map(|collector| Member { collector, output: output(), failing: false }).collect();
        Self { name, members, outcomes: output(), reader: Reader::default() }
    }
}

impl Collector for Group {
    fn name(&self) -> &'static str {
        self.name
    }

    /// A member that fails does not make the group fail: its own `node_scrape_collector_success` says so.
    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError> {
        for Member { collector, output, failing } in &mut self.members {
            let name = collector.name();
            let start = Instant::now();
            // A collector keeps only paths and lists of devices, so that a panic leaves nothing in an invalid state.
            let result = catch_unwind(AssertUnwindSafe(|| collector.collect(&mut self.reader, output)));
            output.finish(readings);
            let failure = match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(panic) => Some(panic_text(panic.as_ref())),
            };
            let success = f64::from(u8::from(failure.is_none()));
            self.outcomes.gauge("node_scrape_collector_duration_seconds", &[("collector", name)], super::seconds(start.elapsed()));
            self.outcomes.gauge("node_scrape_collector_success", &[("collector", name)], success);
            let was_failing = std::mem::replace(failing, failure.is_some());
            if let Some(error) = failure.filter(|_| !was_failing) {
                FAILURES.log(name, move |count| {
                    tracing::info!(count, collector = name, error, "a collector of the host has nothing or not all to report");
                });
            }
        }
        self.outcomes.finish(readings);
        Ok(())
    }
}

fn missing(path: &Path, wanted: &'static str) -> CollectError {
    CollectError::Missing { path: path.display().to_string().into(), wanted }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    format!("it panicked: {}", super::worker::panic_text(panic))
}

#[cfg(test)]
mod tests;
