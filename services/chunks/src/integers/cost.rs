//! Estimates of how much space residuals need, without coding them.

use crate::bytes::{to_zigzag, varint_bytes};

/// About how many bits pco needs for the bounds of one bin.
const BITS_PER_BIN: f64 = 24.0;

/// How many values stand for all of them when the typical one is looked for.
const SAMPLES: usize = 31;

/// The median of some of the values.
pub(super) fn typical(values: &[i64]) -> i64 {
    typical_of(values.len(), |index| values[index])
}

/// The median of some of `count` values.
pub(super) fn typical_of(count: usize, value: impl Fn(usize) -> i64) -> i64 {
    let mut samples = [0; SAMPLES];
    let samples = &mut samples[..count.min(SAMPLES)];
    let taken = samples.len();
    for (index, sample) in samples.iter_mut().enumerate() {
        *sample = value(index * count / taken);
    }
    let middle = taken / 2;
    *samples.select_nth_unstable(middle).1
}

/// About how many bits pco needs for these: each one's distance from the typical one, and which power of two that is below.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn of_residuals(residuals: impl ExactSizeIterator<Item = i64> + Clone) -> f64 {
    let count = residuals.len();
    if count == 0 {
        return 0.0;
    }
    let mut samples = [0; SAMPLES];
    let stride = count.div_ceil(SAMPLES);
    let mut taken = 0;
    for residual in residuals.clone().step_by(stride) {
        samples[taken] = residual;
        taken += 1;
    }
    let center = *samples[..taken].select_nth_unstable(taken / 2).1;
    let mut classes = [0_u32; 65];
    for residual in residuals {
        classes[64 - to_zigzag(residual.wrapping_sub(center)).leading_zeros() as usize] += 1;
    }
    let all = (count as f64).log2();
    let mut bits = of_value(center);
    for (class, &members) in classes.iter().enumerate() {
        if members > 0 {
            let members = f64::from(members);
            bits += members * (all - members.log2() + class.saturating_sub(1) as f64) + BITS_PER_BIN;
        }
    }
    bits
}

/// How many bits a single value takes.
#[expect(clippy::cast_precision_loss, reason = "at most 80")]
pub(super) fn of_value(value: i64) -> f64 {
    8.0 * varint_bytes(to_zigzag(value)) as f64
}
