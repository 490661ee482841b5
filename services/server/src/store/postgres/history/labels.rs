//! Labels of series without their samples. Names and values of all series are read from the tables of terms, which have each once; those of selected
//! series from the ids of these series.

use futures_util::TryStreamExt as _;
use golectra_promql::{Labels, METRIC_NAME, Reservation};
use sqlx::PgConnection;

use super::failed;
use super::search::{self, Recency};
use crate::history::labels::{SOURCE_LABEL, TYPE_LABEL, WITHOUT_INSTANCE};
use crate::store::history::{First, HistoryError, Limited, SeriesFilter};
use crate::store::postgres::identity;

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
        return all_names(conn, first).await;
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
        return all_values(conn, label, first).await;
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

/// The names of labels of all series.
async fn all_names(conn: &mut PgConnection, mut first: First<'_, String>) -> Result<Limited<String>, HistoryError> {
    // From one key to the next by the index, however many values each has.
    let mut keys = sqlx::query_scalar::<_, String>(
        "WITH RECURSIVE keys AS (
            (SELECT key_digest, key FROM label_pairs ORDER BY key_digest LIMIT 1)
            UNION ALL
            SELECT next.key_digest, next.key FROM keys CROSS JOIN LATERAL (
                SELECT key_digest, key FROM label_pairs WHERE label_pairs.key_digest > keys.key_digest ORDER BY key_digest LIMIT 1
            ) AS next
        ) SELECT key FROM keys",
    )
    .fetch(&mut *conn);
    while let Some(key) = keys.try_next().await.map_err(failed)? {
        first.add_text(&key)?;
    }
    drop(keys);
    let has_names = sqlx::query_scalar("SELECT EXISTS (SELECT FROM metric_names)").fetch_one(&mut *conn);
    if has_names.await.map_err(failed)? {
        first.add_text(METRIC_NAME)?;
    }
    if !instances(conn).await.map_err(failed)?.is_empty() {
        first.add_text(SOURCE_LABEL)?;
    }
    if has_counter_beside_gauge(conn).await.map_err(failed)? {
        first.add_text(TYPE_LABEL)?;
    }
    Ok(first.done())
}

/// The values of a label of all series.
async fn all_values(conn: &mut PgConnection, label: &str, mut first: First<'_, String>) -> Result<Limited<String>, HistoryError> {
    match label {
        SOURCE_LABEL => {
            for name in &instances(conn).await.map_err(failed)? {
                first.add_text(name)?;
            }
        }
        TYPE_LABEL if has_counter_beside_gauge(conn).await.map_err(failed)? => first.add_text("counter")?,
        _ => {}
    }
    // One more tells whether there are more.
    let most = i64::try_from(first.limit().saturating_add(1)).unwrap_or(i64::MAX);
    let mut rows = if label == METRIC_NAME {
        sqlx::query_scalar::<_, String>("SELECT name FROM metric_names ORDER BY name LIMIT $1").bind(most).fetch(conn)
    } else {
        // The first part is in the index, so that no more is read than is asked for.
        sqlx::query_scalar("SELECT value FROM label_pairs WHERE key_digest = $1 ORDER BY \"left\"(value, 32), value LIMIT $2")
            .bind(identity::of_text(label))
            .bind(most)
            .fetch(conn)
    };
    while let Some(value) = rows.try_next().await.map_err(failed)? {
        first.add_text(&value)?;
    }
    Ok(first.done())
}

/// The names of sources that have a series without an instance of its own. In an id's canonical form no other text looks like that label: quotes in
/// values are escaped.
async fn instances(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        r#"SELECT name FROM sources WHERE name <> '' AND name <> ALL($1)
            AND EXISTS (SELECT FROM series WHERE series.source_id = sources.id AND series.metric !~ '[{,]instance="')"#,
    )
    .bind(WITHOUT_INSTANCE)
    .fetch_all(conn)
    .await
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
