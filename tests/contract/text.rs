//! POST /update/:type/:name/:value and GET /value/:type/:name.

use golectra_tests::{Target, exchange, on_every_store};

use crate::DELICATE;

on_every_store!(
    a_gauge_keeps_its_last_value,
    a_counter_adds_deltas,
    a_gauge_and_a_counter_of_one_id_are_two_metrics,
    gauges_are_formatted_in_shortest_form_without_exponent,
    doubles_round_trip_bit_for_bit,
    zero_creates_the_metric,
    a_missing_name_is_404,
    an_unknown_type_is_400,
    a_bad_value_is_400_and_changes_nothing,
    the_answer_for_an_unknown_metric_is_404_and_not_a_number,
    slashes_at_the_end_or_repeated_are_the_same_route,
    names_are_percent_decoded,
    bad_names_are_400,
    a_counter_cannot_overflow,
    refused_headers_and_escapes_are_answered_in_text,
);

async fn update(t: &Target, kind: &str, name: &str, value: &str) -> u16 {
    let answer = t.post(&format!("/update/{kind}/{name}/{value}")).send().await;
    assert_eq!(answer.media_type(), "text/plain", "{answer:?}");
    answer.status
}

async fn a_gauge_keeps_its_last_value(t: Target) {
    let id = t.id("g");
    assert_eq!(update(&t, "gauge", &id, "1.5").await, 200);
    assert_eq!(update(&t, "gauge", &id, "-2.25").await, 200);
    let answer = t.get(&format!("/value/gauge/{id}")).send().await.expect(200);
    assert_eq!((answer.media_type(), answer.body.as_slice()), ("text/plain", b"-2.25".as_slice()));
}

async fn a_counter_adds_deltas(t: Target) {
    let id = t.id("c");
    for delta in ["5", "0", "7"] {
        assert_eq!(update(&t, "counter", &id, delta).await, 200);
    }
    let answer = t.get(&format!("/value/counter/{id}")).send().await.expect(200);
    assert_eq!((answer.media_type(), answer.body.as_slice()), ("text/plain", b"12".as_slice()));
}

async fn a_gauge_and_a_counter_of_one_id_are_two_metrics(t: Target) {
    let id = t.id("both");
    assert_eq!(update(&t, "gauge", &id, "0.5").await, 200);
    assert_eq!(update(&t, "counter", &id, "3").await, 200);
    assert_eq!(t.value("gauge", &id).await.as_deref(), Some("0.5"));
    assert_eq!(t.value("counter", &id).await.as_deref(), Some("3"));
}

async fn gauges_are_formatted_in_shortest_form_without_exponent(t: Target) {
    let id = t.id("g");
    for (sent, read) in [
        ("1", "1"),
        ("1.0", "1"),
        ("100000000000000000000000", "100000000000000000000000"),
        ("1e21", "1000000000000000000000"),
        ("1E-7", "0.0000001"),
        ("0.10", "0.1"),
        ("-0.5e1", "-5"),
        ("0.1000000000000000055511151231257827", "0.1"),
        ("123456789.125", "123456789.125"),
    ] {
        assert_eq!(update(&t, "gauge", &id, sent).await, 200, "{sent}");
        assert_eq!(t.value("gauge", &id).await.as_deref(), Some(read));
    }
}

async fn doubles_round_trip_bit_for_bit(t: Target) {
    for (index, value) in DELICATE.into_iter().enumerate() {
        let id = t.id(&format!("d{index}"));
        assert_eq!(update(&t, "gauge", &id, &value.to_string()).await, 200, "{value}");
        let text = t.value("gauge", &id).await.expect("it was stored");
        assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(value.to_bits()), "{value} came back as {text}");
    }
}

async fn zero_creates_the_metric(t: Target) {
    let id = t.id("zero");
    assert_eq!(update(&t, "gauge", &id, "0").await, 200);
    assert_eq!(update(&t, "counter", &id, "0").await, 200);
    assert_eq!(t.value("gauge", &id).await.as_deref(), Some("0"));
    assert_eq!(t.value("counter", &id).await.as_deref(), Some("0"));
}

async fn a_missing_name_is_404(t: Target) {
    for path in ["/update/gauge", "/update/gauge/", "/update/counter/", "/update/gauge//", "/value/gauge", "/value/counter/"] {
        let request = if path.starts_with("/value") { t.get(path) } else { t.post(path) };
        request.send().await.expect(404);
    }
}

async fn an_unknown_type_is_400(t: Target) {
    for kind in ["histogram", "Gauge", "gauges", "1"] {
        assert_eq!(update(&t, kind, &t.id("x"), "1").await, 400, "{kind}");
        let answer = t.get(&format!("/value/{kind}/{}", t.id("x"))).send().await.expect(400);
        assert_eq!(answer.media_type(), "text/plain");
    }
}

async fn a_bad_value_is_400_and_changes_nothing(t: Target) {
    let id = t.id("v");
    for value in ["none", "NaN", "Inf", "-Inf", "+Infinity", "1e999", "1,5", "1_0", "%20", "0x1p-2", "--1"] {
        assert_eq!(update(&t, "gauge", &id, value).await, 400, "{value}");
    }
    for value in ["none", "1.5", "1e3", "-1", "9223372036854775808", "%2B", "0x10", "1%00"] {
        assert_eq!(update(&t, "counter", &id, value).await, 400, "{value}");
    }
    assert_eq!((t.value("gauge", &id).await, t.value("counter", &id).await), (None, None));
}

async fn the_answer_for_an_unknown_metric_is_404_and_not_a_number(t: Target) {
    for kind in ["gauge", "counter"] {
        let answer = t.get(&format!("/value/{kind}/{}", t.id("nobody"))).send().await.expect(404);
        assert_eq!(answer.media_type(), "text/plain");
        assert!(!answer.body.is_empty() && answer.text().trim().parse::<f64>().is_err(), "{}", answer.text());
    }
}

async fn slashes_at_the_end_or_repeated_are_the_same_route(t: Target) {
    let id = t.id("slash");
    for path in ["/update/counter/{}/1", "/update/counter/{}/1/", "//update//counter/{}///1", "/update/counter/{}/1//"] {
        t.post(&path.replace("{}", &id)).send().await.expect(200);
    }
    for path in ["/value/counter/{}", "/value/counter/{}/", "//value/counter//{}//"] {
        assert_eq!(t.get(&path.replace("{}", &id)).send().await.expect(200).text(), "4", "{path}");
    }
    let metric = serde_json::json!({"id": id, "type": "counter", "delta": 1});
    for path in ["/update/", "//update", "/update//"] {
        t.post(path).json(&metric).send().await.expect(200);
    }
    for path in ["/updates/", "//updates//"] {
        t.post(path).json(&serde_json::json!([metric])).send().await.expect(200);
    }
    assert_eq!(t.post("/value/").json(&metric).send().await.expect(200).json()["delta"], 9);
    for path in ["/ping/", "//ping", "/ping/live/", "/api/v1/snapshot/", "/api//v1/snapshot", "//", "/api/v1/sources/", "/api/v1/latest//"]
    {
        t.get(path).send().await.expect(200);
    }
}

async fn names_are_percent_decoded(t: Target) {
    let plain = t.id("a b/ü%");
    let encoded = plain.replace('%', "%25").replace(' ', "%20").replace('/', "%2F").replace('ü', "%C3%BC");
    // Written by hand, because a library might normalize the path.
    let request = format!("POST /update/gauge/{encoded}/4.5 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(exchange(t.server().port(), request).await.map(|answer| answer.status), Some(200));
    let stored = t.post("/value").json(&serde_json::json!({"id": plain, "type": "gauge"})).send().await.expect(200).json();
    assert_eq!((stored["id"].as_str(), stored["value"].as_f64()), (Some(plain.as_str()), Some(4.5)));
    assert_eq!(t.get(&format!("/value/gauge/{encoded}")).send().await.expect(200).text(), "4.5");
}

async fn bad_names_are_400(t: Target) {
    for name in ["%00", "a%0Ab", "%7F", "%C2%85", "%FF", "%zz", "a%2", &"x".repeat(golectra_protocol::MAX_ID_BYTES + 1)] {
        let path = format!("/update/gauge/{name}/1");
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(exchange(t.server().port(), request).await.map(|answer| answer.status), Some(400), "{path}");
    }
    assert_eq!(update(&t, "gauge", &"x".repeat(golectra_protocol::MAX_ID_BYTES), "1").await, 200);
}

async fn a_counter_cannot_overflow(t: Target) {
    let id = t.id("full");
    assert_eq!(update(&t, "counter", &id, "9223372036854775806").await, 200);
    assert_eq!(update(&t, "counter", &id, "2").await, 400);
    assert_eq!(t.value("counter", &id).await.as_deref(), Some("9223372036854775806"));
    assert_eq!(update(&t, "counter", &id, "1").await, 200);
    assert_eq!(t.value("counter", &id).await.as_deref(), Some("9223372036854775807"));
}

async fn refused_headers_and_escapes_are_answered_in_text(t: Target) {
    let path = format!("/update/gauge/{}/1", t.id("refused"));
    for (name, value) in [("Golectra-Source", "not/valid"), ("Golectra-Source", "ü"), ("Idempotency-Key", "1")] {
        let answer = t.post(&path).header(name, value).send().await.expect(400);
        assert_eq!(answer.media_type(), "text/plain", "{name}: {answer:?}");
    }
    let twice = t.post(&path).source("a").source("b").send().await.expect(400);
    assert_eq!(twice.media_type(), "text/plain", "{twice:?}");
    let answer = t.get(&format!("/value/gauge/{}?a=%FF", t.id("refused"))).send().await.expect(400);
    assert_eq!(answer.media_type(), "text/plain", "{answer:?}");
}
