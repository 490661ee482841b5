//! Drafts of audit events, made by a write or a deletion.

use std::net::IpAddr;
use std::sync::Arc;

use golectra_protocol::Metrics;
use golectra_protocol::audit::event_json;

use super::names::NameList;

/// The audit event of a write before it is in an outbox. If the names are too long for one event, it becomes several events.
#[derive(Debug, Clone)]
pub struct Draft {
    /// When the write was accepted, in unix seconds.
    pub ts: i64,
    /// The address of the client.
    pub ip_address: IpAddr,
    /// The names of the metrics that were written, shared with other drafts of the same names.
    pub names: Arc<NameList>,
    /// Whether another recent write had the same names. If so, the database stores the list separately, once for all of its
    /// events.
    pub repeated: bool,
    /// The W3C trace context of the write, which is passed on to the webhook.
    pub traceparent: Option<String>,
}

impl Draft {
    /// The event of a deleted source. Its list of metrics is empty, which is never the case for a write.
    pub fn source_deleted(ip_address: IpAddr, unix_seconds: i64, traceparent: Option<String>) -> Self {
        Self { ts: unix_seconds, ip_address, names: Arc::new(NameList::empty()), repeated: false, traceparent }
    }

    /// The same event with the names of these metrics only: of a write that was stored in part, those that were stored.
    pub fn only(&self, metrics: &Metrics) -> Self {
        let names = NameList::of(metrics);
        // Often some samples of each metric are stored. Then the list stays the one that other drafts share.
        if names == *self.names {
            return self.clone();
        }
        Self { names: Arc::new(names), repeated: false, ..self.clone() }
    }

    /// The content of the events: one event, unless the names are too long for that.
    pub fn contents(&self) -> impl Iterator<Item = EventContent> {
        let ip_address: Arc<str> = self.ip_address.to_string().into();
        self.names.parts().iter().map(move |part| EventContent {
            ts: self.ts,
            names: Arc::clone(&part.json),
            ip_address: Arc::clone(&ip_address),
        })
    }

    /// The approximate memory that the draft holds in addition to itself: its share of the lists, which are shared with other
    /// drafts and the cache. The cache has a bound of its own, but a draft keeps its list in memory after the cache has evicted
    /// it.
    pub fn held_bytes(&self) -> usize {
        let drafts = Arc::strong_count(&self.names).saturating_sub(1).max(1);
        self.names.bytes() / drafts + self.traceparent.as_ref().map_or(0, String::len)
    }
}

/// The content of one event. The JSON is made when the event is delivered; until then events share their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventContent {
    /// When the write was accepted, in unix seconds.
    pub ts: i64,
    /// The names as JSON: `["a","b"]`.
    pub names: Arc<str>,
    /// The peer's address.
    pub ip_address: Arc<str>,
}

impl EventContent {
    /// The event as JSON: the bytes that every sink gets.
    pub fn json(&self) -> Vec<u8> {
        event_json(self.ts, &self.names, &self.ip_address)
    }

    /// The approximate length of the JSON in bytes.
    pub fn bytes(&self) -> usize {
        event_bytes(&self.names)
    }
}

/// The approximate length of the JSON of an event with these names, in bytes.
pub fn event_bytes(names: &str) -> usize {
    /// The length of `{"ts":1700000000,"metrics":,"ip_address":"192.0.2.200"}`, rounded up for IPv6.
    const REST: usize = 60;
    names.len() + REST
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{Metric, MetricId, Value};

    use super::*;
    use crate::audit::names::NameListCache;

    #[test]
    fn drafts_share_the_memory_of_their_list() {
        let cache = NameListCache::default();
        let metrics = [Metric { id: MetricId::parse("x".repeat(96).as_str()).unwrap(), value: Value::Counter(1) }].into_iter().collect();
        let draft = || {
            let (names, repeated) = cache.get(&metrics);
            Draft { ts: 7, ip_address: [127, 0, 0, 1].into(), names, repeated, traceparent: None }
        };
        draft();
        // The cache refers to the list twice: by its digest and by the ids that it was made from.
        let first = draft();
        assert_eq!(first.held_bytes(), 50);
        let others = [draft(), draft(), draft()];
        assert_eq!(others.each_ref().map(Draft::held_bytes), [20; 3]);
        let alone = Draft { names: Arc::new(NameList::of(&metrics)), traceparent: Some("1234567".into()), ..first };
        assert_eq!(alone.held_bytes(), 107);
    }

    #[test]
    fn a_write_that_was_stored_in_part_names_what_was_stored() {
        let metric = |id| Metric { id: MetricId::parse(id).unwrap(), value: Value::Gauge(1.0) };
        let metrics = |ids: &[&'static str]| ids.iter().copied().map(metric).collect::<Metrics>();
        let all = metrics(&["a{l=\"1\"}", "a{l=\"2\"}", "b"]);
        let names = Arc::new(NameList::of(&all));
        let draft = Draft { ts: 7, ip_address: [127, 0, 0, 1].into(), names, repeated: true, traceparent: Some("t".into()) };
        let same = draft.only(&metrics(&["a{l=\"2\"}", "b"]));
        assert!(Arc::ptr_eq(&draft.names, &same.names) && same.repeated);
        let fewer = draft.only(&metrics(&["b"]));
        assert_eq!(fewer.contents().map(|content| content.names.to_string()).collect::<Vec<_>>(), [r#"["b"]"#]);
        assert_eq!((fewer.repeated, fewer.ts, fewer.traceparent.as_deref()), (false, 7, Some("t")));
    }

    #[test]
    fn a_deleted_source_is_an_event_without_metrics() {
        let draft = Draft::source_deleted([192, 0, 2, 7].into(), 1_700_000_000, None);
        let events: Vec<String> = draft.contents().map(|content| String::from_utf8(content.json()).unwrap()).collect();
        assert_eq!(events, [r#"{"ts":1700000000,"metrics":[],"ip_address":"192.0.2.7"}"#]);
    }

    #[test]
    fn the_estimated_length_of_an_event_is_close() {
        for address in ["1.2.3.4", "192.0.2.200", "2001:db8::1"] {
            let content = EventContent { ts: 1_700_000_000, names: r#"["a","b"]"#.into(), ip_address: address.into() };
            assert!(content.json().len().abs_diff(content.bytes()) < 10, "{address}");
        }
    }
}
