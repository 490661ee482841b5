//! The agent with reports on disk: killed, stopped, with a full disk. Every report that it sealed is on the server once.

use std::path::Path;
use std::process::Command;

use std::time::{Duration, Instant};

use golectra_tests::{Agent, Exit, Fault, Proxy, Server, skip, until};
use serde_json::Value;
use tempfile::TempDir;

use crate::tally::{polls_made, quick};

const LIMIT: Duration = Duration::from_mins(1);

/// An agent that keeps its reports in this folder and logs each report that it seals.
fn spooling(url: &str, folder: &Path) -> golectra_tests::AgentBuilder {
    quick(url).env("SPOOL_DIR", folder.display()).env("LOG_LEVEL", "info,golectra_agent=debug")
}

fn folder() -> TempDir {
    TempDir::with_prefix("golectra-spool-").expect("a temporary folder can be made")
}

/// The values of a field in the log lines with this message.
fn logged(agent: &Agent, message: &str, field: &str) -> Vec<i64> {
    let log = agent.stderr();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).map(|line| line[field].as_i64().expect("a number")).collect()
}

/// The polls in the reports that an agent logged as sealed.
fn polls_sealed(agent: &Agent) -> i64 {
    logged(agent, "a batch is sealed", "polls").iter().sum()
}

async fn metric(agent: &Agent, name: &str) -> f64 {
    agent.metric(name).await.unwrap_or(0.0)
}

async fn seals(agent: &Agent, reports: usize) {
    let sealed = || logged(agent, "a batch is sealed", "polls").len();
    let wanted = sealed() + reports;
    until("reports are sealed", LIMIT, async || sealed() >= wanted).await;
}

#[tokio::test]
async fn killed_again_and_again_while_the_server_is_away() {
    let folder = folder();
    let mut server = Server::builder().start();
    server.kill();
    let mut sealed = 0;
    for _ in 0..5 {
        let mut agent = spooling(&server.url(), folder.path()).start();
        seals(&agent, 3).await;
        // The next report is half a second away.
        agent.kill();
        let found = logged(&agent, "the spool holds reports of an earlier run: they are sent now", "polls");
        assert_eq!(found.iter().sum::<i64>(), sealed, "each process finds what those before it have sealed");
        sealed += polls_sealed(&agent);
    }
    let server = server.start_again();
    let mut agent = spooling(&server.url(), folder.path()).start();
    until("the backlog is sent", LIMIT, async || metric(&agent, "golectra_agent_reports_acknowledged_total").await >= 15.0).await;
    assert_eq!(agent.stop(), Exit::Code(0), "{}", agent.tail());
    assert_eq!(server.client().counter("PollCount").await, sealed + polls_made(&agent), "{}", agent.tail());
}

#[tokio::test]
async fn killed_while_it_sends_and_answers_are_cut() {
    let folder = folder();
    let server = Server::builder().start();
    let proxy = Proxy::start(server.port()).await;
    let mut sealed = 0;
    for round in 0..8 {
        // Without the answer the agent sends the report again although the server has it, sometimes in the next process.
        proxy.next([Fault::Unanswered]);
        let mut agent = spooling(&proxy.url(), folder.path()).start();
        seals(&agent, 2 + round % 3).await;
        agent.kill();
        sealed += polls_sealed(&agent);
    }
    assert!(proxy.struck() >= 4, "{} answers were cut", proxy.struck());
    let mut agent = spooling(&server.url(), folder.path()).start();
    seals(&agent, 2).await;
    assert_eq!(agent.stop(), Exit::Code(0), "{}", agent.tail());
    assert!(agent.stderr().contains("every poll was reported"), "{}", agent.tail());
    assert_eq!(server.client().counter("PollCount").await, sealed + polls_sealed(&agent), "{}", agent.tail());
}

#[tokio::test]
async fn what_is_left_at_sigterm_stays_on_disk() {
    let folder = folder();
    let server = Server::builder().start();
    let proxy = Proxy::start(server.port()).await;
    proxy.set(Fault::Hang);
    let mut agent = spooling(&proxy.url(), folder.path()).start();
    seals(&agent, 3).await;
    let start = Instant::now();
    assert_eq!(agent.stop(), Exit::Code(0), "{}", agent.tail());
    assert!(start.elapsed() < Duration::from_secs(16), "it took {:?}", start.elapsed());
    let kept = logged(&agent, "these stay in SPOOL_DIR: the next agent sends them", "polls");
    assert_eq!(kept, [polls_sealed(&agent)]);
    let mut next = spooling(&server.url(), folder.path()).start();
    seals(&next, 2).await;
    assert_eq!(next.stop(), Exit::Code(0), "{}", next.tail());
    assert_eq!(server.client().counter("PollCount").await, kept[0] + polls_made(&next), "{}", next.tail());
}

#[tokio::test]
async fn a_folder_that_another_agent_uses_is_refused() {
    let folder = folder();
    let first = spooling("http://127.0.0.1:1", folder.path()).start();
    seals(&first, 1).await;
    let mut second = spooling("http://127.0.0.1:1", folder.path()).start();
    assert_eq!(second.wait(LIMIT), Exit::Code(1));
    assert!(second.stderr().contains("is in use by another agent"), "{}", second.tail());
}

/// A small file system, if this user may mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let folder = folder();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(folder.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                skip(&format!("no file system can be mounted here: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                skip(&format!("there is no mount: {error}"));
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a program may still have a file open after a failed test.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_is_logged_and_its_reports_are_written_later() {
    let Some(disk) = SmallDisk::mount(256 << 10) else { return };
    let filler = disk.0.path().join("filler");
    let spool = disk.0.path().join("spool");
    std::fs::create_dir(&spool).expect("a folder");
    std::fs::write(&filler, vec![0; (256 << 10) - 12 * 1024]).expect("most of the disk is taken");
    let mut server = Server::builder().start();
    server.kill();
    let mut agent = spooling(&server.url(), &spool).start();
    until("the disk is full", LIMIT, async || metric(&agent, "golectra_agent_spool_write_errors_total").await >= 2.0).await;
    assert!(agent.stderr().contains("the spool cannot be written: reports are kept in memory until it can"), "{}", agent.tail());
    seals(&agent, 2).await;
    let (all, on_disk) = (metric(&agent, "golectra_agent_queue_batches").await, metric(&agent, "golectra_agent_spool_batches").await);
    assert!(all > on_disk, "{all} reports, {on_disk} on disk");
    assert!(agent.metrics_client().try_get("/ping").await.is_some_and(|answer| answer.status == 200));
    std::fs::remove_file(&filler).expect("room again");
    until("everything is on disk", LIMIT, async || {
        let all = metric(&agent, "golectra_agent_queue_batches").await;
        all > on_disk && (metric(&agent, "golectra_agent_spool_batches").await - all).abs() < 0.5
    })
    .await;
    assert!(agent.stderr().contains("the spool can be written again"), "{}", agent.tail());
    seals(&agent, 1).await;
    agent.kill();
    let sealed = polls_sealed(&agent);
    let server = server.start_again();
    let mut next = spooling(&server.url(), &spool).start();
    seals(&next, 2).await;
    assert_eq!(next.stop(), Exit::Code(0), "{}", next.tail());
    assert_eq!(server.client().counter("PollCount").await, sealed + polls_made(&next), "{}", next.tail());
}
