//! Queries end within their limits, and the server tells about them.

use std::time::Duration;

use golectra_tests::{Raw, Server, Target, on_both_stores, until};
use serde_json::{Value, json};

use super::{an_hour_ago, data, error_of, gauge, get, pairs, post, write_at};

const LIMIT: Duration = Duration::from_secs(30);

on_both_stores!(
    a_query_that_takes_too_long_is_503,
    a_query_that_selects_or_needs_too_much_is_422,
    a_query_ends_when_its_client_leaves,
    a_large_answer_is_sent_without_being_held,
    queries_are_counted_and_slow_ones_logged,
);

/// An expression that takes minutes where `m` has been there for some minutes.
const HEAVY: &str = "max_over_time(quantile_over_time(0.5, m[400s:1ms])[400s:10ms])";

/// Writes so many series `m{n="…"}`.
async fn fill(server: &Server, start: u64, series: usize) {
    let client = server.client();
    let batch: Value = (0..series).map(|number| gauge(&format!("m{{n=\"{number}\"}}"), 0.5)).collect();
    write_at(&client, "n1", start, &batch).await;
}

async fn a_query_that_takes_too_long_is_503(t: Target) {
    let (server, start) = (t.own().env("QUERY_TIMEOUT", "1s").env("QUERY_MAX_BYTES", "1GiB").start(), an_hour_ago());
    fill(&server, start, 1).await;
    let (client, time) = (server.client(), (start + 290).to_string());
    for (timeout, limit) in [("", "1 s"), ("200ms", "0.2 s"), ("1h", "1 s")] {
        let answer = post(&client, "query", &[("query", HEAVY), ("time", &time), ("timeout", timeout)]).await.expect(503);
        let message = error_of(&answer, "timeout");
        assert!(message.contains(&format!("longer than {limit}")) && message.contains("QUERY_TIMEOUT"), "{message}");
    }
    let quick = async || get(&client, "query", &[("query", "m"), ("time", &time)]).await.status == 200;
    until("a quick query is answered", LIMIT, quick).await;
}

async fn a_query_that_selects_or_needs_too_much_is_422(t: Target) {
    let (server, start) = (t.own().env("QUERY_MAX_SERIES", "6").env("QUERY_MAX_BYTES", "400KiB").start(), an_hour_ago());
    fill(&server, start, 7).await;
    let (client, time) = (server.client(), start.to_string());
    let message = error_of(&get(&client, "query", &[("query", "m"), ("time", &time)]).await.expect(422), "execution");
    assert!(message.contains("more than 6 series (QUERY_MAX_SERIES)"), "{message}");
    let wide = "m{n!=\"6\"} * 2";
    let end = (start + 10_999).to_string();
    let range = [("query", wide), ("start", time.as_str()), ("end", end.as_str()), ("step", "1"), ("lookback_delta", "1d")];
    let message = error_of(&get(&client, "query_range", &range).await.expect(422), "execution");
    assert!(message.contains("409600 bytes of memory (QUERY_MAX_BYTES)"), "{message}");
    data(&client, "query", &[("query", "m{n=\"0\"}"), ("time", &time)]).await;
}

async fn a_query_ends_when_its_client_leaves(t: Target) {
    let server = t.own().metrics().env("QUERY_MAX_BYTES", "1GiB").env("QUERY_CONCURRENCY", "1").env("QUERY_TIMEOUT", "10m").start();
    let start = an_hour_ago();
    fill(&server, start, 1).await;
    let time = (start + 290).to_string();
    let metric = async |name: &str| server.metrics_client().get("/metrics").send().await.expect(200).metric(name);
    let mut clients = Vec::new();
    // One runs, the others wait for their turn.
    for _ in 0..3 {
        let mut raw = Raw::connect(server.port()).await;
        raw.send(format!("GET /api/v1/query?{} HTTP/1.1\r\nHost: x\r\n\r\n", pairs(&[("query", HEAVY), ("time", &time)]))).await;
        clients.push(raw);
    }
    until("the queries are under way", LIMIT, async || metric("golectra_query_in_flight").await == Some(3.0)).await;
    drop(clients);
    // Long before they would be done or their time were over.
    until("no query is under way", LIMIT, async || metric("golectra_query_in_flight").await == Some(0.0)).await;
    assert_eq!(metric("golectra_query_rejected_total{reason=\"canceled\"}").await, Some(3.0));
    data(&server.client(), "query", &[("query", "m"), ("time", &time)]).await;
}

async fn a_large_answer_is_sent_without_being_held(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    fill(&server, start, 100).await;
    let client = server.client();
    let (first, last) = (start.to_string(), (start + 11_000).to_string());
    let range = [("query", "m / 3"), ("start", first.as_str()), ("end", last.as_str()), ("step", "1"), ("lookback_delta", "1d")];
    let before = server.rss();
    server.reset_peak();
    let answer = post(&client, "query_range", &range).await.expect(200);
    let growth = server.peak_rss().saturating_sub(before);
    assert!(answer.body.len() > 30 << 20, "{} bytes", answer.body.len());
    assert!(growth < (answer.body.len() / 2) as u64, "memory grew by {} MiB for an answer of {}", growth >> 20, answer.body.len() >> 20);
    let json = answer.json();
    let result = json["data"]["result"].as_array().expect("a list");
    assert_eq!(result.len(), 100);
    assert!(result.iter().all(|series| series["values"].as_array().is_some_and(|values| values.len() == 11_001)));
    assert_eq!(result[99]["values"][11_000], json!([start + 11_000, "0.16666666666666666"]));
    let packed = client.get(&format!("/api/v1/query_range?{}", pairs(&range))).accepts_gzip().send().await.expect(200);
    assert!(packed.is_packed() && packed.body == answer.body && packed.wire.len() < answer.body.len() / 5);
}

async fn queries_are_counted_and_slow_ones_logged(t: Target) {
    let (server, start) = (t.own().metrics().env("QUERY_LOG_AFTER", "0").start(), an_hour_ago());
    fill(&server, start, 5).await;
    let (client, time) = (server.client(), start.to_string());
    let padded = format!("count(m) + {}", "0 + ".repeat(100) + &" ".repeat(3_000) + "1");
    data(&client, "query", &[("query", &padded), ("time", &time)]).await;
    data(&client, "query_range", &[("query", "m"), ("start", &time), ("end", &time), ("step", "1")]).await;
    data(&client, "labels", &[]).await;
    get(&client, "query", &[("query", "up(")]).await.expect(400);
    let page = server.metrics_client().get("/metrics").send().await.expect(200);
    for (name, value) in [
        ("golectra_query_duration_seconds_count{kind=\"instant\"}", 2.0),
        ("golectra_query_duration_seconds_count{kind=\"range\"}", 1.0),
        ("golectra_query_duration_seconds_count{kind=\"label_names\"}", 1.0),
        ("golectra_query_samples_total", 10.0),
        ("golectra_query_series_total", 10.0),
        ("golectra_query_rejected_total{reason=\"bad_data\"}", 1.0),
        ("golectra_query_in_flight", 0.0),
        ("golectra_query_memory_bytes", 0.0),
    ] {
        assert_eq!(page.metric(name), Some(value), "{name}");
    }
    golectra_tests::promtool(&page.text());
    let log = server.stderr();
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(|line: &Value| line["query"].is_string()).collect();
    assert_eq!(lines.len(), 4, "{log}");
    assert_eq!(
        (&lines[0]["kind"], &lines[0]["outcome"], &lines[0]["series"], &lines[0]["samples"]),
        (&json!("instant"), &json!("ok"), &json!(5), &json!(5))
    );
    let text = lines[0]["query"].as_str().expect("a text");
    assert!(text.starts_with("count(m) + 0 + ") && text.len() < 2_100, "{text}");
    assert!(lines[0]["peak_bytes"].as_u64() > Some(0) && lines[0]["duration_ms"].is_u64());
    assert_eq!((&lines[3]["outcome"], &lines[3]["query"]), (&json!("bad_data"), &json!("up(")));
}
