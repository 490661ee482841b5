//! Which series belong together: by the labels that `on`, `ignoring`, `by` and `without` name.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::labels::{Labels, METRIC_NAME};

/// A hash table; the hash is seeded, so that no choice of labels can make it slow.
pub(crate) type FastMap<K, V> = HashMap<K, V, RandomState>;

/// The labels that decide which series belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Whether it is these labels, or all others but the metric's name.
    included: bool,
    /// Sorted.
    labels: Vec<String>,
}

impl Signature {
    /// Of `on` or `by`.
    pub(crate) fn including(mut labels: Vec<String>) -> Self {
        labels.sort();
        labels.dedup();
        Self { included: true, labels }
    }

    /// Of `ignoring` or `without`.
    pub(crate) fn excluding(mut labels: Vec<String>) -> Self {
        labels.sort();
        labels.dedup();
        Self { included: false, labels }
    }

    /// The same with one more label, if it lists those that count.
    pub(crate) fn with(&self, label: &str) -> Self {
        let mut labels = self.labels.clone();
        if self.included {
            labels.push(label.to_owned());
            return Self::including(labels);
        }
        self.clone()
    }

    /// Whether a label counts.
    pub(crate) fn has(&self, label: &str) -> bool {
        let listed = self.labels.binary_search_by(|listed| listed.as_str().cmp(label)).is_ok();
        if self.included { listed } else { !listed && label != METRIC_NAME }
    }

    /// Whether only listed labels count.
    pub(crate) fn has_only_listed(&self) -> bool {
        self.included
    }

    /// The labels that count.
    pub(crate) fn of(&self, labels: &Labels) -> Labels {
        labels.filtered(|label| self.has(label))
    }

    /// Writes what the labels that count are: equal for series that belong together.
    fn write(&self, labels: &Labels, key: &mut Vec<u8>) {
        key.clear();
        let mut text = |text: &str| {
            key.extend_from_slice(&text.len().to_le_bytes());
            key.extend_from_slice(text.as_bytes());
        };
        if self.included {
            for label in &self.labels {
                text(labels.value(label));
            }
        } else {
            for (label, value) in labels.iter().filter(|(label, _)| self.has(label)) {
                text(label);
                text(value);
            }
        }
    }
}

/// Numbers for series that belong together, in the order in which they are first seen.
#[derive(Debug)]
pub(crate) struct Groups<'a> {
    signature: &'a Signature,
    numbers: FastMap<Box<[u8]>, usize>,
    key: Vec<u8>,
}

impl<'a> Groups<'a> {
    pub(crate) fn new(signature: &'a Signature) -> Self {
        Self { signature, numbers: FastMap::default(), key: Vec::new() }
    }

    /// The number of a series' group; a new group gets the next one.
    pub(crate) fn number(&mut self, labels: &Labels) -> usize {
        self.signature.write(labels, &mut self.key);
        if let Some(number) = self.numbers.get(self.key.as_slice()) {
            return *number;
        }
        let number = self.numbers.len();
        self.numbers.insert(self.key.clone().into_boxed_slice(), number);
        number
    }

    /// The number of a series' group, if there is one already.
    pub(crate) fn find(&mut self, labels: &Labels) -> Option<usize> {
        self.signature.write(labels, &mut self.key);
        self.numbers.get(self.key.as_slice()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_grouped_by_the_labels_that_count() {
        let series = [
            Labels::new([(METRIC_NAME, "a"), ("job", "x"), ("pod", "1")]),
            Labels::new([(METRIC_NAME, "b"), ("job", "x"), ("pod", "1")]),
            Labels::new([(METRIC_NAME, "a"), ("job", "x"), ("pod", "2")]),
            Labels::new([(METRIC_NAME, "a"), ("job", "y")]),
        ];
        let numbers = |signature: &Signature| {
            let mut groups = Groups::new(signature);
            series.iter().map(|labels| groups.number(labels)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&Signature::including(vec!["job".into()])), [0, 0, 0, 1]);
        assert_eq!(numbers(&Signature::excluding(vec!["pod".into()])), [0, 0, 0, 1]);
        assert_eq!(numbers(&Signature::excluding(Vec::new())), [0, 0, 1, 2]);
        assert_eq!(numbers(&Signature::including(vec![METRIC_NAME.into()])), [0, 1, 0, 0]);
        assert_eq!(numbers(&Signature::including(Vec::new())), [0; 4]);
        assert_eq!(Signature::excluding(vec!["pod".into()]).of(&series[0]), Labels::new([("job", "x")]));
    }

    #[test]
    fn borders_between_values_count() {
        let signature = Signature::including(vec!["a".into(), "b".into()]);
        let mut groups = Groups::new(&signature);
        let first = groups.number(&Labels::new([("a", "xy"), ("b", "z")]));
        assert_ne!(groups.number(&Labels::new([("a", "x"), ("b", "yz")])), first);
        assert_eq!(groups.find(&Labels::empty()), None);
    }
}
