//! Full disks and damaged files.

use super::super::read_again::LONGEST_PAUSE;
use super::*;
use crate::spool::Queue;

#[test]
fn while_the_disk_is_full_memory_takes_over() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 1000);
    // Room for a part of the next one.
    disk.folder.room = Some(500);
    for number in 2..=4 {
        report(&mut disk, number, 1, 1000);
    }
    let fill = disk.usage();
    assert_eq!((fill.batches, fill.disk.batches), (4, 1));
    assert!(disk.metrics.spool_write_errors_so_far() >= 3);
    assert_eq!((acknowledge(&mut disk), acknowledge(&mut disk)), (Some(1), Some(4)), "sending goes on");
    assert_eq!(
        disk.close(),
        Unsent { lost_batches: 2, lost_polls: 2, ..Unsent::default() },
        "the first is settled, although this could not be written"
    );
}

#[test]
fn what_is_in_memory_is_written_when_the_disk_has_room_again() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 1000);
    disk.folder.room = Some(0);
    report(&mut disk, 2, 1, 1000);
    assert_eq!(acknowledge(&mut disk), Some(1));
    let under_way = disk.take().unwrap();
    report(&mut disk, 3, 1, 1000);
    disk.folder.room = None;
    report(&mut disk, 4, 1, 1000);
    disk.put_back(under_way);
    assert_eq!(disk.usage().disk.batches, 2);
    report(&mut disk, 5, 1, 1000);
    assert_eq!((disk.usage().batches, disk.usage().disk.batches), (4, 4));
    drop(disk);
    let mut disk = open(folder.path(), ROOMY);
    assert_eq!(disk.metrics.spool_corrupt_so_far(), 0, "the incomplete record was cut off again");
    let mut numbers: Vec<_> = std::iter::from_fn(|| acknowledge(&mut disk)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3, 4, 5], "and the first was noted as settled");
}

#[test]
fn a_disk_that_is_full_from_the_start() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    disk.folder.room = Some(7);
    report(&mut disk, 1, 1, 1000);
    assert_eq!((disk.usage().batches, disk.usage().disk), (1, DiskUsage::default()));
    assert!(files(folder.path()).is_empty(), "no incomplete file is left");
    disk.folder.room = None;
    report(&mut disk, 2, 1, 1000);
    assert_eq!(disk.usage().disk.batches, 2);
}

#[test]
fn a_file_that_is_in_the_way_is_passed() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    // As it is left where its header could not be written and the file could not be removed either.
    std::fs::write(disk.folder.segment(1), "").unwrap();
    report(&mut disk, 1, 1, 1000);
    assert_eq!((disk.usage().batches, disk.usage().disk.batches), (1, 0));
    report(&mut disk, 2, 1, 1000);
    assert_eq!((disk.usage().batches, disk.usage().disk.batches), (2, 2));
}

#[test]
fn behind_an_incomplete_note_that_cannot_be_cut_off_no_batch_is_written() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 1000);
    report(&mut disk, 2, 1, 1000);
    (disk.folder.room, disk.folder.keeps_parts) = (Some(5), true);
    assert_eq!(acknowledge(&mut disk), Some(1));
    (disk.folder.room, disk.folder.keeps_parts) = (None, false);
    report(&mut disk, 3, 1, 1000);
    assert_eq!(disk.usage().disk.bytes, files(folder.path()).iter().map(|(_, bytes)| bytes.next_multiple_of(4096)).sum::<u64>());
    for process in 1..=2 {
        let mut numbers: Vec<_> = std::iter::from_fn(|| disk.take()).map(|batch| number(&batch)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 3], "process {process}");
        drop(disk);
        disk = open(folder.path(), ROOMY);
    }
    assert_eq!(disk.metrics.spool_corrupt_so_far(), 1, "the incomplete note");
}

#[test]
fn a_full_disk_counts_no_poll_twice() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 7, 1000);
    let rejected = disk.take().unwrap();
    disk.reject(&rejected, DropReason::TooLarge);
    disk.folder.room = Some(40);
    assert_eq!(report(&mut disk, 2, 1, 1000), 8, "the next report counts them");
    drop(disk);
    assert_eq!(open(folder.path(), ROOMY).usage().batches, 0, "so the rejected one is not found again");
}

#[test]
fn while_the_disk_takes_nothing_the_polls_of_a_rejected_batch_wait_to_be_counted() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 7, 1000);
    disk.folder.room = Some(0);
    report(&mut disk, 2, 1, 1000);
    let rejected = disk.take().unwrap();
    disk.reject(&rejected, DropReason::TooLarge);
    assert_eq!(report(&mut disk, 3, 1, 1000), 1);
    assert_eq!(snapshot_polls(&folder), 7, "after a crash now, the rejected batch would be found");
    disk.folder.room = None;
    assert_eq!(report(&mut disk, 4, 1, 1000), 1, "until the disk is known to work again");
    assert_eq!(report(&mut disk, 5, 1, 1000), 8);
    assert_eq!((snapshot_polls(&folder), disk.usage().disk.polls), (11, 11));
}

/// The polls that a process would find if it started now.
fn snapshot_polls(folder: &TempDir) -> u64 {
    let copy = TempDir::new().unwrap();
    for (name, _) in files(folder.path()) {
        std::fs::copy(folder.path().join(&name), copy.path().join(&name)).unwrap();
    }
    open(copy.path(), ROOMY).usage().disk.polls
}

#[test]
fn a_damaged_record_loses_only_itself() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    for number in 1..=5 {
        report(&mut disk, number, 1, 1000);
    }
    let offset = disk.segments[&1].entries[1].offset as usize;
    let path = disk.folder.segment(1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[offset + 300] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    // Damage that happens while the process runs is found when the record is read, other damage at the start.
    let mut numbers: Vec<_> = std::iter::from_fn(|| acknowledge(&mut disk)).collect();
    numbers.sort_unstable();
    assert_eq!((numbers, disk.metrics.spool_corrupt_so_far()), (vec![1, 3, 4, 5], 1));
    drop(disk);
    std::fs::write(&path, &bytes).unwrap();
    let mut disk = open(folder.path(), ROOMY);
    assert_eq!((disk.waiting(), disk.metrics.spool_corrupt_so_far()), (4, 1));
    assert!(std::iter::from_fn(|| acknowledge(&mut disk)).all(|number| number != 2));
}

/// Files of a spool in whose place are folders: reading a folder fails, but not because a file is not there or ends too early.
struct Unreadable(Vec<PathBuf>);

impl Unreadable {
    /// All files that are there.
    fn all(folder: &Path) -> Self {
        Self::of(files(folder).into_iter().map(|(name, _)| folder.join(name)).collect())
    }

    fn of(paths: Vec<PathBuf>) -> Self {
        for path in &paths {
            std::fs::rename(path, path.with_extension("aside")).unwrap();
            std::fs::create_dir(path).unwrap();
        }
        Self(paths)
    }

    fn end(self) {
        for path in self.0 {
            std::fs::remove_dir(&path).unwrap();
            std::fs::rename(path.with_extension("aside"), &path).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reports_whose_reading_fails_for_a_moment_are_sent_after_a_pause() {
    for is_of_earlier_process in [false, true] {
        let folder = TempDir::new().unwrap();
        let mut disk = open(folder.path(), SMALL);
        for number in 1..=20 {
            report(&mut disk, number, 1, 10_000);
        }
        if is_of_earlier_process {
            drop(disk);
            disk = open(folder.path(), SMALL);
        }
        let unreadable = Unreadable::all(folder.path());
        assert!(unreadable.0.len() > 2, "{:?}", unreadable.0);
        assert!(disk.take().is_none());
        assert_eq!((disk.waiting(), disk.usage().batches, disk.usage().disk.polls), (0, 20, 20));
        unreadable.end();
        assert!(!disk.read_again() && disk.take().is_none(), "there is a pause first");
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(disk.read_again());
        let mut numbers: Vec<_> = std::iter::from_fn(|| acknowledge(&mut disk)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
        assert_eq!(disk.metrics.spool_corrupt_so_far(), 0);
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(!disk.read_again(), "nothing is left");
    }
}

#[tokio::test(start_paused = true)]
async fn reports_that_cannot_be_read_again_and_again_are_left_to_the_next_process() {
    for is_of_earlier_process in [false, true] {
        let folder = TempDir::new().unwrap();
        let mut disk = open(folder.path(), ROOMY);
        report(&mut disk, 1, 1, 1000);
        if is_of_earlier_process {
            drop(disk);
            disk = open(folder.path(), ROOMY);
        }
        let unreadable = Unreadable::all(folder.path());
        for tries in 1..READ_TRIES {
            assert!(disk.take().is_none());
            assert_eq!(disk.metrics.spool_corrupt_so_far(), 0, "after {tries} tries");
            tokio::time::advance(LONGEST_PAUSE).await;
            assert!(disk.read_again(), "after {tries} tries");
        }
        assert!(disk.take().is_none());
        assert_eq!((disk.waiting(), disk.metrics.spool_corrupt_so_far()), (0, 1));
        unreadable.end();
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(!disk.read_again() && disk.take().is_none());
        // Others in its file are settled, and the file stays.
        report(&mut disk, 2, 1, 1000);
        assert_eq!(acknowledge(&mut disk), Some(2));
        disk.roll();
        sync(&mut disk);
        drop(disk);
        assert_eq!(acknowledge(&mut open(folder.path(), ROOMY)), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_that_fails_for_the_first_time_takes_no_tries_from_older_ones() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 1000);
    // What follows is in the same file.
    let _unreadable = Unreadable::all(folder.path());
    for tries in 1..=4 {
        assert!(disk.take().is_none());
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(disk.read_again(), "after {tries} tries");
    }
    report(&mut disk, 2, 1, 1000);
    assert!(disk.take().is_none());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!disk.read_again(), "the pause after the fifth try is at least eight seconds");
    tokio::time::advance(Duration::from_secs(16)).await;
    assert!(disk.read_again());
    assert_eq!(disk.waiting(), 2);
}

#[tokio::test(start_paused = true)]
async fn reports_that_fail_again_and_again_do_not_put_reading_off_for_ever() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    let _unreadable = Unreadable::all(folder.path());
    assert!(disk.take().is_none());
    // Each of these fails before the pause of the one before is over.
    let interval = Duration::from_millis(400);
    let mut waited = Duration::ZERO;
    for number in 2.. {
        tokio::time::advance(interval).await;
        waited += interval;
        if disk.read_again() {
            break;
        }
        assert!(waited <= LONGEST_PAUSE + Duration::from_secs(2), "{waited:?}");
        report(&mut disk, number, 1, 100);
        assert!(disk.take().is_none());
    }
    assert!(waited >= LONGEST_PAUSE, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn senders_hear_of_reports_that_can_be_read_again() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 1000);
    let queue = Queue::new(Box::new(disk), clock_at(START));
    let unreadable = Unreadable::all(folder.path());
    assert!(queue.take().is_none());
    unreadable.end();
    let syncing = tokio::spawn({
        let queue = queue.clone();
        async move { queue.keep_synced().await }
    });
    assert!(tokio::time::timeout(LONGEST_PAUSE, queue.ready()).await.expect("the pause ends"));
    assert_eq!(queue.take().map(|batch| number(&batch)), Some(1));
    syncing.abort();
}

/// The end of the second report of [`cut_off_file`] is before this byte, and that of the third behind it.
const READABLE_BYTES: u64 = 40_000;

/// Leaves a file with four reports, of which this many are settled.
fn cut_off_file(folder: &Path, settled: u64) {
    let mut disk = open(folder, ROOMY);
    report(&mut disk, 1, 1, 12_000);
    report(&mut disk, 2, 1, 12_000);
    for number in 1..=settled {
        assert_eq!(acknowledge(&mut disk), Some(number));
    }
    report(&mut disk, 3, 1, 20_000);
    report(&mut disk, 4, 1, 20_000);
    let end = |index: usize| u64::from(disk.segments[&1].entries[index + 1].offset);
    assert!(end(1) < READABLE_BYTES && end(2) > READABLE_BYTES);
}

#[test]
fn a_file_that_a_start_cannot_read_to_its_end_stays() {
    let folder = TempDir::new().unwrap();
    cut_off_file(folder.path(), 2);
    let mut failing = Folder::open(folder.path()).unwrap();
    failing.readable = Some(READABLE_BYTES);
    let loaded = load::load(&failing, &mut Context::default()).unwrap();
    assert_eq!((loaded.segments.len(), loaded.empty.len(), loaded.corrupt), (1, 0, 1));
    drop(failing);
    let mut disk = open(folder.path(), ROOMY);
    assert_eq!((acknowledge(&mut disk), acknowledge(&mut disk), acknowledge(&mut disk)), (Some(3), Some(4), None));
}

#[tokio::test(start_paused = true)]
async fn a_file_of_which_only_a_part_was_read_stays_for_the_next_process() {
    for (settled, in_the_part) in [(2, vec![]), (1, vec![2_u64])] {
        let folder = TempDir::new().unwrap();
        cut_off_file(folder.path(), settled);
        let mut disk = open(folder.path(), ROOMY);
        disk.folder.readable = Some(READABLE_BYTES);
        for tries in 1..READ_TRIES {
            assert!(disk.take().is_none());
            tokio::time::advance(LONGEST_PAUSE).await;
            assert!(disk.read_again(), "after {tries} tries");
        }
        let mut sent = Vec::new();
        while let Some(batch) = disk.take() {
            assert!(!batch.attempts().may_be_sealed_again(), "a note that it was sent may be behind the error");
            disk.acknowledge(batch.key());
            sent.push(number(&batch));
        }
        assert_eq!(sent, in_the_part);
        sync(&mut disk);
        let mut left = files(folder.path());
        let noted_beside = left.iter().any(|(name, _)| name.ends_with(".settled"));
        assert_eq!(noted_beside, !sent.is_empty(), "{left:?}");
        // That file is small, and not counted.
        left.retain(|(name, _)| !name.ends_with(".settled"));
        let on_disk: u64 = left.iter().map(|(_, bytes)| bytes.next_multiple_of(4096)).sum();
        assert!(on_disk > READABLE_BYTES, "the file stays");
        assert_eq!((disk.usage().disk.batches, disk.usage().disk.bytes), (0, on_disk));
        drop(disk);
        // A process that can't read it either sends nothing of it again.
        let mut disk = open(folder.path(), ROOMY);
        disk.folder.readable = Some(READABLE_BYTES);
        for _ in 1..READ_TRIES {
            assert!(disk.take().is_none());
            tokio::time::advance(LONGEST_PAUSE).await;
            assert!(disk.read_again());
        }
        assert!(disk.take().is_none());
        drop(disk);
        let mut disk = open(folder.path(), ROOMY);
        assert_eq!((acknowledge(&mut disk), acknowledge(&mut disk), acknowledge(&mut disk)), (Some(3), Some(4), None));
        sync(&mut disk);
        assert!(files(folder.path()).iter().all(|(name, _)| !name.ends_with(".settled")), "it goes with the file");
    }
}

/// A full spool of an earlier process, each of its files with one report.
fn full_spool(folder: &Path) -> (Disk, Vec<u64>) {
    let mut disk = open(folder, SMALL);
    for number in 1..=40 {
        report(&mut disk, number, 1, 100_000);
        sync(&mut disk);
    }
    assert!(disk.metrics.dropped_so_far(DropReason::SpoolFull) > 0);
    drop(disk);
    let disk = open(folder, SMALL);
    let numbers = disk.segments.keys().copied().collect();
    (disk, numbers)
}

/// After a report the oldest file is gone, and no other one.
fn assert_only_the_oldest_makes_room(disk: &mut Disk, numbers: &[u64]) {
    report(disk, 41, 1, 100);
    let left: Vec<u64> = disk.segments.keys().copied().filter(|number| numbers.contains(number)).collect();
    assert_eq!(left, numbers[1..]);
}

#[test]
fn a_file_that_cannot_be_read_at_last_makes_room_alone() {
    let folder = TempDir::new().unwrap();
    let (mut disk, numbers) = full_spool(folder.path());
    disk.segments.get_mut(&numbers[0]).unwrap().read_failures = READ_TRIES - 1;
    let _unreadable = Unreadable::of(vec![disk.folder.segment(numbers[0])]);
    assert_only_the_oldest_makes_room(&mut disk, &numbers);
}

#[test]
fn a_file_in_which_no_report_is_found_makes_room_alone() {
    let folder = TempDir::new().unwrap();
    let (mut disk, numbers) = full_spool(folder.path());
    std::fs::write(disk.folder.segment(numbers[0]), "").unwrap();
    assert_only_the_oldest_makes_room(&mut disk, &numbers);
}

#[test]
fn a_file_that_stays_makes_room_when_it_is_the_oldest() {
    let folder = TempDir::new().unwrap();
    let (mut disk, numbers) = full_spool(folder.path());
    disk.segments.get_mut(&numbers[0]).unwrap().warm(Vec::new(), true);
    assert_only_the_oldest_makes_room(&mut disk, &numbers);
    sync(&mut disk);
    assert!(!disk.folder.segment(numbers[0]).exists());
}

#[test]
fn files_of_an_earlier_process_that_cannot_be_read_make_room_for_new_reports() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=40 {
        report(&mut disk, number, 1, 100_000);
        sync(&mut disk);
    }
    drop(disk);
    let mut disk = open(folder.path(), SMALL);
    // They are not removed where folders are in their places.
    let _unreadable = Unreadable::all(folder.path());
    assert!(disk.take().is_none());
    for number in 41..=80 {
        report(&mut disk, number, 1, 100_000);
    }
    assert!(disk.metrics.dropped_so_far(DropReason::SpoolFull) > 30);
    assert_eq!(disk.take().map(|batch| number(&batch) > 40), Some(true));
}

#[test]
fn reports_that_could_not_be_read_make_room_for_new_ones() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=40 {
        report(&mut disk, number, 1, 100_000);
        sync(&mut disk);
    }
    let unreadable = Unreadable::all(folder.path());
    assert!(disk.take().is_none());
    unreadable.end();
    for number in 41..=42 {
        report(&mut disk, number, 1, 100_000);
        sync(&mut disk);
    }
    let taken: Vec<_> = std::iter::from_fn(|| disk.take()).map(|batch| number(&batch)).collect();
    assert!(taken.contains(&41) && taken.contains(&42), "{taken:?}");
}

#[test]
fn a_file_with_another_version_is_not_touched() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("000000000001.spool");
    let mut header = b"golectra spool 2".to_vec();
    header.extend(crc32fast::hash(&header).to_le_bytes());
    std::fs::write(&path, &header).unwrap();
    let refusal = try_open(folder.path(), ROOMY, None, &clock_at(START)).err().unwrap().to_string();
    assert!(refusal.contains("another version"), "{refusal}");
    assert_eq!(std::fs::read(&path).unwrap(), header);
}

#[test]
fn what_is_in_memory_does_not_take_the_spool_beyond_its_limit() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    disk.folder.room = Some(0);
    for number in 1..=40 {
        report(&mut disk, number, 1, 100_000);
    }
    assert_eq!(disk.memory.waiting(), 40);
    disk.folder.room = None;
    for number in 41..=120 {
        report(&mut disk, number, 1, 1_000);
        assert!(disk.used_bytes() <= SMALL.bytes, "{} bytes after report {number}", disk.used_bytes());
        sync(&mut disk);
    }
    assert_eq!(disk.memory.waiting(), 0, "the oldest files make room for all of it");
}
