//! A disk that refuses: no write is acknowledged that is not on it, and it recovers by itself.

use std::collections::BTreeSet;
use std::process::Command as Program;
use std::sync::atomic::{AtomicBool, AtomicI64};

use super::super::disk::Op;
use super::conformance::counter as count;
use super::*;

/// A disk that is full while the switch is on.
fn faulty(when: fn(Op) -> bool) -> (Disk, Arc<AtomicBool>) {
    let full = Arc::new(AtomicBool::new(false));
    let switch = full.clone();
    let hook = move |op| if switch.load(Ordering::SeqCst) && when(op) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
    (Disk { hook: Some(Arc::new(hook)) }, full)
}

/// Tries until the store takes writes again.
async fn until_taken(store: &MemoryStore, one: &Batch) -> Applied {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match store.apply(one.clone()).await {
            Ok(applied) => return applied,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_write_that_is_not_on_disk_is_not_acknowledged_by_its_repeat() {
    for when in [|op| op == Op::Write, |op| op == Op::Sync, |op| matches!(op, Op::Write | Op::Cut)] as [fn(Op) -> bool; 3] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let (disk, full) = faulty(when);
        let store =
            MemoryStore::open_on(config(Some(path.clone()), Duration::ZERO, true), Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES).unwrap();
        store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();

        full.store(true, Ordering::SeqCst);
        let failed = batch("a", IdempotencyKey::at(NOW), vec![count("c", 10)]);
        for _ in 0..3 {
            assert!(matches!(store.apply(failed.clone()).await, Err(StoreError::Unavailable(_))));
            assert!(store.ping().await.is_err());
        }
        let refused = batch("b", IdempotencyKey::at(NOW), vec![count("d", 1)]);
        assert!(matches!(store.apply(refused.clone()).await, Err(StoreError::Unavailable(_))));
        assert_eq!(counter(&store, "d").await, None, "refused before it was applied");

        full.store(false, Ordering::SeqCst);
        assert_eq!(until_taken(&store, &failed).await, Applied::Repeat);
        assert_eq!(until_taken(&store, &refused).await, Applied::New);
        store.ping().await.unwrap();
        store.crash();
        let store = journaled(&path);
        assert_eq!((counter(&store, "c").await, counter(&store, "d").await), (Some(11), Some(1)));
        assert_eq!(store.memory_metrics().journal_skipped_bytes.load(Ordering::Relaxed), 0, "what the failed write left was cut off");
        assert_eq!(store.apply(failed).await.unwrap(), Applied::Repeat);
    }
}

#[tokio::test]
async fn a_failed_write_that_dies_with_the_process_is_new_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let (disk, full) = faulty(|op| op != Op::Create);
    let store =
        MemoryStore::open_on(config(Some(path.clone()), Duration::ZERO, true), Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES).unwrap();
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
    full.store(true, Ordering::SeqCst);
    let failed = batch("a", IdempotencyKey::at(NOW), vec![count("c", 10)]);
    store.apply(failed.clone()).await.unwrap_err();
    store.crash();
    let store = journaled(&path);
    assert_eq!(counter(&store, "c").await, Some(1));
    assert_eq!(store.apply(failed).await.unwrap(), Applied::New);
}

#[tokio::test]
async fn a_failed_snapshot_leaves_the_last_one_and_is_tried_again() {
    for when in [|op| op == Op::Write, |op| op == Op::Sync, |op| op == Op::Rename, |op| op == Op::Create] as [fn(Op) -> bool; 4] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let (disk, full) = faulty(when);
        let store =
            MemoryStore::open_on(config(Some(path.clone()), Duration::from_hours(1), true), Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES)
                .unwrap();
        store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
        store.save_now().await.unwrap();
        let last = std::fs::read(&path).unwrap();
        full.store(true, Ordering::SeqCst);
        store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
        store.save_now().await.unwrap_err();
        assert_eq!(store.memory_metrics().snapshot_failures.load(Ordering::Relaxed), 1);
        assert_eq!(std::fs::read(&path).unwrap(), last);
        store.ping().await.expect("memory takes writes");
        full.store(false, Ordering::SeqCst);
        store.close().await.unwrap();
        assert_eq!(counter(&saved(&path), "c").await, Some(2));
    }
}

#[tokio::test]
async fn for_how_long_writes_are_not_saved_is_told() {
    let one = |delta: i64| batch("a", IdempotencyKey::at(NOW), vec![count("c", delta)]);
    let pause = || tokio::time::sleep(Duration::from_millis(5));
    for interval in [Duration::from_hours(1), Duration::ZERO] {
        let folder = tempfile::tempdir().unwrap();
        let (disk, full) = faulty(|op| matches!(op, Op::Create | Op::Sync));
        let config = config(Some(folder.path().join("m.json")), interval, true);
        let store = MemoryStore::open_on(config, Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES).unwrap();
        assert_eq!(store.unsaved_for(), Some(Duration::ZERO));
        store.apply(one(1)).await.unwrap();
        store.save_now().await.unwrap();
        assert_eq!(store.unsaved_for(), Some(Duration::ZERO));
        full.store(true, Ordering::SeqCst);
        let answer = store.apply(one(2)).await;
        assert_eq!(answer.is_err(), interval.is_zero(), "{answer:?}");
        let mut before = Duration::ZERO;
        for _ in 0..3 {
            store.save_now().await.unwrap_err();
            pause().await;
            let now = store.metrics().unsaved_for.unwrap();
            assert!(now >= before + Duration::from_millis(5), "{now:?} after {before:?}");
            before = now;
        }
        full.store(false, Ordering::SeqCst);
        until_taken(&store, &one(4)).await;
        store.save_now().await.unwrap();
        assert_eq!(store.unsaved_for(), Some(Duration::ZERO));
    }
    let without_files = MemoryStore::open(config(None, Duration::ZERO, false), Clock::at(NOW)).unwrap();
    assert_eq!(without_files.unsaved_for(), None);
}

/// Time stands still here but where nothing else is under way: whoever waits for a limited time gives up at once.
#[tokio::test(start_paused = true)]
async fn the_end_waits_for_the_last_save_as_long_as_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let hook = |op: Op| -> io::Result<()> {
        if op == Op::Sync {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let disk = Disk { hook: Some(Arc::new(hook)) };
    let config = config(Some(path.clone()), Duration::from_hours(1), true);
    let store = MemoryStore::open_on(config, Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES).unwrap();
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(counter(&saved(&path), "c").await, Some(1));
}

/// The names of the files in a folder and in the folders there.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            all.extend(names(&path));
        } else {
            all.insert(path);
        }
    }
    all
}

/// A disk that does one thing only so many times, as long as it is told to count.
fn limited(what: Op) -> (Disk, Arc<AtomicI64>) {
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let counted = left.clone();
    let hook = move |op: Op| {
        let fails = op == what && counted.fetch_sub(1, Ordering::SeqCst) <= 0;
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    };
    (Disk { hook: Some(Arc::new(hook)) }, left)
}

/// A store with a saved write, on such a disk.
async fn saved_on_limited(path: &Path, what: Op) -> (Arc<MemoryStore>, Arc<AtomicI64>) {
    let (disk, left) = limited(what);
    let config = config(Some(path.to_owned()), Duration::from_hours(1), true);
    let store = MemoryStore::open_on(config, Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES).unwrap();
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
    store.save_now().await.unwrap();
    (store, left)
}

#[tokio::test]
async fn a_save_that_finds_no_room_leaves_no_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let (store, left) = saved_on_limited(&path, Op::Write).await;
    let mut failures = 0;
    for writes in 0.. {
        store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
        let before = names(folder.path());
        left.store(writes, Ordering::SeqCst);
        let saved = store.save_now().await;
        left.store(i64::MAX, Ordering::SeqCst);
        if saved.is_ok() {
            break;
        }
        assert_eq!(names(folder.path()), before, "after {writes} writes");
        failures += 1;
    }
    assert!(failures >= 4, "{failures}: the snapshot, the journal, the segment and the index are written");
    store.crash();
    let store = saved(&path);
    assert_eq!(counter(&store, "c").await, Some(failures + 2));
    assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_save_whose_snapshot_can_not_be_renamed_leaves_nothing_that_is_not_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let (store, left) = saved_on_limited(&path, Op::Rename).await;
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
    let before = names(folder.path());
    for _ in 0..3 {
        // The index is renamed, and the snapshot is not.
        left.store(1, Ordering::SeqCst);
        store.save_now().await.unwrap_err();
        left.store(i64::MAX, Ordering::SeqCst);
        let new: Vec<PathBuf> = names(folder.path()).difference(&before).cloned().collect();
        assert!(new.len() <= 1, "the segment, which has parts that are not written again: {new:?}");
        assert!(new.iter().all(|path| path.to_string_lossy().contains("segment-")), "{new:?}");
    }
    store.save_now().await.unwrap();
    store.crash();
    let store = saved(&path);
    assert_eq!(counter(&store, "c").await, Some(2));
    assert_eq!(super::history::read(&store, i64::MIN, i64::MAX).await.len(), 1);
    assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
}

/// A mounted file system that is taken away at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may not mount; with CI=true that fails the run.
    fn mount(bytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Program::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(folder.path()).output();
        if mounted.as_ref().is_ok_and(|out| out.status.success()) {
            return Some(Self(folder));
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "a small tmpfs can't be mounted: {mounted:?}");
        println!("skipped: mounting a small tmpfs needs root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Program::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_really_full_disk_loses_and_doubles_nothing() {
    let Some(disk) = SmallDisk::mount(160 * 1024) else { return };
    let path = disk.0.path().join("m.json");
    let ballast = disk.0.path().join("ballast");
    let store = journaled(&path);
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("first", 1)])).await.unwrap();
    std::fs::write(&ballast, vec![0; 64 * 1024]).unwrap();
    let batches: Vec<_> =
        (0..2000).map(|i| batch("a", IdempotencyKey::at(NOW - i), vec![count("c", 1), count(&format!("c{}", i % 7), 1)])).collect();
    let mut acknowledged = 0;
    for one in &batches {
        match store.apply(one.clone()).await {
            Ok(_) => acknowledged += 1,
            Err(StoreError::Unavailable(_)) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!((100..2000).contains(&acknowledged), "the disk fills up: {acknowledged}");
    let tried = &batches[acknowledged];
    for _ in 0..5 {
        store.apply(tried.clone()).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.ping().await.unwrap_err();
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(until_taken(&store, tried).await, Applied::Repeat);
    store.apply(batches[acknowledged + 1].clone()).await.unwrap();
    store.crash();
    let store = journaled(&path);
    assert_eq!(counter(&store, "c").await, Some(i64::try_from(acknowledged).unwrap() + 2));
    for one in &batches[..acknowledged + 2] {
        assert_eq!(store.apply(one.clone()).await.unwrap(), Applied::Repeat);
    }
}
