//! What both stores of alerts promise.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use uuid::Uuid;

use super::memory::MemoryAlertStore;
use super::{AlertStore, Commit, LONGEST_PAUSE, MAX_WAITING, Settled};
use crate::alerts::notification::{Notification, NotifiedAlert};
use crate::alerts::state::{AlertState, GroupState, Phase, RuleState, Silence, SilenceMatcher, Texts};
use crate::clock::Clock;
use crate::store::postgres::testing::TestDatabase;

fn notification(receiver: &str, at_ms: i64) -> Notification {
    let alert = NotifiedAlert {
        labels: Texts::from([("alertname".into(), "A".into())]),
        annotations: Texts::new(),
        firing: true,
        starts_ms: at_ms,
        ends_ms: at_ms,
        value: "1".into(),
        generator_url: "https://golectra.example.com/explore?query=up".into(),
    };
    let expires_ms = at_ms + 3_600_000;
    Notification {
        id: Uuid::now_v7(),
        receiver: receiver.into(),
        created_ms: at_ms,
        expires_ms,
        group: Texts::new(),
        alerts: vec![alert],
        others_firing: 0,
        external_url: String::new(),
    }
}

fn group(name: &str, at_ms: i64) -> GroupState {
    let alert = AlertState {
        labels: Texts::from([("alertname".into(), "A\u{1}\"ü".into())]),
        annotations: Texts::new(),
        phase: Phase::Pending,
        active_ms: at_ms,
        fired_ms: None,
        resolved_ms: None,
        keep_firing_since_ms: None,
        value: f64::INFINITY,
        told: BTreeMap::new(),
    };
    let rule = RuleState { key: "A".into(), alerts: vec![alert], ..RuleState::default() };
    GroupState { file: "f".into(), name: name.into(), evaluated_ms: at_ms, seconds: 0.25, resumed_ms: Some(at_ms), rules: vec![rule] }
}

/// The whole life of a state, on any store that nobody used before.
async fn keeps_its_promises(store: &dyn AlertStore) {
    assert!(store.lead().await.unwrap());
    let at_ms = store.now_ms() / 1000 * 1000;
    let commit = |at_ms: i64, groups: Vec<GroupState>, notifications: Vec<Notification>| Commit {
        at_ms,
        groups,
        removed: Vec::new(),
        notifications,
    };
    let told = vec![notification("a", at_ms), notification("b", at_ms), notification("a", at_ms)];
    assert!(store.commit(commit(at_ms, vec![group("x", at_ms), group("y", at_ms)], told.clone())).await.unwrap());
    // Once for each time.
    assert!(!store.commit(commit(at_ms, vec![group("z", at_ms)], told.clone())).await.unwrap());
    let stored = store.load().await.unwrap();
    assert_eq!((stored.evaluated_ms, &stored.groups), (at_ms, &vec![group("x", at_ms), group("y", at_ms)]));
    let waiting = store.waiting().await.unwrap();
    assert_eq!((waiting["a"].notifications, waiting["b"].notifications, waiting["a"].oldest_ms), (2, 1, at_ms));

    // One after the other for a receiver, and at the same time for others.
    let first = store.claim("a").await.unwrap().unwrap();
    assert_eq!((first.notification.id, first.attempts), (told[0].id, 0));
    assert!(store.claim("a").await.unwrap().is_none());
    assert!(store.claim("c").await.unwrap().is_none());
    let other = store.claim("b").await.unwrap().unwrap();
    assert_eq!(other.notification, told[1]);
    store.settle(&first, Settled::Retry(Duration::ZERO)).await.unwrap();
    let again = store.claim("a").await.unwrap().unwrap();
    assert_eq!((again.notification.id, again.attempts), (told[0].id, 1));
    // What lost its claim says nothing.
    store.settle(&first, Settled::Done).await.unwrap();
    store.settle(&again, Settled::Done).await.unwrap();
    let second = store.claim("a").await.unwrap().unwrap();
    assert_eq!(second.notification.id, told[2].id);
    store.settle(&second, Settled::Retry(Duration::from_hours(1))).await.unwrap();
    assert!(store.claim("a").await.unwrap().is_none());
    assert!(store.take_dropped().is_empty());

    // A later evaluation replaces, removes, and drops what is too old or too much.
    let later_ms = at_ms + 7_200_000;
    let many: Vec<_> = (0..=MAX_WAITING).map(|_| notification("m", later_ms)).collect();
    let second_of_many = many[1].id;
    let change =
        Commit { at_ms: later_ms, groups: vec![group("x", later_ms)], removed: vec![("f".into(), "y".into())], notifications: many };
    assert!(store.commit(change).await.unwrap());
    let stored = store.load().await.unwrap();
    assert_eq!((stored.evaluated_ms, &stored.groups), (later_ms, &vec![group("x", later_ms)]));
    let waiting = store.waiting().await.unwrap();
    assert_eq!((waiting.len(), waiting["m"].notifications), (1, MAX_WAITING as u64));
    assert_eq!(store.claim("m").await.unwrap().unwrap().notification.id, second_of_many);
    let dropped = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1), ("m".to_owned(), 1)]);
    assert_eq!((store.take_dropped(), store.take_dropped().len()), (dropped, 0));

    let matchers = vec![SilenceMatcher { name: "a".into(), value: "b".into(), is_regex: false, is_equal: true }];
    let silence =
        Silence { id: Uuid::now_v7(), matchers, starts_ms: at_ms, ends_ms: later_ms, created_by: "me".into(), comment: "why".into() };
    assert!(store.add_silence(silence.clone()).await.unwrap());
    assert_eq!(store.load().await.unwrap().silences, std::slice::from_ref(&silence));
    assert!(store.end_silence(silence.id, at_ms + 5).await.unwrap());
    assert!(!store.end_silence(silence.id, at_ms + 6).await.unwrap());
    assert!(!store.end_silence(Uuid::now_v7(), at_ms).await.unwrap());
    assert_eq!(store.load().await.unwrap().silences, [Silence { ends_ms: at_ms + 5, ..silence }]);
    assert!(store.commit(commit(at_ms + 86_400_000 + 5, Vec::new(), Vec::new())).await.unwrap());
    assert!(store.load().await.unwrap().silences.is_empty());

    // A clock that has gone back is followed.
    assert!(store.commit(commit(at_ms, Vec::new(), Vec::new())).await.unwrap());
    assert_eq!(store.load().await.unwrap().evaluated_ms, at_ms);
}

/// What can't be delivered holds up what comes after it of its group, and nothing else. On any store that nobody used before.
async fn groups_do_not_wait_for_each_other(store: &dyn AlertStore) {
    assert!(store.lead().await.unwrap());
    let at_ms = store.now_ms() / 1000 * 1000;
    let of_group = |name: &str| Notification { group: Texts::from([("alertname".into(), name.into())]), ..notification("a", at_ms) };
    let told = ["A", "A", "B", "C", "B"].map(of_group);
    assert!(store.commit(Commit { at_ms, notifications: told.to_vec(), ..Commit::default() }).await.unwrap());
    let claim = async || store.claim("a").await.unwrap();
    let refused = claim().await.unwrap();
    assert_eq!(refused.notification, told[0]);
    store.settle(&refused, Settled::Retry(LONGEST_PAUSE)).await.unwrap();
    let of_b = claim().await.unwrap();
    assert_eq!(of_b.notification, told[2], "the second one of A waits for the first");
    let of_c = claim().await.unwrap();
    assert_eq!(of_c.notification, told[3], "the second one of B waits while the first is being delivered");
    assert!(claim().await.is_none());
    for claimed in [&of_b, &of_c] {
        store.settle(claimed, Settled::Done).await.unwrap();
    }
    let again = claim().await.unwrap();
    assert_eq!(again.notification, told[4]);
    store.settle(&again, Settled::Done).await.unwrap();
    assert!(claim().await.is_none());
}

#[tokio::test]
async fn groups_do_not_wait_for_each_other_in_memory() {
    groups_do_not_wait_for_each_other(&MemoryAlertStore::open(None, false, Clock::System).unwrap()).await;
}

#[tokio::test]
async fn groups_do_not_wait_for_each_other_in_a_database() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    groups_do_not_wait_for_each_other(&*store.alerts()).await;
}

#[tokio::test]
async fn in_memory() {
    keeps_its_promises(&MemoryAlertStore::open(None, false, Clock::System).unwrap()).await;
}

#[tokio::test]
async fn in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.alerts");
    let open = |restore| MemoryAlertStore::open(Some(path.clone()), restore, Clock::System);
    keeps_its_promises(&open(true).unwrap()).await;
    let again = open(true).unwrap();
    assert_eq!(again.load().await.unwrap().groups.len(), 1);
    assert_eq!(again.waiting().await.unwrap().len(), 0);
    assert!(open(false).unwrap().load().await.unwrap().groups.is_empty());
    std::fs::write(&path, "{").unwrap();
    assert!(open(true).is_err());
}

#[tokio::test]
async fn what_was_delivered_does_not_come_again_although_the_file_can_not_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryAlertStore::open(Some(folder.path().join("m.alerts")), false, Clock::System).unwrap();
    let at_ms = store.now_ms();
    let notifications = vec![notification("a", at_ms), notification("a", at_ms)];
    let second = notifications[1].id;
    assert!(store.commit(Commit { at_ms, notifications, ..Commit::default() }).await.unwrap());
    folder.close().unwrap();
    let first = store.claim("a").await.unwrap().unwrap();
    assert!(store.settle(&first, Settled::Done).await.is_err());
    let next = store.claim("a").await.unwrap().unwrap();
    assert_eq!(next.notification.id, second);
    store.settle(&next, Settled::Done).await.unwrap_err();
    // What is evaluated is an error, and receivers are told all the same.
    let third = notification("a", at_ms + 1);
    assert!(store.commit(Commit { at_ms: at_ms + 1, notifications: vec![third.clone()], ..Commit::default() }).await.is_err());
    assert_eq!(store.load().await.unwrap().evaluated_ms, at_ms + 1);
    assert_eq!(store.claim("a").await.unwrap().unwrap().notification, third);
    // A silence counts only if it is in the file: who makes it learns that it is not.
    let silence =
        Silence { id: Uuid::now_v7(), matchers: Vec::new(), starts_ms: 1, ends_ms: 2, created_by: "me".into(), comment: "why".into() };
    assert!(store.add_silence(silence).await.is_err());
    assert!(store.load().await.unwrap().silences.is_empty());
}

#[tokio::test]
async fn a_change_that_can_not_be_written_leaves_no_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, new) = (folder.path().join("m.alerts"), folder.path().join("m.alerts.new"));
    let store = MemoryAlertStore::open(Some(path.clone()), false, Clock::System).unwrap();
    let silence =
        Silence { id: Uuid::now_v7(), matchers: Vec::new(), starts_ms: 1, ends_ms: 2, created_by: "me".into(), comment: "why".into() };
    // Writing fails for want of room.
    std::os::unix::fs::symlink("/dev/full", &new).unwrap();
    assert!(store.add_silence(silence.clone()).await.is_err());
    assert!(new.symlink_metadata().is_err());
    // Putting it in place fails.
    std::fs::create_dir(&path).unwrap();
    assert!(store.add_silence(silence.clone()).await.is_err());
    assert!(new.symlink_metadata().is_err());
    std::fs::remove_dir(&path).unwrap();
    assert!(store.add_silence(silence).await.unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_change_that_nobody_waits_for_is_finished_before_the_next_one_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.alerts");
    let open = |restore| MemoryAlertStore::open(Some(path.clone()), restore, Clock::System).unwrap();
    let matchers = vec![SilenceMatcher { name: "a".into(), value: "b".into(), is_regex: false, is_equal: true }];
    let silence = Silence { id: Uuid::now_v7(), matchers, starts_ms: 1, ends_ms: 2, created_by: "me".into(), comment: "why".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let store = open(false);
        // The only thread that files are written on has something else to do.
        let (free, until_free) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || until_free.recv());
        assert!(store.add_silence(silence.clone()).now_or_never().is_none());
        assert!(store.load().now_or_never().is_none(), "the change is under way");
        free.send(()).unwrap();
        busy.await.unwrap().unwrap();
        assert_eq!(store.load().await.unwrap().silences, std::slice::from_ref(&silence));
        assert_eq!(open(true).load().await.unwrap().silences, std::slice::from_ref(&silence));
    });
}

#[tokio::test]
async fn what_was_put_off_before_the_clock_went_back_is_due() {
    let now_ms: i64 = 1_800_000_000_000;
    let clock = Clock::at(now_ms.unsigned_abs());
    let store = MemoryAlertStore::open(None, false, clock.clone()).unwrap();
    let notifications = vec![notification("a", now_ms)];
    assert!(store.commit(Commit { at_ms: now_ms, notifications, ..Commit::default() }).await.unwrap());
    let first = store.claim("a").await.unwrap().unwrap();
    store.settle(&first, Settled::Retry(LONGEST_PAUSE)).await.unwrap();
    assert!(store.claim("a").await.unwrap().is_none(), "a whole pause is waited for");
    clock.set(now_ms.unsigned_abs() - 1);
    let again = store.claim("a").await.unwrap().unwrap();
    assert_eq!((again.notification.id, again.attempts), (first.notification.id, 1));
    assert!(store.claim("a").await.unwrap().is_none(), "it is being delivered");
    clock.set(now_ms.unsigned_abs() - 3_600_000);
    assert!(store.claim("a").await.unwrap().is_some(), "a lease of a later time is over");
}

#[tokio::test]
async fn what_was_put_off_before_the_clock_of_a_database_went_back_is_due() {
    let Some(database) = TestDatabase::create().await else { return };
    let postgres = database.store().await;
    let store = postgres.alerts();
    assert!(store.lead().await.unwrap());
    let at_ms = store.now_ms();
    let notifications = vec![notification("a", at_ms)];
    assert!(store.commit(Commit { at_ms, notifications, ..Commit::default() }).await.unwrap());
    let first = store.claim("a").await.unwrap().unwrap();
    store.settle(&first, Settled::Retry(LONGEST_PAUSE)).await.unwrap();
    assert!(store.claim("a").await.unwrap().is_none(), "a whole pause is waited for");
    // As if the clock had gone back by an hour since.
    let mut conn = database.connect().await;
    sqlx::query("UPDATE alert_notifications SET due_at = due_at + interval '1 hour'").execute(&mut conn).await.unwrap();
    let again = store.claim("a").await.unwrap().unwrap();
    assert_eq!((again.notification.id, again.attempts), (first.notification.id, 1));
}

#[tokio::test]
async fn in_a_database() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    keeps_its_promises(&*store.alerts()).await;
}

#[tokio::test]
async fn one_server_of_a_database_evaluates_until_its_session_ends() {
    let Some(database) = TestDatabase::create().await else { return };
    let (one, other) = (database.store().await, database.store().await);
    let (first, second) = (one.alerts(), other.alerts());
    assert!(first.lead().await.unwrap() && first.lead().await.unwrap());
    assert!(!second.lead().await.unwrap());
    let at_ms = first.now_ms();
    let commit = |at_ms| Commit { at_ms, groups: vec![group("x", at_ms)], ..Commit::default() };
    assert!(!second.commit(commit(at_ms)).await.unwrap());
    assert!(first.commit(commit(at_ms)).await.unwrap());
    // As when it is killed, or cut off: the session is gone before the server knows.
    let mut conn = database.connect().await;
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND objid = 5
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(ended, 1);
    let leads = async {
        while !second.lead().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), leads).await.expect("the other one leads");
    assert!(first.commit(commit(at_ms + 1)).await.is_err(), "what it was about to commit is not committed");
    assert!(!first.lead().await.unwrap());
    assert!(second.commit(commit(at_ms + 1)).await.unwrap());
}
