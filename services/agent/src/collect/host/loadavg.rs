//! Load averages, from /proc/loadavg.

use std::path::PathBuf;

use super::output::Output;
use super::reader::Reader;
use super::{CollectError, HostCollector, HostPaths, missing};

pub(super) struct LoadAverage(PathBuf);

impl LoadAverage {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.proc.join("loadavg"))
    }
}

impl HostCollector for LoadAverage {
    fn name(&self) -> &'static str {
        "loadavg"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let text = std::str::from_utf8(reader.required(&self.0)?).unwrap_or_default();
        let mut loads = text.split_ascii_whitespace().map_while(|load| load.parse().ok());
        for name in ["node_load1", "node_load5", "node_load15"] {
            let load = loads.next();
            let load = load.ok_or_else(|| missing(&self.0, "three load averages"))?;
            output.gauge(name, &[], load);
        }
        Ok(())
    }
}
