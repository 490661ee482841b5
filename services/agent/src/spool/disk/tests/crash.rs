//! A process that is killed at any point leaves files that can be read, and no poll is lost or counted twice.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

type Files = BTreeMap<String, Vec<u8>>;

fn snapshot(folder: &Path) -> Files {
    files(folder).into_iter().map(|(name, _)| (name.clone(), std::fs::read(folder.join(name)).unwrap())).collect()
}

/// The polls that a process finds when it starts with these files.
fn polls_found(files: &Files) -> u64 {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    open(folder.path(), SMALL).usage().disk.polls
}

/// Every state of the files between two points in time: what was appended is there up to some byte, the newest file first,
/// and files are removed last.
fn between(before: &Files, after: &Files, step: usize) -> Vec<Files> {
    let mut states = Vec::new();
    let mut state = before.clone();
    for (name, bytes) in after.iter().rev() {
        let start = before.get(name).map_or(0, Vec::len);
        assert!(bytes.starts_with(before.get(name).map_or(&[], Vec::as_slice)), "files are only appended to");
        for cut in (start..bytes.len()).step_by(step) {
            state.insert(name.clone(), bytes[..cut].to_vec());
            states.push(state.clone());
        }
        state.insert(name.clone(), bytes.clone());
        states.push(state.clone());
    }
    states
}

/// Compares the files before and after each operation.
struct Watch {
    before: Files,
    states: usize,
}

impl Watch {
    /// Whatever part of the last operation is on disk, the next process finds the polls from before it or from after it.
    fn check(&mut self, disk: &Disk, step: usize) {
        let after = snapshot(disk.folder.path());
        let (old, new) = (polls_found(&self.before), polls_found(&after));
        assert_eq!(new, disk.usage().disk.polls);
        for state in between(&self.before, &after, step) {
            let found = polls_found(&state);
            assert!(found == old || found == new, "{found} polls, neither {old} nor {new}");
            self.states += 1;
        }
        self.before = after;
    }
}

#[test]
fn a_write_is_whole_or_absent_wherever_it_was_cut() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    let mut watch = Watch { before: snapshot(folder.path()), states: 0 };
    for number in 1..=3 {
        report(&mut disk, number, 100 + i64::try_from(number).unwrap(), 40);
        watch.check(&disk, 1);
    }
    // The server accepts one and rejects the next, whose polls go into the next report.
    acknowledge(&mut disk);
    watch.check(&disk, 1);
    let rejected = disk.take().unwrap();
    disk.reject(&rejected, DropReason::Invalid);
    watch.check(&disk, 1);
    assert_eq!(report(&mut disk, 4, 1000, 40), 1000 + rejected.polls());
    watch.check(&disk, 1);
    // The same with the two in different files.
    let rejected = disk.take().unwrap();
    disk.reject(&rejected, DropReason::Invalid);
    disk.roll();
    report(&mut disk, 5, 5000, 40);
    watch.check(&disk, 1);
    sync(&mut disk);
    watch.check(&disk, 1);
    assert!(watch.states > 800, "{} states", watch.states);
}

#[test]
fn a_replaced_batch_does_not_come_back_when_its_replacement_is_removed() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 5, 100);
    disk.roll();
    let rejected = disk.take().unwrap();
    disk.reject(&rejected, DropReason::Invalid);
    assert_eq!(report(&mut disk, 2, 5, 100), 10);
    assert_eq!(acknowledge(&mut disk), Some(2));
    // Neither file is removed before the process is killed, and neither are those of the next ones.
    for synced in [false, false, true, false] {
        drop(disk);
        disk = open(folder.path(), ROOMY);
        assert_eq!(disk.waiting(), 0);
        if synced {
            sync(&mut disk);
            assert!(files(folder.path()).is_empty());
        }
    }
}

#[test]
fn making_room_is_whole_or_absent_wherever_it_was_cut() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    let mut number = 1;
    while disk.usage().disk.bytes + 2 * (64 << 10) <= SMALL.bytes {
        report(&mut disk, number, 1, 9000);
        number += 1;
    }
    let mut watch = Watch { before: snapshot(folder.path()), states: 0 };
    while disk.metrics.dropped_so_far(DropReason::SpoolFull) == 0 {
        report(&mut disk, number, 1, 9000);
        watch.check(&disk, 997);
        number += 1;
    }
    sync(&mut disk);
    watch.check(&disk, 997);
    assert_eq!(disk.usage().disk.polls, number - 1);
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy)]
enum Event {
    Report,
    /// The server accepts the next batch.
    Acknowledge,
    /// The next batch is tried. Whether the server applied it, and whether the agent has to assume so.
    Fail {
        applied: bool,
        unknown: bool,
    },
    /// The server says that the next batch is ahead of its clock, even if it applied it before its clock was set back.
    TooNew,
    /// The server rejects the next batch.
    Reject,
    Sync,
    /// SIGKILL and a new process.
    Crash,
    /// SIGKILL during a try.
    CrashWhileSending {
        applied: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Report),
        4 => Just(Event::Acknowledge),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(applied, unknown)| Event::Fail { applied, unknown: unknown || applied }),
        2 => Just(Event::TooNew),
        2 => Just(Event::Reject),
        1 => Just(Event::Sync),
        1 => Just(Event::Crash),
        1 => any::<bool>().prop_map(|applied| Event::CrashWhileSending { applied }),
    ]
}

/// A server that applies each key once.
#[derive(Default)]
struct Ledger {
    applied: HashMap<IdempotencyKey, bytes::Bytes>,
    polls: i64,
}

impl Ledger {
    fn apply(&mut self, batch: &Batch) {
        if let Some(body) = self.applied.get(&batch.key()) {
            assert_eq!(body, batch.body(), "a key means one body");
        } else {
            self.applied.insert(batch.key(), batch.body().clone());
            self.polls += batch.polls();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn polls_on_the_server_are_the_polls_made(events in proptest::collection::vec(event(), 1..120), body_bytes in prop_oneof![Just(100_usize), Just(20_000)]) {
        let folder = TempDir::new().unwrap();
        let mut disk = open(folder.path(), ROOMY);
        let mut server = Ledger::default();
        let (mut made, mut lost, mut reports) = (0, 0, 0);
        for event in events.into_iter().chain([Event::Crash, Event::Report]) {
            match event {
                Event::Report => {
                    reports += 1;
                    made += 5;
                    report(&mut disk, reports, 5, body_bytes);
                }
                Event::Acknowledge => {
                    if let Some(batch) = disk.take() {
                        server.apply(&batch);
                        disk.acknowledge(batch.key());
                    }
                }
                Event::Fail { applied, unknown } => {
                    if let Some(mut batch) = disk.take() {
                        if applied {
                            server.apply(&batch);
                        }
                        batch.record(if unknown { Failure::Unknown } else { Failure::Refused });
                        disk.put_back(batch);
                    }
                }
                Event::TooNew => {
                    if let Some(mut batch) = disk.take() {
                        batch.record(Failure::TooNew);
                        if batch.attempts().may_be_sealed_again() {
                            prop_assert!(disk.seal_again(batch, START));
                        } else {
                            disk.put_back(batch);
                        }
                    }
                }
                Event::Reject => {
                    if let Some(mut batch) = disk.take() {
                        batch.record(Failure::Refused);
                        // The polls of a batch that may have been applied and was not are lost.
                        if batch.attempts().may_be_applied() && !server.applied.contains_key(&batch.key()) {
                            lost += batch.polls();
                        }
                        disk.reject(&batch, DropReason::Invalid);
                        // Without a next report on disk, the next process would send the rejected one again.
                        let returned = disk.make_room();
                        disk.push(super::batch(START + reports * 1000 + 1, returned, 10));
                    }
                }
                Event::Sync => sync(&mut disk),
                Event::Crash => {
                    drop(disk);
                    disk = open(folder.path(), ROOMY);
                }
                Event::CrashWhileSending { applied } => {
                    if let Some(batch) = disk.take()
                        && applied
                    {
                        server.apply(&batch);
                    }
                    drop(disk);
                    disk = open(folder.path(), ROOMY);
                }
            }
        }
        prop_assert_eq!(disk.metrics.spool_corrupt_so_far(), 0);
        while let Some(batch) = disk.take() {
            server.apply(&batch);
            disk.acknowledge(batch.key());
        }
        prop_assert_eq!(server.polls + lost, made);
    }
}
