//! Labels of series without their samples. Names and values of all series are read from the tables of terms, which have each once, but for those whose
//! series were all reported last before the time that is asked for; names and values of selected series are read from the ids of these series.

use futures_util::TryStreamExt as _;
use golectra_promql::{Labels, METRIC_NAME, Reservation};
use sqlx::{PgConnection, Postgres};

use super::failed;
use super::search::{self, Recency};
use crate::history::labels::{SOURCE_LABEL, TYPE_LABEL, WITHOUT_INSTANCE};
use crate::store::history::{First, HistoryError, Limited, SeriesFilter, TimeRange};
use crate::store::postgres::identity;
use crate::store::postgres::timestamp::Timestamp;

/// See [`crate::store::History::series`].
pub(super) async fn series(
    conn: &mut PgConnection,
    filter: &SeriesFilter,
    reservation: &mut Reservation,
) -> Result<Limited<Labels>, HistoryError> {
    let mut first = First::new(filter.limit, reservation);
    let sources = search::sources(conn).await?;
    for matchers in lists(filter) {
        search::each(conn, &sources, matchers, filter.range, Recency::Reported, |found| Ok(first.add(found.labels)?)).await?;
    }
    Ok(first.done())
}

/// See [`crate::store::History::label_names`].
pub(super) async fn names(
    conn: &mut PgConnection,
    filter: &SeriesFilter,
    reservation: &mut Reservation,
) -> Result<Limited<String>, HistoryError> {
    let mut first = First::new(filter.limit, reservation);
    if filter.any.is_empty() {
        return all_names(conn, filter.range, first).await;
    }
    let sources = search::sources(conn).await?;
    for matchers in &filter.any {
        search::each(conn, &sources, matchers, filter.range, Recency::Reported, |found| {
            for (name, _) in found.labels.iter() {
                first.add_text(name)?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(first.done())
}

/// See [`crate::store::History::label_values`].
pub(super) async fn values(
    conn: &mut PgConnection,
    label: &str,
    filter: &SeriesFilter,
    reservation: &mut Reservation,
) -> Result<Limited<String>, HistoryError> {
    let mut first = First::new(filter.limit, reservation);
    if filter.any.is_empty() {
        return all_values(conn, label, filter.range, first).await;
    }
    let sources = search::sources(conn).await?;
    for matchers in &filter.any {
        search::each(conn, &sources, matchers, filter.range, Recency::Reported, |found| Ok(first.add_text(found.labels.value(label))?))
            .await?;
    }
    Ok(first.done())
}

/// The lists of matchers of a filter.
pub(super) fn lists(filter: &SeriesFilter) -> impl Iterator<Item = &[golectra_promql::Matcher]> {
    let all: Option<&[golectra_promql::Matcher]> = filter.any.is_empty().then_some(&[]);
    all.into_iter().chain(filter.any.iter().map(Vec::as_slice))
}

/// The start of the time that is asked for, if series expired before it; else none, and every term counts. An index tells which. What counts too much then was
/// reported last before the start by less than a series or a source may be missing until it expires.
async fn since_when(conn: &mut PgConnection, range: TimeRange) -> Result<Option<Timestamp>, sqlx::Error> {
    let Some(start) = u64::try_from(range.start_ms).ok().filter(|start_ms| *start_ms > 0).map(Timestamp) else { return Ok(None) };
    let statement = "SELECT coalesce(min(at) < $1, false) FROM expired_series";
    let have_expired: bool = sqlx::query_scalar(statement).bind(start).fetch_one(conn).await?;
    Ok(have_expired.then_some(start))
}

/// Begins a statement that knows the terms of the series that were reported since this parameter: the live ones, found by their rows of the newest state, and
/// those that expired since. All are read once. The index of series would tell of each term by itself whether it has such a series, but reads all series of
/// a common term for that.
fn with_reported(since: &str) -> String {
    format!(
        "WITH reported AS MATERIALIZED (
            SELECT DISTINCT unnest(terms) AS id FROM (
                SELECT series.terms FROM {} UNION ALL SELECT series.terms FROM {}
            ) AS series
        )",
        live(since),
        expired(since)
    )
}

/// The live series that were reported since this parameter, as `series`, with the rows of their newest state, as `block`. A condition may follow.
fn live(since: &str) -> String {
    format!(
        "latest_blocks AS block JOIN series ON series.id >= block.id * 64 AND series.id <= block.id * 64 + 63
            WHERE block.used >> (series.id % 64) & 1 = 1 AND coalesce(block.ats[series.id % 64 + 1], block.at) >= {since}"
    )
}

/// The series that expired since this parameter and were reported since, as `series`. A condition may follow.
fn expired(since: &str) -> String {
    format!(
        "expired_series AS expired JOIN series ON series.id = expired.series_id
            WHERE expired.at >= {since} AND (expired.reported_at IS NULL OR expired.reported_at >= {since})"
    )
}

/// The names of labels of all series.
async fn all_names(conn: &mut PgConnection, range: TimeRange, mut first: First<'_, String>) -> Result<Limited<String>, HistoryError> {
    let since = since_when(conn, range).await.map_err(failed)?;
    let statement = if since.is_some() {
        let reported = with_reported("$2");
        format!(
            "{reported} SELECT key FROM label_pairs JOIN reported USING (id) GROUP BY key
            UNION ALL SELECT $1::text WHERE EXISTS (SELECT FROM metric_names JOIN reported USING (id))"
        )
    } else {
        // From one key to the next by the index, however many values each has.
        "WITH RECURSIVE keys AS (
            (SELECT key_digest, key FROM label_pairs ORDER BY key_digest LIMIT 1)
            UNION ALL
            SELECT next.key_digest, next.key FROM keys CROSS JOIN LATERAL (
                SELECT key_digest, key FROM label_pairs WHERE label_pairs.key_digest > keys.key_digest ORDER BY key_digest LIMIT 1
            ) AS next
        ) SELECT key FROM keys UNION ALL SELECT $1::text WHERE EXISTS (SELECT FROM metric_names)"
            .to_owned()
    };
    let mut query = sqlx::query_scalar::<Postgres, String>(&statement).bind(METRIC_NAME);
    if let Some(since) = since {
        query = query.bind(since);
    }
    let mut keys = query.fetch(&mut *conn);
    while let Some(key) = keys.try_next().await.map_err(failed)? {
        first.add_text(&key)?;
    }
    drop(keys);
    if !instances(conn, since).await.map_err(failed)?.is_empty() {
        first.add_text(SOURCE_LABEL)?;
    }
    if has_counter_beside_gauge(conn).await.map_err(failed)? {
        first.add_text(TYPE_LABEL)?;
    }
    Ok(first.done())
}

/// The values of a label of all series.
async fn all_values(
    conn: &mut PgConnection,
    label: &str,
    range: TimeRange,
    mut first: First<'_, String>,
) -> Result<Limited<String>, HistoryError> {
    let since = since_when(conn, range).await.map_err(failed)?;
    match label {
        SOURCE_LABEL => {
            for name in &instances(conn, since).await.map_err(failed)? {
                first.add_text(name)?;
            }
        }
        TYPE_LABEL if has_counter_beside_gauge(conn).await.map_err(failed)? => first.add_text("counter")?,
        _ => {}
    }
    // One more tells whether there are more.
    let most = i64::try_from(first.limit().saturating_add(1)).unwrap_or(i64::MAX);
    let key = (label != METRIC_NAME).then(|| identity::of_text(label));
    let (with, join) = if since.is_some() {
        (with_reported(if key.is_some() { "$3" } else { "$2" }), "JOIN reported USING (id)")
    } else {
        (String::new(), "")
    };
    let statement = if key.is_some() {
        // The first part is in the index, so that no more is read than is asked for, where all are.
        format!(r#"{with} SELECT value FROM label_pairs {join} WHERE key_digest = $2 ORDER BY "left"(value, 32), value LIMIT $1"#)
    } else {
        format!("{with} SELECT name FROM metric_names {join} ORDER BY name LIMIT $1")
    };
    let mut query = sqlx::query_scalar::<Postgres, String>(&statement).bind(most);
    if let Some(key) = key {
        query = query.bind(key);
    }
    if let Some(since) = since {
        query = query.bind(since);
    }
    let mut rows = query.fetch(conn);
    while let Some(value) = rows.try_next().await.map_err(failed)? {
        first.add_text(&value)?;
    }
    Ok(first.done())
}

/// The names of sources that have a series without an instance of its own, which was reported since then. In an id's canonical form no other text looks like
/// that label: quotes in values are escaped.
async fn instances(conn: &mut PgConnection, since: Option<Timestamp>) -> Result<Vec<String>, sqlx::Error> {
    let Some(since) = since else {
        let statement = r#"SELECT name FROM sources WHERE name <> '' AND name <> ALL($1)
            AND EXISTS (SELECT FROM series WHERE series.source_id = sources.id AND series.metric !~ '[{,]instance="')"#;
        return sqlx::query_scalar(statement).bind(WITHOUT_INSTANCE).fetch_all(conn).await;
    };
    // Mostly the first live series of a source suffices.
    let statement = format!(
        r#"SELECT name FROM sources WHERE name <> '' AND name <> ALL($1) AND (
            EXISTS (SELECT FROM {} AND block.source_id = sources.id AND series.metric !~ '[{{,]instance="')
            OR id IN (SELECT series.source_id FROM {} AND series.metric !~ '[{{,]instance="')
        )"#,
        live("$2"),
        expired("$2")
    );
    sqlx::query_scalar(&statement).bind(WITHOUT_INSTANCE).bind(since).fetch_all(conn).await
}

/// Whether a source has a gauge and a counter of one id.
async fn has_counter_beside_gauge(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(COUNTER_BESIDE_GAUGE).fetch_one(conn).await
}

const COUNTER_BESIDE_GAUGE: &str = "SELECT EXISTS (
    SELECT FROM series AS counter JOIN series AS gauge ON gauge.source_id = counter.source_id
        AND gauge.identity = encode(substring(sha256('\\x0000' || convert_to(counter.metric, 'UTF8')) FOR 16), 'hex')::uuid
    WHERE counter.kind = 1
)";

#[cfg(test)]
mod tests {
    use sqlx::{Executor as _, Row as _};

    use super::*;
    use crate::store::postgres::testing::TestDatabase;

    #[tokio::test]
    async fn counters_are_found_without_reading_all_series() {
        let Some(database) = TestDatabase::create().await else { return };
        let _store = database.store().await;
        let mut conn = database.connect().await;
        conn.execute(
            "INSERT INTO sources (name, first_seen, last_seen) VALUES ('a', now(), now());
            INSERT INTO series (id, source_id, kind, identity, terms, metric)
                SELECT n, sources.id, CASE WHEN n % 1000 = 0 THEN 1 ELSE 0 END, md5(n::text)::uuid, '{}', 'm' || n
                FROM sources, generate_series(1, 20000) AS n;
            ANALYZE series;",
        )
        .await
        .unwrap();
        let explain = format!("EXPLAIN {COUNTER_BESIDE_GAUGE}");
        let plan: Vec<String> = conn.fetch_all(&*explain).await.unwrap().iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("series_counters") && !plan.contains("Seq Scan"), "{plan}");
    }
}
