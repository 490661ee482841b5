//! Keeps the audit tables within their bounds: gives up events that are too old, removes old dead letters and unused name lists,
//! and then whatever is too much by its size.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};

use super::exchange::exchange;
use super::size::{self, DiskBytes};
use crate::audit::outbox::OutboxError;

/// Rows handled by one transaction, so that none holds locks for long.
const ROWS_AT_ONCE: i64 = 2000;

/// Transactions of one kind in one sweep. The next sweep goes on.
const TRANSACTIONS: usize = 50;

/// A list that no event referred to for this many days is removed.
const LIST_DAYS: i32 = 1;

/// What the audit tables may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Older events are given up.
    pub retention: Duration,
    /// Older dead letters are removed.
    pub dead_letter_retention: Duration,
    /// The bytes that rows and indexes of all audit tables may take together. Beyond, the oldest dead letters are removed, then
    /// the oldest events. What a database keeps free for new rows is not counted.
    pub max_bytes: u64,
}

/// What a sweep did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Events that were given up because of their age, by sink.
    pub given_up: HashMap<String, u64>,
    /// Events that were removed because of their size, by sink.
    pub dropped: HashMap<String, u64>,
    /// Dead letters that were removed because of their size, by sink.
    pub dead_letters_dropped: HashMap<String, u64>,
    /// What the tables take on disk after it.
    pub disk: DiskBytes,
    /// Whether there is room for more name lists; none where another server was finding out.
    pub room_for_name_lists: Option<bool>,
}

/// Adds up counts by sink.
fn add(to: &mut HashMap<String, u64>, sinks: impl IntoIterator<Item = (String, u64)>) {
    for (sink, count) in sinks {
        *to.entry(sink).or_default() += count;
    }
}

/// Enforces the bounds. Several servers may do this at the same time.
pub async fn sweep(pool: &PgPool, bounds: &Bounds) -> Result<Swept, OutboxError> {
    let mut swept = Swept::default();
    for _ in 0..TRANSACTIONS {
        if !exchange(pool, async |conn| give_up_old_events(conn, bounds.retention, &mut swept.given_up).await).await? {
            break;
        }
    }
    for _ in 0..TRANSACTIONS {
        if !exchange(pool, async |conn| remove_old_dead_letters(conn, bounds.dead_letter_retention).await).await? {
            break;
        }
    }
    for _ in 0..TRANSACTIONS {
        if !exchange(pool, remove_unused_lists).await? {
            break;
        }
    }
    for _ in 0..TRANSACTIONS {
        let trimmed = exchange(pool, async |conn| size::trim(conn, bounds.max_bytes).await).await?;
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

/// Makes dead letters of events that are too old. Whether there may be more of them.
async fn give_up_old_events(
    conn: &mut PgConnection,
    retention: Duration,
    given_up: &mut HashMap<String, u64>,
) -> Result<bool, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    // The oldest events have the lowest ids: to look at a fixed number of them costs the same however many there are.
    let old = sqlx::query_scalar!(
        r#"select id from outbox
        where id in (select id from outbox order by id limit $1)
        and created_at < clock_timestamp() - make_interval(secs => $2)
        for update skip locked"#,
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
            from gone join outbox on id = event
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

/// Whether there may be more of them.
async fn remove_old_dead_letters(conn: &mut PgConnection, retention: Duration) -> Result<bool, sqlx::Error> {
    let removed = sqlx::query!(
        r#"delete from dead_letters where (event_id, sink) in (
            select event_id, sink from dead_letters where died_at < clock_timestamp() - make_interval(secs => $1)
            limit $2 for update skip locked
        )"#,
        retention.as_secs_f64(),
        ROWS_AT_ONCE,
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected() >= ROWS_AT_ONCE.unsigned_abs())
}

/// Removes lists that nothing refers to. Whether there may be more of them.
///
/// In a transaction of its own, since a writer that raises a list's day would wait for the end of it. No event is later than the
/// last day of its list: a list whose last day is before that of the oldest event is referred to by none. A day is left between
/// them for transactions that are under way.
async fn remove_unused_lists(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
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
    .execute(conn)
    .await?;
    Ok(removed.rows_affected() >= ROWS_AT_ONCE.unsigned_abs())
}
