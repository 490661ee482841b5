//! Finds the series of a batch, and makes those that are new while the caps allow it.

use std::collections::HashMap;

use golectra_protocol::Metrics;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::super::StoreError;
use super::super::cache::Layout;
use super::ledger::HeldSource;
use super::{Write, WriteError, code_of};

/// What tells layouts of one source apart: SHA-256 over each metric's type, length and id.
pub(super) fn layout_digest(metrics: &Metrics) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for metric in metrics {
        let id = metric.id;
        hasher.update(code_of(metric.kind()).to_be_bytes());
        hasher.update((id.len() as u64).to_be_bytes());
        hasher.update(id);
    }
    hasher.finalize().into()
}

/// The batch's layout as the database holds it, made where it is new. Its `last_day` covers the batch's day.
pub(super) async fn layout(
    conn: &mut PgConnection,
    write: &Write<'_>,
    source: &HeldSource,
    digest: &[u8; 32],
) -> Result<Layout, WriteError> {
    let known = sqlx::query_as!(
        Layout,
        r#"UPDATE layouts SET last_day = greatest(last_day, date '1970-01-01' + $3::integer) WHERE source_id = $1 AND digest = $2
        RETURNING id, series_ids, last_day - date '1970-01-01' AS "last_day!""#,
        source.id,
        &digest[..],
        write.day,
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(layout) = known
        && are_there(conn, &layout.series_ids).await?
    {
        return Ok(layout);
    }
    // New, or some of its series were deleted by hand: they come back under new numbers, which take the place of the old.
    let series_ids = series(conn, write, source).await?;
    let made = sqlx::query_as!(
        Layout,
        r#"INSERT INTO layouts (source_id, digest, series_ids, last_day) VALUES ($1, $2, $3, date '1970-01-01' + $4::integer)
        ON CONFLICT (source_id, digest) DO UPDATE SET series_ids = excluded.series_ids
        RETURNING id, series_ids, last_day - date '1970-01-01' AS "last_day!""#,
        source.id,
        &digest[..],
        &series_ids,
        write.day,
    );
    Ok(made.fetch_one(conn).await?)
}

/// Whether all of these series still exist.
async fn are_there(conn: &mut PgConnection, ids: &[i32]) -> Result<bool, sqlx::Error> {
    let there = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM latest WHERE series_id = ANY($1)"#, ids).fetch_one(conn).await?;
    Ok(usize::try_from(there) == Ok(ids.len()))
}

/// One series id a metric, in the batch's order.
async fn series(conn: &mut PgConnection, write: &Write<'_>, source: &HeldSource) -> Result<Vec<i32>, WriteError> {
    let metrics = &write.batch.metrics;
    let names: Vec<&str> = metrics.iter().map(|metric| metric.id).collect();
    let kinds: Vec<i16> = metrics.iter().map(|metric| code_of(metric.kind())).collect();
    let rows = sqlx::query!(
        r#"SELECT asked.place AS "place!", series.id FROM unnest($2::text[], $3::smallint[]) WITH ORDINALITY AS asked (name, kind, place)
        JOIN series ON series.source_id = $1 AND series.name = asked.name AND series.kind = asked.kind"#,
        source.id,
        &names as &[&str],
        &kinds,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut ids: Vec<Option<i32>> = vec![None; metrics.len()];
    for row in rows {
        let place = usize::try_from(row.place - 1).ok().and_then(|place| ids.get_mut(place));
        *place.ok_or(WriteError::Stale)? = Some(row.id);
    }

    let missing: Vec<usize> = (0..ids.len()).filter(|place| ids[*place].is_none()).collect();
    if !missing.is_empty() {
        take_room(conn, write, source, missing.len()).await?;
        let names: Vec<&str> = missing.iter().map(|place| names[*place]).collect();
        let kinds: Vec<i16> = missing.iter().map(|place| kinds[*place]).collect();
        let made = make(conn, source, &names, &kinds).await?;
        for place in missing {
            ids[place] = made.get(&(metrics.get(place).id.to_owned(), code_of(metrics.get(place).kind()))).copied();
        }
    }
    ids.into_iter().collect::<Option<Vec<i32>>>().ok_or(WriteError::Stale)
}

/// Counts new series, if there is room. The source's row is locked already; the total's row is from here on, so both caps are exact.
async fn take_room(conn: &mut PgConnection, write: &Write<'_>, source: &HeldSource, new: usize) -> Result<(), WriteError> {
    let limits = write.store.limits;
    let room = limits.per_source.saturating_sub(usize::try_from(source.series).unwrap_or(0));
    let (Ok(count), true) = (i32::try_from(new), new <= room) else {
        return Err(StoreError::TooManySeriesOfSource { limit: limits.per_source }.into());
    };
    let total = i64::try_from(limits.total).unwrap_or(i64::MAX);
    let taken = sqlx::query!("UPDATE series_total SET series = series + $1 WHERE series <= $2::bigint - $1", i64::from(count), total)
        .execute(&mut *conn)
        .await?
        .rows_affected();
    if taken == 0 {
        return Err(StoreError::TooManySeries { limit: limits.total }.into());
    }
    sqlx::query!("UPDATE sources SET series = series + $2 WHERE id = $1", source.id, count).execute(conn).await?;
    Ok(())
}

/// Makes series and their rows in latest, older than any batch so that the fold sets them.
async fn make(
    conn: &mut PgConnection,
    source: &HeldSource,
    names: &[&str],
    kinds: &[i16],
) -> Result<HashMap<(String, i16), i32>, sqlx::Error> {
    let rows = sqlx::query!(
        "INSERT INTO series (source_id, name, kind) SELECT $1, asked.name, asked.kind
        FROM unnest($2::text[], $3::smallint[]) WITH ORDINALITY AS asked (name, kind, place) ORDER BY asked.place
        RETURNING id, name, kind",
        source.id,
        names as &[&str],
        kinds,
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<i32> = rows.iter().map(|row| row.id).collect();
    sqlx::query!(
        "INSERT INTO latest (series_id, total, at, arrival)
        SELECT id, CASE kind WHEN 1 THEN 0 END, '-infinity', 0 FROM series WHERE id = ANY($1)",
        &ids,
    )
    .execute(conn)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.name, row.kind), row.id)).collect())
}
