//! `label_replace` and `label_join`.

use regex::Regex;

use super::collect::SAME_LABELS;
use super::{Collected, Evaluator, Sink};
use crate::error::EvalError;
use crate::labels::{Labels, METRIC_NAME};
use crate::plan::VectorNode;
use crate::steps::Steps;

/// The labels with one replaced; `None` if the pattern does not match.
pub(super) fn replaced(labels: &Labels, destination: &str, replacement: &str, source: &str, regex: &Regex) -> Option<Labels> {
    let captures = regex.captures(labels.value(source))?;
    let mut value = String::new();
    captures.expand(replacement, &mut value);
    Some(labels.with(destination, &value))
}

/// The labels with one that joins others.
pub(super) fn joined(labels: &Labels, destination: &str, separator: &str, sources: &[String]) -> Labels {
    let values: Vec<_> = sources.iter().map(|source| labels.value(source)).collect();
    labels.with(destination, &values.join(separator))
}

impl Evaluator<'_> {
    /// Changes labels. They may become equal, so the series are held until all are known.
    pub(super) fn relabel(
        &self,
        expr: &VectorNode,
        destination: &str,
        steps: &Steps,
        sink: &mut Sink<'_>,
        change: impl Fn(&Labels) -> Option<Labels>,
    ) -> Result<(), EvalError> {
        let mut collected = Collected::new(self)?;
        self.stream(expr, steps, &mut |series| {
            if let Some(changed) = change(&series.labels) {
                series.labels = changed;
                // A name that was set by hand stays.
                series.drop_name &= destination != METRIC_NAME;
            }
            collected.push(series)
        })?;
        collected.merge(SAME_LABELS)?;
        collected.series.iter_mut().try_for_each(sink)
    }
}
