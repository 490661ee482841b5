//! A write that was applied has one event, whatever its client does.

use std::sync::Condvar;

use golectra_protocol::Metrics;
use prometheus::Registry;

use super::super::disk::Op;
use super::conformance::counter as count;
use super::*;
use crate::audit::{AuditConfig, Backend, Trail};
use crate::ingest::{self, Ingest};
use crate::metrics::ServerMetrics;

/// A disk that does not finish a sync while it is held.
#[derive(Default)]
struct SlowDisk {
    /// Whether it is held, and how many syncs wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl SlowDisk {
    fn disk(self: &Arc<Self>) -> Disk {
        let slow = Arc::clone(self);
        let hook = move |op| {
            let mut state = slow.state.lock().unwrap();
            if op == Op::Sync {
                state.1 += 1;
                while state.0 {
                    state = slow.changed.wait(state).unwrap();
                }
                state.1 -= 1;
            }
            Ok(())
        };
        Disk { hook: Some(Arc::new(hook)) }
    }

    fn hold(&self, held: bool) {
        self.state.lock().unwrap().0 = held;
        self.changed.notify_all();
    }

    async fn until_it_waits(&self) {
        until(|| self.state.lock().unwrap().1 > 0).await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < until, "it did not come to that within 10 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A store with an audit file.
struct Audited {
    folder: tempfile::TempDir,
    store: Arc<MemoryStore>,
    trail: Trail,
    ingest: Ingest,
}

impl Audited {
    fn new(store_interval: Duration, disk: Disk) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("audit.ndjson"));
        let (clock, registry) = (Clock::at(NOW), Registry::new());
        let audit = AuditConfig { file, url: None, key: None, queue: 1000, database_max_bytes: 1 << 20, instance: "here".into() };
        let trail = Trail::start(audit, Backend::Memory, &registry, clock.clone()).unwrap().unwrap();
        let queue = trail.clone();
        let config = MemoryConfig {
            audit: Some(Arc::new(move |draft| queue.queue(draft))),
            ..config(Some(folder.path().join("m.json")), store_interval, true)
        };
        let store = MemoryStore::open_on(config, clock.clone(), disk, FOLD_JOURNAL_AT_BYTES).unwrap();
        let metrics = ServerMetrics::register(&registry).unwrap();
        let ingest = Ingest::new(Arc::<MemoryStore>::clone(&store), Some(trail.clone()), metrics, clock);
        Self { folder, store, trail, ingest }
    }

    /// The events in the end, one a line.
    async fn lines(self) -> String {
        self.store.flush().await.unwrap();
        self.lines_of_closed().await
    }

    /// As [`Self::lines`], where the store is closed.
    async fn lines_of_closed(self) -> String {
        self.trail.finish(Duration::from_secs(10)).await;
        std::fs::read_to_string(self.folder.path().join("audit.ndjson")).unwrap_or_default()
    }

    /// How many events there are in the end.
    async fn events(self) -> usize {
        self.lines().await.lines().count()
    }
}

fn write(key: IdempotencyKey) -> ingest::Write {
    let metrics: Metrics = vec![count("c", 1)].into();
    let source = Source::parse("a").unwrap();
    ingest::Write { source, key: Some(key), digest: [1; 32], metrics, peer: [127, 0, 0, 1].into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_client_leaves_while_the_journal_syncs_is_audited_once() {
    let slow = Arc::new(SlowDisk::default());
    let audited = Audited::new(Duration::ZERO, slow.disk());
    audited.ingest.write(write(IdempotencyKey::at(NOW - 1))).await.unwrap();
    slow.hold(true);
    let key = IdempotencyKey::at(NOW);
    let ingest = audited.ingest.clone();
    let client = tokio::spawn(async move { ingest.write(write(key)).await });
    slow.until_it_waits().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled(), "it left before its answer");
    slow.hold(false);
    assert_eq!(audited.ingest.write(write(key)).await.unwrap(), Applied::Repeat);
    assert_eq!(audited.events().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_the_disk_refuses_at_first_is_audited_once_when_it_is_on_disk() {
    let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = Arc::clone(&full);
    let hook = move |op| if op == Op::Write && switch.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
    let audited = Audited::new(Duration::ZERO, Disk { hook: Some(Arc::new(hook)) });
    audited.ingest.write(write(IdempotencyKey::at(NOW - 1))).await.unwrap();
    full.store(true, Ordering::SeqCst);
    let key = IdempotencyKey::at(NOW);
    audited.ingest.write(write(key)).await.unwrap_err();
    full.store(false, Ordering::SeqCst);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while audited.ingest.write(write(key)).await.is_err() {
        assert!(std::time::Instant::now() < until, "the disk never recovered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(audited.events().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_source_is_audited_once_and_a_repeat_not_at_all() {
    for interval in [Duration::ZERO, Duration::from_hours(1)] {
        let audited = Audited::new(interval, Disk::default());
        let key = IdempotencyKey::at(NOW);
        assert_eq!(audited.ingest.write(write(key)).await.unwrap(), Applied::New);
        assert_eq!(audited.ingest.write(write(key)).await.unwrap(), Applied::Repeat);
        let name = Source::parse("a").unwrap();
        assert!(audited.ingest.forget_source(&name, [127, 0, 0, 1].into()).await.unwrap());
        assert!(!audited.ingest.forget_source(&name, [127, 0, 0, 1].into()).await.unwrap());
        assert_eq!(audited.events().await, 2, "{interval:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_came_to_the_disk_with_a_save_is_audited_once() {
    // The first write of a journaled store is brought to the disk by a save, and so is one that waits while a save is put in place.
    let audited = Audited::new(Duration::ZERO, Disk::default());
    for number in 0..50 {
        let (ingest, store) = (audited.ingest.clone(), Arc::clone(&audited.store));
        let writes = (0..4).map(|_| ingest.write(write(IdempotencyKey::at(NOW - number))));
        let (written, saved) = tokio::join!(futures_util::future::join_all(writes), store.save_now());
        assert!(written.iter().all(Result::is_ok));
        saved.unwrap();
    }
    assert_eq!(audited.events().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_that_are_stored_in_part_are_audited_once_by_the_names_of_those_that_are() {
    let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = Arc::clone(&full);
    let hook = move |op| if op == Op::Write && switch.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
    let audited = Audited::new(Duration::ZERO, Disk { hook: Some(Arc::new(hook)) });
    let put = |ids: &[&str]| {
        let mut metrics = Metrics::default();
        for id in ids {
            metrics.push_parsed_at(id, Value::Gauge(1.0), super::history::millis(NOW - 1000)).unwrap();
        }
        audited.ingest.write_samples(Source::parse("a").unwrap(), [1; 32], metrics, [127, 0, 0, 1].into())
    };
    assert_eq!(put(&["first"]).await.unwrap(), Applied::New);
    assert_eq!(put(&["first", "second"]).await.unwrap(), Applied::New);
    // One that the disk refuses at first has its event once it is on disk.
    full.store(true, Ordering::SeqCst);
    put(&["first", "third"]).await.unwrap_err();
    full.store(false, Ordering::SeqCst);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while put(&["first", "third"]).await.is_err() {
        assert!(std::time::Instant::now() < until, "the disk never recovered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let lines = audited.lines().await;
    let names: Vec<&str> = lines.lines().filter_map(|line| line.split(['[', ']']).nth(1)).collect();
    assert_eq!(names, [r#""first""#, r#""second""#, r#""third""#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_that_are_stored_in_part_are_audited_where_the_store_closes_meanwhile() {
    let audited = Audited::new(Duration::ZERO, Disk::default());
    audited.ingest.write(write(IdempotencyKey::at(NOW))).await.unwrap();
    // A call under way has the queue, and its samples are in it already.
    let queue = audited.store.journal().unwrap().queue().unwrap();
    let event = async move {
        let _ = queue.send(Command::Event { draft: Draft::source_deleted([127, 0, 0, 1].into(), 0, None) });
        drop(queue);
    };
    // The close comes first: it is polled until it waits.
    let (closed, ()) = tokio::join!(audited.store.close(), event);
    closed.unwrap();
    assert_eq!(audited.lines_of_closed().await.lines().count(), 2);
}
