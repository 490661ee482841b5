//! Keeps the audit tables within their bounds: gives up events that are too old, removes old dead letters and unused name
//! lists, and then removes rows beyond the bound of bytes.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgConnection;

use super::exchange::{Connections, begin, change};
use super::size::{self, DiskBytes};
use crate::audit::outbox::OutboxError;

/// The number of rows that one transaction handles, so that no transaction holds locks for long.
const ROWS_AT_ONCE: i64 = 2000;

/// The number of transactions of one kind in one sweep. The next sweep continues.
const TRANSACTIONS: usize = 50;

/// A list that no event referred to for this many days is removed.
const LIST_DAYS: i32 = 1;

/// The bounds of the audit tables.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Older events are given up.
    pub retention: Duration,
    /// Older dead letters are removed.
    pub dead_letter_retention: Duration,
    /// The bytes that the rows and indexes of all audit tables may take up together. Beyond it, the oldest dead letters are
    /// removed, then the oldest events. Space that a table keeps for new rows is not counted.
    pub max_bytes: u64,
}

/// The result of a sweep.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Events that were given up because of their age, by sink.
    pub given_up: HashMap<String, u64>,
    /// Events that were removed because of their size, by sink.
    pub dropped: HashMap<String, u64>,
    /// Dead letters that were removed because of their size, by sink.
    pub dead_letters_dropped: HashMap<String, u64>,
    /// The sizes of the tables on disk after the sweep.
    pub disk: DiskBytes,
    /// Whether there is room for more name lists; None if another server held the lock.
    pub room_for_name_lists: Option<bool>,
}

/// Adds up counts by sink.
fn add(to: &mut HashMap<String, u64>, sinks: impl IntoIterator<Item = (String, u64)>) {
    for (sink, count) in sinks {
        *to.entry(sink).or_default() += count;
    }
}

/// Enforces the bounds. Several servers may run it at the same time.
pub async fn sweep(connections: &Connections, bounds: &Bounds) -> Result<Swept, OutboxError> {
    let mut swept = Swept::default();
    for _ in 0..TRANSACTIONS {
        if !change(connections, async |conn| give_up_old_events(conn, bounds.retention, &mut swept.given_up).await).await? {
            break;
        }
    }
    for _ in 0..TRANSACTIONS {
        if !change(connections, async |conn| remove_old_dead_letters(conn, bounds.dead_letter_retention).await).await? {
            break;
        }
    }
    for _ in 0..TRANSACTIONS {
        if !change(connections, remove_unused_lists).await? {
            break;
        }
    }
    for _ in 0..TRANSACTIONS {
        let trimmed = change(connections, async |conn| size::trim(conn, bounds.max_bytes).await).await?;
        swept.disk = trimmed.disk;
        swept.room_for_name_lists = trimmed.room_for_name_lists;
        add(&mut swept.dropped, trimmed.events);
        add(&mut swept.dead_letters_dropped, trimmed.dead_letters);
        if !trimmed.more {
            break;
        }
    }
    Ok(swept)
}

/// Turns events that are too old into dead letters. Returns whether there may be more of them.
async fn give_up_old_events(
    conn: &mut PgConnection,
    retention: Duration,
    given_up: &mut HashMap<String, u64>,
) -> Result<bool, sqlx::Error> {
    let mut transaction = begin(conn).await?;
    // The oldest events have the lowest ids; checking a fixed number of them costs the same however many events there are.
    let old = sqlx::query_scalar!(
        r#"with old as materialized (
            select id from (select id, created_at from outbox order by id limit $1) as oldest
            where created_at < clock_timestamp() - make_interval(secs => $2)
        )
        select locked.id from old cross join lateral (select id from outbox where outbox.id = old.id for update skip locked offset 0) as locked"#,
        ROWS_AT_ONCE,
        retention.as_secs_f64(),
    )
    .fetch_all(&mut *transaction)
    .await?;
    if old.is_empty() {
        return Ok(false);
    }
    let sinks = sqlx::query!(
        r#"with gone as (delete from deliveries where event = any($1) returning event, sink), kept as (
            insert into dead_letters (event_id, sink, ts, ip_address, metrics, name_list, traceparent, created_at, reason)
            select event_id, sink, ts, ip_address, metrics, name_list, traceparent, created_at,
                case when metrics is not null or exists (select from audit_name_lists where digest = name_list)
                    then 'not delivered in time' else 'the list of its metrics was lost' end
            from gone cross join lateral (select * from outbox where id = gone.event offset 0) as outbox
            on conflict do nothing
        )
        select sink as "sink!", count(*) as "events!" from gone group by sink"#,
        &old,
    )
    .fetch_all(&mut *transaction)
    .await?;
    sqlx::query!("delete from outbox where id = any($1)", &old).execute(&mut *transaction).await?;
    transaction.commit().await?;
    add(given_up, sinks.into_iter().map(|row| (row.sink, row.events.unsigned_abs())));
    Ok(old.len() as u64 >= ROWS_AT_ONCE.unsigned_abs())
}

/// Returns whether there may be more of them.
async fn remove_old_dead_letters(conn: &mut PgConnection, retention: Duration) -> Result<bool, sqlx::Error> {
    let mut transaction = begin(conn).await?;
    let removed = sqlx::query!(
        r#"delete from dead_letters where (event_id, sink) in (
            select event_id, sink from dead_letters where died_at < clock_timestamp() - make_interval(secs => $1)
            limit $2 for update skip locked
        )"#,
        retention.as_secs_f64(),
        ROWS_AT_ONCE,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(removed.rows_affected() >= ROWS_AT_ONCE.unsigned_abs())
}

/// Removes lists without references. Returns whether there may be more of them.
///
/// It runs in a transaction of its own, because a writer that updates a list's day would wait for its end. No event is later
/// than the last day of its list: so a list whose last day is before the day of the oldest event has no references. One day is
/// added as a margin for open transactions.
async fn remove_unused_lists(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let mut transaction = begin(conn).await?;
    let removed = sqlx::query!(
        r#"delete from audit_name_lists where digest in (
            select digest from audit_name_lists
            where last_day < least(
                (now() at time zone 'UTC')::date - $1::integer,
                (select (created_at at time zone 'UTC')::date - 1 from outbox order by id limit 1)
            )
            and not exists (select from dead_letters where name_list = digest)
            order by last_day limit $2 for update skip locked
        )"#,
        LIST_DAYS,
        ROWS_AT_ONCE,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(removed.rows_affected() >= ROWS_AT_ONCE.unsigned_abs())
}
