//! The sink over HTTP, as servers and readers use it.

use std::net::SocketAddr;
use std::time::Duration;

use golectra_protocol::webhook::Secret;
use prometheus::Registry;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

/// The time limit of waits in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

const NOW: i64 = 1_700_000_000;
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const EVENT: &str = r#"{"ts":1,"metrics":["a"],"ip_address":"127.0.0.1"}"#;

struct Sink {
    address: SocketAddr,
    client: Client,
    registry: Registry,
    folder: TempDir,
    downloads: Arc<Semaphore>,
    newest: Arc<Semaphore>,
    _stop: DropGuard,
}

impl Sink {
    async fn start(key: Option<&str>) -> Self {
        Self::start_within(key, 1 << 20, PATIENCE).await
    }

    async fn start_within(key: Option<&str>, inflight_bytes: usize, body_limit: Duration) -> Self {
        golectra_process::install_crypto();
        let (folder, registry) = (tempfile::tempdir().unwrap(), Registry::new());
        let metrics = SinkMetrics::register(&registry).unwrap();
        let limits =
            Limits { rotate_bytes: 1000, retain_files: 0, retain_bytes: u64::MAX, remember_ids: 1000, remember: Duration::from_hours(48) };
        let (journal, _) = Journal::open(folder.path(), limits, metrics.clone(), NOW).unwrap();
        let state = SinkState {
            journal,
            metrics,
            secret: key.map(|key| Arc::new(Secret::parse(key).unwrap())),
            max_body_bytes: 2000,
            body_limit,
            inflight: Inflight::new(inflight_bytes, 2000),
            clock: Arc::new(|| NOW),
            downloads: Arc::new(Semaphore::new(state::DOWNLOADS)),
            newest: Arc::new(Semaphore::new(state::NEWEST)),
        };
        let (downloads, newest) = (Arc::clone(&state.downloads), Arc::clone(&state.newest));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = CancellationToken::new();
        let limits = ConnectionLimits { drain: Duration::from_millis(1), ..ConnectionLimits::default() };
        tokio::spawn(listen::serve(listener, router::router(state), limits, token.clone()));
        let client = Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        Self { address, client, registry, folder, downloads, newest, _stop: token.drop_guard() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn post(&self, id: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client.post(self.url("/events")).header("webhook-id", id).body(body)
    }

    fn signed(&self, id: &str, at: i64, body: &'static str) -> RequestBuilder {
        let signature = Secret::parse(KEY).unwrap().sign(id, at, body.as_bytes());
        self.post(id, body).header("webhook-timestamp", at).header("webhook-signature", signature)
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        read_answer(self.client.get(self.url(path)).send().await.unwrap()).await
    }

    fn received(&self, result: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let series = format!("golectra_audit_sink_received_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap()
    }
}

async fn read_answer(response: Response) -> (StatusCode, String) {
    (response.status(), response.text().await.unwrap())
}

async fn sent(request: RequestBuilder) -> (u16, String) {
    let (status, text) = read_answer(request.send().await.unwrap()).await;
    (status.as_u16(), text)
}

#[tokio::test]
async fn a_signed_event_is_stored_once_and_shown() {
    let sink = Sink::start(Some(KEY)).await;
    assert_eq!(sent(sink.signed("one", NOW, EVENT)).await, (200, r#"{"result":"stored"}"#.into()));
    // The answer was lost, and the server signs its next try anew.
    assert_eq!(sent(sink.signed("one", NOW + 30, EVENT)).await, (200, r#"{"result":"repeat"}"#.into()));
    assert_eq!(sink.get("/events").await, (StatusCode::OK, format!("{{\"events\":[{EVENT}]}}")));
    assert_eq!(sink.get("/events.ndjson").await, (StatusCode::OK, format!("{EVENT}\n")));
    assert_eq!(std::fs::read_to_string(sink.folder.path().join("audit-0000000001.ndjson")).unwrap(), format!("{EVENT}\n"));
    assert_eq!((sink.received("stored"), sink.received("repeat")), (1, 1));
}

#[tokio::test]
async fn what_is_not_signed_with_the_key_is_refused() {
    let sink = Sink::start(Some(KEY)).await;
    let other = Secret::parse("other").unwrap().sign("id", NOW, EVENT.as_bytes());
    let refused = [
        sink.post("id", EVENT),
        sink.post("id", EVENT).header("webhook-timestamp", NOW),
        sink.post("id", EVENT).header("webhook-timestamp", NOW).header("webhook-signature", other),
        sink.signed("id", NOW - 301, EVENT),
        sink.signed("id", NOW + 301, EVENT),
        sink.signed("id", NOW, EVENT).body(EVENT.replace("\"a\"", "\"b\"")),
    ];
    let count = refused.len() as u64;
    for request in refused {
        let (status, text) = sent(request).await;
        assert_eq!(status, 401, "{text}");
        assert!(text.starts_with(r#"{"error":"#) && !text.contains("MfKQ"), "{text}");
    }
    assert_eq!(sink.received("unsigned"), count);
    assert_eq!(sink.get("/events.ndjson").await.1, "");
}

#[tokio::test]
async fn what_is_not_an_event_gets_a_reason() {
    let sink = Sink::start(None).await;
    for body in ["", "{", "[]", "null", r#"{"ts":1}"#, r#"{"ts":"1","metrics":[],"ip_address":""}"#, "\u{0}"] {
        let (status, text) = sent(sink.post("id", body)).await;
        assert!(status == 400 && text.contains("is not an audit event"), "{body:?}: {status} {text}");
    }
    let (status, text) = sent(sink.client.post(sink.url("/")).body(EVENT)).await;
    assert!(status == 400 && text.contains("webhook-id"), "{text}");
    assert_eq!(sent(sink.post("a b", EVENT)).await.0, 400);
    assert_eq!(sent(sink.post("id", EVENT).header("content-encoding", "gzip")).await.0, 415);
    let (status, text) = sent(sink.post("id", vec![b' '; 2001])).await;
    assert!(status == 413 && text.contains("2000 bytes (MAX_BODY_BYTES)"), "{text}");
    assert_eq!((sink.received("invalid"), sink.received("too_large")), (10, 1));
    // None of these used up its id.
    assert_eq!(sent(sink.post("id", EVENT)).await, (200, r#"{"result":"stored"}"#.into()));
}

#[tokio::test]
async fn an_event_takes_one_line_however_it_came() {
    let sink = Sink::start(None).await;
    let spread = "{\n \"metrics\": [\"a\\n\"],\n \"ip_address\": \"::1\", \"more\": {},\n \"ts\": 2\n}\n";
    assert_eq!(sent(sink.post("id", spread)).await.0, 200);
    assert_eq!(sink.get("/events.ndjson").await.1, "{\"ts\":2,\"metrics\":[\"a\\n\"],\"ip_address\":\"::1\"}\n");
}

#[tokio::test]
async fn many_senders_at_once_and_readers_beside_them() {
    let sink = Sink::start(None).await;
    let sends = (0..300).map(|number| {
        let body = format!(r#"{{"ts":{number},"metrics":[],"ip_address":""}}"#);
        let request = sink.post(&format!("id{number}"), body);
        tokio::spawn(async move { sent(request).await.0 })
    });
    for send in sends.collect::<Vec<_>>() {
        let (_, text) = sink.get("/events?limit=1000").await;
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert_eq!(send.await.unwrap(), 200);
    }
    let all = sink.get("/events.ndjson").await.1;
    let mut times: Vec<i64> = all.lines().map(|line| serde_json::from_str::<golectra_protocol::audit::Event>(line).unwrap().ts).collect();
    times.sort_unstable();
    assert_eq!(times, (0..300).collect::<Vec<_>>());
    let newest: serde_json::Value = serde_json::from_str(&sink.get("/events?limit=2").await.1).unwrap();
    let last: serde_json::Value = serde_json::from_str(all.lines().last().unwrap()).unwrap();
    assert_eq!((newest["events"].as_array().unwrap().len(), &newest["events"][0]), (2, &last));
}

#[tokio::test]
async fn a_slow_body_is_cut_off() {
    let sink = Sink::start_within(None, 1 << 20, Duration::from_millis(300)).await;
    let mut stream = TcpStream::connect(sink.address).await.unwrap();
    stream.write_all(b"POST /events HTTP/1.1\r\nhost: a\r\nwebhook-id: id\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it is cut off").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("BODY_TIMEOUT"), "{answer}");
    assert_eq!(sink.received("too_slow"), 1);
}

#[tokio::test]
async fn a_sender_is_told_of_a_full_disk_and_may_try_again() {
    let sink = Sink::start(None).await;
    for number in 0..25 {
        assert_eq!(sent(sink.post(&number.to_string(), EVENT)).await.0, 200);
    }
    let (away, folder) = (tempfile::tempdir().unwrap(), sink.folder.path());
    let moved = away.path().join("journal");
    std::fs::rename(folder, &moved).unwrap();
    // The file at hand may still take some; the next one can't be made.
    let mut taken = 0;
    let refused = loop {
        let answer = sink.post(&format!("later{taken}"), EVENT).send().await.unwrap();
        if answer.status() != StatusCode::OK {
            break answer;
        }
        taken += 1;
        assert!(taken < 25, "the folder is gone");
    };
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    assert_eq!(sink.get("/ping").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sink.get("/ping/live").await.0, StatusCode::OK);
    std::fs::rename(&moved, folder).unwrap();
    assert_eq!(sink.get("/ping").await.0, StatusCode::OK);
    assert_eq!(sent(sink.post(&format!("later{taken}"), EVENT)).await.1, r#"{"result":"stored"}"#);
    assert_eq!(sink.get("/events.ndjson").await.1.lines().count(), 25 + taken + 1);
}

#[tokio::test]
async fn other_routes_and_methods_are_named() {
    let sink = Sink::start(None).await;
    for limit in ["0", "-1", "1001", "x", ""] {
        assert_eq!(sink.get(&format!("/events?limit={limit}")).await.0, StatusCode::BAD_REQUEST, "{limit}");
    }
    assert_eq!(sink.get("/ping").await, (StatusCode::OK, "ok".into()));
    let (status, text) = sink.get("/elsewhere").await;
    assert!(status == StatusCode::NOT_FOUND && text.starts_with(r#"{"error":"#), "{text}");
    let answer = sink.client.delete(sink.url("/events")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap().is_empty()), (405, false));
    assert_eq!(answer.text().await.unwrap(), r#"{"error":"method not allowed"}"#);
}

#[tokio::test]
async fn a_download_over_http_1_0_is_refused() {
    let sink = Sink::start(None).await;
    let mut stream = TcpStream::connect(sink.address).await.unwrap();
    stream.write_all(b"GET /events.ndjson HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it is closed").unwrap();
    assert!(answer.starts_with("HTTP/1.0 505 ") && answer.contains("use HTTP/1.1"), "{answer}");
    assert_eq!(sink.downloads.available_permits(), state::DOWNLOADS);
}

#[tokio::test]
async fn the_memory_of_events_under_way_is_bounded() {
    let sink = Sink::start_within(None, 10_000, PATIENCE).await;
    // Three senders that stop in the middle of an event hold twice of what came of it.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(sink.address).await.unwrap();
        let request = b"POST /events HTTP/1.1\r\nhost: a\r\nwebhook-id: id\r\ncontent-length: 2000\r\n\r\n";
        stream.write_all(&[request.as_slice(), &[b' '; 1600]].concat()).await.unwrap();
        held.push(stream);
    }
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = sink.post("other", vec![b' '; 1000]).send().await.unwrap();
            if answer.status() != StatusCode::BAD_REQUEST {
                break answer;
            }
        }
    });
    let refused = refused.await.expect("one is refused");
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    assert!(refused.text().await.unwrap().contains("too many events are under way"));
    drop(held);
    assert_eq!(sent(sink.post("other", EVENT)).await.0, 200);
}

#[tokio::test]
async fn reads_at_the_same_time_are_bounded() {
    let sink = Sink::start(None).await;
    assert_eq!(sent(sink.post("id", EVENT)).await.0, 200);
    let (newest, all) = (format!("{{\"events\":[{EVENT}]}}"), format!("{EVENT}\n"));
    for (turns, most, path, other) in
        [(&sink.newest, state::NEWEST, "/events", "/events.ndjson"), (&sink.downloads, state::DOWNLOADS, "/events.ndjson", "/events")]
    {
        // As if so many clients were slow to read.
        let held: Vec<_> = (0..most).map(|_| turns.try_acquire().unwrap()).collect();
        let refused = sink.client.get(sink.url(path)).send().await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"), "{path}");
        assert!(refused.text().await.unwrap().contains("too many"), "{path}");
        assert_eq!(sink.get(other).await.0, StatusCode::OK, "{other} has turns of its own");
        drop(held);
        assert_eq!(sink.get(path).await, (StatusCode::OK, if path == "/events" { newest.clone() } else { all.clone() }));
        let given_back = turns.acquire_many(u32::try_from(most).unwrap());
        drop(tokio::time::timeout(PATIENCE, given_back).await.expect("an answer that was read holds no turn").unwrap());
    }
}

#[test]
fn the_sink_accepts_the_longest_event_of_a_server() {
    let none: [(&str, &str); 0] = [];
    let settings = Settings::parse(Vec::<String>::new(), none).unwrap();
    assert_eq!(settings.max_body_bytes.get(), golectra_protocol::audit::MAX_EVENT_BYTES);
    assert!(settings.max_inflight_bytes.get() >= Inflight::needed(settings.max_body_bytes.get()));
}

#[test]
fn a_download_of_all_events_has_a_pace_to_keep_and_no_time_limit() {
    let none: [(&str, &str); 0] = [];
    let limits = connection_limits(&Settings::parse(Vec::<String>::new(), none).unwrap());
    assert_eq!((limits.slow_write, limits.slow_write_bytes), (Duration::from_mins(5), Some(PACE_BYTES)));
}

#[test]
fn settings_have_usable_defaults_and_hide_the_key() {
    let none: [(&str, &str); 0] = [];
    let settings = Settings::parse(Vec::<String>::new(), none).unwrap();
    assert_eq!((settings.address.to_string().as_str(), settings.rotate_bytes.get(), settings.retain_files), (":8090", 64 << 20, 0));
    assert_eq!(settings.retain_bytes.get(), 4 << 30);
    let settings = Settings::parse(["-a=:1", "--remember=1h"], [("AUDIT_KEY", "swordfish"), ("MAX_BODY_BYTES", "2MiB")]).unwrap();
    assert!(!format!("{settings:?}").contains("swordfish"));
    assert_eq!(settings.max_body_bytes.get(), 2 << 20);
}
