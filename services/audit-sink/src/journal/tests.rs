//! The journal through crashes, failures and restarts.

mod compressed;
mod room;

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use futures_util::TryStreamExt as _;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::*;
use crate::inflight::Inflight;

const NOW: i64 = 1_700_000_000;

const LIMITS: Limits =
    Limits { rotate_bytes: 1 << 20, retain_files: 0, retain_bytes: u64::MAX, remember_ids: 1000, remember: Duration::from_hours(48) };

fn metrics() -> SinkMetrics {
    SinkMetrics::register(&Registry::new()).unwrap()
}

fn open(folder: &TempDir, limits: Limits, now: i64) -> (Journal, WriterHandle) {
    Journal::open(folder.path(), limits, metrics(), now).unwrap()
}

async fn close((journal, writer): (Journal, WriterHandle)) {
    drop(journal);
    writer.finish(Duration::from_secs(10)).await;
}

async fn put(journal: &Journal, id: &str, line: &str) -> Result<Appended, &'static str> {
    journal.append(id.to_owned(), line.as_bytes().to_vec(), NOW, share()).await
}

/// Memory for one event.
fn share() -> InflightShare {
    Inflight::new(1 << 20, 2000).share()
}

fn permit() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
}

async fn everything(journal: &Journal) -> String {
    let blocks: Vec<_> = journal.everything(permit()).unwrap().try_collect().await.unwrap();
    String::from_utf8(blocks.concat()).unwrap()
}

async fn newest(journal: &Journal, limit: usize) -> Vec<String> {
    let (lines, _) = journal.newest(limit, permit()).await.unwrap();
    lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
}

fn first(folder: &TempDir, ending: &str) -> PathBuf {
    folder.path().join(format!("audit-0000000001.{ending}"))
}

fn add(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn event(number: u64) -> String {
    format!("{{\"n\":{number}}}")
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_disk_does_not_take_keeps_its_memory_and_the_sink_is_not_ready() {
    let (commands, mut stalled) = mpsc::channel(QUEUE);
    let journal = Journal {
        folder: Path::new("/nowhere").into(),
        commands,
        read_limit: Arc::new(Mutex::new(ReadLimit { sequence: 1, bytes: 0 })),
        healthy: Arc::new(AtomicBool::new(true)),
    };
    assert!(journal.ping().await);
    let inflight = Inflight::new(100, 10);
    let mut share = inflight.share();
    assert!(share.raise_to(80));
    assert!(journal.append("a".to_owned(), b"{}".to_vec(), NOW, share).await.is_err());
    let mut other = inflight.share();
    assert!(!other.raise_to(30), "the event waits for the disk");
    assert!(!journal.ping().await);
    drop(stalled.try_recv().unwrap());
    assert!(other.raise_to(30));
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

#[tokio::test]
async fn events_are_stored_once_and_ids_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&folder, LIMITS, NOW);
    for (id, line, expected) in [("a", "{1}", Appended::Stored), ("b", "{2}", Appended::Stored), ("a", "{1}", Appended::Repeat)] {
        assert_eq!(put(&opened.0, id, line).await, Ok(expected));
    }
    close(opened).await;
    let opened = open(&folder, LIMITS, NOW + 60);
    assert_eq!(put(&opened.0, "b", "{2}").await, Ok(Appended::Repeat));
    assert_eq!(put(&opened.0, "c", "{3}").await, Ok(Appended::Stored));
    assert_eq!(everything(&opened.0).await, "{1}\n{2}\n{3}\n");
    close(opened).await;
    // After two days an id is not remembered any more.
    let opened = open(&folder, LIMITS, NOW + 49 * 3600);
    assert_eq!(opened.0.append("b".into(), b"{4}".to_vec(), NOW + 49 * 3600, share()).await, Ok(Appended::Stored));
}

#[tokio::test]
async fn an_event_that_comes_again_and_again_is_stored_once_however_long_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, LIMITS, NOW);
    let (stored, repeat) = (Appended::Stored, Appended::Repeat);
    // What is older than 48 hours is forgotten when another event comes.
    for (hours, id, expected) in
        [(0, "a", stored), (40, "a", repeat), (80, "b", stored), (81, "a", repeat), (130, "c", stored), (131, "a", stored)]
    {
        let appended = journal.append(id.into(), b"{}".to_vec(), NOW + hours * 3600, share()).await;
        assert_eq!(appended, Ok(expected), "{id} after {hours} hours");
    }
}

#[tokio::test]
async fn one_id_sent_many_times_at_once_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, LIMITS, NOW);
    let tries = (0..200).map(|try_| {
        let journal = journal.clone();
        tokio::spawn(async move { put(&journal, &format!("id{}", try_ % 4), "{}").await.unwrap() })
    });
    let mut stored = 0;
    for handle in tries.collect::<Vec<_>>() {
        stored += usize::from(handle.await.unwrap() == Appended::Stored);
    }
    assert_eq!((stored, everything(&journal).await), (4, "{}\n".repeat(4)));
}

#[tokio::test]
async fn what_a_crash_left_unacknowledged_is_moved_away() {
    // Torn in the line, after the line but before its id, and in the id.
    for (events, ids) in
        [("{\"torn", ""), ("{3}\n", ""), ("{3}\n", "1700000000 1"), ("", "1700000000 12 c\n"), ("{3}", "1700000000 99 c\n")]
    {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(&folder, LIMITS, NOW);
        put(&opened.0, "a", "{1}").await.unwrap();
        put(&opened.0, "b", "{2}").await.unwrap();
        close(opened).await;
        add(&first(&folder, "ndjson"), events);
        add(&first(&folder, "ids"), ids);
        let opened = open(&folder, LIMITS, NOW);
        assert_eq!(everything(&opened.0).await, "{1}\n{2}\n", "{events:?} {ids:?}");
        assert_eq!(put(&opened.0, "c", "{3}").await, Ok(Appended::Stored), "{events:?} {ids:?}");
        assert_eq!(put(&opened.0, "a", "{1}").await, Ok(Appended::Repeat));
        assert_eq!(everything(&opened.0).await, "{1}\n{2}\n{3}\n");
        assert_eq!(fs::read_to_string(first(&folder, "torn")).unwrap_or_default(), events);
        close(opened).await;
    }
}

#[tokio::test]
async fn events_without_their_ids_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(first(&folder, "ndjson"), "{1}\n{2}\n{to").unwrap();
    let opened = open(&folder, LIMITS, NOW);
    assert_eq!(put(&opened.0, "c", "{3}").await, Ok(Appended::Stored));
    close(opened).await;
    let opened = open(&folder, LIMITS, NOW);
    assert_eq!(everything(&opened.0).await, "{1}\n{2}\n{3}\n");
    assert_eq!(fs::read_to_string(first(&folder, "torn")).unwrap(), "{to");
}

#[tokio::test]
async fn files_rotate_by_size_and_reads_go_over_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&folder, Limits { rotate_bytes: 20, ..LIMITS }, NOW);
    for number in 0..10 {
        put(&opened.0, &number.to_string(), &event(number)).await.unwrap();
    }
    assert_eq!(segment::with_events(folder.path()).unwrap(), [1, 2, 3, 4, 5]);
    let all = (0..10).map(|number| event(number) + "\n").collect::<String>();
    assert_eq!(everything(&opened.0).await, all);
    assert_eq!(newest(&opened.0, 3).await, [r#"{"n":9}"#, r#"{"n":8}"#, r#"{"n":7}"#]);
    assert_eq!(newest(&opened.0, 99).await.len(), 10);
    close(opened).await;
    let opened = open(&folder, Limits { rotate_bytes: 20, ..LIMITS }, NOW);
    assert_eq!(put(&opened.0, "0", "{}").await, Ok(Appended::Repeat), "ids of finished files are remembered");
    assert_eq!(everything(&opened.0).await, all);
}

#[tokio::test]
async fn only_so_many_files_are_kept_but_ids_for_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { rotate_bytes: 20, retain_files: 2, ..LIMITS };
    let opened = open(&folder, limits, NOW);
    for number in 0..10 {
        put(&opened.0, &number.to_string(), &event(number)).await.unwrap();
    }
    assert_eq!(segment::with_events(folder.path()).unwrap(), [4, 5]);
    assert_eq!(put(&opened.0, "0", "{}").await, Ok(Appended::Repeat));
    close(opened).await;
    let later = NOW + 49 * 3600;
    let opened = open(&folder, limits, later);
    assert_eq!(segment::list(folder.path(), segment::IDS).unwrap(), [5], "ids that are too old are removed");
    assert_eq!(everything(&opened.0).await.lines().count(), 4);
}

#[tokio::test]
async fn long_lines_are_read_backwards_too() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, Limits { rotate_bytes: 64 << 20, ..LIMITS }, NOW);
    let long = "x".repeat(300_000);
    for (id, line) in [("a", "{1}"), ("b", long.as_str()), ("c", "{3}")] {
        put(&journal, id, line).await.unwrap();
    }
    assert_eq!(newest(&journal, 9).await, ["{3}", long.as_str(), "{1}"]);
}

#[tokio::test]
async fn an_event_that_can_not_be_written_is_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, Limits { rotate_bytes: 5, ..LIMITS }, NOW);
    assert_eq!(put(&journal, "a", "{1}").await, Ok(Appended::Stored));
    // The next file has nowhere to stand.
    let away = tempfile::tempdir().unwrap();
    let moved = away.path().join("journal");
    fs::rename(folder.path(), &moved).unwrap();
    assert!(put(&journal, "b", "{2}").await.is_err());
    assert!(!journal.ping().await);
    fs::rename(&moved, folder.path()).unwrap();
    assert!(journal.ping().await);
    assert_eq!(put(&journal, "b", "{2}").await, Ok(Appended::Stored));
    assert_eq!(put(&journal, "a", "{1}").await, Ok(Appended::Repeat));
    assert_eq!(everything(&journal).await, "{1}\n{2}\n");
}

#[tokio::test]
async fn a_folder_has_one_sink() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&folder, LIMITS, NOW);
    let second = Journal::open(folder.path(), LIMITS, metrics(), NOW).err().unwrap();
    assert!(matches!(&second, OpenError::InUse(_)), "{second}");
    close(opened).await;
    assert!(Journal::open(folder.path(), LIMITS, metrics(), NOW).is_ok());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Journal::open(&file, LIMITS, metrics(), NOW).err().unwrap();
    assert!(error.to_string().contains("(DATA_DIR) can't be used"), "{error}");
}
