//! What the memory store counts, as /metrics shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntGauge, Registry};

use super::{catch_up, int};
use crate::store::memory::{MemoryStats, MemoryStore};

type Read = fn(&MemoryStats) -> &AtomicU64;

/// A figure's name behind `golectra_memory_`, its help, and where it stands.
const GAUGES: [(&str, &str, Read); 3] = [
    ("keys", "Idempotency keys remembered.", |stats| &stats.keys_remembered),
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
    snapshot_seconds: Gauge,
    pause_seconds: Gauge,
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
            snapshot_seconds: Gauge::new(name("snapshot_duration_seconds"), "How long the last snapshot took.")?,
            pause_seconds: Gauge::new(name("snapshot_pause_seconds"), "How long the last snapshot kept writes waiting at the most.")?,
            gauges: gauges.into_iter().collect::<prometheus::Result<_>>()?,
            counters: counters.into_iter().collect::<prometheus::Result<_>>()?,
        }))
    }

    fn parts(&self) -> impl Iterator<Item = &dyn Collector> {
        let gauges = self.gauges.iter().map(|(gauge, _)| gauge as &dyn Collector);
        let gauges = gauges.chain([&self.snapshot_seconds as &dyn Collector, &self.pause_seconds]);
        gauges.chain(self.counters.iter().map(|(counter, _)| counter as &dyn Collector))
    }
}

impl Collector for MemoryFigures {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.store.memory_stats();
        let millis = stats.last_snapshot_millis.load(Ordering::Relaxed);
        self.snapshot_seconds.set(Duration::from_millis(millis).as_secs_f64());
        let micros = stats.longest_pause_micros.load(Ordering::Relaxed);
        self.pause_seconds.set(Duration::from_micros(micros).as_secs_f64());
        for (gauge, read) in &self.gauges {
            gauge.set(int(read(stats).load(Ordering::Relaxed)));
        }
        for (counter, read) in &self.counters {
            catch_up(counter, read(stats).load(Ordering::Relaxed));
        }
        self.parts().flat_map(Collector::collect).collect()
    }
}
