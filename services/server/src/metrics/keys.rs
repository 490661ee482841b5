//! Metrics of the signing keys.

use golectra_process::Keys;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Registry};

use super::{catch_up, int};

/// The metrics of the signing keys, read at each scrape.
pub struct KeyMetrics {
    keys: Keys,
    known: IntGauge,
    failures: IntCounter,
}

impl KeyMetrics {
    /// Registers the metrics of these keys.
    pub fn register(registry: &Registry, keys: Keys) -> prometheus::Result<()> {
        registry.register(Box::new(Self {
            keys,
            known: IntGauge::new("golectra_signing_keys", "Keys that signatures are checked with.")?,
            failures: IntCounter::new("golectra_signing_keys_read_failures_total", "Times that KEYS_DIR could not be read.")?,
        }))
    }
}

impl Collector for KeyMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.known.desc(), self.failures.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.known.set(int(self.keys.ids().len() as u64));
        catch_up(&self.failures, self.keys.failures());
        [self.known.collect(), self.failures.collect()].concat()
    }
}
