//! Boot time, forks, context switches, interrupts and processes, from /proc/stat.

use std::path::PathBuf;

use super::output::Output;
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

/// Lines of /proc/stat and their metrics.
const METRICS: [(&str, &str); 6] = [
    ("intr", "node_intr_total"),
    ("ctxt", "node_context_switches_total"),
    ("btime", "node_boot_time_seconds"),
    ("processes", "node_forks_total"),
    ("procs_running", "node_procs_running"),
    ("procs_blocked", "node_procs_blocked"),
];

pub(super) struct Stat(PathBuf);

impl Stat {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.proc.join("stat"))
    }
}

impl HostCollector for Stat {
    fn name(&self) -> &'static str {
        "stat"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for line in lines(reader.required(&self.0)?) {
            let Some((field, rest)) = line.split_once(' ') else { continue };
            let Some((_, name)) = METRICS.iter().find(|(known, _)| *known == field) else { continue };
            // The first number of interrupts is their sum.
            if let Some(Ok(value)) = rest.split_ascii_whitespace().next().map(str::parse) {
                found = true;
                output.gauge(*name, &[], value);
            }
        }
        if found { Ok(()) } else { Err(missing(&self.0, "any of its counters")) }
    }
}
