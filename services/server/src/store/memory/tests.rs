//! The memory store held to its promises: with a file and without, through restarts, crashes and full disks.

mod audit;
mod clocks;
mod crashes;
mod faults;
mod frames;
mod heap;
mod history;
mod history_files;
mod keys;
mod model;
mod read_only;
mod replacing;
mod restarts;
mod rollups;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use golectra_protocol::{IdempotencyKey, Metric};

use super::super::conformance::{self, Maintain, Setup};
use super::disk::Disk;
use super::open::FOLD_JOURNAL_AT_BYTES;
use super::*;

const NOW: u64 = 1_800_000_000_000;

fn config(path: Option<PathBuf>, store_interval: Duration, restore: bool) -> MemoryConfig {
    let limits = SeriesLimits { total: 100_000, per_source: 50_000 };
    MemoryConfig {
        path,
        store_interval,
        restore,
        lifetimes: Lifetimes::default(),
        max_keys: 100_000,
        limits,
        history_max_bytes: 64 * 1024 * 1024,
        audit: None,
    }
}

/// A store on this file that never saves by itself but at its end.
fn saved(path: &Path) -> Arc<MemoryStore> {
    MemoryStore::open(config(Some(path.into()), Duration::from_hours(1), true), Clock::at(NOW)).unwrap()
}

/// A store on this file that journals each write.
fn journaled(path: &Path) -> Arc<MemoryStore> {
    MemoryStore::open(config(Some(path.into()), Duration::ZERO, true), Clock::at(NOW)).unwrap()
}

fn batch(source: &str, key: IdempotencyKey, metrics: Vec<Metric>) -> Batch {
    conformance::batch(source, key, metrics)
}

async fn counter(store: &MemoryStore, id: &str) -> Option<i64> {
    store.snapshot().await.unwrap().counters.get(id).copied()
}

/// The store's maintenance for the conformance suite.
fn maintain(store: &Arc<MemoryStore>) -> Maintain {
    let store = Arc::clone(store);
    Box::new(move || {
        let store = Arc::clone(&store);
        Box::pin(async move { store.sweep() })
    })
}

impl MemoryStore {
    /// A snapshot now, without waiting for its time.
    async fn save_now(&self) -> Result<(), StoreError> {
        let (answer, saved) = oneshot::channel();
        drop(self.files.as_ref().unwrap().writer.queue().unwrap().send(Command::Save { answer }));
        wait(saved, Duration::from_mins(1)).await
    }

    /// The process dies: nothing is saved, and the disk writer is gone when this returns.
    fn crash(self: Arc<Self>) {
        let files = self.files.as_ref().unwrap();
        drop(files.writer.take_queue());
        let thread = files.thread.lock().unwrap().take();
        thread.unwrap().join().unwrap();
    }
}

/// The suite on each way of keeping.
mod volatile {
    use super::*;
    use crate::store::conformance::{Made, conformance_suite};

    async fn make(setup: Setup) -> Option<Made> {
        let config = MemoryConfig { lifetimes: setup.lifetimes, limits: setup.limits, ..config(None, Duration::ZERO, false) };
        let store = MemoryStore::open(config, setup.clock).unwrap();
        Some(Made { maintain: maintain(&store), store, guard: Box::new(()) })
    }
    conformance_suite!(make);
}

mod with_snapshots {
    use super::*;
    use crate::store::conformance::{Made, conformance_suite};

    async fn make(setup: Setup) -> Option<Made> {
        let folder = tempfile::tempdir().unwrap();
        // Saved all the time, so that saves and writes meet.
        let config = config(Some(folder.path().join("metrics-db.json")), Duration::from_millis(5), true);
        let config = MemoryConfig { lifetimes: setup.lifetimes, limits: setup.limits, ..config };
        let store = MemoryStore::open(config, setup.clock).unwrap();
        Some(Made { maintain: maintain(&store), store, guard: Box::new(folder) })
    }
    conformance_suite!(make);
}

mod with_a_journal {
    use super::*;
    use crate::store::conformance::{Made, conformance_suite};

    async fn make(setup: Setup) -> Option<Made> {
        let folder = tempfile::tempdir().unwrap();
        let config = config(Some(folder.path().join("metrics-db.json")), Duration::ZERO, true);
        let config = MemoryConfig { lifetimes: setup.lifetimes, limits: setup.limits, ..config };
        // Folded all the time, so that saves and writes meet.
        let store = MemoryStore::open_on(config, setup.clock, Disk::default(), 1).unwrap();
        Some(Made { maintain: maintain(&store), store, guard: Box::new(folder) })
    }
    conformance_suite!(make);
}
