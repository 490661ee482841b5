//! Finds the series that matchers select, live or expired: the history remembers both.

use std::collections::{BTreeMap, HashMap};

use futures_util::TryStreamExt as _;
use golectra_promql::{Labels, Matcher};
use golectra_protocol::IdParts;
use sqlx::{FromRow, PgConnection, QueryBuilder};

use super::chunks::BLOCK_SERIES;
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
    let mut query = QueryBuilder::new(SERIES);
    query.push(" WHERE (expired.at IS NULL OR expired.at >= ").push_bind(start).push(")");
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
    let mut rows = query.build_query_as::<Row>().persistent(false).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        // Its source was made after they were read, so nothing of it was asked for.
        let Some(source) = sources.get(&row.source_id) else { continue };
        if labels::all_match(&on_id, source, &IdParts::of(&row.metric)) {
            let found = row.found(source);
            if golectra_promql::all_match(&on_type, &found.labels) {
                take(found)?;
            }
        }
    }
    Ok(())
}

/// What is read of series.
const SERIES: &str = r"SELECT id, source_id, kind, metric, expired.at,
        CASE WHEN kind = 1 THEN EXISTS (
            SELECT FROM series AS gauge WHERE gauge.source_id = series.source_id
                AND gauge.identity = encode(substring(sha256('\x0000' || convert_to(series.metric, 'UTF8')) FOR 16), 'hex')::uuid
        ) ELSE false END AS beside_gauge
    FROM series LEFT JOIN expired_series AS expired ON expired.series_id = series.id";

/// The same, as it comes.
#[derive(FromRow)]
struct Row {
    id: i32,
    source_id: i32,
    kind: i16,
    metric: String,
    at: Option<Timestamp>,
    beside_gauge: bool,
}

impl Row {
    fn found(&self, source: &str) -> FoundSeries {
        FoundSeries {
            id: self.id,
            source_id: self.source_id,
            is_counter: self.kind != 0,
            beside_gauge: self.beside_gauge,
            expired_ms: self.at.map(|at| i64::try_from(at.0).unwrap_or(i64::MAX)),
            labels: labels::of_series(source, &self.metric, self.beside_gauge),
        }
    }
}

/// More series than this are not read one by one.
const MAX_CHANGED: usize = 5_000;

/// Which series searches find that they did not find before.
#[derive(Debug)]
pub(super) enum Changes {
    /// These, as they are now, each by the change that made it or brought it back, in order.
    Series(Vec<(i64, FoundSeries)>),
    /// That is not known any more, or they are many, or series were removed.
    Unknown,
}

/// What changed after this change of `series_changes`.
pub(super) async fn changes(conn: &mut PgConnection, after: i64) -> Result<Changes, HistoryError> {
    let statement = "SELECT n, block_id, slots FROM series_changes WHERE n >= $1 ORDER BY n LIMIT $2";
    let limit = i64::try_from(MAX_CHANGED).unwrap_or(i64::MAX) + 2;
    let rows: Vec<(i64, Option<i32>, Option<i64>)> =
        sqlx::query_as(statement).bind(after).bind(limit).fetch_all(&mut *conn).await.map_err(failed)?;
    // Where this change is gone, so are others behind it; and there may be more rows than were read.
    let is_complete = i64::try_from(rows.len()).is_ok_and(|read| read < limit);
    let Some((_, rows)) = rows.split_first().filter(|((first, ..), _)| is_complete && *first == after) else {
        return Ok(Changes::Unknown);
    };
    let mut changed: BTreeMap<i32, i64> = BTreeMap::new();
    for (n, block_id, slots) in rows {
        let Some((block_id, slots)) = block_id.zip(*slots) else { return Ok(Changes::Unknown) };
        changed.extend((0..BLOCK_SERIES).filter(|slot| slots >> slot & 1 == 1).map(|slot| (block_id * BLOCK_SERIES + slot, *n)));
        if changed.len() > MAX_CHANGED {
            return Ok(Changes::Unknown);
        }
    }
    if changed.is_empty() {
        return Ok(Changes::Series(Vec::new()));
    }
    let sources = sources(&mut *conn).await?;
    let ids: Vec<i32> = changed.keys().copied().collect();
    let statement = format!("{SERIES} WHERE id = ANY($1)");
    let mut rows = sqlx::query_as::<_, Row>(&statement).bind(ids).fetch(conn);
    let mut series = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        if let Some((source, n)) = sources.get(&row.source_id).zip(changed.get(&row.id)) {
            series.push((*n, row.found(source)));
        }
    }
    series.sort_by_key(|(n, found)| (*n, found.id));
    Ok(Changes::Series(series))
}
