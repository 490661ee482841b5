//! The size of the audit tables, and the removal of rows beyond the bound.
//!
//! A table's size on disk does not shrink when rows are deleted, because their space is reused for new rows. So a size on disk
//! within the bound only shows that nothing has to be removed. Beyond the bound, the sizes of rows are summed, in a sample if
//! the tables are large.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::exchange::begin;

/// The overhead of a row, including its index entries, in bytes; measured by a test.
const EVENT_BYTES: i64 = 160;
const DELIVERY_BYTES: i64 = 165;
const DEAD_LETTER_BYTES: i64 = 275;
const NAME_LIST_BYTES: i64 = 155;

/// Name lists may take up this part of the bound. Beyond it, events store their names themselves.
const NAME_LIST_SHARE: u64 = 4;

/// The number of a table's pages that are read to estimate the size of its rows.
const SAMPLED_PAGES: f64 = 4096.0;

/// The number of rows that one transaction removes.
const ROWS_AT_ONCE: i64 = 10_000;

/// The advisory lock that lets only one server at a time remove rows: two would remove the same excess twice.
const LOCK: i64 = 0x676f_6c65_6175_6401;

/// The sizes of the audit tables on disk, with their indexes, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DiskBytes {
    /// Events that wait for sinks, and name lists.
    pub waiting: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

/// The estimated sizes of the rows of the audit tables, in bytes.
struct RowBytes {
    events: u64,
    dead_letters: u64,
    name_lists: u64,
}

/// The result of one transaction.
#[derive(Debug, Default)]
pub(super) struct Trimmed {
    pub(super) disk: DiskBytes,
    /// Whether there is room for more name lists; None if another server held the lock.
    pub(super) room_for_name_lists: Option<bool>,
    /// The numbers of removed events, by sink.
    pub(super) events: HashMap<String, u64>,
    /// The numbers of removed dead letters, by sink.
    pub(super) dead_letters: HashMap<String, u64>,
    /// Whether there may be more rows to remove.
    pub(super) more: bool,
}

/// Removes the oldest dead letters and then the oldest events, up to the limit of one transaction, until the rows of all audit
/// tables take up at most this many bytes.
pub(super) async fn trim(conn: &mut PgConnection, max_bytes: u64) -> Result<Trimmed, sqlx::Error> {
    let mut trimmed = Trimmed { disk: on_disk(conn).await?, ..Trimmed::default() };
    if trimmed.disk.waiting + trimmed.disk.dead_letters <= max_bytes {
        trimmed.room_for_name_lists = Some(true);
        return Ok(trimmed);
    }
    let mut transaction = begin(conn).await?;
    if !sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock($1) as "taken!""#, LOCK).fetch_one(&mut *transaction).await? {
        return Ok(trimmed);
    }
    let rows = estimate(&mut transaction).await?;
    trimmed.room_for_name_lists = Some(rows.name_lists <= max_bytes / NAME_LIST_SHARE);
    let excess = (rows.events + rows.dead_letters + rows.name_lists).saturating_sub(max_bytes);
    if excess == 0 {
        return Ok(trimmed);
    }
    let bytes;
    (bytes, trimmed.dead_letters) = remove_dead_letters(&mut transaction, excess).await?;
    let mut removed: u64 = trimmed.dead_letters.values().sum();
    if bytes < excess && removed < ROWS_AT_ONCE.unsigned_abs() {
        (removed, trimmed.events) = remove_events(&mut transaction, excess - bytes).await?;
    }
    transaction.commit().await?;
    trimmed.more = removed > 0;
    Ok(trimmed)
}

async fn on_disk(conn: &mut PgConnection) -> Result<DiskBytes, sqlx::Error> {
    let row = sqlx::query!(
        r#"select pg_total_relation_size('dead_letters') as "dead_letters!",
            pg_total_relation_size('outbox') + pg_total_relation_size('deliveries') + pg_total_relation_size('audit_name_lists') as "waiting!""#
    )
    .fetch_one(conn)
    .await?;
    Ok(DiskBytes { waiting: row.waiting.unsigned_abs(), dead_letters: row.dead_letters.unsigned_abs() })
}

/// The sizes of rows, estimated from a sample of each table that is large.
async fn estimate(conn: &mut PgConnection) -> Result<RowBytes, sqlx::Error> {
    let percent = sqlx::query!(
        r#"select least(100, $1::float8 * 100 / greatest(1, pg_relation_size('outbox') / 8192)) as "events!",
            least(100, $1 * 100 / greatest(1, pg_relation_size('deliveries') / 8192)) as "deliveries!",
            least(100, $1 * 100 / greatest(1, pg_relation_size('dead_letters') / 8192)) as "dead_letters!",
            least(100, $1 * 100 / greatest(1, pg_relation_size('audit_name_lists') / 8192)) as "name_lists!""#,
        SAMPLED_PAGES,
    )
    .fetch_one(&mut *conn)
    .await?;
    let row = sqlx::query!(
        r#"select
            ((select coalesce(sum($1::bigint + coalesce(pg_column_size(metrics), 0) + coalesce(pg_column_size(traceparent), 0)), 0)
                from outbox tablesample system ($5::float8)) * 100 / $5::float8)::bigint as "events!",
            ((select count(*) * $2::bigint from deliveries tablesample system ($6::float8)) * 100 / $6::float8)::bigint as "deliveries!",
            ((select coalesce(sum($3::bigint + coalesce(pg_column_size(metrics), 0) + coalesce(pg_column_size(traceparent), 0)), 0)
                from dead_letters tablesample system ($7::float8)) * 100 / $7::float8)::bigint as "dead_letters!",
            ((select coalesce(sum($4::bigint + pg_column_size(metrics)), 0)
                from audit_name_lists tablesample system ($8::float8)) * 100 / $8::float8)::bigint as "name_lists!""#,
        EVENT_BYTES,
        DELIVERY_BYTES,
        DEAD_LETTER_BYTES,
        NAME_LIST_BYTES,
        percent.events,
        percent.deliveries,
        percent.dead_letters,
        percent.name_lists,
    )
    .fetch_one(conn)
    .await?;
    Ok(RowBytes {
        events: row.events.unsigned_abs() + row.deliveries.unsigned_abs(),
        dead_letters: row.dead_letters.unsigned_abs(),
        name_lists: row.name_lists.unsigned_abs(),
    })
}

/// Removes the oldest dead letters, which together have this many bytes. Returns the removed bytes and the numbers of letters
/// by sink.
async fn remove_dead_letters(conn: &mut PgConnection, bytes: u64) -> Result<(u64, HashMap<String, u64>), sqlx::Error> {
    let rows = sqlx::query!(
        r#"with oldest as (
            select event_id, sink, died_at,
                $1::bigint + coalesce(pg_column_size(metrics), 0) + coalesce(pg_column_size(traceparent), 0) as bytes
            from dead_letters order by died_at limit $2
        ), chosen as (
            select event_id, sink, bytes from (
                select event_id, sink, bytes, sum(bytes) over (order by died_at, event_id, sink) - bytes as bytes_before from oldest
            ) as sized where bytes_before < $3::bigint
        ), gone as (
            delete from dead_letters using chosen
            where dead_letters.event_id = chosen.event_id and dead_letters.sink = chosen.sink
            returning dead_letters.sink, chosen.bytes
        )
        select sink as "sink!", count(*) as "letters!", sum(bytes)::bigint as "bytes!" from gone group by sink"#,
        DEAD_LETTER_BYTES,
        ROWS_AT_ONCE,
        i64::try_from(bytes).unwrap_or(i64::MAX),
    )
    .fetch_all(conn)
    .await?;
    let removed = rows.iter().map(|row| row.bytes.unsigned_abs()).sum();
    Ok((removed, rows.into_iter().map(|row| (row.sink, row.letters.unsigned_abs())).collect()))
}

/// Removes the oldest events, which together have this many bytes. Returns the number of events and the numbers of deliveries
/// by sink.
async fn remove_events(conn: &mut PgConnection, bytes: u64) -> Result<(u64, HashMap<String, u64>), sqlx::Error> {
    let ids = sqlx::query_scalar!(
        r#"with oldest as (
            select id, $1::bigint + coalesce(pg_column_size(metrics), 0) + coalesce(pg_column_size(traceparent), 0)
                + $2::bigint * (select count(*) from deliveries where event = id) as bytes
            from outbox order by id limit $3 for update skip locked
        )
        select id as "id!" from (select id, sum(bytes) over (order by id) - bytes as bytes_before from oldest) as sized where bytes_before < $4::bigint"#,
        EVENT_BYTES,
        DELIVERY_BYTES,
        ROWS_AT_ONCE,
        i64::try_from(bytes).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *conn)
    .await?;
    let sinks = sqlx::query!(
        r#"with gone as (delete from deliveries where event = any($1) returning sink)
        select sink as "sink!", count(*) as "events!" from gone group by sink"#,
        &ids,
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!("delete from outbox where id = any($1)", &ids).execute(conn).await?;
    Ok((ids.len() as u64, sinks.into_iter().map(|row| (row.sink, row.events.unsigned_abs())).collect()))
}
