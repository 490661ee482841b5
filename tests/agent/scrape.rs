//! What the agent scrapes is on the server, with the labels that Prometheus would give it.

mod differential;

use std::time::Duration;

use golectra_tests::{Agent, Client, Exit, Receiver, Reply, Server, encode, eventually, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);

/// An agent that scrapes these targets every two seconds; on a busy machine one of them may be late now and then.
fn scraping(server: &Server, targets: &str) -> Agent {
    Agent::builder(&server.url()).env("SCRAPE", targets).env("SCRAPE_INTERVAL", "2s").start()
}

/// The value of the series that a selector finds; None if it finds none.
async fn query(client: &Client, selector: &str) -> Option<f64> {
    let answer = client.get(&format!("/api/v1/query?query={}", encode(selector))).send().await.expect(200).json();
    let result = answer["data"]["result"].as_array().expect("a vector").clone();
    assert!(result.len() < 2, "{selector} finds several: {result:?}");
    result.first().map(|series| series["value"][1].as_str().expect("a text").parse().expect("a number"))
}

async fn becomes(client: &Client, selector: &str, value: f64) {
    until(&format!("{selector} is {value}"), LIMIT, async || {
        query(client, selector).await.is_some_and(|found| (found - value).abs() < f64::EPSILON)
    })
    .await;
}

#[tokio::test]
async fn a_target_gives_its_series_and_metrics_about_the_scrape() {
    let server = Server::builder().start();
    let client = server.client();
    let target = Receiver::start(|_| {
        let text = "# TYPE requests_total counter\nrequests_total{code=\"200\",job=\"own\"} 7\n\
            # TYPE d histogram\nd_bucket{le=\"1\"} 2\nd_bucket{le=\"+Inf\"} 3\nd_sum 4.5\nd_count 3\nempty NaN\n";
        Reply::status(200).body("text/plain; version=0.0.4; charset=utf-8", text)
    })
    .await;
    let expvar = Receiver::start(|_| {
        Reply::status(200).body("application/json; charset=utf-8", r#"{"cmdline":["a"],"jobs":3,"memstats":{"Alloc":4096,"PauseNs":[0]}}"#)
    })
    .await;
    let mut agent = scraping(&server, &format!("app={}/metrics, {}/debug/vars", target.url(), expvar.url()));
    let labels = format!("instance=\"agent:{}\",job=\"app\"", target.port());
    becomes(&client, &format!("requests_total{{code=\"200\",exported_job=\"own\",{labels}}}"), 7.0).await;
    becomes(&client, &format!("d_bucket{{le=\"1.0\",{labels}}}"), 2.0).await;
    becomes(&client, &format!("d_sum{{{labels}}}"), 4.5).await;
    becomes(&client, &format!("up{{{labels}}}"), 1.0).await;
    becomes(&client, &format!("scrape_samples_scraped{{{labels}}}"), 6.0).await;
    becomes(&client, &format!("scrape_series_added{{{labels}}}"), 0.0).await;
    assert_eq!(query(&client, &format!("empty{{{labels}}}")).await, None, "no gauge is NaN");
    let labels = format!("instance=\"agent:{}\",job=\"expvar\"", expvar.port());
    becomes(&client, &format!("jobs{{{labels}}}"), 3.0).await;
    becomes(&client, &format!("Alloc{{{labels}}}"), 4096.0).await;
    // The original's name without labels is the agent's own.
    let own = client.value("gauge", "Alloc").await.expect("the agent's own");
    assert_ne!(own, "4096");
    let request = &target.requests()[0];
    assert!(request.header("accept").is_some_and(|accept| accept.starts_with("application/openmetrics-text;version=1.0.0")));
    assert_eq!(request.header("x-prometheus-scrape-timeout-seconds"), Some("2"));
    assert!(agent.metric("golectra_agent_readings_skipped_total").await.is_some_and(|skipped| skipped >= 1.0), "the NaN is counted");
    assert_eq!(agent.stop(), Exit::Code(0), "{}", agent.tail());
}

#[tokio::test]
async fn a_target_that_fails_is_down_and_is_logged_once() {
    let server = Server::builder().start();
    let client = server.client();
    let broken = Receiver::start(|_| Reply::status(200).body("text/html", "<html>")).await;
    let agent = scraping(&server, &format!("broken={}/metrics gone=http://127.0.0.1:1/metrics", broken.url()));
    becomes(&client, "up{job=\"broken\"}", 0.0).await;
    becomes(&client, "up{job=\"gone\"}", 0.0).await;
    until("several scrapes", LIMIT, async || broken.requests().len() >= 4).await;
    let lines: Vec<Value> = agent.stderr().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said = |job: &str| lines.iter().filter(|line| line["job"] == job && line["level"] == "WARN").cloned().collect::<Vec<_>>();
    let (broken_lines, gone_lines) = (said("broken"), said("gone"));
    assert_eq!((broken_lines.len(), gone_lines.len()), (1, 1), "{broken_lines:?} {gone_lines:?}");
    let error = broken_lines[0]["error"].as_str().expect("a text");
    assert!(error.contains("text/html"), "{error}");
}

#[tokio::test]
async fn series_beyond_the_limit_are_in_the_log() {
    let server = Server::builder().start();
    let many = Receiver::start(|_| {
        let text = (0..130).fold(String::new(), |text, number| text + &format!("a{{number=\"{number}\"}} 1\n"));
        Reply::status(200).body("text/plain; version=0.0.4", text)
    })
    .await;
    let agent = Agent::builder(&server.url())
        .env("SCRAPE", format!("many={}/metrics", many.url()))
        .env("SCRAPE_INTERVAL", "2s")
        .env("SCRAPE_MAX_SERIES", "100")
        .start();
    let line =
        eventually("the line", LIMIT, async || agent.stderr().lines().find(|line| line.contains("SCRAPE_MAX_SERIES")).map(str::to_owned))
            .await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((line["job"].as_str(), line["samples"].as_u64(), line["level"].as_str()), (Some("many"), Some(30), Some("WARN")), "{line}");
}

#[tokio::test]
async fn packed_answers_and_openmetrics_are_read_and_a_bomb_is_not() {
    let server = Server::builder().start();
    let client = server.client();
    let target = Receiver::start(|request| {
        let text = match request.path.as_str() {
            "/bomb" => "a 1\n".repeat(1 << 20),
            "/cut" => "a 1\n".to_owned(),
            _ => "# TYPE a counter\na_total 5 # {trace_id=\"x\"} 1\n# EOF\n".to_owned(),
        };
        assert_eq!(request.header("accept-encoding"), Some("gzip"));
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        Reply::status(200).body(media_type, golectra_tests::gzip(text.as_bytes())).header("content-encoding", "gzip")
    })
    .await;
    let agent = Agent::builder(&server.url())
        .env("SCRAPE", format!("whole={0}/whole bomb={0}/bomb cut={0}/cut", target.url()))
        .env("SCRAPE_INTERVAL", "2s")
        .env("SCRAPE_MAX_BYTES", "1MiB")
        .start();
    becomes(&client, "a_total{job=\"whole\"}", 5.0).await;
    becomes(&client, "up{job=\"bomb\"}", 0.0).await;
    becomes(&client, "up{job=\"cut\"}", 0.0).await;
    assert_eq!(query(&client, "a{job=\"cut\"}").await, None, "nothing of an answer that was cut off");
    let log = eventually("both failures in the log", LIMIT, async || {
        let log = agent.stderr();
        (log.contains("larger than 1048576 bytes") && log.contains("expected the line # EOF")).then_some(log)
    })
    .await;
    assert!(!log.contains("panicked"), "{log}");
}
