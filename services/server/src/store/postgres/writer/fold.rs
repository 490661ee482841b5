//! Folds a batch into the newest state of its series.

use golectra_protocol::{MetricId, Value};
use sqlx::PgConnection;

use super::super::StoreError;
use super::super::cache::Layout;
use super::ledger::HeldSource;
use super::{Write, WriteError};

/// Sets the gauges that no later batch has set.
pub(super) async fn gauges(conn: &mut PgConnection, write: &Write<'_>, source: &HeldSource, layout: &Layout) -> Result<(), WriteError> {
    let (ids, values) = pick(write, layout, |value| match value {
        Value::Gauge(value) => Some(value),
        Value::Counter(_) => None,
    });
    if ids.is_empty() {
        return Ok(());
    }
    let set = sqlx::query!(
        "UPDATE latest SET value = fresh.value, at = to_timestamp($3::bigint / 1000.0), arrival = $4
        FROM unnest($1::integer[], $2::double precision[]) AS fresh (id, value)
        WHERE latest.series_id = fresh.id AND latest.at <= to_timestamp($3::bigint / 1000.0)",
        &ids,
        &values,
        write.at_millis,
        source.arrival,
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if set == ids.len() as u64 {
        return Ok(());
    }
    // Newer values stand, or the rows are gone.
    let there = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM latest WHERE series_id = ANY($1)"#, &ids).fetch_one(conn).await?;
    if usize::try_from(there) == Ok(ids.len()) { Ok(()) } else { Err(WriteError::Stale) }
}

/// Adds the deltas to their counters, or finds the one that has no room for its own.
pub(super) async fn counters(conn: &mut PgConnection, write: &Write<'_>, source: &HeldSource, layout: &Layout) -> Result<(), WriteError> {
    let (ids, deltas) = pick(write, layout, |value| match value {
        Value::Gauge(_) => None,
        Value::Counter(delta) => Some(delta),
    });
    if ids.is_empty() {
        return Ok(());
    }
    let added = sqlx::query!(
        "UPDATE latest SET total = latest.total + fresh.delta, at = greatest(latest.at, to_timestamp($3::bigint / 1000.0)), arrival = $4
        FROM unnest($1::integer[], $2::bigint[]) AS fresh (id, delta)
        WHERE latest.series_id = fresh.id AND latest.total <= 9223372036854775807 - fresh.delta",
        &ids,
        &deltas,
        write.at_millis,
        source.arrival,
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if added == ids.len() as u64 {
        return Ok(());
    }
    // Those that were added to just now carry this batch's arrival.
    let full = sqlx::query_scalar!(
        "SELECT fresh.place FROM unnest($1::integer[]) WITH ORDINALITY AS fresh (id, place)
        JOIN latest ON latest.series_id = fresh.id WHERE latest.arrival <> $2 ORDER BY fresh.place LIMIT 1",
        &ids,
        source.arrival,
    )
    .fetch_optional(conn)
    .await?
    .flatten();
    let id = full.and_then(|place| usize::try_from(place - 1).ok()).and_then(|place| nth_counter(write, place));
    Err(id.map_or(WriteError::Stale, |id| StoreError::Overflow { id }.into()))
}

/// The ids and values of one type.
fn pick<T>(write: &Write<'_>, layout: &Layout, of_type: impl Fn(Value) -> Option<T>) -> (Vec<i32>, Vec<T>) {
    let metrics = write.batch.metrics.iter().zip(&layout.series_ids);
    metrics.filter_map(|(metric, id)| of_type(metric.value).map(|value| (*id, value))).unzip()
}

/// The id of the batch's n-th counter, from 0.
fn nth_counter(write: &Write<'_>, n: usize) -> Option<MetricId> {
    write.batch.metrics.iter().filter(|metric| matches!(metric.value, Value::Counter(_))).nth(n).map(|metric| metric.to_id())
}
