mod bounds;
mod crash;
mod faults;

use std::path::Path;
use std::time::Duration;

use golectra_protocol::{MetricId, gzip};
use tempfile::TempDir;

use super::*;
use crate::batch::POLL_COUNT;
use crate::spool::Limits;

/// The first batch's time, in unix milliseconds; the others follow by seconds.
const START: u64 = 1_700_000_000_000;

const ROOMY: DiskLimits = DiskLimits { bytes: 64 << 20, age: Duration::from_hours(47) };

/// Files of 64 KiB.
const SMALL: DiskLimits = DiskLimits { bytes: 1 << 20, age: Duration::from_hours(47) };

fn stats() -> Arc<Stats> {
    Arc::new(Stats::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap())
}

fn open(folder: &Path, limits: DiskLimits) -> Disk {
    let stats = stats();
    let memory = Memory::new(Limits { batches: 1000, bytes: 64 << 20 }, Arc::clone(&stats));
    Disk::open(folder, limits, memory, None, stats).unwrap()
}

/// What a report does: room is made, and what was given back is sealed together with these polls.
fn report(disk: &mut Disk, number: u64, polls: i64, body_bytes: usize) -> i64 {
    let mut deltas = disk.make_room(START + number * 1000);
    deltas.add(&MetricId::parse(POLL_COUNT).unwrap(), polls);
    let filler: Vec<u8> = (0..body_bytes).map(|_| fastrand::u8(..)).collect();
    let key = IdempotencyKey::at(START + number * 1000);
    let batch = Batch::restored(key, gzip::pack(&filler).into(), deltas, None, (0, false)).unwrap();
    let polls = batch.polls();
    disk.push(batch);
    polls
}

fn number(batch: &Batch) -> u64 {
    (batch.key().unix_millis() - START) / 1000
}

/// Takes the next one and has the server take it.
fn acknowledge(disk: &mut Disk) -> Option<u64> {
    let batch = disk.take()?;
    disk.forget(batch.key());
    Some(number(&batch))
}

fn sync(disk: &mut Disk) {
    while let Some(work) = disk.unsynced() {
        disk.synced(work.run());
    }
}

fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect();
    files.sort();
    files
}

#[test]
fn what_waits_is_found_by_the_next_process() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    for number in 1..=4 {
        report(&mut disk, number, 5, 100);
    }
    let under_way = disk.take().unwrap();
    assert_eq!((number(&under_way), under_way.may_be_applied()), (1, false));
    assert_eq!((disk.waiting(), disk.fill().disk.batches, disk.fill().disk.polls), (3, 4, 20));
    let done = disk.take().unwrap();
    disk.forget(done.key());
    assert_eq!(disk.leave(), Left { kept_batches: 3, kept_polls: 15, ..Left::default() });
    drop(disk);

    let mut disk = open(folder.path(), ROOMY);
    let fill = disk.fill();
    assert_eq!((fill.batches, fill.bytes, fill.oldest_unix_millis), (3, 0, Some(START + 1000)));
    assert_eq!((fill.disk.batches, fill.disk.polls), (3, 15));
    let first = disk.take().unwrap();
    assert_eq!((first.key(), first.body(), first.polls()), (under_way.key(), under_way.body(), 5));
    assert!(first.may_be_applied(), "the process before may have sent it");
    disk.refuse(&first, DropReason::TooLarge);
    assert_eq!(disk.make_room(START).polls(), 0, "so its polls are not given back");
    assert_eq!((acknowledge(&mut disk), acknowledge(&mut disk), acknowledge(&mut disk)), (Some(4), Some(3), None));
}

#[test]
fn the_key_of_now_makes_the_hash() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 5, 100);
    drop(disk);
    let stats = stats();
    let memory = Memory::new(Limits { batches: 1, bytes: 1 }, Arc::clone(&stats));
    let mut disk = Disk::open(folder.path(), ROOMY, memory, Some(Secret::from("new")), stats).unwrap();
    let batch = disk.take().unwrap();
    let body = gzip::unpack(batch.body(), 1000).unwrap();
    assert_eq!(batch.hash(), Some(golectra_protocol::hash::body_hash(&body, b"new").as_str()));
}

#[test]
fn a_folder_has_one_agent() {
    let folder = TempDir::new().unwrap();
    let disk = open(folder.path(), ROOMY);
    let (limits, stats) = (Limits { batches: 1, bytes: 1 }, stats());
    let again = || Disk::open(folder.path(), ROOMY, Memory::new(limits, Arc::clone(&stats)), None, Arc::clone(&stats));
    let refusal = again().err().unwrap().to_string();
    assert!(refusal.starts_with("SPOOL_DIR: ") && refusal.contains("in use by another agent"), "{refusal}");
    drop(disk);
    assert!(again().is_ok());
}

#[test]
fn a_folder_that_cannot_be_one_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "mine").unwrap();
    let stats = stats();
    let memory = Memory::new(Limits { batches: 1, bytes: 1 }, Arc::clone(&stats));
    let refusal = Disk::open(&path, ROOMY, memory, None, stats).err().unwrap().to_string();
    assert!(refusal.contains("file cannot be used as a folder: "), "{refusal}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_backlog_leaves_in_order_and_what_is_new_does_not_wait_for_it() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=20 {
        report(&mut disk, number, 1, 10_000);
    }
    let mut order: Vec<_> = (0..5).map(|_| acknowledge(&mut disk).unwrap()).collect();
    report(&mut disk, 21, 1, 100);
    order.extend((0..4).map(|_| acknowledge(&mut disk).unwrap()));
    assert_eq!(order, [1, 20, 2, 19, 3, 21, 4, 18, 5]);
    let rest: Vec<_> = std::iter::from_fn(|| acknowledge(&mut disk)).collect();
    assert_eq!(rest.len(), 12);
    assert_eq!(disk.fill().disk.batches, 0);
}

#[test]
fn one_that_keeps_failing_holds_up_none() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    for _ in 0..PATIENCE_TRIES {
        let mut batch = disk.take().unwrap();
        batch.tried(true);
        disk.put_back(batch);
    }
    for number in 2..=9 {
        report(&mut disk, number, 1, 100);
    }
    let mut order = Vec::new();
    for _ in 0..11 {
        let mut batch = disk.take().unwrap();
        order.push(number(&batch));
        if number(&batch) == 1 {
            batch.tried(true);
            disk.put_back(batch);
        } else {
            disk.forget(batch.key());
        }
    }
    assert_eq!(order, [1, 2, 9, 1, 3, 8, 4, 7, 1, 5, 6]);
    let failing = disk.take().unwrap();
    assert_eq!((number(&failing), failing.tries()), (1, PATIENCE_TRIES + 3));
}

#[test]
fn files_without_a_batch_that_waits_are_removed() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=100 {
        report(&mut disk, number, 1, 10_000);
        assert_eq!(acknowledge(&mut disk), Some(number));
        sync(&mut disk);
        assert!(files(folder.path()).len() <= 1, "{:?}", files(folder.path()));
    }
    assert!(disk.fill().disk.bytes <= 128 << 10);
    drop(disk);
    sync(&mut open(folder.path(), SMALL));
    assert!(files(folder.path()).is_empty(), "a start clears up");
}

#[test]
fn other_files_are_let_be() {
    let folder = TempDir::new().unwrap();
    for name in ["lost+found", "7.spool", "notes.txt", "x.spool"] {
        std::fs::write(folder.path().join(name), "mine").unwrap();
    }
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    assert_eq!(acknowledge(&mut disk), Some(1));
    drop(disk);
    let mut disk = open(folder.path(), ROOMY);
    assert_eq!(disk.fill().batches, 0);
    sync(&mut disk);
    assert_eq!(files(folder.path()).len(), 4);
}

#[test]
fn only_what_the_server_does_not_have_is_synced() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    acknowledge(&mut disk);
    assert!(disk.unsynced().is_none());
    report(&mut disk, 2, 1, 100);
    let work = disk.unsynced().unwrap();
    assert!(work.folder.is_some() && work.files.len() == 1, "the file is new to the folder");
    report(&mut disk, 3, 1, 100);
    disk.synced(work.run());
    let work = disk.unsynced().expect("what came while it was at work is not synced yet");
    assert!(work.folder.is_none());
    disk.synced(work.run());
    assert!(disk.unsynced().is_none());
}

#[test]
fn a_disk_that_does_not_confirm_is_counted_and_written_elsewhere() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    let work = disk.unsynced().unwrap();
    disk.synced(SyncDone { result: Err(io::ErrorKind::Other.into()), staying: work.leaving });
    assert_eq!(disk.stats.spool_sync_errors_so_far(), 1);
    report(&mut disk, 2, 1, 100);
    assert_eq!(files(folder.path()).len(), 2);
    assert_eq!(disk.waiting(), 2);
}

#[test]
fn what_an_earlier_process_left_is_indexed_when_its_turn_comes() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=60 {
        report(&mut disk, number, 1, 10_000);
    }
    drop(disk);
    let mut disk = open(folder.path(), SMALL);
    let known = |disk: &Disk| disk.segments.values().map(|segment| segment.entries.len()).sum::<usize>();
    assert_eq!((known(&disk), disk.fill().disk.batches, disk.fill().disk.polls), (0, 60, 60));
    for _ in 0..10 {
        let batch = disk.take().unwrap();
        disk.put_back(batch);
    }
    assert!(known(&disk) <= 6, "while nothing works only the oldest file is known: {}", known(&disk));
    let mut numbers: Vec<_> = std::iter::from_fn(|| acknowledge(&mut disk)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
}

#[test]
fn the_index_is_small() {
    assert_eq!(size_of::<Entry>(), 16);
}
