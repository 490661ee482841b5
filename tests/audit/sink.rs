//! golectra-audit-sink by itself: what it takes, what it refuses, what it shows.

use std::time::Instant;

use golectra_protocol::webhook::Secret;
use golectra_tests::{Answer, AuditSink, unix_millis};
use serde_json::{Value, json};

use crate::lines;

const KEY: &str = "audit";

/// An event as a server posts it, signed with a key at a time.
async fn post(sink: &AuditSink, id: &str, event: &Value, key: &str, at: i64) -> Answer {
    let body = event.to_string();
    let signature = Secret::parse(key).expect("a key").sign(id, at, body.as_bytes());
    let client = sink.client();
    let request = client.post(AuditSink::WEBHOOK_PATH).header("content-type", "application/json").header("webhook-id", id);
    request.header("webhook-timestamp", at.to_string()).header("webhook-signature", signature).body(body).send().await
}

fn now() -> i64 {
    i64::try_from(unix_millis() / 1000).expect("it fits")
}

fn event(id: &str) -> Value {
    json!({"ts": now(), "metrics": [id], "ip_address": "127.0.0.1"})
}

fn start() -> AuditSink {
    AuditSink::builder().env("AUDIT_KEY", KEY).start()
}

#[tokio::test]
async fn a_repeat_is_acknowledged_and_kept_once() {
    let mut sink = start();
    for _ in 0..3 {
        let status = post(&sink, "one", &event("a"), KEY, now()).await.status;
        assert!((200..300).contains(&status), "{status}");
    }
    post(&sink, "two", &event("b"), KEY, now()).await;
    sink.kill();
    let sink = sink.start_again();
    // Repeats are recognised across a crash as well.
    post(&sink, "one", &event("a"), KEY, now()).await;
    let kept = lines(&sink.ndjson().await);
    assert_eq!(kept.iter().map(|event| event["metrics"].to_string()).collect::<Vec<_>>(), [r#"["a"]"#, r#"["b"]"#]);
}

#[tokio::test]
async fn what_is_not_signed_rightly_is_refused() {
    let sink = start();
    for (key, at) in [("wrong", now()), (KEY, now() - 400), (KEY, now() + 400), ("AUDIT", now())] {
        let status = post(&sink, "forged", &event("forged"), key, at).await.status;
        assert!(matches!(status, 400 | 401 | 403), "{status}");
    }
    let bare = sink.client().post(AuditSink::WEBHOOK_PATH).body(event("bare").to_string()).send().await.status;
    assert!(matches!(bare, 400 | 401 | 403), "{bare}");
    assert_eq!(sink.ndjson().await, "");
}

#[tokio::test]
async fn refusals_are_logged_now_and_then() {
    let (sink, begun) = (start(), Instant::now());
    for index in 0..200 {
        post(&sink, &format!("forged{index}"), &event("forged"), "wrong", now()).await.expect(401);
    }
    let logged = sink.stderr().lines().filter(|line| line.contains("audit events are refused")).count() as u64;
    let most = 2 + begun.elapsed().as_secs() / 10;
    assert!((1..=most).contains(&logged), "one line at once and one every 10 s, not {logged}");
}

#[tokio::test]
async fn a_full_disk_leaves_no_torn_line_in_the_files() {
    let sink = start();
    post(&sink, "one", &event("before"), KEY, now()).await.expect(200);
    let path = sink.folder().join("audit/audit-0000000001.ndjson");
    let whole = std::fs::read(&path).expect("the file of events");
    // There is room for a part of the next event, and for all of its id.
    sink.limit_files(whole.len() as u64 + 30);
    for _ in 0..3 {
        post(&sink, "two", &event("full"), KEY, now()).await.expect(503);
        assert_eq!(std::fs::read(&path).expect("the file of events"), whole, "nothing is left of a failed write");
    }
    sink.client().get("/ping").send().await.expect(503);
    sink.unlimit_files();
    post(&sink, "two", &event("after"), KEY, now()).await.expect(200);
    let kept = lines(&std::fs::read_to_string(&path).expect("the file of events"));
    assert_eq!(kept.iter().map(|event| event["metrics"].to_string()).collect::<Vec<_>>(), [r#"["before"]"#, r#"["after"]"#]);
}

#[tokio::test]
async fn a_sink_that_is_killed_while_it_compresses_keeps_each_event_once() {
    let mut sink = AuditSink::builder().env("AUDIT_KEY", KEY).env("ROTATE_BYTES", 3000).start();
    let (mut count, mut expected) = (0, Vec::new());
    for round in 0..4 {
        for _ in 0..150 {
            let id = format!("event{count}");
            post(&sink, &id, &event(&id), KEY, now()).await.expect(200);
            expected.push(id);
            count += 1;
        }
        sink.kill();
        sink = sink.start_again();
        // Its answer may have been lost with the sink.
        post(&sink, &expected[round], &event(&expected[round]), KEY, now()).await.expect(200);
    }
    let folder = sink.folder().join("audit");
    let names = || -> Vec<String> {
        let files = folder.read_dir().expect("the folder").map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned());
        files.collect()
    };
    golectra_tests::until("closed files are compressed", crate::LIMIT, async || {
        names().iter().filter(|name| name.ends_with(".ndjson")).count() == 1
    })
    .await;
    assert!(names().iter().filter(|name| name.ends_with(".ndjson.gz")).count() > 5, "{:?}", names());
    let zcat = std::process::Command::new("sh").arg("-c").arg("zcat audit-*.ndjson.gz; cat audit-*.ndjson").current_dir(&folder).output();
    let zcat = String::from_utf8(zcat.expect("sh runs").stdout).expect("UTF-8");
    for text in [zcat, sink.ndjson().await] {
        let kept: Vec<String> = lines(&text).iter().map(|event| event["metrics"][0].as_str().expect("a name").to_owned()).collect();
        assert_eq!(kept, expected);
    }
}

#[tokio::test]
async fn what_is_not_an_event_is_refused() {
    let sink = start();
    for body in [json!(null), json!([]), json!("x"), json!({"metrics": 7}), json!({"ts": "x", "metrics": [], "ip_address": "y"})] {
        let answer = post(&sink, "bad", &body, KEY, now()).await;
        assert!((400..500).contains(&answer.status), "{body}: {answer:?}");
    }
    assert_eq!(sink.ndjson().await, "");
}

#[tokio::test]
async fn the_newest_events_and_the_whole_file() {
    let sink = start();
    for index in 0..150 {
        post(&sink, &format!("id{index}"), &event(&format!("metric{index}")), KEY, now()).await.expect_success();
    }
    let whole = lines(&sink.ndjson().await);
    assert_eq!(whole.len(), 150);
    let newest = sink.client().get(AuditSink::EVENTS_PATH).send().await.expect(200);
    assert_eq!(newest.media_type(), "application/json");
    let text = newest.text();
    assert!(text.contains("\"metric149\"") && newest.json().to_string().len() > 50, "{text}");
    sink.client().get("/ping").send().await.expect(200);
}

#[tokio::test]
async fn its_own_metrics() {
    let port = golectra_tests::free_port();
    let sink = AuditSink::builder().env("AUDIT_KEY", KEY).env("METRICS_ADDRESS", format!("127.0.0.1:{port}")).start();
    post(&sink, "one", &event("a"), KEY, now()).await.expect_success();
    let metrics = golectra_tests::Client::new(&format!("http://127.0.0.1:{port}"), None).get("/metrics").send().await.expect(200);
    assert!(metrics.text().contains("golectra_build_info"));
    golectra_tests::promtool(&metrics.text());
    golectra_tests::listed_in_monitoring(&metrics.text());
}

/// What the runbook says about delivering dead letters by hand, from the key on.
#[tokio::test]
async fn dead_letters_can_be_delivered_by_hand() {
    if [("curl", "--version"), ("openssl", "version")]
        .iter()
        .any(|(program, flag)| std::process::Command::new(program).arg(flag).output().is_err())
    {
        return golectra_tests::skip("curl and openssl are not installed");
    }
    let runbook = include_str!("../../docs/runbooks/GolectraAuditDead.md");
    let lines_of_shell: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("      ")).collect();
    let from = lines_of_shell.iter().position(|line| line.starts_with("hex=")).expect("the line that reads the key");
    let script = lines_of_shell[from..].join("\n");
    for key in ["a key with 'quotes' and $", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        let sink = AuditSink::builder().env("AUDIT_KEY", key).start();
        let dead = [("one", event("a \\ \"b\"  c")), ("two", event("ü")), ("one", event("a \\ \"b\"  c"))];
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let rows: Vec<String> = dead.iter().map(|(id, event)| format!("{id} {event}")).collect();
        std::fs::write(folder.path().join("dead"), rows.join("\n") + "\n").expect("our own folder");
        let script = script.replace("http://localhost:8090/events", &format!("http://127.0.0.1:{}/events", sink.port()));
        let mut shell = tokio::process::Command::new("sh");
        let answers = shell.arg("-c").arg(script).env("KEY", key).env("no_proxy", "*").current_dir(folder.path()).output().await;
        let answers = answers.expect("sh runs");
        let printed = String::from_utf8_lossy(&answers.stdout);
        let expected = r#"{"result":"stored"}{"result":"stored"}{"result":"repeat"}"#;
        assert_eq!(printed, expected, "{}", String::from_utf8_lossy(&answers.stderr));
        assert_eq!(lines(&sink.ndjson().await), [dead[0].1.clone(), dead[1].1.clone()]);
    }
}
