//! The agent's questions to a kubelet, over HTTP and TLS.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use golectra_agent::batch::MAX_BODY_BYTES;
use golectra_agent::clock::Clock;
use golectra_agent::collect::kubelet::{Check, Kubelet, KubeletAddress, KubeletSettings, Namespaces, NodeMetrics, State, TlsMode};
use golectra_agent::metrics::AgentMetrics;
use golectra_agent::spool::{Limits, Memory, Queue};
use golectra_protocol::{Value, gzip, json};
use tokio_util::sync::CancellationToken;

use crate::kubelet_server::{Authority, Identity, KubeletServer, Reply};

const SUMMARY: &[u8] = include_bytes!("../../src/collect/kubelet/testdata/summary-1.34.json");
const WEB_CPU: &str =
    r#"container_cpu_usage_seconds_total{container="web",cpu="total",job="kubelet",namespace="shop",pod="web-7d4b9c-x2x4z"}"#;
const VERIFIED: &str = "golectra_agent_kubelet_certificate_verified";
const SUCCESS: &str = r#"golectra_agent_collector_success{collector="kubelet"}"#;
/// What says how the questions of a reading in detail went.
const QUESTIONS: [&str; 3] =
    [SUCCESS, r#"golectra_agent_collector_success{collector="pods"}"#, r#"golectra_agent_collector_success{collector="cadvisor"}"#];
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A folder with a token and authorities.
struct Files(tempfile::TempDir);

impl Files {
    fn new(authorities: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("token", "first-token\n");
        files.write("ca.crt", authorities);
        files
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn settings(&self, url: &str) -> KubeletSettings {
        let address = KubeletAddress {
            url: url.parse().unwrap(),
            host_ip: Some(LOOPBACK),
            node_name: Some("node-1".to_owned()),
            tls: TlsMode::Auto,
            ca_file: self.path().join("ca.crt"),
            token_file: self.path().join("token"),
        };
        let node_metrics = NodeMetrics { network: true, filesystem: true };
        KubeletSettings {
            address,
            interval: Duration::from_millis(100),
            details: false,
            namespaces: Namespaces::default(),
            max_series: 10_000,
            node_metrics,
            filter: Arc::default(),
        }
    }
}

/// A running reader of a kubelet.
struct Reader {
    queue: Queue,
    metrics: Arc<AgentMetrics>,
    stop: CancellationToken,
}

impl Reader {
    fn start(settings: KubeletSettings) -> Self {
        let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
        let limits = Limits { batches: 1000, bytes: 16 << 20, age: Duration::from_hours(1) };
        let queue = Queue::new(Box::new(Memory::new(limits, Arc::clone(&metrics))), Clock::system());
        let stop = CancellationToken::new();
        tokio::spawn(Kubelet::new(settings, Arc::clone(&metrics)).run(queue.clone(), None, stop.clone()));
        Self { queue, metrics, stop }
    }

    /// The gauges of the next batch.
    async fn next(&self) -> BTreeMap<String, f64> {
        self.next_with_time().await.1
    }

    /// The time of the next batch, in unix milliseconds, and its gauges.
    async fn next_with_time(&self) -> (u64, BTreeMap<String, f64>) {
        let ready = tokio::time::timeout(Duration::from_secs(30), self.queue.ready()).await;
        assert!(ready.expect("a batch within 30 s"));
        let batch = self.queue.take().unwrap();
        self.queue.acknowledge(&batch);
        assert_eq!(batch.polls(), 0, "polls are not counted twice");
        let body = gzip::unpack(batch.body(), MAX_BODY_BYTES).unwrap();
        let metrics = json::decode_batch(&body, 10_000).unwrap();
        assert_eq!(metrics.len() as u64, batch.items());
        let gauge = |value| if let Value::Gauge(value) = value { value } else { panic!("a gauge") };
        let gauges = metrics.iter().map(|metric| (metric.id.to_owned(), gauge(metric.value))).collect();
        (batch.key().unix_millis(), gauges)
    }

    /// The batches of a reading in detail, one for each question, with their times.
    async fn in_detail(&self) -> [(u64, BTreeMap<String, f64>); 3] {
        let mut batches: Vec<(u64, BTreeMap<String, f64>)> = Vec::new();
        while batches.len() < QUESTIONS.len() {
            batches.push(self.next_with_time().await);
        }
        // A queue does not always give the oldest batch first.
        QUESTIONS.map(|question| {
            let place = batches.iter().position(|(_, gauges)| gauges.contains_key(question));
            batches.swap_remove(place.unwrap_or_else(|| panic!("{question} is in one of them")))
        })
    }

    /// Waits for a batch that fits.
    async fn wait_for(&self, what: &str, fits: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        let found = async {
            loop {
                let batch = self.next().await;
                if fits(&batch) {
                    return batch;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found).await.unwrap_or_else(|_| panic!("{what} within 30 s"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_summary_becomes_batches_of_their_own() {
    let cluster = Authority::new("cluster");
    let kubelet = KubeletServer::tls(cluster.identity(&["127.0.0.1"], NOW), |_| Reply::ok(SUMMARY)).await;
    let reader = Reader::start(Files::new("").settings(&kubelet.url));
    // The files are gone by now.
    let failed = reader.next().await;
    assert_eq!((failed.get(SUCCESS), failed.len()), (Some(&0.0), 2));
    assert_eq!(reader.metrics.kubelet_failures_so_far("token"), 1);

    let files = Files::new(&cluster.pem());
    let reader = Reader::start(files.settings(&kubelet.url));
    for _ in 0..2 {
        let batch = reader.next().await;
        assert_eq!((batch.get(SUCCESS), batch.get(WEB_CPU)), (Some(&1.0), Some(&3723.5)));
    }
    files.write("token", "second-token");
    reader.wait_for("the new token", |_| kubelet.asked().last().is_some_and(|asked| asked.authorization == "Bearer second-token")).await;
    let first = kubelet.asked()[0].clone();
    assert_eq!((first.path.as_str(), first.authorization.as_str()), ("/stats/summary", "Bearer first-token"));
}

#[tokio::test]
async fn without_tls_the_token_is_not_sent_and_there_is_no_certificate() {
    let kubelet = KubeletServer::plain(|_| Reply::ok(SUMMARY)).await;
    let files = Files::new("");
    let reader = Reader::start(files.settings(&kubelet.url));
    let batch = reader.next().await;
    assert_eq!((batch.get(SUCCESS), batch.get(WEB_CPU), batch.get(VERIFIED)), (Some(&1.0), Some(&3723.5), None));
    // Nor has it to be there.
    std::fs::remove_file(files.path().join("token")).unwrap();
    let read = kubelet.asked().len();
    reader.wait_for("answers without a token", |batch| batch.contains_key(WEB_CPU) && kubelet.asked().len() > read + 2).await;
    assert_eq!(reader.metrics.kubelet_failures_so_far("token"), 0);
    assert!(kubelet.asked().iter().all(|asked| asked.authorization.is_empty()));
}

/// What a pod's absence from the kubelet's answer does.
#[tokio::test]
async fn a_pod_that_is_gone_is_not_sent_any_more() {
    let without_pods = String::from_utf8(SUMMARY.to_vec()).unwrap().replace("\"pods\": [", "\"former\": [");
    let kubelet = KubeletServer::plain({
        let asked = std::sync::atomic::AtomicUsize::new(0);
        move |_| {
            let first = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            if first { Reply::ok(SUMMARY) } else { Reply::ok(without_pods.as_bytes()) }
        }
    })
    .await;
    let files = Files::new("");
    let reader = Reader::start(files.settings(&kubelet.url));
    assert!(reader.next().await.contains_key(WEB_CPU));
    let after = reader.next().await;
    assert!(!after.keys().any(|id| id.contains("pod=")) && after.contains_key(SUCCESS));
}

#[tokio::test]
async fn a_kubelet_that_misbehaves_is_a_metric_and_never_ends_the_reader() {
    for (reply, reason) in [
        (Reply::Body(403, Arc::new(b"Forbidden (user=u, verb=get, resource=nodes, subresource=stats)".to_vec())), "denied"),
        (Reply::Body(401, Arc::new(b"Unauthorized".to_vec())), "unauthenticated"),
        (Reply::Body(404, Arc::new(b"404 page not found".to_vec())), "not_found"),
        (Reply::Body(500, Arc::new(vec![b'x'; 1 << 20])), "status"),
        (Reply::Body(302, Arc::new(vec![])), "status"),
        (Reply::ok("<html>"), "invalid"),
        (Reply::ok("{}"), "invalid"),
        (Reply::ok("{\"node\":{},\"pods\":["), "cut"),
        (Reply::ok(""), "cut"),
        (Reply::Half, "cut"),
        (Reply::Close, "cut"),
    ] {
        let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let kubelet = KubeletServer::plain({
            let broken = Arc::clone(&broken);
            move |_| if broken.load(std::sync::atomic::Ordering::Relaxed) { reply.clone() } else { Reply::ok(SUMMARY) }
        })
        .await;
        let files = Files::new("");
        let reader = Reader::start(files.settings(&kubelet.url));
        let failed = reader.next().await;
        assert_eq!(failed.get(SUCCESS), Some(&0.0), "{reason}");
        assert!(reader.metrics.kubelet_failures_so_far(reason) >= 1, "{reason}");
        broken.store(false, std::sync::atomic::Ordering::Relaxed);
        reader.wait_for("a kubelet that answers again", |batch| batch.contains_key(WEB_CPU)).await;
    }
}

#[tokio::test]
async fn a_kubelet_that_is_gone_slow_or_endless_ends_within_the_limits() {
    let gone = Reader::start(Files::new("").settings("http://127.0.0.1:1"));
    drop(gone.next().await);
    let files = Files::new("");
    let closed = Reader::start(files.settings("http://127.0.0.1:1"));
    closed.next().await;
    assert_eq!(closed.metrics.kubelet_failures_so_far("unreachable"), 1);

    let (slow, endless) = (KubeletServer::plain(|_| Reply::Hang).await, KubeletServer::plain(|_| Reply::Endless).await);
    let (slow, endless) = (Reader::start(files.settings(&slow.url)), Reader::start(files.settings(&endless.url)));
    let (slow_batch, endless_batch) = tokio::join!(slow.next(), endless.next());
    assert_eq!((slow_batch.get(SUCCESS), endless_batch.get(SUCCESS)), (Some(&0.0), Some(&0.0)));
    assert_eq!(slow.metrics.kubelet_failures_so_far("timeout"), 1);
    let bounded = endless.metrics.kubelet_failures_so_far("too_large") + endless.metrics.kubelet_failures_so_far("timeout");
    assert!(bounded >= 1);
}

/// How a kubelet with this certificate is read: whether it is, and whether it was verified.
async fn over_tls(identity: Identity, authorities: &str, change: impl FnOnce(&mut KubeletAddress)) -> (bool, Option<bool>, u64) {
    let kubelet = KubeletServer::tls(identity, |_| Reply::ok(SUMMARY)).await;
    let files = Files::new(authorities);
    let mut settings = files.settings(&kubelet.url);
    change(&mut settings.address);
    let reader = Reader::start(settings);
    let batch = reader.next().await;
    let verified = batch.get(VERIFIED).map(|value| value.to_bits() == 1f64.to_bits());
    (batch.contains_key(WEB_CPU), verified, reader.metrics.kubelet_failures_so_far("certificate"))
}

const NOW: (i32, i32) = (2020, 2100);
const PAST: (i32, i32) = (2020, 2021);
const ACCEPTED: (bool, Option<bool>, u64) = (true, Some(true), 0);
const OF_OWN_NODE: (bool, Option<bool>, u64) = (true, Some(false), 0);
const REFUSED: (bool, Option<bool>, u64) = (false, None, 1);

#[tokio::test]
async fn certificates_of_the_clusters_authority_are_verified() {
    let (cluster, other) = (Authority::new("cluster"), Authority::new("worker-1-ca@1"));
    let elsewhere = |address: &mut KubeletAddress| address.host_ip = Some("10.0.0.1".parse().unwrap());
    let verify = |address: &mut KubeletAddress| address.tls = TlsMode::Verify;
    let signed = |names: &[&str], years| cluster.identity(names, years);
    assert_eq!(over_tls(signed(&["127.0.0.1"], NOW), &cluster.pem(), |_| {}).await, ACCEPTED);
    assert_eq!(over_tls(signed(&["127.0.0.1"], NOW), &cluster.pem(), verify).await, ACCEPTED);
    assert_eq!(over_tls(signed(&["127.0.0.1"], NOW), &cluster.pem(), elsewhere).await, ACCEPTED);
    assert_eq!(over_tls(signed(&["127.0.0.1"], NOW), &format!("{}{}", other.pem(), cluster.pem()), verify).await, ACCEPTED);
    assert_eq!(over_tls(signed(&["node-1"], NOW), &cluster.pem(), verify).await, ACCEPTED, "the node's name is as good as its address");
    // What a known authority signed for another node, or long ago, is refused even from the own node.
    for own in [true, false] {
        let change = |address: &mut KubeletAddress| {
            if !own {
                elsewhere(address);
            }
        };
        assert_eq!(over_tls(signed(&["node-2"], NOW), &cluster.pem(), change).await, REFUSED, "own: {own}");
        assert_eq!(over_tls(signed(&["127.0.0.1"], PAST), &cluster.pem(), change).await, REFUSED, "own: {own}");
    }
}

#[tokio::test]
async fn certificates_that_nobody_can_verify_are_accepted_from_the_own_node_alone() {
    let (cluster, own) = (Authority::new("cluster"), Authority::new("worker-1-ca@1"));
    for (years, authorities) in [(NOW, cluster.pem()), (PAST, cluster.pem()), (NOW, String::new()), (NOW, "no certificate".to_owned())] {
        let identity = || own.identity(&["worker-1"], years);
        assert_eq!(over_tls(identity(), &authorities, |_| {}).await, OF_OWN_NODE, "{years:?}");
        assert_eq!(over_tls(identity(), &authorities, |address| address.tls = TlsMode::Verify).await, REFUSED, "{years:?}");
        assert_eq!(over_tls(identity(), &authorities, |address| address.host_ip = None).await, REFUSED, "{years:?}");
        let elsewhere = |address: &mut KubeletAddress| address.host_ip = Some("10.0.0.1".parse().unwrap());
        assert_eq!(over_tls(identity(), &authorities, elsewhere).await, REFUSED, "{years:?}");
    }
}

#[tokio::test]
async fn authorities_are_read_again_when_they_change() {
    let (cluster, old) = (Authority::new("cluster"), Authority::new("old"));
    let kubelet = KubeletServer::tls(cluster.identity(&["127.0.0.1"], NOW), |_| Reply::ok(SUMMARY)).await;
    let files = Files::new(&old.pem());
    let mut settings = files.settings(&kubelet.url);
    settings.address.tls = TlsMode::Verify;
    let reader = Reader::start(settings);
    assert_eq!(reader.next().await.get(SUCCESS), Some(&0.0));
    files.write("ca.crt", &cluster.pem());
    let batch = reader.wait_for("a verified certificate", |batch| batch.contains_key(WEB_CPU)).await;
    assert_eq!(batch.get(VERIFIED), Some(&1.0));
}

const PODS: &[u8] = include_bytes!("../../src/collect/kubelet/testdata/pods-1.36.json");
const CADVISOR: &[u8] = include_bytes!("../../src/collect/kubelet/testdata/cadvisor.txt");

/// A kubelet that allows what is in the list.
async fn allowing(paths: &'static [&'static str]) -> KubeletServer {
    KubeletServer::plain(move |asked| match asked.path.as_str() {
        path if !paths.contains(&path) => Reply::Body(403, Arc::new(format!("Forbidden: {path}").into_bytes())),
        "/stats/summary" => Reply::ok(SUMMARY),
        "/pods" => Reply::ok(PODS),
        "/metrics/cadvisor" => Reply::ok(CADVISOR),
        _ => Reply::ok("kubernetes_build_info{git_version=\"v1.36.0\"} 1\n"),
    })
    .await
}

#[tokio::test]
async fn details_are_asked_for_only_where_the_settings_say_so() {
    const RESTARTS: &str = "kube_pod_container_status_restarts_total{container=\"web\",";
    const OOM: &str = "container_oom_events_total{container=\"web\",";
    let kubelet = allowing(&["/stats/summary", "/pods", "/metrics/cadvisor"]).await;
    let files = Files::new("");
    let mut settings = files.settings(&kubelet.url);
    let plain = Reader::start(settings.clone());
    let batch = plain.next().await;
    plain.next().await;
    assert!(!batch.keys().any(|id| id.starts_with("kube_")));
    assert!(kubelet.asked().iter().all(|asked| asked.path == "/stats/summary"));
    drop(plain);

    settings.details = true;
    // One reading is enough.
    settings.interval = Duration::from_hours(1);
    let [summary, pods, cadvisor] = Reader::start(settings.clone()).in_detail().await;
    for ((_, batch), start) in [(summary, WEB_CPU), (pods, RESTARTS), (cadvisor, OOM)] {
        assert!(batch.keys().any(|id| id.starts_with(start)), "{start}");
    }

    // A kubelet before 1.33 denies the list of pods: the rest is there all the same.
    let older = allowing(&["/stats/summary", "/metrics/cadvisor"]).await;
    settings.address.url = older.url.parse().unwrap();
    let reader = Reader::start(settings);
    let [(_, summary), (_, pods), (_, cadvisor)] = reader.in_detail().await;
    assert!(summary.contains_key(WEB_CPU) && cadvisor.keys().any(|id| id.starts_with(OOM)));
    assert_eq!((pods.get(QUESTIONS[1]), pods.len()), (Some(&0.0), 2));
    assert_eq!(reader.metrics.kubelet_failures_so_far("denied"), 1);
}

#[tokio::test]
async fn an_answer_has_its_own_time_however_long_the_next_one_takes() {
    const WAIT: Duration = Duration::from_secs(3);
    let answered_at = Arc::new(AtomicU64::new(0));
    let kubelet = KubeletServer::plain({
        let answered_at = Arc::clone(&answered_at);
        move |asked| match asked.path.as_str() {
            "/stats/summary" => {
                answered_at.store(Clock::system().unix_millis(), Ordering::Relaxed);
                Reply::ok(SUMMARY)
            }
            "/pods" => Reply::ok(PODS),
            _ => Reply::Late(WAIT, Arc::new(CADVISOR.to_vec())),
        }
    })
    .await;
    let files = Files::new("");
    let settings = KubeletSettings { details: true, interval: Duration::from_hours(1), ..files.settings(&kubelet.url) };
    let [(summary_at, summary), (pods_at, _), (cadvisor_at, _)] = Reader::start(settings).in_detail().await;
    assert!(summary.contains_key(WEB_CPU));
    let after = |at: u64| at.saturating_sub(answered_at.load(Ordering::Relaxed));
    assert!(after(summary_at) < 2500 && after(pods_at) < 2500, "{} ms, {} ms", after(summary_at), after(pods_at));
    assert!(after(cadvisor_at) >= 2900, "{} ms", after(cadvisor_at));
}

#[tokio::test]
async fn the_limit_of_series_is_one_for_a_reading_and_leaves_room_for_how_it_went() {
    let kubelet = allowing(&["/stats/summary", "/pods", "/metrics/cadvisor"]).await;
    let files = Files::new("");
    let settings = KubeletSettings { details: true, interval: Duration::from_hours(1), max_series: 30, ..files.settings(&kubelet.url) };
    let batches = Reader::start(settings).in_detail().await;
    let series: usize = batches.iter().map(|(_, gauges)| gauges.len()).sum();
    assert!((QUESTIONS.len() * 2..=30).contains(&series), "{series} series");
}

#[tokio::test]
async fn the_doctor_says_what_can_be_read_and_why_not() {
    let check = async |paths, details| {
        let kubelet = allowing(paths).await;
        let files = Files::new("");
        let mut settings = files.settings(&kubelet.url);
        settings.details = details;
        Check::new(settings).run().await
    };
    let missing = |findings: &[golectra_agent::collect::kubelet::Finding]| -> Vec<_> {
        findings.iter().filter(|finding| finding.state == State::Missing).map(|finding| (finding.subject, finding.text.clone())).collect()
    };
    let all: &[_] = &["/stats/summary", "/pods", "/metrics/cadvisor", "/metrics"];
    let findings = check(all, true).await;
    assert_eq!(missing(&findings), []);
    assert!(findings.iter().any(|finding| finding.text == "kubelet v1.36.0"), "{findings:?}");
    let findings = check(all, false).await;
    assert!(findings.iter().any(|finding| finding.subject == "details" && finding.text.contains("PODS_DETAILS")), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.text.contains("2 pods")), "{findings:?}");
    let denied = missing(&check(&["/stats/summary"], true).await);
    assert_eq!(denied.iter().map(|(subject, _)| *subject).collect::<Vec<_>>(), ["cadvisor", "pods"]);
    assert!(denied[0].1.contains("nodes/metrics") && denied[1].1.contains("nodes/pods"), "{denied:?}");
    let denied = missing(&check(&[], false).await);
    assert!(denied.len() == 1 && denied[0].1.contains("Forbidden: /stats/summary") && denied[0].1.contains("nodes/stats"), "{denied:?}");
}
