//! Processors, from /proc/stat and /sys/devices/system/cpu.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::output::Output;
use super::reader::{Reader, cpu_list, lines, names};
use super::{CollectError, HostCollector, HostPaths, missing};

/// The modes of /proc/stat in their order.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// The modes that time for guests is part of, in the order in which it follows the others.
const GUEST_MODES: [&str; 2] = ["user", "nice"];

const COLUMNS: usize = MODES.len() + GUEST_MODES.len();

/// Where the idle time is among the columns.
const IDLE: usize = 3;

/// A processor whose idle time falls by this much was taken out and put in again, so that all of its times start anew, as in node_exporter.
const RESTART_SECONDS: f64 = 3.0;

pub(super) struct Cpu {
    stat: PathBuf,
    cpus: PathBuf,
    ticks_per_second: f64,
    /// What was reported last, by processor. Those that went offline are forgotten.
    last: HashMap<u32, Times>,
    round: u64,
    throttles: Throttles,
}

struct Times {
    seconds: [f64; COLUMNS],
    round: u64,
}

impl Times {
    /// Takes new times. The kernel estimates idle, iowait and steal, so that they may fall by some ticks; a counter that falls would be taken for one
    /// that was reset, and `rate()` would add the whole of it. What fell keeps its value until it has grown again.
    fn update(&mut self, seconds: [f64; COLUMNS]) {
        if self.seconds[IDLE] - seconds[IDLE] >= RESTART_SECONDS {
            self.seconds = seconds;
        } else {
            for (last, now) in self.seconds.iter_mut().zip(seconds) {
                *last = last.max(now);
            }
        }
    }
}

impl Cpu {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    pub(super) fn new(paths: &HostPaths) -> Self {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let (stat, cpus) = (paths.proc.join("stat"), paths.sys.join("devices/system/cpu"));
        Self { stat, cpus, ticks_per_second, last: HashMap::new(), round: 0, throttles: Throttles::default() }
    }
}

impl HostCollector for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        self.round += 1;
        let round = self.round;
        // A processor that is offline has no line. Versions before 2.6.33 have fewer columns.
        for (cpu, number, columns) in lines(reader.required(&self.stat)?).filter_map(parse) {
            let mut seconds = [0.0; COLUMNS];
            let mut known = 0;
            for (column, time) in seconds.iter_mut().zip(columns.split_ascii_whitespace()) {
                let Ok(ticks) = time.parse::<f64>() else { break };
                *column = ticks / self.ticks_per_second;
                known += 1;
            }
            let times = self.last.entry(number).or_insert(Times { seconds, round });
            times.update(seconds);
            times.round = round;
            for (column, (mode, seconds)) in MODES.iter().chain(&GUEST_MODES).zip(times.seconds).take(known).enumerate() {
                let name = if column < MODES.len() { "node_cpu_seconds_total" } else { "node_cpu_guest_seconds_total" };
                output.gauge(name, &[("cpu", cpu), ("mode", mode)], seconds);
            }
        }
        self.last.retain(|_, times| times.round == round);
        let mut list = |file: &str| reader.text(&self.cpus.join(file)).map(cpu_list).unwrap_or_default();
        for cpu in list("isolated") {
            output.gauge("node_cpu_isolated", &[("cpu", &cpu.to_string())], 1.0);
        }
        let online = list("online");
        for cpu in list("present") {
            let is_online = online.binary_search(&cpu).is_ok();
            output.gauge("node_cpu_online", &[("cpu", &cpu.to_string())], f64::from(u8::from(is_online)));
        }
        self.throttles.collect(&self.cpus, reader, output);
        if self.last.is_empty() { Err(missing(&self.stat, "any processor")) } else { Ok(()) }
    }
}

/// How often processors were throttled because they were hot.
#[derive(Default)]
struct Throttles {
    counts: Vec<Throttle>,
    rounds_to_search: u32,
}

/// A count of a package or of one of its cores, which each of its processors shows.
struct Throttle {
    file: PathBuf,
    package: String,
    core: Option<String>,
}

/// A package or core is looked for in each of this many rounds: those of a machine do not change.
const ROUNDS_OF_SEARCH: u32 = 60;

impl Throttles {
    fn collect(&mut self, cpus: &Path, reader: &mut Reader, output: &mut Output) {
        if self.rounds_to_search == 0 {
            self.counts = Self::search(cpus, reader);
            self.rounds_to_search = ROUNDS_OF_SEARCH;
        }
        self.rounds_to_search -= 1;
        for Throttle { file, package, core } in &self.counts {
            let Some(count) = reader.number(file) else { continue };
            match core {
                Some(core) => output.gauge("node_cpu_core_throttles_total", &[("core", core), ("package", package)], count),
                None => output.gauge("node_cpu_package_throttles_total", &[("package", package)], count),
            }
        }
    }

    fn search(cpus: &Path, reader: &mut Reader) -> Vec<Throttle> {
        let mut found: Vec<Throttle> = Vec::new();
        for name in names(cpus).unwrap_or_default().iter().filter(|name| name.starts_with("cpu")) {
            let folder = cpus.join(name);
            let mut text = |file: &str| reader.text(&folder.join(file)).map(str::to_owned);
            let (Some(package), Some(core)) = (text("topology/physical_package_id"), text("topology/core_id")) else { continue };
            for (file, core) in [("core_throttle_count", Some(core)), ("package_throttle_count", None)] {
                let file = folder.join("thermal_throttle").join(file);
                let is_known = found.iter().any(|known| known.package == package && known.core == core);
                if !is_known && file.exists() {
                    found.push(Throttle { file, package: package.clone(), core });
                }
            }
        }
        found
    }
}

/// Number of a processor, as text as well, and its times. The line of all processors together has no number.
fn parse(line: &str) -> Option<(&str, u32, &str)> {
    let (cpu, times) = line.strip_prefix("cpu")?.split_once(' ')?;
    let number = cpu.bytes().all(|byte| byte.is_ascii_digit()).then(|| cpu.parse().ok())??;
    Some((cpu, number, times))
}
