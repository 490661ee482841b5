//! Packets that processors took from the network devices, from /proc/net/softnet_stat, which is the same in every network namespace.

use std::path::PathBuf;

use super::output::Output;
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

/// Columns, all hexadecimal, and their metrics.
const COLUMNS: [(usize, &str); 7] = [
    (0, "node_softnet_processed_total"),
    (1, "node_softnet_dropped_total"),
    (2, "node_softnet_times_squeezed_total"),
    (8, "node_softnet_cpu_collision_total"),
    (9, "node_softnet_received_rps_total"),
    (10, "node_softnet_flow_limit_count_total"),
    (11, "node_softnet_backlog_len"),
];

/// The column with the processor's number, since 5.10. Before, a processor is known by its line.
const CPU: usize = 12;

pub(super) struct Softnet(PathBuf);

impl Softnet {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.net().join("softnet_stat"))
    }
}

impl HostCollector for Softnet {
    fn name(&self) -> &'static str {
        "softnet"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for (line, number) in lines(reader.required(&self.0)?).zip(0_u32..) {
            let words: Vec<u32> = line.split_ascii_whitespace().map_while(|word| u32::from_str_radix(word, 16).ok()).collect();
            let cpu = words.get(CPU).unwrap_or(&number).to_string();
            for (column, name) in COLUMNS {
                if let Some(value) = words.get(column) {
                    found = true;
                    output.gauge(name, &[("cpu", &cpu)], f64::from(*value));
                }
            }
        }
        if found { Ok(()) } else { Err(missing(&self.0, "any processor")) }
    }
}
