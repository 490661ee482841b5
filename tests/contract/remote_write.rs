//! POST /api/v1/write: Prometheus's remote-write.

use std::time::Duration;

use golectra_tests::remote_write::{RemoteSeries, message_v1, pack, remote_series, remote_write_v1, remote_write_v2, v1};
use golectra_tests::{Answer, Client, Store, Target, encode, on_both_stores, on_every_store, unix_millis, until};
use prost::Message as _;
use serde_json::{Value, json};

on_every_store!(
    both_versions_are_stored,
    what_is_sent_again_is_stored_once,
    another_value_is_refused_after_the_rest_was_stored,
    samples_that_no_history_may_have_are_refused_alone,
    native_histograms_are_refused_alone,
    other_messages_and_codings_are_415,
    damaged_bodies_are_400_and_bombs_are_413,
    a_hash_is_checked_if_there_is_one,
    metadata_is_kept,
);

on_both_stores!(
    a_stale_marker_ends_a_series,
    new_series_over_the_cap_are_429_and_known_ones_are_stored,
    a_request_makes_one_audit_event,
    a_large_request_is_stored_in_parts_and_answered_as_one,
    very_many_new_series_are_stored,
    unsigned_requests_are_refused_where_signatures_are_required,
    what_was_stored_is_known_after_a_crash,
);

/// The bits of a stale marker.
const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

fn now() -> i64 {
    i64::try_from(unix_millis()).expect("the clock is before the year 292278994")
}

/// A refusal in plain text, as Prometheus logs it.
#[track_caller]
fn refusal(answer: Answer, status: u16) -> String {
    let answer = answer.expect(status);
    assert_eq!(answer.media_type(), "text/plain");
    answer.text()
}

/// How many samples an answer says are written, histograms and exemplars being none.
#[track_caller]
fn written(answer: &Answer) -> &str {
    assert_eq!(answer.header("x-prometheus-remote-write-histograms-written"), Some("0"), "{answer:?}");
    assert_eq!(answer.header("x-prometheus-remote-write-exemplars-written"), Some("0"), "{answer:?}");
    answer.header("x-prometheus-remote-write-samples-written").expect("a number of samples")
}

/// The samples that a selector finds over the last hours, as the API answers them; of one series.
async fn samples(client: &Client, selector: &str) -> Vec<(i64, String)> {
    let query = encode(&format!("{selector}[40h]"));
    let answer = client.get(&format!("/api/v1/query?query={query}&time={}", unix_millis() / 1000 + 700)).send().await.expect(200).json();
    let result = answer["data"]["result"].as_array().expect("a list").clone();
    assert!(result.len() < 2, "{result:?}");
    let sample = |sample: &Value| {
        let seconds = sample[0].as_f64().expect("a time");
        #[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds")]
        let at_millis = (seconds * 1000.0).round() as i64;
        (at_millis, sample[1].as_str().expect("a value").to_owned())
    };
    result.iter().flat_map(|series| series["values"].as_array().expect("samples").iter().map(sample)).collect()
}

fn named(name: &str, samples: &[(i64, f64)]) -> RemoteSeries {
    remote_series(name, &[("instance", "host:9090"), ("job", "node")], samples)
}

async fn both_versions_are_stored(t: Target) {
    let (one, two, now) = (t.id("one"), t.id("two"), now());
    let answer = t.remote_write(remote_write_v1(&[named(&one, &[(now - 1000, 1.5), (now, 2.5)])])).send().await.expect(204);
    assert!(answer.body.is_empty() && answer.header("x-prometheus-remote-write-samples-written").is_none());
    let answer =
        t.remote_write_2(remote_write_v2(&[named(&two, &[(now, 3.5)]), named(&one, &[(now - 2000, 0.5)])])).send().await.expect(204);
    assert_eq!(written(&answer), "2");
    let expected = [(now - 2000, "0.5".to_owned()), (now - 1000, "1.5".to_owned()), (now, "2.5".to_owned())];
    assert_eq!(samples(&t, &format!("{one}{{instance=\"host:9090\",job=\"node\"}}")).await, expected);
    assert_eq!(samples(&t, &two).await, [(now, "3.5".to_owned())]);
    assert_eq!(t.value("gauge", &format!("{two}{{instance=\"host:9090\",job=\"node\"}}")).await.as_deref(), Some("3.5"));
    // No label is added to those that were sent.
    let bare = t.id("bare");
    t.remote_write(remote_write_v1(&[remote_series(&bare, &[], &[(now, 1.0)])])).send().await.expect(204);
    let series = t.get(&format!("/api/v1/series?match[]={bare}")).send().await.expect(200).json();
    assert_eq!(series["data"], json!([{"__name__": bare}]));
    // A request may name its source; an empty one has none.
    let source = t.id("edge");
    t.remote_write(remote_write_v1(&[named(&bare, &[(now, 1.0)])])).source(&source).send().await.expect(204);
    let sources = t.get("/api/v1/sources").send().await.expect(200).text();
    assert!(sources.contains(&source) && sources.contains("\"remote-write\""), "{sources}");
    assert_eq!(written(&t.remote_write_2(remote_write_v2(&[])).send().await.expect(204)), "0");
}

async fn what_is_sent_again_is_stored_once(t: Target) {
    let (id, now) = (t.id("again"), now());
    let all: Vec<(i64, f64)> = (0..20).map(|at| (now - 20_000 + 1000 * at, f64::from(u8::try_from(at).unwrap_or(0)))).collect();
    let parts = [&all[..], &all[5..], &all[..7], &all[3..4], &all];
    for part in parts {
        t.remote_write(remote_write_v1(&[named(&id, part)])).send().await.expect(204);
        let answer = t.remote_write_2(remote_write_v2(&[named(&id, part)])).send().await.expect(204);
        assert_eq!(written(&answer), part.len().to_string(), "what is stored already is a success");
    }
    let times: Vec<i64> = samples(&t, &id).await.into_iter().map(|(at, _)| at).collect();
    assert_eq!(times, all.iter().map(|(at, _)| *at).collect::<Vec<_>>());
}

async fn another_value_is_refused_after_the_rest_was_stored(t: Target) {
    let (id, other, now) = (t.id("conflict"), t.id("rest"), now());
    t.remote_write(remote_write_v1(&[named(&id, &[(now - 1000, 1.0)])])).send().await.expect(204);
    let mixed = [named(&id, &[(now - 1000, 2.0), (now, 3.0)]), named(&other, &[(now, 4.0)])];
    for _ in 0..2 {
        let answer = t.remote_write_2(remote_write_v2(&mixed)).send().await;
        assert_eq!(written(&answer), "2");
        let reason = refusal(answer, 400);
        assert!(reason.starts_with("1 of 3 samples were refused, the others are stored: 1 have another value"), "{reason}");
        assert!(reason.contains(&id), "{reason}");
    }
    assert_eq!(samples(&t, &id).await, [(now - 1000, "1".to_owned()), (now, "3".to_owned())]);
    assert_eq!(samples(&t, &other).await, [(now, "4".to_owned())]);
}

async fn samples_that_no_history_may_have_are_refused_alone(t: Target) {
    let (id, now) = (t.id("range"), now());
    let all = [(1, 1.0), (now - 60 * 24 * 3_600_000, 2.0), (now, 3.0), (now + 3_600_000, 4.0), (-5, 5.0)];
    let unnamed = (vec![("a".to_owned(), "b".to_owned())], vec![(now, 1.0)]);
    let answer = t.remote_write_2(remote_write_v2(&[named(&id, &all), unnamed])).send().await;
    assert_eq!(written(&answer), "1");
    let reason = refusal(answer, 400);
    for part in ["5 of 6 samples", "3 are older", "1 are more than 10 minutes ahead", "1 are of invalid series", "__name__"] {
        assert!(reason.contains(part), "{reason} should say {part}");
    }
    assert_eq!(samples(&t, &id).await, [(now, "3".to_owned())]);
}

async fn native_histograms_are_refused_alone(t: Target) {
    let (id, now) = (t.id("histogram"), now());
    let mut message = message_v1(&[named(&id, &[(now, 1.0)])]);
    message.timeseries[0].histograms = vec![vec![0x09, 0, 0, 0, 0, 0, 0, 0, 0]; 3];
    let reason = refusal(t.remote_write(pack(&message.encode_to_vec())).send().await, 400);
    assert!(reason.contains("3 native histograms were refused"), "{reason}");
    assert_eq!(samples(&t, &id).await, [(now, "1".to_owned())]);
}

async fn other_messages_and_codings_are_415(t: Target) {
    let body = remote_write_v1(&[named(&t.id("none"), &[(now(), 1.0)])]);
    let post = || t.post("/api/v1/write").body(body.clone()).unsigned();
    for content_type in ["application/json", "application/x-protobuf;proto=io.prometheus.write.v3.Request", "text/plain"] {
        let answer = post().header("content-type", content_type).header("content-encoding", "snappy").send().await;
        assert!(refusal(answer, 415).contains("application/x-protobuf"), "{content_type}");
    }
    refusal(post().send().await, 415);
    let protobuf = || post().header("content-type", "application/x-protobuf");
    for coding in ["gzip", "zstd", "snappy, snappy", "identity"] {
        let answer = protobuf().header("content-encoding", coding).send().await;
        assert_eq!(answer.header("accept-encoding"), Some("snappy"), "{coding}");
        refusal(answer, 415);
    }
    // Without a word about the coding it is snappy, as the specification has it.
    protobuf().send().await.expect(204);
    assert_eq!(t.get("/api/v1/write").send().await.status, 405);
}

async fn damaged_bodies_are_400_and_bombs_are_413(t: Target) {
    let id = t.id("damaged");
    let whole = message_v1(&[named(&id, &[(now(), 1.0)])]).encode_to_vec();
    for body in [b"golectra".to_vec(), whole.clone(), Vec::new()] {
        assert!(refusal(t.remote_write(body).send().await, 400).contains("snappy"));
    }
    for message in [&whole[..whole.len() - 1], &b"\xff\xff\xff"[..]] {
        assert!(refusal(t.remote_write(pack(message)).send().await, 400).contains("prometheus.WriteRequest"));
    }
    // Version 2.0 is told in headers as well that nothing is written.
    for body in [b"golectra".to_vec(), pack(b"\xff\xff\xff")] {
        let answer = t.remote_write_2(body).send().await;
        assert_eq!(written(&answer), "0");
        refusal(answer, 400);
    }
    let answer = t.remote_write_2(remote_write_v2(&[named(&id, &[(now(), 1.0)])])).source("not/valid").send().await;
    assert_eq!(written(&answer), "0");
    refusal(answer, 400);
    // It says that it has 1 GiB.
    let bomb = [&b"\x80\x80\x80\x80\x04"[..], &[0xfe, 0xff, 0xff, 0xff][..]].concat();
    assert!(refusal(t.remote_write(bomb).send().await, 413).contains("larger than"));
    // Empty samples, which take more when they are decoded.
    let samples = vec![golectra_tests::remote_write::Sample::default(); 4_000_000];
    let labels = vec![v1::Label { name: "__name__".into(), value: id.clone() }];
    let series = v1::TimeSeries { labels, samples, histograms: Vec::new() };
    let message = v1::WriteRequest { timeseries: vec![series], metadata: Vec::new() }.encode_to_vec();
    let answer = t.remote_write(pack(&message)).send().await;
    assert!(matches!(answer.status, 413 | 503), "{answer:?}");
    assert!(self::samples(&t, &id).await.is_empty());
}

async fn a_hash_is_checked_if_there_is_one(t: Target) {
    let (id, now) = (t.id("hash"), now());
    let message = message_v1(&[named(&id, &[(now, 1.0)])]).encode_to_vec();
    let hash = |key: &str| golectra_protocol::hash::body_hash(&message, key.as_bytes());
    if let Some(key) = t.key() {
        let wrong = t.remote_write(pack(&message)).header("HashSHA256", hash("another key")).send().await;
        assert_eq!(refusal(wrong, 400), "invalid hash");
        t.remote_write(pack(&message)).header("HashSHA256", hash(key)).send().await.expect(204);
    }
    t.remote_write(pack(&message)).send().await.expect(204);
}

async fn metadata_is_kept(t: Target) {
    let (id, other) = (t.id("meta_total"), t.id("meta_other"));
    let one = |name: &str, kind, help: &str, unit: &str| v1::MetricMetadata {
        kind,
        metric_family_name: name.to_owned(),
        help: help.to_owned(),
        unit: unit.to_owned(),
    };
    let metadata =
        vec![one(&id, 1, "Requests.", ""), one(&id, 1, "Requests.", ""), one(&id, 2, "Later.", "s"), one(&other, 2, "é", "bytes")];
    let message = v1::WriteRequest { timeseries: Vec::new(), metadata }.encode_to_vec();
    for _ in 0..2 {
        t.remote_write(pack(&message)).send().await.expect(204);
    }
    let get = async |parameters: String| t.get(&format!("/api/v1/metadata?{parameters}")).send().await.expect(200).json()["data"].clone();
    let of_id = get(format!("metric={id}")).await[&id].clone();
    let mut types: Vec<_> = of_id.as_array().expect("a list").iter().map(|one| one["type"].as_str().expect("a type")).collect();
    types.sort_unstable();
    assert_eq!(types, ["counter", "gauge"], "{of_id}");
    let of_other = json!({other.clone(): [{"type": "gauge", "help": "é", "unit": "bytes"}]});
    assert_eq!(get(format!("metric={other}")).await, of_other);
    assert_eq!(get(format!("metric={id}&limit_per_metric=1")).await[&id].as_array().map(Vec::len), Some(1));
    assert_eq!(get("limit=1".into()).await.as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(get("metric=nothing".into()).await, json!({}));
}

async fn a_stale_marker_ends_a_series(t: Target) {
    let (id, now) = (t.id("stale"), now() / 1000 * 1000);
    let series = [named(&id, &[(now - 20_000, 1.0), (now - 10_000, STALE)])];
    t.remote_write(remote_write_v1(&series)).send().await.expect(204);
    let value = async |at: i64| {
        let answer = t.get(&format!("/api/v1/query?query={id}&time={}", at / 1000)).send().await.expect(200).json();
        answer["data"]["result"].as_array().expect("a list").len()
    };
    assert_eq!((value(now - 15_000).await, value(now - 5_000).await), (1, 0));
    // It is no number, so it is in none of golectra's own reads, and again the same is a success.
    assert_eq!(t.value("gauge", &id).await, None);
    t.remote_write(remote_write_v1(&series)).send().await.expect(204);
    let conflict = [named(&id, &[(now - 10_000, f64::NAN)])];
    refusal(t.remote_write(remote_write_v1(&conflict)).send().await, 400);
}

async fn new_series_over_the_cap_are_429_and_known_ones_are_stored(t: Target) {
    let server = t.own().env("MAX_SERIES", 3).env("MAX_SERIES_PER_SOURCE", 1).metrics().start();
    let (client, now) = (server.client(), now());
    let first = [named("a", &[(now - 1000, 1.0)]), named("b", &[(now - 1000, 1.0)]), named("c", &[(now - 1000, 1.0)])];
    client.remote_write(remote_write_v1(&first)).send().await.expect(204);
    let more = [named("a", &[(now, 2.0)]), named("d", &[(now, 1.0)])];
    let answer = client.remote_write_2(remote_write_v2(&more)).send().await;
    assert_eq!((written(&answer), answer.header("retry-after")), ("1", Some("60")));
    assert!(refusal(answer, 429).contains("MAX_SERIES"));
    assert_eq!(samples(&client, "a").await.len(), 2);
    let metrics = server.metrics_client().get("/metrics").send().await;
    assert_eq!(metrics.metric("golectra_remote_write_refused_total"), Some(1.0));
}

async fn a_request_makes_one_audit_event(t: Target) {
    let server = t.own().env("AUDIT_FILE", "audit.ndjson").start();
    let (client, now) = (server.client(), now());
    let series = [named("b_metric", &[(now, 1.0)]), named("a_metric", &[(now - 1, 1.0), (now, 2.0)]), named("a_metric", &[(now - 2, 1.0)])];
    client.remote_write(remote_write_v1(&series)).send().await.expect(204);
    // A repeat makes none.
    client.remote_write(remote_write_v1(&series)).send().await.expect(204);
    // What is refused or was there before is not named: a sample that is too old, and one that has another value.
    let too_old = named("too_old", &[(now - 60 * 24 * 3_600_000, 1.0)]);
    let partly = [too_old.clone(), named("b_metric", &[(now, 7.0)]), named("a_metric", &[(now, 2.0)]), named("new", &[(now, 1.0)])];
    refusal(client.remote_write(remote_write_v1(&partly)).send().await, 400);
    refusal(client.remote_write(remote_write_v1(&[too_old])).send().await, 400);
    let more = [named("a_metric", &[(now, 2.0), (now + 1, 3.0)]), named("new", &[(now, 1.0)])];
    client.remote_write(remote_write_v1(&more)).send().await.expect(204);
    client.remote_write(remote_write_v1(&[named("last", &[(now, 1.0)])])).send().await.expect(204);
    let file = server.folder().join("audit.ndjson");
    let events = || std::fs::read_to_string(&file).unwrap_or_default();
    until("all events are in the file", Duration::from_secs(30), async || events().lines().count() >= 4).await;
    let names: Vec<Value> = events().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["metrics"].clone()).collect();
    assert_eq!(names, [json!(["a_metric", "b_metric"]), json!(["new"]), json!(["a_metric"]), json!(["last"])]);
}

async fn a_large_request_is_stored_in_parts_and_answered_as_one(t: Target) {
    const SAMPLES: i64 = 10_500;
    let server = t.own().env("AUDIT_FILE", "audit.ndjson").metrics().start();
    let (client, now) = (server.client(), now());
    let first = now - 1000 * SAMPLES;
    let all: Vec<(i64, f64)> = (0..SAMPLES).map(|second| (first + 1000 * second, 1.0)).collect();
    // A part has 10,000 samples. The third one has two times of the first one again, one of them with another value.
    let again = [(first, 1.0), (first + 1000, 2.0)];
    let body = remote_write_v2(&[named("a_metric", &all), named("b_metric", &all), named("a_metric", &again)]);
    for _ in 0..2 {
        let answer = client.remote_write_2(body.clone()).send().await;
        assert_eq!(written(&answer), "21001");
        let reason = refusal(answer, 400);
        assert!(reason.starts_with("1 of 21002 samples were refused, the others are stored: 1 have another value"), "{reason}");
    }
    let expected: Vec<(i64, String)> = all.iter().map(|(at, _)| (*at, "1".to_owned())).collect();
    for name in ["a_metric", "b_metric"] {
        assert!(samples(&client, name).await == expected, "{name} has each of its samples once");
    }
    let metrics = server.metrics_client().get("/metrics").send().await;
    // The client repeats what a busy database refused for a moment.
    assert!(metrics.metric("golectra_ingest_batches_total") >= Some(6.0), "three parts, twice");
    assert_eq!(metrics.metric("golectra_remote_write_refused_total"), Some(2.0));
    // Each part that stores something has an event. None is made by the repeat.
    client.remote_write(remote_write_v1(&[named("last", &[(now, 1.0)])])).send().await.expect(204);
    let file = server.folder().join("audit.ndjson");
    let events = || std::fs::read_to_string(&file).unwrap_or_default();
    until("all events are in the file", Duration::from_secs(30), async || events().lines().count() >= 4).await;
    let names: Vec<Value> = events().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["metrics"].clone()).collect();
    assert_eq!(names, [json!(["a_metric"]), json!(["a_metric", "b_metric"]), json!(["b_metric"]), json!(["last"])]);
}

async fn very_many_new_series_are_stored(t: Target) {
    const SERIES: i32 = 100_000;
    let server = t.own().start();
    let (client, now) = (server.client(), now());
    let one = |number: i32| remote_series("wide", &[("number", &number.to_string())], &[(now, f64::from(number))]);
    let body = remote_write_v1(&(0..SERIES).map(one).collect::<Vec<_>>());
    // As a sender does: it repeats the request after a 503, which a busy machine may answer.
    until("all series are stored", Duration::from_mins(1), async || {
        let answer = client.remote_write(body.clone()).send().await;
        let is_busy = answer.status == 503;
        if !is_busy {
            answer.expect(204);
        }
        !is_busy
    })
    .await;
    let sources = client.get("/api/v1/sources").send().await.expect(200).json();
    assert_eq!(sources["sources"][0]["series"], json!(SERIES), "{sources}");
    assert_eq!(client.value("gauge", "wide{number=\"99999\"}").await.as_deref(), Some("99999"));
}

async fn unsigned_requests_are_refused_where_signatures_are_required(t: Target) {
    let server = t.own().env("KEY", "k").env("SIGNATURES", "required").start();
    let client = server.client();
    let body = || remote_write_v1(&[named("a", &[(now(), 1.0)])]);
    let reason = refusal(client.remote_write(body()).send().await, 401);
    assert!(reason.contains("Golectra-Signature"), "{reason}");
    assert_eq!(client.value("gauge", "a{instance=\"host:9090\",job=\"node\"}").await, None);
}

async fn what_was_stored_is_known_after_a_crash(t: Target) {
    let server = t.own().env("STORE_INTERVAL", 0).env("RESTORE", true).start();
    let now = now();
    let series = [named("a", &[(now - 2000, 1.0), (now - 1000, 2.0)]), named("b", &[(now, 3.0)])];
    server.client().remote_write(remote_write_v1(&series)).send().await.expect(204);
    let server = server.crash_and_restart_with(&[]);
    let client = server.client();
    client.remote_write(remote_write_v1(&series)).send().await.expect(204);
    refusal(client.remote_write(remote_write_v1(&[named("b", &[(now, 9.0)])])).send().await, 400);
    if t.store() == Store::Memory {
        refusal(client.remote_write(remote_write_v1(&[named("a", &[(now - 2000, 9.0)])])).send().await, 400);
    }
    assert_eq!(samples(&client, "a").await, [(now - 2000, "1".to_owned()), (now - 1000, "2".to_owned())]);
}
