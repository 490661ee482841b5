//! What reads the files without a server leaves them as they are.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command as Program;

use super::conformance::{counter as count, gauge};
use super::replacing::Mounted;
use super::*;

/// The files in a folder and in the folders there, with their bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

async fn fill(path: &Path) {
    let store = journaled(path);
    for value in 0..3 {
        store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1), gauge("g", f64::from(value))])).await.unwrap();
    }
    store.crash();
}

fn open(path: &Path) -> Arc<MemoryStore> {
    MemoryStore::open_to_read(path, Lifetimes::default(), Clock::at(NOW)).unwrap()
}

#[tokio::test]
async fn a_torn_journal_and_damaged_history_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (path, journal) = (folder.path().join("m.json"), folder.path().join("m.json.journal"));
    fill(&path).await;
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..bytes.len() - 5]).unwrap();
    let history = folder.path().join("m.json.history");
    let index =
        fs::read_dir(&history).unwrap().map(|file| file.unwrap().path()).find(|path| path.to_string_lossy().contains("index-")).unwrap();
    let bytes = fs::read(&index).unwrap();
    fs::write(&index, &bytes[..bytes.len() - 3]).unwrap();
    for between_renames in [false, true] {
        if between_renames {
            fs::rename(&journal, folder.path().join("m.json.journal.tmp")).unwrap();
        }
        let before = contents(folder.path());
        let store = open(&path);
        assert_eq!(counter(&store, "c").await, Some(2));
        assert!(store.memory_metrics().journal_skipped_bytes.load(Ordering::Relaxed) > 0);
        assert!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed) > 0);
        drop(store);
        assert_eq!(contents(folder.path()), before);
    }
    // A server goes on with them.
    let store = journaled(&path);
    assert_eq!(counter(&store, "c").await, Some(2));
    assert!(matches!(MemoryStore::open_to_read(&path, Lifetimes::default(), Clock::at(NOW)), Err(OpenError::InUse { .. })));
}

#[tokio::test]
async fn a_read_only_backup_is_read() {
    for with_lock in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "tmpfs"], folder.path()) else { return };
        let path = folder.path().join("m.json");
        fill(&path).await;
        if !with_lock {
            fs::remove_file(folder.path().join("m.json.lock")).unwrap();
        }
        assert!(Program::new("mount").args(["-o", "remount,ro"]).arg(folder.path()).status().unwrap().success());
        let before = contents(folder.path());
        let store = open(&path);
        assert_eq!(counter(&store, "c").await, Some(3));
        assert_eq!(super::history::read(&store, i64::MIN, i64::MAX).await.len(), 2);
        assert_eq!(contents(folder.path()), before);
    }
}

#[tokio::test]
async fn what_a_longer_retention_took_into_the_journal_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let year = Duration::from_hours(24 * 365);
    let lifetimes = Lifetimes { retention_raw: year, retention_5m: year, ..Lifetimes::default() };
    let store = MemoryStore::open(MemoryConfig { lifetimes, ..config(Some(path.clone()), Duration::ZERO, true) }, Clock::at(NOW)).unwrap();
    let old = NOW - 100 * 24 * 3_600_000;
    let backfilled = conformance::samples::samples("a", &[("g", 1.0, old), ("g", 2.0, NOW)]);
    assert_eq!(store.apply(backfilled).await.unwrap(), Applied::New);
    store.crash();
    let found = super::history::read(&open(&path), i64::MIN, i64::MAX).await;
    let times: Vec<i64> = found[r#"g{instance="a"}"#].iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [old, NOW].map(super::history::millis));
}
