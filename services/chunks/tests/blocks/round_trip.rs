//! What is coded is decoded to the bit, whatever it is.

use golectra_chunks::{Times, decode_integers, encode_integers, samples_of};
use proptest::prelude::*;

use crate::samples::{Samples, arbitrary_block, arbitrary_integer, decode, encode};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn blocks_survive(samples in arbitrary_block()) {
        let block = encode(&samples);
        prop_assert_eq!(block.offsets.len(), samples.len() + 1);
        let times = Times::decode(&block.times).unwrap();
        for (index, expected) in samples.iter().enumerate() {
            let column = block.column(index);
            prop_assert_eq!(samples_of(&times, column).unwrap(), expected.timestamps_ms().len());
            prop_assert_eq!(column.is_empty(), expected.timestamps_ms().is_empty());
            prop_assert_eq!(&decode(&times, column, expected).unwrap(), expected);
        }
    }

    #[test]
    fn integers_survive(values in prop::collection::vec(arbitrary_integer(), 0..300)) {
        let mut again = vec![7];
        decode_integers(&encode_integers(&values), &mut again).unwrap();
        prop_assert_eq!(&again[1..], &values);
    }
}

#[test]
fn every_kind_of_double_survives() {
    let values: Vec<f64> = [
        0x7ff0_0000_0000_0002, // stale
        0x7ff8_0000_0000_0000,
        0xfff8_0000_dead_beef,
        0x7ff0_0000_0000_0001, // signalling
        0x8000_0000_0000_0000, // -0.0
        0,
        1,
        f64::INFINITY.to_bits(),
        f64::NEG_INFINITY.to_bits(),
        f64::MAX.to_bits(),
        f64::MIN_POSITIVE.to_bits(),
        0.1_f64.to_bits(),
        9_007_199_254_740_993.0_f64.to_bits(),
        (-9_223_372_036_854_775_808.0_f64).to_bits(),
        9_223_372_036_854_775_808.0_f64.to_bits(),
    ]
    .map(f64::from_bits)
    .to_vec();
    // Each alone, all together, and each among whole numbers, where it stands apart.
    let mut blocks: Vec<Vec<f64>> = values.iter().map(|value| vec![*value]).collect();
    blocks.push(values.clone());
    blocks.extend(values.iter().map(|value| (0..20).map(|index| if index == 7 { *value } else { f64::from(index) }).collect()));
    let samples: Vec<Samples> = blocks.into_iter().map(|values| Samples::gauge((0..).take(values.len()).collect(), values)).collect();
    let block = encode(&samples);
    let times = Times::decode(&block.times).unwrap();
    for (index, expected) in samples.iter().enumerate() {
        assert_eq!(&decode(&times, block.column(index), expected).unwrap(), expected);
    }
}

#[test]
fn a_block_without_samples_has_columns() {
    let block = encode(&[]);
    assert_eq!(block.offsets, [0]);
    let samples = [Samples::gauge(vec![], vec![]), Samples::counter(vec![], vec![])];
    let block = encode(&samples);
    assert_eq!((block.offsets, block.data), (vec![0, 0, 0], vec![]));
    assert!(Times::decode(&block.times).is_ok());
}

#[test]
fn a_long_column_survives() {
    // More than pco puts into one page where it is not told to.
    let count = 300_000;
    let samples =
        [Samples::counter((0..count).collect(), (0..count).map(|index| if index == 4711 { i64::MAX } else { index % 3 }).collect())];
    let block = encode(&samples);
    let times = Times::decode(&block.times).unwrap();
    assert_eq!(decode(&times, block.column(0), &samples[0]).unwrap(), samples[0]);
}
