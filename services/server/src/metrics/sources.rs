//! Metrics of when each source was last seen.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{GaugeVec, IntGauge, Opts, Registry};

use super::int;
use crate::store::SourceInfo;

/// The number of sources that are exported one by one, about a megabyte of text. A cluster may have any number of them over a
/// week, and the size of a scrape must not grow with it.
pub const MAX_SOURCES: usize = 10_000;

/// The metrics of sources.
pub struct SourceMetrics {
    last_seen: GaugeVec,
    known: IntGauge,
    not_exported: IntGauge,
    /// The sources that are exported one by one.
    exported: Mutex<HashSet<String>>,
    max_sources: usize,
}

impl SourceMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry, max_sources: usize) -> prometheus::Result<Self> {
        let metrics = Self {
            last_seen: GaugeVec::new(
                Opts::new("golectra_source_last_seen_timestamp_seconds", "When a source's last batch arrived, unix time."),
                &["source"],
            )?,
            known: IntGauge::new("golectra_sources", "Sources known.")?,
            not_exported: IntGauge::new(
                "golectra_sources_not_exported",
                "Sources without golectra_source_last_seen_timestamp_seconds, since there are too many.",
            )?,
            exported: Mutex::default(),
            max_sources,
        };
        registry.register(Box::new(metrics.last_seen.clone()))?;
        registry.register(Box::new(metrics.known.clone()))?;
        registry.register(Box::new(metrics.not_exported.clone()))?;
        Ok(metrics)
    }

    /// Updates the metrics. If there are too many sources, those seen last are exported: they include a source that has just
    /// become silent, and not one that left days ago.
    pub fn set(&self, sources: &[SourceInfo]) {
        let mut newest: Vec<&SourceInfo> = sources.iter().collect();
        if newest.len() > self.max_sources {
            newest.select_nth_unstable_by_key(self.max_sources, |source| std::cmp::Reverse(source.last_seen_millis));
            newest.truncate(self.max_sources);
        }
        self.known.set(int(sources.len() as u64));
        self.not_exported.set(int((sources.len() - newest.len()) as u64));

        // Never emptied in between, because a scrape may happen at any time.
        let mut exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *exported);
        for source in newest {
            #[expect(clippy::cast_precision_loss, reason = "unix time in milliseconds is far below 2^53")]
            let seconds = source.last_seen_millis as f64 / 1000.0;
            let name = source.name.as_str();
            self.last_seen.with_label_values(&[name]).set(seconds);
            exported.insert(gone.take(name).unwrap_or_else(|| name.to_owned()));
        }
        for name in gone {
            // It is exported, so removing it does not fail.
            let _ = self.last_seen.remove_label_values(&[&name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::Source;

    use super::*;

    fn source(number: usize, last_seen_millis: u64) -> SourceInfo {
        let name = Source::parse(&format!("node-{number:06}")).unwrap();
        SourceInfo { name, first_seen_millis: 0, last_seen_millis, series: 1 }
    }

    /// The exported sources with their times, and the two counts.
    fn exported(registry: &Registry) -> (Vec<(String, f64)>, f64, f64) {
        let families = registry.gather();
        let of = |name: &str| families.iter().find(|family| family.name() == name).map(|family| family.get_metric().to_vec());
        let one = |name: &str| of(name).unwrap()[0].get_gauge().get_value();
        let mut lines: Vec<_> = of("golectra_source_last_seen_timestamp_seconds")
            .unwrap_or_default()
            .iter()
            .map(|metric| (metric.get_label()[0].value().to_owned(), metric.get_gauge().get_value()))
            .collect();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        (lines, one("golectra_sources"), one("golectra_sources_not_exported"))
    }

    #[test]
    fn every_source_is_exported_also_beyond_a_thousand() {
        let registry = Registry::new();
        let metrics = SourceMetrics::register(&registry, MAX_SOURCES).unwrap();
        metrics.set(&(0..5_000).map(|number| source(number, 1_000)).collect::<Vec<_>>());
        let (lines, known, not_exported) = exported(&registry);
        assert_eq!((lines.len(), known, not_exported), (5_000, 5_000.0, 0.0));
        assert_eq!(lines[4_999], ("node-004999".to_owned(), 1.0));
    }

    #[test]
    fn beyond_the_limit_the_sources_seen_last_are_exported_and_the_others_counted() {
        let registry = Registry::new();
        let metrics = SourceMetrics::register(&registry, 2).unwrap();
        let name = |number: usize| format!("node-{number:06}");
        metrics.set(&[source(0, 3_000), source(1, 1_000), source(2, 2_000), source(3, 500)]);
        assert_eq!(exported(&registry), (vec![(name(0), 3.0), (name(2), 2.0)], 4.0, 2.0));
        // A source that reports again is exported again, and one that is gone is removed.
        metrics.set(&[source(1, 4_000), source(2, 2_000)]);
        assert_eq!(exported(&registry), (vec![(name(1), 4.0), (name(2), 2.0)], 2.0, 0.0));
        metrics.set(&[]);
        assert_eq!(exported(&registry), (vec![], 0.0, 0.0));
    }
}
