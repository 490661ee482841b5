//! The outbox of a server with a database. An event is inserted by the transaction of its write, so that there is an event for
//! every committed write and for no other. Servers share a sink's events: each server claims some of them for the time of a
//! lease.
//!
//! Statements are written so that the planner has no choice. The tables are nearly empty at one moment and long at the next, and after a vacuum that found them
//! empty it takes any index for a tiny one: it then looks up each of a thousand events by reading all entries of an index, dead ones included. That took seconds,
//! in which the database cleaned up nothing behind writers either. So there are no joins but those of `lateral (… offset 0)`, and no condition on `sink`
//! alone (`sink || ''` uses no index) where events are named.

mod exchange;
mod hook;
mod name_lists;
mod size;
mod sweep;
#[cfg(test)]
mod tests;

pub use exchange::Connections;
pub use hook::Hook;
pub use sweep::{Bounds, Swept, sweep};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golectra_process::LogLimiter;
use sqlx::{FromRow, PgConnection};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use self::exchange::{begin, change, read};
use self::name_lists::NameListReader;
use super::{Backlog, CLAIM_BYTES, Delivery, DeliveryOutcome, LEASE, Outbox, OutboxError, Settlement};
use crate::audit::draft::EventContent;

/// How often a waiting reader looks for events without being woken: other servers may have inserted some.
const POLL: Duration = Duration::from_secs(1);

/// The hook wakes readers before its transaction has committed; this is about the time that a commit takes.
const COMMIT: Duration = Duration::from_millis(25);

/// How long an event is postponed if its name list was lost. The list is inserted again by the next write of the same metrics.
/// If such events were due at once, many of them would delay all others.
const LOST_LIST_PAUSE: Duration = Duration::from_mins(15);

/// No event is postponed for longer than this: not by a lease, by [`LOST_LIST_PAUSE`] or by a sink's pauses, of which the longest is the hour that a receiver
/// may ask for. What is due later was postponed before the database's clock was set back, and is due.
const LONGEST_PAUSE: Duration = Duration::from_mins(61);

/// The oldest events that are due, and their bytes. Their rows are locked.
const DUE: &str = "select event, attempts, (select bytes from outbox where id = event)::bigint as bytes from deliveries
    where sink = $1 and (due_at <= clock_timestamp() or due_at > clock_timestamp() + make_interval(secs => $3))
    order by event + 0 limit $2 for update skip locked";

/// Claims these.
const CLAIM: &str =
    "update deliveries set due_at = clock_timestamp() + make_interval(secs => $3), claim = $4 where sink || '' = $1 and event = any($2)";

/// These events, in no order.
const READ: &str = "select id, event_id, ts, ip_address, metrics, name_list, traceparent,
        extract(epoch from clock_timestamp() - created_at)::float8 as age_seconds
    from outbox where id = any($1)";

/// Backlogs are counted up to this number; beyond it, it is enough to know that the backlog is large.
const COUNTED: i64 = 100_000;

/// Log lines about lost lists, by sink.
static LOG: LogLimiter<String> = LogLimiter::new();

/// A claimed event.
#[derive(Debug, FromRow)]
struct ClaimedEvent {
    id: i64,
    event_id: Uuid,
    ts: i64,
    ip_address: String,
    metrics: Option<String>,
    name_list: Option<Vec<u8>>,
    traceparent: Option<String>,
    age_seconds: f64,
}

/// One sink's events in the database.
#[derive(Debug)]
pub struct PostgresOutbox {
    connections: Connections,
    /// True once the schema exists.
    ready: watch::Receiver<bool>,
    sink: String,
    /// Identifies this server's leases.
    holder: Uuid,
    wake: Arc<Notify>,
    name_lists: NameListReader,
}

impl PostgresOutbox {
    /// The events of `sink`; `wake` is the hook's.
    pub fn new(connections: Connections, ready: watch::Receiver<bool>, sink: String, wake: Arc<Notify>) -> Self {
        Self { connections, ready, sink, holder: Uuid::now_v7(), wake, name_lists: NameListReader::default() }
    }
}

#[async_trait]
impl Outbox for PostgresOutbox {
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, OutboxError> {
        if !*self.ready.borrow() {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        change(&self.connections, async |conn| {
            let mut transaction = begin(conn).await?;
            let due: Vec<(i64, i32, Option<i64>)> =
                sqlx::query_as(DUE).bind(&self.sink).bind(limit).bind(LONGEST_PAUSE.as_secs_f64()).fetch_all(&mut *transaction).await?;
            if due.is_empty() {
                return Ok(Vec::new());
            }
            let without: Vec<i64> = due.iter().filter(|(.., bytes)| bytes.is_none()).map(|(event, ..)| *event).collect();
            if !without.is_empty() {
                // Nothing is left to deliver: somebody removed their rows of outbox by hand. They would fill each claim.
                self.remove(&mut transaction, &without).await?;
                self.wake.notify_one();
            }
            let attempts = within_bytes(due);
            let events: Vec<i64> = attempts.keys().copied().collect();
            sqlx::query(CLAIM)
                .bind(&self.sink)
                .bind(&events)
                .bind(LEASE.as_secs_f64())
                .bind(self.holder)
                .execute(&mut *transaction)
                .await?;
            let mut rows: Vec<ClaimedEvent> = sqlx::query_as(READ).bind(&events).fetch_all(&mut *transaction).await?;
            rows.sort_unstable_by_key(|row| row.id);
            let lists = self.name_lists.read(&mut transaction, rows.iter().filter_map(|row| row.name_list.as_deref())).await?;
            let (mut claimed, mut lost) = (Vec::with_capacity(rows.len()), Vec::new());
            for row in rows {
                let names = row.metrics.map(Arc::from).or_else(|| lists.get(row.name_list.as_deref()?).cloned());
                let Some(names) = names else {
                    lost.push(row.id);
                    continue;
                };
                claimed.push(Delivery {
                    ticket: row.id,
                    id: row.event_id,
                    content: EventContent { ts: row.ts, names, ip_address: row.ip_address.into() },
                    traceparent: row.traceparent,
                    age: Duration::try_from_secs_f64(row.age_seconds).unwrap_or_default(),
                    attempts: attempts.get(&row.id).and_then(|attempts| u32::try_from(*attempts).ok()).unwrap_or(0),
                });
            }
            if !lost.is_empty() {
                self.put_off(&mut transaction, &lost).await?;
                // More events may be due although fewer were claimed than requested.
                self.wake.notify_one();
            }
            transaction.commit().await?;
            Ok(claimed)
        })
        .await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), OutboxError> {
        let outcomes = OutcomeColumns::of(settlements);
        change(&self.connections, async |conn| {
            let mut transaction = begin(conn).await?;
            lock(&mut transaction, &outcomes).await?;
            self.keep_dead_letters(&mut transaction, &outcomes).await?;
            self.finish(&mut transaction, &outcomes).await?;
            self.put_back(&mut transaction, &outcomes).await?;
            transaction.commit().await
        })
        .await
    }

    async fn wait(&self) {
        if timeout(POLL, self.wake.notified()).await.is_ok() {
            sleep(COMMIT).await;
        }
    }

    async fn backlog(&self) -> Result<Backlog, OutboxError> {
        if !*self.ready.borrow() {
            return Ok(Backlog::default());
        }
        read(&self.connections, async |conn| {
            let row = sqlx::query!(
                r#"select count(*) as "events!",
                    coalesce(extract(epoch from clock_timestamp() - min(created_at))::float8, 0) as "oldest_seconds!"
                from (select created_at from deliveries where sink = $1 order by event + 0 limit $2) as oldest"#,
                self.sink,
                COUNTED,
            )
            .fetch_one(conn)
            .await?;
            Ok(Backlog { events: row.events.unsigned_abs(), oldest_seconds: row.oldest_seconds.max(0.0) })
        })
        .await
    }

    fn begin_shutdown(&self) -> bool {
        false
    }
}

impl PostgresOutbox {
    /// Postpones claimed events whose name lists do not exist. The sweep gives them up when they are too old.
    async fn put_off(&self, conn: &mut PgConnection, lost: &[i64]) -> Result<(), sqlx::Error> {
        let (sink, events) = (self.sink.clone(), lost.len());
        LOG.log(sink.clone(), move |count| {
            tracing::warn!(count, sink, events, "audit events are postponed: their lists of metrics are not in the database");
        });
        sqlx::query!(
            "update deliveries set claim = null, due_at = clock_timestamp() + make_interval(secs => $4)
            where sink || '' = $1 and claim = $2 and event = any($3)",
            self.sink,
            self.holder,
            lost,
            LOST_LIST_PAUSE.as_secs_f64(),
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn put_back(&self, conn: &mut PgConnection, outcomes: &OutcomeColumns) -> Result<(), sqlx::Error> {
        if outcomes.back.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"update deliveries set claim = null, attempts = attempts + ($4::integer[])[array_position($3::bigint[], event)],
                due_at = clock_timestamp() + make_interval(secs => ($5::float8[])[array_position($3, event)])
            where event = any($3) and sink || '' = $1 and claim = $2"#,
            self.sink,
            self.holder,
            &outcomes.back,
            &outcomes.failed,
            &outcomes.after_seconds,
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn keep_dead_letters(&self, conn: &mut PgConnection, outcomes: &OutcomeColumns) -> Result<(), sqlx::Error> {
        if outcomes.dead.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"insert into dead_letters (event_id, sink, ts, ip_address, metrics, name_list, traceparent, created_at, reason)
            select event_id, $1, ts, ip_address, metrics, name_list, traceparent, created_at, dead.reason
            from unnest($2::bigint[], $3::text[]) as dead (id, reason)
            cross join lateral (select * from outbox where outbox.id = dead.id offset 0) as event
            where (select true from deliveries where deliveries.event = dead.id and sink || '' = $1 limit 1)
            on conflict do nothing"#,
            self.sink,
            &outcomes.dead,
            &outcomes.reasons,
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    /// Removes this sink's rows of these events.
    async fn remove(&self, conn: &mut PgConnection, events: &[i64]) -> Result<(), sqlx::Error> {
        sqlx::query!("delete from deliveries where sink || '' = $1 and event = any($2)", self.sink, events).execute(conn).await?;
        Ok(())
    }

    /// Removes delivered and given up events: this sink's rows, then the events that are not to be delivered to any other sink.
    async fn finish(&self, conn: &mut PgConnection, outcomes: &OutcomeColumns) -> Result<(), sqlx::Error> {
        if outcomes.done.is_empty() {
            return Ok(());
        }
        self.remove(conn, &outcomes.done).await?;
        sqlx::query!(
            "delete from outbox where id = any($1) and (select true from deliveries where event = outbox.id limit 1) is null",
            &outcomes.done
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// Locks the rows of outbox in their order, as the sweep does, before those of other tables: otherwise the two could deadlock. And two sinks that finish one event at
/// the same time would each see the other's row of deliveries; so one waits for the other.
async fn lock(conn: &mut PgConnection, outcomes: &OutcomeColumns) -> Result<(), sqlx::Error> {
    let mut events: Vec<i64> = outcomes.done.iter().chain(&outcomes.back).copied().collect();
    events.sort_unstable();
    sqlx::query!(
        "select locked.id from unnest($1::bigint[]) as done (id)
            cross join lateral (select id from outbox where outbox.id = done.id for update offset 0) as locked",
        &events,
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// As many of the oldest events as have these bytes together, one at least, and how often each was tried.
fn within_bytes(due: Vec<(i64, i32, Option<i64>)>) -> BTreeMap<i64, i32> {
    let mut before = 0;
    let mut claimed = BTreeMap::new();
    for (event, attempts, bytes) in due {
        let Some(bytes) = bytes else { continue };
        if before >= i64::try_from(CLAIM_BYTES).unwrap_or(i64::MAX) {
            break;
        }
        before += bytes;
        claimed.insert(event, attempts);
    }
    claimed
}

/// Outcomes as columns, the parameters of the statements.
#[derive(Debug, Default)]
struct OutcomeColumns {
    /// Delivered or given up events.
    done: Vec<i64>,
    dead: Vec<i64>,
    reasons: Vec<String>,
    back: Vec<i64>,
    failed: Vec<i32>,
    after_seconds: Vec<f64>,
}

impl OutcomeColumns {
    fn of(settlements: &[Settlement]) -> Self {
        let mut columns = Self::default();
        for Settlement { ticket, outcome } in settlements {
            let (failed, after) = match outcome {
                DeliveryOutcome::Delivered => {
                    columns.done.push(*ticket);
                    continue;
                }
                DeliveryOutcome::GivenUp(reason) => {
                    columns.done.push(*ticket);
                    columns.dead.push(*ticket);
                    columns.reasons.push(reason.clone());
                    continue;
                }
                DeliveryOutcome::Retry(after) => (1, *after),
                DeliveryOutcome::NotTried => (0, Duration::ZERO),
            };
            columns.back.push(*ticket);
            columns.failed.push(failed);
            columns.after_seconds.push(after.as_secs_f64());
        }
        columns
    }
}
