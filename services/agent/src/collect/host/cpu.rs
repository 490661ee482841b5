//! Processors, from /proc/stat and /sys/devices/system/cpu.

use std::path::PathBuf;

use super::output::Output;
use super::reader::{Reader, lines, number_list};
use super::{CollectError, HostCollector, HostPaths, missing};

/// The modes of /proc/stat in their order.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// The modes that time for guests is part of, in the order in which it follows the others.
const GUEST_MODES: [&str; 2] = ["user", "nice"];

pub(super) struct Cpu {
    stat: PathBuf,
    cpus: PathBuf,
    ticks_per_second: f64,
}

impl Cpu {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    pub(super) fn new(paths: &HostPaths) -> Self {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        Self { stat: paths.proc.join("stat"), cpus: paths.sys.join("devices/system/cpu"), ticks_per_second }
    }
}

impl HostCollector for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        // A processor that is offline has no line. Versions before 2.6.33 have fewer columns.
        for (cpu, times) in lines(reader.required(&self.stat)?).filter_map(parse) {
            found = true;
            let mut seconds =
                times.split_ascii_whitespace().map(|time| time.parse::<f64>().ok().map(|ticks| ticks / self.ticks_per_second));
            for mode in MODES {
                if let Some(Some(seconds)) = seconds.next() {
                    output.gauge("node_cpu_seconds_total", &[("cpu", cpu), ("mode", mode)], seconds);
                }
            }
            for mode in GUEST_MODES {
                if let Some(Some(seconds)) = seconds.next() {
                    output.gauge("node_cpu_guest_seconds_total", &[("cpu", cpu), ("mode", mode)], seconds);
                }
            }
        }
        if let Some(isolated) = reader.text(&self.cpus.join("isolated")) {
            for cpu in number_list(isolated).flatten() {
                output.gauge("node_cpu_isolated", &[("cpu", &cpu.to_string())], 1.0);
            }
        }
        if found { Ok(()) } else { Err(missing(&self.stat, "any processor")) }
    }
}

/// Number and times of a processor. The line of all processors together has no number.
fn parse(line: &str) -> Option<(&str, &str)> {
    let (cpu, times) = line.strip_prefix("cpu")?.split_once(' ')?;
    (!cpu.is_empty() && cpu.bytes().all(|byte| byte.is_ascii_digit())).then_some((cpu, times))
}
