//! The outbox of a server with a database. An event is put there by the write's own transaction, so that there is one for
//! every write that was taken and for no other; servers share a sink's events by claiming them for the time of a lease.

mod sweep;
#[cfg(test)]
mod tests;

pub use sweep::sweep;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{Backlog, Delivery, LEASE, Outbox, OutboxError, Settlement, Verdict};
use crate::audit::Draft;

/// How often a waiting reader looks without being told: events may come from other servers.
const POLL: Duration = Duration::from_secs(1);

/// The hook speaks before its transaction has committed; this is about how long that takes.
const COMMIT: Duration = Duration::from_millis(25);

/// No exchange with the database takes longer, waiting for a connection included.
const LIMIT: Duration = Duration::from_secs(5);

/// Backlogs are counted up to here: beyond, it is enough to know that it is large.
const COUNTED: i64 = 100_000;

/// Puts an event into the outbox inside of the write's transaction.
#[derive(Debug, Clone)]
pub struct Hook {
    sinks: Arc<[String]>,
    news: Arc<[Arc<Notify>]>,
}

impl Hook {
    /// An event goes to each of these sinks, whose lanes listen to `news`.
    pub fn new(sinks: Vec<String>, news: Vec<Arc<Notify>>) -> Self {
        Self { sinks: sinks.into(), news: news.into() }
    }

    /// To be called in the transaction that applies the writes. One statement, however many there are.
    pub async fn in_transaction(&self, conn: &mut PgConnection, drafts: &[&Draft]) -> Result<(), sqlx::Error> {
        insert(conn, drafts, &self.sinks).await?;
        for lane in self.news.iter() {
            lane.notify_one();
        }
        Ok(())
    }
}

/// Puts events into the outbox, addressed to these sinks, in the order in which they are given.
pub async fn insert(conn: &mut PgConnection, drafts: &[&Draft], sinks: &[String]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = drafts.iter().map(|_| Uuid::now_v7()).collect();
    let bodies = drafts.iter().map(|draft| String::from_utf8(draft.event.to_json()));
    let bodies: Vec<String> = bodies.collect::<Result<_, _>>().map_err(|error| sqlx::Error::Encode(error.into()))?;
    let traceparents: Vec<Option<&str>> = drafts.iter().map(|draft| draft.traceparent.as_deref()).collect();
    sqlx::query!(
        r"with event as (
            insert into outbox (event_id, body, traceparent)
            select event_id, body, traceparent from unnest($1::uuid[], $2::text[], $3::text[]) as new (event_id, body, traceparent)
            returning id
        )
        insert into deliveries (event, sink) select event.id, sink from event, unnest($4::text[]) as sink",
        &ids,
        &bodies,
        &traceparents as &[Option<&str>],
        sinks,
    )
    .execute(conn)
    .await?;
    Ok(())
}

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
}

impl Lane {
    /// The events addressed to `sink`; `news` is the hook's.
    pub fn new(pool: PgPool, ready: watch::Receiver<bool>, sink: String, news: Arc<Notify>) -> Self {
        Self { pool, ready, sink, holder: Uuid::now_v7(), news }
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
                select id, event_id, body, traceparent, attempts as "attempts!",
                    extract(epoch from clock_timestamp() - created_at)::float8 as "age_seconds!"
                from claimed join outbox on id = event order by id"#,
                self.sink,
                limit,
                LEASE.as_secs_f64(),
                self.holder,
            )
            .fetch_all(conn)
            .await?;
            Ok(rows
                .into_iter()
                .map(|row| Delivery {
                    ticket: row.id,
                    id: row.event_id,
                    body: row.body.into(),
                    traceparent: row.traceparent,
                    age: Duration::try_from_secs_f64(row.age_seconds).unwrap_or_default(),
                    attempts: u32::try_from(row.attempts).unwrap_or(0),
                })
                .collect())
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
            select event_id, deliveries.sink, body, traceparent, outbox.created_at, dead.reason
            from unnest($2::bigint[], $3::text[]) as dead (id, reason)
            join outbox using (id) join deliveries on event = id and deliveries.sink = $1
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
