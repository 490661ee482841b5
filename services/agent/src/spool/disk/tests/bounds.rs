//! Bytes and age.

use tokio::time::advance;

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
        assert_eq!(disk.usage().disk.bytes, on_disk(folder.path()));
    }
    let dropped = disk.metrics.dropped_so_far(DropReason::SpoolFull);
    assert!(dropped > 300, "{dropped}");
    let usage = disk.usage().disk;
    assert_eq!(usage.batches as u64 + dropped, 500);
    assert!(usage.bytes > SMALL.bytes * 8 / 10, "{} bytes", usage.bytes);
    assert_eq!(usage.polls, 1500, "later reports count what was never sent");
    assert_eq!(acknowledge(&mut disk), Some(dropped + 1), "the oldest were dropped");
    let rest = disk.usage().disk.polls;
    drop(disk);
    assert_eq!(open(folder.path(), SMALL).usage().disk.polls, rest);
}

#[test]
fn what_may_have_been_applied_is_not_counted_again_when_it_is_dropped() {
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
    assert!(disk.metrics.dropped_so_far(DropReason::SpoolFull) > 10);
    assert_eq!(disk.usage().disk.polls, 190);
}

#[test]
fn a_batch_that_is_being_sent_is_not_dropped() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    report(&mut disk, 1, 1, 10_000);
    let sending = disk.take().unwrap();
    for number in 2..=300 {
        report(&mut disk, number, 1, 10_000);
        sync(&mut disk);
        assert!(on_disk(folder.path()) <= SMALL.bytes);
    }
    disk.put_back(sending.clone());
    assert_eq!(disk.take().map(|batch| batch.key()), Some(sending.key()));
}

#[tokio::test(start_paused = true)]
async fn what_has_waited_too_long_is_dropped() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), DiskLimits { age: Duration::from_mins(1), ..SMALL });
    for number in 1..=200 {
        report(&mut disk, number, 2, 2000);
        advance(Duration::from_secs(1)).await;
    }
    let usage = disk.usage().disk;
    assert_eq!((usage.batches, usage.polls, usage.oldest_age_seconds), (61, 400, Some(61.0)));
    assert_eq!(disk.metrics.dropped_so_far(DropReason::Expired), 139);
    sync(&mut disk);
    drop(disk);
    // The next process cannot tell how long they have waited, so that they wait as long again.
    let mut disk = open(folder.path(), DiskLimits { age: Duration::from_mins(1), ..SMALL });
    advance(Duration::from_mins(1)).await;
    report(&mut disk, 201, 2, 2000);
    assert_eq!((disk.usage().batches, disk.usage().disk.polls), (62, 402));
    advance(Duration::from_secs(1)).await;
    report(&mut disk, 202, 2, 2000);
    assert_eq!((disk.usage().batches, disk.usage().disk.polls), (2, 4), "what may have been applied is not counted again");
}

#[test]
fn a_report_larger_than_the_spool_waits_in_memory() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    report(&mut disk, 1, 1, 2 << 20);
    assert_eq!((disk.usage().batches, disk.usage().disk.batches), (1, 0));
    assert_eq!(acknowledge(&mut disk), Some(1));
    report(&mut disk, 2, 1, 100);
    assert_eq!((disk.usage().batches, disk.usage().disk.batches), (1, 1));
}

#[test]
fn the_next_process_keeps_a_smaller_limit() {
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
