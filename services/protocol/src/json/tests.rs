use proptest::prelude::*;

use super::*;
use crate::{Kind, MetricId};

fn gauge(id: &str, value: f64) -> Metric {
    Metric { id: MetricId::parse(id).unwrap(), value: Value::Gauge(value) }
}

fn counter(id: &str, delta: i64) -> Metric {
    Metric { id: MetricId::parse(id).unwrap(), value: Value::Counter(delta) }
}

fn refusal(body: &str) -> String {
    decode_batch(body.as_bytes(), 3).unwrap_err().to_string()
}

#[test]
fn golden_bytes() {
    let batch = [gauge("Alloc", 1.5), counter("PollCount", 5), gauge("t{room=\"a\"}", -0.0)];
    let golden = r#"[{"id":"Alloc","type":"gauge","value":1.5},{"id":"PollCount","type":"counter","delta":5},{"id":"t{room=\"a\"}","type":"gauge","value":-0.0}]"#;
    assert_eq!(String::from_utf8(encode_batch(&batch)).unwrap(), golden);
    assert_eq!(decode_batch(golden.as_bytes(), 3).unwrap(), batch.into_iter().collect());
}

#[test]
fn the_spellings_of_the_original_are_accepted() {
    for body in [
        r#"{"ID":"a","TYPE":"gauge","Value":0}"#,
        r#" {"id":"a","type":"gauge","value":0,"delta":null,"extra":{"deep":[1,{"x":null}]}} "#,
        r#"{"id":"\u0061","type":"gauge","value":1,"value":0e5}"#,
        r#"{"id":"b","id":"a","id":null,"type":"gauge","value":0,"delta":7}"#,
    ] {
        assert_eq!(decode_metric(body.as_bytes()), Ok(gauge("a", 0.0)), "{body}");
    }
    assert_eq!(decode_metric(br#"{"id":"a","type":"counter","delta":0}"#), Ok(counter("a", 0)));
    let selector = decode_selector(br#"{"id":"a","type":"counter","value":"anything"}"#).unwrap();
    assert_eq!(selector, Selector { id: MetricId::parse("a").unwrap(), kind: Kind::Counter });
}

#[test]
fn the_error_of_a_bad_metric_says_what_is_wrong() {
    for (body, words) in [
        ("", "invalid JSON"),
        ("null", "invalid JSON"),
        ("[]", "invalid JSON"),
        ("{}", "must not be empty"),
        (r#"{"id":"a"}"#, "\"type\" is missing"),
        (r#"{"id":"a","type":"Gauge","value":1}"#, "unknown metric type \"Gauge\""),
        (r#"{"id":"a","type":"gauge"}"#, "needs a number"),
        (r#"{"id":"a","type":"gauge","value":null}"#, "needs a number"),
        (r#"{"id":"a","type":"gauge","value":"1"}"#, "invalid JSON"),
        (r#"{"id":"a","type":"gauge","value":NaN}"#, "invalid JSON"),
        (r#"{"id":"a","type":"gauge","value":1e999}"#, "invalid JSON"),
        (r#"{"id":"a","type":"counter","value":1}"#, "needs a whole number"),
        (r#"{"id":"a","type":"counter","delta":1.0}"#, "invalid JSON"),
        (r#"{"id":"a","type":"counter","delta":-1}"#, "must not be negative"),
        (r#"{"id":"a","type":"counter","delta":9223372036854775808}"#, "invalid JSON"),
        (r#"{"id":"a\u0000","type":"counter","delta":1}"#, "control characters"),
        (r#"{"id":7,"type":"counter","delta":1}"#, "invalid JSON"),
        (r#"{"id":"a","type":"gauge","value":1} x"#, "invalid JSON"),
        ("{\"id\":\"\u{1}\"}", "invalid JSON"),
    ] {
        let error = decode_metric(body.as_bytes()).expect_err(body).to_string();
        assert!(error.contains(words), "{body}: {error}");
    }
    assert!(decode_metric(b"{\"id\":\"\xff\",\"type\":\"gauge\",\"value\":1}").is_err());
}

#[test]
fn the_error_of_a_batch_names_its_first_bad_item() {
    let good = r#"{"id":"a","type":"gauge","value":1}"#;
    assert_eq!(refusal(&format!("[{good},{{\"id\":\"\"}},5]")), "item 1: a metric's id must not be empty");
    assert!(refusal(&format!("[{good},{good},null]")).starts_with("item 2: invalid type: null"));
    assert!(refusal(&format!("[{good},{{\"id\":3}}]")).starts_with("item 1: invalid type: integer"));
    assert!(refusal(&format!("[{good},")).starts_with("item 1: EOF"));
    assert_eq!(refusal(&format!("[{good},{good},{good},{good}]")), "the batch has more than 3 items");
    assert_eq!(refusal("[]"), DecodeError::Empty.to_string());
    for body in ["null", "{}", "7", "", "\"x\"", good, &format!("[{good}]]"), &format!("[{good}")] {
        decode_batch(body.as_bytes(), 3).expect_err(body);
    }
}

#[test]
fn depth_is_bounded() {
    let deep = "[".repeat(1_000_000);
    decode_batch(deep.as_bytes(), 3).unwrap_err();
    let inside = format!(r#"[{{"id":"a","type":"gauge","value":1,"x":{deep}"#);
    decode_batch(inside.as_bytes(), 3).unwrap_err();
}

prop_compose! {
    fn any_metric()(id in "[^\\p{C}]{1,60}", bits in any::<u64>(), delta in 0..=i64::MAX, counts in any::<bool>()) -> Metric {
        let value = f64::from_bits(bits);
        let id = id.as_str();
        if counts || !value.is_finite() { counter(id, delta) } else { gauge(id, value) }
    }
}

proptest! {
    #[test]
    fn a_batch_round_trips_bit_for_bit(batch in proptest::collection::vec(any_metric(), 1..20)) {
        let back = decode_batch(&encode_batch(&batch), 20).unwrap();
        for (sent, read) in batch.iter().zip(&back) {
            prop_assert_eq!(sent.id.as_str(), read.id);
            match (sent.value, read.value) {
                (Value::Gauge(a), Value::Gauge(b)) => prop_assert_eq!(a.to_bits(), b.to_bits()),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
        prop_assert_eq!(back.len(), batch.len());
    }

    #[test]
    fn it_does_not_panic_on_any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (decode_batch(&body, 3), decode_metric(&body), decode_selector(&body));
    }
}
