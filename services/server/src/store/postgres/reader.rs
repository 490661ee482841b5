//! Answers reads. Every read is one statement, so what it says belongs together.

use std::time::Duration;

use golectra_protocol::{Kind, MetricId, Selector, Source, Value};
use sqlx::PgConnection;
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{Lease, timed_out};
use super::error::unavailable;
use super::writer::code_of;
use super::{PostgresStore, Series, SeriesFilter, Snapshot, SourceInfo, StoreError};

/// How long a read may take, waiting for its turn included.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a read waits for the first attempt to bring up the schema. Requests are answered within 3 s.
const START_LIMIT: Duration = Duration::from_millis(2_500);
/// How long a ping may take; its answer is promised within 1 s.
const PING_LIMIT: Duration = Duration::from_millis(900);

/// Runs a read on a connection, within its time.
async fn read<T>(store: &PostgresStore, read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, StoreError> {
    store.check_schema(START_LIMIT).await?;
    let bounded = async {
        let _turn = store.readers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let mut lease = Lease::acquire(&store.pool).await?;
        let answer = read(lease.conn()).await?;
        lease.give_back();
        Ok(answer)
    };
    timeout(READ_LIMIT, bounded).await.unwrap_or_else(|_| Err(timed_out(READ_LIMIT))).map_err(|error| unavailable(&error))
}

/// One metric over all sources.
pub(super) async fn value(store: &PostgresStore, selector: &Selector) -> Result<Option<Value>, StoreError> {
    let id = selector.id.as_str();
    match selector.kind {
        Kind::Gauge => {
            let newest = read(store, async |conn| {
                sqlx::query_scalar!(
                    r#"SELECT value AS "value!" FROM latest WHERE name = $1 AND kind = 0 ORDER BY at DESC, arrival DESC LIMIT 1"#,
                    id,
                )
                .fetch_optional(conn)
                .await
            });
            Ok(newest.await?.map(Value::Gauge))
        }
        Kind::Counter => {
            let sum = read(store, async |conn| {
                sqlx::query_scalar!(
                    "SELECT least(sum(total), 9223372036854775807)::bigint FROM latest WHERE name = $1 AND kind = 1 HAVING count(*) > 0",
                    id,
                )
                .fetch_optional(conn)
                .await
            });
            Ok(sum.await?.flatten().map(Value::Counter))
        }
    }
}

/// All metrics over all sources.
pub(super) async fn snapshot(store: &PostgresStore) -> Result<Snapshot, StoreError> {
    let rows = read(store, async |conn| {
        sqlx::query!(
            r#"(SELECT DISTINCT ON (name) name AS "name!", value, NULL::bigint AS total FROM latest WHERE kind = 0
                ORDER BY name, at DESC, arrival DESC)
            UNION ALL
            (SELECT name, NULL, least(sum(total), 9223372036854775807)::bigint FROM latest WHERE kind = 1 GROUP BY name)"#
        )
        .fetch_all(conn)
        .await
    })
    .await?;
    let mut snapshot = Snapshot::default();
    for row in rows {
        match (row.value, row.total) {
            (Some(value), _) => drop(snapshot.gauges.insert(row.name, value)),
            (None, total) => drop(snapshot.counters.insert(row.name, total.unwrap_or_default())),
        }
    }
    Ok(snapshot)
}

/// All sources.
pub(super) async fn sources(store: &PostgresStore) -> Result<Vec<SourceInfo>, StoreError> {
    let rows = read(store, async |conn| {
        sqlx::query!(
            r#"SELECT name, (extract(epoch FROM first_seen) * 1000)::bigint AS "first_seen!",
                (extract(epoch FROM last_seen) * 1000)::bigint AS "last_seen!", series
            FROM sources ORDER BY name"#
        )
        .fetch_all(conn)
        .await
    })
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SourceInfo {
                name: stored_source(&row.name)?,
                first_seen_millis: millis(row.first_seen),
                last_seen_millis: millis(row.last_seen),
                series: usize::try_from(row.series).unwrap_or(0),
            })
        })
        .collect()
}

/// Series with their newest values.
pub(super) async fn series(store: &PostgresStore, filter: &SeriesFilter) -> Result<Vec<Series>, StoreError> {
    let source = filter.source.as_ref().map(Source::as_str);
    // PostgreSQL's text holds no NUL, and no id has one either.
    if filter.name.as_ref().is_some_and(|name| name.contains('\0')) {
        return Ok(Vec::new());
    }
    let name = filter.name.as_deref();
    // The ids `name{…}` stand together in the index, from `name{` to before `name|`, the next character.
    let labelled = name.filter(|name| !name.is_empty() && !name.contains('{')).map(|name| format!("{name}{{"));
    let past_labelled = labelled.as_ref().map(|start| start.replace('{', "|"));
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let rows = read(store, async |conn| {
        sqlx::query!(
            r#"SELECT sources.name AS source, latest.name AS "name!", latest.kind AS "kind!", latest.value, latest.total,
                (extract(epoch FROM latest.at) * 1000)::bigint AS "at!"
            FROM sources JOIN latest ON latest.source_id = sources.id
            WHERE ($1::text IS NULL OR sources.name = $1)
                AND ($2::text IS NULL OR latest.name = $2 OR (latest.name >= $3 AND latest.name < $4 AND right(latest.name, 1) = '}'))
            ORDER BY sources.name, latest.name, latest.kind LIMIT $5"#,
            source,
            name,
            labelled,
            past_labelled,
            limit,
        )
        .fetch_all(conn)
        .await
    })
    .await?;
    // An id whose braces are no labels is not one of the name before them.
    let asked = |id: &MetricId| name.is_none_or(|name| id.as_str() == name || id.name() == name);
    rows.into_iter()
        .map(|row| {
            let value = if row.kind == code_of(Kind::Gauge) { row.value.map(Value::Gauge) } else { row.total.map(Value::Counter) };
            Ok(Series {
                source: stored_source(&row.source)?,
                id: MetricId::parse(&row.name).map_err(|_| damaged("a series", &row.name))?,
                value: value.ok_or_else(|| damaged("the value of", &row.name))?,
                at_millis: millis(row.at),
            })
        })
        .filter(|series| series.as_ref().map_or(true, |series| asked(&series.id)))
        .collect()
}

/// Whether a write could be taken now.
pub(super) async fn ping(store: &PostgresStore) -> Result<(), StoreError> {
    let deadline = Instant::now() + PING_LIMIT;
    store.check_schema(PING_LIMIT).await?;
    let asked = async {
        let mut lease = Lease::acquire(&store.pool).await?;
        let read_only = sqlx::query_scalar!(r#"SELECT current_setting('transaction_read_only')::boolean AS "read_only!""#)
            .fetch_one(lease.conn())
            .await?;
        // A connection to a primary that became a standby is of no use any more.
        if !read_only {
            lease.give_back();
        }
        Ok(read_only)
    };
    match timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(timed_out(PING_LIMIT))) {
        Ok(false) => Ok(()),
        Ok(true) => Err(StoreError::Unavailable("the database takes no writes".into())),
        Err(error) => Err(unavailable(&error)),
    }
}

fn stored_source(name: &str) -> Result<Source, StoreError> {
    Source::from_stored(name).map_err(|_| damaged("a source", name))
}

/// Somebody else wrote this row.
fn damaged(what: &str, name: &str) -> StoreError {
    StoreError::Unavailable(format!("the database holds {what} {name:?}, which golectra did not write"))
}

fn millis(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
