//! What the memory store counts, as /metrics shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Registry};

use super::{catch_up, int};
use crate::store::memory::{MemoryStats, MemoryStore};

type Read = fn(&MemoryStats) -> &AtomicU64;

/// A figure's name behind `golectra_memory_`, its help, and where it stands.
const GAUGES: [(&str, &str, Read); 4] = [
    ("keys", "Idempotency keys remembered.", |stats| &stats.keys_remembered),
    ("snapshot_duration_milliseconds", "How long the last snapshot took, in milliseconds.", |stats| &stats.last_snapshot_millis),
    ("snapshot_bytes", "How large the last snapshot is.", |stats| &stats.last_snapshot_bytes),
    ("journal_bytes", "How large the journal is.", |stats| &stats.journal_bytes),
];

const COUNTERS: [(&str, &str, Read); 5] = [
    ("snapshots_total", "Snapshots written.", |stats| &stats.snapshots_written),
    ("snapshot_failures_total", "Snapshots that could not be written.", |stats| &stats.snapshot_failures),
    ("journal_failures_total", "Writes to the journal that failed.", |stats| &stats.journal_failures),
    ("journal_skipped_bytes_total", "Bytes of a damaged journal that were skipped at the start.", |stats| &stats.journal_skipped_bytes),
    ("journal_replayed_total", "Writes read back from the journal at the start.", |stats| &stats.journal_replayed),
];

/// Reads the memory store's figures when Prometheus asks.
pub struct MemoryFigures {
    store: Arc<MemoryStore>,
    gauges: Vec<(IntGauge, Read)>,
    counters: Vec<(IntCounter, Read)>,
}

impl MemoryFigures {
    /// Registers the figures of this store.
    pub fn register(registry: &Registry, store: Arc<MemoryStore>) -> prometheus::Result<()> {
        let name = |name| format!("golectra_memory_{name}");
        let gauges = GAUGES.map(|(short, help, read)| Ok((IntGauge::new(name(short), help)?, read)));
        let counters = COUNTERS.map(|(short, help, read)| Ok((IntCounter::new(name(short), help)?, read)));
        registry.register(Box::new(Self {
            store,
            gauges: gauges.into_iter().collect::<prometheus::Result<_>>()?,
            counters: counters.into_iter().collect::<prometheus::Result<_>>()?,
        }))
    }

    fn parts(&self) -> impl Iterator<Item = &dyn Collector> {
        let gauges = self.gauges.iter().map(|(gauge, _)| gauge as &dyn Collector);
        gauges.chain(self.counters.iter().map(|(counter, _)| counter as &dyn Collector))
    }
}

impl Collector for MemoryFigures {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.store.memory_stats();
        for (gauge, read) in &self.gauges {
            gauge.set(int(read(stats).load(Ordering::Relaxed)));
        }
        for (counter, read) in &self.counters {
            catch_up(counter, read(stats).load(Ordering::Relaxed));
        }
        self.parts().flat_map(Collector::collect).collect()
    }
}
