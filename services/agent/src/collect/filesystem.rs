//! How much room the node's filesystems have.
//!
//! Only with the node's root in sight. Which filesystems there are is read from the agent's own list of mounts, where those
//! of the node stand below that folder: it has just the ones that can be looked at from here, under the paths that lead to them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{CollectError, Collector, Readings, escaped};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Folders of the node whose mounts belong to containers and volumes: these come and go with pods.
const OF_CONTAINERS: [&str; 7] = ["dev", "proc", "run", "sys", "var/lib/containerd", "var/lib/docker", "var/lib/kubelet"];

/// Images that are full by nature.
const READ_ONLY: [&str; 2] = ["squashfs", "iso9660"];

/// The most filesystems that are reported.
const MOST: usize = 32;

/// Bytes of the list that are held at a time: a node with many pods has a long one.
const PIECE_BYTES: usize = 4 << 10;

/// Size and room of each filesystem on a device of the node, in bytes and in files.
pub(super) struct Filesystems {
    root: PathBuf,
}

impl Filesystems {
    /// Those of the node whose root is seen at this path.
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
        let file = BufReader::with_capacity(PIECE_BYTES, File::open(MOUNTS).map_err(unreadable)?);
        let mounts = list(file, &self.root).map_err(unreadable)?;
        if mounts.is_empty() {
            return Err(CollectError::Missing { path: MOUNTS.into(), wanted: "any filesystem of the node below HOST_ROOT" });
        }
        let mut outcome = Ok(());
        for mount in mounts.values().take(MOST) {
            // One that fails leaves the others to be reported.
            if let Err(error) = report(&self.root.join(mount), mount, readings) {
                outcome = Err(error);
            }
        }
        if mounts.len() > MOST {
            outcome = Err(CollectError::TooMany { path: MOUNTS.into(), what: "filesystems", limit: MOST });
        }
        outcome
    }
}

/// Adds the readings of the filesystem at `path`, called by where the node has it: `mount`, without the slash before it.
fn report(path: &Path, mount: &Path, readings: &mut Readings) -> Result<(), CollectError> {
    let room = match rustix::fs::statvfs(path) {
        Ok(room) => room,
        // What the agent's user may not walk to is none of its business.
        Err(Errno::ACCESS) => return Ok(()),
        Err(error) => return Err(CollectError::Read { path: path.to_string_lossy().into_owned().into(), error: error.into() }),
    };
    let mount = format!("/{}", mount.display());
    let mount = escaped(&mount);
    for (name, value) in [
        ("size_bytes", room.f_blocks.saturating_mul(room.f_frsize)),
        ("available_bytes", room.f_bavail.saturating_mul(room.f_frsize)),
        ("files", room.f_files),
        ("files_free", room.f_ffree),
    ] {
        readings.count(&format!("filesystem_{name}{{mountpoint=\"{mount}\"}}"), value)?;
    }
    Ok(())
}

/// The node's filesystems, one path below `root` a device: the shortest, where one is mounted in several places.
fn list(mounts: impl BufRead, root: &Path) -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::<String, PathBuf>::new();
    for line in mounts.lines() {
        let line = line?;
        let Some(Mount { device, point }) = parse(&line) else { continue };
        let Ok(inside) = point.strip_prefix(root) else { continue };
        if OF_CONTAINERS.iter().any(|folder| inside.starts_with(folder)) {
            continue;
        }
        let shorter = found.get(device).is_none_or(|known| inside.as_os_str().len() < known.as_os_str().len());
        // One more than is reported is enough to say that there are more.
        if shorter && (found.len() <= MOST || found.contains_key(device)) {
            found.insert(device.to_owned(), inside.to_owned());
        }
    }
    Ok(found)
}

struct Mount<'a> {
    device: &'a str,
    point: PathBuf,
}

/// A line of mountinfo, if it is a filesystem on a device that can be written to.
fn parse(line: &str) -> Option<Mount<'_>> {
    let (mount, what) = line.split_once(" - ")?;
    let mut what = what.split(' ');
    let (kind, source) = (what.next()?, what.next()?);
    if !(source.starts_with("/dev/") || kind == "zfs") || READ_ONLY.contains(&kind) {
        return None;
    }
    let mut mount = mount.split(' ');
    let (device, point) = (mount.nth(2)?, mount.nth(1)?);
    Some(Mount { device, point: unescaped(point) })
}

/// A path as the kernel writes it: white space and backslashes as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
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

    fn found(text: &str, root: &str) -> Vec<String> {
        list(text.as_bytes(), Path::new(root)).unwrap().into_values().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_nodes_filesystems_are_told_from_the_containers() {
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
    fn there_is_a_bound() {
        let many: String =
            (0..99).fold(String::new(), |text, number| text + &format!("1 2 8:{number} / /mnt/{number} rw - ext4 /dev/sd{number} rw\n"));
        assert_eq!(found(&many, "/").len(), MOST + 1);
    }

    #[test]
    fn what_the_kernel_escaped_is_as_it_was() {
        for (written, path) in
            [("/a\\040b\\011c\\134d", "/a b\tc\\d"), ("/plain", "/plain"), ("/end\\04", "/end\\04"), ("/x\\9zz", "/x\\9zz")]
        {
            assert_eq!(unescaped(written), Path::new(path));
        }
    }

    #[test]
    fn this_machine_has_a_root() {
        let mut readings = Readings::default();
        report(Path::new("/"), Path::new(""), &mut readings).unwrap();
        let value = |name: &str| {
            let id = format!("filesystem_{name}{{mountpoint=\"/\"}}");
            let metric = readings.0.iter().find(|metric| metric.id.as_str() == id).expect("a reading");
            let golectra_protocol::Value::Gauge(value) = metric.value else { panic!("a gauge") };
            value
        };
        assert!(value("size_bytes") > value("available_bytes") && value("files") >= value("files_free"));
        let error = report(Path::new("/nothing/here"), Path::new("x"), &mut readings).unwrap_err();
        assert!(error.to_string().starts_with("/nothing/here cannot be read"), "{error}");
    }
}
