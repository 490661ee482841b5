//! Snappy's block format, in which these messages come.

use snap::raw::{Decoder, decompress_len};

/// Snappy makes at most so many bytes of one: a copy of 64 bytes takes three.
const MAX_RATIO: usize = 22;

/// Why a body can't be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsnapError {
    /// Not snappy, damaged, or cut off.
    #[error("the body is not a valid snappy block")]
    Invalid,
    /// More than the limit, in bytes.
    #[error("the unpacked body is larger than {0} bytes")]
    TooLarge(usize),
    /// The caller has no room for as many bytes.
    #[error("there is no room for an unpacked body of {0} bytes")]
    NoRoom(usize),
}

/// Unpacks a whole body of at most `limit` bytes. The block says how long it is; `room` is asked for as many bytes before they are taken.
pub fn unsnap(packed: &[u8], limit: usize, mut room: impl FnMut(usize) -> bool) -> Result<Vec<u8>, UnsnapError> {
    let length = decompress_len(packed).map_err(|_| UnsnapError::Invalid)?;
    if length > limit {
        return Err(UnsnapError::TooLarge(limit));
    }
    if length > packed.len().saturating_mul(MAX_RATIO) {
        return Err(UnsnapError::Invalid);
    }
    if !room(length) {
        return Err(UnsnapError::NoRoom(length));
    }
    Decoder::new().decompress_vec(packed).map_err(|_| UnsnapError::Invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snap::raw::Encoder;

    use super::*;

    #[test]
    fn a_length_is_checked_before_anything_is_unpacked() {
        let packed = Encoder::new().compress_vec(&[7; 10_000]).unwrap();
        assert_eq!(unsnap(&packed, 9_999, |_| panic!("nothing is taken")), Err(UnsnapError::TooLarge(9_999)));
        assert_eq!(unsnap(&packed, 10_000, |bytes| bytes < 10_000), Err(UnsnapError::NoRoom(10_000)));
        assert_eq!(unsnap(&packed, 10_000, |_| true).unwrap(), [7; 10_000]);
        // 4 GiB in six bytes.
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        assert_eq!(unsnap(&bomb, 16 << 20, |_| panic!("nothing is taken")), Err(UnsnapError::TooLarge(16 << 20)));
        assert_eq!(unsnap(&bomb, usize::MAX, |_| panic!("nothing is taken")), Err(UnsnapError::Invalid), "six bytes can't hold as many");
        for invalid in [&b""[..], b"\xff", b"\x05abc", b"\x03\x08ab", b"golectra"] {
            assert_eq!(unsnap(invalid, 1 << 20, |_| true), Err(UnsnapError::Invalid), "{invalid:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_packed_unpacks(body in prop::collection::vec(0..4_u8, 0..2_000)) {
            let packed = Encoder::new().compress_vec(&body).unwrap();
            prop_assert_eq!(unsnap(&packed, body.len(), |_| true).unwrap(), body);
        }

        #[test]
        fn whatever_comes_is_unpacked_within_its_limit_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(unpacked) = unsnap(&body, 1_000, |_| true) {
                prop_assert!(unpacked.len() <= 1_000);
            }
        }
    }
}
