//! How much space the node's filesystems have.
//!
//! Only with HOST_ROOT. Which filesystems there are is read from the agent's own list of mounts, in which those of the node
//! are below that folder: it has exactly those that can be reached from here, with the paths that lead to them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::collector::{CollectError, Collector, Readings};
use crate::metrics::SkipReason;

const MOUNTS: &str = "/proc/self/mountinfo";

/// Folders of the node with the mounts of containers and volumes, which come and go with pods.
const OF_CONTAINERS: [&str; 7] = ["dev", "proc", "run", "sys", "var/lib/containerd", "var/lib/docker", "var/lib/kubelet"];

/// Images, which are always full.
const READ_ONLY: [&str; 2] = ["squashfs", "iso9660"];

/// The most filesystems that are reported.
const MAX_FILESYSTEMS: usize = 32;

/// The read buffer. The list of a node with many pods is long.
const BUFFER_BYTES: usize = 4 << 10;

/// Size and free space of each filesystem on a device of the node, in bytes and in files.
pub(super) struct Filesystems {
    root: PathBuf,
}

impl Filesystems {
    /// Those of the node whose root is at this path.
    pub(super) fn under(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Collector for Filesystems {
    fn name(&self) -> &'static str {
        "fs"
    }

    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError> {
        let unreadable = |error| CollectError::Read { path: MOUNTS.into(), error };
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(MOUNTS).map_err(unreadable)?);
        let mounts = Mounts::read(file, &self.root).map_err(unreadable)?;
        if mounts.by_device.is_empty() {
            return Err(CollectError::Missing { path: MOUNTS.into(), wanted: "any filesystem of the node below HOST_ROOT" });
        }
        for mount in mounts.by_device.values() {
            report(&self.root.join(mount), mount, readings);
        }
        readings.skip(SkipReason::Limit, mounts.over_limit, format_args!("{MOUNTS} has more than {MAX_FILESYSTEMS} filesystems"));
        Ok(())
    }
}

/// Adds the readings of the filesystem at `path`. `mount` is its path on the node, without the slash before it. One that cannot
/// be looked at, for example because it was unmounted, is skipped.
fn report(path: &Path, mount: &Path, readings: &mut Readings) {
    let Some(mount) = mount.to_str() else {
        return readings.skip(SkipReason::InvalidId, 1, format_args!("{} is not UTF-8", mount.display()));
    };
    let space = match rustix::fs::statvfs(path) {
        Ok(space) => space,
        // The operator decides with permissions what the agent reports.
        Err(Errno::ACCESS) => return,
        Err(error) => return readings.skip(SkipReason::Unreadable, 1, format_args!("{} cannot be read: {error}", path.display())),
    };
    let mount = format!("/{mount}");
    for (name, value) in [
        ("size_bytes", space.f_blocks.saturating_mul(space.f_frsize)),
        ("available_bytes", space.f_bavail.saturating_mul(space.f_frsize)),
        ("files", space.f_files),
        ("files_free", space.f_ffree),
    ] {
        readings.labelled_count(&format!("filesystem_{name}"), ("mountpoint", &mount), value);
    }
}

/// The node's filesystems.
#[derive(Default)]
struct Mounts {
    /// One path below the root for each device: the shortest, where a device is mounted several times.
    by_device: BTreeMap<Vec<u8>, PathBuf>,
    /// Mounts of devices beyond the limit.
    over_limit: u64,
}

impl Mounts {
    fn read(lines: impl BufRead, root: &Path) -> std::io::Result<Self> {
        let mut mounts = Self::default();
        // Lines of bytes, because a path need not be UTF-8.
        for line in lines.split(b'\n') {
            let line = line?;
            let Some(Mount { device, point }) = parse(&line) else { continue };
            let Ok(inside) = point.strip_prefix(root) else { continue };
            if OF_CONTAINERS.iter().any(|folder| inside.starts_with(folder)) {
                continue;
            }
            if let Some(known) = mounts.by_device.get_mut(device) {
                if inside.as_os_str().len() < known.as_os_str().len() {
                    inside.clone_into(known);
                }
            } else if mounts.by_device.len() == MAX_FILESYSTEMS {
                mounts.over_limit += 1;
            } else {
                mounts.by_device.insert(device.to_owned(), inside.to_owned());
            }
        }
        Ok(mounts)
    }
}

struct Mount<'a> {
    device: &'a [u8],
    point: PathBuf,
}

/// A line of mountinfo, if it is a filesystem on a device that can be written to.
fn parse(line: &[u8]) -> Option<Mount<'_>> {
    let separator = line.windows(3).position(|three| three == b" - ")?;
    let mut what = line[separator + 3..].split(|byte| *byte == b' ');
    let (kind, source) = (what.next()?, what.next()?);
    if !(source.starts_with(b"/dev/") || kind == b"zfs") || READ_ONLY.iter().any(|read_only| kind == read_only.as_bytes()) {
        return None;
    }
    let mut mount = line[..separator].split(|byte| *byte == b' ');
    let (device, point) = (mount.nth(2)?, mount.nth(1)?);
    Some(Mount { device, point: unescaped(point) })
}

/// A path as it was before the kernel escaped white space and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a pod in a cluster with the node's root at /host/root, shortened.
    const MOUNTINFO: &str = include_str!("testdata/mountinfo");

    fn read(text: &[u8], root: &str) -> Mounts {
        Mounts::read(text, Path::new(root)).unwrap()
    }

    fn found(text: &str, root: &str) -> Vec<String> {
        read(text.as_bytes(), root).by_device.into_values().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn filesystems_of_the_node_are_told_from_those_of_its_containers() {
        assert_eq!(found(MOUNTINFO, "/host/root"), [""], "the root alone: volumes of pods are left out");
        let more = "40 35 8:1 / /host/root/boot\\040one rw - ext4 /dev/sda1 rw\n\
            41 35 8:1 / /host/root/mnt/very/long rw shared:1 master:2 - ext4 /dev/sda1 rw\n\
            42 35 8:16 / /host/root/var/lib/kubelet/pods/x/volumes/y rw - xfs /dev/sdb rw\n\
            43 35 0:50 / /host/root/tank rw - zfs tank rw\n\
            44 35 7:1 / /host/root/snap/x ro - squashfs /dev/loop1 ro\n\
            45 35 0:44 / /host/root/nfs rw - nfs4 server:/x rw\n\
            46 35 8:32 / /host/rootless rw - ext4 /dev/sdc rw\n\
            nonsense - \n";
        assert_eq!(found(more, "/host/root"), ["tank", "boot one"]);
    }

    #[test]
    fn filesystems_beyond_the_limit_are_counted() {
        let many: String =
            (0..99).fold(String::new(), |text, number| text + &format!("1 2 8:{number} / /mnt/{number} rw - ext4 /dev/sd{number} rw\n"));
        let mounts = read(many.as_bytes(), "/");
        assert_eq!((mounts.by_device.len(), mounts.over_limit), (MAX_FILESYSTEMS, 99 - MAX_FILESYSTEMS as u64));
    }

    #[test]
    fn a_path_that_is_not_utf8_does_not_fail_the_others() {
        let mounts = read(b"1 2 8:1 / /\xff rw - ext4 /dev/a rw\n1 2 8:2 / /good rw - ext4 /dev/b rw\n", "/");
        assert_eq!(mounts.by_device.len(), 2);
        let mut readings = Readings::default();
        for mount in mounts.by_device.values() {
            report(Path::new("/"), mount, &mut readings);
        }
        assert_eq!((readings.metrics.len(), readings.skipped[&SkipReason::InvalidId].count), (4, 1));
    }

    #[test]
    fn escaped_paths_are_restored() {
        for (written, path) in
            [("/a\\040b\\011c\\134d", "/a b\tc\\d"), ("/plain", "/plain"), ("/end\\04", "/end\\04"), ("/x\\9zz", "/x\\9zz")]
        {
            assert_eq!(unescaped(written.as_bytes()), Path::new(path));
        }
    }

    #[test]
    fn this_machine_has_a_root_and_a_filesystem_that_is_gone_is_skipped() {
        let mut readings = Readings::default();
        report(Path::new("/"), Path::new(""), &mut readings);
        let value = |name: &str| {
            let id = format!("filesystem_{name}{{mountpoint=\"/\"}}");
            let metric = readings.metrics.iter().find(|metric| metric.id.as_str() == id).expect("a reading");
            let golectra_protocol::Value::Gauge(value) = metric.value else { panic!("a gauge") };
            value
        };
        assert!(value("size_bytes") > value("available_bytes") && value("files") >= value("files_free"));
        report(Path::new("/nothing/here"), Path::new("x"), &mut readings);
        let skipped = &readings.skipped[&SkipReason::Unreadable];
        assert!(skipped.count == 1 && skipped.example.starts_with("/nothing/here cannot be read"), "{skipped:?}");
        assert_eq!(readings.metrics.len(), 4);
    }
}
