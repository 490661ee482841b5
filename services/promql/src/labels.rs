//! The labels of a series.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::parse::quote;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";
/// The label that holds the upper bound of a classic histogram's bucket.
pub const BUCKET_LABEL: &str = "le";

/// The labels of one series, sorted by name, without empty values: PromQL makes no difference between a label that is
/// empty and one that is not there.
///
/// Cloning is cheap: the text is shared.
///
/// ```
/// use golectra_promql::Labels;
/// let labels = Labels::new([("job", "node"), ("__name__", "up"), ("zone", "")]);
/// assert_eq!(labels.to_string(), r#"up{job="node"}"#);
/// assert_eq!((labels.get("job"), labels.get("zone")), (Some("node"), None));
/// ```
#[derive(Clone)]
pub struct Labels(Arc<LabelText>);

/// Names and values one behind the other, so that a series costs a fixed number of allocations.
struct LabelText {
    text: Box<str>,
    /// Where each name and each value ends, in turns.
    ends: Box<[u32]>,
}

impl Labels {
    /// Labels from pairs in any order. Pairs with an empty value are left out; of several with one name the last counts.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// No labels at all.
    pub fn empty() -> Self {
        Self(Arc::new(LabelText { text: Box::default(), ends: Box::default() }))
    }

    fn from_sorted<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        let mut ends = Vec::new();
        let end = |text: &String| u32::try_from(text.len()).expect("labels of one series are shorter than 4 GiB");
        for (name, value) in pairs {
            text.push_str(name);
            ends.push(end(&text));
            text.push_str(value);
            ends.push(end(&text));
        }
        Self(Arc::new(LabelText { text: text.into_boxed_str(), ends: ends.into_boxed_slice() }))
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// The value of a label, or an empty text.
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// The metric's name, or an empty text.
    pub fn metric_name(&self) -> &str {
        self.value(METRIC_NAME)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.0.ends.chunks_exact(2).map(move |ends| {
            let (name_end, value_end) = (ends[0] as usize, ends[1] as usize);
            let pair = (&self.0.text[start..name_end], &self.0.text[name_end..value_end]);
            start = value_end;
            pair
        })
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.ends.len() / 2
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// Roughly the memory that these labels take, for budgets.
    pub fn memory_bytes(&self) -> usize {
        self.0.text.len() + size_of_val(&*self.0.ends) + 96
    }

    /// The labels that `keep` wants.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(&str) -> bool) -> Self {
        if self.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self::from_sorted(self.iter().filter(|(name, _)| keep(name)))
    }

    /// The labels without the metric's name.
    #[must_use]
    pub fn without_name(&self) -> Self {
        self.filtered(|name| name != METRIC_NAME)
    }

    /// The labels with one of them set; an empty value removes it.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut builder = LabelsBuilder::from(self);
        builder.set(name, value);
        builder.build()
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.text == other.0.text && self.0.ends == other.0.ends)
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
        self.0.ends.hash(state);
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    /// By name and value of each label in turn, which is the order of a matrix in an answer.
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.metric_name();
        let name_in_front = quote::is_metric_name(name);
        if name_in_front {
            f.write_str(name)?;
        }
        if name_in_front && self.len() == 1 {
            return Ok(());
        }
        let braced = self.iter().filter(|(label, _)| !(name_in_front && *label == METRIC_NAME));
        write_braced(f, braced)
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Labels as an error message shows them: everything in braces, the name too.
pub(crate) struct Braced<'a>(pub &'a Labels);

impl fmt::Display for Braced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_braced(f, self.0.iter())
    }
}

fn write_braced<'a>(f: &mut fmt::Formatter<'_>, labels: impl Iterator<Item = (&'a str, &'a str)>) -> fmt::Result {
    f.write_str("{")?;
    for (index, (name, value)) in labels.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{}={}", quote::LabelName(name), quote::Quoted(value))?;
    }
    f.write_str("}")
}

/// Changes labels one by one.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    pairs: Vec<(String, String)>,
}

impl From<&Labels> for LabelsBuilder {
    fn from(labels: &Labels) -> Self {
        Self { pairs: labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }
}

impl LabelsBuilder {
    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        let found = self.pairs.binary_search_by(|(candidate, _)| candidate.as_str().cmp(name));
        match (found, value.is_empty()) {
            (Ok(index), true) => drop(self.pairs.remove(index)),
            (Ok(index), false) => value.clone_into(&mut self.pairs[index].1),
            (Err(_), true) => {}
            (Err(index), false) => self.pairs.insert(index, (name.to_owned(), value.to_owned())),
        }
    }

    /// Whether a label is set.
    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(candidate, _)| candidate == name)
    }

    /// Keeps the labels that `keep` wants.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.pairs.retain(|(name, _)| keep(name));
    }

    /// The labels.
    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_have_no_empty_values() {
        let labels = Labels::new([("b", "2"), ("a", "1"), ("c", ""), ("b", "3")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "3")]);
        assert_eq!(labels, Labels::new([("a", "1"), ("b", "3")]));
        assert_eq!(labels.with("a", ""), Labels::new([("b", "3")]));
        assert_eq!(labels.with("aa", "x").to_string(), r#"{a="1", aa="x", b="3"}"#);
    }

    #[test]
    fn equal_texts_with_other_borders_are_other_labels() {
        assert_ne!(Labels::new([("ab", "c")]), Labels::new([("a", "bc")]));
    }

    #[test]
    fn the_order_is_by_label_not_by_text() {
        let mut all = [Labels::new([("a", "b"), ("c", "1")]), Labels::new([("a", "b")]), Labels::new([("a", "ab")]), Labels::empty()];
        all.sort();
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), ["{}", r#"{a="ab"}"#, r#"{a="b"}"#, r#"{a="b", c="1"}"#]);
    }

    #[test]
    fn names_that_are_no_identifiers_are_quoted() {
        let labels = Labels::new([(METRIC_NAME, "a.b"), ("x y", "q\"\n")]);
        assert_eq!(labels.to_string(), r#"{__name__="a.b", "x y"="q\"\n"}"#);
        assert_eq!(Labels::new([(METRIC_NAME, "up")]).to_string(), "up");
    }
}
