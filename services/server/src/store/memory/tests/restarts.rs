//! What is there after a start.

use golectra_protocol::{Source, WindowError};

use super::conformance::{counter as count, gauge};
use super::*;

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics-db.json");
    (folder, path)
}

async fn all(store: &MemoryStore) -> (Vec<crate::store::Series>, Vec<SourceInfo>, Snapshot) {
    let filter = LatestFilter::default();
    (
        crate::store::conformance::every(store.latest(filter).await.unwrap()).await,
        store.sources().await.unwrap(),
        store.snapshot().await.unwrap(),
    )
}

#[tokio::test]
async fn a_closed_store_comes_back_whole_with_its_keys() {
    for interval in [Duration::ZERO, Duration::from_hours(1)] {
        let (_folder, path) = file();
        let clock = Clock::at(NOW);
        let store = MemoryStore::open(config(Some(path.clone()), interval, true), clock.clone()).unwrap();
        let first = batch("a", IdempotencyKey::at(NOW - 7), vec![count("c{x=\"1\"}", 3), gauge("g", -0.0), gauge("h", f64::from_bits(1))]);
        store.apply(first.clone()).await.unwrap();
        clock.set(NOW + 5000);
        store.apply(batch("", IdempotencyKey::at(NOW - 9), vec![gauge("g", 2.0)])).await.unwrap();
        store.apply(batch("a", IdempotencyKey::at(NOW - 8), vec![count("c{x=\"1\"}", 4)])).await.unwrap();
        let before = all(&store).await;
        store.close().await.unwrap();

        let again = MemoryStore::open(config(Some(path.clone()), interval, true), clock).unwrap();
        assert_eq!(all(&again).await, before);
        assert_eq!(again.apply(first).await.unwrap(), Applied::Repeat);
        assert_eq!(all(&again).await, before);
        assert_eq!(again.memory_metrics().keys_remembered.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn a_journaled_write_outlives_a_crash_and_its_repeat_is_known() {
    let (_folder, path) = file();
    let one = batch("a", IdempotencyKey::at(NOW), vec![count("c", 1), gauge("g", 0.1)]);
    let unkeyed = Batch { keyed: false, ..batch("b", IdempotencyKey::at(NOW), vec![count("c", 10)]) };
    for round in 1..=4 {
        let store = journaled(&path);
        let expected = if round == 1 { Applied::New } else { Applied::Repeat };
        assert_eq!(store.apply(one.clone()).await.unwrap(), expected, "round {round}");
        let again = Batch { key: IdempotencyKey::at(NOW), ..unkeyed.clone() };
        assert_eq!(store.apply(again).await.unwrap(), Applied::New);
        if round == 3 {
            store.save_now().await.unwrap();
        }
        store.crash();
        let store = journaled(&path);
        assert_eq!(counter(&store, "c").await, Some(1 + 10 * round), "round {round}");
        assert_eq!(store.sources().await.unwrap()[0].first_seen_millis, NOW);
        store.crash();
    }
}

#[tokio::test]
async fn between_snapshots_a_crash_forgets_values_and_keys_alike() {
    let (_folder, path) = file();
    let (kept, lost) =
        (batch("a", IdempotencyKey::at(NOW - 1), vec![count("c", 1)]), batch("a", IdempotencyKey::at(NOW), vec![count("c", 10)]));
    let store = saved(&path);
    store.apply(kept.clone()).await.unwrap();
    store.save_now().await.unwrap();
    store.apply(lost.clone()).await.unwrap();
    store.crash();
    let store = saved(&path);
    assert_eq!(counter(&store, "c").await, Some(1));
    assert_eq!(store.apply(kept).await.unwrap(), Applied::Repeat);
    assert_eq!(store.apply(lost).await.unwrap(), Applied::New, "its retry is not mistaken for a repeat");
}

#[tokio::test]
async fn the_interval_saves_what_changed_and_nothing_else() {
    let (_folder, path) = file();
    let store = MemoryStore::open(config(Some(path.clone()), Duration::from_millis(5), true), Clock::at(NOW)).unwrap();
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
    let written = || store.memory_metrics().snapshots_written.load(Ordering::Relaxed);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while written() == 0 {
        assert!(std::time::Instant::now() < until, "no snapshot");
        tokio::task::yield_now().await;
    }
    let after_one = written();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(written(), after_one, "nothing changed");
    store.crash();
    assert_eq!(counter(&saved(&path), "c").await, Some(1));
}

#[tokio::test]
async fn the_originals_file_loads_and_the_first_batch_is_newer() {
    let (_folder, path) = file();
    std::fs::write(&path, r#"[{"ID":"g","type":"gauge","VALUE":1.5},{"id":"c","type":"counter","delta":5}]"#).unwrap();
    let store = journaled(&path);
    assert_eq!(store.sources().await.unwrap()[0].name, Source::unnamed());
    store.apply(batch("", IdempotencyKey::at(NOW - 1000), vec![gauge("g", 2.0), count("c", 1)])).await.unwrap();
    store.crash();
    let store = journaled(&path);
    assert_eq!(store.snapshot().await.unwrap().gauges["g"].to_bits(), 2.0_f64.to_bits());
    assert_eq!(counter(&store, "c").await, Some(6));
}

#[tokio::test]
async fn a_damaged_snapshot_ends_the_start_and_stays() {
    let (_folder, path) = file();
    for damage in ["", "[{\"id\":\"a\",", "{}", "[{\"id\":\"a\",\"type\":\"gauge\"}]"] {
        std::fs::write(&path, damage).unwrap();
        let Err(error) = MemoryStore::open(config(Some(path.clone()), Duration::ZERO, true), Clock::at(NOW)) else { panic!("{damage}") };
        let text = error.to_string();
        assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
        assert!(text.contains("metrics-db.json") && text.contains("RESTORE=false"), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damage);
    }
    let missing = path.parent().unwrap().join("none").join("f");
    assert!(matches!(MemoryStore::open(config(Some(missing), Duration::ZERO, true), Clock::at(NOW)), Err(OpenError::Folder { .. })));
    let folder = path.parent().unwrap().to_owned();
    assert!(matches!(MemoryStore::open(config(Some(folder), Duration::ZERO, false), Clock::at(NOW)), Err(OpenError::Unreadable { .. })));
}

#[tokio::test]
async fn without_restore_the_files_stay_until_the_first_save() {
    for interval in [Duration::ZERO, Duration::from_hours(1)] {
        let (_folder, path) = file();
        let old = batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)]);
        let store = saved(&path);
        store.apply(old.clone()).await.unwrap();
        store.close().await.unwrap();
        let bytes = std::fs::read(&path).unwrap();

        let store = MemoryStore::open(config(Some(path.clone()), interval, false), Clock::at(NOW)).unwrap();
        assert_eq!(counter(&store, "c").await, None);
        store.close().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing changed, nothing is saved");

        let store = MemoryStore::open(config(Some(path.clone()), interval, false), Clock::at(NOW)).unwrap();
        assert_eq!(store.apply(old).await.unwrap(), Applied::New);
        store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 4)])).await.unwrap();
        if interval.is_zero() {
            store.crash();
        } else {
            store.close().await.unwrap();
        }
        assert_eq!(counter(&journaled(&path), "c").await, Some(5));
    }
}

#[tokio::test]
async fn what_memory_must_forget_is_refused_also_after_a_restart() {
    let (_folder, path) = file();
    let open = || {
        let config = MemoryConfig { max_keys: 10, ..config(Some(path.clone()), Duration::ZERO, true) };
        MemoryStore::open(config, Clock::at(NOW)).unwrap()
    };
    let store = open();
    let batches: Vec<_> = (0..20).map(|i| batch("a", IdempotencyKey::at(NOW - 100 + i), vec![count("c", 1)])).collect();
    for one in &batches {
        assert_eq!(store.apply(one.clone()).await.unwrap(), Applied::New);
    }
    let probe = async |store: &MemoryStore| {
        let (mut old, mut repeats) = (0, 0);
        for one in &batches {
            match store.apply(one.clone()).await {
                Ok(Applied::Repeat) => repeats += 1,
                Err(StoreError::Window(WindowError::TooOld)) => old += 1,
                other => panic!("{other:?}"),
            }
        }
        (old, repeats)
    };
    assert_eq!(probe(&store).await, (10, 10), "ten keys");
    store.crash();
    let store = open();
    assert_eq!(probe(&store).await, (10, 10));
    store.save_now().await.unwrap();
    store.crash();
    let store = open();
    assert_eq!(probe(&store).await, (10, 10));
    assert_eq!(counter(&store, "c").await, Some(20));
}

#[tokio::test]
async fn a_save_while_the_clock_is_wrong_forgets_no_key() {
    let (_folder, path) = file();
    let clock = Clock::at(NOW);
    let open = || MemoryStore::open(config(Some(path.clone()), Duration::from_hours(1), true), clock.clone()).unwrap();
    let one = batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)]);
    let store = open();
    store.apply(one.clone()).await.unwrap();
    clock.set(NOW + 1000 * 24 * 3_600_000);
    store.save_now().await.unwrap();
    clock.set(NOW);
    assert_eq!(store.apply(one.clone()).await.unwrap(), Applied::Repeat);
    store.crash();
    let store = open();
    assert_eq!(store.apply(one).await.unwrap(), Applied::Repeat);
    assert_eq!(counter(&store, "c").await, Some(1));
}

#[tokio::test]
async fn a_journal_of_another_snapshot_gives_its_keys_only() {
    let (_folder, path) = file();
    let one = batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)]);
    let store = journaled(&path);
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 5)])).await.unwrap();
    store.apply(one.clone()).await.unwrap();
    store.crash();
    std::fs::write(&path, r#"[{"id":"c","type":"counter","delta":100,"source":"a"}]"#).unwrap();
    let store = journaled(&path);
    assert_eq!(counter(&store, "c").await, Some(100));
    assert_eq!(store.apply(one).await.unwrap(), Applied::Repeat);
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
    store.crash();
    assert_eq!(counter(&journaled(&path), "c").await, Some(101));
}

#[tokio::test]
async fn the_journal_is_folded_into_its_snapshot() {
    let (folder, path) = file();
    let config = config(Some(path.clone()), Duration::ZERO, true);
    let store = MemoryStore::open_on(config, Clock::at(NOW), Disk::default(), 10_000).unwrap();
    let journal_bytes = || std::fs::metadata(folder.path().join("metrics-db.json.journal")).map_or(0, |file| file.len());
    let (mut writes, mut before, mut folds) = (0, 0, 0);
    let until = std::time::Instant::now() + Duration::from_mins(1);
    // A fold runs beside the writes, so how many go by meanwhile is the disk's to say.
    while store.memory_metrics().snapshots_written.load(Ordering::Relaxed) <= 3 {
        assert!(std::time::Instant::now() < until, "{writes} writes were never folded");
        // Server-made keys are not remembered, so folding shrinks the journal to nearly nothing.
        let one = batch("a", IdempotencyKey::at(NOW + writes), vec![count("c", 1), gauge("g", 1.0)]);
        store.apply(Batch { keyed: false, ..one }).await.unwrap();
        writes += 1;
        let bytes = journal_bytes();
        if bytes < before {
            // What was written meanwhile stays.
            assert!(before - bytes > 9_500, "from {before} to {bytes} bytes");
            folds += 1;
        }
        before = bytes;
    }
    assert!(folds >= 2, "{folds}");
    store.crash();
    assert_eq!(counter(&journaled(&path), "c").await, Some(i64::try_from(writes).unwrap()));
}

#[tokio::test]
async fn a_file_has_one_store_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let first = journaled(&path);
    let second = MemoryStore::open(config(Some(path.clone()), Duration::ZERO, true), Clock::at(NOW));
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    first.close().await.unwrap();
    journaled(&path).close().await.unwrap();
}
