//! Paging and faults, from /proc/vmstat: what node_exporter takes of it by default.

use std::path::PathBuf;

use super::output::{Name, Output};
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

pub(super) struct Vmstat(PathBuf);

impl Vmstat {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.proc.join("vmstat"))
    }
}

impl HostCollector for Vmstat {
    fn name(&self) -> &'static str {
        "vmstat"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for line in lines(reader.required(&self.0)?) {
            let Some((field, value)) = line.split_once(' ') else { continue };
            if let Some(value) = value.trim().parse().ok().filter(|_| is_reported(field)) {
                found = true;
                output.gauge(Name("node_vmstat_", field, ""), &[], value);
            }
        }
        if found { Ok(()) } else { Err(missing(&self.0, "counters of paging")) }
    }
}

fn is_reported(field: &str) -> bool {
    ["oom_kill", "pgpg", "pswp"].iter().any(|start| field.starts_with(start)) || (field.starts_with("pg") && field.contains("fault"))
}
