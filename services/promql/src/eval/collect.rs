//! Series that are held together.

use super::{Charge, Evaluator};
use crate::column::Series;
use crate::error::EvalError;
use crate::labels::Labels;
use crate::matching::FastMap;
use crate::plan::VectorNode;
use crate::steps::Steps;

/// Series and the charge for their memory.
pub(crate) struct Collected<'a> {
    pub(crate) series: Vec<Series>,
    pub(crate) charge: Charge<'a>,
}

/// What two series at one step with the same labels are.
pub(crate) const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";

impl<'a> Collected<'a> {
    pub(crate) fn new(evaluator: &'a Evaluator<'_>) -> Result<Self, EvalError> {
        Ok(Self { series: Vec::new(), charge: evaluator.ledger.charge(0)? })
    }

    /// Keeps a series: takes its values.
    pub(crate) fn push(&mut self, series: &mut Series) -> Result<(), EvalError> {
        self.charge.add(series.memory_bytes())?;
        self.series.push(Series { labels: series.labels.clone(), drop_name: series.drop_name, values: std::mem::take(&mut series.values) });
        Ok(())
    }

    /// Puts parts of a series together; fails if two of them have a value at the same step.
    pub(crate) fn merge(&mut self, error: &str) -> Result<(), EvalError> {
        let mut indices: FastMap<(Labels, bool), usize> = FastMap::default();
        let mut merged: Vec<Series> = Vec::with_capacity(self.series.len());
        for series in std::mem::take(&mut self.series) {
            match indices.entry((series.labels.clone(), series.drop_name)) {
                std::collections::hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(merged.len());
                    merged.push(series);
                }
                std::collections::hash_map::Entry::Occupied(occupied) => {
                    let first = &mut merged[*occupied.get()];
                    if first.overlaps(&series) {
                        return Err(EvalError::Execution(error.to_owned()));
                    }
                    first.fill_from(&series);
                }
            }
        }
        self.series = merged;
        Ok(())
    }
}

impl Evaluator<'_> {
    /// All series of a vector.
    pub(crate) fn collect(&self, node: &VectorNode, steps: &Steps) -> Result<Collected<'_>, EvalError> {
        let mut collected = Collected::new(self)?;
        self.stream(node, steps, &mut |series| collected.push(series))?;
        Ok(collected)
    }

    /// All series of a vector, those that come in parts put together.
    pub(crate) fn collect_merged(&self, node: &VectorNode, steps: &Steps) -> Result<Collected<'_>, EvalError> {
        let mut collected = self.collect(node, steps)?;
        if !node.gives_each_series_once() {
            collected.merge(SAME_LABELS)?;
        }
        Ok(collected)
    }
}
