//! Space of the host's filesystems. Looking at one may hang, so this has a thread of its own, and each of the network has one besides.
//!
//! Which there are is read from the agent's own list of mounts, in which those of the host are below the folder where its root is: it has exactly those
//! that can be reached from here, with the paths that lead to them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::StatFs;
use rustix::io::Errno;

use super::filter::Filter;
use super::output::Output;
use super::reader::Reader;
use super::{CollectError, HostCollector, missing};
use crate::HELPER_STACK_BYTES;

/// Folders with the mounts of the kernel, of containers and of volumes, which come and go with pods. As node_exporter has them by default, and besides
/// those of pods and their sandboxes. Mounts below these are left out; of the first ones the folder's own as well.
const LEFT_OUT: [&str; 3] = ["dev", "proc", "sys"];
const LEFT_OUT_BELOW: [&str; 16] = [
    "run/credentials",
    "run/containerd",
    "run/containers/storage",
    "run/k0s/containerd",
    "run/k3s/containerd",
    "var/lib/containerd",
    "var/lib/containers/storage",
    "var/lib/docker",
    "var/lib/k0s/containerd",
    "var/lib/k0s/kubelet",
    "var/lib/kubelet",
    "var/lib/rancher/k3s/agent/containerd",
    "var/lib/rancher/rke2/agent/containerd",
    // Not all of `common`: the volumes of MicroK8s are in its folder `default-storage`, which may be a disk of its own.
    "var/snap/microk8s/common/run",
    "var/snap/microk8s/common/var/lib/containerd",
    "var/snap/microk8s/common/var/lib/kubelet",
];

/// Filesystems without space of their own.
#[rustfmt::skip]
const LEFT_OUT_TYPES: [&[u8]; 26] = [
    b"autofs", b"binfmt_misc", b"bpf", b"cgroup", b"cgroup2", b"configfs", b"debugfs", b"devpts", b"devtmpfs", b"fusectl", b"hugetlbfs", b"iso9660",
    b"mqueue", b"nsfs", b"overlay", b"proc", b"procfs", b"pstore", b"rpc_pipefs", b"securityfs", b"selinuxfs", b"squashfs", b"erofs", b"sysfs",
    b"tracefs", b"efivarfs",
];

/// Filesystems that need a server or another program to answer, besides those of FUSE.
const MAY_HANG: [&str; 13] =
    ["9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"];

/// The most filesystems that are reported.
const MAX_FILESYSTEMS: usize = 256;

/// How long a report waits for those that may hang, for all of them together. It must end well before the limit of the collector.
const ANSWER_LIMIT: Duration = Duration::from_millis(600);

/// The most filesystems that are asked at the same time, with those that have not answered yet. Each takes a thread.
const MAX_ASKED: usize = 32;

/// What node_exporter says of a filesystem that does not answer.
const TIMEOUT: &str = "mountpoint timeout";

type Answer = Result<StatFs, Errno>;

/// Asks the filesystem at a path for its space.
type Statfs = Arc<dyn Fn(&Path) -> Answer + Send + Sync>;

pub(super) struct Filesystem {
    mounts: PathBuf,
    root: PathBuf,
    filter: Arc<Filter>,
    statfs: Statfs,
    limit: Duration,
    asked: Vec<Asked>,
}

/// A filesystem that was asked on a thread of its own.
struct Asked {
    mount: Mount,
    /// What it answers, and how long after the question.
    answer: mpsc::Receiver<(Answer, Duration)>,
    /// It was asked for an earlier report, which did not wait for it any longer.
    is_late: bool,
}

impl Filesystem {
    pub(super) fn under(root: PathBuf, filter: Arc<Filter>) -> Self {
        Self { mounts: "/proc/self/mountinfo".into(), root, filter, statfs: Arc::new(statfs), limit: ANSWER_LIMIT, asked: Vec::new() }
    }

    /// Reports these filesystems. Those at and below the paths of `slow` are asked on threads of their own: the way to one below leads through the other.
    fn report(&mut self, mounts: &[Mount], slow: &[String], output: &mut Output) {
        let is_slow = |mount: &Mount| slow.iter().any(|point| Path::new(&mount.point).starts_with(point));
        // One that is no longer mounted is forgotten once it has answered.
        self.asked.retain(|asked| mounts.contains(&asked.mount) || matches!(asked.answer.try_recv(), Err(mpsc::TryRecvError::Empty)));
        for asked in &mut self.asked {
            asked.is_late = true;
        }
        let deadline = Instant::now() + self.limit;
        for mount in mounts.iter().filter(|mount| is_slow(mount)) {
            // One that cannot be asked now is tried again below, when others have answered.
            let _ = self.ask(mount);
        }
        let mut late = Vec::new();
        for mount in mounts {
            let answer = if is_slow(mount) {
                self.answer(mount, deadline, &mut late)
            } else {
                (self.statfs)(&mount.path(&self.root)).map_err(error_text)
            };
            mount.report(answer, output);
        }
        // They are slow: they are asked again for the next report, which does not wait for them either. This comes last because each takes one of `MAX_ASKED` places.
        for mount in late {
            let _ = self.ask(mount);
        }
    }

    /// Asks a filesystem, unless it has been asked already: one that hangs costs one thread and one question. Returns its place among those that
    /// were asked.
    fn ask(&mut self, mount: &Mount) -> Result<usize, String> {
        if let Some(at) = self.asked.iter().position(|asked| asked.mount == *mount) {
            return Ok(at);
        }
        if self.asked.len() >= MAX_ASKED {
            return Err("too many other filesystems do not answer".to_owned());
        }
        let (sender, answer) = mpsc::sync_channel(1);
        let (statfs, path, asked_at) = (Arc::clone(&self.statfs), mount.path(&self.root), Instant::now());
        let work = move || {
            let answer = statfs(&path);
            // The collector may be gone.
            let _ = sender.send((answer, asked_at.elapsed()));
        };
        let thread = thread::Builder::new().name("statfs".to_owned()).stack_size(HELPER_STACK_BYTES).spawn(work);
        thread.map_err(|error| error.to_string())?;
        self.asked.push(Asked { mount: mount.clone(), answer, is_late: false });
        Ok(self.asked.len() - 1)
    }

    /// What a filesystem of [`ask`](Self::ask) answers until the deadline, or why there is no answer. A filesystem whose answer came late and took at
    /// least the limit is added to `late`. One whose answer came late but took less, as when its server is back, is waited for in the next report.
    fn answer<'a>(&mut self, mount: &'a Mount, deadline: Instant, late: &mut Vec<&'a Mount>) -> Result<StatFs, String> {
        let at = self.ask(mount)?;
        let asked = &self.asked[at];
        let wait = if asked.is_late { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
        match asked.answer.recv_timeout(wait) {
            Ok((answer, took)) => {
                if self.asked.swap_remove(at).is_late && took >= self.limit {
                    late.push(mount);
                }
                answer.map_err(error_text)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Err(TIMEOUT.to_owned()),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                self.asked.swap_remove(at);
                Err("the thread that asked it has ended".to_owned())
            }
        }
    }
}

fn statfs(path: &Path) -> Answer {
    rustix::fs::statfs(path)
}

/// An error as node_exporter says it, without its number.
fn error_text(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl HostCollector for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut mounts = mounts(reader.required(&self.mounts)?, &self.root);
        if mounts.is_empty() {
            return Err(missing(&self.mounts, "any filesystem of the host below HOST_ROOT"));
        }
        let slow: Vec<String> = mounts.iter().filter(|mount| mount.may_hang()).map(|mount| mount.point.clone()).collect();
        // One that is not reported is not asked either, and does not count.
        mounts.retain(|mount| self.filter.allows_filesystem(&mount.device, &mount.point));
        let reported = output.first(&mounts, MAX_FILESYSTEMS, "filesystems");
        self.report(reported, &slow, output);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Where this process finds it, which finds the host's root at `root`.
    fn path(&self, root: &Path) -> PathBuf {
        root.join(self.point.trim_start_matches('/'))
    }

    /// Whether looking at it may take for ever.
    fn may_hang(&self) -> bool {
        self.kind.starts_with("fuse") || MAY_HANG.contains(&self.kind.as_str())
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; node_exporter's are as well")]
    fn report(&self, answer: Result<StatFs, String>, output: &mut Output) {
        match answer {
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
            }
            // The operator decides with permissions what the agent reports.
            Err(error) => {
                let labels =
                    [("device", self.device.as_str()), ("device_error", &error), ("fstype", &self.kind), ("mountpoint", &self.point)];
                output.gauge("node_filesystem_device_error", &labels, 1.0);
            }
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
    use std::fmt::Write as _;
    use std::fs;
    use std::sync::Mutex;

    use super::super::filter::Choice;
    use super::*;
    use crate::collect::Readings;
    use crate::metrics::SkipReason;

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
            52 35 0:64 / /host/root/run/k3s/containerd/io.containerd.grpc.v1.cri/sandboxes/a/shm rw - tmpfs shm rw\n\
            53 35 0:65 / /host/root/run/k0s/containerd/io.containerd.grpc.v1.cri/sandboxes/a/shm rw - tmpfs shm rw\n\
            54 35 0:66 / /host/root/run/containers/storage/overlay-containers/a/userdata/shm rw - tmpfs shm rw\n\
            55 35 8:1 / /host/root/var/lib/rancher/k3s/agent/containerd/a rw - ext4 /dev/sda1 rw\n\
            56 35 8:1 / /host/root/var/lib/rancher/rke2/agent/containerd/a rw - ext4 /dev/sda1 rw\n\
            57 35 0:67 / /host/root/var/lib/k0s/kubelet/pods/x/volumes/y rw - tmpfs tmpfs rw\n\
            58 35 8:1 / /host/root/var/lib/k0s/containerd/a rw - ext4 /dev/sda1 rw\n\
            59 35 0:68 / /host/root/var/snap/microk8s/common/run/containerd/a/shm rw - tmpfs shm rw\n\
            60 35 8:1 / /host/root/var/snap/microk8s/common/var/lib/containerd/a rw - ext4 /dev/sda1 rw\n\
            61 35 0:69 / /host/root/var/snap/microk8s/common/var/lib/kubelet/pods/x/volumes/y rw - tmpfs tmpfs rw\n\
            62 35 8:64 / /host/root/var/snap/microk8s/common/default-storage rw - ext4 /dev/sdf rw\n\
            63 35 8:80 / /host/root/var/lib/rancher rw - ext4 /dev/sdg rw\n\
            nonsense - \n1 2 3 - ext4 /dev/x\n - \n";
        let expected = [
            "/boot one",
            "/data",
            "/gr\u{fc}n",
            "/mnt/very/long",
            "/nfs",
            "/tank",
            "/var/lib/docker",
            "/var/lib/rancher",
            "/var/snap/microk8s/common/default-storage",
        ];
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

    /// A collector of the filesystems in a list of mounts, with a function in place of the system's. Its limit lets those answer that do, however busy
    /// the machine is.
    fn collector(mounts: &Path, filter: Filter, statfs: impl Fn(&Path) -> Answer + Send + Sync + 'static) -> Filesystem {
        let collector = Filesystem::under("/".into(), filter.into());
        Filesystem { mounts: mounts.to_owned(), statfs: Arc::new(statfs), limit: Duration::from_secs(2), ..collector }
    }

    fn without_mounts(pattern: &str) -> Filter {
        Filter { mounts: Choice { include: None, exclude: Some(pattern.parse().unwrap()) }, ..Filter::default() }
    }

    fn round(collector: &mut Filesystem, output: &mut Output) -> Vec<String> {
        collector.collect(&mut Reader::default(), output).unwrap();
        output.texts()
    }

    fn has(texts: &[String], start: &str) -> bool {
        texts.iter().any(|text| text.starts_with(start))
    }

    #[test]
    fn one_that_is_gone_is_an_error_of_that_device() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("mountinfo");
        fs::write(&list, "1 2 8:1 / /nothing/here rw - ext4 /dev/a rw\n1 2 8:2 / / rw - ext4 /dev/b rw\n").unwrap();
        let mut output = Output::new(100, Arc::default());
        let texts = round(&mut collector(&list, Filter::default(), statfs), &mut output);
        let error = r#"node_filesystem_device_error{device="/dev/a",device_error="no such file or directory",fstype="ext4",mountpoint="/nothing/here"} 1"#;
        assert!(texts.iter().any(|text| text == error), "{texts:?}");
        assert!(has(&texts, r#"node_filesystem_size_bytes{device="/dev/b",fstype="ext4",mountpoint="/"} "#));
    }

    #[test]
    fn one_that_does_not_answer_hides_no_other_and_one_that_is_excluded_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("mountinfo");
        let mounts = "1 2 8:1 / /a rw - ext4 /dev/a rw\n\
            1 2 0:9 / /hung rw - nfs4 server:/x rw\n\
            1 2 8:3 / /hung/below rw - ext4 /dev/below rw\n\
            1 2 0:10 / /private rw - nfs4 server:/y rw\n\
            1 2 0:11 / /y rw - fuse.sshfs y rw\n\
            1 2 8:2 / /z rw - ext4 /dev/z rw\n";
        fs::write(&list, mounts).unwrap();
        let (answers, hung) = mpsc::channel::<()>();
        let (hung, asked) = (Mutex::new(hung), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&asked);
        let statfs = move |path: &Path| {
            seen.lock().unwrap().push(path.to_owned());
            if path.starts_with("/hung") {
                // Until the test drops the other end.
                let _ = hung.lock().unwrap().recv();
            }
            rustix::fs::statfs("/")
        };
        let mut collector = collector(&list, without_mounts("/private"), statfs);
        let mut output = Output::new(100, Arc::default());
        let size = |point: &str, device: &str, kind: &str| {
            format!(r#"node_filesystem_size_bytes{{device="{device}",fstype="{kind}",mountpoint="{point}"}} "#)
        };
        let of_hung = size("/hung", "server:/x", "nfs4");
        for _ in 0..3 {
            let texts = round(&mut collector, &mut output);
            for expected in [size("/a", "/dev/a", "ext4"), size("/y", "y", "fuse.sshfs"), size("/z", "/dev/z", "ext4")] {
                assert!(has(&texts, &expected), "{expected} in {texts:?}");
            }
            let error =
                r#"node_filesystem_device_error{device="server:/x",device_error="mountpoint timeout",fstype="nfs4",mountpoint="/hung"} 1"#;
            assert!(has(&texts, error) && !has(&texts, &of_hung), "{texts:?}");
            let error = r#"node_filesystem_device_error{device="/dev/below",device_error="mountpoint timeout",fstype="ext4",mountpoint="/hung/below"} 1"#;
            assert!(has(&texts, error), "{texts:?}");
            assert!(!texts.iter().any(|text| text.contains("/private")), "{texts:?}");
        }
        let count = |point: &str| asked.lock().unwrap().iter().filter(|path| *path == Path::new(point)).count();
        assert_eq!((count("/hung"), count("/private"), count("/y")), (1, 0, 3), "one that hangs is asked once");
        drop(answers);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !has(&round(&mut collector, &mut output), &of_hung) {
            assert!(Instant::now() < deadline, "it is reported when it answers again");
            thread::yield_now();
        }
    }

    #[test]
    fn one_that_is_slow_is_reported_in_the_next_report() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("mountinfo");
        fs::write(&list, "1 2 0:9 / /slow rw - fuse.sshfs server:/x rw\n").unwrap();
        let (answer, waits) = mpsc::channel::<()>();
        let (waits, answered) = (Mutex::new(waits), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&answered);
        let statfs = move |_: &Path| {
            // The test is over.
            waits.lock().unwrap().recv().map_err(|_| Errno::IO)?;
            let answer = rustix::fs::statfs("/");
            *count.lock().unwrap() += 1;
            answer
        };
        let mut collector = Filesystem { limit: Duration::from_millis(10), ..collector(&list, Filter::default(), statfs) };
        let mut output = Output::new(100, Arc::default());
        let size = r#"node_filesystem_size_bytes{device="server:/x",fstype="fuse.sshfs",mountpoint="/slow"} "#;
        assert!(!has(&round(&mut collector, &mut output), size));
        for reports in 1..4 {
            thread::sleep(collector.limit * 2);
            answer.send(()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while *answered.lock().unwrap() < reports {
                assert!(Instant::now() < deadline, "it was asked again for report {reports}");
                thread::yield_now();
            }
            // The answer is there, and reaches the collector a moment later.
            while !has(&round(&mut collector, &mut output), size) {
                assert!(Instant::now() < deadline, "an answer that came between two reports counts in the next");
            }
        }
    }

    #[test]
    fn those_that_never_answer_take_a_bounded_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("mountinfo");
        let mut mounts = String::new();
        for number in 0..MAX_ASKED + 8 {
            writeln!(mounts, "1 2 0:{number} / /m/{number:02} rw - nfs server:/{number} rw").unwrap();
        }
        fs::write(&list, mounts).unwrap();
        let (answers, hung) = mpsc::channel::<()>();
        let hung = Mutex::new(hung);
        let statfs = move |_: &Path| {
            let _ = hung.lock().unwrap().recv();
            rustix::fs::statfs("/")
        };
        let mut collector = collector(&list, Filter::default(), statfs);
        let mut output = Output::new(1000, Arc::default());
        for _ in 0..2 {
            let texts = round(&mut collector, &mut output);
            let with = |error: &str| texts.iter().filter(|text| text.contains(&format!(r#"device_error="{error}""#))).count();
            assert_eq!((with(TIMEOUT), with("too many other filesystems do not answer")), (MAX_ASKED, 8));
            assert_eq!(collector.asked.len(), MAX_ASKED);
        }
        // They answer again: those that had no place get one, and all are reported in each round, once the answers are there.
        drop(answers);
        let deadline = Instant::now() + Duration::from_secs(30);
        for _ in 0..3 {
            loop {
                let texts = round(&mut collector, &mut output);
                let sizes = texts.iter().filter(|text| text.starts_with("node_filesystem_size_bytes{")).count();
                if sizes == MAX_ASKED + 8 && !texts.iter().any(|text| text.contains("device_error=\"")) {
                    break;
                }
                assert!(Instant::now() < deadline, "{sizes} are reported: {texts:?}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn those_beyond_the_limit_are_counted_and_those_that_are_excluded_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("mountinfo");
        let mut mounts = String::new();
        for number in 0..300 {
            writeln!(mounts, "1 2 8:{number} / /m/{number:03} rw - ext4 /dev/{number} rw").unwrap();
        }
        fs::write(&list, mounts).unwrap();
        for (filter, reported, counts) in [
            (Filter::default(), MAX_FILESYSTEMS, vec![(SkipReason::Limit, 300 - MAX_FILESYSTEMS as u64)]),
            (without_mounts("/m/1.*"), 200, vec![]),
        ] {
            let mut output = Output::new(10_000, Arc::default());
            let mut collector = collector(&list, filter, |_| rustix::fs::statfs("/"));
            collector.collect(&mut Reader::default(), &mut output).unwrap();
            let mut readings = Readings::default();
            output.finish(&mut readings);
            assert_eq!(readings.gauges.iter().filter(|gauge| gauge.start.contains("node_filesystem_size_bytes")).count(), reported);
            assert_eq!(readings.skipped_counts().collect::<Vec<_>>(), counts);
        }
    }
}
