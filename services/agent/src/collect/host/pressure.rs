//! Time that processes waited for processors, memory and I/O, from /proc/pressure. Kernels before 4.20 do not have it, nor those where it is off.

use std::path::PathBuf;

use super::output::Output;
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

/// A file, a line of it, and the metric.
const METRICS: [(&str, &str, &str); 6] = [
    ("cpu", "some", "node_pressure_cpu_waiting_seconds_total"),
    ("io", "some", "node_pressure_io_waiting_seconds_total"),
    ("io", "full", "node_pressure_io_stalled_seconds_total"),
    ("memory", "some", "node_pressure_memory_waiting_seconds_total"),
    ("memory", "full", "node_pressure_memory_stalled_seconds_total"),
    ("irq", "full", "node_pressure_irq_stalled_seconds_total"),
];

pub(super) struct Pressure(PathBuf);

impl Pressure {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.proc.join("pressure"))
    }
}

impl HostCollector for Pressure {
    fn name(&self) -> &'static str {
        "pressure"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for (file, wanted, name) in METRICS {
            // Interrupts have a file since 6.1 only.
            let Ok(text) = reader.read(&self.0.join(file)) else { continue };
            if let Some(micros) = lines(text).filter(|line| line.starts_with(wanted)).find_map(total_micros) {
                found = true;
                output.gauge(name, &[], micros / 1e6);
            }
        }
        if found { Ok(()) } else { Err(missing(&self.0, "pressure: the kernel does not have it, or it is off")) }
    }
}

fn total_micros(line: &str) -> Option<f64> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}
