use std::io::Cursor;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The payloads of a file, and how many damaged stretches it has.
fn read(file: &[u8]) -> (Vec<(u64, Vec<u8>)>, u64) {
    let mut scanner = Scanner::new(Cursor::new(file)).unwrap();
    let (mut payloads, mut damages) = (Vec::new(), 0);
    while let Some(found) = scanner.next().unwrap() {
        match found {
            Found::Payload { offset, payload } => payloads.push((offset, payload.to_vec())),
            Found::Damage(_) => damages += 1,
        }
    }
    (payloads, damages)
}

/// A file with these batches, and the offsets of their records.
fn file(bodies: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let mut file = file_header().to_vec();
    let mut starts = Vec::new();
    for (body, at) in bodies.iter().zip(1..) {
        starts.push(file.len());
        let mut deltas = Deltas::default();
        deltas.add(&MetricId::parse("PollCount").unwrap(), 5);
        file.extend(encode_batch(IdempotencyKey::at(at), &deltas, &[], body).unwrap());
    }
    (file, starts)
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Bodies with markers and whole records in them are the difficult ones.
    let tricky = vec(prop_oneof![Just(MARKER[0]), Just(MARKER[1]), any::<u8>()], 0..300);
    let nested = vec(any::<u8>(), 0..40).prop_map(|body| file(&[body]).0);
    vec(prop_oneof![3 => tricky, 1 => nested], 1..8)
}

#[test]
fn records_read_back() {
    let (key, mut deltas) = (IdempotencyKey::at(1_700_000_000_123), Deltas::default());
    deltas.add(&MetricId::parse("PollCount").unwrap(), 7);
    deltas.add(&MetricId::parse(&format!("a{{b=\"{}\"}}", "c".repeat(golectra_protocol::MAX_ID_BYTES - 7))).unwrap(), i64::MAX);
    let replaces = vec![Offsets { segment: 3, offsets: vec![20, 900] }, Offsets { segment: u64::MAX, offsets: vec![] }];
    let record = encode_batch(key, &deltas, &replaces, b"body").unwrap();
    assert!(Head::parse(&record).unwrap().holds(&record[HEAD_BYTES..]));
    assert_eq!(decode(&record[HEAD_BYTES..]), Some(Record::Batch { key, deltas, replaces, body: b"body" }));
    let record = encode_settled(&[20, u32::MAX]).unwrap();
    assert_eq!(decode(&record[HEAD_BYTES..]), Some(Record::Settled(vec![20, u32::MAX])));
    let record = encode_sent(&[20]).unwrap();
    assert_eq!(decode(&record[HEAD_BYTES..]), Some(Record::Sent(vec![20])));
    let record = encode_boot("boot").unwrap();
    assert_eq!(decode(&record[HEAD_BYTES..]), Some(Record::Boot("boot")));
}

#[test]
fn a_batch_that_is_larger_than_a_record_may_be_is_not_written() {
    assert_eq!(encode_batch(IdempotencyKey::at(1), &Deltas::default(), &[], &vec![0; MAX_PAYLOAD_BYTES]), None);
}

#[test]
fn a_file_with_another_version_is_not_a_damaged_one() {
    let other = Scanner::new(Cursor::new(header_of(b'2'))).unwrap();
    assert!(other.is_of_another_version());
    let mut damaged = file_header();
    damaged[15] = b'2';
    assert!(!Scanner::new(Cursor::new(damaged)).unwrap().is_of_another_version());
    assert!(!Scanner::new(Cursor::new(file_header())).unwrap().is_of_another_version());
}

proptest! {
    #[test]
    fn every_record_is_found_where_it_is(bodies in bodies()) {
        let (file, starts) = file(&bodies);
        let (found, damages) = read(&file);
        prop_assert_eq!(damages, 0);
        prop_assert_eq!(found.iter().map(|(offset, _)| usize::try_from(*offset).unwrap()).collect::<Vec<_>>(), starts);
        for ((_, payload), body) in found.iter().zip(&bodies) {
            let Some(Record::Batch { body: found, .. }) = decode(payload) else { panic!("a batch") };
            prop_assert_eq!(found, body.as_slice());
        }
    }

    #[test]
    fn a_cut_loses_only_the_record_that_it_is_in(bodies in bodies(), cut in any::<prop::sample::Index>()) {
        let (file, starts) = file(&bodies);
        let cut = cut.index(file.len() + 1);
        let (whole, _) = read(&file);
        let (found, damages) = read(&file[..cut]);
        let intact = starts.iter().skip(1).chain([&file.len()]).filter(|end| **end <= cut).count();
        // A whole record inside the body of one that was cut is found; real bodies are compressed and contain none.
        prop_assert_eq!(&found[..intact], &whole[..intact]);
        let at_a_boundary = cut == 0 || cut == FILE_HEADER_BYTES || cut == file.len() || starts.contains(&cut);
        prop_assert_eq!(damages == 0, at_a_boundary);
    }

    #[test]
    fn a_changed_byte_loses_only_the_record_that_it_is_in(bodies in bodies(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let (mut file, starts) = file(&bodies);
        let (whole, _) = read(&file);
        let at = at.index(file.len());
        file[at] ^= flip;
        let (found, damages) = read(&file);
        prop_assert!(damages >= 1);
        let hit = starts.iter().rposition(|start| *start <= at);
        for (index, record) in whole.iter().enumerate() {
            prop_assert_eq!(found.contains(record), Some(index) != hit, "record {} of {}, byte {}", index, whole.len(), at);
        }
    }

    #[test]
    fn a_record_behind_an_incomplete_one_is_found(bodies in bodies(), cut in any::<prop::sample::Index>()) {
        let (mut file, starts) = file(&bodies);
        let last = *starts.last().unwrap();
        file.truncate(last + 1 + cut.index(file.len() - last - 1));
        let behind = file.len();
        file.extend(encode_settled(&[20]).unwrap());
        let (found, damages) = read(&file);
        prop_assert!(damages >= 1);
        let settled = |(offset, payload): &(u64, Vec<u8>)| {
            *offset == behind as u64 && decode(payload) == Some(Record::Settled(vec![20]))
        };
        // A record that lacks exactly the bytes with which the next one begins is completed by it.
        prop_assert!(found.iter().any(settled) || found.iter().any(|(offset, _)| *offset == last as u64));
        prop_assert!(starts[..starts.len() - 1].iter().all(|start| found.iter().any(|(offset, _)| *offset == *start as u64)));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..500), payload in vec(any::<u8>(), 0..200)) {
        read(&bytes);
        decode(&payload);
        for kind in [BATCH, SETTLED, SENT, BOOT] {
            let mut payload = payload.clone();
            payload.insert(0, kind);
            decode(&payload);
        }
    }
}
