//! The caps on live series.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::store::postgres::writer::failure::GroupFailure;
use crate::store::{SeriesLimits, StoreError};

/// Which cap is met.
#[derive(Clone, Copy)]
pub(super) enum Full {
    Source(usize),
    Total(usize),
}

impl Full {
    pub(super) fn refusal(self) -> StoreError {
        match self {
            Self::Source(limit) => StoreError::TooManySeriesOfSource { limit },
            Self::Total(limit) => StoreError::TooManySeries { limit },
        }
    }
}

/// How many live series there are. The rows that count them are locked, so both caps are exact.
pub(super) struct Caps {
    limits: SeriesLimits,
    /// Series by source, as they were and as they will be.
    sources: BTreeMap<i32, usize>,
    all: usize,
    new: BTreeMap<i32, usize>,
}

impl Caps {
    /// Locks the count of all series; the rows of these sources are held.
    pub(super) async fn lock(limits: SeriesLimits, conn: &mut PgConnection, sources: BTreeMap<i32, usize>) -> Result<Self, GroupFailure> {
        let all = sqlx::query_scalar!("SELECT series FROM series_total FOR NO KEY UPDATE").fetch_one(conn).await?;
        Ok(Self { limits, sources, all: usize::try_from(all).unwrap_or(0), new: BTreeMap::new() })
    }

    /// How many more series there may be in all.
    pub(super) fn room(&self) -> usize {
        self.limits.total.saturating_sub(self.all)
    }

    /// Takes room for a batch's new series, if there is enough; its source may have any number of them where it `is_uncapped`.
    pub(super) fn take(&mut self, source_id: i32, new: usize, is_uncapped: bool) -> Result<(), Full> {
        let SeriesLimits { total, per_source } = self.limits;
        let of_source = self.sources.entry(source_id).or_default();
        if new > per_source.saturating_sub(*of_source) && new > 0 && !is_uncapped {
            return Err(Full::Source(per_source));
        }
        if new > total.saturating_sub(self.all) && new > 0 {
            return Err(Full::Total(total));
        }
        *of_source += new;
        self.all += new;
        *self.new.entry(source_id).or_default() += new;
        Ok(())
    }

    /// Writes the counts down, and the `next` id of each source.
    pub(super) async fn write(&self, conn: &mut PgConnection, next: &BTreeMap<i32, i32>) -> Result<(), GroupFailure> {
        let count = |series: usize| i32::try_from(series).map_err(|_| GroupFailure::Stale);
        let (mut ids, mut counts, mut nexts, mut all) = (Vec::new(), Vec::new(), Vec::new(), 0_i64);
        for (id, new) in self.new.iter().filter(|(_, new)| **new > 0) {
            ids.push(*id);
            counts.push(count(*new)?);
            nexts.push(next.get(id).copied().ok_or(GroupFailure::Stale)?);
            all += i64::from(count(*new)?);
        }
        if ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE sources SET series = series + made.n, next_series = made.next
            FROM unnest($1::integer[], $2::integer[], $3::integer[]) AS made (id, n, next) WHERE sources.id = made.id",
            &ids,
            &counts,
            &nexts,
        )
        .execute(&mut *conn)
        .await?;
        sqlx::query!("UPDATE series_total SET series = series + $1", all).execute(conn).await?;
        Ok(())
    }
}
