//! History's files: what a start finds, whatever happened to them, and which of them stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI64};

use super::super::disk::{Op, Paths};
use super::super::{framing, load};
use super::conformance::{counter as count, gauge};
use super::history::{millis, read};
use super::*;

const HOUR: u64 = 3_600_000;

fn open(path: &Path, interval: Duration, restore: bool, clock: &Clock, max_bytes: usize) -> Arc<MemoryStore> {
    open_on(Disk::default(), path, interval, restore, clock, max_bytes)
}

fn open_on(disk: Disk, path: &Path, interval: Duration, restore: bool, clock: &Clock, max_bytes: usize) -> Arc<MemoryStore> {
    let month = Duration::from_hours(30 * 24);
    let lifetimes = Lifetimes { retention_raw: month, retention_5m: month, retention_1h: month, ..Lifetimes::default() };
    let config = MemoryConfig { lifetimes, history_max_bytes: max_bytes, ..config(Some(path.into()), interval, restore) };
    MemoryStore::open_on(config, clock.clone(), disk, FOLD_JOURNAL_AT_BYTES).unwrap()
}

const MAX_BYTES: usize = 64 << 20;

async fn put(store: &MemoryStore, source: &str, at: u64, value: f64) {
    let one = batch(source, IdempotencyKey::at(at), vec![gauge("g{a=\"1\"}", value), count("c", 1), gauge("h", value / 3.0)]);
    store.apply(one).await.unwrap();
}

/// A day of two sources, sealed and not, with late samples.
async fn fill(store: &MemoryStore, now: u64) {
    for hours in (0..24).rev() {
        for source in ["a", "b"] {
            put(store, source, now - hours * HOUR, f64::from(u32::try_from(hours).unwrap())).await;
        }
        if hours == 12 {
            store.keeper.maintain_all();
        }
    }
    put(store, "a", now - 20 * HOUR - 5, -1.0).await;
    store.keeper.maintain();
    put(store, "a", now - 1, 0.1).await;
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

/// The files with their content, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    names(folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    names(folder).into_iter().filter(|name| name.starts_with("segment-")).map(|name| folder.join(name)).collect()
}

#[tokio::test]
async fn the_next_start_shows_yesterday() {
    for interval in [Duration::ZERO, Duration::from_hours(1)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let clock = Clock::at(NOW);
        let store = open(&path, interval, true, &clock, MAX_BYTES);
        fill(&store, NOW).await;
        let before = read(&store, i64::MIN, i64::MAX).await;
        assert_eq!(before.len(), 6);
        store.close().await.unwrap();
        for _ in 0..2 {
            let store = open(&path, interval, true, &clock, MAX_BYTES);
            let mut found = read(&store, i64::MIN, i64::MAX).await;
            found.retain(|labels, _| !labels.contains(r#"instance="c""#));
            assert_eq!(found, before);
            assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
            // Numbers and totals go on.
            put(&store, "c", NOW - 2, 5.0).await;
            put(&store, "c", NOW - 2, 5.0).await;
            store.crash();
        }
    }
}

#[tokio::test]
async fn the_unsealed_tail_outlives_a_crash_where_every_write_is_journaled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    let mut expected = Vec::new();
    for round in 0..12 {
        let store = open(&path, Duration::ZERO, true, &clock, MAX_BYTES);
        let found = read(&store, i64::MIN, i64::MAX).await;
        assert_eq!(found.get(r#"c{instance="a"}"#).cloned().unwrap_or_default(), expected, "round {round}");
        put(&store, "a", NOW - 100 + round, 1.0).await;
        if round % 4 == 1 {
            store.save_now().await.unwrap();
            put(&store, "a", NOW - 50 + round, 1.0).await;
        }
        expected = read(&store, i64::MIN, i64::MAX).await.remove(r#"c{instance="a"}"#).unwrap();
        let total = f64::from_bits(expected.last().unwrap().1);
        assert_eq!(total.to_bits(), f64::from(u32::try_from(expected.len()).unwrap()).to_bits(), "each counted once");
        store.crash();
    }
    assert_eq!(expected.len(), 15);
}

#[tokio::test]
async fn between_saves_a_crash_forgets_history_as_it_forgets_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    store.save_now().await.unwrap();
    let saved = read(&store, i64::MIN, i64::MAX).await;
    put(&store, "a", NOW, 9.0).await;
    store.keeper.maintain_all();
    assert_ne!(read(&store, i64::MIN, i64::MAX).await, saved);
    store.crash();
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    assert_eq!(read(&store, i64::MIN, i64::MAX).await, saved);
}

#[tokio::test]
async fn a_torn_segment_is_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    let whole = read(&store, i64::MIN, i64::MAX).await;
    store.close().await.unwrap();
    let [samples, five_minutes, hours] = segments(&folder.path().join("m.json.history")).try_into().unwrap();
    for (takes_samples, segment, damage) in [
        // Rollups are made again.
        (false, &hours, &mut (|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 5)) as &mut dyn FnMut(&mut Vec<u8>)),
        (true, &samples, &mut |bytes| bytes[40] ^= 1),
        (true, &samples, &mut |bytes| bytes.truncate(bytes.len() / 2)),
        (true, &samples, &mut Vec::clear),
    ] {
        let bytes = fs::read(segment).unwrap();
        let mut damaged = bytes.clone();
        damage(&mut damaged);
        fs::write(segment, &damaged).unwrap();
        let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
        let skipped = store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed);
        assert!((1..=bytes.len() as u64).contains(&skipped), "{skipped} of {}", bytes.len());
        // Where rollups are left of samples that are gone, those are asked for by their own time.
        let found = read(&store, store.shards.history.raw_from_ms(), i64::MAX).await;
        assert_eq!(found != whole, takes_samples);
        for (labels, samples) in found.iter().filter(|(labels, _)| !labels.starts_with("c{")) {
            assert!(samples.iter().all(|sample| whole[labels].contains(sample)), "what is read is right: {labels}");
        }
        // It goes on, and the newest state is untouched.
        assert_eq!(counter(&store, "c").await, Some(50));
        put(&store, "a", NOW, 1.0).await;
        store.crash();
        fs::write(segment, &bytes).unwrap();
    }
    for segment in [samples, five_minutes, hours] {
        fs::remove_file(segment).unwrap();
    }
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    assert!(read(&store, i64::MIN, i64::MAX).await.is_empty());
}

#[tokio::test]
async fn a_damaged_index_is_read_up_to_the_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    let whole = read(&store, i64::MIN, i64::MAX).await;
    store.close().await.unwrap();
    let history = folder.path().join("m.json.history");
    let index = names(&history).into_iter().find(|name| name.starts_with("index-")).map(|name| history.join(name)).unwrap();
    let bytes = fs::read(&index).unwrap();
    let mut found_some = 0;
    for cut in (0..bytes.len()).step_by(7) {
        for flipped in [false, true] {
            let mut damaged = bytes.clone();
            if flipped {
                damaged[cut] ^= 0x10;
            } else {
                damaged.truncate(cut);
            }
            fs::write(&index, &damaged).unwrap();
            let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
            let skipped = store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed);
            assert!(skipped > 0 || !flipped, "byte {cut}");
            let found = read(&store, i64::MIN, i64::MAX).await;
            assert!(found.iter().all(|(labels, samples)| whole[labels] == *samples), "byte {cut}");
            found_some += usize::from(!found.is_empty() && found.len() < whole.len());
            store.crash();
        }
    }
    assert!(found_some > 0, "one source is read where the other is damaged");
}

#[tokio::test]
async fn damaged_files_are_kept_before_the_next_save_removes_what_was_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let (history, damaged) = (folder.path().join("m.json.history"), folder.path().join("m.json.history.damaged"));
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    store.close().await.unwrap();
    let index_of = |folder: &Path| names(folder).into_iter().find(|name| name.starts_with("index-")).unwrap();
    let index = index_of(&history);
    let mut bytes = fs::read(history.join(&index)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(history.join(&index), &bytes).unwrap();
    let before = files(&history);
    assert!(!damaged.exists());

    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    assert!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed) > 0);
    put(&store, "a", NOW, 1.0).await;
    store.close().await.unwrap();
    assert_ne!(names(&history), before.keys().cloned().collect::<BTreeSet<_>>());
    assert_eq!(files(&damaged), before);

    // What was kept first is not replaced.
    let index = history.join(index_of(&history));
    let length = fs::metadata(&index).unwrap().len();
    fs::File::options().write(true).open(&index).unwrap().set_len(length - 3).unwrap();
    open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES).crash();
    assert_eq!(files(&damaged), before);
}

#[tokio::test]
async fn a_full_disk_keeps_no_server_down_whose_history_is_damaged() {
    for refused in [None, Some(Op::CreateFolder), Some(Op::Link)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let (history, damaged) = (folder.path().join("m.json.history"), folder.path().join("m.json.history.damaged"));
        let clock = Clock::at(NOW);
        let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
        fill(&store, NOW).await;
        store.close().await.unwrap();
        // The first is that of samples.
        let segment = segments(&history).remove(0);
        let mut bytes = fs::read(&segment).unwrap();
        bytes[40] ^= 1;
        fs::write(&segment, &bytes).unwrap();
        let before = files(&history);

        let full = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&full);
        let hook = move |op: Op| {
            let is_full = switch.load(Ordering::SeqCst);
            let fails = matches!(op, Op::Create | Op::CreateFolder) && is_full || Some(op) == refused;
            if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        let store = open_on(Disk { hook: Some(Arc::new(hook)) }, &path, Duration::from_hours(1), true, &clock, MAX_BYTES);
        let damaged_files = |store: &MemoryStore| store.memory_metrics().history_damaged_files.load(Ordering::Relaxed);
        assert!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed) > 0);
        assert_eq!(damaged_files(&store), before.len() as u64);
        let undamaged = read(&store, store.shards.history.raw_from_ms(), i64::MAX).await;
        assert!(undamaged.values().any(|samples| samples.len() > 10), "{undamaged:?}");
        put(&store, "a", NOW - 7, 1.0).await;
        store.save_now().await.unwrap_err();
        assert_eq!(files(&history), before);

        full.store(false, Ordering::SeqCst);
        store.save_now().await.unwrap();
        let has_links = refused != Some(Op::Link);
        let are_renamed = || {
            let kept = files(&history);
            for (name, bytes) in &before {
                let kept_here = kept.get(&format!("damaged-{name}")).or_else(|| kept.get(name).filter(|_| !has_links));
                assert!(kept_here == Some(bytes), "{name} in {:?}", names(&history));
            }
        };
        if refused.is_some() {
            // Without links nothing is copied: that would keep the journal waiting.
            assert!(!damaged.exists());
            are_renamed();
            assert_eq!(damaged_files(&store), before.len() as u64);
        } else {
            assert_eq!(files(&damaged), before);
            assert_eq!(damaged_files(&store), 0);
        }
        store.close().await.unwrap();
        let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
        assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
        let found = read(&store, store.shards.history.raw_from_ms(), i64::MAX).await;
        for (labels, samples) in undamaged.iter().filter(|(labels, _)| !labels.starts_with("c{")) {
            assert!(samples.iter().all(|sample| found[labels].contains(sample)), "what is not damaged stays: {labels}");
        }
        if refused.is_some() && has_links {
            // This start does not know that they are damaged, and they stay when they are not needed any more.
            clock.set(NOW + 100 * 24 * HOUR);
            store.keeper.maintain();
            put(&store, "a", NOW + 100 * 24 * HOUR, 1.0).await;
            store.save_now().await.unwrap();
            assert!(!segment.exists());
            are_renamed();
        }
    }
}

#[tokio::test]
async fn totals_go_on_after_a_time_without_history() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    for (max_bytes, at, delta) in [(MAX_BYTES, NOW - 3, 5), (0, NOW - 2, 30), (MAX_BYTES, NOW - 1, 100)] {
        let store = open(&path, Duration::from_hours(1), true, &clock, max_bytes);
        store.apply(batch("a", IdempotencyKey::at(at), vec![count("c", delta)])).await.unwrap();
        if delta == 100 {
            let total = read(&store, i64::MIN, i64::MAX).await[r#"c{instance="a"}"#].last().unwrap().1;
            assert_eq!(total, 135.0_f64.to_bits());
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn files_that_nothing_needs_any_more_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let history = folder.path().join("m.json.history");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    for hours in 0..60 {
        let now = NOW + hours * HOUR;
        clock.set(now);
        put(&store, "a", now, 1.0).await;
        store.save_now().await.unwrap();
        store.keeper.maintain();
    }
    store.save_now().await.unwrap();
    // A save an hour, and two of them make one part by being folded. Rollups have a segment a day and resolution.
    assert!(segments(&history).len() <= 42, "{:?}", names(&history));
    let indexes = names(&history).into_iter().filter(|name| name.starts_with("index")).count();
    assert_eq!(indexes, 1);
    // What is dropped leaves the files with the next save.
    clock.set(NOW + 100 * 24 * HOUR);
    store.keeper.maintain();
    store.close().await.unwrap();
    assert!(segments(&history).is_empty(), "{:?}", names(&history));
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    assert!(read(&store, i64::MIN, i64::MAX).await.is_empty());
}

/// A store that keeps samples for a day, rollups of 5 minutes for two, and those of an hour.
fn open_short(disk: Disk, path: &Path, clock: &Clock) -> Arc<MemoryStore> {
    let days = |days: u64| Duration::from_hours(24 * days);
    let lifetimes = Lifetimes { retention_raw: days(1), retention_5m: days(2), retention_1h: days(400), ..Lifetimes::default() };
    let config = MemoryConfig { lifetimes, history_max_bytes: MAX_BYTES, ..config(Some(path.into()), Duration::from_hours(1), true) };
    MemoryStore::open_on(config, clock.clone(), disk, FOLD_JOURNAL_AT_BYTES).unwrap()
}

/// A window of samples of a source that always reports, and in the first half of each day of one that does not.
async fn fill_window(store: &MemoryStore, clock: &Clock, window: u64) {
    let start = NOW / (24 * HOUR) * 24 * HOUR + window * 2 * HOUR;
    for minutes in (0..120).step_by(4) {
        let at = start + minutes * 60_000;
        clock.set(at);
        for source in if window % 12 < 6 { &["a", "b"][..] } else { &["a"] } {
            let value = |number: u64| f64::from(u32::try_from((at / 1000 + number).wrapping_mul(6_364_136_223_846_793_005) >> 40).unwrap());
            let values = (0..10).map(|number| gauge(&format!("m{{number=\"{number}\"}}"), value(number))).collect();
            store.apply(Batch { keyed: false, ..batch(source, IdempotencyKey::at(at), values) }).await.unwrap();
        }
    }
    store.keeper.maintain();
}

/// What the files in a folder take.
fn bytes_of(folder: &Path) -> usize {
    files(folder).values().map(Vec::len).sum()
}

#[tokio::test]
async fn files_take_little_more_than_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let history = folder.path().join("m.json.history");
    let clock = Clock::at(NOW);
    let store = open_short(Disk::default(), &path, &clock);
    for window in 0..30 * 12 {
        fill_window(&store, &clock, window).await;
        store.save_now().await.unwrap();
    }
    let (on_disk, in_memory) = (bytes_of(&history), store.shards.history.used_bytes());
    assert!(on_disk <= 3 * in_memory, "{on_disk} bytes on disk for {in_memory}");
    let of_rollups = store.shards.history.rollup_bytes();
    store.crash();
    let store = open_short(Disk::default(), &path, &clock);
    assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(store.shards.history.rollup_bytes(), of_rollups);
}

/// Makes one segment of all, as versions wrote them that put everything of a save into one.
fn mix_segments(history: &Path) -> PathBuf {
    let paths = segments(history);
    let number = |path: &Path| path.to_str().unwrap().rsplit('-').next().unwrap().parse::<u32>().unwrap();
    let first = number(&paths[0]);
    let (mut mixed, mut begins) = (Vec::new(), BTreeMap::new());
    for path in &paths {
        begins.insert(number(path), mixed.len() as u64);
        mixed.extend(fs::read(path).unwrap());
        fs::remove_file(path).unwrap();
    }
    fs::write(&paths[0], mixed).unwrap();
    let index = names(history).into_iter().find(|name| name.starts_with("index-")).map(|name| history.join(name)).unwrap();
    let (mut bytes, mut at) = (fs::read(&index).unwrap(), 0);
    while at < bytes.len() {
        let length = usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
        let payload = &mut bytes[at + 8..at + 8 + length];
        // Before a place stand the window of a part, or the day and the resolution of rollups.
        let before = match payload[0] {
            3 => 8,
            5 => 9,
            _ => 0,
        };
        if before > 0 {
            let name = usize::from(payload[1]);
            for one in payload[2 + name..].chunks_mut(before + 16) {
                let place = &mut one[before..];
                let segment = u32::from_le_bytes(place[..4].try_into().unwrap());
                let offset = u64::from_le_bytes(place[4..12].try_into().unwrap()) + begins[&segment];
                place[..4].copy_from_slice(&first.to_le_bytes());
                place[4..12].copy_from_slice(&offset.to_le_bytes());
            }
            let sum = framing::sum(payload);
            bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        at += 8 + length;
    }
    fs::write(&index, bytes).unwrap();
    paths[0].clone()
}

/// Files with one segment, of which only rollups of an hour are still needed at the time that the clock has then.
async fn mixed(path: &Path, clock: &Clock) -> PathBuf {
    let store = open_short(Disk::default(), path, clock);
    for window in 0..2 * 12 {
        fill_window(&store, clock, window).await;
    }
    store.close().await.unwrap();
    let segment = mix_segments(&path.with_file_name("m.json.history"));
    clock.set(clock.unix_millis() + 10 * 24 * HOUR);
    segment
}

#[tokio::test]
async fn what_is_left_of_a_segment_is_written_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let history = folder.path().join("m.json.history");
    let clock = Clock::at(NOW);
    let segment = mixed(&path, &clock).await;
    let before = bytes_of(&history);
    let store = open_short(Disk::default(), &path, &clock);
    assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
    let of_rollups = store.shards.history.rollup_bytes();
    assert!(of_rollups > 0);
    put(&store, "c", clock.unix_millis(), 1.0).await;
    store.save_now().await.unwrap();
    assert!(!segment.exists(), "{:?}", names(&history));
    let after = bytes_of(&history);
    assert!(after < before / 2, "{after} of {before}");
    store.crash();
    let store = open_short(Disk::default(), &path, &clock);
    assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(store.shards.history.rollup_bytes(), of_rollups);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_save_that_fails_while_it_writes_something_once_more_loses_nothing() {
    const FAILED: i64 = i64::MIN;
    let home = tempfile::tempdir().unwrap();
    let live = home.path().join("live");
    fs::create_dir(&live).unwrap();
    let clock = Clock::at(NOW);
    mixed(&live.join("m.json"), &clock).await;
    let of_rollups = open_short(Disk::default(), &live.join("m.json"), &clock).shards.history.rollup_bytes();
    let check = |folder: &Path, what: &str| {
        let store = open_short(Disk::default(), &folder.join("m.json"), &clock);
        assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0, "{what}");
        assert_eq!(store.shards.history.rollup_bytes(), of_rollups, "{what}");
        assert!(!folder.join("m.json.history.damaged").exists(), "{what}");
        store.crash();
    };
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncFolder] {
        for many in 0.. {
            let what = format!("after {many} times {op:?}");
            let folder = home.path().join(format!("{op:?}-{many}"));
            copy_folder(&live, &folder);
            let left = Arc::new(AtomicI64::new(i64::MAX));
            let counted = Arc::clone(&left);
            // Once it has failed everything fails, or the save would be tried again while its files are copied.
            let hook = move |one: Op| -> io::Result<()> {
                if one == op && counted.load(Ordering::SeqCst) != FAILED && counted.fetch_sub(1, Ordering::SeqCst) <= 0 {
                    counted.store(FAILED, Ordering::SeqCst);
                }
                if counted.load(Ordering::SeqCst) == FAILED { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            };
            let store = open_short(Disk { hook: Some(Arc::new(hook)) }, &folder.join("m.json"), &clock);
            put(&store, "c", clock.unix_millis(), 1.0).await;
            left.store(many, Ordering::SeqCst);
            let saved = store.save_now().await;
            // As if the process had died here.
            let image = home.path().join(format!("{op:?}-{many}-image"));
            copy_folder(&folder, &image);
            left.store(i64::MAX, Ordering::SeqCst);
            check(&image, &what);
            if saved.is_ok() {
                assert!(many > 0, "{op:?} is needed for a save");
                store.crash();
                break;
            }
            put(&store, "c", clock.unix_millis() + 1, 1.0).await;
            store.save_now().await.unwrap();
            store.crash();
            check(&folder, &what);
        }
    }
}

#[tokio::test]
async fn without_restore_history_starts_empty_and_its_files_stay_until_the_first_save() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let history = folder.path().join("m.json.history");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    let before = read(&store, i64::MIN, i64::MAX).await;
    store.close().await.unwrap();
    let files = names(&history);

    let store = open(&path, Duration::from_hours(1), false, &clock, MAX_BYTES);
    assert!(read(&store, i64::MIN, i64::MAX).await.is_empty());
    put(&store, "x", NOW, 1.0).await;
    store.crash();
    assert_eq!(names(&history), files);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    assert_eq!(read(&store, i64::MIN, i64::MAX).await, before);
    store.crash();

    let store = open(&path, Duration::from_hours(1), false, &clock, MAX_BYTES);
    put(&store, "x", NOW, 1.0).await;
    store.close().await.unwrap();
    assert!(names(&history).is_disjoint(&files), "{:?}", names(&history));
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    assert_eq!(read(&store, i64::MIN, i64::MAX).await.len(), 3);
}

#[tokio::test]
async fn history_stays_where_the_snapshot_was_edited() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::ZERO, true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    let before = read(&store, i64::MIN, i64::MAX).await;
    store.close().await.unwrap();
    fs::write(&path, "[]\n").unwrap();
    let store = open(&path, Duration::ZERO, true, &clock, MAX_BYTES);
    assert_eq!(read(&store, i64::MIN, i64::MAX).await, before);
}

/// How much the counters of history rise from sample to sample, and the other series as they are.
fn rises(found: &BTreeMap<String, Vec<(i64, u64)>>) -> BTreeMap<String, Vec<(i64, u64)>> {
    let rise = |samples: &[(i64, u64)]| -> Vec<(i64, u64)> {
        samples.windows(2).map(|two| (two[1].0, (f64::from_bits(two[1].1) - f64::from_bits(two[0].1)).to_bits())).collect()
    };
    found.iter().map(|(labels, samples)| (labels.clone(), if labels.starts_with("c{") { rise(samples) } else { samples.clone() })).collect()
}

#[tokio::test]
async fn a_copy_of_the_files_that_a_save_was_replacing_has_the_history() {
    // The snapshot file is the one before the save, and the history the one after it.
    for interval in [Duration::ZERO, Duration::from_hours(1)] {
        for journal in ["before", "after", "none"] {
            let what = format!("{interval:?}, the journal {journal}");
            let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (path, copy) = (folder.path().join("m.json"), copies.path().join("m.json"));
            let journal_copy = copies.path().join("m.json.journal");
            let clock = Clock::at(NOW);
            let store = open(&path, interval, true, &clock, MAX_BYTES);
            fill(&store, NOW).await;
            store.save_now().await.unwrap();
            fs::copy(&path, &copy).unwrap();
            put(&store, "a", NOW - 7, 2.0).await;
            if journal == "before" {
                fs::copy(folder.path().join("m.json.journal"), &journal_copy).unwrap();
            }
            put(&store, "a", NOW - 5, 3.0).await;
            store.save_now().await.unwrap();
            if journal == "after" {
                fs::copy(folder.path().join("m.json.journal"), &journal_copy).unwrap();
            }
            copy_folder(&folder.path().join("m.json.history"), &copies.path().join("m.json.history"));
            let whole = read(&store, i64::MIN, i64::MAX).await;
            store.crash();

            let store = open(&copy, interval, true, &clock, MAX_BYTES);
            assert_eq!(rises(&read(&store, i64::MIN, i64::MAX).await), rises(&whole), "{what}");
            // Totals go on from those of the snapshot and the journal.
            put(&store, "a", NOW - 1, 4.0).await;
            let found = read(&store, i64::MIN, i64::MAX).await;
            let last = |source: &str| f64::from_bits(found[&format!(r#"c{{instance="{source}"}}"#)].last().unwrap().1).to_string();
            let total: i64 = [last("a"), last("b")].iter().map(|total| total.parse::<i64>().unwrap()).sum();
            assert_eq!(Some(total), counter(&store, "c").await, "{what}");
            if interval.is_zero() {
                store.crash();
            } else {
                store.close().await.unwrap();
            }
            let store = open(&copy, interval, true, &clock, MAX_BYTES);
            assert_eq!(read(&store, i64::MIN, i64::MAX).await, found, "{what}");
            assert!(!copies.path().join("m.json.history.damaged").exists(), "{what}");
        }
    }
}

#[tokio::test]
async fn a_crash_in_the_first_save_with_history_loses_none_of_the_journal() {
    for had_history in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let live = home.path().join("live");
        fs::create_dir(&live).unwrap();
        let path = live.join("m.json");
        let clock = Clock::at(NOW);
        if had_history {
            let store = open(&path, Duration::ZERO, true, &clock, MAX_BYTES);
            fill(&store, NOW - HOUR).await;
            store.close().await.unwrap();
        }
        let store = open(&path, Duration::ZERO, true, &clock, 0);
        put(&store, "a", NOW - 100, 1.0).await;
        store.close().await.unwrap();
        let before = fs::read(&path).unwrap();

        // Before each touch of the disk the folder is copied as it stands.
        let (is_saving, images) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let (switch, made, images_in, of) = (Arc::clone(&is_saving), Arc::clone(&images), home.path().to_owned(), live.clone());
        let hook = move |op: Op| -> io::Result<()> {
            if switch.load(Ordering::SeqCst) {
                copy_folder(&of, &images_in.join(format!("{}-{op:?}", made.fetch_add(1, Ordering::SeqCst))));
            }
            Ok(())
        };
        let store = open_on(Disk { hook: Some(Arc::new(hook)) }, &path, Duration::ZERO, true, &clock, MAX_BYTES);
        put(&store, "a", NOW - 50, 2.0).await;
        put(&store, "a", NOW - 40, 3.0).await;
        let expected = read(&store, i64::MIN, i64::MAX).await;
        assert!(!expected.is_empty());
        is_saving.store(true, Ordering::SeqCst);
        store.save_now().await.unwrap();
        is_saving.store(false, Ordering::SeqCst);
        store.crash();
        assert!(images.load(Ordering::SeqCst) > 10);

        for image in names(home.path()).into_iter().filter(|name| name != "live") {
            let (what, folder) = (format!("before {image}, had history: {had_history}"), home.path().join(&image));
            let path = folder.join("m.json");
            if fs::read(&path).unwrap() == before {
                // As the next save leaves it that is ended as soon as it begins.
                fs::write(folder.join("m.json.journal.tmp"), "").unwrap();
            }
            let mut expected = expected.clone();
            for round in 0..3 {
                let store = open(&path, Duration::ZERO, true, &clock, MAX_BYTES);
                assert_eq!(read(&store, i64::MIN, i64::MAX).await, expected, "{what}, round {round}");
                assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), 0, "{what}, round {round}");
                put(&store, "a", NOW - 30 + round, 4.0).await;
                expected = read(&store, i64::MIN, i64::MAX).await;
                store.crash();
            }
            assert!(!folder.join("m.json.history.damaged").exists(), "{what}");
        }
    }
}

#[tokio::test]
async fn an_index_that_may_not_be_on_disk_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let history = folder.path().join("m.json.history");
    let clock = Clock::at(NOW);
    let fails = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&fails);
    let hook =
        move |op: Op| if op == Op::SyncFolder && switch.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
    let store = open_on(Disk { hook: Some(Arc::new(hook)) }, &path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    store.save_now().await.unwrap();
    let before = names(&history);
    put(&store, "a", NOW - 7, 1.0).await;
    fails.store(true, Ordering::SeqCst);
    store.save_now().await.unwrap_err();
    assert_eq!(names(&history), before);
    fails.store(false, Ordering::SeqCst);
    store.save_now().await.unwrap();
    let whole = read(&store, i64::MIN, i64::MAX).await;
    store.crash();
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    assert_eq!(read(&store, i64::MIN, i64::MAX).await, whole);
}

#[tokio::test]
async fn segments_that_no_index_names_are_kept_before_the_next_save_removes_them() {
    for is_full in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let (history, damaged) = (folder.path().join("m.json.history"), folder.path().join("m.json.history.damaged"));
        let clock = Clock::at(NOW);
        let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
        fill(&store, NOW).await;
        store.close().await.unwrap();
        for index in names(&history).into_iter().filter(|name| name.starts_with("index-")) {
            fs::remove_file(history.join(index)).unwrap();
        }
        let before = files(&history);
        assert!(!before.is_empty());
        let full = Arc::new(AtomicBool::new(is_full));
        let switch = Arc::clone(&full);
        let hook = move |op: Op| {
            let fails = op == Op::CreateFolder && switch.load(Ordering::SeqCst);
            if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        let store = open_on(Disk { hook: Some(Arc::new(hook)) }, &path, Duration::from_hours(1), true, &clock, MAX_BYTES);
        full.store(false, Ordering::SeqCst);
        assert!(read(&store, i64::MIN, i64::MAX).await.is_empty());
        assert_eq!(store.memory_metrics().history_skipped_bytes.load(Ordering::Relaxed), bytes_of(&history) as u64);
        put(&store, "a", NOW, 1.0).await;
        store.close().await.unwrap();
        assert!(names(&history).is_disjoint(&before.keys().cloned().collect::<BTreeSet<_>>()), "{:?}", names(&history));
        if is_full {
            let kept = files(&history);
            assert!(before.iter().all(|(name, bytes)| kept.get(&format!("damaged-{name}")) == Some(bytes)), "{:?}", names(&history));
        } else {
            assert_eq!(files(&damaged), before);
        }
    }
}

#[tokio::test]
async fn a_start_with_less_memory_drops_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    fill(&store, NOW).await;
    let used = store.shards.history.used_bytes();
    store.close().await.unwrap();
    let store = open(&path, Duration::from_hours(1), true, &clock, used / 2);
    assert!(store.shards.history.used_bytes() <= used / 2);
    let found = read(&store, store.shards.history.raw_from_ms(), i64::MAX).await;
    let oldest = found.values().map(|samples| samples[0].0).min().unwrap();
    assert!(oldest > millis(NOW - 20 * HOUR) && !found.is_empty());
    // Rollups stay, although a window that is not rolled up as it is was in front of the others.
    assert!(store.shards.history.rollup_bytes() > 0);
    let of_b: Vec<i64> = found[r#"c{instance="b"}"#].iter().map(|sample| sample.0).collect();
    assert!(of_b.ends_with(&[2, 1, 0].map(|hours| millis(NOW - hours * HOUR))), "{of_b:?}");
}

#[tokio::test]
async fn what_there_is_no_room_for_is_not_read_into_memory_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let clock = Clock::at(NOW);
    let store = open(&path, Duration::from_hours(1), true, &clock, MAX_BYTES);
    // Two days of samples, many enough and with values different enough to be more than their rollups.
    let start = NOW - 48 * HOUR;
    let mut random = 1_u64;
    for seconds in (0..48 * 3600).step_by(10) {
        let at = start + seconds * 1000;
        clock.set(at);
        let values = (0..20).map(|number| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            gauge(&format!("m{{number=\"{number}\"}}"), f64::from(u32::try_from(random >> 40).unwrap()))
        });
        let values = values.collect();
        store.apply(Batch { keyed: false, ..batch("n", IdempotencyKey::at(at), values) }).await.unwrap();
        if seconds % 600 == 0 {
            store.apply(Batch { keyed: false, ..batch("n", IdempotencyKey::at(at), vec![count("total", 1)]) }).await.unwrap();
        }
    }
    clock.set(NOW);
    store.keeper.maintain_all();
    let whole = read(&store, i64::MIN, i64::MAX).await;
    let samples: usize = whole.values().map(Vec::len).sum();
    let (used, of_rollups) = (store.shards.history.used_bytes(), store.shards.history.rollup_bytes());
    let of_samples = used - of_rollups;
    assert!(of_samples > of_rollups, "{of_samples} and {of_rollups}");
    store.close().await.unwrap();

    let lifetimes = store.shards.lifetimes;
    let load = |max_bytes: usize, now_millis: u64| {
        let shards = Shards::new(SeriesLimits { total: 1000, per_source: 1000 }, lifetimes, 100_000, max_bytes);
        load::restore(&shards, None, &Paths::of(&path), &MemoryMetrics::default(), now_millis).unwrap();
        shards
    };
    // Room is made down to three quarters of it: for that, less than the samples that are older than a day has to go.
    let max_bytes = (of_rollups + of_samples * 5 / 8) * 4 / 3;
    let shards = load(max_bytes, NOW);
    let read_bytes = shards.history.used_bytes();
    assert!(read_bytes < used - of_samples / 8, "{read_bytes} of {used} were read");
    assert!(shards.history.samples_dropped() > 0);
    assert_eq!(load(max_bytes, 0).history.rollup_bytes(), of_rollups, "by a clock that is behind, samples go first as well");

    let store = open(&path, Duration::from_hours(1), true, &clock, max_bytes);
    let raw_from_ms = store.shards.history.raw_from_ms();
    assert!(store.shards.history.used_bytes() <= max_bytes);
    assert_eq!(store.shards.history.rollup_bytes(), of_rollups, "samples go first");
    let found = read(&store, raw_from_ms, i64::MAX).await;
    assert_eq!(found.len(), whole.len());
    for (labels, kept) in &found {
        assert!(whole[labels].ends_with(kept), "totals go on: {labels}");
    }
    let kept: usize = found.values().map(Vec::len).sum();
    assert_eq!(kept as u64 + store.shards.history.samples_dropped(), samples as u64, "each is there or counted");
    // The files do not have it any more after the next save.
    store.close().await.unwrap();
    assert!(load(usize::MAX, NOW).history.used_bytes() <= max_bytes);
}
