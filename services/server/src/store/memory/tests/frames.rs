//! The journal's bytes: round trips, and whatever is done to them.

use golectra_protocol::Source;
use golectra_protocol::{Metrics, Value};
use proptest::prelude::*;

use super::super::disk::Op;
use super::super::framing::{self, RecordReader};
use super::super::record::{self, Record, ReportRun, SourceRecord, WriteRecord};
use super::*;
use crate::store::lifetime::{Mark, ReportingClock};

fn read(bytes: &[u8]) -> (Vec<Record>, u64) {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, bytes).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let mut frames = RecordReader::new(file).unwrap();
    let mut records = Vec::new();
    while let Some(record) = frames.next(record::decode).unwrap() {
        records.push(record);
    }
    (records, frames.good_bytes)
}

prop_compose! {
    fn any_write()(
        source in "[a-zA-Z0-9._-]{0,40}", at in 0..(1_u64 << 48), keyed in any::<bool>(), digest in any::<[u8; 32]>(), seen in any::<u64>(),
        metrics in proptest::collection::vec(("[^\\p{Cc}]{1,60}", any::<u64>(), proptest::option::of(0..=i64::MAX), any::<i64>()), 1..6),
        times in any::<bool>(), long in any::<bool>(),
    ) -> (Batch, u64) {
        let mut all = Metrics::default();
        for (id, bits, delta, at) in metrics {
            let id = if long { format!("{id}{}", "x".repeat(3000)) } else { id };
            let value = delta.map_or(Value::Gauge(f64::from_bits(bits)), Value::Counter);
            let pushed = if times { all.push_parsed_at(&id, value, at) } else { all.push_parsed(&id, value) };
            pushed.unwrap();
        }
        let source = Source::from_stored(&source).unwrap();
        (Batch { source, key: IdempotencyKey::at(at), keyed, digest, metrics: all, audit: None }, seen)
    }
}

fn write_of((batch, seen_millis): &(Batch, u64)) -> Record {
    let Batch { source, key, keyed, digest, metrics, .. } = batch.clone();
    Record::Write(WriteRecord { seen_millis: *seen_millis, source, key, keyed, digest: super::super::keys::short(&digest), metrics })
}

/// A journal, its records and where each frame ends.
fn journal(writes: &[(Batch, u64)]) -> (Vec<u8>, Vec<Record>, Vec<u64>) {
    let marks = (0..3).map(|n| Mark { reporting_millis: 1000 * n, arrival: n }).collect();
    let clock = ReportingClock { reporting_millis: 5, marks };
    let name = Source::parse("a").unwrap();
    let head = SourceRecord { first_seen_millis: 1, last_seen_millis: 2, floor_millis: 3, clock, period: 3, name: name.clone() };
    let reports: Vec<_> = (0..3).map(|n| ReportRun { series: 7 + n, arrival: 1 << (40 + n), period: 255 }).collect();
    let keys: Vec<_> = writes.iter().map(|(batch, _)| (0, batch.key, super::super::keys::short(&batch.digest))).collect();
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    record::encode_head(&mut bytes, &[9; 32]);
    assert_eq!(bytes.len(), record::HEAD_FRAME_BYTES);
    ends.push(bytes.len() as u64);
    record::encode_source(&mut bytes, &head, &reports);
    ends.push(bytes.len() as u64);
    record::encode_keys(&mut bytes, &keys);
    ends.push(bytes.len() as u64);
    let mut records = vec![Record::Head([9; 32]), Record::Source(head, reports), Record::Keys(keys)];
    record::encode_mark(&mut bytes, &name);
    ends.push(bytes.len() as u64);
    record::encode_expiry(&mut bytes, &name, 1 << 40);
    ends.push(bytes.len() as u64);
    record::encode_forget(&mut bytes, &name);
    ends.push(bytes.len() as u64);
    records.extend([Record::Mark(name.clone()), Record::Expiry(name.clone(), 1 << 40), Record::Forget(name)]);
    for one in writes {
        record::encode_write(&mut bytes, &one.0, one.1);
        ends.push(bytes.len() as u64);
        records.push(write_of(one));
    }
    (bytes, records, ends)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_comes_back(writes in proptest::collection::vec(any_write(), 0..6)) {
        let (bytes, records, _) = journal(&writes);
        prop_assert_eq!(read(&bytes), (records, bytes.len() as u64));
    }

    #[test]
    fn a_cut_journal_gives_its_whole_frames(writes in proptest::collection::vec(any_write(), 0..4), at in any::<prop::sample::Index>()) {
        let (bytes, records, ends) = journal(&writes);
        let cut = at.index(bytes.len());
        let whole = ends.iter().filter(|end| **end <= cut as u64).count();
        let good = if whole == 0 { 0 } else { ends[whole - 1] };
        prop_assert_eq!(read(&bytes[..cut]), (records[..whole].to_vec(), good));
    }

    #[test]
    fn a_flipped_bit_ends_the_journal_before_its_frame(
        writes in proptest::collection::vec(any_write(), 0..4), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let (mut bytes, records, ends) = journal(&writes);
        let place = at.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let whole = ends.iter().filter(|end| **end <= place as u64).count();
        prop_assert_eq!(read(&bytes).0, records[..whole].to_vec());
    }

    #[test]
    fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..120), tag in 0..9_u8) {
        let _ = record::decode(&payload);
        let _ = record::decode(&[&[tag], payload.as_slice()].concat());
    }
}

#[test]
fn golden_bytes_of_a_write() {
    let key = IdempotencyKey::parse("017f22e2-79b0-7cc3-98c4-dc0c0c07398f").unwrap();
    let metrics = vec![super::conformance::counter("c", 2), super::conformance::gauge("g", 1.0)];
    let batch = Batch { digest: [7; 32], ..batch("n1", key, metrics) };
    let mut bytes = Vec::new();
    record::encode_write(&mut bytes, &batch, 258);
    let golden = concat!(
        "45000000a1e9484e",
        "04",
        "0201000000000000",
        "026e31",
        "017f22e279b07cc398c4dc0c0c07398f",
        "01",
        "07070707070707070707070707070707",
        "010200000000000000",
        "010063",
        "00000000000000f03f",
        "010067",
    );
    assert_eq!(hex::encode(bytes), golden);
}

#[tokio::test]
async fn a_torn_tail_is_skipped_counted_kept_and_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let store = journaled(&path);
    for _ in 0..3 {
        store.apply(batch("a", IdempotencyKey::at(NOW), vec![super::conformance::counter("c", 1)])).await.unwrap();
    }
    store.crash();
    let journal = folder.path().join("m.json.journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&journal, &bytes).unwrap();
    let store = journaled(&path);
    assert_eq!(counter(&store, "c").await, Some(2));
    let skipped = store.memory_metrics().journal_skipped_bytes.load(Ordering::Relaxed);
    assert_eq!(
        std::fs::read(folder.path().join("m.json.journal.damaged")).unwrap(),
        bytes[bytes.len() - usize::try_from(skipped).unwrap()..]
    );
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![super::conformance::counter("c", 10)])).await.unwrap();
    store.crash();
    let store = journaled(&path);
    assert_eq!(counter(&store, "c").await, Some(12));
    assert_eq!(store.memory_metrics().journal_skipped_bytes.load(Ordering::Relaxed), 0);
}

/// Cuts the last bytes off a journal, and gives what is left.
fn tear(journal: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(journal).unwrap();
    bytes.truncate(bytes.len() - 5);
    std::fs::write(journal, &bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_damaged_end_is_cut_off_only_where_it_was_kept_and_the_next_one_takes_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let (path, journal) = (folder.path().join("m.json"), folder.path().join("m.json.journal"));
    let one = || batch("a", IdempotencyKey::at(NOW), vec![super::conformance::counter("c", 1)]);
    let store = journaled(&path);
    for _ in 0..3 {
        store.apply(one()).await.unwrap();
    }
    store.crash();
    let bytes = tear(&journal);

    let open_with = |failing, kind: io::ErrorKind| {
        let disk = Disk { hook: Some(Arc::new(move |op| if op == failing { Err(kind.into()) } else { Ok(()) })) };
        MemoryStore::open_on(config(Some(path.clone()), Duration::ZERO, true), Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES)
    };
    let full =
        open_with(Op::Create, io::ErrorKind::StorageFull).unwrap_or_else(|error| panic!("a full disk keeps no server down: {error}"));
    full.crash();
    assert_eq!(std::fs::read(&journal).unwrap(), bytes);
    let opened = open_with(Op::Sync, io::ErrorKind::Other);
    let Err(error) = opened else { panic!("the journal was cut off and nothing of it kept") };
    assert!(matches!(error, OpenError::Journal { .. }), "{error}");
    assert!(error.to_string().contains("m.json.journal.damaged"), "{error}");
    assert_eq!(std::fs::read(&journal).unwrap(), bytes);

    let mut kept: Vec<Vec<u8>> = Vec::new();
    for name in ["m.json.journal.damaged", "m.json.journal.damaged.2", "m.json.journal.damaged.3"] {
        let before = std::fs::read(&journal).unwrap();
        let store = journaled(&path);
        let good_bytes = std::fs::read(&journal).unwrap().len();
        kept.push(std::fs::read(folder.path().join(name)).unwrap());
        assert_eq!(kept.last().unwrap(), &before[good_bytes..]);
        assert_eq!(std::fs::read(folder.path().join("m.json.journal.damaged")).unwrap(), kept[0], "the first stays");
        store.apply(one()).await.unwrap();
        store.crash();
        tear(&journal);
    }
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, journal) = (folder.path().join("m.json"), folder.path().join("m.json.journal"));
    let one = batch("a", IdempotencyKey::at(NOW), vec![super::conformance::counter("c", 1)]);
    let store = journaled(&path);
    store.apply(one.clone()).await.unwrap();
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![super::conformance::counter("c", 1)])).await.unwrap();
    store.crash();
    let bytes = std::fs::read(&journal).unwrap();
    let with_sum = |mut frame: Vec<u8>| {
        let sum = framing::sum(&frame[framing::HEAD_BYTES..]);
        frame[4..framing::HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        frame
    };
    let mut unknown_tag = Vec::new();
    framing::append(&mut unknown_tag, |out| out.extend([99, 1, 2, 3]));
    let mut unknown_flag = Vec::new();
    record::encode_write(&mut unknown_flag, &one, NOW);
    // Behind the tag, the time, the source and the key.
    unknown_flag[framing::HEAD_BYTES + 1 + 8 + 2 + 16] |= 4;
    let mut other_number = bytes[..record::HEAD_FRAME_BYTES].to_vec();
    let number = framing::HEAD_BYTES + 1 + "golectra journal ".len();
    assert_eq!(other_number[number], b'2');
    other_number[number] = b'3';
    for newer in [
        [bytes.clone(), unknown_tag].concat(),
        [bytes.clone(), with_sum(unknown_flag)].concat(),
        [with_sum(other_number), bytes[record::HEAD_FRAME_BYTES..].to_vec()].concat(),
    ] {
        std::fs::write(&journal, &newer).unwrap();
        let Err(error) = MemoryStore::open(config(Some(path.clone()), Duration::ZERO, true), Clock::at(NOW)) else {
            panic!("a newer version's journal was taken")
        };
        assert!(matches!(error, OpenError::Journal { .. }), "{error}");
        assert!(error.to_string().contains("newer version of golectra-server"), "{error}");
        assert_eq!(std::fs::read(&journal).unwrap(), newer);
    }
    assert!(!folder.path().join("m.json.journal.damaged").exists());
    std::fs::write(&journal, &bytes).unwrap();
    assert_eq!(counter(&journaled(&path), "c").await, Some(2));
}
