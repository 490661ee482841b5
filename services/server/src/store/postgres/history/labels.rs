//! Labels of series without their samples. Names and values of all series are read from the tables of terms, which have each once, but for those whose
//! series were all reported last before the time that is asked for; names and values of selected series are read from the ids of these series.

use futures_util::TryStreamExt as _;
use golectra_promql::{Labels, METRIC_NAME, Reservation};
use sqlx::{PgConnection, Postgres};

use super::index_cache::IndexCache;
use super::reported::{self, Key, NO_INSTANCE, Numbers, Part};
use super::search::{self, Recency};
use super::{ReadTransaction, failed};
use crate::history::labels::{SOURCE_LABEL, TYPE_LABEL, WITHOUT_INSTANCE};
use crate::store::history::{First, HistoryError, Limited, SeriesFilter, TimeRange};
use crate::store::postgres::identity;
use crate::store::postgres::timestamp::Timestamp;

/// Lists without matchers begin with the minute of their start, so that those whose starts are near each other ask for the same.
const START_STEP_MILLIS: u64 = 60_000;

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
    index: &IndexCache,
    transaction: &mut ReadTransaction,
    filter: &SeriesFilter,
    reservation: &mut Reservation,
) -> Result<Limited<String>, HistoryError> {
    let mut first = First::new(filter.limit, reservation);
    if filter.any.is_empty() {
        return all_names(index, transaction, filter.range, first).await;
    }
    let conn = transaction.conn();
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
    index: &IndexCache,
    transaction: &mut ReadTransaction,
    label: &str,
    filter: &SeriesFilter,
    reservation: &mut Reservation,
) -> Result<Limited<String>, HistoryError> {
    let mut first = First::new(filter.limit, reservation);
    if filter.any.is_empty() {
        return all_values(index, transaction, label, filter.range, first).await;
    }
    let conn = transaction.conn();
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

/// The minute in which the time that is asked for starts, if series expired before it; else none, and every term counts. An index tells which. What counts
/// too much then was reported last before the start by less than a series or a source may be missing until it expires.
async fn since_when(conn: &mut PgConnection, range: TimeRange) -> Result<Option<Timestamp>, sqlx::Error> {
    let start_ms = u64::try_from(range.start_ms).unwrap_or(0);
    let start = Timestamp(start_ms - start_ms % START_STEP_MILLIS);
    if start.0 == 0 {
        return Ok(None);
    }
    let statement = "SELECT coalesce(min(at) < $1, false) FROM expired_series";
    let have_expired: bool = sqlx::query_scalar(statement).bind(start).fetch_one(conn).await?;
    Ok(have_expired.then_some(start))
}

/// The terms of the series that were reported since then, where not every term counts.
async fn terms(
    index: &IndexCache,
    transaction: &mut ReadTransaction,
    since: Option<Timestamp>,
    first: &mut First<'_, String>,
) -> Result<Option<Numbers>, HistoryError> {
    let Some(since) = since else { return Ok(None) };
    reported::numbers(index, transaction, Key { part: Part::Terms, since }, first).await.map(Some)
}

/// The names of labels of all series.
async fn all_names(
    index: &IndexCache,
    transaction: &mut ReadTransaction,
    range: TimeRange,
    mut first: First<'_, String>,
) -> Result<Limited<String>, HistoryError> {
    let since = since_when(transaction.conn(), range).await.map_err(failed)?;
    let terms = terms(index, transaction, since, &mut first).await?;
    let statement = if terms.is_some() {
        "SELECT key FROM label_pairs JOIN unnest($2::integer[]) AS reported (id) USING (id) GROUP BY key
        UNION ALL SELECT $1::text WHERE EXISTS (SELECT FROM metric_names JOIN unnest($2::integer[]) AS reported (id) USING (id))"
    } else {
        // From one key to the next by the index, however many values each has.
        "WITH RECURSIVE keys AS (
            (SELECT key_digest, key FROM label_pairs ORDER BY key_digest LIMIT 1)
            UNION ALL
            SELECT next.key_digest, next.key FROM keys CROSS JOIN LATERAL (
                SELECT key_digest, key FROM label_pairs WHERE label_pairs.key_digest > keys.key_digest ORDER BY key_digest LIMIT 1
            ) AS next
        ) SELECT key FROM keys UNION ALL SELECT $1::text WHERE EXISTS (SELECT FROM metric_names)"
    };
    let mut query = sqlx::query_scalar::<Postgres, String>(statement).bind(METRIC_NAME);
    if let Some(terms) = &terms {
        query = query.bind(terms.list());
    }
    let mut keys = query.fetch(transaction.conn());
    while let Some(key) = keys.try_next().await.map_err(failed)? {
        first.add_text(&key)?;
    }
    drop(keys);
    if let Some(terms) = terms {
        terms.release(&mut first);
    }
    if !instances(index, transaction, since, &mut first).await?.is_empty() {
        first.add_text(SOURCE_LABEL)?;
    }
    if has_counter_beside_gauge(transaction.conn(), since).await.map_err(failed)? {
        first.add_text(TYPE_LABEL)?;
    }
    Ok(first.done())
}

/// The values of a label of all series.
async fn all_values(
    index: &IndexCache,
    transaction: &mut ReadTransaction,
    label: &str,
    range: TimeRange,
    mut first: First<'_, String>,
) -> Result<Limited<String>, HistoryError> {
    let since = since_when(transaction.conn(), range).await.map_err(failed)?;
    match label {
        SOURCE_LABEL => {
            let names = instances(index, transaction, since, &mut first).await?;
            for name in &names {
                first.add_text(name)?;
            }
        }
        TYPE_LABEL if has_counter_beside_gauge(transaction.conn(), since).await.map_err(failed)? => first.add_text("counter")?,
        _ => {}
    }
    let terms = terms(index, transaction, since, &mut first).await?;
    // One more tells whether there are more.
    let most = i64::try_from(first.limit().saturating_add(1)).unwrap_or(i64::MAX);
    let key = (label != METRIC_NAME).then(|| identity::of_text(label));
    let join = match (&terms, key) {
        (None, _) => "",
        (Some(_), None) => "JOIN unnest($2::integer[]) AS reported (id) USING (id)",
        (Some(_), Some(_)) => "JOIN unnest($3::integer[]) AS reported (id) USING (id)",
    };
    let statement = if key.is_some() {
        // The first part is in the index, so that no more is read than is asked for, where all are.
        format!(r#"SELECT value FROM label_pairs {join} WHERE key_digest = $2 ORDER BY "left"(value, 32), value LIMIT $1"#)
    } else {
        format!("SELECT name FROM metric_names {join} ORDER BY name LIMIT $1")
    };
    let mut query = sqlx::query_scalar::<Postgres, String>(&statement).bind(most);
    if let Some(key) = key {
        query = query.bind(key);
    }
    if let Some(terms) = &terms {
        query = query.bind(terms.list());
    }
    let mut rows = query.fetch(transaction.conn());
    while let Some(value) = rows.try_next().await.map_err(failed)? {
        first.add_text(&value)?;
    }
    drop(rows);
    if let Some(terms) = terms {
        terms.release(&mut first);
    }
    Ok(first.done())
}

/// The names of sources that have a series without an instance of its own, which was reported since then.
async fn instances(
    index: &IndexCache,
    transaction: &mut ReadTransaction,
    since: Option<Timestamp>,
    first: &mut First<'_, String>,
) -> Result<Vec<String>, HistoryError> {
    let Some(since) = since else {
        let statement = format!(
            "SELECT name FROM sources WHERE name <> '' AND name <> ALL($1)
                AND EXISTS (SELECT FROM series WHERE series.source_id = sources.id AND {NO_INSTANCE})"
        );
        return sqlx::query_scalar(&statement).bind(WITHOUT_INSTANCE).fetch_all(transaction.conn()).await.map_err(failed);
    };
    let sources = reported::numbers(index, transaction, Key { part: Part::Sources, since }, first).await?;
    let statement = "SELECT name FROM sources JOIN unnest($2::integer[]) AS reported (id) USING (id) WHERE name <> '' AND name <> ALL($1)";
    let query = sqlx::query_scalar::<Postgres, String>(statement).bind(WITHOUT_INSTANCE).bind(sources.list());
    let names = query.fetch_all(transaction.conn()).await.map_err(failed)?;
    sources.release(first);
    Ok(names)
}

/// Whether a source has a gauge and a counter of one id, the counter reported since then.
async fn has_counter_beside_gauge(conn: &mut PgConnection, since: Option<Timestamp>) -> Result<bool, sqlx::Error> {
    let statement = counter_beside_gauge(since.map(|_| "$1"));
    let mut query = sqlx::query_scalar::<Postgres, bool>(&statement);
    if let Some(since) = since {
        query = query.bind(since);
    }
    query.fetch_one(conn).await
}

/// The statement for it, for counters that were reported since this parameter, or for all. It ends with the first that counts.
fn counter_beside_gauge(since: Option<&str>) -> String {
    // The newest state tells, or where it has expired what is remembered of that. The gauge's source is asked for instead of the counter's, so that this is
    // looked up where there is a gauge, and not for every counter.
    let counts = since.map_or_else(String::new, |since| {
        format!(
            "AND coalesce(
                (SELECT coalesce(block.ats[counter.id % 64 + 1], block.at) >= {since} FROM latest_blocks AS block
                    WHERE block.id = counter.id / 64 AND block.source_id = gauge.source_id AND block.used >> (counter.id % 64) & 1 = 1),
                (SELECT expired.at >= {since} AND coalesce(expired.reported_at >= {since}, true) FROM expired_series AS expired
                    WHERE expired.series_id = counter.id)
            )"
        )
    });
    format!(
        r"SELECT EXISTS (
            SELECT FROM series AS counter JOIN series AS gauge ON gauge.source_id = counter.source_id
                AND gauge.identity = encode(substring(sha256('\x0000' || convert_to(counter.metric, 'UTF8')) FOR 16), 'hex')::uuid
            WHERE counter.kind = 1 {counts}
        )"
    )
}

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
        for since in [None, Some("'2026-01-01'::timestamptz")] {
            let explain = format!("EXPLAIN {}", counter_beside_gauge(since));
            let plan: Vec<String> = conn.fetch_all(&*explain).await.unwrap().iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            assert!(plan.contains("series_counters") && !plan.contains("Seq Scan on series"), "{plan}");
        }
    }
}
