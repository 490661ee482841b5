//! Evaluates a plan: each node gives its series one after the other, each with its values at all steps.
//!
//! Series are handed on as soon as they are computed, in one buffer that is used again, so that an aggregation over many
//! series holds its groups only. What needs several series at once collects them and is charged for them.

mod absent;
mod broadcast;
mod collect;
mod finish;
mod labels;
mod ledger;
mod map;
mod range;
mod scalar;
mod select;
mod sort;

use std::cell::{Cell, RefCell};

pub(crate) use collect::Collected;
pub(crate) use finish::evaluate;
pub(crate) use ledger::{Charge, Ledger};

use crate::aggregate;
use crate::annotations::{Annotation, Annotations, Severity};
use crate::binary;
use crate::column::Series;
use crate::error::EvalError;
use crate::functions::histogram;
use crate::limits::{Interrupt, Limits};
use crate::plan::VectorNode;
use crate::position::Span;
use crate::steps::Steps;
use crate::store::{Store, StoreError};

/// Takes the series of a vector, one after the other. It may take the values out of a series to keep them.
pub(crate) type Sink<'s> = dyn FnMut(&mut Series) -> Result<(), EvalError> + 's;

/// What one evaluation works with.
pub(crate) struct Evaluator<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) interrupt: &'a dyn Interrupt,
    pub(crate) limits: Limits,
    pub(crate) ledger: Ledger,
    pub(crate) annotations: RefCell<Annotations>,
    /// Whether it is a range query, even one of a single step.
    pub(crate) is_range: bool,
    pub(crate) series: Cell<usize>,
    pub(crate) samples: Cell<u64>,
}

impl Evaluator<'_> {
    /// Fails if the query has to end.
    pub(crate) fn check_interrupt(&self) -> Result<(), EvalError> {
        Ok(self.interrupt.check()?)
    }

    pub(crate) fn warn(&self, message: impl std::fmt::Display, span: Span) {
        self.annotations.borrow_mut().add(Annotation::new(Severity::Warning, message, span));
    }

    pub(crate) fn inform(&self, message: impl std::fmt::Display, span: Span) {
        self.annotations.borrow_mut().add(Annotation::new(Severity::Info, message, span));
    }

    /// Charges for a column of values.
    pub(crate) fn charge_column(&self, steps: &Steps) -> Result<Charge<'_>, EvalError> {
        self.ledger.charge(steps.len().saturating_mul(size_of::<f64>()))
    }

    /// Counts a series that was selected.
    pub(crate) fn count_series(&self, samples: usize) -> Result<(), EvalError> {
        self.check_interrupt()?;
        self.series.set(self.series.get() + 1);
        self.samples.set(self.samples.get() + samples as u64);
        if self.series.get() > self.limits.max_series {
            return Err(EvalError::TooManySeries { limit: self.limits.max_series });
        }
        Ok(())
    }

    /// Gives the series of a vector to `sink`. Series without a value at any step are left out.
    pub(crate) fn stream(&self, node: &VectorNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        match node {
            VectorNode::Empty => Ok(()),
            VectorNode::Select(select) => self.select_instant(select, steps, sink),
            VectorNode::SelectTimes(select) => self.select_times(select, steps, sink),
            VectorNode::Scalar(scalar) => self.scalar_as_vector(scalar, steps, sink),
            VectorNode::Broadcast(expr) => self.broadcast(expr, steps, sink),
            VectorNode::Map { map, expr } => self.map(map, expr, steps, sink),
            VectorNode::OverTime { function, range, parameter, span } => self.over_time(*function, range, parameter, *span, steps, sink),
            VectorNode::Absent { expr, labels } => self.absent(expr, labels, steps, sink),
            VectorNode::AbsentOverTime { range, labels } => self.absent_over_time(range, labels, steps, sink),
            VectorNode::LabelReplace { expr, destination, replacement, source, regex } => {
                self.relabel(expr, destination, steps, sink, |labels| labels::replaced(labels, destination, replacement, source, regex))
            }
            VectorNode::LabelJoin { expr, destination, separator, sources } => {
                self.relabel(expr, destination, steps, sink, |labels| labels::joined(labels, destination, separator, sources).map(Some))
            }
            VectorNode::Sort { expr, descending, span } => self.sort(expr, *descending, *span, steps, sink),
            VectorNode::HistogramQuantile { quantile, buckets, quantile_span, span } => {
                histogram::quantiles(self, quantile, buckets, *quantile_span, *span, steps, sink)
            }
            VectorNode::HistogramFraction { lower, upper, buckets, span } => {
                histogram::fractions(self, lower, upper, buckets, *span, steps, sink)
            }
            VectorNode::Aggregate(node) => aggregate::evaluate(self, node, steps, sink),
            VectorNode::Binary(node) => binary::evaluate(self, node, steps, sink),
        }
    }
}

/// The error of a store, with the function that needed the samples.
pub(crate) fn store_error(error: StoreError, function: Option<&str>) -> EvalError {
    match error {
        StoreError::RawSamplesGone => EvalError::needs_raw_samples(function),
        StoreError::Interrupted(interrupted) => EvalError::Interrupted(interrupted),
        StoreError::Memory(exceeded) => EvalError::Memory(exceeded),
        StoreError::Failed(error) => EvalError::Store(error),
    }
}

#[cfg(test)]
mod tests;
