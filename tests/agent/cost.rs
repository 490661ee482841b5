//! What reports cost: their size, and the CPU of an agent and of a server for each.
//!
//! Measured only when asked for, with optimized programs: `scripts/build -p golectra-agent -p golectra-server` and then
//! `GOLECTRA_BIN=$PWD/target/release cargo test -p golectra-tests --test agent -- --ignored --nocapture cost`.

use std::time::Duration;

use golectra_protocol::json;
use golectra_tests::{Agent, KubeletNode, Received, Receiver, Server, fresh_key, until};

/// Reports of each kind that are measured.
const REPORTS: usize = 12;

/// Writes of each kind that a server takes.
const WRITES: usize = 400;

const LIMIT: Duration = Duration::from_mins(2);

/// What an agent sent of one kind.
struct Reports {
    name: &'static str,
    bodies: Vec<Vec<u8>>,
    items: u64,
    unpacked: usize,
    agent_cpu_seconds: f64,
    is_of_pods: bool,
}

/// Which reports are taken of what an agent sends.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Node,
    Pods,
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn ratio(sum: f64, count: usize) -> f64 {
    sum / count as f64
}

/// Lets an agent report a node with so many pods, at intervals a tenth of the default ones.
async fn reports(name: &'static str, pods: Option<(u64, bool)>, kind: Kind, settings: &[(&str, &str)]) -> Reports {
    let node = KubeletNode::with_pods(0..pods.map_or(0, |(pods, _)| pods));
    let server = Receiver::start(move |request| node.answer_beside_a_server(request)).await;
    let token = tempfile::NamedTempFile::new().expect("a file");
    let mut agent = Agent::builder(&server.url()).env("POLL_INTERVAL", "200ms").env("REPORT_INTERVAL", "1s");
    if let Some((_, details)) = pods {
        agent = agent.env("KUBELET_URL", server.url()).env("KUBELET_INTERVAL", "1s").env("PODS_DETAILS", details);
        agent = agent.env("KUBELET_TOKEN_FILE", token.path().display());
    }
    let agent = settings.iter().fold(agent, |agent, (name, value)| agent.env(name, value)).start();
    let of_kind = |request: &Received| {
        let is_node = request.unpacked().windows(9).any(|name| name == b"PollCount");
        request.path == "/updates" && is_node == (kind == Kind::Node)
    };
    let found = || server.requests().into_iter().filter(of_kind).collect::<Vec<_>>();
    // The first ones pay for what is made once.
    until("two reports", LIMIT, async || found().len() >= 2).await;
    let (before, cpu_before) = (found().len(), agent.cpu_seconds());
    until("reports", LIMIT, async || found().len() >= before + REPORTS).await;
    let agent_cpu_seconds = agent.cpu_seconds() - cpu_before;
    let reports: Vec<Received> = found().split_off(before);
    let unpacked: Vec<_> = reports.iter().map(Received::unpacked).collect();
    Reports {
        name,
        is_of_pods: kind == Kind::Pods,
        items: unpacked.iter().map(|body| json::count_items(body).expect("an array")).sum::<u64>() / reports.len() as u64,
        unpacked: unpacked.iter().map(Vec::len).sum::<usize>() / reports.len(),
        agent_cpu_seconds: ratio(agent_cpu_seconds, reports.len()),
        bodies: reports.into_iter().map(|request| request.body).collect(),
    }
}

/// The CPU of a server with a store in memory for a report, in seconds; its series exist after the first round.
async fn server_cpu_seconds(bodies: &[Vec<u8>]) -> f64 {
    let server = Server::builder().start();
    let client = server.client();
    let write = async |body: &Vec<u8>| {
        let request = client.post("/updates").source("agent").idempotency_key(&fresh_key()).header("content-encoding", "gzip");
        request.header("content-type", "application/json").body(body.clone()).send().await.expect(200);
    };
    for body in bodies {
        write(body).await;
    }
    let before = server.cpu_seconds();
    for body in bodies.iter().cycle().take(WRITES) {
        write(body).await;
    }
    ratio(server.cpu_seconds() - before, WRITES)
}

#[tokio::test]
#[ignore = "a measurement of some minutes"]
async fn cost_of_reports() {
    let only_original: &[(&str, &str)] = &[("HOST_METRICS_EXCLUDE", ".*")];
    println!("| report | items | bytes | gzipped | agent CPU ms | server CPU ms |\n|---|---|---|---|---|---|");
    let mut without_pods = None;
    for reports in [
        reports("the original's metrics", None, Kind::Node, only_original).await,
        reports("with those of the host", None, Kind::Node, &[]).await,
        reports("30 pods", Some((30, false)), Kind::Pods, only_original).await,
        reports("110 pods", Some((110, false)), Kind::Pods, only_original).await,
        reports("30 pods in detail", Some((30, true)), Kind::Pods, only_original).await,
        reports("110 pods in detail", Some((110, true)), Kind::Pods, only_original).await,
    ] {
        let gzipped = reports.bodies.iter().map(Vec::len).sum::<usize>() / reports.bodies.len();
        let server = server_cpu_seconds(&reports.bodies).await;
        // An agent that reads pods makes the reports of the node as well.
        let agent = reports.agent_cpu_seconds - if reports.is_of_pods { without_pods.unwrap_or_default() } else { 0.0 };
        without_pods.get_or_insert(agent);
        println!("| {} | {} | {} | {gzipped} | {:.2} | {:.2} |", reports.name, reports.items, reports.unpacked, agent * 1e3, server * 1e3);
    }
}
