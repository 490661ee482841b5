//! POST /update and POST /value: one metric object.

use std::time::{Duration, Instant};

use golectra_tests::{Database, Server, Target, on_every_store, until};
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::DELICATE;

on_every_store!(
    update_answers_with_the_current_value,
    the_bytes_of_an_answer,
    value_answers_with_the_metric,
    an_unknown_metric_is_404,
    doubles_round_trip_bit_for_bit,
    zero_creates_the_metric,
    keys_match_without_regard_to_case,
    unknown_fields_are_ignored,
    a_bad_metric_is_400_in_json,
    a_bad_selector_is_400_in_json,
    json_is_accepted_without_a_content_type,
    a_label_set_is_one_series_however_it_is_written,
);

async fn update_answers_with_the_current_value(t: Target) {
    let (gauge, counter) = (t.id("g"), t.id("c"));
    for (sent, stands) in [(1.5, 1.5), (-3.0, -3.0)] {
        let answer = t.post("/update").json(&json!({"id": gauge, "type": "gauge", "value": sent})).send().await.expect(200);
        assert_eq!(answer.media_type(), "application/json");
        assert_eq!(answer.json(), json!({"id": gauge, "type": "gauge", "value": stands}));
    }
    for (sent, stands) in [(2, 2), (40, 42)] {
        let answer = t.post("/update").json(&json!({"id": counter, "type": "counter", "delta": sent})).send().await.expect(200);
        assert_eq!(answer.json(), json!({"id": counter, "type": "counter", "delta": stands}));
    }
}

async fn the_bytes_of_an_answer(t: Target) {
    let id = t.id("g");
    let answer = t.post("/update").json(&json!({"id": id, "type": "counter", "delta": 7})).send().await.expect(200);
    assert_eq!(answer.text(), format!(r#"{{"id":"{id}","type":"counter","delta":7}}"#));
}

async fn value_answers_with_the_metric(t: Target) {
    let (gauge, counter) = (t.id("g"), t.id("c"));
    t.updates(&json!([{"id": gauge, "type": "gauge", "value": 0.5}, {"id": counter, "type": "counter", "delta": 6}])).await.expect(200);
    let answer = t.post("/value").json(&json!({"id": gauge, "type": "gauge"})).send().await.expect(200);
    assert_eq!((answer.media_type(), answer.json()), ("application/json", json!({"id": gauge, "type": "gauge", "value": 0.5})));
    let answer = t.post("/value").json(&json!({"id": counter, "type": "counter", "delta": 1000})).send().await.expect(200);
    assert_eq!(answer.json(), json!({"id": counter, "type": "counter", "delta": 6}));
}

async fn an_unknown_metric_is_404(t: Target) {
    for kind in ["gauge", "counter"] {
        t.post("/value").json(&json!({"id": t.id("nobody"), "type": kind})).send().await.expect(404).error();
    }
}

async fn doubles_round_trip_bit_for_bit(t: Target) {
    for (index, value) in DELICATE.into_iter().enumerate() {
        let id = t.id(&format!("d{index}"));
        let sent = t.post("/update").json(&json!({"id": id, "type": "gauge", "value": value})).send().await.expect(200);
        let read = t.post("/value").json(&json!({"id": id, "type": "gauge"})).send().await.expect(200);
        for answer in [sent, read] {
            assert_eq!(answer.json()["value"].as_f64().map(f64::to_bits), Some(value.to_bits()), "{value} in {}", answer.text());
        }
    }
}

async fn zero_creates_the_metric(t: Target) {
    let id = t.id("zero");
    t.post("/update").json(&json!({"id": id, "type": "gauge", "value": 0})).send().await.expect(200);
    t.post("/update").json(&json!({"id": id, "type": "counter", "delta": 0})).send().await.expect(200);
    let answer = t.post("/value").json(&json!({"id": id, "type": "counter"})).send().await.expect(200);
    assert_eq!(answer.json(), json!({"id": id, "type": "counter", "delta": 0}));
    assert_eq!(t.value("gauge", &id).await.as_deref(), Some("0"));
}

async fn keys_match_without_regard_to_case(t: Target) {
    let id = t.id("case");
    t.post("/update").body(format!(r#"{{"ID":"{id}","Type":"gauge","VALUE":2.5}}"#)).send().await.expect(200);
    let answer = t.post("/value").body(format!(r#"{{"Id":"{id}","TYPE":"gauge"}}"#)).send().await.expect(200);
    assert_eq!(answer.json()["value"], 2.5);
    t.post("/updates").body(format!(r#"[{{"iD":"{id}","tYPE":"counter","Delta":2}}]"#)).send().await.expect(200);
    assert_eq!(t.counter(&id).await, 2);
}

async fn unknown_fields_are_ignored(t: Target) {
    let id = t.id("more");
    let body = format!(r#"{{"id":"{id}","type":"gauge","value":1,"unit":"V","deep":{{"a":[1,{{"b":null}}]}},"delta":null}}"#);
    t.post("/update").body(body).send().await.expect(200);
    assert_eq!(t.value("gauge", &id).await.as_deref(), Some("1"));
}

async fn a_bad_metric_is_400_in_json(t: Target) {
    let id = t.id("bad");
    let long = "x".repeat(golectra_protocol::MAX_ID_BYTES + 1);
    for body in [
        String::new(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        "{".into(),
        "7".into(),
        r#"{"id":"","type":"gauge","value":1}"#.into(),
        format!(r#"{{"id":"{id}"}}"#),
        r#"{"type":"gauge","value":1}"#.into(),
        format!(r#"{{"id":"{id}","type":"histogram","value":1}}"#),
        format!(r#"{{"id":"{id}","type":"gauge"}}"#),
        format!(r#"{{"id":"{id}","type":"gauge","delta":1}}"#),
        format!(r#"{{"id":"{id}","type":"gauge","value":"1"}}"#),
        format!(r#"{{"id":"{id}","type":"gauge","value":NaN}}"#),
        format!(r#"{{"id":"{id}","type":"gauge","value":1e999}}"#),
        format!(r#"{{"id":"{id}","type":"counter"}}"#),
        format!(r#"{{"id":"{id}","type":"counter","value":1}}"#),
        format!(r#"{{"id":"{id}","type":"counter","delta":-1}}"#),
        format!(r#"{{"id":"{id}","type":"counter","delta":1.5}}"#),
        format!(r#"{{"id":"{id}","type":"counter","delta":9223372036854775808}}"#),
        format!(r#"{{"id":"{id}\u0000","type":"counter","delta":1}}"#),
        format!(r#"{{"id":"{long}","type":"counter","delta":1}}"#),
        format!(r#"{{"id":"{id}","type":"counter","delta":1}} x"#),
    ] {
        let answer = t.post("/update").body(body.clone()).send().await;
        assert_eq!(answer.status, 400, "{body}");
        answer.error();
    }
    assert_eq!((t.value("gauge", &id).await, t.value("counter", &id).await), (None, None));
}

async fn a_bad_selector_is_400_in_json(t: Target) {
    for body in
        ["", "null", "[]", "{}", r#"{"id":"a"}"#, r#"{"type":"gauge"}"#, r#"{"id":"a","type":"sum"}"#, r#"{"id":"","type":"gauge"}"#]
    {
        let answer = t.post("/value").body(body).send().await;
        assert_eq!(answer.status, 400, "{body}");
        answer.error();
    }
}

async fn json_is_accepted_without_a_content_type(t: Target) {
    let id = t.id("typeless");
    let metric = json!({"id": id, "type": "counter", "delta": 1});
    t.post("/update").body(metric.to_string()).send().await.expect(200);
    t.post("/update").header("content-type", "text/plain").body(metric.to_string()).send().await.expect(200);
    assert_eq!(t.counter(&id).await, 2);
}

async fn a_label_set_is_one_series_however_it_is_written(t: Target) {
    let name = t.id("requests");
    for id in [r#"{}{code="200",path="/a"}"#, r#"{}{path="/a",code="200"}"#, r#"{}{ path = "/a" , code="200", }"#] {
        let id = id.replacen("{}", &name, 1);
        let answer = t.post("/update").json(&json!({"id": id, "type": "counter", "delta": 1})).send().await.expect(200);
        assert_eq!(answer.json()["id"], format!(r#"{name}{{code="200",path="/a"}}"#));
    }
    assert_eq!(t.counter(&format!(r#"{name}{{path="/a",code="200"}}"#)).await, 3);
    for id in ["{}{", "{}{a}", "{}{a=b}", "{}{a=\"1\",a=\"2\"}", "{{}}"] {
        let id = id.replacen("{}", &name, 1);
        let answer = t.post("/update").json(&json!({"id": id, "type": "gauge", "value": 1})).send().await.expect(200);
        assert_eq!(answer.json()["id"], id, "braces that do not parse are a plain name");
        assert_eq!(t.value("gauge", &id).await.as_deref(), Some("1"), "{id}");
    }
}

#[tokio::test]
async fn a_counter_that_is_stored_and_cannot_be_read_back_is_no_error() {
    let Some(database) = Database::create() else { return };
    let server = Server::builder().database(&database).start();
    let client = server.client();
    let send = || client.post("/update").json(&json!({"id": "c", "type": "counter", "delta": 1})).send();
    send().await.expect(200);
    // The sum needs this table. A write of a series that is there does not.
    let mut holder = PgConnection::connect_with(&database.options()).await.expect("PostgreSQL answers");
    holder.execute("BEGIN; LOCK TABLE golectra.retired_totals IN ACCESS EXCLUSIVE MODE").await.expect("the lock is free soon");
    let mut written = 1;
    // The server's limit is 3 s. What else the machine does may make one of them late.
    until("the answer comes within 4.5 s", Duration::from_mins(1), async || {
        let begun = Instant::now();
        let body = send().await.expect(202).json();
        written += 1;
        assert_eq!((&body["id"], &body["type"], body.get("delta")), (&json!("c"), &json!("counter"), None));
        assert!(body["error"].as_str().is_some_and(|error| error.contains("was stored")), "{body}");
        begun.elapsed() < Duration::from_millis(4_500)
    })
    .await;
    holder.execute("ROLLBACK").await.expect("PostgreSQL answers");
    assert_eq!(client.counter("c").await, written);
}
