//! An event as one line, whatever layout it was sent in, so that readers of the files find one event a line.
//!
//! The line is written while the event is read. As strings of their own, the names of a long event would take several times
//! the memory of its text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The event in this JSON, as a line without its newline: the known fields, in their order.
pub(super) fn event_line(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut read = serde_json::Deserializer::from_slice(json);
    let line = read.deserialize_map(EventVisitor { capacity: json.len() })?;
    read.end()?;
    Ok(line)
}

struct EventVisitor {
    capacity: usize,
}

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with ts, metrics and ip_address")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<u8>, A::Error> {
        let (mut ts, mut metrics, mut ip_address) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let repeated = match key.as_str() {
                "ts" => ts.replace(map.next_value::<i64>()?).is_some(),
                "metrics" => metrics.replace(map.next_value_seed(Names { capacity: self.capacity })?).is_some(),
                "ip_address" => ip_address.replace(map.next_value::<String>()?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if repeated {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
        }
        let missing = |field| A::Error::missing_field(field);
        let ts = ts.ok_or_else(|| missing("ts"))?;
        let mut line = metrics.ok_or_else(|| missing("metrics"))?;
        let ip_address = ip_address.ok_or_else(|| missing("ip_address"))?;
        // What stands before the names is short: to move them costs less than a second copy of them.
        line.splice(0..0, format!("{{\"ts\":{ts},\"metrics\":").into_bytes());
        line.extend_from_slice(b",\"ip_address\":");
        serde_json::to_writer(&mut line, &ip_address).map_err(A::Error::custom)?;
        line.push(b'}');
        Ok(line)
    }
}

/// A list of strings, as JSON.
struct Names {
    capacity: usize,
}

impl<'de> DeserializeSeed<'de> for Names {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Vec<u8>, A::Error> {
        let mut json = Vec::with_capacity(self.capacity);
        json.push(b'[');
        while names.next_element_seed(Name(&mut json))?.is_some() {
            json.push(b',');
        }
        if json.len() > 1 {
            json.pop();
        }
        json.push(b']');
        Ok(json)
    }
}

/// A string, written behind this JSON.
struct Name<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        serde_json::to_writer(self.0, name).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::audit::Event;

    use super::*;

    #[test]
    fn a_line_is_the_event_as_it_is_encoded() {
        let event = |metrics: &[&str]| Event {
            ts: -7,
            metrics: metrics.iter().map(|&name| name.to_owned()).collect(),
            ip_address: "fe80::1%\"eth0\"".to_owned(),
        };
        for metrics in [&[][..], &[""], &["a"], &["a", "b\"\\\n", "ä\u{2028}😀"]] {
            let encoded = event(metrics).to_json();
            assert_eq!(event_line(&encoded).unwrap(), encoded);
            let pretty = serde_json::to_vec_pretty(&event(metrics)).unwrap();
            assert_eq!(event_line(&pretty).unwrap(), encoded);
        }
        let other = br#" {"ip_address":"x","more":{"a":[1,null]},"metrics":["\u0061"],"ts":1} "#;
        assert_eq!(event_line(other).unwrap(), br#"{"ts":1,"metrics":["a"],"ip_address":"x"}"#);
    }

    #[test]
    fn what_is_not_an_event_is_an_error() {
        for json in [
            "",
            "[]",
            "null",
            "[1,[],\"x\"]",
            r#"{"ts":1,"metrics":[]}"#,
            r#"{"ts":1,"metrics":[1],"ip_address":""}"#,
            r#"{"ts":1,"metrics":"a","ip_address":""}"#,
            r#"{"ts":1.5,"metrics":[],"ip_address":""}"#,
            r#"{"ts":1,"metrics":[],"metrics":[],"ip_address":""}"#,
            r#"{"ts":1,"metrics":[],"ip_address":""} x"#,
        ] {
            event_line(json.as_bytes()).unwrap_err();
        }
        let error = event_line(br#"{"metrics":[],"ip_address":""}"#).unwrap_err();
        assert!(error.to_string().contains("missing field `ts`"), "{error}");
    }
}
