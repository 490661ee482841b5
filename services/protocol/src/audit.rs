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
    /// The event of a write.
    pub fn of(metrics: &Metrics, ip_address: String, unix_seconds: i64) -> Self {
        let mut ids: Vec<&str> = metrics.iter().map(|metric| metric.id).collect();
        ids.sort_unstable();
        ids.dedup();
        Self { ts: unix_seconds, metrics: ids.into_iter().map(str::to_owned).collect(), ip_address }
    }

    /// The event as JSON, without a newline at its end.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and an integer always encode")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metric, MetricId, Value};

    #[test]
    fn golden_bytes_of_an_event() {
        let metric = |id| Metric { id: MetricId::parse(id).unwrap(), value: Value::Counter(1) };
        let event = Event::of(&[metric("b"), metric("a"), metric("b")].into_iter().collect(), "127.0.0.1".into(), 1_700_000_000);
        assert_eq!(event.to_json(), br#"{"ts":1700000000,"metrics":["a","b"],"ip_address":"127.0.0.1"}"#);
    }
}
