//! Series in memory, on which tests evaluate the expressions of the pages.

use std::ops::RangeInclusive;

use golectra_promql::parse::{ParseLimits, parse_selector};
use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, Labels, MemoryBudget, NoInterrupt, Query, Value};

use super::ask::Sample;

/// The time between two samples, in seconds.
const STEP: usize = 15;
/// When expressions are evaluated, in seconds.
pub const NOW: i32 = 600;

/// Series in memory.
#[derive(Default)]
pub struct Fixture(MemoryStore);

impl Fixture {
    /// Adds a series such as `name{label="value"}` with samples over these seconds, whose values are of their seconds.
    pub fn add(&mut self, series: &str, seconds: RangeInclusive<i32>, value: impl Fn(f64) -> f64) {
        let matchers = parse_selector(series, &ParseLimits::default()).unwrap_or_else(|error| panic!("{series}: {error}"));
        let labels = Labels::new(matchers.iter().map(|matcher| (matcher.name(), matcher.value())));
        for second in seconds.step_by(STEP) {
            self.0.add(&labels, i64::from(second) * 1_000, value(f64::from(second)));
        }
    }

    /// What an expression gives at [`NOW`].
    pub fn now(&self, expr: &str) -> Vec<Sample> {
        let query = Query::parse(expr, &ParseLimits::default()).unwrap_or_else(|error| panic!("{expr}: {error}"));
        let budget = MemoryBudget::new(64 << 20);
        let outcome = Engine::default().instant(&query, i64::from(NOW) * 1_000, &self.0, &NoInterrupt, &budget);
        match outcome.unwrap_or_else(|error| panic!("{expr}: {error}")).value {
            Value::Vector { samples, .. } => {
                samples.into_iter().map(|sample| Sample { labels: sample.labels, value: sample.value }).collect()
            }
            other => panic!("{expr}: {other:?}"),
        }
    }

    /// The values of an expression at [`NOW`], to three digits, each with the values of these labels before it, in order.
    pub fn values(&self, expr: &str, labels: &[&str]) -> Vec<String> {
        let found = self.now(expr);
        let mut values: Vec<_> = found
            .iter()
            .map(|sample| {
                let names = labels.iter().map(|label| sample.labels.value(label).to_owned());
                names.chain([format!("{:.3}", sample.value)]).collect::<Vec<_>>().join(" ")
            })
            .collect();
        values.sort();
        values
    }
}
