//! What a write or a deletion leaves for its events.

use std::net::IpAddr;
use std::sync::Arc;

use golectra_protocol::audit::event_json;

use super::names::NameList;

/// The event of a write before it is in an outbox. Where the names are too long for one event, it stands for several.
#[derive(Debug, Clone)]
pub struct Draft {
    /// When the write was taken, in unix seconds.
    pub ts: i64,
    /// The peer that wrote.
    pub ip_address: IpAddr,
    /// The names of the metrics that were written, shared with other drafts of the same names.
    pub names: Arc<NameList>,
    /// Whether another recent write had the same names. Then the database keeps the list apart, once for all of its events.
    pub repeated: bool,
    /// The W3C trace context of the write, carried on to the webhook.
    pub traceparent: Option<String>,
}

impl Draft {
    /// The event of a deleted source. Its list of metrics is empty, which no write's is.
    pub fn source_deleted(ip_address: IpAddr, unix_seconds: i64, traceparent: Option<String>) -> Self {
        Self { ts: unix_seconds, ip_address, names: Arc::new(NameList::empty()), repeated: false, traceparent }
    }

    /// What the events say; one event, unless the names are too long for that.
    pub fn contents(&self) -> impl Iterator<Item = EventContent> {
        let ip_address: Arc<str> = self.ip_address.to_string().into();
        self.names.parts().iter().map(move |part| EventContent {
            ts: self.ts,
            names: Arc::clone(&part.json),
            ip_address: Arc::clone(&ip_address),
        })
    }

    /// About how many bytes of memory it holds beside itself: its share of a list that others hold too. The cache is among the
    /// holders; it has a bound of its own, but drafts keep a list in memory after the cache has evicted it.
    pub fn held_bytes(&self) -> usize {
        let drafts = Arc::strong_count(&self.names).saturating_sub(1).max(1);
        self.names.bytes() / drafts + self.traceparent.as_ref().map_or(0, String::len)
    }
}

/// What one event says. Its JSON is made when it is delivered: until then events share their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventContent {
    /// When the write was taken, in unix seconds.
    pub ts: i64,
    /// The names as JSON: `["a","b"]`.
    pub names: Arc<str>,
    /// The peer's address.
    pub ip_address: Arc<str>,
}

impl EventContent {
    /// The bytes that every sink gets.
    pub fn json(&self) -> Vec<u8> {
        event_json(self.ts, &self.names, &self.ip_address)
    }

    /// About how many bytes its JSON has.
    pub fn bytes(&self) -> usize {
        event_bytes(&self.names)
    }
}

/// About how many bytes the JSON of an event with these names has.
pub fn event_bytes(names: &str) -> usize {
    /// `{"ts":1700000000,"metrics":,"ip_address":"192.0.2.200"}`, or some more with IPv6.
    const REST: usize = 60;
    names.len() + REST
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{Metric, MetricId, Value};

    use super::*;
    use crate::audit::names::NameListCache;

    #[test]
    fn drafts_share_what_their_list_takes() {
        let cache = NameListCache::default();
        let metrics = [Metric { id: MetricId::parse("x".repeat(96).as_str()).unwrap(), value: Value::Counter(1) }].into_iter().collect();
        let draft = || {
            let (names, repeated) = cache.get(&metrics);
            Draft { ts: 7, ip_address: [127, 0, 0, 1].into(), names, repeated, traceparent: None }
        };
        draft();
        // The cache holds the list twice: by its digest and by the ids that it was made of.
        let first = draft();
        assert_eq!(first.held_bytes(), 50);
        let others = [draft(), draft(), draft()];
        assert_eq!(others.each_ref().map(Draft::held_bytes), [20; 3]);
        let alone = Draft { names: Arc::new(NameList::of(&metrics)), traceparent: Some("1234567".into()), ..first };
        assert_eq!(alone.held_bytes(), 107);
    }

    #[test]
    fn a_deleted_source_is_an_event_without_metrics() {
        let draft = Draft::source_deleted([192, 0, 2, 7].into(), 1_700_000_000, None);
        let events: Vec<String> = draft.contents().map(|content| String::from_utf8(content.json()).unwrap()).collect();
        assert_eq!(events, [r#"{"ts":1700000000,"metrics":[],"ip_address":"192.0.2.7"}"#]);
    }

    #[test]
    fn the_estimate_of_an_events_length_is_close() {
        for address in ["1.2.3.4", "192.0.2.200", "2001:db8::1"] {
            let content = EventContent { ts: 1_700_000_000, names: r#"["a","b"]"#.into(), ip_address: address.into() };
            assert!(content.json().len().abs_diff(content.bytes()) < 10, "{address}");
        }
    }
}
