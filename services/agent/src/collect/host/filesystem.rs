//! Space of the host's filesystems. Looking at one may hang, so this has a thread of its own.
//!
//! Which there are is read from the agent's own list of mounts, in which those of the host are below the folder where its root is: it has exactly those
//! that can be reached from here, with the paths that lead to them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::output::Output;
use super::reader::Reader;
use super::{CollectError, HostCollector, missing};

/// Folders with the mounts of the kernel, of containers and of volumes, which come and go with pods. As node_exporter has them by default, and besides
/// those of pods and their sandboxes. Mounts below these are left out; of the first ones the folder's own as well.
const LEFT_OUT: [&str; 3] = ["dev", "proc", "sys"];
const LEFT_OUT_BELOW: [&str; 6] =
    ["run/credentials", "run/containerd", "var/lib/containerd", "var/lib/containers/storage", "var/lib/docker", "var/lib/kubelet"];

/// Filesystems without space of their own.
#[rustfmt::skip]
const LEFT_OUT_TYPES: [&[u8]; 26] = [
    b"autofs", b"binfmt_misc", b"bpf", b"cgroup", b"cgroup2", b"configfs", b"debugfs", b"devpts", b"devtmpfs", b"fusectl", b"hugetlbfs", b"iso9660",
    b"mqueue", b"nsfs", b"overlay", b"proc", b"procfs", b"pstore", b"rpc_pipefs", b"securityfs", b"selinuxfs", b"squashfs", b"erofs", b"sysfs",
    b"tracefs", b"efivarfs",
];

/// The most filesystems that are reported.
const MAX_FILESYSTEMS: usize = 256;

pub(super) struct Filesystem {
    mounts: PathBuf,
    root: PathBuf,
}

impl Filesystem {
    pub(super) fn under(root: PathBuf) -> Self {
        Self { mounts: "/proc/self/mountinfo".into(), root }
    }
}

impl HostCollector for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mounts = mounts(reader.required(&self.mounts)?, &self.root);
        for mount in mounts.iter().take(MAX_FILESYSTEMS) {
            mount.report(&self.root, output);
        }
        if mounts.is_empty() { Err(missing(&self.mounts, "any filesystem of the host below HOST_ROOT")) } else { Ok(()) }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// On the host, with a slash before it.
    point: String,
    device: String,
    kind: String,
    major: String,
    minor: String,
    is_read_only: bool,
}

impl Mount {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; node_exporter's are as well")]
    fn report(&self, root: &Path, output: &mut Output) {
        let path = root.join(self.point.trim_start_matches('/'));
        let error = match rustix::fs::statfs(&path) {
            Ok(space) => {
                let labels = [("device", self.device.as_str()), ("fstype", &self.kind), ("mountpoint", &self.point)];
                let block_bytes = space.f_bsize as f64;
                for (name, value) in [
                    ("node_filesystem_size_bytes", space.f_blocks as f64 * block_bytes),
                    ("node_filesystem_free_bytes", space.f_bfree as f64 * block_bytes),
                    ("node_filesystem_avail_bytes", space.f_bavail as f64 * block_bytes),
                    ("node_filesystem_files", space.f_files as f64),
                    ("node_filesystem_files_free", space.f_ffree as f64),
                    ("node_filesystem_readonly", f64::from(u8::from(self.is_read_only))),
                    ("node_filesystem_device_error", 0.0),
                ] {
                    output.gauge(name, &labels, value);
                }
                None
            }
            // The operator decides with permissions what the agent reports.
            Err(error) => Some(std::io::Error::from(error).to_string()),
        };
        if let Some(error) = error {
            // As node_exporter says it, without the number of the error.
            let error = error.split(" (os error").next().unwrap_or_default().to_lowercase();
            let labels = [("device", self.device.as_str()), ("device_error", &error), ("fstype", &self.kind), ("mountpoint", &self.point)];
            output.gauge("node_filesystem_device_error", &labels, 1.0);
        }
        let numbers = [("device", self.device.as_str()), ("major", &self.major), ("minor", &self.minor), ("mountpoint", &self.point)];
        output.gauge("node_filesystem_mount_info", &numbers, 1.0);
    }
}

/// The mounts of the host that are reported, each once, sorted by path. Of mounts on top of each other the last is the one that is seen.
pub(super) fn mounts(text: &[u8], root: &Path) -> Vec<Mount> {
    let mounts = text.split(|byte| *byte == b'\n').filter_map(|line| parse(line, root));
    mounts.map(|mount| (mount.point.clone(), mount)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// A line of mountinfo, if it is a filesystem that is reported.
fn parse(line: &[u8], root: &Path) -> Option<Mount> {
    let separator = line.windows(3).position(|three| three == b" - ")?;
    let mut what = line[separator + 3..].split(|byte| *byte == b' ');
    let (kind, device, super_options) = (what.next()?, what.next()?, what.next().unwrap_or_default());
    if LEFT_OUT_TYPES.contains(&kind) {
        return None;
    }
    let mut mount = line[..separator].split(|byte| *byte == b' ');
    let (numbers, point, options) = (mount.nth(2)?, mount.nth(1)?, mount.next().unwrap_or_default());
    let point: PathBuf = OsString::from_vec(unescaped(point)).into();
    let inside = point.strip_prefix(root).ok()?;
    if LEFT_OUT.iter().any(|folder| inside.starts_with(folder))
        || LEFT_OUT_BELOW.iter().any(|folder| inside.strip_prefix(folder).is_ok_and(|below| !below.as_os_str().is_empty()))
    {
        return None;
    }
    let (major, minor) = str::from_utf8(numbers).ok()?.split_once(':')?;
    let has_ro = |options: &[u8]| options.split(|byte| *byte == b',').any(|option| option == b"ro");
    Some(Mount {
        // A path that is not UTF-8 cannot be a label.
        point: format!("/{}", inside.to_str()?),
        device: String::from_utf8(unescaped(device)).ok()?,
        kind: String::from_utf8(kind.to_vec()).ok()?,
        major: major.to_owned(),
        minor: minor.to_owned(),
        is_read_only: has_ro(options) || has_ro(super_options),
    })
}

/// A text as it was before the kernel escaped white space and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a pod in a cluster with the node's root at /host/root, shortened.
    const MOUNTINFO: &str = include_str!("../testdata/mountinfo");

    fn points(text: &[u8], root: &str) -> Vec<String> {
        mounts(text, Path::new(root)).into_iter().map(|mount| mount.point).collect()
    }

    #[test]
    fn filesystems_of_the_host_are_told_from_those_of_its_containers() {
        assert!(points(MOUNTINFO.as_bytes(), "/host/root").contains(&"/".to_owned()));
        let more = "40 35 8:1 / /host/root/boot\\040one rw - ext4 /dev/sda1 rw\n\
            41 35 8:1 / /host/root/mnt/very/long ro shared:1 master:2 - ext4 /dev/sda1 rw\n\
            42 35 8:16 / /host/root/var/lib/kubelet/pods/x/volumes/y rw - xfs /dev/sdb rw\n\
            43 35 0:50 / /host/root/tank rw - zfs tank rw\n\
            44 35 7:1 / /host/root/snap/x ro - squashfs /dev/loop1 ro\n\
            45 35 0:44 / /host/root/nfs rw - nfs4 server:/x rw\n\
            46 35 8:32 / /host/rootless rw - ext4 /dev/sdc rw\n\
            47 35 0:60 / /host/root/data rw shared:9 - btrfs /dev/sdd rw,subvol=/data\n\
            48 35 0:61 / /host/root/var/lib/docker/overlay2/a/merged rw - overlay overlay rw\n\
            49 35 8:48 / /host/root/var/lib/docker rw - ext4 /dev/sde rw\n\
            50 35 0:62 / /host/root/gr\u{fc}n rw - tmpfs tmpfs rw\n\
            51 35 0:63 / /host/root/data rw - ext4 /dev/on-top rw\n\
            nonsense - \n1 2 3 - ext4 /dev/x\n - \n";
        let expected = ["/boot one", "/data", "/gr\u{fc}n", "/mnt/very/long", "/nfs", "/tank", "/var/lib/docker"];
        assert_eq!(points(more.as_bytes(), "/host/root"), expected);
        let found = mounts(more.as_bytes(), Path::new("/host/root"));
        assert!(found[3].is_read_only && !found[0].is_read_only && found[1].device == "/dev/on-top" && found[5].kind == "zfs");
    }

    #[test]
    fn storage_of_many_kinds() {
        let found = mounts(include_bytes!("../testdata/mountinfo-storage"), Path::new("/"));
        let found: Vec<_> = found
            .iter()
            .map(|mount| (mount.point.as_str(), mount.device.as_str(), mount.kind.as_str(), mount.major.as_str(), mount.minor.as_str()))
            .collect();
        let expected = [
            ("/", "rpool/ROOT/pve-1", "zfs", "0", "26"),
            ("/.snapshots", "/dev/sdb2", "btrfs", "0", "50"),
            ("/boot/efi", "/dev/nvme0n1p1", "vfat", "259", "1"),
            ("/etc/pve", "/dev/fuse", "fuse", "0", "62"),
            ("/home", "/dev/sdb2", "btrfs", "0", "50"),
            ("/mnt/lost", "192.0.2.30:6789:/", "ceph", "0", "63"),
            ("/mnt/nfs", "192.0.2.10:/export/данные", "nfs4", "0", "55"),
            ("/mnt/old", "[2001:db8::10]:/vol/0", "nfs", "0", "56"),
            ("/rpool", "rpool", "zfs", "0", "45"),
            ("/rpool/data", "rpool/data", "zfs", "0", "46"),
            ("/run", "tmpfs", "tmpfs", "0", "24"),
            ("/run/user/1000", "tmpfs", "tmpfs", "0", "61"),
            ("/srv/backup tank", "backup tank/set", "zfs", "0", "47"),
            ("/srv/tab\tback\\slash#hash", "/dev/sdf1", "ext4", "8", "81"),
            ("/srv/Фото и видео", "/dev/sdd1", "xfs", "8", "49"),
            ("/srv/日本語", "/dev/sde1", "ext4", "8", "65"),
        ];
        assert_eq!(found, expected);
        let read_only = mounts(include_bytes!("../testdata/mountinfo-storage"), Path::new("/"));
        assert_eq!(read_only.iter().filter(|mount| mount.is_read_only).map(|mount| &mount.point).collect::<Vec<_>>(), ["/mnt/old"]);
    }

    #[test]
    fn a_path_that_is_not_utf8_does_not_affect_the_others() {
        assert_eq!(points(b"1 2 8:1 / /\xff rw - ext4 /dev/a rw\n1 2 8:2 / /good rw - ext4 /dev/b rw\n", "/"), ["/good"]);
    }

    #[test]
    fn escaped_paths_are_restored() {
        for (written, path) in
            [("/a\\040b\\011c\\134d", "/a b\tc\\d"), ("/plain", "/plain"), ("/end\\04", "/end\\04"), ("/x\\9zz", "/x\\9zz")]
        {
            assert_eq!(unescaped(written.as_bytes()), path.as_bytes());
        }
    }

    #[test]
    fn one_that_is_gone_is_an_error_of_that_device() {
        let line = b"1 2 8:1 / /nothing/here rw - ext4 /dev/a rw\n1 2 8:2 / / rw - ext4 /dev/b rw\n";
        let mut output = Output::new(100, std::sync::Arc::default());
        for mount in mounts(line, Path::new("/")) {
            mount.report(Path::new("/"), &mut output);
        }
        let texts = output.texts();
        let error = r#"node_filesystem_device_error{device="/dev/a",device_error="no such file or directory",fstype="ext4",mountpoint="/nothing/here"} 1"#;
        assert!(texts.iter().any(|text| text == error), "{texts:?}");
        assert!(texts.iter().any(|text| text.starts_with(r#"node_filesystem_size_bytes{device="/dev/b",fstype="ext4",mountpoint="/"} "#)));
    }
}
