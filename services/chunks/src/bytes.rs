//! Bytes, variable-length integers and checksums.

use crate::DecodeError;

/// How many bytes a checksum has.
pub(crate) const CHECKSUM_BYTES: usize = 4;

/// Reads a slice from its beginning.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// An unsigned integer in groups of seven bits, the lowest first.
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("an integer has more than 64 bits"))
    }

    /// A varint that is at most `max`.
    pub(crate) fn count(&mut self, max: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Malformed("a count is too large"))?;
        if count <= max { Ok(count) } else { Err(DecodeError::Malformed("a count is too large")) }
    }

    pub(crate) fn zigzag(&mut self) -> Result<i64, DecodeError> {
        Ok(from_zigzag(self.varint()?))
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// All bytes have a meaning; a longer slice is an error.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Malformed("there are more bytes than values")) }
    }
}

pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    bytes.push(low_byte(value));
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

pub(crate) fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn put_zigzag(bytes: &mut Vec<u8>, value: i64) {
    put_varint(bytes, to_zigzag(value));
}

pub(crate) fn to_zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn from_zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Writes the checksum of what stands after it into the first bytes of `part`, and gives it.
pub(crate) fn put_checksum(part: &mut [u8], seed: u32) -> u32 {
    let (checksum, body) = part.split_at_mut(CHECKSUM_BYTES);
    let sum = checksum_of(body, seed);
    checksum.copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Checks what [`put_checksum`] wrote; gives the checksum and what stands after it.
pub(crate) fn check(part: &[u8], seed: u32) -> Result<(u32, &[u8]), DecodeError> {
    let (stored, body) = part.split_first_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Truncated)?;
    let sum = checksum_of(body, seed);
    if sum == u32::from_le_bytes(*stored) { Ok((sum, body)) } else { Err(DecodeError::Checksum) }
}

fn checksum_of(body: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(body);
    hasher.finalize()
}
