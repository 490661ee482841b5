//! The source's row, which is the lock, and the frames, which are the memory of what was applied.

use golectra_protocol::Value;
use sqlx::PgConnection;

use super::super::cache::Layout;
use super::Write;

/// A source whose row this transaction holds.
pub(super) struct HeldSource {
    pub(super) id: i32,
    /// How many series it has.
    pub(super) series: i32,
    /// This batch's place in the order of arrival.
    pub(super) arrival: i64,
}

/// A batch that was applied before.
pub(super) struct Entry {
    pub(super) digest: Vec<u8>,
}

/// Locks the batch's source until the end of the transaction, made where it is new.
pub(super) async fn lock_source(conn: &mut PgConnection, write: &Write<'_>) -> Result<HeldSource, sqlx::Error> {
    let name = write.batch.source.as_str();
    // Update first: an insert that meets its conflict would use up a number each time.
    let known = sqlx::query_as!(
        HeldSource,
        r#"UPDATE sources SET last_seen = greatest(last_seen, to_timestamp($2::bigint / 1000.0)) WHERE name = $1
        RETURNING id, series, nextval('arrivals') AS "arrival!""#,
        name,
        write.now_millis,
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(source) = known {
        return Ok(source);
    }
    sqlx::query_as!(
        HeldSource,
        r#"INSERT INTO sources (name, first_seen, last_seen) VALUES ($1, to_timestamp($2::bigint / 1000.0), to_timestamp($2::bigint / 1000.0))
        ON CONFLICT (name) DO UPDATE SET last_seen = greatest(sources.last_seen, excluded.last_seen)
        RETURNING id, series, nextval('arrivals') AS "arrival!""#,
        name,
        write.now_millis,
    )
    .fetch_one(conn)
    .await
}

/// The batch that was applied under this key.
pub(super) async fn find(conn: &mut PgConnection, write: &Write<'_>, source_id: i32) -> Result<Option<Entry>, sqlx::Error> {
    sqlx::query_as!(
        Entry,
        "SELECT digest FROM frames WHERE at = to_timestamp($1::bigint / 1000.0) AND source_id = $2 AND key = $3",
        write.at_millis,
        source_id,
        write.batch.key.uuid(),
    )
    .fetch_optional(conn)
    .await
}

/// Writes the batch down; returns false when its key was there already.
pub(super) async fn insert(conn: &mut PgConnection, write: &Write<'_>, source_id: i32, layout: &Layout) -> Result<bool, sqlx::Error> {
    let values: Vec<f64> = write.batch.metrics.iter().map(|metric| as_double(metric.value)).collect();
    let inserted = sqlx::query!(
        r#"INSERT INTO frames (at, source_id, key, layout_id, digest, "values")
        VALUES (to_timestamp($1::bigint / 1000.0), $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING layout_id"#,
        write.at_millis,
        source_id,
        write.batch.key.uuid(),
        layout.id,
        &write.batch.digest[..],
        &values,
    )
    .fetch_optional(conn)
    .await?;
    Ok(inserted.is_some())
}

/// A value as the history holds it.
#[expect(clippy::cast_precision_loss, reason = "the history's deltas are doubles by design; totals are folded from the integers")]
fn as_double(value: Value) -> f64 {
    match value {
        Value::Gauge(value) => value,
        Value::Counter(delta) => delta as f64,
    }
}
