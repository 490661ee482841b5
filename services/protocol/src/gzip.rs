//! Gzip with a limit that holds while unpacking: a bomb is refused when it reaches the limit, not after.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};

/// Why a body could not be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// Not gzip, damaged, or cut off.
    #[error("the body is not valid gzip")]
    Invalid,
    /// More than the limit, in bytes.
    #[error("the unpacked body is larger than {0} bytes")]
    TooLarge(usize),
}

/// Unpacks a gzip stream piece by piece as it arrives, holding no more than the limit.
pub struct Unpacker {
    decoder: MultiGzDecoder<Limited>,
    limit: usize,
    seen: bool,
}

impl Unpacker {
    /// An unpacker that refuses to hold more than this many bytes.
    pub fn new(limit: usize) -> Self {
        Self { decoder: MultiGzDecoder::new(Limited { out: Vec::new(), limit, full: false }), limit, seen: false }
    }

    /// Takes the next piece of the packed stream.
    pub fn push(&mut self, packed: &[u8]) -> Result<(), UnpackError> {
        self.seen |= !packed.is_empty();
        self.decoder.write_all(packed).map_err(|_| self.why())
    }

    /// How many unpacked bytes are held now.
    pub fn unpacked_len(&self) -> usize {
        self.decoder.get_ref().out.len()
    }

    /// The unpacked body, once the whole stream was taken.
    pub fn finish(mut self) -> Result<Vec<u8>, UnpackError> {
        if !self.seen {
            return Err(UnpackError::Invalid);
        }
        self.decoder.try_finish().map_err(|_| self.why())?;
        Ok(std::mem::take(&mut self.decoder.get_mut().out))
    }

    fn why(&self) -> UnpackError {
        if self.decoder.get_ref().full { UnpackError::TooLarge(self.limit) } else { UnpackError::Invalid }
    }
}

/// Unpacks a whole body.
pub fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    let mut unpacker = Unpacker::new(limit);
    unpacker.push(packed)?;
    unpacker.finish()
}

/// Packs a body, as fast as gzip goes: what travels is small and read once.
pub fn pack(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4 + 64), Compression::fast());
    encoder.write_all(body).expect("writing to memory never fails");
    encoder.finish().expect("writing to memory never fails")
}

/// A buffer that takes no more than its limit.
struct Limited {
    out: Vec<u8>,
    limit: usize,
    full: bool,
}

impl Write for Limited {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > self.limit - self.out.len() {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn another_programs_gzip_unpacks() {
        // printf golectra | gzip -n, as hex
        let packed = hex::decode("1f8b08000000000000034bcfcf494d2e294a040000afc1b108000000");
        let ours = unpack(&pack(b"golectra"), 8).unwrap();
        assert_eq!(ours, b"golectra");
        assert_eq!(unpack(&packed.unwrap(), 8).unwrap(), b"golectra");
    }

    #[test]
    fn the_limit_holds_while_unpacking() {
        let bomb = pack(&vec![0; 1 << 20]);
        assert!(bomb.len() < 50_000);
        assert_eq!(unpack(&bomb, (1 << 20) - 1), Err(UnpackError::TooLarge((1 << 20) - 1)));
        assert_eq!(unpack(&bomb, 1 << 20).unwrap().len(), 1 << 20);
        let mut unpacker = Unpacker::new(100_000);
        let refused = bomb.chunks(64).find_map(|piece| unpacker.push(piece).err());
        assert_eq!(refused, Some(UnpackError::TooLarge(100_000)));
        assert!(unpacker.unpacked_len() <= 100_000);
    }

    #[test]
    fn damage_is_refused() {
        let packed = pack(b"some body that is long enough to be cut");
        for cut in 0..packed.len() {
            assert_eq!(unpack(&packed[..cut], 1000), Err(UnpackError::Invalid), "cut at {cut}");
        }
        for garbage in [b"plain text".as_slice(), b"\x1f\x8b", &[packed.as_slice(), b"junk"].concat()] {
            assert_eq!(unpack(garbage, 1000), Err(UnpackError::Invalid));
        }
        let mut flipped = packed.clone();
        let crc = packed.len() - 6;
        flipped[crc] ^= 1;
        assert_eq!(unpack(&flipped, 1000), Err(UnpackError::Invalid));
    }

    #[test]
    fn several_members_are_one_body() {
        assert_eq!(unpack(&[pack(b"ab"), pack(b"cd")].concat(), 10).unwrap(), b"abcd");
    }

    proptest! {
        #[test]
        fn a_body_comes_back_however_it_is_cut(body in proptest::collection::vec(any::<u8>(), 0..5000), step in 1_usize..700) {
            let mut unpacker = Unpacker::new(5000);
            for piece in pack(&body).chunks(step) {
                unpacker.push(piece).unwrap();
            }
            prop_assert_eq!(unpacker.finish().unwrap(), body);
        }
    }
}
