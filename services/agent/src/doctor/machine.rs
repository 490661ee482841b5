//! What this machine, or the mounts of its node, show to the agent.

use std::fs::{File, metadata};
use std::path::{Path, absolute};

use rustix::fs::{Access, access, statvfs};
use rustix::process::geteuid;

use crate::collect::kubelet::{Finding, State};
use crate::collect::{HostPaths, hides_first_process};
use crate::config::Settings;

/// What belongs to a network namespace, which a container has of its own.
const NETWORK: &str = "node_network_*, node_netstat_*, node_sockstat_*, node_arp_entries, node_udp_queues";

/// Whether reports can wait on disk.
pub(super) fn spool(settings: &Settings) -> Finding {
    let finding = |state, text: String| Finding::new(state, "spool", text);
    let Some(folder) = settings.spool_dir.as_deref() else {
        let text = "SPOOL_DIR is not set: reports that the server has not taken wait in memory and are lost with the process";
        return finding(State::Note, text.to_owned());
    };
    let shown = folder.display();
    // The agent creates the folder when it starts.
    let whole = absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let existing = whole.ancestors().find(|path| path.exists()).unwrap_or(&whole);
    if metadata(existing).is_ok_and(|found| !found.is_dir()) {
        return finding(State::Missing, format!("{shown} cannot be used: {} is not a folder; set SPOOL_DIR to one", existing.display()));
    }
    if let Err(error) = access(existing, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        let user = geteuid().as_raw();
        let text = format!(
            "{shown} cannot be written: {error}; let user {user} write to {}, or set SPOOL_DIR to another folder",
            existing.display()
        );
        return finding(State::Missing, text);
    }
    let limit = settings.disk_limits().bytes;
    let free = statvfs(existing).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if let Some(text) = too_small(free, used_bytes(&whole), limit) {
        return finding(State::Note, format!("{shown} can be written, but {text}"));
    }
    let when = if existing == whole { "can be written" } else { "can be created, which the agent does when it starts" };
    finding(State::Works, format!("{shown} {when}"))
}

/// What is said of a disk that cannot hold a full spool.
fn too_small(free_bytes: u64, used_bytes: u64, limit_bytes: u64) -> Option<String> {
    let missing = limit_bytes.checked_sub(free_bytes.saturating_add(used_bytes)).filter(|missing| *missing > 0)?;
    let missing = missing.div_ceil(1 << 20);
    Some(format!(
        "its disk has {missing} MiB less than SPOOL_MAX_BYTES: once it is full, reports wait in memory; free as much, or lower SPOOL_MAX_BYTES"
    ))
}

/// What the files of a spool take already.
fn used_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// What the kernel shows of the node to every process.
pub(super) fn kernel(paths: &HostPaths) -> Vec<Finding> {
    let open = |file: &str| {
        let path = paths.proc.join(file);
        (path.display().to_string(), File::open(path).map(drop))
    };
    let advice =
        if paths.proc == Path::new("/proc") { "let this agent's user read it" } else { "mount the node's /proc there, or unset HOST_PROC" };
    let mut findings = Vec::new();
    for (file, what) in [("stat", "processors"), ("meminfo", "memory"), ("diskstats", "disks")] {
        findings.push(match open(file) {
            (path, Ok(())) => Finding::new(State::Works, "proc", format!("{path} can be read: {what}")),
            (path, Err(error)) => {
                let text = format!("{path} cannot be read: {error}; nothing is reported of the node's {what}: {advice}");
                Finding::new(State::Missing, "proc", text)
            }
        });
    }
    findings.push(match open("pressure/cpu") {
        (path, Ok(())) => {
            Finding::new(State::Works, "pressure", format!("{path} can be read: how long the node's processes are stalled (PSI)"))
        }
        (path, Err(error)) => {
            let text = format!("{path} cannot be read: {error}; node_pressure_* needs a kernel with PSI, which some start with psi=1 only");
            Finding::new(State::Note, "pressure", text)
        }
    });
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "version 2"
    } else if Path::new("/sys/fs/cgroup/memory").exists() {
        "version 1: the kubelet tells no pressure of containers"
    } else {
        "the version is not known: /sys/fs/cgroup is not mounted"
    };
    findings.push(Finding::new(State::Note, "cgroup", version));
    findings
}

fn is_in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// What to set in a container that stands for a machine, as those of LXC do: what it sees as its own is what is to be reported. A pod is none.
fn own_machine(setting: &str, is_in_pod: bool) -> String {
    if is_in_pod { String::new() } else { format!("; in a container that is a machine of its own (LXC), set {setting}") }
}

/// Where the node's network is read.
pub(super) fn network(settings: &Settings, paths: &HostPaths) -> Finding {
    let finding = |state, text: String| Finding::new(state, "network", text);
    let of_kubelet = if settings.kubelet_url.is_some() {
        "the kubelet tells bytes and errors of its interfaces alone"
    } else {
        "nothing is reported of it"
    };
    let Some(proc) = settings.host_proc.as_deref() else {
        return if paths.sees_first_process {
            finding(State::Works, "this agent runs outside of containers and sees the node's network".to_owned())
        } else {
            let own = own_machine("HOST_PROC=/proc", is_in_pod());
            let text = format!("HOST_PROC is not set: {of_kubelet}; {NETWORK} need the node's /proc, mounted at HOST_PROC{own}");
            finding(State::Note, text)
        };
    };
    let shown = proc.display();
    if !paths.sees_first_process && hides_first_process(proc) {
        let user = geteuid().as_raw();
        let text = format!(
            "HOST_PROC: {shown} is mounted with hidepid, which hides the node's first process and its network from user {user}: {of_kubelet}; run \
             the agent in the group of the mount's option gid, or unset HOST_PROC"
        );
        return finding(State::Missing, text);
    }
    let devices = if proc.join("1/net").exists() { "1/net/dev" } else { "net/dev" };
    match File::open(proc.join(devices)) {
        Ok(_) => finding(State::Works, format!("HOST_PROC: {shown}/{devices} can be read: the node's network")),
        Err(error) => {
            let text =
                format!("HOST_PROC: {shown}/{devices} cannot be read: {error}; mount the node's /proc at {shown}, or unset HOST_PROC");
            finding(State::Missing, text)
        }
    }
}

/// Where the node's filesystems are read.
pub(super) fn filesystems(settings: &Settings, paths: &HostPaths) -> Finding {
    let finding = |state, text: String| Finding::new(state, "filesystems", text);
    match (settings.host_root.as_deref(), &paths.root) {
        (Some(root), _) => match std::fs::read_dir(root.join("etc")) {
            Ok(_) => finding(State::Works, format!("HOST_ROOT: {} can be read: each of the node's filesystems", root.display())),
            Err(error) => {
                let shown = root.display();
                let text = format!("HOST_ROOT: {shown}/etc cannot be read: {error}; mount the node's / at {shown}, or unset HOST_ROOT");
                finding(State::Missing, text)
            }
        },
        (None, Some(_)) => finding(State::Works, "this agent runs outside of containers and sees the node's filesystems".to_owned()),
        (None, None) => {
            let of_kubelet = if settings.kubelet_url.is_some() {
                "the kubelet tells of the root's and the images' alone"
            } else {
                "nothing is reported of them"
            };
            let own = own_machine("HOST_ROOT=/", is_in_pod());
            finding(State::Note, format!("HOST_ROOT is not set: {of_kubelet}; all of them need the node's /, mounted at HOST_ROOT{own}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{own_machine, too_small};

    #[test]
    fn a_container_that_is_a_machine_of_its_own_is_told_what_to_set() {
        assert!(own_machine("HOST_ROOT=/", false).ends_with("(LXC), set HOST_ROOT=/"));
        assert_eq!(own_machine("HOST_ROOT=/", true), "");
    }

    #[test]
    fn what_the_spool_has_already_counts_as_room() {
        const MIB: u64 = 1 << 20;
        assert_eq!(too_small(300 * MIB, 212 * MIB, 512 * MIB), None);
        assert_eq!(too_small(u64::MAX, 1, 512 * MIB), None);
        let text = too_small(300 * MIB, 211 * MIB + 1, 512 * MIB).unwrap();
        assert!(text.starts_with("its disk has 1 MiB less than SPOOL_MAX_BYTES"), "{text}");
    }
}
