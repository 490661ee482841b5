//! The audit event: which client wrote which metrics and when.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{IdParts, Metrics};

/// The longest event, in bytes of JSON. A server never sends a longer one, and golectra-audit-sink accepts every event up to
/// this length.
///
/// A batch within the server's default of 16 MiB a body always has one event, because its names are part of its body. If larger
/// bodies are allowed, or the body holds names more densely than JSON does, a write with more names has several events; see
/// [`name_lists`].
pub const MAX_EVENT_BYTES: usize = 16 << 20;

/// The longest rest of an event apart from its names: the keys, the longest time and the longest address.
const REST_BYTES: usize = 256;

/// The event of a successful write. As JSON it is one line: `{"ts":…,"metrics":[…],"ip_address":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When the write was accepted, in unix seconds.
    pub ts: i64,
    /// The names of the metrics that were written, without labels, sorted and without duplicates. Empty for the deletion of a
    /// source.
    pub metrics: Vec<String>,
    /// The address of the client, without its port.
    pub ip_address: String,
}

impl Event {
    /// The event as JSON, without a newline at its end.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and an integer always encode")
    }
}

/// The names of these metrics as JSON for [`event_json`], without labels, sorted and without duplicates: `["a","b"]`. It is one
/// list, unless the event would be longer than [`MAX_EVENT_BYTES`]: then there are several lists, each for an event of its own.
pub fn name_lists(metrics: &Metrics) -> Vec<String> {
    let mut names: Vec<Cow<'_, str>> = metrics.iter().map(|metric| IdParts::name_of(metric.id)).collect();
    names.sort_unstable();
    names.dedup();
    lists_of_at_most(MAX_EVENT_BYTES - REST_BYTES, &names)
}

fn lists_of_at_most(max_bytes: usize, names: &[Cow<'_, str>]) -> Vec<String> {
    let mut lists = Vec::with_capacity(1);
    let mut list = String::from("[");
    for name in names {
        let name = serde_json::to_string(name).expect("a string always encodes");
        if list.len() > 1 {
            if list.len() + name.len() + 2 > max_bytes {
                list.push(']');
                lists.push(std::mem::replace(&mut list, String::from("[")));
            } else {
                list.push(',');
            }
        }
        list.push_str(&name);
    }
    list.push(']');
    lists.push(list);
    lists
}

/// The event with this list of [`name_lists`]: the same bytes as [`Event::to_json`].
pub fn event_json(ts: i64, names: &str, ip_address: &str) -> Vec<u8> {
    let ip_address = serde_json::to_string(ip_address).expect("a string always encodes");
    format!(r#"{{"ts":{ts},"metrics":{names},"ip_address":{ip_address}}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Metric, MetricId, Value};

    fn metrics<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Metrics {
        ids.into_iter().map(|id| Metric { id: MetricId::parse(id.as_ref()).unwrap(), value: Value::Counter(1) }).collect()
    }

    #[test]
    fn golden_bytes_of_an_event() {
        let golden = r#"{"ts":1700000000,"metrics":["a","b"],"ip_address":"127.0.0.1"}"#;
        let event = Event { ts: 1_700_000_000, metrics: vec!["a".into(), "b".into()], ip_address: "127.0.0.1".into() };
        assert_eq!(event.to_json(), golden.as_bytes());
        let names = name_lists(&metrics(["b", "a", "b"]));
        assert_eq!(names, [r#"["a","b"]"#]);
        assert_eq!(event_json(1_700_000_000, &names[0], "127.0.0.1"), golden.as_bytes());
    }

    #[test]
    fn a_name_with_several_label_sets_is_listed_once() {
        let ids = ["up{pod=\"b\"}", "up{pod=\"a\"}", "up", "a{", "a{b}", "Alloc", "m{l=\"{\"}"];
        assert_eq!(name_lists(&metrics(ids)), [r#"["Alloc","a{","a{b}","m","up"]"#]);
    }

    #[test]
    fn a_write_of_nothing_has_one_empty_list() {
        assert_eq!(name_lists(&Metrics::default()), ["[]"]);
    }

    #[test]
    fn names_that_are_too_long_for_one_event_are_split() {
        let names = ["aaaa", "bbbb", "cc", "dddddddddddddddd", "e"].map(Cow::Borrowed);
        let lists = lists_of_at_most(18, &names);
        assert_eq!(lists, [r#"["aaaa","bbbb"]"#, r#"["cc"]"#, r#"["dddddddddddddddd"]"#, r#"["e"]"#]);
        assert_eq!(lists_of_at_most(15, &names[..2]), [r#"["aaaa","bbbb"]"#], "exactly as long as allowed");
        assert_eq!(lists_of_at_most(14, &names[..2]).len(), 2);
    }

    #[test]
    fn the_largest_batch_of_the_default_limits_has_one_event_of_at_most_the_maximum() {
        // A body of 16 MiB with names of 4,096 bytes or of 1 byte: the body's own syntax is longer than the event's.
        for name_bytes in [4096, 1] {
            let item = r#"{"id":"","type":"counter","delta":1},"#.len() + name_bytes;
            let items = (16 << 20) / item;
            let longest = items * (name_bytes + r#""","#.len());
            assert!(longest + REST_BYTES <= MAX_EVENT_BYTES, "{name_bytes}: {longest}");
        }
        let rest = event_json(i64::MIN, "", "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%4294967295").len();
        assert!(rest <= REST_BYTES, "{rest}");
    }

    proptest! {
        #[test]
        fn a_composed_event_equals_the_encoded_one(
            ts in any::<i64>(),
            // Few different letters, so that names are repeated; some of them are escaped in JSON.
            ids in proptest::collection::vec(r#"[ab"\\/ä\u{2028}😀]{1,4}|\PC{1,20}|t\{l="[ab\\\\"]{0,3}"\}"#, 0..20),
            ip_address in any::<String>(),
        ) {
            let ids: Vec<MetricId> = ids.iter().filter_map(|id| MetricId::parse(id).ok()).collect();
            let mut sorted: Vec<String> = ids.iter().map(|id| id.parts().name.into_owned()).collect();
            sorted.sort();
            sorted.dedup();
            let event = Event { ts, metrics: sorted, ip_address };
            let composed = event_json(ts, &name_lists(&metrics(&ids))[0], &event.ip_address);
            prop_assert_eq!(String::from_utf8(composed), String::from_utf8(event.to_json()));
        }

        #[test]
        fn the_lists_together_have_every_name(names in proptest::collection::btree_set("[a-c\"]{0,9}", 0..30), max_bytes in 5..60_usize) {
            let given: Vec<Cow<'_, str>> = names.iter().map(|name| Cow::Borrowed(name.as_str())).collect();
            let mut read = Vec::new();
            for list in lists_of_at_most(max_bytes, &given) {
                let part: Vec<String> = serde_json::from_str(&list).unwrap();
                prop_assert!(list.len() <= max_bytes || part.len() == 1, "{}", list);
                read.extend(part);
            }
            prop_assert_eq!(read, names.into_iter().collect::<Vec<_>>());
        }
    }
}
