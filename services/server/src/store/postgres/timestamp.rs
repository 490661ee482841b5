//! Times as PostgreSQL's `timestamptz` takes them, with no float and no text in between.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// A time in unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Timestamp(pub(super) u64);

impl Timestamp {
    /// A time in unix milliseconds; 1970 for one before.
    pub(super) fn from_millis(unix_millis: i64) -> Self {
        Self(u64::try_from(unix_millis).unwrap_or(0))
    }
}

/// 2000-01-01 in unix milliseconds, from where PostgreSQL counts.
pub(super) const POSTGRES_EPOCH: i64 = 946_684_800_000;

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = i64::try_from(self.0).unwrap_or(i64::MAX).saturating_sub(POSTGRES_EPOCH).saturating_mul(1000);
        buffer.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        // Before 1970 is `-infinity`, which is earlier than any batch.
        Ok(Self(u64::try_from(micros.div_euclid(1000).saturating_add(POSTGRES_EPOCH)).unwrap_or(0)))
    }
}
