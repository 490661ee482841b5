//! Protocol Buffers' encoding, as far as these messages need it.

/// What is wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WireError(pub(super) &'static str);

const CUT_OFF: WireError = WireError("it is cut off");

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// An integer.
    Varint(u64),
    /// Eight bytes, such as a double's.
    Fixed64(u64),
    /// A text or another message.
    Bytes(&'a [u8]),
    /// Four bytes, which no known field has.
    Fixed32,
}

impl<'a> Field<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], WireError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(WireError("a field has another type than it should")) }
    }

    pub(super) fn varint(self) -> Result<u64, WireError> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(WireError("a field has another type than it should")) }
    }

    /// A double, with all of its bits.
    pub(super) fn double(self) -> Result<f64, WireError> {
        if let Self::Fixed64(bits) = self { Ok(f64::from_bits(bits)) } else { Err(WireError("a field has another type than it should")) }
    }
}

/// The fields of a message in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The next field with its number; none at the end.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.0)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number != 0).ok_or(WireError("a field's number is out of range"))?;
        let field = match tag & 7 {
            0 => Field::Varint(varint(&mut self.0)?),
            1 => Field::Fixed64(u64::from_le_bytes(fixed(&mut self.0)?)),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| CUT_OFF)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(CUT_OFF)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            5 => {
                fixed::<4>(&mut self.0)?;
                Field::Fixed32
            }
            _ => return Err(WireError("a field has an unknown encoding")),
        };
        Ok(Some((number, field)))
    }
}

/// Reads an integer of up to 64 bits.
#[inline]
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    if let [first, rest @ ..] = *bytes
        && *first < 0x80
    {
        *bytes = rest;
        return Ok(u64::from(*first));
    }
    let mut value = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            if at == 9 && *byte > 1 {
                break;
            }
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(if bytes.len() < 10 { CUT_OFF } else { WireError("an integer has more than 64 bits") })
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (value, rest) = bytes.split_first_chunk().ok_or(CUT_OFF)?;
    *bytes = rest;
    Ok(*value)
}
