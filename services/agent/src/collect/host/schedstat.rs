//! Time that processors ran processes and that these waited for them, from /proc/schedstat.

use std::path::PathBuf;

use super::output::Output;
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

pub(super) struct Schedstat(PathBuf);

impl Schedstat {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.proc.join("schedstat"))
    }
}

impl HostCollector for Schedstat {
    fn name(&self) -> &'static str {
        "schedstat"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for line in lines(reader.required(&self.0)?) {
            let Some((cpu, rest)) = line.strip_prefix("cpu").and_then(|line| line.split_once(' ')) else { continue };
            let mut last = rest.split_ascii_whitespace().skip(6).map_while(|word| word.parse::<f64>().ok());
            let (Some(running), Some(waiting), Some(slices)) = (last.next(), last.next(), last.next()) else { continue };
            found = true;
            output.gauge("node_schedstat_running_seconds_total", &[("cpu", cpu)], running / 1e9);
            output.gauge("node_schedstat_waiting_seconds_total", &[("cpu", cpu)], waiting / 1e9);
            output.gauge("node_schedstat_timeslices_total", &[("cpu", cpu)], slices);
        }
        if found { Ok(()) } else { Err(missing(&self.0, "any processor")) }
    }
}
