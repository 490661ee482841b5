//! `label_replace` and `label_join`.

use regex::Regex;

use super::collect::SAME_LABELS;
use super::{Collected, Evaluator, Sink};
use crate::error::EvalError;
use crate::labels::{Labels, METRIC_NAME};
use crate::pattern::expand_template;
use crate::plan::VectorNode;
use crate::steps::Steps;

/// The longest value that these functions make. Nested calls could double it with each level, and one call could multiply it by
/// thousands.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// So much is made before its length is looked at.
const MAX_EXPANDED_BYTES: usize = 16 * MAX_VALUE_BYTES;

/// The labels with one replaced; `None` if the pattern does not match.
pub(super) fn replaced(
    labels: &Labels,
    destination: &str,
    replacement: &str,
    source: &str,
    regex: &Regex,
) -> Result<Option<Labels>, EvalError> {
    let source = labels.value(source);
    let Some(captures) = regex.captures(source) else { return Ok(None) };
    let references = replacement.matches('$').count();
    if references.saturating_mul(source.len()).saturating_add(replacement.len()) > MAX_EXPANDED_BYTES {
        return Err(too_long("label_replace"));
    }
    let mut value = String::new();
    expand_template(&captures, replacement, &mut value);
    if value.len() > MAX_VALUE_BYTES {
        return Err(too_long("label_replace"));
    }
    Ok(Some(labels.with(destination, &value)))
}

/// The labels with one that joins others.
pub(super) fn joined(labels: &Labels, destination: &str, separator: &str, sources: &[String]) -> Result<Labels, EvalError> {
    let mut value = String::new();
    for (index, source) in sources.iter().enumerate() {
        if index > 0 {
            value.push_str(separator);
        }
        value.push_str(labels.value(source));
        if value.len() > MAX_VALUE_BYTES {
            return Err(too_long("label_join"));
        }
    }
    Ok(labels.with(destination, &value))
}

fn too_long(function: &str) -> EvalError {
    EvalError::Execution(format!("{function}(): the label's value would be longer than {MAX_VALUE_BYTES} bytes"))
}

impl Evaluator<'_> {
    /// Changes labels. They may become equal, so the series are held until all are known.
    pub(super) fn relabel(
        &self,
        expr: &VectorNode,
        destination: &str,
        steps: &Steps,
        sink: &mut Sink<'_>,
        change: impl Fn(&Labels) -> Result<Option<Labels>, EvalError>,
    ) -> Result<(), EvalError> {
        let mut collected = Collected::new(self)?;
        self.stream(expr, steps, &mut |series| {
            if let Some(changed) = change(&series.labels)? {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(value: &str, replacement: &str) -> Result<Option<Labels>, EvalError> {
        replaced(&Labels::new([("a", value)]), "b", replacement, "a", &Regex::new("^(?s:(.*))$").unwrap())
    }

    #[test]
    fn values_do_not_grow_beyond_their_limit() {
        let long = "x".repeat(MAX_VALUE_BYTES / 2);
        assert_eq!(replace(&long, "$1$1").unwrap().unwrap().value("b").len(), MAX_VALUE_BYTES);
        assert!(replace(&long, "$1$1-").is_err());
        assert!(replace(&long, &"$1".repeat(60_000)).is_err());
        let labels = Labels::new([("a", long.as_str())]);
        let sources = |many| vec!["a".to_owned(); many];
        assert_eq!(joined(&labels, "b", "", &sources(2)).unwrap().value("b").len(), MAX_VALUE_BYTES);
        assert!(joined(&labels, "b", "-", &sources(2)).is_err());
        assert!(joined(&labels, "b", &long, &sources(60_000)).is_err());
    }
}
