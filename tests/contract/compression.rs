//! Gzip in both directions.

use golectra_tests::{Target, gzip, on_every_store};
use serde_json::json;

on_every_store!(
    packed_requests_are_read,
    bad_gzip_is_400,
    json_and_html_are_packed_however_small,
    text_is_never_packed,
    a_client_that_does_not_accept_gzip_gets_none,
    an_empty_body_is_never_marked_gzip,
    a_packed_answer_says_that_it_varies,
    errors_are_packed_as_well,
);

async fn packed_requests_are_read(t: Target) {
    let id = t.id("packed");
    let metric = json!({"id": id, "type": "counter", "delta": 1});
    t.post("/update").json(&metric).gzip().send().await.expect(200);
    t.post("/updates").json(&json!([metric])).gzip().send().await.expect(200);
    t.post("/value").json(&metric).gzip().send().await.expect(200);
    let two_members = [gzip(b"["), gzip(format!("{metric}]").as_bytes())].concat();
    t.post("/updates").unsigned().header("content-encoding", "gzip").body(two_members).send().await.expect(200);
    for spelling in ["GZIP", "gzip", " Gzip ", "x-gzip"] {
        let answer =
            t.post("/update").unsigned().header("content-encoding", spelling).body(gzip(metric.to_string().as_bytes())).send().await;
        assert!(answer.status == 200 || (spelling == "x-gzip" && answer.status < 500), "{spelling}: {answer:?}");
    }
    t.post("/update").header("content-encoding", "identity").json(&metric).send().await.expect(200);
    assert!(t.counter(&id).await >= 7);
}

async fn bad_gzip_is_400(t: Target) {
    let packed = gzip(json!([{"id": t.id("cut"), "type": "counter", "delta": 1}]).to_string().as_bytes());
    let mut damaged = packed.clone();
    let crc = packed.len() - 6;
    damaged[crc] ^= 0x55;
    let junk = [packed.as_slice(), b"junk"].concat();
    for body in [b"[]".as_slice(), b"", b"\x1f\x8b", &packed[..packed.len() - 1], &packed[..20], &damaged, &junk] {
        for path in ["/update", "/updates", "/value"] {
            let answer = t.post(path).unsigned().header("content-encoding", "gzip").body(body).send().await;
            assert_eq!(answer.status, 400, "{path} {body:x?}");
            answer.error();
        }
    }
    assert_eq!(t.value("counter", &t.id("cut")).await, None);
}

async fn json_and_html_are_packed_however_small(t: Target) {
    let metric = json!({"id": t.id("g"), "type": "gauge", "value": 1});
    t.post("/update").json(&metric).send().await.expect(200);
    for accept in
        ["gzip", "GZIP", "Gzip;q=0.5", "deflate, gzip", "br;q=1.0, gzip;q=0.8, *;q=0.1", "*", "*;q=0.3", "gzip; q=1, identity;q=0.5"]
    {
        let answers = [
            t.get("/api/v1/snapshot").header("accept-encoding", accept).send().await,
            t.get("/api/v1/sources").header("accept-encoding", accept).send().await,
            t.get("/").header("accept-encoding", accept).send().await,
            t.post("/value").json(&metric).header("accept-encoding", accept).send().await,
            t.post("/updates").json(&json!([metric])).header("accept-encoding", accept).send().await,
        ];
        for answer in answers {
            assert_eq!(answer.header("content-encoding"), Some("gzip"), "{accept}: {answer:?}");
            assert_eq!(answer.status, 200);
            assert_eq!(answer.wire[..2], [0x1f, 0x8b], "{accept}");
            assert!(answer.header("content-length").is_none_or(|length| length == answer.wire.len().to_string()));
        }
    }
}

async fn text_is_never_packed(t: Target) {
    let id = t.id("t");
    let update = t.post(&format!("/update/gauge/{id}/1")).accepts_gzip().send().await.expect(200);
    let value = t.get(&format!("/value/gauge/{id}")).accepts_gzip().send().await.expect(200);
    let unknown = t.get(&format!("/value/gauge/{id}x")).accepts_gzip().send().await.expect(404);
    let method = t.post("/ping").accepts_gzip().send().await.expect(405);
    for answer in [update, value, unknown, method] {
        assert!(!answer.is_packed(), "{answer:?}");
    }
}

async fn a_client_that_does_not_accept_gzip_gets_none(t: Target) {
    for accept in
        ["", "identity", "deflate", "gzip;q=0", "gzip; q=0.0", "GZIP;Q=0.000", "*, gzip;q=0", "*;q=0", "deflate, br", "gzipped", "x"]
    {
        let answer = t.get("/api/v1/snapshot").header("accept-encoding", accept).send().await.expect(200);
        assert!(!answer.is_packed(), "{accept:?}");
        assert!(answer.json().is_object());
    }
    assert!(!t.get("/").send().await.expect(200).is_packed());
}

async fn an_empty_body_is_never_marked_gzip(t: Target) {
    // The client checks this rule for every answer; this case has the answers that are most likely to be empty.
    for path in ["/ping", "/ping/live"] {
        t.get(path).accepts_gzip().send().await.expect(200);
    }
    t.post(&format!("/update/gauge/{}/1", t.id("e"))).accepts_gzip().send().await.expect(200);
    for path in ["/", "/api/v1/snapshot", "/ping", "/nothing"] {
        let answer = t.request(http::Method::HEAD, path).accepts_gzip().send().await;
        assert!(answer.wire.is_empty() && answer.status < 500, "{answer:?}");
    }
}

async fn a_packed_answer_says_that_it_varies(t: Target) {
    for accept in ["gzip", "identity"] {
        let answer = t.get("/api/v1/snapshot").header("accept-encoding", accept).send().await.expect(200);
        let vary = answer.header("vary").unwrap_or_default().to_ascii_lowercase();
        assert!(vary.contains("accept-encoding"), "caches must distinguish the two: {answer:?}");
    }
}

async fn errors_are_packed_as_well(t: Target) {
    let answer = t.post("/updates").body("[]").accepts_gzip().send().await.expect(400);
    assert!(answer.is_packed());
    answer.error();
    let answer = t.post("/value").json(&json!({"id": t.id("nobody"), "type": "gauge"})).accepts_gzip().send().await.expect(404);
    assert!(answer.is_packed());
    answer.error();
}
