//! Sources, and the views over all of them.

use golectra_tests::{Client, Target, key_at, on_every_store, unix_millis};
use serde_json::{Value, json};

on_every_store!(
    part_one_reads_are_the_view_over_all_sources,
    the_newest_gauge_is_from_the_latest_batch,
    a_bad_source_is_400,
    sources_are_listed_with_what_they_have,
    a_key_belongs_to_its_source,
    an_update_answers_with_the_value_over_all_sources,
);

async fn put(t: &Client, source: &str, batch: &Value) {
    t.post("/updates").source(source).json(batch).send().await.expect(200);
}

async fn part_one_reads_are_the_view_over_all_sources(t: Target) {
    let (gauge, counter) = (t.id("g"), t.id("c"));
    for (source, value) in [("a", 1), ("b", 20), ("c", 300)] {
        let batch = json!([{"id": gauge, "type": "gauge", "value": value}, {"id": counter, "type": "counter", "delta": value}]);
        put(&t, source, &batch).await;
    }
    t.updates(&json!([{"id": counter, "type": "counter", "delta": 4000}])).await.expect(200);
    assert_eq!(t.value("gauge", &gauge).await.as_deref(), Some("300"));
    assert_eq!(t.counter(&counter).await, 4321);
    let answer = t.post("/value").json(&json!({"id": counter, "type": "counter"})).send().await.expect(200);
    assert_eq!(answer.json()["delta"], 4321);
    let snapshot = t.get("/api/v1/snapshot").send().await.expect(200).json();
    assert_eq!((&snapshot["counters"][&counter], &snapshot["gauges"][&gauge]), (&json!(4321), &json!(300.0)));
}

async fn the_newest_gauge_is_from_the_latest_batch(t: Target) {
    let (same, other) = (t.id("same"), t.id("other"));
    let now = unix_millis();
    let send = async |source: &str, id: &str, age_millis: u64, value: i32| {
        let key = key_at(now - age_millis);
        let batch = json!([{"id": id, "type": "gauge", "value": value}]);
        t.post("/updates").source(source).idempotency_key(&key).json(&batch).send().await.expect(200);
    };
    // A late batch with an earlier time never overwrites a newer value, of the same source or in the view over all.
    send("x", &same, 1_000, 2).await;
    send("x", &same, 60_000, 1).await;
    assert_eq!(t.value("gauge", &same).await.as_deref(), Some("2"));
    send("x", &other, 1_000, 20).await;
    send("y", &other, 60_000, 10).await;
    assert_eq!(t.value("gauge", &other).await.as_deref(), Some("20"));
    send("y", &other, 500, 30).await;
    assert_eq!(t.value("gauge", &other).await.as_deref(), Some("30"));
    // Of two values with the same time, the later arrival.
    send("x", &same, 100, 5).await;
    send("x", &same, 100, 6).await;
    assert_eq!(t.value("gauge", &same).await.as_deref(), Some("6"));
}

async fn a_bad_source_is_400(t: Target) {
    let id = t.id("nobody");
    let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
    for source in [" ", "a b", "a/b", "<b>", "\u{fc}", "a,b", &"x".repeat(254)] {
        let answer = t.post("/updates").header("golectra-source", source).json(&batch).send().await;
        assert_eq!(answer.status, 400, "{source:?}");
        answer.error();
        t.post("/update").header("golectra-source", source).json(&batch[0]).send().await.expect(400);
    }
    assert_eq!(t.value("counter", &id).await, None);
    for source in ["a", "node-1.example.org", "GPU_7", &"x".repeat(253)] {
        put(&t, source, &batch).await;
    }
    assert_eq!(t.counter(&id).await, 4);
}

async fn sources_are_listed_with_what_they_have(t: Target) {
    let server = t.own().start();
    let client = server.client();
    assert_eq!(client.get("/api/v1/sources").send().await.expect(200).json(), json!({"sources": []}));
    let before = unix_millis();
    put(&client, "beta", &json!([{"id": "a", "type": "gauge", "value": 1}, {"id": "a", "type": "counter", "delta": 1}])).await;
    put(&client, "alpha", &json!([{"id": "a", "type": "gauge", "value": 1}])).await;
    client.updates(&json!([{"id": "b", "type": "gauge", "value": 1}])).await.expect(200);
    put(&client, "beta", &json!([{"id": "c", "type": "gauge", "value": 1}])).await;
    let answer = client.get("/api/v1/sources").send().await.expect(200);
    assert_eq!(answer.media_type(), "application/json");
    let json = answer.json();
    let sources = json["sources"].as_array().expect("an array");
    let seen: Vec<_> =
        sources.iter().map(|source| (source["name"].as_str().expect("a name"), source["series"].as_u64().expect("a count"))).collect();
    assert_eq!(seen, [("", 1), ("alpha", 1), ("beta", 3)]);
    for source in sources {
        let fields: Vec<_> = source.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields.len(), 4, "{source}");
        let (first, last) = (millis(&source["first_seen"]), millis(&source["last_seen"]));
        assert!(first + 2000 >= before && first <= last && last <= unix_millis() + 2000, "{source}");
    }
}

/// A time in the API's format: unix seconds or milliseconds as a number, or RFC 3339 in UTC.
fn millis(time: &Value) -> u64 {
    if let Some(number) = time.as_f64() {
        let number = if number > 1e11 { number } else { number * 1000.0 };
        return format!("{number:.0}").parse().expect("a whole number");
    }
    let text = time.as_str().expect("a time is a number or a text");
    assert!(text.ends_with('Z') && text.as_bytes()[10] == b'T', "{text} is not RFC 3339 in UTC");
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().expect("digits");
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    (((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19)) * 1000
}

async fn a_key_belongs_to_its_source(t: Target) {
    let (id, key) = (t.id("c"), key_at(unix_millis()));
    for source in ["p", "q"] {
        for replayed in [None, Some("true")] {
            let batch = json!([{"id": id, "type": "counter", "delta": 1}]);
            let answer = t.post("/updates").source(source).idempotency_key(&key).json(&batch).send().await.expect(200);
            assert_eq!(answer.header("idempotency-replayed"), replayed);
        }
    }
    assert_eq!(t.counter(&id).await, 2);
}

async fn an_update_answers_with_the_value_over_all_sources(t: Target) {
    let id = t.id("c");
    let metric = json!({"id": id, "type": "counter", "delta": 5});
    let first = t.post("/update").source("m").json(&metric).send().await.expect(200).json();
    let second = t.post("/update").source("n").json(&metric).send().await.expect(200).json();
    assert_eq!((&first["delta"], &second["delta"]), (&json!(5), &json!(10)), "the metric as it stands is the view over all sources");
}
