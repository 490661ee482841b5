mod bounds;
mod clocks;
mod crash;
mod faults;

use std::path::Path;
use std::time::Duration;

use golectra_protocol::{MetricId, gzip};
use tempfile::TempDir;

use super::*;
use crate::batch::{Age, Attempts, Failure, POLL_COUNT};
use crate::spool::Limits;

/// The time of the first batch, in unix milliseconds; the others follow at intervals of a second.
const START: u64 = 1_700_000_000_000;

const ROOMY: DiskLimits = DiskLimits { bytes: 64 << 20, age: Duration::from_hours(47) };

/// With files of 64 KiB.
const SMALL: DiskLimits = DiskLimits { bytes: 1 << 20, age: Duration::from_hours(47) };

/// Memory that is never full.
const MEMORY: Limits = Limits { batches: 1000, bytes: 64 << 20, age: Duration::from_hours(47) };

fn metrics() -> Arc<AgentMetrics> {
    Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap())
}

/// A clock that always shows this time.
fn clock_at(unix_millis: u64) -> Clock {
    Clock::from_fn(move || std::time::UNIX_EPOCH + Duration::from_millis(unix_millis))
}

fn try_open(folder: &Path, limits: DiskLimits, hash_key: Option<&str>, clock: &Clock) -> Result<Disk, DiskError> {
    let metrics = metrics();
    let memory = Memory::new(MEMORY, Arc::clone(&metrics));
    Disk::open(folder, limits, memory, hash_key.map(Secret::from), clock, metrics)
}

fn open(folder: &Path, limits: DiskLimits) -> Disk {
    try_open(folder, limits, None, &clock_at(START)).unwrap()
}

fn batch(unix_millis: u64, deltas: Deltas, body_bytes: usize) -> Batch {
    // Random, so that it has about this many bytes when it is compressed.
    let filler: String = std::iter::repeat_with(fastrand::alphanumeric).take(body_bytes * 4 / 3).collect();
    let stored = StoredBatch {
        key: IdempotencyKey::at(unix_millis),
        body: gzip::pack(format!("[\"{filler}\"]").as_bytes()).into(),
        deltas,
        age: Age::zero(),
        attempts: Attempts::default(),
    };
    Batch::restored(stored, None).unwrap()
}

/// What happens for a report: room is made, and the returned deltas are sealed together with these polls.
fn report(disk: &mut Disk, number: u64, polls: i64, body_bytes: usize) -> i64 {
    let mut deltas = disk.make_room();
    deltas.add(&MetricId::parse(POLL_COUNT).unwrap(), polls);
    let batch = batch(START + number * 1000, deltas, body_bytes);
    let polls = batch.polls();
    disk.push(batch);
    polls
}

fn number(batch: &Batch) -> u64 {
    (batch.key().unix_millis() - START) / 1000
}

/// Takes the next batch, which the server accepts.
fn acknowledge(disk: &mut Disk) -> Option<u64> {
    let batch = disk.take()?;
    disk.acknowledge(batch.key());
    Some(number(&batch))
}

/// Takes the next batch and puts it back after a try that failed like this.
fn fail(disk: &mut Disk, failure: Failure) -> u64 {
    let mut batch = disk.take().unwrap();
    batch.record(failure);
    let number = number(&batch);
    disk.put_back(batch);
    number
}

fn sync(disk: &mut Disk) {
    while let Some(work) = disk.begin_sync() {
        disk.end_sync(work.run());
    }
}

/// The files of the folder but for the one that says what is being sent, with their lengths.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()));
    let mut files: Vec<_> = files.filter(|(name, _)| name != "sending").collect();
    files.sort();
    files
}

#[test]
fn the_next_process_finds_what_waits() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    for number in 1..=4 {
        report(&mut disk, number, 5, 100);
    }
    let sending = disk.take().unwrap();
    assert_eq!((number(&sending), sending.attempts().may_be_applied()), (1, false));
    assert_eq!((disk.waiting(), disk.usage().disk.batches, disk.usage().disk.polls), (3, 4, 20));
    let done = disk.take().unwrap();
    disk.acknowledge(done.key());
    assert_eq!(disk.close(), Unsent { kept_batches: 3, kept_polls: 15, ..Unsent::default() });
    drop(disk);

    let mut disk = open(folder.path(), ROOMY);
    let usage = disk.usage();
    assert_eq!((usage.batches, usage.bytes), (3, 0));
    assert_eq!((usage.disk.batches, usage.disk.polls), (3, 15));
    let first = disk.take().unwrap();
    assert_eq!((first.key(), first.body(), first.polls(), first.items()), (sending.key(), sending.body(), 5, 1));
    assert!(first.attempts().may_be_applied(), "the process before may have sent it");
    disk.reject(&first, DropReason::TooLarge);
    assert_eq!(disk.make_room().polls(), 0, "so its polls are not returned");
    assert_eq!((acknowledge(&mut disk), acknowledge(&mut disk), acknowledge(&mut disk)), (Some(4), Some(3), None));
}

#[test]
fn the_current_key_makes_the_hash() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 5, 100);
    drop(disk);
    let mut disk = try_open(folder.path(), ROOMY, Some("new"), &clock_at(START)).unwrap();
    let batch = disk.take().unwrap();
    let body = gzip::unpack(batch.body(), 1000).unwrap();
    assert_eq!(batch.hash(), Some(golectra_protocol::hash::body_hash(&body, b"new").as_str()));
}

#[test]
fn a_folder_has_one_agent() {
    let folder = TempDir::new().unwrap();
    let disk = open(folder.path(), ROOMY);
    let again = || try_open(folder.path(), ROOMY, None, &clock_at(START));
    let refusal = again().err().unwrap().to_string();
    assert!(refusal.starts_with("SPOOL_DIR: ") && refusal.contains("in use by another agent"), "{refusal}");
    drop(disk);
    assert!(again().is_ok());
}

#[test]
fn a_path_that_is_not_a_folder_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "mine").unwrap();
    let refusal = try_open(&path, ROOMY, None, &clock_at(START)).err().unwrap().to_string();
    assert!(refusal.contains("file cannot be used as a folder: "), "{refusal}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_backlog_is_sent_in_order_and_new_batches_do_not_wait_for_it() {
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
    assert_eq!(disk.usage().disk.batches, 0);
}

#[test]
fn a_failing_batch_does_not_hold_up_the_others() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    for _ in 0..PATIENCE_TRIES {
        fail(&mut disk, Failure::Unknown);
    }
    for number in 2..=9 {
        report(&mut disk, number, 1, 100);
    }
    let mut order = Vec::new();
    for _ in 0..11 {
        let mut batch = disk.take().unwrap();
        order.push(number(&batch));
        if number(&batch) == 1 {
            batch.record(Failure::Refused);
            disk.put_back(batch);
        } else {
            disk.acknowledge(batch.key());
        }
    }
    assert_eq!(order, [1, 2, 9, 1, 3, 8, 4, 7, 1, 5, 6]);
    let failing = disk.take().unwrap();
    assert_eq!((number(&failing), failing.attempts().count()), (1, PATIENCE_TRIES + 3));
}

#[test]
fn files_without_a_waiting_batch_are_removed() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=100 {
        report(&mut disk, number, 1, 10_000);
        assert_eq!(acknowledge(&mut disk), Some(number));
        sync(&mut disk);
        assert!(files(folder.path()).len() <= 1, "{:?}", files(folder.path()));
    }
    assert!(disk.usage().disk.bytes <= 128 << 10);
    drop(disk);
    sync(&mut open(folder.path(), SMALL));
    assert!(files(folder.path()).is_empty(), "a start removes what is left");
}

#[test]
fn other_files_are_not_touched() {
    let folder = TempDir::new().unwrap();
    for name in ["lost+found", "7.spool", "notes.txt", "x.spool"] {
        std::fs::write(folder.path().join(name), "mine").unwrap();
    }
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    assert_eq!(acknowledge(&mut disk), Some(1));
    drop(disk);
    let mut disk = open(folder.path(), ROOMY);
    assert_eq!(disk.usage().batches, 0);
    sync(&mut disk);
    assert_eq!(files(folder.path()).len(), 4);
}

#[test]
fn only_what_the_server_does_not_have_is_synced() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    acknowledge(&mut disk);
    assert!(disk.begin_sync().is_none());
    report(&mut disk, 2, 1, 100);
    let work = disk.begin_sync().unwrap();
    assert!(work.folder.is_some() && work.files.len() == 1, "the file is new in the folder");
    report(&mut disk, 3, 1, 100);
    disk.end_sync(work.run());
    let work = disk.begin_sync().expect("what was written during the sync is not synced yet");
    assert!(work.folder.is_none());
    disk.end_sync(work.run());
    assert!(disk.begin_sync().is_none());
}

#[test]
fn a_batch_that_replaces_another_is_synced_even_if_the_server_has_it() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    report(&mut disk, 2, 1, 100);
    sync(&mut disk);
    let rejected = disk.take().unwrap();
    disk.reject(&rejected, DropReason::Invalid);
    assert!(disk.begin_sync().is_none());
    assert_eq!(report(&mut disk, 3, 1, 100), 2);
    assert_eq!((acknowledge(&mut disk), acknowledge(&mut disk)), (Some(3), Some(2)));
    let work = disk.begin_sync().expect("without the third the first would be sent again after a power failure");
    disk.end_sync(work.run());
    assert!(disk.begin_sync().is_none());
}

#[test]
fn after_a_failed_sync_another_file_is_written() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    let work = disk.begin_sync().unwrap();
    disk.end_sync(SyncResult { result: Err(io::ErrorKind::Other.into()), not_removed: work.removals });
    assert_eq!(disk.metrics.spool_sync_errors_so_far(), 1);
    report(&mut disk, 2, 1, 100);
    assert_eq!(files(folder.path()).len(), 2);
    assert_eq!(disk.waiting(), 2);
}

#[test]
fn what_an_earlier_process_left_is_indexed_when_it_is_needed() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=60 {
        report(&mut disk, number, 1, 10_000);
    }
    drop(disk);
    let mut disk = open(folder.path(), SMALL);
    let known = |disk: &Disk| disk.segments.values().map(|segment| segment.entries.len()).sum::<usize>();
    assert_eq!((known(&disk), disk.usage().disk.batches, disk.usage().disk.polls), (0, 60, 60));
    for _ in 0..10 {
        let batch = disk.take().unwrap();
        disk.put_back(batch);
    }
    assert!(known(&disk) <= 6, "while nothing succeeds only the oldest file is indexed: {}", known(&disk));
    let mut numbers: Vec<_> = std::iter::from_fn(|| acknowledge(&mut disk)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
}
