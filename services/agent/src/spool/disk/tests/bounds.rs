//! Bytes and age.

use super::*;

fn on_disk(folder: &Path) -> u64 {
    files(folder).iter().map(|(_, bytes)| bytes.next_multiple_of(4096)).sum()
}

#[test]
fn the_oldest_make_room_and_no_poll_is_lost() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=500 {
        report(&mut disk, number, 3, 10_000);
        assert!(on_disk(folder.path()) <= SMALL.bytes, "{} bytes after {number}", on_disk(folder.path()));
        sync(&mut disk);
        assert_eq!(disk.fill().disk.bytes, on_disk(folder.path()));
    }
    let dropped = disk.stats.dropped_so_far(DropReason::SpoolFull);
    assert!(dropped > 300, "{dropped}");
    let fill = disk.fill().disk;
    assert_eq!(fill.batches as u64 + dropped, 500);
    assert!(fill.bytes > SMALL.bytes * 8 / 10, "{} bytes", fill.bytes);
    assert_eq!(fill.oldest_unix_millis, Some(START + (dropped + 1) * 1000), "the oldest went first");
    assert_eq!(fill.polls, 1500, "what was never sent is counted by later reports");
    drop(disk);
    assert_eq!(open(folder.path(), SMALL).fill().disk.polls, 1500);
}

#[test]
fn what_may_have_been_applied_is_not_counted_again_when_it_makes_room() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    for number in 1..=10 {
        report(&mut disk, number, 1, 10_000);
    }
    drop(disk);
    let mut disk = open(folder.path(), SMALL);
    for number in 11..=200 {
        report(&mut disk, number, 1, 10_000);
        sync(&mut disk);
    }
    assert!(disk.stats.dropped_so_far(DropReason::SpoolFull) > 10);
    assert_eq!(disk.fill().disk.polls, 190);
}

#[test]
fn a_batch_under_way_is_not_dropped() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    report(&mut disk, 1, 1, 10_000);
    let under_way = disk.take().unwrap();
    for number in 2..=300 {
        report(&mut disk, number, 1, 10_000);
        sync(&mut disk);
        assert!(on_disk(folder.path()) <= SMALL.bytes);
    }
    disk.put_back(under_way.clone());
    assert_eq!(disk.take().map(|batch| batch.key()), Some(under_way.key()));
}

#[test]
fn what_has_waited_too_long_is_dropped() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), DiskLimits { age: Duration::from_mins(1), ..SMALL });
    for number in 1..=200 {
        report(&mut disk, number, 2, 2000);
    }
    let fill = disk.fill().disk;
    assert_eq!((fill.batches, fill.polls), (61, 400));
    assert_eq!(disk.stats.dropped_so_far(DropReason::Expired), 139);
    assert_eq!(fill.oldest_unix_millis, Some(START + 140_000));
    sync(&mut disk);
    drop(disk);
    // Long after: nothing is left to send, and what may have been applied is not counted again.
    let mut disk = open(folder.path(), DiskLimits { age: Duration::from_mins(1), ..SMALL });
    assert_eq!(disk.fill().disk.polls, 400);
    report(&mut disk, 10_000, 2, 2000);
    assert_eq!((disk.fill().batches, disk.fill().disk.polls), (1, 2));
}

#[test]
fn a_report_larger_than_the_spool_waits_in_memory() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    report(&mut disk, 1, 1, 2 << 20);
    assert_eq!((disk.fill().batches, disk.fill().disk.batches), (1, 0));
    assert_eq!(acknowledge(&mut disk), Some(1));
    report(&mut disk, 2, 1, 100);
    assert_eq!((disk.fill().batches, disk.fill().disk.batches), (1, 1));
}

#[test]
fn a_smaller_limit_is_kept_by_the_next_process() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    for number in 1..=300 {
        report(&mut disk, number, 1, 10_000);
    }
    drop(disk);
    let mut disk = open(folder.path(), SMALL);
    report(&mut disk, 301, 1, 10_000);
    sync(&mut disk);
    assert!(on_disk(folder.path()) <= SMALL.bytes, "{}", on_disk(folder.path()));
}
