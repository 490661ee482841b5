//! The agent where /proc is mounted with `hidepid`, which hides other users' processes.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use golectra_protocol::json;
use tokio::process::Command;

use crate::server::{Act, Server};

/// Mounts a /proc and goes on as somebody from whom `hidepid` hides: not in its group, and without a capability. It ends with the process before it.
const SCRIPT: &str = r#"mount -t proc -o "hidepid=$1" proc "$2" && shift 2 && exec "$@""#;
const NOBODY: [&str; 7] =
    ["setpriv", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--pdeathsig=KILL", "--"];
/// What a container has: processes of its own, and a /proc that shows them.
const CONTAINER: [&str; 6] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// A program in a mount namespace of its own, where /proc is mounted at this folder with `hidepid`.
fn hidden(hidepid: &str, folder: &str, program: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", SCRIPT, "sh", hidepid, folder]).args(program);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Whether this user may mount a /proc. Containers, those of the CI among them, may not.
async fn may_mount() -> bool {
    let tried = hidden("invisible", "/proc", &[&NOBODY[..], &["test", "!", "-e", "/proc/1"]].concat()).output().await;
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        // Not with eprintln, because the test runner hides that output of a passing test.
        let _ = writeln!(std::io::stderr(), "left out: only root may mount a /proc with hidepid, and not in a container");
    }
    works
}

/// The names of all metrics in the first two reports of an agent that is started like this, and its log.
async fn reported(hidepid: &str, folder: &str, program: &[&str], variables: &[(&str, &str)]) -> (BTreeSet<String>, String) {
    let server = Server::start(|_, _| Act::Apply).await;
    let mut command = hidden(hidepid, folder, &[program, &[env!("CARGO_BIN_EXE_golectra-agent")]].concat());
    command.envs([("ADDRESS", server.address.as_str()), ("POLL_INTERVAL", "100ms"), ("REPORT_INTERVAL", "300ms"), ("LOG_FORMAT", "json")]);
    command.envs(variables.iter().copied());
    let mut child = command.spawn().unwrap();
    server.wait_for("two reports", |ledger| ledger.applied.len() >= 2).await;
    child.kill().await.unwrap();
    let log = String::from_utf8(child.wait_with_output().await.unwrap().stderr).unwrap();
    let mut names = BTreeSet::new();
    for request in &server.ledger().requests {
        for metric in &json::decode_batch(&request.unpacked(), 10_000).unwrap() {
            // Of the collectors it counts which of them work.
            let name = metric.id.split('{').next().unwrap().to_owned();
            let works = metric.value == golectra_protocol::Value::Gauge(1.0);
            names.insert(if name.ends_with("_success") { format!("{} {works}", metric.id) } else { name });
        }
    }
    (names, log)
}

#[tokio::test]
async fn a_machine_is_reported_whole_where_processes_are_hidden() {
    if !may_mount().await {
        return;
    }
    let (all, _) = reported("off", "/proc", &NOBODY, &[]).await;
    assert!(all.contains("node_cpu_seconds_total") && all.contains("HeapReleased"), "{all:?}");
    for hidepid in ["noaccess", "invisible"] {
        let (found, log) = reported(hidepid, "/proc", &NOBODY, &[]).await;
        assert_eq!(all.symmetric_difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "hidepid={hidepid}: {log}");
    }
}

#[tokio::test]
async fn in_a_container_the_network_of_a_pod_does_not_pass_as_the_nodes() {
    if !may_mount().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let host_proc = folder.path().to_str().unwrap();
    let in_container = [&CONTAINER[..], &NOBODY].concat();
    let variables = [("HOST_PROC", host_proc)];
    let (seen, log) = reported("off", host_proc, &in_container, &variables).await;
    assert!(seen.contains("node_network_receive_bytes_total") && !log.contains("hidepid"), "{seen:?} {log}");
    for hidepid in ["noaccess", "invisible"] {
        let (hidden, log) = reported(hidepid, host_proc, &in_container, &variables).await;
        let missing: Vec<_> = seen.difference(&hidden).collect();
        let of_network = |name: &&String| {
            let parts = ["node_network_", "node_netstat_", "node_sockstat_", "node_udp_queues", "node_arp_entries"];
            let collectors = ["arp", "netdev", "netstat", "sockstat", "udp_queues"].map(|name| format!("collector=\"{name}\""));
            parts.iter().any(|part| name.starts_with(part)) || collectors.iter().any(|collector| name.contains(collector))
        };
        assert!(missing.len() > 5 && missing.iter().all(of_network), "{missing:?}");
        assert!(hidden.is_subset(&seen) && !hidden.iter().any(|name| name.starts_with("node_network_")), "{hidden:?}");
        assert!(log.contains("HOST_PROC is mounted with hidepid") && log.contains(host_proc), "{log}");
    }

    let program = [&in_container, &[env!("CARGO_BIN_EXE_golectra-agent"), "doctor"][..]].concat();
    let output = hidden_doctor(host_proc, &program).await;
    let line = output.lines().find(|line| line.contains("hidepid")).unwrap_or_else(|| panic!("{output}"));
    assert!(line.starts_with("MISSING network") && line.contains("user 0") && line.contains("option gid"), "{line}");
}

async fn hidden_doctor(host_proc: &str, program: &[&str]) -> String {
    let output = hidden("invisible", host_proc, program).env("HOST_PROC", host_proc).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stdout).unwrap()
}
