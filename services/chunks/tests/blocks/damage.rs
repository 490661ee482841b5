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
