//! Warnings and hints beside a result.

use std::collections::HashSet;
use std::fmt;

use crate::position::Span;

/// How serious an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The result may not be what was meant.
    Warning,
    /// Something worth knowing.
    Info,
}

/// A remark about a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Annotation {
    /// How serious it is.
    pub severity: Severity,
    /// What it says.
    message: String,
    start: usize,
}

impl Annotation {
    pub(crate) fn new(severity: Severity, message: impl fmt::Display, span: Span) -> Self {
        let kind = match severity {
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        Self { severity, message: format!("PromQL {kind}: {message}"), start: span.start }
    }

    /// What it says, and where in the query the reason is.
    pub fn text(&self, query: &str) -> String {
        format!("{} ({})", self.message, Span::new(self.start, self.start).position(query))
    }
}

/// More annotations than this are only counted.
const MAX_ANNOTATIONS: usize = 100;

/// The remarks about one result, each once.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    seen: HashSet<Annotation>,
    in_order: Vec<Annotation>,
    omitted: usize,
}

impl Annotations {
    pub(crate) fn add(&mut self, annotation: Annotation) {
        if self.seen.contains(&annotation) {
            return;
        }
        if self.in_order.len() == MAX_ANNOTATIONS {
            self.omitted += 1;
            return;
        }
        self.seen.insert(annotation.clone());
        self.in_order.push(annotation);
    }

    /// All of them, in the order in which they arose.
    pub fn iter(&self) -> impl Iterator<Item = &Annotation> {
        self.in_order.iter()
    }

    /// The texts of one severity.
    pub fn texts(&self, severity: Severity, query: &str) -> Vec<String> {
        self.iter().filter(|annotation| annotation.severity == severity).map(|annotation| annotation.text(query)).collect()
    }

    /// How many there were beyond those that are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_not_too_many() {
        let mut annotations = Annotations::default();
        for index in 0..2 * MAX_ANNOTATIONS {
            annotations.add(Annotation::new(Severity::Info, "same", Span::new(2, 3)));
            annotations.add(Annotation::new(Severity::Warning, index, Span::default()));
        }
        assert_eq!(annotations.texts(Severity::Info, "a\nb"), ["PromQL info: same (2:1)"]);
        assert_eq!((annotations.iter().count(), annotations.omitted()), (MAX_ANNOTATIONS, MAX_ANNOTATIONS + 1));
    }
}
