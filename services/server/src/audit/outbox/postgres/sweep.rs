//! Trims what nobody will deliver: events whose sink or whose server never came back, old dead letters, and lists of ids that no
//! event names any more.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};

use super::{OutboxError, on};

/// Events looked at in one go, so that no sweep holds locks for long.
const AT_ONCE: i64 = 1000;

/// A list that no event named for so many days is dropped. Longer than events are kept, whatever the hour of the day.
const LIST_DAYS: i32 = 4;

/// Gives up events older than `retention` and forgets dead letters older than `dead_retention`. Answers how many were
/// given up by sink. Several servers may sweep at once.
pub async fn sweep(pool: &PgPool, retention: Duration, dead_retention: Duration) -> Result<HashMap<String, u64>, OutboxError> {
    on(pool, async |conn| {
        let mut transaction = conn.begin().await?;
        // The oldest events have the lowest ids: looking at a fixed number of them costs the same however many there are.
        let old = sqlx::query_scalar!(
            r#"select id from outbox
            where id in (select id from outbox order by id limit $1)
            and created_at < clock_timestamp() - make_interval(secs => $2)
            for update skip locked"#,
            AT_ONCE,
            retention.as_secs_f64(),
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut given_up: HashMap<String, u64> = HashMap::new();
        if !old.is_empty() {
            let sinks = sqlx::query_scalar!(
                r#"with gone as (delete from deliveries where event = any($1) returning event, sink), kept as (
                    insert into dead_letters (event_id, sink, body, traceparent, created_at, reason)
                    select event_id, sink, body, traceparent, created_at,
                        case when whole then 'not delivered in time' else 'the list of its metrics was lost' end
                    from gone join audit_events on id = event
                    on conflict do nothing
                )
                select sink as "sink!" from gone"#,
                &old,
            )
            .fetch_all(&mut *transaction)
            .await?;
            for sink in sinks {
                *given_up.entry(sink).or_default() += 1;
            }
            sqlx::query!("delete from outbox where id = any($1)", &old).execute(&mut *transaction).await?;
        }
        sqlx::query!(
            r#"delete from dead_letters where (event_id, sink) in (
                select event_id, sink from dead_letters where died_at < clock_timestamp() - make_interval(secs => $1)
                limit $2 for update skip locked
            )"#,
            dead_retention.as_secs_f64(),
            AT_ONCE,
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        drop_lists(conn).await?;
        Ok(given_up)
    })
    .await
}

/// Drops lists that no event names, apart from the rest: a writer that raises a list's day would wait for all of it. No event
/// is made after its list's last day, so none that is there names a list whose last day is before the oldest event's: that
/// counts where events are given up more slowly than they came.
async fn drop_lists(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"delete from audit_lists where digest in (
            select digest from audit_lists
            where last_day < least(
                (now() at time zone 'UTC')::date - $1::integer,
                (select (created_at at time zone 'UTC')::date - 1 from outbox order by id limit 1)
            )
            order by last_day limit $2 for update skip locked
        )"#,
        LIST_DAYS,
        AT_ONCE,
    )
    .execute(conn)
    .await?;
    Ok(())
}
