//! Gzip of complete bodies, with a limit that is enforced while unpacking, so that a gzip bomb never takes more memory than the
//! limit. [`Packer`] packs bodies that are never in memory as a whole.

mod libdeflate;
mod stream;

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use self::libdeflate::{Inflated, crc32, deflate, inflate};
pub use self::stream::Packer;

/// The highest compression ratio of deflate.
const MAX_RATIO: usize = 1032;

/// How many bytes are unpacked at a time while the length of a body is measured.
const PIECE: usize = 16 << 10;

/// A body of at most this many bytes is stored without compression: compressing it would take longer than sending the bytes
/// saved.
const MAX_STORED: usize = 256;

/// Why a body can't be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It is not gzip, or it is damaged or truncated.
    #[error("the body is not valid gzip")]
    Invalid,
    /// It unpacks to more than the limit, in bytes.
    #[error("the unpacked body is larger than {0} bytes")]
    TooLarge(usize),
    /// The caller has no memory for this many bytes.
    #[error("there is no room for an unpacked body of {0} bytes")]
    NoRoom(usize),
}

/// Unpacks a complete body to at most `limit` bytes.
pub fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    unpack_within(packed, limit, |_| true)
}

/// Like [`unpack`]; `room` is called before memory is allocated, with the number of bytes, which is never more than `limit`.
///
/// A body that is shorter than it claims is measured first, so that no memory is allocated for bytes that do not come.
pub fn unpack_within(packed: &[u8], limit: usize, mut room: impl FnMut(usize) -> bool) -> Result<Vec<u8>, UnpackError> {
    let mut take = |bytes: usize| if room(bytes) { Ok(vec![0; bytes]) } else { Err(UnpackError::NoRoom(bytes)) };
    let claimed = claimed_len(packed);
    // The trailer claims more than deflate can make of the body, so no memory is reserved for it.
    if claimed <= packed.len().saturating_mul(MAX_RATIO).min(limit)
        && let Some(out) = fill(packed, take(claimed)?)?
    {
        return Ok(out);
    }
    let len = measure(packed, limit)?;
    fill(packed, take(len)?)?.ok_or(UnpackError::Invalid)
}

/// Unpacks the whole body into `out`; None if `out` has no room for it.
fn fill(packed: &[u8], mut out: Vec<u8>) -> Result<Option<Vec<u8>>, UnpackError> {
    let (mut rest, mut len) = (packed, 0);
    // Most bodies have one member; several members are concatenated.
    loop {
        match inflate(rest, &mut out[len..]) {
            Inflated::Member { packed, unpacked } => {
                len += unpacked;
                rest = &rest[packed..];
                if rest.is_empty() {
                    out.truncate(len);
                    return Ok(Some(out));
                }
            }
            Inflated::Full => return Ok(None),
            Inflated::Invalid => return Err(UnpackError::Invalid),
        }
    }
}

/// Measures the length of the unpacked body without keeping it.
fn measure(packed: &[u8], limit: usize) -> Result<usize, UnpackError> {
    let (mut body, mut piece, mut len) = (MultiGzDecoder::new(packed), [0; PIECE], 0);
    loop {
        match body.read(&mut piece).map_err(|_| UnpackError::Invalid)? {
            0 => return Ok(len),
            more if more > limit - len => return Err(UnpackError::TooLarge(limit)),
            more => len += more,
        }
    }
}

/// The unpacked length that the trailer of the body's last member claims, modulo 2^32. It may be wrong, and covers only one of
/// several members.
fn claimed_len(packed: &[u8]) -> usize {
    packed.last_chunk().map_or(0, |claimed| u32::from_le_bytes(*claimed) as usize)
}

/// Packs a body at the fastest level: it is small and read once.
pub fn pack(body: &[u8]) -> Vec<u8> {
    match u16::try_from(body.len()) {
        Ok(len) if body.len() <= MAX_STORED => stored(body, len),
        _ => deflate(body),
    }
}

/// A gzip member that stores the body uncompressed.
fn stored(body: &[u8], len: u16) -> Vec<u8> {
    /// Deflate without a name, a time or a known operating system.
    const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    /// The last block, stored.
    const BLOCK: u8 = 0b001;
    let mut out = Vec::with_capacity(HEAD.len() + 5 + body.len() + 8);
    out.extend(HEAD);
    out.push(BLOCK);
    out.extend(len.to_le_bytes());
    out.extend((!len).to_le_bytes());
    out.extend(body);
    out.extend(crc32(body).to_le_bytes());
    out.extend(u32::from(len).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    /// The output of another implementation.
    fn packed_elsewhere(body: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_of_another_program_unpacks() {
        // printf golectra | gzip -n, as hex
        let packed = hex::decode("1f8b08000000000000034bcfcf494d2e294a040000afc1b108000000");
        let ours = unpack(&pack(b"golectra"), 8).unwrap();
        assert_eq!(ours, b"golectra");
        assert_eq!(unpack(&packed.unwrap(), 8).unwrap(), b"golectra");
        let builder = GzBuilder::new().filename("a").comment("b").extra(*b"cd").mtime(7);
        let mut encoder = builder.write(Vec::new(), Compression::fast());
        encoder.write_all(b"golectra").unwrap();
        assert_eq!(unpack(&encoder.finish().unwrap(), 8).unwrap(), b"golectra");
    }

    #[test]
    fn the_limit_is_enforced_while_unpacking() {
        let honest = packed_elsewhere(&vec![0; 1 << 20], 9);
        assert!(honest.len() < 2_000);
        let mut modest = honest.clone();
        let end = modest.len();
        modest[end - 4..].copy_from_slice(&1_u32.to_le_bytes());
        for bomb in [&honest, &modest] {
            for limit in [0, 1, 5_000, (1 << 20) - 1] {
                let mut most = 0;
                let refused = unpack_within(bomb, limit, |bytes| {
                    most = most.max(bytes);
                    true
                });
                assert_eq!(refused, Err(UnpackError::TooLarge(limit)));
                assert!(most <= limit.min(1), "{most} of {limit}");
            }
        }
        assert_eq!(unpack(&honest, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(unpack(&modest, 2 << 20), Err(UnpackError::Invalid));
    }

    #[test]
    fn memory_is_allocated_for_the_actual_length() {
        let mut boastful = pack(b"small");
        let end = boastful.len();
        boastful[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut most = 0;
        let refused = unpack_within(&boastful, 1 << 30, |bytes| {
            most = most.max(bytes);
            true
        });
        assert_eq!(refused, Err(UnpackError::Invalid));
        assert_eq!(most, 0);
        assert_eq!(unpack_within(&pack(b"small"), 100, |bytes| bytes > 5), Err(UnpackError::NoRoom(5)));
    }

    #[test]
    fn damage_is_refused() {
        for packed in [pack(b"some body that is long enough to be cut"), pack(&b"some body that is packed".repeat(20))] {
            for cut in 0..packed.len() {
                assert_eq!(unpack(&packed[..cut], 1000), Err(UnpackError::Invalid), "cut at {cut}");
            }
            for garbage in
                [b"plain text".as_slice(), b"\x1f\x8b", &[packed.as_slice(), b"junk"].concat(), &[packed.as_slice(), &[0; 30]].concat()]
            {
                assert_eq!(unpack(garbage, 1000), Err(UnpackError::Invalid));
            }
            let mut flipped = packed.clone();
            let crc = packed.len() - 6;
            flipped[crc] ^= 1;
            assert_eq!(unpack(&flipped, 1000), Err(UnpackError::Invalid));
        }
    }

    #[test]
    fn several_members_are_one_body() {
        assert_eq!(unpack(&[pack(b"ab"), pack(b"cd")].concat(), 10).unwrap(), b"abcd");
        let long = vec![7; 10_000];
        let members = [pack(b"ab"), packed_elsewhere(&long, 6), pack(b""), pack(b"cd")].concat();
        assert_eq!(unpack(&members, 10_004).unwrap(), [b"ab".as_slice(), &long, b"cd"].concat());
        assert_eq!(unpack(&members, 10_003), Err(UnpackError::TooLarge(10_003)));
    }

    fn any_body() -> impl Strategy<Value = Vec<u8>> {
        let words = prop_oneof![
            Just(b"\"id\":".to_vec()),
            proptest::collection::vec(any::<u8>(), 1..40),
            (any::<u8>(), 1..3_000_usize).prop_map(|(byte, n)| vec![byte; n])
        ];
        proptest::collection::vec(words, 0..60).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn another_implementation_unpacks_what_is_packed_here(body in any_body()) {
            let mut back = Vec::new();
            MultiGzDecoder::new(pack(&body).as_slice()).read_to_end(&mut back).unwrap();
            prop_assert_eq!(&back, &body);
            prop_assert_eq!(unpack(&pack(&body), body.len()).unwrap(), body);
        }

        #[test]
        fn the_output_of_another_implementation_unpacks(bodies in proptest::collection::vec(any_body(), 1..4), level in 0..10_u32) {
            let packed: Vec<u8> = bodies.iter().flat_map(|body| packed_elsewhere(body, level)).collect();
            prop_assert_eq!(unpack(&packed, usize::MAX).unwrap(), bodies.concat());
        }

        #[test]
        fn it_does_not_panic_on_any_bytes(damage in any::<(prop::sample::Index, u8)>(), body in any_body()) {
            let mut packed = pack(&body);
            let at = damage.0.index(packed.len());
            packed[at] ^= damage.1;
            let _ = unpack(&packed, 100_000);
        }
    }
}
