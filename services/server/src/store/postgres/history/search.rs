//! Finds the series that matchers select, live or expired: the history remembers both.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use golectra_promql::{Labels, Matcher};
use golectra_protocol::IdParts;
use sqlx::{PgConnection, QueryBuilder};

use super::failed;
use crate::history::labels::{self, TYPE_LABEL};
use crate::store::history::{HistoryError, TimeRange};
use crate::store::postgres::select;
use crate::store::postgres::timestamp::Timestamp;

/// A series that all matchers select.
#[derive(Debug, Clone, Default)]
pub(super) struct FoundSeries {
    pub(super) id: i32,
    pub(super) source_id: i32,
    pub(super) is_counter: bool,
    /// Whether it is a counter whose source has a gauge of the same id.
    pub(super) beside_gauge: bool,
    /// When it left the newest state, if it did.
    pub(super) expired_ms: Option<i64>,
    pub(super) labels: Labels,
}

impl FoundSeries {
    /// What it takes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.labels.memory_bytes()
    }

    /// Whether it has no samples from this time on.
    pub(super) fn expired_before(&self, start_ms: i64) -> bool {
        self.expired_ms.is_some_and(|expired_ms| expired_ms < start_ms)
    }
}

/// How sure it is to be that a series has samples since the start of the time that is asked for. A series that came after its end is not left out: that is
/// not known without a look at the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recency {
    /// It did not expire before.
    NotExpired,
    /// Its last sample is not older. That takes a look at the newest state of each, or at when it was reported last before it expired.
    Reported,
}

/// The names of all sources, by their numbers.
pub(super) async fn sources(conn: &mut PgConnection) -> Result<HashMap<i32, String>, HistoryError> {
    let sources: Vec<(i32, String)> = sqlx::query_as("SELECT id, name FROM sources").fetch_all(conn).await.map_err(failed)?;
    Ok(sources.into_iter().collect())
}

/// Gives each series of these sources that all matchers select, as it comes from the database: a search holds one row. An error of `take` ends it.
pub(super) async fn each(
    conn: &mut PgConnection,
    sources: &HashMap<i32, String>,
    matchers: &[Matcher],
    range: TimeRange,
    recency: Recency,
    mut take: impl FnMut(FoundSeries) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    let terms = select::terms_of(conn, matchers).await.map_err(failed)?;
    if terms.is_empty() {
        return Ok(());
    }
    let (on_type, on_id): (Vec<_>, Vec<_>) = matchers.iter().cloned().partition(|matcher| matcher.name() == TYPE_LABEL);

    let start = Timestamp(u64::try_from(range.start_ms).unwrap_or(0));
    let mut query = QueryBuilder::new(
        r"SELECT id, source_id, kind, metric, expired.at,
            CASE WHEN kind = 1 THEN EXISTS (
                SELECT FROM series AS gauge WHERE gauge.source_id = series.source_id
                    AND gauge.identity = encode(substring(sha256('\x0000' || convert_to(series.metric, 'UTF8')) FOR 16), 'hex')::uuid
            ) ELSE false END
        FROM series LEFT JOIN expired_series AS expired ON expired.series_id = series.id
        WHERE (expired.at IS NULL OR expired.at >= ",
    );
    query.push_bind(start).push(")");
    if recency == Recency::Reported {
        query
            .push(
                " AND NOT EXISTS (SELECT FROM latest_blocks AS block WHERE block.id = series.id / 64 AND block.used >> (series.id % 64) & 1 = 1
                AND coalesce(block.ats[series.id % 64 + 1], block.at) < ",
            )
            .push_bind(start)
            .push(") AND (expired.reported_at IS NULL OR expired.reported_at >= ")
            .push_bind(start)
            .push(")");
    }
    terms.push_to(&mut query);
    query.push(r#" ORDER BY source_id, metric COLLATE "C", kind"#);
    // Its plan depends on what is asked for, so it is made anew each time.
    let mut rows = query.build_query_as::<(i32, i32, i16, String, Option<Timestamp>, bool)>().persistent(false).fetch(conn);
    while let Some((id, source_id, kind, metric, expired, beside_gauge)) = rows.try_next().await.map_err(failed)? {
        // Its source was made after they were read, so nothing of it was asked for.
        let Some(source) = sources.get(&source_id) else { continue };
        if labels::all_match(&on_id, source, &IdParts::of(&metric)) {
            let labels = labels::of_series(source, &metric, beside_gauge);
            if golectra_promql::all_match(&on_type, &labels) {
                let expired_ms = expired.map(|at| i64::try_from(at.0).unwrap_or(i64::MAX));
                take(FoundSeries { id, source_id, is_counter: kind != 0, beside_gauge, expired_ms, labels })?;
            }
        }
    }
    Ok(())
}
