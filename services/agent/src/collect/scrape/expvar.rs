//! The variables that a Go program publishes at /debug/vars: one JSON object.
//!
//! `memstats`, which every program has, gives metrics with the names of its fields, as the original project's agents report
//! them of themselves. Any other variable that is a number gives a metric of its name, and a map of numbers one metric with
//! the label `key`; the keys of maps in maps are joined by dots. Texts, lists and truth values are left out.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Go's memory statistics.
const MEMSTATS: &str = "memstats";

/// A number of the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Variable<'a> {
    /// The metric's name.
    pub(super) name: &'a str,
    /// The value of the label `key`; empty for a variable that is a number.
    pub(super) key: &'a str,
    pub(super) value: f64,
}

/// Calls `found` with each number. The first error of `found` ends the reading and is returned inside of the result.
pub(super) fn read<E>(body: &[u8], found: impl FnMut(Variable<'_>) -> Result<(), E>) -> Result<Result<(), E>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut reader = Reader { found, name: String::new(), key: String::new(), failed: None };
    let result = json.deserialize_map(Variables(&mut reader)).and_then(|()| json.end());
    match reader.failed {
        Some(error) => Ok(Err(error)),
        None => result.map(Ok),
    }
}

struct Reader<F, E> {
    found: F,
    name: String,
    key: String,
    failed: Option<E>,
}

/// Reads the variables.
struct Variables<'r, F, E>(&'r mut Reader<F, E>);

impl<'de, F: FnMut(Variable<'_>) -> Result<(), E>, E> Visitor<'de> for Variables<'_, F, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of variables")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.0;
        while let Some(name) = map.next_key::<String>()? {
            reader.key.clear();
            let in_memstats = name == MEMSTATS;
            reader.name = name;
            map.next_value_seed(Node { reader, in_memstats })?;
        }
        Ok(())
    }
}

/// Reads a variable, or a part of one.
struct Node<'r, F, E> {
    reader: &'r mut Reader<F, E>,
    in_memstats: bool,
}

impl<F: FnMut(Variable<'_>) -> Result<(), E>, E> Node<'_, F, E> {
    fn number<D: serde::de::Error>(self, value: f64) -> Result<(), D> {
        let Reader { found, name, key, failed } = self.reader;
        let variable = if self.in_memstats { Variable { name: key, key: "", value } } else { Variable { name, key, value } };
        found(variable).map_err(|error| {
            *failed = Some(error);
            D::custom("a variable was refused")
        })
    }
}

impl<'de, F: FnMut(Variable<'_>) -> Result<(), E>, E> DeserializeSeed<'de> for Node<'_, F, E> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a double; whole numbers up to 2^53 are exact")]
impl<'de, F: FnMut(Variable<'_>) -> Result<(), E>, E> Visitor<'de> for Node<'_, F, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_u64<D: serde::de::Error>(self, value: u64) -> Result<(), D> {
        self.number(value as f64)
    }

    fn visit_i64<D: serde::de::Error>(self, value: i64) -> Result<(), D> {
        self.number(value as f64)
    }

    fn visit_f64<D: serde::de::Error>(self, value: f64) -> Result<(), D> {
        self.number(value)
    }

    fn visit_bool<D: serde::de::Error>(self, _: bool) -> Result<(), D> {
        Ok(())
    }

    fn visit_str<D: serde::de::Error>(self, _: &str) -> Result<(), D> {
        Ok(())
    }

    fn visit_unit<D: serde::de::Error>(self) -> Result<(), D> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { reader, in_memstats } = self;
        let outer = reader.key.len();
        while let Some(key) = map.next_key::<String>()? {
            if outer > 0 {
                reader.key.push('.');
            }
            reader.key.push_str(&key);
            map.next_value_seed(Node { reader, in_memstats })?;
            reader.key.truncate(outer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of a program built with Go 1.26 that publishes variables of every kind.
    const CAPTURED: &[u8] = include_bytes!("testdata/expvar.json");

    fn numbers(body: &[u8]) -> Result<Vec<(String, String, f64)>, String> {
        let mut numbers = Vec::new();
        let found = |variable: Variable<'_>| {
            numbers.push((variable.name.to_owned(), variable.key.to_owned(), variable.value));
            Ok::<_, ()>(())
        };
        read(body, found).map_err(|error| error.to_string())?.unwrap();
        Ok(numbers)
    }

    fn value(numbers: &[(String, String, f64)], name: &str, key: &str) -> Option<f64> {
        numbers.iter().find(|(other, label, _)| other == name && label == key).map(|(_, _, value)| *value)
    }

    #[test]
    fn a_real_program_has_the_originals_names() {
        let numbers = numbers(CAPTURED).unwrap();
        for name in "Alloc BuckHashSys Frees GCCPUFraction GCSys HeapAlloc HeapIdle HeapInuse HeapObjects HeapReleased HeapSys LastGC \
            Lookups MCacheInuse MCacheSys MSpanInuse MSpanSys Mallocs NextGC NumForcedGC NumGC OtherSys PauseTotalNs StackInuse \
            StackSys Sys TotalAlloc"
            .split_whitespace()
        {
            assert!(value(&numbers, name, "").is_some(), "{name} is missing in {numbers:?}");
        }
        assert!(value(&numbers, "Alloc", "").unwrap() > 1e5);
        assert_eq!(value(&numbers, "requests", ""), Some(42.0));
        assert_eq!(value(&numbers, "temperature", ""), Some(-1.5));
        assert_eq!(value(&numbers, "by_code", "200"), Some(40.0));
        assert_eq!(value(&numbers, "by_code", "500"), Some(2.0));
        for (name, _, _) in &numbers {
            assert!(!["cmdline", "version", "memstats", "PauseNs", "PauseEnd", "BySize", "EnableGC"].contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn maps_in_maps_and_values_that_are_no_numbers() {
        let body = br#"{"a":1,"m":{"x":{"y":2,"z":[3]},"w":4},"s":"5","t":true,"n":null,"l":[6,{"a":7}],"memstats":{"Alloc":8,"BySize":[9]},"e":-1e-3}"#;
        let expected = [("a", "", 1.0), ("m", "x.y", 2.0), ("m", "w", 4.0), ("Alloc", "", 8.0), ("e", "", -0.001)];
        assert_eq!(numbers(body).unwrap(), expected.map(|(name, key, value)| (name.to_owned(), key.to_owned(), value)));
        assert_eq!(numbers(b"{}"), Ok(vec![]));
    }

    #[test]
    fn other_answers_are_refused() {
        for body in ["", "[]", "1", "{\"a\":1", "{\"a\":1} x", "<html>", "{\"a\":1e999}"] {
            assert!(numbers(body.as_bytes()).is_err(), "{body}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "{\"b\":".repeat(100_000), "}".repeat(100_000));
        assert!(numbers(deep.as_bytes()).is_err(), "deep nesting is refused before it takes the stack");
    }

    #[test]
    fn an_error_of_the_caller_ends_the_reading() {
        let mut count = 0;
        let result = read(br#"{"a":1,"b":2,"c":3}"#, |_| {
            count += 1;
            if count == 2 { Err("enough") } else { Ok(()) }
        });
        assert_eq!((result.unwrap(), count), (Err("enough"), 2));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in "[{}\\[\\]\":,0-9a-z.\\\\ -]{0,60}") {
            let _ = numbers(body.as_bytes());
        }
    }
}
