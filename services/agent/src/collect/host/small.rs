//! Collectors of a file or two with a number in them: file descriptors, entropy, tracked connections, SELinux.

use std::path::PathBuf;

use super::output::Output;
use super::reader::Reader;
use super::{CollectError, HostCollector, HostPaths, missing};

/// Numbers that each have a file.
pub(super) struct Numbers {
    name: &'static str,
    folder: PathBuf,
    /// A file of the folder and its metric.
    files: &'static [(&'static str, &'static str)],
    wanted: &'static str,
}

impl Numbers {
    pub(super) fn entropy(paths: &HostPaths) -> Self {
        let files = &[("entropy_avail", "node_entropy_available_bits"), ("poolsize", "node_entropy_pool_size_bits")];
        Self { name: "entropy", folder: paths.proc.join("sys/kernel/random"), files, wanted: "entropy" }
    }

    pub(super) fn connections(paths: &HostPaths) -> Self {
        let files = &[("nf_conntrack_count", "node_nf_conntrack_entries"), ("nf_conntrack_max", "node_nf_conntrack_entries_limit")];
        Self {
            name: "conntrack",
            folder: paths.proc.join("sys/net/netfilter"),
            files,
            wanted: "tracked connections: the kernel tracks none",
        }
    }
}

impl HostCollector for Numbers {
    fn name(&self) -> &'static str {
        self.name
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for (file, name) in self.files {
            if let Some(value) = reader.number(&self.folder.join(file)) {
                found = true;
                output.gauge(*name, &[], value);
            }
        }
        if found { Ok(()) } else { Err(missing(&self.folder, self.wanted)) }
    }
}

/// Open file descriptors, from /proc/sys/fs/file-nr.
pub(super) struct FileDescriptors(PathBuf);

impl FileDescriptors {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.proc.join("sys/fs/file-nr"))
    }
}

impl HostCollector for FileDescriptors {
    fn name(&self) -> &'static str {
        "filefd"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let text = std::str::from_utf8(reader.required(&self.0)?).unwrap_or_default();
        let numbers: Vec<f64> = text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
        // The one in between is always 0.
        let &[allocated, _, maximum] = numbers.as_slice() else { return Err(missing(&self.0, "three numbers")) };
        output.gauge("node_filefd_allocated", &[], allocated);
        output.gauge("node_filefd_maximum", &[], maximum);
        Ok(())
    }
}

/// Whether SELinux is enabled: where its filesystem is mounted.
pub(super) struct Selinux(PathBuf);

impl Selinux {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.sys.join("fs/selinux/enforce"))
    }
}

impl HostCollector for Selinux {
    fn name(&self) -> &'static str {
        "selinux"
    }

    fn collect(&mut self, _: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        output.gauge("node_selinux_enabled", &[], f64::from(u8::from(self.0.exists())));
        Ok(())
    }
}
