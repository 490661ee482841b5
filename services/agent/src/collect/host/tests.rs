//! The collectors on files of unlike machines, and beside a real node_exporter.

mod beside;
mod captured;
mod machines;

use std::fs;

use super::*;

/// What one collector reports of a machine whose files are below a folder, as lines of the text format without `job`; and its error.
fn collected(collector: &mut dyn HostCollector) -> (Vec<String>, Option<String>) {
    let (mut reader, mut output) = (Reader::default(), Output::new(10_000, Arc::default()));
    let error = collector.collect(&mut reader, &mut output).err().map(|error| error.to_string());
    (output.texts(), error)
}

/// A machine: paths below its root and what they contain.
struct Machine(tempfile::TempDir);

impl Machine {
    fn with(files: &[(&str, &[u8])]) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for (path, contents) in files {
            machine.write(path, contents);
        }
        machine
    }

    fn write(&self, path: &str, contents: &[u8]) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn paths(&self) -> HostPaths {
        let at = |folder: &str| self.0.path().join(folder);
        let root = Some(self.0.path().to_owned());
        HostPaths { proc: at("proc"), sys: at("sys"), root, sees_first_process: true, shares_network: true }
    }
}

/// The value of a series in what was collected.
fn value(texts: &[String], series: &str) -> Option<f64> {
    texts.iter().find_map(|text| text.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
