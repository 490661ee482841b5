//! `sort` and `sort_desc`.

use std::cmp::Ordering;

use super::{Evaluator, Sink};
use crate::error::EvalError;
use crate::plan::VectorNode;
use crate::position::Span;
use crate::steps::Steps;

impl Evaluator<'_> {
    pub(super) fn sort(
        &self,
        expr: &VectorNode,
        descending: bool,
        span: Span,
        steps: &Steps,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        if self.is_range {
            self.warn("sort is ineffective for range queries since results are always ordered by labels", span);
        }
        if steps.len() > 1 {
            return self.stream(expr, steps, sink);
        }
        let mut collected = self.collect(expr, steps)?;
        collected
            .series
            .sort_by(|left, right| in_order(left.values[0], right.values[0], descending).then_with(|| left.labels.cmp(&right.labels)));
        collected.series.iter_mut().try_for_each(sink)
    }
}

/// NaN comes last in both directions.
pub(crate) fn in_order(left: f64, right: f64, descending: bool) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            let ordering = left.partial_cmp(&right).unwrap_or(Ordering::Equal);
            if descending { ordering.reverse() } else { ordering }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_comes_last() {
        for (descending, expected) in [(false, [-1.0, 0.0, 2.0]), (true, [2.0, 0.0, -1.0])] {
            let mut values = [f64::NAN, 2.0, -1.0, 0.0];
            values.sort_by(|left, right| in_order(*left, *right, descending));
            assert_eq!(values[..3], expected);
            assert!(values[3].is_nan());
        }
    }
}
