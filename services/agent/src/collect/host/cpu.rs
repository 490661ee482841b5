//! Processors, from /proc/stat and /sys/devices/system/cpu.

use std::collections::HashMap;
use std::path::PathBuf;

use super::output::Output;
use super::reader::{Reader, lines, number_list};
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
        Self { stat, cpus, ticks_per_second, last: HashMap::new(), round: 0 }
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
        if let Some(isolated) = reader.text(&self.cpus.join("isolated")) {
            for cpu in number_list(isolated).flatten() {
                output.gauge("node_cpu_isolated", &[("cpu", &cpu.to_string())], 1.0);
            }
        }
        if self.last.is_empty() { Err(missing(&self.stat, "any processor")) } else { Ok(()) }
    }
}

/// Number of a processor, as text as well, and its times. The line of all processors together has no number.
fn parse(line: &str) -> Option<(&str, u32, &str)> {
    let (cpu, times) = line.strip_prefix("cpu")?.split_once(' ')?;
    let number = cpu.bytes().all(|byte| byte.is_ascii_digit()).then(|| cpu.parse().ok())??;
    Some((cpu, number, times))
}
