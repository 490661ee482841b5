//! The metrics of the memory store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntGauge, Registry};

use super::history::TOO_OLD_SAMPLES;
use super::{catch_up, int};
use crate::store::memory::{MemoryMetrics, MemoryStore};

type Read = fn(&MemoryMetrics) -> &AtomicU64;

/// A metric's name after `golectra_`, its help, and the value's location. Names that begin with `history_` are those that PostgreSQL's store has.
const GAUGES: [(&str, &str, Read); 7] = [
    ("memory_keys", "Idempotency keys remembered.", |metrics| &metrics.keys_remembered),
    ("memory_snapshot_bytes", "How large the last snapshot is.", |metrics| &metrics.last_snapshot_bytes),
    ("memory_journal_bytes", "How large the journal is.", |metrics| &metrics.journal_bytes),
    ("history_bytes", "What history takes in memory.", |metrics| &metrics.history_bytes),
    ("memory_history_rollup_bytes", "What rollups take of the memory that history takes.", |metrics| &metrics.history_rollup_bytes),
    (
        "memory_history_damaged_files",
        "Files of history that this process found damaged at its start and that stay in its folder, since the disk was too full to keep them beside it.",
        |metrics| &metrics.history_damaged_files,
    ),
    ("history_max_bytes", "HISTORY_MAX_BYTES: near it the oldest history is dropped; 0 keeps none.", |metrics| &metrics.history_max_bytes),
];

const COUNTERS: [(&str, &str, Read); 10] = [
    ("memory_snapshots_total", "Snapshots written.", |metrics| &metrics.snapshots_written),
    ("memory_snapshot_failures_total", "Snapshots that could not be written.", |metrics| &metrics.snapshot_failures),
    ("memory_journal_failures_total", "Writes to the journal that failed.", |metrics| &metrics.journal_failures),
    ("memory_journal_skipped_bytes_total", "Bytes of a damaged journal that were skipped at the start.", |metrics| {
        &metrics.journal_skipped_bytes
    }),
    ("memory_journal_replayed_total", "Writes read back from the journal at the start.", |metrics| &metrics.journal_replayed),
    (
        "memory_history_dropped_samples_total",
        "Samples that left history early, the oldest first, since HISTORY_MAX_BYTES does not suffice.",
        |metrics| &metrics.history_dropped_samples,
    ),
    ("history_too_old_samples_total", TOO_OLD_SAMPLES, |metrics| &metrics.history_too_old_samples),
    (
        "memory_history_dropped_rollups_total",
        "Days of a source's rollups, of 5 minutes or of an hour, that left history early, since HISTORY_MAX_BYTES does not suffice.",
        |metrics| &metrics.history_dropped_rollup_days,
    ),
    ("memory_history_corrupt_columns_total", "Sealed series of history that could not be decoded and were left out.", |metrics| {
        &metrics.history_corrupt_columns
    }),
    (
        "memory_history_skipped_bytes_total",
        "Bytes of history's files that were skipped at the start, being damaged or of no index of the snapshot.",
        |metrics| &metrics.history_skipped_bytes,
    ),
];

/// Reads the memory store's metrics at each scrape.
pub struct MemoryCollector {
    store: Arc<MemoryStore>,
    snapshot_seconds: Gauge,
    pause_seconds: Gauge,
    /// Where there are files: for how long something has not been saved, and how often it is to be.
    saving: Option<[Gauge; 2]>,
    gauges: Vec<(IntGauge, Read)>,
    counters: Vec<(IntCounter, Read)>,
}

impl MemoryCollector {
    /// Registers the metrics of this store.
    pub fn register(registry: &Registry, store: Arc<MemoryStore>) -> prometheus::Result<()> {
        let name = |name| format!("golectra_{name}");
        let gauges = GAUGES.map(|(short, help, read)| Ok((IntGauge::new(name(short), help)?, read)));
        let counters = COUNTERS.map(|(short, help, read)| Ok((IntCounter::new(name(short), help)?, read)));
        let saving = store.store_interval().map(|interval| {
            let unsaved =
                Gauge::new(name("memory_unsaved_seconds"), "For how long the oldest write is in no file, at most; 0 where all are saved.")?;
            let every = Gauge::new(name("memory_store_interval_seconds"), "STORE_INTERVAL: how often writes are saved.")?;
            every.set(interval.as_secs_f64());
            Ok::<_, prometheus::Error>([unsaved, every])
        });
        registry.register(Box::new(Self {
            store,
            saving: saving.transpose()?,
            snapshot_seconds: Gauge::new(name("memory_snapshot_duration_seconds"), "How long the last snapshot took.")?,
            pause_seconds: Gauge::new(
                name("memory_snapshot_pause_seconds"),
                "How long the last snapshot kept writes waiting at the most.",
            )?,
            gauges: gauges.into_iter().collect::<prometheus::Result<_>>()?,
            counters: counters.into_iter().collect::<prometheus::Result<_>>()?,
        }))
    }

    fn parts(&self) -> impl Iterator<Item = &dyn Collector> {
        let gauges = self.gauges.iter().map(|(gauge, _)| gauge as &dyn Collector);
        let gauges = gauges.chain([&self.snapshot_seconds as &dyn Collector, &self.pause_seconds]);
        let gauges = gauges.chain(self.saving.iter().flatten().map(|gauge| gauge as &dyn Collector));
        gauges.chain(self.counters.iter().map(|(counter, _)| counter as &dyn Collector))
    }
}

impl Collector for MemoryCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.store.memory_metrics();
        let millis = metrics.last_snapshot_millis.load(Ordering::Relaxed);
        self.snapshot_seconds.set(Duration::from_millis(millis).as_secs_f64());
        let micros = metrics.longest_pause_micros.load(Ordering::Relaxed);
        self.pause_seconds.set(Duration::from_micros(micros).as_secs_f64());
        if let (Some([unsaved, _]), Some(unsaved_for)) = (&self.saving, self.store.unsaved_for()) {
            unsaved.set(unsaved_for.as_secs_f64());
        }
        for (gauge, read) in &self.gauges {
            gauge.set(int(read(metrics).load(Ordering::Relaxed)));
        }
        for (counter, read) in &self.counters {
            catch_up(counter, read(metrics).load(Ordering::Relaxed));
        }
        self.parts().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::clock::Clock;
    use crate::store::memory::MemoryConfig;
    use crate::store::{Lifetimes, SeriesLimits};

    /// What a store tells whose snapshot file is this.
    fn gathered(path: Option<PathBuf>) -> Vec<MetricFamily> {
        let config = MemoryConfig {
            path,
            store_interval: Duration::from_mins(5),
            restore: false,
            lifetimes: Lifetimes::default(),
            max_keys: 10,
            limits: SeriesLimits { total: 10, per_source: 10 },
            history_max_bytes: 1 << 20,
            audit: None,
        };
        let registry = Registry::new();
        MemoryCollector::register(&registry, MemoryStore::open(config, Clock::System).unwrap()).unwrap();
        registry.gather()
    }

    fn gauge(families: &[MetricFamily], name: &str) -> Option<f64> {
        families.iter().find(|family| family.name() == name).map(|family| family.get_metric()[0].get_gauge().get_value())
    }

    #[tokio::test]
    async fn what_is_not_saved_is_told_where_there_are_files() {
        let folder = tempfile::tempdir().unwrap();
        let families = gathered(Some(folder.path().join("m.json")));
        assert_eq!(gauge(&families, "golectra_memory_unsaved_seconds"), Some(0.0));
        assert_eq!(gauge(&families, "golectra_memory_store_interval_seconds"), Some(300.0));
        let families = gathered(None);
        assert_eq!(gauge(&families, "golectra_memory_unsaved_seconds"), None);
        assert_eq!(gauge(&families, "golectra_memory_store_interval_seconds"), None);
    }

    #[tokio::test]
    async fn history_has_the_names_that_it_has_with_postgresql() {
        let families = gathered(None);
        assert!(gauge(&families, "golectra_history_bytes").is_some());
        assert_eq!(gauge(&families, "golectra_history_max_bytes"), Some(f64::from(1 << 20)));
        let too_old = families.iter().find(|family| family.name() == "golectra_history_too_old_samples_total").unwrap();
        assert_eq!(too_old.get_metric()[0].get_counter().get_value().to_bits(), 0.0_f64.to_bits());
    }
}
