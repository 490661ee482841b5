//! A process that dies at any moment leaves what can be read, and no poll is counted twice or goes missing.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

type Files = BTreeMap<String, Vec<u8>>;

fn snapshot(folder: &Path) -> Files {
    files(folder).into_iter().map(|(name, _)| (name.clone(), std::fs::read(folder.join(name)).unwrap())).collect()
}

/// The polls that a process finds which starts with these files.
fn polls_found(files: &Files) -> u64 {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    open(folder.path(), SMALL).fill().disk.polls
}

/// Every state of the files between two moments: what was appended is there up to some byte, the newest file first.
/// What was removed went last.
fn between(before: &Files, after: &Files, step: usize) -> Vec<Files> {
    let mut states = Vec::new();
    let mut state = before.clone();
    for (name, bytes) in after.iter().rev() {
        let start = before.get(name).map_or(0, Vec::len);
        assert!(bytes.starts_with(before.get(name).map_or(&[], Vec::as_slice)), "nothing is rewritten");
        for cut in (start..bytes.len()).step_by(step) {
            state.insert(name.clone(), bytes[..cut].to_vec());
            states.push(state.clone());
        }
        state.insert(name.clone(), bytes.clone());
        states.push(state.clone());
    }
    states
}

/// Follows the files from one operation to the next.
struct Watch {
    before: Files,
    states: usize,
}

impl Watch {
    /// Whatever of the last operation is on disk, the next process finds the polls of before it or of after it.
    fn check(&mut self, disk: &Disk, step: usize) {
        let after = snapshot(disk.folder.path());
        let (old, new) = (polls_found(&self.before), polls_found(&after));
        assert_eq!(new, disk.fill().disk.polls);
        for state in between(&self.before, &after, step) {
            let found = polls_found(&state);
            assert!(found == old || found == new, "{found} polls, neither {old} nor {new}");
            self.states += 1;
        }
        self.before = after;
    }
}

#[test]
fn a_write_is_there_or_not_wherever_it_was_cut() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    let mut watch = Watch { before: snapshot(folder.path()), states: 0 };
    for number in 1..=3 {
        report(&mut disk, number, 100 + i64::try_from(number).unwrap(), 40);
        watch.check(&disk, 1);
    }
    // One is taken by the server, the next refused for good; its polls go into the next report.
    acknowledge(&mut disk);
    watch.check(&disk, 1);
    let refused = disk.take().unwrap();
    disk.refuse(&refused, DropReason::Invalid);
    watch.check(&disk, 1);
    assert_eq!(report(&mut disk, 4, 1000, 40), 1000 + refused.polls());
    watch.check(&disk, 1);
    // The same with the two in different files.
    let refused = disk.take().unwrap();
    disk.refuse(&refused, DropReason::Invalid);
    disk.roll();
    report(&mut disk, 5, 5000, 40);
    watch.check(&disk, 1);
    sync(&mut disk);
    watch.check(&disk, 1);
    assert!(watch.states > 800, "{} states", watch.states);
}

#[test]
fn what_was_replaced_does_not_come_back_when_its_replacement_is_gone() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), ROOMY);
    report(&mut disk, 1, 5, 100);
    disk.roll();
    let refused = disk.take().unwrap();
    disk.refuse(&refused, DropReason::Invalid);
    assert_eq!(report(&mut disk, 2, 5, 100), 10);
    assert_eq!(acknowledge(&mut disk), Some(2));
    // Neither file is removed before the process dies; then one process after the other dies early too.
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
fn making_room_is_done_or_not_wherever_it_was_cut() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(folder.path(), SMALL);
    let mut number = 1;
    while disk.fill().disk.bytes + 2 * (64 << 10) <= SMALL.bytes {
        report(&mut disk, number, 1, 9000);
        number += 1;
    }
    let mut watch = Watch { before: snapshot(folder.path()), states: 0 };
    while disk.stats.dropped_so_far(DropReason::SpoolFull) == 0 {
        report(&mut disk, number, 1, 9000);
        watch.check(&disk, 997);
        number += 1;
    }
    sync(&mut disk);
    watch.check(&disk, 997);
    assert_eq!(disk.fill().disk.polls, number - 1);
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy)]
enum Event {
    Report,
    /// The server takes the next one and says so.
    Acknowledge,
    /// The next one is tried; whether the server applied it, and whether the agent must suppose so.
    Fail {
        applied: bool,
        unknown: bool,
    },
    /// The server will never take the next one.
    Refuse,
    Sync,
    /// SIGKILL and a new process.
    Crash,
    /// SIGKILL in the middle of a try.
    CrashWhileSending {
        applied: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Report),
        4 => Just(Event::Acknowledge),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(applied, unknown)| Event::Fail { applied, unknown: unknown || applied }),
        2 => Just(Event::Refuse),
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
            assert_eq!(body, batch.body(), "a key stands for one body");
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
                        disk.forget(batch.key());
                    }
                }
                Event::Fail { applied, unknown } => {
                    if let Some(mut batch) = disk.take() {
                        if applied {
                            server.apply(&batch);
                        }
                        batch.tried(unknown);
                        disk.put_back(batch);
                    }
                }
                Event::Refuse => {
                    if let Some(mut batch) = disk.take() {
                        batch.tried(false);
                        // Lost are the polls of one that may have been applied and was not: nobody can know.
                        if batch.may_be_applied() && !server.applied.contains_key(&batch.key()) {
                            lost += batch.polls();
                        }
                        disk.refuse(&batch, DropReason::Invalid);
                        // What of this is not written down when the process dies is sent again.
                        let given_back = disk.make_room(START);
                        disk.push(restored_at(reports, given_back));
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
        prop_assert_eq!(disk.stats.spool_corrupt_so_far(), 0);
        while let Some(batch) = disk.take() {
            server.apply(&batch);
            disk.forget(batch.key());
        }
        prop_assert_eq!(server.polls + lost, made);
    }
}

/// A report without a poll of its own.
fn restored_at(number: u64, deltas: Deltas) -> Batch {
    let body = gzip::pack(&[0; 10]);
    Batch::restored(IdempotencyKey::at(START + number * 1000 + 1), body.into(), deltas, None, (0, false)).unwrap()
}
