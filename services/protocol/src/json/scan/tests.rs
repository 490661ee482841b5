//! The fast parser compared with serde_json: its results are the same, and it handles what agents send.

use proptest::prelude::*;

use super::super::by_serde;
use super::*;

/// Parses a body with both parsers: a result of the fast one must equal the other's bit for bit.
fn compare(body: &[u8], max_items: usize) -> bool {
    let Some(fast) = batch(body, max_items) else { return false };
    let slow = by_serde::batch(body, max_items);
    let slow = slow.unwrap_or_else(|error| panic!("{:?} is refused: {error}", String::from_utf8_lossy(body)));
    let bits = |metrics: &Metrics| -> Vec<(String, Kind, u64)> {
        let of = |value| match value {
            Value::Gauge(value) => value.to_bits(),
            Value::Counter(delta) => delta.cast_unsigned(),
        };
        metrics.iter().map(|metric| (metric.id.to_owned(), metric.kind(), of(metric.value))).collect()
    };
    assert_eq!(bits(&fast), bits(&slow), "{:?}", String::from_utf8_lossy(body));
    true
}

#[test]
fn the_fast_parser_handles_what_agents_send() {
    for body in [
        r#"[{"id":"a","type":"gauge","value":0}]"#,
        r#"[{"id":"Alloc","type":"gauge","value":812.8346153846154},{"id":"PollCount","type":"counter","delta":5}]"#,
        r#"[{"type":"counter","delta":0,"id":"x"} , {"value":-1.5e-7,"id":"y","type":"gauge"}]"#,
        " [ { \"ID\" : \"a\" ,\n\t\"Type\": \"gauge\", \"VALUE\": 1E+5 } ]\r\n",
        r#"[{"id":"requests{code=\"200\",path=\"/a\"}","type":"counter","delta":123456789012345678}]"#,
        r#"[{"id":"\u0061\ud83e\udd80\/ü","type":"gauge","value":1,"delta":7}]"#,
        r#"[{"id":"температура","type":"gauge","value":-0.0}]"#,
    ] {
        assert!(compare(body.as_bytes(), 3), "{body}");
    }
}

#[test]
fn unusual_forms_are_left_to_the_other_parser() {
    for body in [
        "",
        "[]",
        "[",
        "null",
        r#"[{"id":"a","type":"gauge","value":1}] x"#,
        r#"[{"id":"a","type":"gauge","value":1},]"#,
        r#"[{"id":"a","type":"gauge","value":1}{"id":"a","type":"gauge","value":1}]"#,
        r#"[{"id":"a","type":"gauge","value":1,}]"#,
        r#"[{"id":"a","type":"gauge","value":1,"value":2}]"#,
        r#"[{"id":"a","type":"gauge","value":1,"unit":"V"}]"#,
        r#"[{"id":"a","type":"gauge","value":null}]"#,
        r#"[{"id":"a","type":"gauge","value":01}]"#,
        r#"[{"id":"a","type":"gauge","value":1.}]"#,
        r#"[{"id":"a","type":"gauge","value":.5}]"#,
        r#"[{"id":"a","type":"gauge","value":1e}]"#,
        r#"[{"id":"a","type":"gauge","value":+1}]"#,
        r#"[{"id":"a","type":"gauge","value":-}]"#,
        r#"[{"id":"a","type":"gauge","value":1e999}]"#,
        r#"[{"id":"a","type":"gauge","value":"1"}]"#,
        r#"[{"id":"a","type":"gauge","value":1"#,
        r#"[{"id":"a","type":"counter","delta":-1}]"#,
        r#"[{"id":"a","type":"counter","delta":1.0}]"#,
        r#"[{"id":"a","type":"counter","delta":01}]"#,
        r#"[{"id":"a","type":"counter","delta":9223372036854775808}]"#,
        r#"[{"id":"a","type":"counter","value":1}]"#,
        r#"[{"id":"","type":"counter","delta":1}]"#,
        r#"[{"id":"\u0000","type":"counter","delta":1}]"#,
        r#"[{"id":"\ud800","type":"counter","delta":1}]"#,
        "[{\"id\":\"a\u{7f}\",\"type\":\"counter\",\"delta\":1}]",
        "[{\"id\":\"a\u{85}\",\"type\":\"counter\",\"delta\":1}]",
        "[{\"id\":\"a\n\",\"type\":\"counter\",\"delta\":1}]",
    ] {
        assert!(!compare(body.as_bytes(), 3), "{body}");
    }
    assert!(batch(br#"[{"id":"a","type":"counter","delta":1},{"id":"b","type":"counter","delta":1}]"#, 1).is_none());
    assert!(batch(b"[{\"id\":\"\xff\",\"type\":\"counter\",\"delta\":1}]", 1).is_none());
    for len in [1, 7, 8, 9, 255, 256, 4096, 4097] {
        let body = format!(r#"[{{"id":"{}","type":"counter","delta":1}}]"#, "x".repeat(len));
        assert_eq!(compare(body.as_bytes(), 1), len <= crate::MAX_ID_BYTES);
    }
}

#[test]
fn one_metric_is_read_as_a_batch_of_one() {
    let body = br#"{"id":"m{b=\"2\", a=\"1\"}","type":"gauge","value":2.5}"#;
    assert_eq!(metric(body), Some(by_serde::metric(body).unwrap()));
    assert_eq!(metric(br#"{"id":"a","type":"gauge","value":2.5} {"#), None);
}

fn number_of(text: &str) -> Option<f64> {
    number::double(text).filter(|(_, len)| *len == text.len()).map(|(value, _)| value)
}

#[test]
fn decimals_halfway_between_two_doubles_are_rounded_to_even() {
    for text in [
        "9007199254740993",
        "9007199254740993.0",
        "9007199254740992.5",
        "9007199254740995",
        "1.00000000000000011102230246251565",
        "1.0000000000000001110",
        "0.5000000000000000555",
        "18446744073709551615",
        "9999999999999999999",
        "0.0000000000000000001",
        "0.1234567890123456789",
        "5e-324",
        "2.2250738585072014e-308",
        "1.7976931348623157e308",
        "1e-400",
        "123456789012345678e-27",
        "123456789012345678e-28",
        "1e22",
        "1e23",
        "0.00000000000000000000000000001",
        "0e999999999999999999999",
    ] {
        let right: f64 = text.parse().unwrap();
        assert_eq!(number_of(text).map(f64::to_bits), Some(right.to_bits()), "{text}");
        assert_eq!(number_of(&format!("-{text}")).map(f64::to_bits), Some((-right).to_bits()), "-{text}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    let space = "[ \n]{0,1}";
    let id = prop_oneof![4 => "[a-zA-Z_.0-9]{1,20}", 1 => "[a-z{}=,\"\\\\/üΩ\u{7f}]{0,12}", 1 => "m\\{[ab]=\"[a-z]{0,3}\"(, ?[abc]=\"x\"){0,2}\\}"];
    let id = id.prop_map(|id| serde_json::to_string(&id).unwrap());
    let key = prop_oneof![5 => Just("id"), 5 => Just("type"), 5 => Just("value"), 4 => Just("delta"), 1 => Just("Value"), 1 => Just("x")];
    let number = prop_oneof![
        "-?[0-9]{1,20}",
        "-?(0|[1-9][0-9]{0,9})\\.[0-9]{1,20}",
        "-?[0-9]{1,3}(\\.[0-9]{1,17})?[eE][-+]?[0-9]{1,3}",
        any::<f64>().prop_map(|value| value.to_string()),
        Just("null".to_owned()),
    ];
    let kind = prop_oneof![6 => Just("\"gauge\""), 6 => Just("\"counter\""), 1 => Just("\"Gauge\"")].prop_map(str::to_owned);
    let field = (space, key, space, id, kind, number).prop_map(|(before, key, after, id, kind, number)| {
        let value = match key {
            "id" => id,
            "type" => kind,
            _ => number,
        };
        format!("{before}\"{key}\"{after}:{before}{value}{after}")
    });
    let item = proptest::collection::vec(field, 1..5).prop_map(|fields| format!("{{{}}}", fields.join(",")));
    proptest::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(",")))
}

fn any_good_text() -> impl Strategy<Value = String> {
    let id = prop_oneof!["[a-zA-Z_.0-9]{1,40}", "[^\\p{C}]{1,20}", "m\\{a=\"[a-z\\\\\\\\]{0,3}\",b=\"[üa-z]{0,9}\"\\}"];
    let item = (id, any::<u64>(), any::<f64>(), any::<bool>()).prop_map(|(id, bits, value, counts)| {
        let id = serde_json::to_string(&id).unwrap();
        let bits = f64::from_bits(bits);
        let value = if bits.is_finite() {
            bits
        } else if value.is_finite() {
            value
        } else {
            0.0
        };
        if counts {
            format!(r#"{{"id":{id},"type":"counter","delta":{}}}"#, value.to_bits() >> 5)
        } else {
            format!(r#"{{"id":{id},"type":"gauge","value":{}}}"#, serde_json::to_string(&value).unwrap())
        }
    });
    proptest::collection::vec(item, 1..9).prop_map(|items| format!("[{}]", items.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn both_parsers_agree_on_texts_similar_to_a_batch(body in any_text()) {
        compare(body.as_bytes(), 3);
    }

    #[test]
    fn both_parsers_agree_on_damaged_batches(
        body in any_good_text(), at in any::<prop::sample::Index>(), byte in prop_oneof![any::<u8>(), "[\\[\\]{}:,\"\\\\0-9eE.+ -]".prop_map(|c| c.as_bytes()[0])], cut in any::<bool>(),
    ) {
        let mut body = body.into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        if cut {
            body.truncate(at);
        }
        compare(&body, 9);
    }

    #[test]
    fn the_fast_parser_handles_well_formed_batches(body in any_good_text()) {
        prop_assert!(compare(body.as_bytes(), 9), "{}", body);
    }

    #[test]
    fn decimals_are_parsed_exactly(digits in any::<u64>(), point in 0..30_i32, keep in 0..20_u32) {
        let digits = digits / 10_u64.pow(keep);
        for text in [format!("{digits}e-{point}"), format!("{digits}e{point}"), format!("{}.{digits:019}", digits % 1000)] {
            let right: f64 = text.parse().unwrap();
            prop_assert_eq!(number_of(&text).map(f64::to_bits), Some(right.to_bits()), "{}", text);
        }
    }
}
