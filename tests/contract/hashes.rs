//! The HashSHA256 header, in both directions.

use golectra_tests::{Client, KEY, Target, gzip, on_every_store};
use serde_json::json;

on_every_store!(
    the_right_hash_is_accepted_in_either_case,
    a_wrong_hash_is_400_and_stores_nothing,
    the_hash_is_over_the_unpacked_body,
    a_request_without_a_hash_is_accepted,
    a_header_named_hash_is_ignored,
    every_answer_with_a_body_has_a_hash,
    answers_of_added_routes_have_no_hash,
    a_line_end_after_the_key_is_not_part_of_it,
    reads_are_checked_too,
);

fn hash(body: &str, key: &str) -> String {
    golectra_protocol::hash::body_hash(body.as_bytes(), key.as_bytes())
}

async fn the_right_hash_is_accepted_in_either_case(t: Target) {
    // printf '%s' '[{"id":"golden","type":"counter","delta":0}]the key of the tests' | sha256sum
    let body = r#"[{"id":"golden","type":"counter","delta":0}]"#;
    let golden = "7238d20573a3be64bacb1e341045b8f1c07cefd579e2c619545d6ac5bbe99c8b";
    assert_eq!(hash(body, KEY), golden);
    for header in [golden.to_owned(), golden.to_uppercase()] {
        t.post("/updates").header("HashSHA256", header).body(body).send().await.expect(200);
    }
}

async fn a_wrong_hash_is_400_and_stores_nothing(t: Target) {
    let id = t.id("forged");
    let body = json!([{"id": id, "type": "counter", "delta": 1}]).to_string();
    let right = hash(&body, KEY);
    for wrong in [hash(&body, "another key"), right[..62].to_owned(), format!("{right}00"), "none".into(), "zz".repeat(32), String::new()] {
        let answer = t.post("/updates").header("HashSHA256", &wrong).body(body.clone()).send().await;
        if t.key().is_some() {
            assert_eq!(answer.status, 400, "{wrong:?}");
            assert_eq!(answer.text(), r#"{"error":"invalid hash","code":"invalid_hash"}"#, "{wrong:?}");
        } else {
            assert_eq!(answer.status, 200, "without a key there is nothing to check: {wrong:?}");
        }
    }
    assert_eq!(t.counter(&id).await, if t.key().is_some() { 0 } else { 6 });
}

async fn the_hash_is_over_the_unpacked_body(t: Target) {
    let id = t.id("packed");
    let body = json!([{"id": id, "type": "counter", "delta": 1}]).to_string();
    t.post("/updates").header("HashSHA256", hash(&body, KEY)).body(body.clone()).gzip().send().await.expect(200);
    let packed = gzip(body.as_bytes());
    let over_packed = golectra_protocol::hash::body_hash(&packed, KEY.as_bytes());
    let answer = t.post("/updates").header("HashSHA256", over_packed).header("content-encoding", "gzip").body(packed).send().await;
    assert_eq!(answer.status, if t.key().is_some() { 400 } else { 200 });
}

async fn a_request_without_a_hash_is_accepted(t: Target) {
    let id = t.id("unsigned");
    t.post("/updates").unsigned().json(&json!([{"id": id, "type": "counter", "delta": 1}])).send().await.expect(200);
    t.post("/update").unsigned().json(&json!({"id": id, "type": "counter", "delta": 1})).send().await.expect(200);
    t.post(&format!("/update/counter/{id}/1")).send().await.expect(200);
    assert_eq!(t.counter(&id).await, 3);
}

async fn a_header_named_hash_is_ignored(t: Target) {
    let metric = json!({"id": t.id("hash"), "type": "gauge", "value": 1});
    t.post("/update").unsigned().header("Hash", "none").json(&metric).send().await.expect(200);
    t.post("/update").header("Hash", "none").header("X-Hash-SHA256", "x").json(&metric).send().await.expect(200);
}

async fn every_answer_with_a_body_has_a_hash(t: Target) {
    // The client compares each hash; this case has an answer of every kind, so that each is checked.
    let metric = json!({"id": t.id("s"), "type": "gauge", "value": 1});
    let requests = [
        (t.post("/update").json(&metric), 200),
        (t.post("/updates").json(&json!([metric])), 200),
        (t.post("/value").json(&metric), 200),
        (t.get("/"), 200),
        (t.get("/ping"), 200),
        (t.get("/api/v1/snapshot"), 200),
        (t.post("/update").body("{"), 400),
        (t.get("/value/nothing/x"), 400),
        (t.get("/value/gauge/unknown metric".replace(' ', "%20").as_str()), 404),
        (t.get("/no/such/path"), 404),
        (t.post("/ping"), 405),
        (t.post("/updates").body(vec![b' '; (16 << 20) + 1]).gzip(), 413),
    ];
    for (request, status) in requests {
        for request in [request.clone(), request.accepts_gzip()] {
            let answer = request.send().await.expect(status);
            assert_eq!(answer.headers.contains_key("hashsha256"), t.key().is_some() && !answer.body.is_empty(), "{answer:?}");
        }
    }
}

async fn answers_of_added_routes_have_no_hash(t: Target) {
    for (path, status) in [("/ping/live", 200), ("/api/v1/sources", 200), ("/api/v1/latest", 200), ("/source?name=unknown", 404)] {
        let answer = t.get(path).send().await.expect(status);
        assert!(!answer.body.is_empty() && answer.header("hashsha256").is_none(), "{path}: {answer:?}");
    }
    let refused = t.post("/api/v1/sources").send().await.expect(405);
    assert_eq!(refused.header("hashsha256"), None);
}

async fn a_line_end_after_the_key_is_not_part_of_it(t: Target) {
    for end in ["\n", "\r\n"] {
        let server = t.own().env("KEY", format!("{KEY}{end}")).start();
        // The client checks that answers are hashed with the key exactly as given here.
        let client = Client::new(&server.url(), Some(KEY));
        let body = r#"[{"id":"c","type":"counter","delta":1}]"#;
        client.post("/updates").body(body).send().await.expect(200);
        client.post("/updates").body(body).signed("default", KEY).send().await.expect(200);
        // A peer that does not trim the key that it reads from the same Secret.
        client.post("/updates").header("HashSHA256", hash(body, &format!("{KEY}{end}"))).body(body).send().await.expect(200);
        for other in [format!("{KEY}{end}{end}"), format!("{KEY} "), format!("{KEY}\r")] {
            client.post("/updates").header("HashSHA256", hash(body, &other)).body(body).send().await.expect(400);
        }
        assert_eq!(client.counter("c").await, 3);
    }
}

async fn reads_are_checked_too(t: Target) {
    let answer = t.post("/value").header("HashSHA256", "00".repeat(32)).json(&json!({"id": t.id("r"), "type": "gauge"})).send().await;
    assert_eq!(answer.status, if t.key().is_some() { 400 } else { 404 });
}
