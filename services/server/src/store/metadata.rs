//! What senders say about metrics, kept in memory: bounded, and gone with the process. Senders say it again every minute or so.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use golectra_protocol::remote_write::Metadata;

/// The longest name, help or unit that is kept, in bytes; longer texts are cut.
const MAX_TEXT_BYTES: usize = 4096;
/// What all of it may take, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// How many different things may be said about one metric.
const MAX_VARIANTS: usize = 16;

/// What is said, by metric.
#[derive(Debug, Default)]
pub(super) struct MetadataTable(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_name: BTreeMap<String, Vec<Metadata>>,
    bytes: usize,
}

impl MetadataTable {
    /// Keeps what is new.
    pub(super) fn put(&self, metadata: Vec<Metadata>) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = &mut *guard;
        for one in metadata.into_iter().map(shortened) {
            let bytes = held_bytes(&one);
            if entries.by_name.get(&one.name).is_some_and(|variants| variants.contains(&one)) {
                continue;
            }
            if entries.bytes + bytes > MAX_BYTES {
                // Rare, and what is still said comes again soon.
                *entries = Entries::default();
            }
            let variants = entries.by_name.entry(one.name.clone()).or_default();
            if variants.len() == MAX_VARIANTS {
                entries.bytes -= held_bytes(&variants.remove(0));
            }
            entries.bytes += bytes;
            variants.push(one);
        }
    }

    /// See [`super::History::metadata`].
    pub(super) fn get(&self, metric: Option<&str>, limit: usize, limit_per_metric: usize) -> BTreeMap<String, Vec<Metadata>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |variants: &[Metadata]| variants.iter().take(limit_per_metric).cloned().collect::<Vec<_>>();
        match metric {
            Some(name) => entries.by_name.get_key_value(name).into_iter().take(limit).map(|(name, all)| (name.clone(), of(all))).collect(),
            None => entries.by_name.iter().take(limit).map(|(name, all)| (name.clone(), of(all))).collect(),
        }
    }
}

fn held_bytes(one: &Metadata) -> usize {
    size_of::<Metadata>() + 2 * one.name.len() + one.help.len() + one.unit.len()
}

/// What is kept of a text: no more than [`MAX_TEXT_BYTES`], and no NUL, which PostgreSQL's texts don't have.
pub(super) fn shortened(mut one: Metadata) -> Metadata {
    for text in [&mut one.name, &mut one.help, &mut one.unit] {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        if text.contains('\0') {
            *text = text.replace('\0', "\u{fffd}");
        }
    }
    one
}

#[cfg(test)]
mod tests {
    use golectra_protocol::remote_write::MetadataKind;

    use super::*;

    fn metadata(name: &str, help: &str) -> Metadata {
        Metadata { name: name.into(), kind: MetadataKind::Gauge, help: help.into(), unit: String::new() }
    }

    #[test]
    fn it_is_bounded() {
        let table = MetadataTable::default();
        for number in 0..2 * MAX_VARIANTS {
            table.put(vec![metadata("a", &number.to_string())]);
        }
        let of_a = &table.get(Some("a"), 10, usize::MAX)["a"];
        assert_eq!((of_a.len(), of_a[0].help.as_str()), (MAX_VARIANTS, "16"), "the oldest are gone");
        let long = "x".repeat(MAX_TEXT_BYTES * 2);
        for number in 0..2 * MAX_BYTES / MAX_TEXT_BYTES {
            table.put(vec![metadata(&number.to_string(), &long)]);
        }
        assert!(table.0.lock().unwrap().bytes <= MAX_BYTES);
        let last = (2 * MAX_BYTES / MAX_TEXT_BYTES - 1).to_string();
        assert_eq!(table.get(Some(&last), 1, 1)[&last][0].help.len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn texts_are_cut_between_characters_and_have_no_nul() {
        let one = shortened(metadata("a\0", &"é".repeat(MAX_TEXT_BYTES)));
        assert_eq!((one.name.as_str(), one.help.len()), ("a\u{fffd}", MAX_TEXT_BYTES));
        let odd = shortened(metadata("a", &format!("x{}", "é".repeat(MAX_TEXT_BYTES))));
        assert_eq!(odd.help.len(), MAX_TEXT_BYTES - 1);
    }
}
