//! The folder stays within its bound of bytes: the oldest segments are removed, and counted.

use super::*;

/// What the journal's files take now, in bytes.
fn folder_bytes(folder: &TempDir) -> u64 {
    let files = folder.path().read_dir().unwrap().map(|entry| entry.unwrap());
    files.filter(|file| file.file_name() != ".lock").filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum()
}

/// 960 letters that do not compress well.
fn noise(number: u64) -> String {
    (0..30).fold(String::new(), |noise, block| noise + &format!("{:032x}", id::hash(&format!("{number} {block}"))))
}

fn removed(metrics: &SinkMetrics, limit: &str) -> u64 {
    metrics.removed.with_label_values(&[limit]).get()
}

#[tokio::test]
async fn the_oldest_events_are_removed_and_counted_and_the_bound_holds_at_all_times() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { rotate_bytes: 10_000, retain_bytes: 100_000, ..LIMITS };
    let metrics = metrics();
    let (journal, writer) = Journal::open(folder.path(), limits, metrics.clone(), NOW).unwrap();
    for number in 0..600_u64 {
        let line = format!("{{\"ts\":{number},\"noise\":\"{}\"}}", noise(number));
        assert_eq!(journal.append(number.to_string(), line.into_bytes(), NOW, share()).await, Ok(Appended::Stored));
        let bytes = folder_bytes(&folder);
        assert!(bytes <= limits.retain_bytes, "{bytes} bytes after event {number}");
    }
    // Which is no more than the bound asks for.
    assert!(folder_bytes(&folder) > 70_000);
    let kept: Vec<u64> = everything(&journal).await.lines().map(|line| line[6..].split(',').next().unwrap().parse().unwrap()).collect();
    let oldest = kept[0];
    assert_eq!(kept, (oldest..600).collect::<Vec<_>>());
    assert_eq!((removed(&metrics, "RETAIN_BYTES"), removed(&metrics, "RETAIN_FILES")), (oldest, 0));
    assert_eq!(metrics.oldest_event.get(), i64::try_from(oldest).unwrap());
    assert_eq!(metrics.files.get(), i64::try_from(segment::with_events(folder.path()).unwrap().len()).unwrap());
    close((journal, writer)).await;
    // A bound that was lowered holds from the start on, for compressed segments too.
    let limits = Limits { retain_bytes: 30_000, ..limits };
    let (journal, writer) = Journal::open(folder.path(), limits, metrics.clone(), NOW).unwrap();
    assert!(folder_bytes(&folder) <= 30_000);
    let first: u64 = everything(&journal).await[6..].split(',').next().unwrap().parse().unwrap();
    assert_eq!(removed(&metrics, "RETAIN_BYTES"), first, "events of compressed segments are counted");
    close((journal, writer)).await;
}

#[tokio::test]
async fn a_file_of_somebody_else_is_counted_when_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(first(&folder, "ndjson"), "{\"ts\":7}\n".repeat(30)).unwrap();
    fs::write(segment::events(folder.path(), 2), "{\"ts\":8}\n").unwrap();
    let metrics = metrics();
    let limits = Limits { retain_bytes: 200, ..LIMITS };
    let opened = Journal::open(folder.path(), limits, metrics.clone(), NOW).unwrap();
    assert_eq!(segment::with_events(folder.path()).unwrap(), [2]);
    assert_eq!((removed(&metrics, "RETAIN_BYTES"), metrics.oldest_event.get()), (30, 8));
    close(opened).await;
}

#[tokio::test]
async fn the_active_segment_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, Limits { rotate_bytes: 100, retain_bytes: 1, ..LIMITS }, NOW);
    for number in 0..20 {
        put(&journal, &number.to_string(), &event(number)).await.unwrap();
        assert_eq!(newest(&journal, 1).await, [event(number)]);
    }
}

#[tokio::test]
async fn ids_that_are_too_many_to_be_remembered_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, Limits { rotate_bytes: 20, remember_ids: 4, ..LIMITS }, NOW);
    for number in 0..10 {
        put(&journal, &number.to_string(), &event(number)).await.unwrap();
    }
    // Two events a segment, and the active one.
    assert_eq!(segment::list(folder.path(), segment::IDS).unwrap(), [3, 4, 5]);
    assert_eq!(segment::with_events(folder.path()).unwrap(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn many_ids_close_a_segment_as_many_events_do() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, Limits { rotate_bytes: 1000, ..LIMITS }, NOW);
    // 180 bytes of events, and 13,000 of ids.
    for number in 0..60 {
        put(&journal, &format!("{number:0200}"), "{}").await.unwrap();
    }
    assert_eq!(segment::with_events(folder.path()).unwrap().len(), 4);
}
