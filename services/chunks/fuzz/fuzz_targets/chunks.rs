//! Stored bytes with a fitting checksum, whatever else they are, are decoded or refused.
#![no_main]

use golectra_chunks::{Times, decode_counter, decode_gauge, decode_integers};
use libfuzzer_sys::fuzz_target;

/// Times that would take more are not decoded by those who ask first.
const LIMIT: usize = 16 << 20;

/// Puts the checksum in front of a part that belongs there.
fn with_checksum(body: &[u8], seed: u32) -> (Vec<u8>, u32) {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(body);
    let checksum = hasher.finalize();
    ([&checksum.to_le_bytes(), body].concat(), checksum)
}

fuzz_target!(|input: (&[u8], &[u8])| {
    let (times, column) = input;
    let mut integers = Vec::new();
    let _ = decode_integers(&with_checksum(column, 1).0, &mut integers);
    let (times, checksum) = with_checksum(&[&[1], times].concat(), 0);
    let Ok(times) = Times::decode(&times) else { return };
    if times.memory_bytes() > LIMIT {
        return;
    }
    let (column, _) = with_checksum(column, checksum);
    let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
    if decode_gauge(&times, &column, &mut timestamps_ms, &mut values).is_ok() {
        assert_eq!(timestamps_ms.len(), values.len());
        assert!(timestamps_ms.is_sorted_by(|one, next| one < next));
    }
    let (mut timestamps_ms, mut deltas) = (Vec::new(), Vec::new());
    if decode_counter(&times, &column, &mut timestamps_ms, &mut deltas).is_ok() {
        assert_eq!(timestamps_ms.len(), deltas.len());
        assert!(timestamps_ms.is_sorted_by(|one, next| one < next));
    }
});
