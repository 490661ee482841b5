//! Arrays of eight-byte elements, of however many dimensions, as they come from PostgreSQL. sqlx reads arrays of one dimension only.

use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::{Decode, Postgres, Type, TypeInfo as _};

use super::timestamp::POSTGRES_EPOCH;

/// The elements of a `bigint[]`, `double precision[]` or `timestamptz[]`, the last dimension's side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Words(Vec<u64>);

impl Words {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }

    /// Those at these places, which there are.
    pub(super) fn select(&self, places: impl Iterator<Item = usize>) -> Self {
        Self(places.map(|place| self.0[place]).collect())
    }

    /// Adds others behind them.
    pub(super) fn append(&mut self, other: &Self) {
        self.0.reserve_exact(other.0.len());
        self.0.extend_from_slice(&other.0);
    }

    /// So many zeros.
    #[cfg(test)]
    pub(super) fn zeros(count: usize) -> Self {
        Self(vec![0; count])
    }

    /// The elements of a `double precision[]`.
    pub(super) fn double(&self, index: usize) -> Option<f64> {
        self.0.get(index).map(|word| f64::from_bits(*word))
    }

    /// The elements of a `bigint[]`.
    pub(super) fn integer(&self, index: usize) -> Option<i64> {
        self.0.get(index).map(|word| word.cast_signed())
    }

    /// The elements of a `timestamptz[]`, in unix milliseconds.
    pub(super) fn millis(&self, index: usize) -> Option<i64> {
        self.integer(index).map(|micros| micros.div_euclid(1000).saturating_add(POSTGRES_EPOCH))
    }
}

impl Type<Postgres> for Words {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1016))
    }

    fn compatible(info: &PgTypeInfo) -> bool {
        ["INT8[]", "FLOAT8[]", "TIMESTAMPTZ[]"].contains(&info.name())
    }
}

impl Decode<'_, Postgres> for Words {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        read(value.as_bytes()?).map(Self).ok_or_else(|| "not an array of eight-byte elements without nulls".into())
    }
}

/// The number of dimensions, whether there are nulls, and the type; two numbers a dimension; each element behind its length.
fn read(bytes: &[u8]) -> Option<Vec<u64>> {
    let (dimensions, rest) = bytes.split_first_chunk::<4>()?;
    let dimensions = usize::try_from(i32::from_be_bytes(*dimensions)).ok()?;
    let elements = rest.get(8_usize.checked_add(dimensions.checked_mul(8)?)?..)?;
    let (whole, rest) = elements.as_chunks::<12>();
    let word = |element: &[u8; 12]| {
        let (length, word) = element.split_first_chunk::<4>()?;
        (*length == 8_i32.to_be_bytes()).then_some(())?;
        Some(u64::from_be_bytes(word.try_into().ok()?))
    };
    if !rest.is_empty() {
        return None;
    }
    let mut words = Vec::with_capacity(whole.len());
    for element in whole {
        words.push(word(element)?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(dimensions: &[i32], elements: &[Option<u64>]) -> Vec<u8> {
        let mut bytes = [i32::try_from(dimensions.len()).unwrap(), 0, 701].map(i32::to_be_bytes).concat();
        for length in dimensions {
            bytes.extend([length.to_be_bytes(), 1_i32.to_be_bytes()].concat());
        }
        for element in elements {
            match element {
                Some(word) => bytes.extend([&8_i32.to_be_bytes()[..], &word.to_be_bytes()].concat()),
                None => bytes.extend((-1_i32).to_be_bytes()),
            }
        }
        bytes
    }

    #[test]
    fn elements_of_all_dimensions_are_one_list() {
        assert_eq!(read(&array(&[], &[])), Some(vec![]));
        assert_eq!(read(&array(&[2], &[Some(1), Some(u64::MAX)])), Some(vec![1, u64::MAX]));
        assert_eq!(read(&array(&[2, 2], &[Some(1), Some(2), Some(3), Some(4)])), Some(vec![1, 2, 3, 4]));
    }

    #[test]
    fn what_is_no_such_array_is_refused() {
        assert_eq!(read(&array(&[3], &[Some(1), None, Some(2)])), None);
        let whole = array(&[1], &[Some(1)]);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_none_or(|words| words.is_empty()), "{cut}");
        }
        assert_eq!(read(&i32::MAX.to_be_bytes()), None);
        assert_eq!(read(&(-1_i32).to_be_bytes()), None);
    }
}
