//! The pods that the kubelet lists are scraped, as long as it lists them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use golectra_agent::batch::MAX_BODY_BYTES;
use golectra_agent::clock::Clock;
use golectra_agent::collect::kubelet::{KubeletAddress, Namespaces, State, TlsMode};
use golectra_agent::collect::scrape::{ScrapeLimits, ScrapeSettings, Scraper, Target};
use golectra_agent::metrics::{AgentMetrics, SkipReason};
use golectra_agent::spool::{Limits, Memory, Queue};
use golectra_protocol::{Source, Value, gzip, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::kubelet_server::{Authority, KubeletServer, Reply};

const LIMITS: ScrapeLimits =
    ScrapeLimits { body_bytes: 1 << 20, samples: 10_000, labels: 64, label_name_bytes: 256, label_value_bytes: 2048 };

struct Running {
    queue: Queue,
    metrics: Arc<AgentMetrics>,
    stop: CancellationToken,
}

/// Targets that are scraped every second.
fn settings(targets: Vec<Target>) -> ScrapeSettings {
    let interval = Duration::from_secs(1);
    ScrapeSettings {
        targets,
        pods: None,
        namespaces: Namespaces { exclude: "kube-*".parse().unwrap(), ..Namespaces::default() },
        interval,
        timeout: interval,
        limits: LIMITS,
        filter: Arc::default(),
        ca_file: None,
        token_file: None,
    }
}

fn target(url: &str, job: &str) -> Target {
    Target::new(format!("{url}/metrics").parse().unwrap(), Some(job), &Source::unnamed())
}

impl Running {
    fn start(targets: Vec<Target>, pods: Option<KubeletAddress>, max_series: usize) -> Self {
        Self::with(ScrapeSettings { pods, ..settings(targets) }, max_series)
    }

    fn with(settings: ScrapeSettings, max_series: usize) -> Self {
        let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
        let limits = Limits { batches: 1000, bytes: 64 << 20, age: Duration::from_hours(1) };
        let queue = Queue::new(Box::new(Memory::new(limits, Arc::clone(&metrics))), Clock::system());
        let stop = CancellationToken::new();
        let scraper = Scraper::new(settings, max_series, None, Arc::clone(&metrics)).unwrap();
        tokio::spawn(scraper.run(queue.clone(), stop.clone()));
        Self { queue, metrics, stop }
    }

    /// The gauges of the next batch.
    async fn next(&self) -> BTreeMap<String, f64> {
        assert!(tokio::time::timeout(Duration::from_secs(30), self.queue.ready()).await.expect("a batch within 30 s"));
        let batch = self.queue.take().unwrap();
        self.queue.acknowledge(&batch);
        let body = gzip::unpack(batch.body(), MAX_BODY_BYTES).unwrap();
        let metrics = json::decode_batch(&body, 5_000).expect("at most 5,000 items");
        assert_eq!(metrics.len() as u64, batch.items());
        let gauge = |value| if let Value::Gauge(value) = value { value } else { panic!("a gauge") };
        metrics.iter().map(|metric| (metric.id.to_owned(), gauge(metric.value))).collect()
    }

    /// Waits for a batch that fits.
    async fn wait_for(&self, what: &str, fits: impl Fn(&BTreeMap<String, f64>) -> bool) {
        for _ in 0..60 {
            if fits(&self.next().await) {
                return;
            }
        }
        panic!("no batch fits: {what}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn pod(name: &str, port: &str, path: &str) -> String {
    pod_in("shop", name, port, path)
}

fn pod_in(namespace: &str, name: &str, port: &str, path: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}","annotations":{{"prometheus.io/scrape":"true","prometheus.io/port":"{port}","prometheus.io/path":"{path}"}}}},
            "status":{{"phase":"Running","podIP":"127.0.0.1"}}}}"#
    )
}

#[tokio::test]
async fn the_pods_of_the_node_are_scraped_as_long_as_they_are_there() {
    let pods = Arc::new(Mutex::new(None::<String>));
    let listed = Arc::clone(&pods);
    let cluster = Authority::new("cluster");
    let kubelet = KubeletServer::tls(cluster.identity(&["127.0.0.1"], (2020, 2100)), move |asked| {
        assert_eq!((asked.path.as_str(), asked.authorization.as_str()), ("/pods", "Bearer a-token"));
        let pods = listed.lock().unwrap().clone();
        pods.map_or(Reply::Body(500, Arc::default()), |pods| Reply::ok(format!(r#"{{"kind":"PodList","items":[{pods}]}}"#)))
    })
    .await;
    let server = KubeletServer::plain(|asked| match asked.path.as_str() {
        "/app" => {
            assert_eq!(asked.authorization, "", "the token is for the kubelet alone");
            Reply::ok("requests_total{pod=\"own\"} 5\n")
        }
        _ => Reply::Body(404, Arc::default()),
    })
    .await;
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    *pods.lock().unwrap() =
        Some([pod("app-1", &port, "/app"), pod_in("kube-system", "dns", &port, "/excluded"), pod("app-2", &port, "/other")].join(","));
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("token"), "a-token").unwrap();
    std::fs::write(files.path().join("ca.crt"), cluster.pem()).unwrap();
    let address = KubeletAddress {
        url: kubelet.url.parse().unwrap(),
        host_ip: None,
        node_name: None,
        tls: TlsMode::Auto,
        ca_file: files.path().join("ca.crt"),
        token_file: files.path().join("token"),
    };
    let scraper = Running::start(vec![], Some(address), 1000);
    let id = |name: &str, more: &str, pod: &str| {
        let labels = [more, &format!("instance=\"127.0.0.1:{port}\",job=\"kubernetes-pods\",namespace=\"shop\",pod=\"{pod}\"")];
        format!("{name}{{{}}}", labels.concat())
    };
    let (up_1, up_2) = (id("up", "", "app-1"), id("up", "", "app-2"));
    let requests = id("requests_total", "exported_pod=\"own\",", "app-1");
    let one = |batch: &BTreeMap<String, f64>, id: &str, value: f64| batch.get(id).is_some_and(|found| found.to_bits() == value.to_bits());
    scraper.wait_for("both pods", |batch| one(batch, &up_1, 1.0) && one(batch, &requests, 5.0) && one(batch, &up_2, 0.0)).await;
    // While the kubelet does not answer, the pods are those of its last list.
    *pods.lock().unwrap() = None;
    let asked = kubelet.asked().len();
    while kubelet.asked().len() < asked + 2 {
        scraper.next().await;
    }
    scraper.wait_for("the first pod", |batch| one(batch, &up_1, 1.0)).await;
    *pods.lock().unwrap() = Some(pod("app-2", &port, "/app"));
    scraper.wait_for("only the second pod", |batch| one(batch, &up_2, 1.0) && !batch.contains_key(&up_1)).await;
    let excluded = server.asked().iter().filter(|asked| asked.path == "/excluded").count();
    assert_eq!(excluded, 0, "PODS_EXCLUDE_NAMESPACES is for scraping too");
}

#[tokio::test]
async fn a_large_target_takes_several_batches_and_the_series_of_all_targets_have_a_limit() {
    let server = KubeletServer::plain(|_| {
        let text = (0..7000).fold(String::new(), |mut text, number| {
            writeln!(text, "a{{number=\"{number}\"}} {number}").unwrap();
            text
        });
        Reply::ok(text)
    })
    .await;
    let scraper = Running::start(vec![target(&server.url, "large")], None, 6000);
    // The series and five metrics about the scrape.
    scraper.wait_for("the first batch", |batch| batch.len() == 5000).await;
    assert_eq!(scraper.next().await.len(), 1005);
    let skipped = scraper.metrics.readings_skipped_so_far("scrape", SkipReason::Limit);
    assert!(skipped >= 1000 && skipped.is_multiple_of(1000), "{skipped}");
}

/// The value of a metric of a job in a batch.
fn of_job(batch: &BTreeMap<String, f64>, name: &str, job: &str) -> Option<f64> {
    let label = format!("job=\"{job}\"");
    batch.iter().find(|(id, _)| id.split('{').next() == Some(name) && id.contains(&label)).map(|(_, value)| *value)
}

#[tokio::test]
async fn a_target_that_closes_its_kept_connection_is_asked_again_on_a_new_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let unanswered = Arc::new(AtomicUsize::new(0));
    let closed = Arc::clone(&unanswered);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            // The first request on a connection is answered, the second one is read and the connection closed.
            if read_head(&mut connection).await {
                connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\na 1\n").await.unwrap();
            }
            if read_head(&mut connection).await {
                closed.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let settings = ScrapeSettings { timeout: Duration::from_secs(30), ..settings(vec![target(&url, "app")]) };
    let scraper = Running::with(settings, 1000);
    for _ in 0..3 {
        let batch = scraper.next().await;
        assert_eq!((of_job(&batch, "up", "app"), of_job(&batch, "a", "app")), (Some(1.0), Some(1.0)));
    }
    assert!(unanswered.load(Ordering::Relaxed) >= 2, "connections were kept");
}

/// Reads the head of a request; false where the connection ends before.
async fn read_head(connection: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = connection.read_u8().await else { return false };
        head.push(byte);
    }
    true
}

#[tokio::test]
async fn targets_with_tls_are_verified_and_get_the_token() {
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let answer = |_: &crate::kubelet_server::Asked| Reply::ok("requests_total 5\nmemory_bytes 6\n");
    let trusted = KubeletServer::tls(authority.identity(&["127.0.0.1"], (2020, 2100)), answer).await;
    let expired = KubeletServer::tls(authority.identity(&["127.0.0.1"], (2020, 2021)), answer).await;
    let misnamed = KubeletServer::tls(authority.identity(&["app.example.org"], (2020, 2100)), answer).await;
    let plain = KubeletServer::plain(answer).await;
    let files = tempfile::tempdir().unwrap();
    let (ca_file, token_file) = (files.path().join("ca.crt"), files.path().join("token"));
    std::fs::write(&ca_file, other.pem()).unwrap();
    std::fs::write(&token_file, "first\n").unwrap();
    let targets = vec![
        target(&trusted.url, "trusted"),
        target(&expired.url, "expired"),
        target(&misnamed.url, "misnamed"),
        target(&plain.url, "plain"),
    ];
    let filter = golectra_agent::collect::Choice { include: None, exclude: Some("memory_.*".parse().unwrap()) };
    let settings = ScrapeSettings {
        timeout: Duration::from_secs(30),
        filter: filter.into(),
        ca_file: Some(ca_file.clone()),
        token_file: Some(token_file.clone()),
        ..settings(targets)
    };
    let scraper = Running::with(settings, 1000);
    let up = |batch: &BTreeMap<String, f64>| ["trusted", "expired", "misnamed", "plain"].map(|job| of_job(batch, "up", job));
    scraper.wait_for("only the one without TLS", |batch| up(batch) == [Some(0.0), Some(0.0), Some(0.0), Some(1.0)]).await;
    assert!(trusted.asked().is_empty(), "nothing was asked of who is not trusted");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let found = |batch: &BTreeMap<String, f64>| {
        up(batch) == [Some(1.0), Some(0.0), Some(0.0), Some(1.0)]
            && of_job(batch, "requests_total", "trusted") == Some(5.0)
            && of_job(batch, "memory_bytes", "trusted").is_none()
            && of_job(batch, "scrape_samples_scraped", "trusted") == Some(2.0)
            && of_job(batch, "scrape_samples_post_metric_relabeling", "trusted") == Some(1.0)
    };
    scraper.wait_for("the one that the authority in the file has signed", found).await;
    assert!(trusted.asked().iter().chain(&plain.asked()).all(|asked| asked.authorization == "Bearer first"));
    std::fs::write(&token_file, "second").unwrap();
    scraper.wait_for("the new token", |_| trusted.asked().last().is_some_and(|asked| asked.authorization == "Bearer second")).await;
    std::fs::remove_file(&token_file).unwrap();
    scraper.wait_for("no scrape without the token", |batch| up(batch)[3] == Some(0.0)).await;
    assert!(expired.asked().is_empty() && misnamed.asked().is_empty());
}

#[tokio::test]
async fn the_doctor_says_which_targets_and_files_can_be_read() {
    let server = KubeletServer::plain(|asked| match asked.path.as_str() {
        "/metrics" => Reply::ok("a 1\nb NaN\nmemory_bytes 3\n"),
        "/broken" => Reply::ok("a 1\nb{ 2\n"),
        _ => Reply::Body(404, Arc::default()),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("whole.prom"), "a 1\nb 2\n").unwrap();
    std::fs::write(folder.path().join("broken.prom"), "a 1\n\nb{ 2\n").unwrap();
    std::fs::write(folder.path().join("ca.crt"), "not a certificate").unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let settings = golectra_agent::config::Settings::parse(
        [format!("--address={}", server.url)],
        [
            ("SCRAPE", format!("whole={0}/metrics broken={0}/broken gone={0}/gone?token=secret", server.url)),
            ("SCRAPE_METRICS_EXCLUDE", "memory_.*".to_owned()),
            ("SCRAPE_CA_FILE", path("ca.crt")),
            ("SCRAPE_TOKEN_FILE", path("token")),
            ("SCRAPE_PODS", "true".to_owned()),
            ("TEXTFILE_DIRS", format!("{},{}", path("."), path("none"))),
        ],
    )
    .unwrap();
    let findings = |settings: golectra_agent::config::Settings| async move {
        let found = golectra_agent::doctor::examine(&settings).await;
        let ours = found.into_iter().filter(|finding| ["scrape", "textfile"].contains(&finding.subject));
        ours.map(|finding| (finding.state, finding.text)).collect::<Vec<_>>()
    };
    let found = findings(settings).await;
    let has = |state: State, text: &str| {
        assert!(found.iter().any(|(one, said)| *one == state && said.contains(text)), "{text:?} is not among {found:#?}");
    };
    has(State::Works, "1 files with 2 samples");
    has(State::Missing, "broken.prom cannot be read: line 3");
    has(State::Missing, "none");
    has(State::Missing, "has no certificate of an authority");
    has(State::Missing, "SCRAPE_TOKEN_FILE");
    has(State::Missing, "/metrics cannot be scraped: the token");
    has(State::Missing, "SCRAPE_PODS needs the kubelet, and KUBELET_URL is not set");
    assert!(!found.iter().any(|(_, said)| said.contains("secret")), "{found:#?}");

    let arguments = [
        format!("--scrape=whole={0}/metrics broken={0}/broken gone={0}/gone?token=secret", server.url),
        "--scrape-metrics-exclude=memory_.*".to_owned(),
    ];
    let found = findings(golectra_agent::config::Settings::parse(arguments, [("", ""); 0]).unwrap()).await;
    assert_eq!(found.len(), 3, "{found:#?}");
    let works =
        "/metrics is scraped: 3 samples, of which 1 are left out by SCRAPE_METRICS_INCLUDE and SCRAPE_METRICS_EXCLUDE, of which 1 are NaN";
    assert!(found[0].0 == State::Works && found[0].1.contains(works), "{found:#?}");
    assert!(found[1].0 == State::Missing && found[1].1.contains("line 2"), "{found:#?}");
    assert!(found[2].0 == State::Missing && found[2].1.contains("404") && !found[2].1.contains("secret"), "{found:#?}");
}
