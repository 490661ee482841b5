//! What the fuzz targets call: the collectors of the host on any files.

use std::path::Path;
use std::sync::Arc;

use super::{HostPaths, HostSettings, Readings, all, filesystem};

/// The gauges of a machine whose files are below a folder, as JSON. Files of metrics are in its folder `text`.
pub fn gauges(machine: &Path) -> Vec<String> {
    let (proc, sys) = (machine.join("proc"), machine.join("sys"));
    let paths = HostPaths { proc, sys, root: Some(machine.to_owned()), sees_first_process: true, shares_network: true };
    let textfile_folders = vec![machine.join("text")];
    let settings = HostSettings { paths, node_name: "node-1".into(), max_series: 10_000, textfile_folders, filter: Arc::default() };
    let mut found = Vec::new();
    for group in &mut all(&settings) {
        let mut readings = Readings::default();
        group.collect(&mut readings).expect("a group does not fail");
        found.extend(readings.gauges.iter().map(|gauge| format!("{}{}}}", gauge.start, gauge.value)));
    }
    found
}

/// How many filesystems a list of mounts has.
pub fn mounts(text: &[u8]) -> usize {
    filesystem::mounts(text, Path::new("/host/root")).len()
}
