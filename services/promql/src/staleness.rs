//! The marker that says that a series has ended.

use crate::column::{BLOCK, any_of};

/// The bits of the NaN that Prometheus stores when a series is not there any more.
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The stale marker as a value.
pub const STALE: f64 = f64::from_bits(STALE_BITS);

/// Whether a stored value is the stale marker.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// Copies samples without stale markers into the buffers, if there are any markers at all.
///
/// Range vectors never show them, so what computes over ranges need not know them.
pub(crate) fn without_stale<'a>(
    timestamps_ms: &'a [i64],
    values: &'a [f64],
    buffers: &'a mut (Vec<i64>, Vec<f64>),
) -> (&'a [i64], &'a [f64]) {
    if !values.chunks(BLOCK).any(|block| any_of(block.iter(), |value| is_stale(*value))) {
        return (timestamps_ms, values);
    }
    buffers.0.clear();
    buffers.1.clear();
    for (timestamp_ms, value) in timestamps_ms.iter().zip(values) {
        if !is_stale(*value) {
            buffers.0.push(*timestamp_ms);
            buffers.1.push(*value);
        }
    }
    (&buffers.0, &buffers.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marker_is_stale() {
        assert!(is_stale(STALE) && STALE.is_nan());
        assert!(!is_stale(f64::NAN) && !is_stale(0.0));
    }

    #[test]
    fn markers_are_taken_out() {
        let mut buffers = Default::default();
        assert_eq!(without_stale(&[1, 2, 3], &[1.0, STALE, 3.0], &mut buffers), (&[1, 3][..], &[1.0, 3.0][..]));
        let (timestamps, values) = ([1], [1.0]);
        let same = without_stale(&timestamps, &values, &mut buffers);
        assert!(std::ptr::eq(same.0.as_ptr(), timestamps.as_ptr()));
    }
}
