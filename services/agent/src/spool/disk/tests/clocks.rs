//! Clocks that are set, and batches that are sealed again because of them.

use tokio::time::advance;

use super::*;

const DAY: Duration = Duration::from_hours(24);
const THREE_DAYS_MILLIS: u64 = 3 * 86_400_000;

/// Adds a report with one poll and a key of this time.
fn report_at(disk: &mut Disk, unix_millis: u64) {
    let mut deltas = disk.make_room();
    deltas.add(&MetricId::parse(POLL_COUNT).unwrap(), 1);
    disk.push(batch(unix_millis, deltas, 100));
}

/// Takes the next batch, which the server refuses as ahead of its clock.
fn refused_as_too_new(disk: &mut Disk) -> Batch {
    let mut batch = disk.take().unwrap();
    batch.record(Failure::TooNew);
    batch
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_wall_clock_expires_nothing() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    for time in [START, START + 10_000, START + THREE_DAYS_MILLIS, START + THREE_DAYS_MILLIS + 10_000, START + 40_000] {
        report_at(&mut disk, time);
        advance(Duration::from_secs(10)).await;
    }
    disk.make_room();
    assert_eq!((disk.waiting(), disk.metrics.dropped_so_far(DropReason::Expired)), (5, 0));
    assert_eq!(disk.usage().disk.oldest_age_seconds, Some(50.0));
    drop(disk);
    // Nor does a next process whose clock is three days ahead.
    let mut disk = try_open(folder.path(), ROOMY, None, &clock_at(START + 2 * THREE_DAYS_MILLIS)).unwrap();
    disk.make_room();
    assert_eq!((disk.waiting(), disk.metrics.dropped_so_far(DropReason::Expired)), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_calls_too_new_does_not_expire_while_it_may_get_another_key() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), DiskLimits { age: DAY, ..ROOMY });
    report_at(&mut disk, START + THREE_DAYS_MILLIS);
    let too_new = refused_as_too_new(&mut disk);
    disk.put_back(too_new);
    advance(DAY * 3).await;
    disk.make_room();
    assert_eq!(disk.waiting(), 1);
    assert_eq!(fail(&mut disk, Failure::Unknown), THREE_DAYS_MILLIS / 1000);
    let too_new = refused_as_too_new(&mut disk);
    assert!(!too_new.attempts().may_be_sealed_again(), "an earlier try may have been applied");
    disk.put_back(too_new);
    disk.make_room();
    assert_eq!((disk.waiting(), disk.metrics.dropped_so_far(DropReason::Expired)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_sealed_again_replaces_the_old_one_and_keeps_its_age() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), DiskLimits { age: DAY, ..ROOMY });
    report_at(&mut disk, START + THREE_DAYS_MILLIS);
    advance(Duration::from_hours(10)).await;
    let old = refused_as_too_new(&mut disk);
    assert_eq!(old.age().total(), Duration::from_hours(10));
    assert!(disk.seal_again(old.clone(), START));
    assert_eq!((disk.usage().disk.batches, disk.usage().disk.polls), (1, 1));
    assert_eq!(disk.usage().disk.oldest_age_seconds, Some(36_000.0));
    let again = disk.take().unwrap();
    assert_eq!((again.key().unix_millis(), again.body(), again.polls()), (START, old.body(), 1));
    assert_eq!((again.attempts(), again.age().total()), (Attempts::default(), Duration::from_hours(10)));
    disk.put_back(again);
    advance(Duration::from_hours(15)).await;
    disk.make_room();
    assert_eq!((disk.waiting(), disk.metrics.dropped_so_far(DropReason::Expired)), (0, 1), "it waited for a day in all");
}

#[test]
fn the_next_process_finds_only_the_batch_that_was_sealed_again() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report_at(&mut disk, START + THREE_DAYS_MILLIS);
    let old = refused_as_too_new(&mut disk);
    assert!(disk.seal_again(old.clone(), START));
    drop(disk);
    let mut disk = open(folder.path(), ROOMY);
    let found = disk.take().unwrap();
    assert_eq!((found.key().unix_millis(), found.body(), disk.waiting()), (START, old.body(), 0));
}

#[test]
fn a_batch_is_not_sealed_again_while_the_disk_takes_nothing() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report_at(&mut disk, START + THREE_DAYS_MILLIS);
    let old = refused_as_too_new(&mut disk);
    disk.folder.room = Some(10);
    assert!(!disk.seal_again(old.clone(), START));
    assert_eq!((disk.waiting(), disk.usage().bytes), (1, 0));
    disk.folder.room = None;
    let same = refused_as_too_new(&mut disk);
    assert_eq!(same.key(), old.key());
    assert!(disk.seal_again(same, START), "but later");
}

/// What a next process may do with the batches that an earlier one left: the number of those that may be sealed again.
fn may_be_sealed_again(folder: &TempDir, boot_id: Option<&str>) -> usize {
    let copy = TempDir::new().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let mut disk = open(copy.path(), ROOMY);
    if let Some(boot_id) = boot_id {
        disk.folder.boot_id = Some(boot_id.to_owned());
    }
    std::iter::from_fn(|| disk.take()).filter(|batch| batch.attempts().may_be_sealed_again()).count()
}

#[test]
fn the_next_process_knows_which_batches_may_have_been_sent() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    for number in 1..=3 {
        report(&mut disk, number, 1, 100);
    }
    assert_eq!(may_be_sealed_again(&folder, None), 3, "none was sent");
    assert_eq!(fail(&mut disk, Failure::NotSent), 1);
    assert_eq!(fail(&mut disk, Failure::TooNew), 1);
    assert_eq!(may_be_sealed_again(&folder, None), 3, "none was sent, or only to be refused because of the clock");
    let sending = disk.take().unwrap();
    assert_eq!(may_be_sealed_again(&folder, None), 2, "one is being sent");
    disk.put_back(sending);
    assert_eq!(may_be_sealed_again(&folder, None), 3);
    assert_eq!(fail(&mut disk, Failure::Unknown), 1);
    assert_eq!(may_be_sealed_again(&folder, None), 2, "one may have been applied");
    assert_eq!(may_be_sealed_again(&folder, Some("another boot")), 0, "after a power failure nothing is known");
    let sending = [number(&disk.take().unwrap()), number(&disk.take().unwrap())];
    drop(disk);
    // A process that ends during a try leaves the key of that batch; the next ones remember it.
    for _ in 0..3 {
        let disk = open(folder.path(), ROOMY);
        assert!(disk.sending.keys().is_empty());
        drop(disk);
        assert_eq!((sending, may_be_sealed_again(&folder, None)), ([1, 2], 1));
    }
}

#[test]
fn without_the_file_that_says_what_is_being_sent_batches_are_marked_when_they_are_tried() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("sending")).unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 1, 100);
    report(&mut disk, 2, 1, 100);
    let sending = disk.take().unwrap();
    disk.put_back(sending);
    drop(disk);
    std::fs::remove_dir(folder.path().join("sending")).unwrap();
    let mut disk = open(folder.path(), ROOMY);
    let found: Vec<_> = std::iter::from_fn(|| disk.take()).map(|batch| batch.attempts().may_be_sealed_again()).collect();
    assert_eq!(found, [false, true]);
}

#[test]
fn batches_of_a_clock_that_was_ahead_keep_their_distances() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    for time in [1000, 2000, THREE_DAYS_MILLIS, THREE_DAYS_MILLIS + 200, THREE_DAYS_MILLIS + 1200] {
        report_at(&mut disk, START + time);
    }
    drop(disk);
    let mut disk = try_open(folder.path(), ROOMY, None, &clock_at(START + 62_000)).unwrap();
    let oldest = disk.usage().disk.oldest_age_seconds.unwrap();
    assert!((61.0..70.0).contains(&oldest), "by this process's clock: {oldest}");
    let before: Vec<_> = std::iter::from_fn(|| disk.take()).map(|batch| batch.age().before.as_millis()).collect();
    assert_eq!(before, [61_000, 60_000, 1200, 1000, 50], "the newest of those ahead counts as sealed just before the start");
}
