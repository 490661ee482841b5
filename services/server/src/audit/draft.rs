//! What a write leaves for its event.

use std::net::IpAddr;
use std::sync::Arc;

use golectra_protocol::audit::event_json;

use super::lists::IdList;

/// An event on its way into the outbox, with what its delivery needs to know.
#[derive(Debug, Clone)]
pub struct Draft {
    /// When the write was taken, in unix seconds.
    pub ts: i64,
    /// The peer that wrote.
    pub ip_address: IpAddr,
    /// The ids that were written, shared with other drafts of the same ids.
    pub ids: Arc<IdList>,
    /// The W3C trace context of the write, carried on to the webhook.
    pub traceparent: Option<String>,
}

impl Draft {
    /// The event, the bytes that every sink gets.
    pub fn body(&self) -> Vec<u8> {
        event_json(self.ts, self.ids.json(), &self.ip_address.to_string())
    }

    /// About how many bytes of memory it holds beside itself: its share of a list that others hold too. One of the holders is
    /// the cache, which has a bound of its own, but the list outlives its place there for as long as drafts need it.
    pub fn held_bytes(&self) -> usize {
        let drafts = Arc::strong_count(&self.ids).saturating_sub(1).max(1);
        self.ids.json().len() / drafts + self.traceparent.as_ref().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{Metric, MetricId, Value};

    use super::*;
    use crate::audit::lists::Lists;

    #[test]
    fn drafts_share_what_their_list_takes() {
        let lists = Lists::default();
        let metrics = [Metric { id: MetricId::parse("x".repeat(96).as_str()).unwrap(), value: Value::Counter(1) }].into_iter().collect();
        let draft = || Draft { ts: 7, ip_address: [127, 0, 0, 1].into(), ids: lists.of(&metrics), traceparent: None };
        let first = draft();
        assert_eq!(first.held_bytes(), 100);
        let others = [draft(), draft(), draft()];
        assert_eq!(others.each_ref().map(Draft::held_bytes), [25; 3]);
        let alone = Draft { ids: Arc::new(IdList::of(&metrics)), traceparent: Some("1234567".into()), ..first };
        assert_eq!(alone.held_bytes(), 107);
    }
}
