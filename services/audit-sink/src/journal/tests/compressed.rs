//! Closed segments are compressed, and nothing else changes by it: not after a crash, not for readers, not for repeats.

use std::process::Command;

use super::*;

const SMALL: Limits = Limits { rotate_bytes: 20, ..LIMITS };

/// Ten events in five segments, of which four are closed and compressed.
async fn compressed(folder: &TempDir) -> (Journal, WriterHandle) {
    let opened = open(folder, SMALL, NOW);
    for number in 0..10 {
        put(&opened.0, &number.to_string(), &event(number)).await.unwrap();
    }
    all_compressed(folder, &[1, 2, 3, 4]).await;
    opened
}

async fn all_compressed(folder: &TempDir, sequences: &[u64]) {
    until("closed segments are compressed", || {
        segment::list(folder.path(), segment::COMPRESSED).unwrap() == sequences
            && segment::list(folder.path(), segment::EVENTS).unwrap().len() == 1
    })
    .await;
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| event(number) + "\n").collect()
}

#[tokio::test]
async fn a_closed_segment_is_a_file_that_zcat_reads() {
    let folder = tempfile::tempdir().unwrap();
    let opened = compressed(&folder).await;
    let zcat = Command::new("zcat").arg(first(&folder, "ndjson.gz")).output().unwrap();
    assert_eq!(String::from_utf8(zcat.stdout).unwrap(), lines(0..2));
    assert_eq!(segment::events_of(&first(&folder, "ndjson.gz")).unwrap(), Some(2));
    assert_eq!(everything(&opened.0).await, lines(0..10));
    assert_eq!(newest(&opened.0, 5).await, [9, 8, 7, 6, 5].map(event));
    assert_eq!(newest(&opened.0, 99).await.len(), 10);
}

#[tokio::test]
async fn repeats_of_compressed_events_are_recognised_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    close(compressed(&folder).await).await;
    let opened = open(&folder, SMALL, NOW + 60);
    for number in 0..10 {
        assert_eq!(put(&opened.0, &number.to_string(), &event(number)).await, Ok(Appended::Repeat));
    }
    assert_eq!(put(&opened.0, "new", &event(10)).await, Ok(Appended::Stored));
    assert_eq!(everything(&opened.0).await, lines(0..11));
}

#[tokio::test]
async fn a_crash_at_any_point_of_a_compression_is_repaired_by_the_next_start() {
    // Before the rename there is the plain file and a part of the compressed one; after it there are both whole.
    for (ending, left) in [(segment::PARTIAL, 0), (segment::PARTIAL, 17), (segment::COMPRESSED, usize::MAX)] {
        let folder = tempfile::tempdir().unwrap();
        close(compressed(&folder).await).await;
        let gzip = fs::read(first(&folder, "ndjson.gz")).unwrap();
        fs::remove_file(first(&folder, "ndjson.gz")).unwrap();
        fs::write(first(&folder, "ndjson"), lines(0..2)).unwrap();
        fs::write(first(&folder, ending), &gzip[..left.min(gzip.len())]).unwrap();
        let opened = open(&folder, SMALL, NOW);
        assert_eq!(everything(&opened.0).await, lines(0..10), "{ending} {left}");
        all_compressed(&folder, &[1, 2, 3, 4]).await;
        assert_eq!(everything(&opened.0).await, lines(0..10), "{ending} {left}");
        assert!(segment::list(folder.path(), segment::PARTIAL).unwrap().is_empty());
        assert_eq!(put(&opened.0, "0", "{}").await, Ok(Appended::Repeat));
        close(opened).await;
    }
}

#[tokio::test]
async fn a_folder_of_compressed_segments_alone_goes_on_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    close(compressed(&folder).await).await;
    fs::remove_file(segment::events(folder.path(), 5)).unwrap();
    fs::remove_file(segment::ids(folder.path(), 5)).unwrap();
    let opened = open(&folder, SMALL, NOW);
    assert_eq!(put(&opened.0, "new", &event(8)).await, Ok(Appended::Stored));
    assert_eq!(everything(&opened.0).await, lines(0..9));
    assert_eq!(segment::with_events(folder.path()).unwrap(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn readers_see_every_event_once_while_segments_are_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, Limits { rotate_bytes: 2000, ..LIMITS }, NOW);
    for number in 0..600 {
        put(&journal, &number.to_string(), &event(number)).await.unwrap();
        if number % 20 == 0 {
            assert_eq!(everything(&journal).await, lines(0..number + 1));
            assert_eq!(newest(&journal, 1).await, [event(number)]);
        }
    }
}

#[tokio::test]
async fn long_and_many_events_are_compressed_to_a_small_part() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _writer) = open(&folder, Limits { rotate_bytes: 200_000, ..LIMITS }, NOW);
    let names: Vec<String> = (0..60).map(|name| format!("SomeMetricName{name}")).collect();
    let names = serde_json::to_string(&names).unwrap();
    for number in 0..300 {
        let line = format!("{{\"ts\":{},\"metrics\":{names},\"ip_address\":\"10.0.0.1\"}}", NOW + number * 10);
        put(&journal, &number.to_string(), &line).await.unwrap();
    }
    all_compressed(&folder, &[1]).await;
    let bytes = first(&folder, "ndjson.gz").metadata().unwrap().len();
    assert!(bytes < 200_000 / 20, "{bytes}");
}
