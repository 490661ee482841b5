//! Gzip of a body that is generated piece by piece and never in memory as a whole.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Packs a body piece by piece. It takes about 300 KiB of memory, whatever the length of the body.
pub struct Packer(GzEncoder<Vec<u8>>);

impl Packer {
    /// A packer at the fastest level.
    pub fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// Adds the next piece and returns the bytes that are packed by now, which often are none.
    pub fn pack(&mut self, piece: &[u8]) -> Vec<u8> {
        self.0.write_all(piece).expect("writing to memory never fails");
        std::mem::take(self.0.get_mut())
    }

    /// Returns the last bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0.finish().expect("writing to memory never fails")
    }
}

impl Default for Packer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gzip::unpack;

    #[test]
    fn a_long_body_is_packed_before_it_is_complete() {
        let (mut packer, mut whole, mut longest) = (Packer::new(), Vec::new(), 0);
        let piece = |n: u32| format!("{{\"id\":\"series_{n}\",\"value\":{}}},", u64::from(n) * 7919).repeat(400);
        let body: String = (0..200).map(piece).collect();
        for n in 0..200 {
            let out = packer.pack(piece(n).as_bytes());
            longest = longest.max(out.len());
            whole.extend(out);
        }
        assert!(longest > 0 && longest < 64 << 10, "{longest}");
        whole.extend(packer.finish());
        assert!(whole.len() < body.len() / 5);
        assert_eq!(unpack(&whole, body.len()).unwrap(), body.as_bytes());
    }

    proptest! {
        #[test]
        fn pieces_unpack_to_the_whole(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5_000), 0..20)) {
            let mut packer = Packer::new();
            let mut whole: Vec<u8> = pieces.iter().flat_map(|piece| packer.pack(piece)).collect();
            whole.extend(packer.finish());
            prop_assert_eq!(unpack(&whole, usize::MAX).unwrap(), pieces.concat());
        }
    }
}
