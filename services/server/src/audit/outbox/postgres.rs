//! The outbox of a server with a database. An event is put there by the write's own transaction, so that there is one for
//! every write that was taken and for no other; servers share a sink's events by claiming them for the time of a lease.

mod hook;
mod lists;
mod sweep;
#[cfg(test)]
mod tests;

pub use hook::Hook;
pub use sweep::sweep;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use golectra_protocol::audit::event_json;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use self::lists::Lists;
use super::{Backlog, Delivery, LEASE, Outbox, OutboxError, Settlement, Verdict};

/// How often a waiting reader looks without being told: events may come from other servers.
const POLL: Duration = Duration::from_secs(1);

/// The hook speaks before its transaction has committed; this is about how long that takes.
const COMMIT: Duration = Duration::from_millis(25);

/// No exchange with the database takes longer, waiting for a connection included.
const LIMIT: Duration = Duration::from_secs(5);

/// How long an event rests whose list of ids was lost. It comes back with the next write of the same ids; meanwhile, many such
/// events would stand before all others again and again.
const LOST_REST: Duration = Duration::from_mins(15);

/// Backlogs are counted up to here: beyond, it is enough to know that it is large.
const COUNTED: i64 = 100_000;

/// One sink's events in the database.
#[derive(Debug)]
pub struct Lane {
    pool: PgPool,
    /// True once the schema is there.
    ready: watch::Receiver<bool>,
    sink: String,
    /// Names this server's leases.
    holder: Uuid,
    news: Arc<Notify>,
    lists: Lists,
}

impl Lane {
    /// The events addressed to `sink`; `news` is the hook's.
    pub fn new(pool: PgPool, ready: watch::Receiver<bool>, sink: String, news: Arc<Notify>) -> Self {
        Self { pool, ready, sink, holder: Uuid::now_v7(), news, lists: Lists::default() }
    }
}

#[async_trait]
impl Outbox for Lane {
    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, OutboxError> {
        if !*self.ready.borrow() {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        on(&self.pool, async |conn| {
            let rows = sqlx::query!(
                r#"with due as (
                    select event from deliveries where sink = $1 and due_at <= clock_timestamp()
                    order by event limit $2 for update skip locked
                ), claimed as (
                    update deliveries set due_at = clock_timestamp() + make_interval(secs => $3), claim = $4
                    from due where deliveries.event = due.event and deliveries.sink = $1
                    returning deliveries.event, deliveries.attempts
                )
                select id, event_id, body, list, ts, ip_address, traceparent, attempts as "attempts!",
                    extract(epoch from clock_timestamp() - created_at)::float8 as "age_seconds!"
                from claimed join outbox on id = event order by id"#,
                self.sink,
                limit,
                LEASE.as_secs_f64(),
                self.holder,
            )
            .fetch_all(&mut *conn)
            .await?;
            let lists = self.lists.get(conn, rows.iter().filter_map(|row| row.list.as_deref())).await?;
            let (mut claimed, mut lost) = (Vec::with_capacity(rows.len()), Vec::new());
            for row in rows {
                let body = match (row.body, row.list, row.ts, row.ip_address) {
                    (Some(body), ..) => Some(Bytes::from(body)),
                    (None, Some(digest), Some(ts), Some(peer)) => lists.get(&digest).map(|ids| event_json(ts, ids, &peer).into()),
                    _ => None,
                };
                let Some(body) = body else {
                    lost.push(row.id);
                    continue;
                };
                claimed.push(Delivery {
                    ticket: row.id,
                    id: row.event_id,
                    body,
                    traceparent: row.traceparent,
                    age: Duration::try_from_secs_f64(row.age_seconds).unwrap_or_default(),
                    attempts: u32::try_from(row.attempts).unwrap_or(0),
                });
            }
            self.rest(conn, &lost).await?;
            if !lost.is_empty() {
                // Others may be due behind them, though fewer came than were asked for.
                self.news.notify_one();
            }
            Ok(claimed)
        })
        .await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), OutboxError> {
        let sorted = Sorted::of(settlements);
        on(&self.pool, async |conn| {
            let mut transaction = conn.begin().await?;
            self.put_back(&mut transaction, &sorted).await?;
            self.bury(&mut transaction, &sorted).await?;
            self.finish(&mut transaction, &sorted).await?;
            transaction.commit().await
        })
        .await
    }

    async fn wait(&self) {
        if timeout(POLL, self.news.notified()).await.is_ok() {
            sleep(COMMIT).await;
        }
    }

    async fn backlog(&self) -> Result<Backlog, OutboxError> {
        if !*self.ready.borrow() {
            return Ok(Backlog::default());
        }
        on(&self.pool, async |conn| {
            let row = sqlx::query!(
                r#"select count(*) as "events!",
                    coalesce(extract(epoch from clock_timestamp() - min(created_at))::float8, 0) as "oldest_seconds!"
                from (select created_at from deliveries where sink = $1 order by event limit $2) as oldest"#,
                self.sink,
                COUNTED,
            )
            .fetch_one(conn)
            .await?;
            Ok(Backlog { events: row.events.unsigned_abs(), oldest_seconds: row.oldest_seconds.max(0.0) })
        })
        .await
    }

    fn last_call(&self) -> bool {
        false
    }
}

impl Lane {
    /// Lets claimed events rest whose lists are not there. The sweep gives them up in the end.
    async fn rest(&self, conn: &mut PgConnection, lost: &[i64]) -> Result<(), sqlx::Error> {
        if lost.is_empty() {
            return Ok(());
        }
        tracing::warn!(sink = self.sink, events = lost.len(), "audit events wait: the lists of their metrics are not in the database");
        sqlx::query!(
            "update deliveries set claim = null, due_at = clock_timestamp() + make_interval(secs => $4)
            where sink = $1 and claim = $2 and event = any($3)",
            self.sink,
            self.holder,
            lost,
            LOST_REST.as_secs_f64(),
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn put_back(&self, conn: &mut PgConnection, sorted: &Sorted) -> Result<(), sqlx::Error> {
        if sorted.back.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"update deliveries set claim = null, attempts = attempts + failed,
                due_at = clock_timestamp() + make_interval(secs => after)
            from unnest($3::bigint[], $4::integer[], $5::float8[]) as back (id, failed, after)
            where event = id and sink = $1 and claim = $2"#,
            self.sink,
            self.holder,
            &sorted.back,
            &sorted.failed,
            &sorted.after_seconds,
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn bury(&self, conn: &mut PgConnection, sorted: &Sorted) -> Result<(), sqlx::Error> {
        if sorted.dead.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"insert into dead_letters (event_id, sink, body, traceparent, created_at, reason)
            select event_id, deliveries.sink, body, traceparent, audit_events.created_at, dead.reason
            from unnest($2::bigint[], $3::text[]) as dead (id, reason)
            join audit_events using (id) join deliveries on event = id and deliveries.sink = $1
            on conflict do nothing"#,
            self.sink,
            &sorted.dead,
            &sorted.reasons,
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    /// Removes what is done with: this sink's rows, then the events that no sink waits for any more.
    async fn finish(&self, conn: &mut PgConnection, sorted: &Sorted) -> Result<(), sqlx::Error> {
        if sorted.done.is_empty() {
            return Ok(());
        }
        // Two sinks that finish with one event at once would each see the other's row. The lock makes them take turns.
        sqlx::query!("select id from outbox where id = any($1) order by id for update", &sorted.done).fetch_all(&mut *conn).await?;
        sqlx::query!("delete from deliveries where sink = $1 and event = any($2)", self.sink, &sorted.done).execute(&mut *conn).await?;
        sqlx::query!("delete from outbox where id = any($1) and not exists (select from deliveries where event = outbox.id)", &sorted.done)
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// Settlements as the statements want them.
#[derive(Debug, Default)]
struct Sorted {
    /// Delivered or dead.
    done: Vec<i64>,
    dead: Vec<i64>,
    reasons: Vec<String>,
    back: Vec<i64>,
    failed: Vec<i32>,
    after_seconds: Vec<f64>,
}

impl Sorted {
    fn of(settlements: &[Settlement]) -> Self {
        let mut sorted = Self::default();
        for Settlement { ticket, verdict } in settlements {
            let (failed, after) = match verdict {
                Verdict::Delivered => {
                    sorted.done.push(*ticket);
                    continue;
                }
                Verdict::Dead(reason) => {
                    sorted.done.push(*ticket);
                    sorted.dead.push(*ticket);
                    sorted.reasons.push(reason.clone());
                    continue;
                }
                Verdict::Retry(after) => (1, *after),
                Verdict::Return => (0, Duration::ZERO),
            };
            sorted.back.push(*ticket);
            sorted.failed.push(failed);
            sorted.after_seconds.push(after.as_secs_f64());
        }
        sorted
    }
}

/// Runs one exchange on a connection within [`LIMIT`]. A connection that failed or was cut off is not used again.
async fn on<T>(pool: &PgPool, exchange: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, OutboxError> {
    let all = async {
        let mut used = Used { conn: pool.acquire().await.map_err(in_words)?, whole: false };
        let result = exchange(&mut used.conn).await.map_err(in_words);
        used.whole = result.is_ok();
        result
    };
    timeout(LIMIT, all).await.unwrap_or_else(|_| Err(OutboxError(format!("no answer within {} s", LIMIT.as_secs()))))
}

fn in_words(error: impl Display) -> OutboxError {
    OutboxError(error.to_string())
}

/// A connection that goes back to the pool only after a success.
struct Used {
    conn: PoolConnection<Postgres>,
    whole: bool,
}

impl Drop for Used {
    fn drop(&mut self) {
        if !self.whole {
            self.conn.close_on_drop();
        }
    }
}
