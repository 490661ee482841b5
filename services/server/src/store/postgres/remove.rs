//! Removes rows that nothing needs any more: of series whose history is gone, of names and label pairs that no series has, of sources that are
//! forgotten with their keys.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection};

use super::partitions::{FRAMES, day_of};
use super::timestamp::Timestamp;
use super::writer::context::BLOCK;

/// How many series one transaction removes.
const SERIES_AT_ONCE: i64 = 2_000;
/// How many pages of series, of any, are read to learn which terms are common.
const SAMPLE_PAGES: f64 = 100.0;

/// Removes the series that expired before this, with the terms that were theirs alone; says how many series.
pub(super) async fn series(conn: &mut PgConnection, expired_before: Timestamp) -> Result<u64, sqlx::Error> {
    let mut all = 0;
    loop {
        let mut tx = conn.begin().await?;
        // Whoever brings a series back holds its row here, and whoever waits for one that is removed finds it gone.
        let ids = sqlx::query_scalar!(
            "SELECT series_id FROM expired_series WHERE at < $1 ORDER BY at, series_id LIMIT $2 FOR UPDATE SKIP LOCKED",
            expired_before as Timestamp,
            SERIES_AT_ONCE,
        )
        .fetch_all(&mut *tx)
        .await?;
        if ids.is_empty() {
            break;
        }
        let rows = sqlx::query_scalar!("SELECT terms FROM series WHERE id = ANY($1)", &ids).fetch_all(&mut *tx).await?;
        let terms: BTreeSet<i32> = rows.into_iter().flatten().collect();
        // The trigger removes the rows of expired_series.
        sqlx::query!("DELETE FROM series WHERE id = ANY($1)", &ids).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM expired_series WHERE series_id = ANY($1)", &ids).execute(&mut *tx).await?;
        unused_terms(&mut tx, &terms.into_iter().collect::<Vec<_>>()).await?;
        let blocks: BTreeSet<i32> = ids.iter().map(|id| id / BLOCK).collect();
        unused_totals(&mut tx, &blocks.into_iter().collect::<Vec<_>>()).await?;
        tx.commit().await?;
        all += ids.len() as u64;
        // Caches of the index search anew. The trigger has said so too, but without a lock of series_total, so that caches may have passed the number of its row. In a
        // transaction of its own: writers lock that row before any series.
        let statement = "WITH locked AS (UPDATE series_total SET series = series RETURNING one)
            INSERT INTO series_changes (block_id) SELECT NULL::integer FROM locked";
        sqlx::query(statement).execute(&mut *conn).await?;
    }
    Ok(all)
}

/// How many rows of `series_changes` are kept. A server that searches now and then is never so far behind; one that is searches anew.
const CHANGES_KEPT: i64 = 2_000;

/// The same of `chunk_changes`, in changes: a cache of chunks that is so far behind begins anew.
const CHUNK_CHANGES_KEPT: i64 = 2_000;

/// Removes the oldest changes of series and of chunks.
pub(super) async fn changes(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let statement = "DELETE FROM series_changes WHERE n <= (SELECT max(n) FROM series_changes) - $1";
    sqlx::query(statement).bind(CHANGES_KEPT).execute(&mut *conn).await?;
    let statement = "DELETE FROM chunk_changes WHERE change <= (SELECT changes FROM chunk_total) - $1";
    sqlx::query(statement).bind(CHUNK_CHANGES_KEPT).execute(conn).await?;
    Ok(())
}

/// Removes those of these terms that no series has, and gives their numbers back. Whoever makes a series holds its terms; those that are held are passed
/// over. The two steps are two statements, so that the second sees every series that was there before the first had the lock.
///
/// The index finds all series of a term before the first of them is known. Of a name that all pods have these are all rows, and whoever makes a series with
/// it would wait meanwhile. So a sample of all series says first which terms are in use. Those are looked at again when these series go.
async fn unused_terms(conn: &mut PgConnection, terms: &[i32]) -> Result<(), sqlx::Error> {
    let terms: Vec<i32> = sqlx::query_scalar(
        "SELECT id FROM unnest($1::integer[]) AS term (id) EXCEPT SELECT unnest(terms) FROM series
            TABLESAMPLE SYSTEM (least(100, 100 * $2 * current_setting('block_size')::integer / greatest(pg_relation_size('series'), 1)))",
    )
    .bind(terms)
    .bind(SAMPLE_PAGES)
    .fetch_all(&mut *conn)
    .await?;
    let pairs = sqlx::query_scalar!("SELECT id FROM label_pairs WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED", &terms)
        .fetch_all(&mut *conn)
        .await?;
    sqlx::query!(
        "WITH gone AS (
            DELETE FROM label_pairs WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM series WHERE terms @> ARRAY[label_pairs.id]) RETURNING id
        ) INSERT INTO free_terms (id) SELECT id FROM gone",
        &pairs
    )
    .execute(&mut *conn)
    .await?;
    let names = sqlx::query_scalar!("SELECT id FROM metric_names WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED", &terms)
        .fetch_all(&mut *conn)
        .await?;
    sqlx::query!(
        "WITH gone AS (
            DELETE FROM metric_names WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM series WHERE terms @> ARRAY[metric_names.id]) RETURNING id
        ) INSERT INTO free_terms (id) SELECT id FROM gone",
        &names
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the totals of blocks that have no series any more.
async fn unused_totals(conn: &mut PgConnection, blocks: &[i32]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM sealed_totals WHERE block_id = ANY($1)
            AND NOT EXISTS (SELECT FROM series WHERE id >= block_id::bigint * 64 AND id < (block_id::bigint + 1) * 64)",
        blocks
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes layouts that no frame uses and that no batch can use any more: all frames of their last day and of earlier ones are sealed, and no batch of
/// these days is accepted. What a writer holds just now is left alone: nobody waits here while others wait for it.
///
/// A writer raises `last_day` before it uses a layout on a later day. One that uses it on a day that is accepted when it looks (after its insert, see
/// [`super::sealed`]) has made the partition before; so partitions are looked at after `oldest_accepted`, in a statement of its own.
pub(super) async fn layouts(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let oldest = sqlx::query_scalar!(r#"SELECT at AS "at: Timestamp" FROM oldest_accepted"#).fetch_one(&mut *conn).await?;
    let frames = FRAMES.existing(&mut *conn).await?.first().map_or(oldest.0, |slot| FRAMES.start_of(*slot));
    sqlx::query!(
        "DELETE FROM layouts WHERE id IN
            (SELECT id FROM layouts WHERE last_day < date '1970-01-01' + $1::integer FOR UPDATE SKIP LOCKED)",
        day_of(oldest.0.min(frames)),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the sources that were forgotten before this and have no series any more; says how many.
pub(super) async fn sources(conn: &mut PgConnection, forgotten_before: Timestamp) -> Result<u64, sqlx::Error> {
    let removed = sqlx::query!(
        "DELETE FROM sources WHERE id IN (SELECT id FROM sources WHERE forgotten_at < $1 FOR UPDATE SKIP LOCKED)
            AND NOT EXISTS (SELECT FROM series WHERE source_id = sources.id)",
        forgotten_before as Timestamp,
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected())
}
