//! Golectra-Signature: only clients with a key may write, and changes of a request are detected.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use golectra_protocol::{hash, signature};
use golectra_tests::{
    Answer, Client, Exit, KEY, ProgramBuilder, Raw, Server, Target, fresh_key, on_both_stores, on_every_store, unix_millis, until,
};
use serde_json::json;
use tempfile::TempDir;

on_every_store!(a_signature_is_checked, peers_of_the_original_are_accepted, a_replayed_request_changes_nothing);

on_both_stores!(
    required_accepts_only_signed_requests,
    required_answers_carry_no_hash,
    the_clock_may_be_five_minutes_off,
    every_bit_flip_is_refused,
    keys_rotate_without_a_refused_request,
    a_signature_does_not_excuse_a_wrong_hash,
);

const LIMIT: Duration = Duration::from_mins(1);

/// A folder of keys.
fn keys(keys: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (id, key) in keys {
        put(&folder, id, key);
    }
    folder
}

/// Writes a key's file by rename, so that it is never read in part.
fn put(folder: &TempDir, id: &str, key: &str) {
    let hidden = folder.path().join(format!(".{id}"));
    std::fs::write(&hidden, format!("{key}\n")).expect("our own folder");
    std::fs::rename(hidden, folder.path().join(id)).expect("our own folder");
}

/// A new server that checks signatures, with the key `k1` in its folder.
fn required(t: &Target) -> (Server, TempDir) {
    let folder = keys(&[("k1", "one")]);
    let server = t.own().env("KEYS_DIR", folder.path().display()).env("SIGNATURES", "required").metrics().start();
    (server, folder)
}

async fn a_signature_is_checked(t: Target) {
    let id = t.id("signed");
    let counter = json!({"id": id, "type": "counter", "delta": 1});
    let path = format!("//update/counter/{id}/1/");
    let requests = [
        t.post("/updates").json(&json!([counter])).source("node-1"),
        t.post("/updates").json(&json!([counter])).gzip(),
        t.post("/update/").json(&counter).idempotency_key(&fresh_key()),
        t.post(&path),
        t.post("/value").json(&counter),
    ];
    for request in requests.clone() {
        request.signed("default", KEY).send().await.expect(200);
    }
    assert_eq!(t.counter(&id).await, 4);
    for request in requests {
        let is_text = request.is_for(&path);
        for wrong in [
            request.clone().signed("default", "another key"),
            request.clone().signed("other", KEY),
            request.clone().header("Golectra-Signature", "v1=x"),
        ] {
            let answer = wrong.send().await;
            if t.key().is_none() {
                // Without a key nothing is checked.
                answer.expect(200);
                continue;
            }
            let answer = answer.expect(401);
            assert_eq!(answer.header("www-authenticate"), Some("Golectra-Signature"));
            let said = if is_text { answer.text() } else { answer.error() };
            assert!(said.starts_with("Golectra-Signature") && !said.contains(KEY), "{said}");
            assert_eq!(answer.media_type(), if is_text { "text/plain" } else { "application/json" });
        }
    }
    assert_eq!(t.counter(&id).await, if t.key().is_some() { 4 } else { 13 }, "the one with an idempotency key is applied once");
}

async fn peers_of_the_original_are_accepted(t: Target) {
    let id = t.id("plain");
    let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
    // With HashSHA256 if the client has a key, and without.
    t.post("/updates").json(&batch).gzip().send().await.expect(200);
    t.post("/updates").unsigned().json(&batch).send().await.expect(200);
    assert_eq!(t.counter(&id).await, 2);
}

async fn a_replayed_request_changes_nothing(t: Target) {
    let id = t.id("replay");
    let request = t.post("/updates").json(&json!([{"id": id, "type": "counter", "delta": 1}]));
    let request = request.source("node-1").idempotency_key(&fresh_key()).signed("default", KEY);
    let first = request.clone().send().await.expect(200);
    for _ in 0..5 {
        let again = request.clone().send().await.expect(200);
        assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body));
    }
    assert_eq!(t.counter(&id).await, 1);
}

async fn required_accepts_only_signed_requests(t: Target) {
    let (server, _folder) = required(&t);
    let client = server.client();
    let counter = json!({"id": "c", "type": "counter", "delta": 1});
    let posts =
        [client.post("/updates").json(&json!([counter])), client.post("/update").json(&counter), client.post("/update/counter/c/1")];
    for post in &posts {
        let body = if post.is_for("/updates") { json!([counter]).to_string() } else { counter.to_string() };
        for (refused, words) in [
            (post.clone(), "signed requests only"),
            (post.clone().header("HashSHA256", hash::body_hash(body.as_bytes(), b"one")), "signed requests only"),
            (post.clone().header("Golectra-Signature", ""), "must be t=UNIX,kid=ID,v1=HEX"),
            (post.clone().signed("k2", "one"), "no key with the id k2"),
            (post.clone().signed("default", "one"), "no key with the id default"),
            (post.clone().signed("k1", "two"), "does not match"),
            (post.clone().signed("k1", "one").header("Golectra-Signature", "t=1,kid=k1,v1=x"), "more than once"),
        ] {
            let answer = refused.send().await.expect(401);
            assert!(answer.text().contains(words), "{words}: {answer:?}");
        }
    }
    client.get("/value/counter/c").send().await.expect(404);
    // Reads need not be signed, but a signature is checked if there is one.
    let query = client.post("/value").json(&counter);
    query.clone().send().await.expect(404);
    query.clone().signed("k1", "one").send().await.expect(404);
    query.clone().signed("k1", "two").send().await.expect(401);
    // An early refusal is received even if the body is large.
    client.post("/updates").body(vec![b' '; 4 << 20]).send().await.expect(401);
    for post in posts {
        post.signed("k1", "one").send().await.expect(200);
    }
    assert_eq!(client.counter("c").await, 3);
    query.send().await.expect(200);
    for path in ["/", "/ping", "/api/v1/snapshot", "/api/v1/sources"] {
        client.get(path).send().await.expect(200);
    }
    let answer = server.metrics_client().get("/metrics").send().await.expect(200);
    for (name, expected) in [
        (r#"golectra_ingest_rejected_total{reason="signature_missing"}"#, 7.0),
        (r#"golectra_ingest_rejected_total{reason="signature_malformed"}"#, 6.0),
        (r#"golectra_ingest_rejected_total{reason="signature_unknown_key"}"#, 6.0),
        (r#"golectra_ingest_rejected_total{reason="signature_mismatch"}"#, 3.0),
        (r#"golectra_signed_requests_total{kid="k1"}"#, 4.0),
        ("golectra_signing_keys", 1.0),
    ] {
        assert_eq!(answer.metric(name), Some(expected), "{name}");
    }
}

async fn required_answers_carry_no_hash(t: Target) {
    let server = t.own().key(Some(KEY)).env("SIGNATURES", "required").start();
    // The client fails on an answer with a hash.
    let client = server.client();
    let batch = json!([{"id": "c", "type": "counter", "delta": 1}]);
    client.post("/updates").json(&batch).signed("default", KEY).send().await.expect(200);
    client.post("/updates").json(&batch).send().await.expect(401);
    client.post("/updates").json(&batch).header("HashSHA256", "00".repeat(32)).signed("default", KEY).send().await.expect(400);
    for (path, status) in [("/", 200), ("/ping", 200), ("/value/counter/c", 200), ("/value/counter/unknown", 404), ("/nothing", 404)] {
        let answer = client.get(path).send().await.expect(status);
        assert_eq!(answer.header("hashsha256"), None, "{path}");
    }
}

async fn the_clock_may_be_five_minutes_off(t: Target) {
    let (server, _folder) = required(&t);
    let client = server.client();
    // Reading the two clocks takes time; a try in which more than a second passed is inconclusive.
    let send = async |skew| loop {
        let start = Instant::now();
        let answer = client.post("/value").json(&json!({"id": "c", "type": "gauge"})).signed_off("k1", "one", skew).send().await;
        if start.elapsed() < Duration::from_secs(1) {
            return answer;
        }
    };
    for skew in [-299, 0, 299] {
        send(skew).await.expect(404);
    }
    for (skew, words) in [(-301, "behind the server's clock"), (-100_000, "behind"), (302, "ahead of the server's clock")] {
        let answer = send(skew).await.expect(401);
        assert!(answer.error().contains(words), "{answer:?}");
    }
}

async fn a_signature_does_not_excuse_a_wrong_hash(t: Target) {
    let folder = keys(&[("k1", "one")]);
    let server = t.own().env("KEYS_DIR", folder.path().display()).key(Some("of the hash")).start();
    let client = server.client();
    let post = client.post("/updates").json(&json!([{"id": "c", "type": "counter", "delta": 1}])).signed("k1", "one");
    post.clone().send().await.expect(200);
    let answer = post.header("HashSHA256", "00".repeat(32)).send().await.expect(400);
    assert_eq!(answer.text(), r#"{"error":"invalid hash","code":"invalid_hash"}"#);
    // KEY is still available under its own id.
    client.post("/update/counter/c/1").signed("default", "of the hash").send().await.expect(200);
    assert_eq!(client.counter("c").await, 2);
}

/// A signed request as bytes, and the range of its Host line, which is not signed.
fn signed_bytes() -> (Vec<u8>, std::ops::Range<usize>) {
    let (body, key) = (r#"[{"id":"c","type":"counter","delta":1}]"#, fresh_key());
    let request = signature::Request {
        method: "POST",
        target: "/updates/",
        source: b"node-1",
        idempotency_key: key.as_bytes(),
        body_digest: &hash::body_digest(body.as_bytes()),
    };
    let signature = request.sign(unix_millis() / 1000, "k1", b"one");
    let start = "POST /updates/ HTTP/1.1\r\n";
    let host = "Host: localhost\r\n";
    let rest = format!(
        "Golectra-Source: node-1\r\nIdempotency-Key: {key}\r\nGolectra-Signature: {signature}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    (format!("{start}{host}{rest}").into_bytes(), start.len()..start.len() + host.len())
}

/// Whether the request with this bit flipped still means the same in HTTP: letters of a header's name in another case, any
/// change of Host, HTTP/1.0, white space at the end of a line, a leading zero in the body's length.
fn means_the_same(bytes: &[u8], bit: usize, host: &std::ops::Range<usize>) -> bool {
    let (at, mask) = (bit / 8, 1_u8 << (bit % 8));
    let line = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let in_name = line > 0 && !bytes[line..at].contains(&b':');
    let version = bytes.windows(2).position(|two| two == b"\r\n").expect("a request line") - 1;
    host.contains(&at)
        || (in_name && bytes[at].is_ascii_alphabetic() && mask == 0x20)
        || (at == version && bytes[at] ^ mask == b'0')
        || (line > 0 && bytes[at] == b'\r' && bytes[at] ^ mask == b'\t')
        || (bytes[line..at] == *b"Content-Length:" && bytes[at] ^ mask == b'0')
}

async fn every_bit_flip_is_refused(t: Target) {
    let (server, _folder) = required(&t);
    let (bytes, host) = signed_bytes();
    let port = server.port();
    assert_eq!(golectra_tests::exchange(port, &bytes).await.expect("an answer").status, 200);
    let state = |answers: [Answer; 2]| {
        answers.map(|answer| (answer.status, answer.json()["counters"].clone(), answer.json()["sources"][0]["name"].clone()))
    };
    let look = async || {
        let client = server.client();
        state([client.get("/api/v1/snapshot").send().await, client.get("/api/v1/sources").send().await])
    };
    let before = look().await;
    assert_eq!(before[0].1, json!({"c": 1}));
    assert_eq!(before[1].2, json!("node-1"));

    let (taken, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let flip = async |bit: usize| {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let answer = loop {
            let mut raw = Raw::connect(port).await;
            raw.send(&flipped).await;
            // Some flips make the server wait for more bytes; it then sees the end of the connection.
            let at_once = tokio::time::timeout(Duration::from_secs(2), raw.answer()).await;
            let answer = if let Ok(answer) = at_once {
                answer
            } else {
                raw.finish().await;
                raw.answer().await
            };
            // With a busy database, a request whose signature was accepted may still fail.
            if !answer.as_ref().is_some_and(|answer| answer.status == 503 && answer.header("retry-after").is_some()) {
                break answer;
            }
        };
        let shown = || format!("bit {bit} of {:?}: {answer:?}", String::from_utf8_lossy(&flipped));
        match &answer {
            Some(answer) if answer.status == 200 => {
                assert!(means_the_same(&bytes, bit, &host), "{}", shown());
                assert_eq!(answer.header("idempotency-replayed"), Some("true"), "{}", shown());
                taken.fetch_add(1, Ordering::Relaxed);
            }
            Some(answer) => {
                assert!((400..500).contains(&answer.status), "{}", shown());
                refused.fetch_add(1, Ordering::Relaxed);
            }
            None => _ = refused.fetch_add(1, Ordering::Relaxed),
        }
    };
    let bits: Vec<usize> = (0..bytes.len() * 8).collect();
    for some in bits.chunks(64) {
        futures_util::future::join_all(some.iter().map(|bit| flip(*bit))).await;
    }
    assert!(taken.into_inner() > 50, "flips in the case of a header's name are accepted");
    assert!(refused.into_inner() > bits.len() * 3 / 4);
    assert_eq!(look().await, before, "no flip changed anything");
}

/// The numbers of the key that a writer should use and of the one that it uses.
struct Writer {
    client: Client,
    newest: Arc<AtomicUsize>,
    uses: Arc<AtomicUsize>,
}

impl Writer {
    /// Sends signed writes one after the other until the number is 0. Returns how many.
    async fn run(self) -> i64 {
        for sent in 0.. {
            let number = self.newest.load(Ordering::SeqCst);
            // The previous write was answered.
            self.uses.store(number, Ordering::SeqCst);
            if number == 0 {
                return sent;
            }
            let (id, key) = key_number(number);
            let write = self.client.post("/update/counter/c/1").idempotency_key(&fresh_key()).signed(&id, key);
            let mut answer = write.clone().send().await;
            // A busy database does not refuse the signature; the write is identified by its key.
            while answer.status == 503 && answer.header("retry-after").is_some() {
                answer = write.clone().send().await;
            }
            answer.expect(200);
        }
        unreachable!("fewer than i64::MAX writes are sent")
    }
}

fn key_number(number: usize) -> (String, String) {
    (format!("k{number}"), format!("key number {number}"))
}

async fn keys_rotate_without_a_refused_request(t: Target) {
    let (id, key) = key_number(1);
    let folder = keys(&[(&id, &key)]);
    let server = t.own().env("KEYS_DIR", folder.path().display()).env("SIGNATURES", "required").metrics().start();
    let newest = Arc::new(AtomicUsize::new(1));
    let uses: Vec<Arc<AtomicUsize>> = (0..4).map(|_| Arc::default()).collect();
    let writers: Vec<_> = uses
        .iter()
        .map(|uses| Writer { client: server.client(), newest: Arc::clone(&newest), uses: Arc::clone(uses) })
        .map(|writer| tokio::spawn(writer.run()))
        .collect();
    let metrics = server.metrics_client();
    let metric = async |name: &str| metrics.get("/metrics").send().await.expect(200).metric(name).unwrap_or(0.0);
    for number in 2..=5 {
        let (id, key) = key_number(number);
        put(&folder, &id, &key);
        // At once, which is earlier than the server's next regular read of the folder.
        newest.store(number, Ordering::SeqCst);
        let signed = format!("golectra_signed_requests_total{{kid=\"{id}\"}}");
        let all_moved = || uses.iter().all(|uses| uses.load(Ordering::SeqCst) == number);
        until("all write with the new key", LIMIT, async || all_moved() && metric(&signed).await >= 20.0).await;
        std::fs::remove_file(folder.path().join(key_number(number - 1).0)).expect("our own folder");
        until("the old key is gone", LIMIT, async || metric("golectra_signing_keys").await < 1.5).await;
    }
    newest.store(0, Ordering::SeqCst);
    let mut sent = 0;
    for writer in writers {
        sent += writer.await.expect("not one write was refused");
    }
    assert_eq!(server.client().counter("c").await, sent);
    let (id, key) = key_number(4);
    server.client().post("/update/counter/c/1").signed(&id, key).send().await.expect(401);
}

#[test]
fn the_selfcheck_signs() {
    let folder = keys(&[("k1", "one")]);
    let server = Server::builder().env("KEYS_DIR", folder.path().display()).env("SIGNATURES", "required").start();
    let check = ProgramBuilder::new("golectra-server").flags(["selfcheck", &server.url()]);
    let mut signed = check.clone().env("KEYS_DIR", folder.path().display()).env("SIGNING_KEY_ID", "k1").start();
    assert_eq!(signed.wait(LIMIT), Exit::Code(0), "{}", signed.tail());
    let mut unsigned = check.start();
    assert_eq!(unsigned.wait(LIMIT), Exit::Code(1));
    assert!(unsigned.stderr().contains("401 Unauthorized"), "{}", unsigned.tail());
}
