//! The audit event: who wrote which metrics when.

use serde::{Deserialize, Serialize};

use crate::Metrics;

/// One successful write. As JSON it is one line: `{"ts":…,"metrics":[…],"ip_address":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When the write was taken, in unix seconds.
    pub ts: i64,
    /// The ids that were written, sorted, each once.
    pub metrics: Vec<String>,
    /// The address of the peer that wrote, without its port.
    pub ip_address: String,
}

impl Event {
    /// The event as JSON, without a newline at its end.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and an integer always encode")
    }
}

/// The ids of a write, sorted, each once, as they stand in its event: `["a","b"]`. Agents send the same ids each time, so this
/// text can be kept and used again where an [`Event`] would be a string an id.
pub fn ids_json(metrics: &Metrics) -> String {
    let mut ids: Vec<&str> = metrics.iter().map(|metric| metric.id).collect();
    ids.sort_unstable();
    ids.dedup();
    serde_json::to_string(&ids).expect("strings always encode")
}

/// The event whose ids are this text of [`ids_json`]: the same bytes as [`Event::to_json`].
pub fn event_json(ts: i64, ids: &str, ip_address: &str) -> Vec<u8> {
    let ip_address = serde_json::to_string(ip_address).expect("a string always encodes");
    format!(r#"{{"ts":{ts},"metrics":{ids},"ip_address":{ip_address}}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Metric, MetricId, Value};

    fn metrics(ids: impl IntoIterator<Item = MetricId>) -> Metrics {
        ids.into_iter().map(|id| Metric { id, value: Value::Counter(1) }).collect()
    }

    #[test]
    fn golden_bytes_of_an_event() {
        let golden = r#"{"ts":1700000000,"metrics":["a","b"],"ip_address":"127.0.0.1"}"#;
        let event = Event { ts: 1_700_000_000, metrics: vec!["a".into(), "b".into()], ip_address: "127.0.0.1".into() };
        assert_eq!(event.to_json(), golden.as_bytes());
        let ids = ids_json(&metrics(["b", "a", "b"].map(|id| MetricId::parse(id).unwrap())));
        assert_eq!(ids, r#"["a","b"]"#);
        assert_eq!(event_json(1_700_000_000, &ids, "127.0.0.1"), golden.as_bytes());
    }

    proptest! {
        #[test]
        fn a_composed_event_is_the_encoded_one(
            ts in any::<i64>(),
            // Few letters, so that ids come twice; among them what JSON escapes.
            ids in proptest::collection::vec(r#"[ab"\\/ä\u{2028}😀]{1,4}|\PC{1,20}|t\{l="[ab\\\\"]{0,3}"\}"#, 0..20),
            ip_address in any::<String>(),
        ) {
            let ids: Vec<MetricId> = ids.iter().filter_map(|id| MetricId::parse(id).ok()).collect();
            let mut sorted: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
            sorted.sort();
            sorted.dedup();
            let event = Event { ts, metrics: sorted, ip_address };
            let composed = event_json(ts, &ids_json(&metrics(ids)), &event.ip_address);
            prop_assert_eq!(String::from_utf8(composed), String::from_utf8(event.to_json()));
        }
    }
}
