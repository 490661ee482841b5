//! A real Prometheus sends to golectra by remote-write while answers are cut off, the server is killed and PostgreSQL crashes.
//!
//! Prometheus sends a message again until it is told that it was stored. Afterwards both have the same samples.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use golectra_tests::{Client, Fault, PostgresCluster, Prometheus, Proxy, Receiver, Reply, Server, encode, unix_millis, until};

use crate::amount;
use crate::load::{LIMIT, pass};
use crate::results::say;

/// Series of the target, beside those that Prometheus makes itself.
const SERIES: u64 = 100;

/// Samples by series, as pairs of the time's text and the value's.
type Samples = BTreeMap<String, Vec<(String, String)>>;

/// A target whose values are others each time.
async fn target() -> Receiver {
    let scrapes = AtomicU64::new(0);
    Receiver::start(move |_| {
        let scrape = scrapes.fetch_add(1, Ordering::SeqCst);
        let mut text = String::new();
        for series in 0..SERIES {
            writeln!(text, "sent_value{{series=\"{series}\"}} {}", scrape * SERIES + series).expect("a text can be written to");
        }
        Reply::status(200).body("text/plain; version=0.0.4", text)
    })
    .await
}

/// The samples of the job up to this time, in unix seconds.
async fn samples(client: &Client, until_seconds: u64) -> Samples {
    let path = format!("/api/v1/query?query={}&time={until_seconds}", encode("{job=\"sent\"}[1h]"));
    let json = client.get(&path).send().await.expect(200).json();
    let found = json["data"]["result"].as_array().expect("a list").iter().map(|series| {
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let samples = series["values"].as_array().expect("samples").iter().map(|sample| (text(&sample[0]), text(&sample[1])));
        (series["metric"].to_string(), samples.collect())
    });
    found.collect()
}

/// What Prometheus says about its sending.
async fn metric(prometheus: &Client, name: &str) -> f64 {
    prometheus.get("/metrics").send().await.expect(200).metric(&format!("prometheus_remote_storage_{name}")).unwrap_or(0.0)
}

/// Waits until Prometheus has been told that something it has scraped after this call is stored.
async fn goes_on(prometheus: &Client) {
    let now = f64::from(u32::try_from(unix_millis() / 1000).expect("before 2106"));
    let sent = async || metric(prometheus, "queue_highest_sent_timestamp_seconds").await;
    until("Prometheus sends what it has", LIMIT, async || sent().await > now + 1.0).await;
}

/// Cuts off answers, and other things that happen on a network.
async fn cut_answers(proxy: &Proxy) {
    let struck = proxy.struck();
    let faults = [Fault::HalfAnswer(20), Fault::Unanswered, Fault::Drop, Fault::HalfAnswer(1), Fault::Unanswered];
    let count = faults.len();
    proxy.next(faults);
    until("answers are cut off", LIMIT, async || proxy.struck() >= struck + count).await;
}

/// Lets Prometheus send through faults, and compares what both have.
async fn send_through(scenario: &str, mut server: Server, cluster: Option<PostgresCluster>) {
    let (start, rounds) = (Instant::now(), amount(2, 20));
    let target = target().await;
    let proxy = Proxy::start(server.port()).await;
    let Some(prometheus) = Prometheus::sending(&format!("127.0.0.1:{}", target.port()), &format!("{}/api/v1/write", proxy.url())) else {
        return;
    };
    let client = Client::new(&prometheus.url(), None);
    for _ in 0..rounds {
        goes_on(&client).await;
        cut_answers(&proxy).await;
        server = server.crash_and_restart_with(&[]);
        goes_on(&client).await;
        if let Some(cluster) = &cluster {
            cluster.stop_immediately();
            // For longer than a write waits for its database.
            pass(Duration::from_secs(4)).await;
            cluster.start_again();
            goes_on(&client).await;
        }
    }
    // One whose answer does not come at all: Prometheus gives up after its time limit and sends the message again.
    proxy.next([Fault::Delay(Duration::from_secs(30))]);
    // A second that is over, since its scrapes may be appended a moment later.
    let until_seconds = unix_millis() / 1000 - 1;
    goes_on(&client).await;
    let (expected, waiting) = (samples(&client, until_seconds).await, Instant::now());
    // Several queues send side by side, and what one of them has sent last says nothing about the others.
    let mut found = samples(&server.client(), until_seconds).await;
    while found != expected && waiting.elapsed() < LIMIT {
        pass(Duration::from_millis(500)).await;
        found = samples(&server.client(), until_seconds).await;
    }
    let count = |samples: &Samples| samples.values().map(Vec::len).sum::<usize>();
    let missing = |these: &Samples, those: &Samples| -> usize {
        let of = |(series, samples): (&String, &Vec<(String, String)>)| {
            let those: std::collections::BTreeSet<_> = those.get(series).into_iter().flatten().collect();
            samples.iter().filter(|sample| !those.contains(sample)).count()
        };
        these.iter().map(of).sum()
    };
    let (lost, other) = (missing(&expected, &found), missing(&found, &expected));
    let (failed, dropped) = (metric(&client, "samples_failed_total").await, metric(&client, "samples_dropped_total").await);
    let retried = metric(&client, "samples_retried_total").await;
    say(
        scenario,
        &format!(
            "{rounds} times: answers cut off ({} in all), server SIGKILLed{}; {} samples in Prometheus, {} here; lost {lost}, doubled or changed {}; \
             sent again {retried}, given up {failed}, dropped {dropped}; {:.1} s",
            proxy.struck(),
            if cluster.is_some() { ", PostgreSQL crashed" } else { "" },
            count(&expected),
            count(&found),
            other.max(count(&found).saturating_sub(count(&expected))),
            start.elapsed().as_secs_f64()
        ),
    );
    assert!(expected.len() > 100 && count(&expected) > 200, "{} series", expected.len());
    assert!(retried > 0.0, "nothing was sent again");
    assert!(failed + dropped < 0.5, "Prometheus gave samples up\n{}", prometheus.tail());
    assert_eq!((lost, other), (0, 0));
    assert!(expected == found, "the samples are the same, but not their numbers or order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_sends_through_faults_to_memory() {
    let server = Server::builder().env("STORE_INTERVAL", "0").env("RESTORE", "true").start();
    send_through("Prometheus, memory", server, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_sends_through_faults_to_postgres() {
    let Some(cluster) = PostgresCluster::start() else { return };
    let server = Server::builder().env("DATABASE_DSN", cluster.url()).start();
    send_through("Prometheus, postgres", server, Some(cluster)).await;
}
