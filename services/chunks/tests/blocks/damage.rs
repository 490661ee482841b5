//! Damaged bytes give an error or samples, never a panic.

use golectra_chunks::{DecodeError, Times};
use proptest::prelude::*;

use crate::samples::{Samples, arbitrary_block, decode, encode};

/// Changes one byte.
fn damage(bytes: &mut [u8], position: usize, change: u8) -> bool {
    if bytes.is_empty() || change == 0 {
        return false;
    }
    let position = position % bytes.len();
    bytes[position] ^= change;
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_changed_byte_is_noticed(samples in arbitrary_block(), position: usize, change: u8) {
        let mut block = encode(&samples);
        let times = Times::decode(&block.times).unwrap();
        for (index, samples) in samples.iter().enumerate() {
            let mut column = block.column(index).to_vec();
            if damage(&mut column, position, change) {
                prop_assert_eq!(decode(&times, &column, samples), Err(DecodeError::Checksum));
            }
        }
        if damage(&mut block.times, position, change) {
            prop_assert_eq!(Times::decode(&block.times).err(), Some(DecodeError::Checksum));
        }
    }

    #[test]
    fn a_shortened_part_is_noticed(samples in arbitrary_block(), position: usize) {
        let block = encode(&samples);
        let times = Times::decode(&block.times).unwrap();
        for (index, samples) in samples.iter().enumerate() {
            let column = block.column(index);
            if !column.is_empty() {
                let shortened = &column[..position % column.len()];
                prop_assert!(shortened.is_empty() || decode(&times, shortened, samples).is_err());
            }
        }
        prop_assert!(Times::decode(&block.times[..position % block.times.len()]).is_err());
    }
}

#[test]
fn a_column_is_not_read_with_the_times_of_another_block() {
    let samples = |start| [Samples::gauge((start..start + 9).collect(), (0..9).map(f64::from).collect())];
    let (block, other) = (encode(&samples(0)), encode(&samples(1)));
    let times = Times::decode(&other.times).unwrap();
    assert_eq!(decode(&times, block.column(0), &samples(0)[0]), Err(DecodeError::Checksum));
}

#[test]
fn a_counter_is_not_a_gauge() {
    let (gauge, counter) = (Samples::gauge(vec![1, 2], vec![1.0, 2.0]), Samples::counter(vec![1, 2], vec![1, 2]));
    let block = encode(&[gauge.clone(), counter.clone()]);
    let times = Times::decode(&block.times).unwrap();
    assert_eq!(decode(&times, block.column(0), &counter), Err(DecodeError::Kind));
    assert_eq!(decode(&times, block.column(1), &gauge), Err(DecodeError::Kind));
}

/// Makes the checksum fit what stands behind it, as an attacker with access to the database would.
fn repair(part: &mut [u8], seed: u32) {
    if let Some((checksum, body)) = part.split_first_chunk_mut::<4>() {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(body);
        *checksum = hasher.finalize().to_le_bytes();
    }
}

/// The seed of the columns' checksums.
fn seed_of(times: &[u8]) -> u32 {
    times.first_chunk::<4>().map_or(0, |checksum| u32::from_le_bytes(*checksum))
}

/// Decodes a column as both kinds. Whatever comes out has as many times as values, in order.
fn read(times: &Times, column: &[u8]) {
    let bytes = times.memory_bytes();
    for like in [Samples::gauge(Vec::new(), Vec::new()), Samples::counter(Vec::new(), Vec::new())] {
        let Ok(samples) = decode(times, column, &like) else { continue };
        let count = match &samples {
            Samples::Gauge(_, values) => values.len(),
            Samples::Counter(_, deltas) => deltas.len(),
        };
        assert_eq!(samples.timestamps_ms().len(), count);
        assert!(samples.timestamps_ms().is_sorted_by(|one, next| one < next));
        // Who holds memory_bytes() for the times knows how long a column of them may be.
        assert!(count * size_of::<i64>() <= bytes, "{count} samples of times that take {bytes} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damage_with_a_repaired_checksum_gives_an_error_or_samples(samples in arbitrary_block(), changes in proptest::collection::vec((4..200_usize, any::<u8>()), 1..4)) {
        let block = encode(&samples);
        let times = Times::decode(&block.times).unwrap();
        for index in 0..samples.len() {
            let mut column = block.column(index).to_vec();
            for (position, change) in changes.iter().filter(|(position, _)| *position < column.len()).copied().collect::<Vec<_>>() {
                column[position] ^= change;
            }
            repair(&mut column, seed_of(&block.times));
            read(&times, &column);
        }
        let mut damaged = block.times.clone();
        for (position, change) in changes.iter().filter(|(position, _)| *position < damaged.len()).copied().collect::<Vec<_>>() {
            damaged[position] ^= change;
        }
        repair(&mut damaged, 0);
        // Times that would take more memory than a query has are not decoded by those who ask first.
        if let Ok(times) = Times::decode(&damaged) && times.memory_bytes() < 16 << 20 {
            for index in 0..samples.len() {
                let mut column = block.column(index).to_vec();
                repair(&mut column, seed_of(&damaged));
                read(&times, &column);
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_with_a_checksum_give_an_error_or_samples(mut times in proptest::collection::vec(any::<u8>(), 4..64), mut column in proptest::collection::vec(any::<u8>(), 4..64), known: bool) {
        if known && times.len() > 4 {
            // The version, without which nothing else is looked at.
            times[4] = 1;
        }
        repair(&mut times, 0);
        if let Ok(decoded) = Times::decode(&times) && decoded.memory_bytes() < 16 << 20 {
            repair(&mut column, seed_of(&times));
            read(&decoded, &column);
        }
        repair(&mut column, 1);
        let mut integers = Vec::new();
        let _ = golectra_chunks::decode_integers(&column, &mut integers);
    }
}
