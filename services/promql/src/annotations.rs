//! Warnings and hints beside a result.

use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasher;

use crate::position::Span;

/// How serious an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The result may not be what was meant.
    Warning,
    /// Something worth knowing.
    Info,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
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
        Self { severity, message: format!("PromQL {}: {message}", severity.as_str()), start: span.start }
    }

    /// What it says, and where in the query the reason is.
    pub fn text(&self, query: &str) -> String {
        format!("{} ({})", self.message, Span::new(self.start, self.start).position(query))
    }
}

/// More annotations of one severity are only counted.
const MAX_ANNOTATIONS: usize = 100;

/// More of one severity are not counted either: each that is counted takes memory, so that a repeated one counts once.
const MAX_COUNTED: usize = 10_000;

/// The remarks about one result, each once.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    warnings: Remarks,
    infos: Remarks,
}

/// Those of one severity.
#[derive(Clone, Debug, Default)]
struct Remarks {
    seen: HashSet<Annotation>,
    in_order: Vec<Annotation>,
    /// The hashes of those beyond them.
    omitted: HashSet<u64>,
}

impl Annotations {
    pub(crate) fn add(&mut self, annotation: Annotation) {
        let remarks = match annotation.severity {
            Severity::Warning => &mut self.warnings,
            Severity::Info => &mut self.infos,
        };
        remarks.add(annotation);
    }

    /// The texts of one severity, in the order in which they arose. The last one says how many are left out, if there are too many.
    pub fn texts(&self, severity: Severity, query: &str) -> Vec<String> {
        let remarks = match severity {
            Severity::Warning => &self.warnings,
            Severity::Info => &self.infos,
        };
        let mut texts: Vec<String> = remarks.in_order.iter().map(|annotation| annotation.text(query)).collect();
        let (omitted, kind) = (remarks.omitted.len(), severity.as_str());
        if omitted > 0 {
            let or_more = if omitted < MAX_COUNTED { "" } else { " or more" };
            texts.push(format!("more {kind}s that are left out: {omitted}{or_more}"));
        }
        texts
    }
}

impl Remarks {
    fn add(&mut self, annotation: Annotation) {
        if self.seen.contains(&annotation) {
            return;
        }
        if self.in_order.len() < MAX_ANNOTATIONS {
            self.seen.insert(annotation.clone());
            self.in_order.push(annotation);
        } else if self.omitted.len() < MAX_COUNTED {
            self.omitted.insert(self.seen.hasher().hash_one(&annotation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_not_too_many_of_a_severity() {
        let mut annotations = Annotations::default();
        for _ in 0..2 {
            for index in 0..MAX_ANNOTATIONS + 50 {
                annotations.add(Annotation::new(Severity::Info, index, Span::default()));
            }
            annotations.add(Annotation::new(Severity::Warning, "late", Span::new(2, 3)));
        }
        assert_eq!(annotations.texts(Severity::Warning, "a\nb"), ["PromQL warning: late (2:1)"]);
        let infos = annotations.texts(Severity::Info, "");
        assert_eq!((infos.len(), infos[0].as_str()), (MAX_ANNOTATIONS + 1, "PromQL info: 0 (1:1)"));
        assert_eq!(infos[MAX_ANNOTATIONS], "more infos that are left out: 50");
        for index in 0..MAX_ANNOTATIONS + MAX_COUNTED + 5 {
            annotations.add(Annotation::new(Severity::Info, index, Span::default()));
        }
        assert_eq!(annotations.texts(Severity::Info, "").last().unwrap(), "more infos that are left out: 10000 or more");
    }
}
