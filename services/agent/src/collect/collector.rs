//! What a collector is and what it returns.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;

use golectra_protocol::{IdError, Metric, MetricId, Value};

use super::host::RenderedGauge;
use crate::metrics::SkipReason;

/// Why a collector has no readings.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A file of the system could not be read.
    #[error("{path} cannot be read: {error}")]
    Read {
        /// The file.
        path: Cow<'static, str>,
        /// The error of the system.
        error: io::Error,
    },
    /// A file of the system does not contain what it should.
    #[error("{path} does not contain {wanted}")]
    Missing {
        /// The file.
        path: Cow<'static, str>,
        /// What was looked for.
        wanted: &'static str,
    },
    /// sysinfo does not support this system.
    #[error("sysinfo cannot be used here: {0}")]
    System(#[from] sysinfo::Error),
}

/// A source of readings.
pub trait Collector: Send {
    /// The value of the label `collector`. It is also part of the thread's name, so it has at most 7 letters.
    fn name(&self) -> &'static str;

    /// Adds what is measured now. An error means that the collector as a whole failed; what was added before it is kept. A single
    /// reading that is not possible is skipped instead (see [`Readings::skip`]).
    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError>;
}

/// The gauges of one poll, all of them valid, and what could not be reported.
#[derive(Debug, Default)]
pub struct Readings {
    pub(super) metrics: Vec<Metric>,
    pub(super) gauges: Vec<RenderedGauge>,
    pub(super) skipped: BTreeMap<SkipReason, Skipped>,
}

/// Readings that were skipped for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) count: u64,
    /// The first of them, for the log.
    pub(super) example: String,
}

impl Readings {
    /// Adds a gauge. One that no metric can have is skipped.
    pub fn gauge(&mut self, name: &str, value: f64) {
        self.add(MetricId::parse(name), name, value);
    }

    /// Adds a gauge with a label.
    pub fn labelled_gauge(&mut self, name: &str, (key, label): (&str, &str), value: f64) {
        self.add(MetricId::from_parts(name, [(key, label)]), label, value);
    }

    /// Adds a gauge with a whole number.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; whole numbers up to 8 PiB are exact")]
    pub fn count(&mut self, name: &str, value: u64) {
        self.gauge(name, value as f64);
    }

    /// Adds a gauge with a label and a whole number.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; whole numbers up to 8 PiB are exact")]
    pub fn labelled_count(&mut self, name: &str, label: (&str, &str), value: u64) {
        self.labelled_gauge(name, label, value as f64);
    }

    /// How many readings were skipped for each reason.
    #[cfg(test)]
    pub(super) fn skipped_counts(&self) -> impl Iterator<Item = (SkipReason, u64)> {
        self.skipped.iter().map(|(reason, skipped)| (*reason, skipped.count))
    }

    fn add(&mut self, id: Result<MetricId, IdError>, text: &str, value: f64) {
        match (id, Value::gauge(value)) {
            (Ok(id), Ok(value)) => self.metrics.push(Metric { id, value }),
            (Ok(id), Err(error)) => self.skip(SkipReason::InvalidValue, 1, format_args!("{id}: {error}")),
            (Err(error), _) => self.skip(SkipReason::InvalidId, 1, format_args!("{}: {error}", shortened(text))),
        }
    }

    /// Counts readings that cannot be reported. They do not make the collector fail.
    pub fn skip(&mut self, reason: SkipReason, count: u64, example: impl Display) {
        if count > 0 {
            self.skipped.entry(reason).or_insert_with(|| Skipped { count: 0, example: example.to_string() }).count += count;
        }
    }
}

/// The beginning of a name or label, for the log.
fn shortened(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_metric_can_have_is_skipped_and_counted() {
        let mut readings = Readings::default();
        readings.gauge("good", 1.0);
        readings.gauge("", 1.0);
        readings.gauge("bell\u{7}", 1.0);
        readings.gauge(&"x".repeat(5000), 1.0);
        readings.gauge("nan", f64::NAN);
        readings.count("also_good", u64::MAX);
        readings.skip(SkipReason::Limit, 0, "nothing");
        assert_eq!(readings.metrics.iter().map(|metric| metric.id.as_str()).collect::<Vec<_>>(), ["good", "also_good"]);
        let counts: Vec<_> = readings.skipped.iter().map(|(reason, skipped)| (*reason, skipped.count)).collect();
        assert_eq!(counts, [(SkipReason::InvalidId, 3), (SkipReason::InvalidValue, 1)]);
        assert!(readings.skipped[&SkipReason::InvalidValue].example.starts_with("nan: "), "{readings:?}");
    }

    #[test]
    fn labels_are_escaped_and_may_be_long() {
        let mut readings = Readings::default();
        readings.labelled_count("a", ("k", "x\"y\\z\n"), 1);
        readings.labelled_gauge("a", ("k", &"x".repeat(4000)), 1.5);
        readings.labelled_gauge("a", ("k", &"x".repeat(4096)), 1.5);
        assert_eq!(readings.metrics[0].id.as_str(), r#"a{k="x\"y\\z\n"}"#);
        assert_eq!((readings.metrics.len(), readings.skipped[&SkipReason::InvalidId].count), (2, 1));
    }
}
