//! The state of alerts in the database.
//!
//! The server that evaluates holds an advisory lock for the session of a connection of its own, and commits on that connection: a server that lost
//! the lock can't commit any more. A server that ends gives the lock back by that; one that is cut off loses it when the database sees that its
//! connection is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;
use tokio::time::timeout;
use uuid::Uuid;

use super::clock::DatabaseClock;
use super::connect::{self, DatabaseOptions, Lock, timed_out, try_lock};
use super::error::unavailable;
use super::reader::Reader;
use super::timestamp::Timestamp;
use crate::alerts::store::{
    AlertStore, Claimed, Commit, Dropped, LEASE, LONGEST_PAUSE, MAX_SILENCES, MAX_WAITING, SILENCE_RETENTION_MS, Settled, Waiting,
};
use crate::alerts::{Notification, Silence, Stored};
use crate::store::StoreError;

/// How long a look for the lock, and a commit, may take.
const LIMIT: Duration = Duration::from_secs(5);

/// See the module's documentation.
pub(super) struct PostgresAlertStore {
    options: DatabaseOptions,
    clock: DatabaseClock,
    reader: Reader,
    /// The session that has the lock or asks for it.
    session: Mutex<Option<Session>>,
    dropped: Dropped,
}

struct Session {
    conn: PgConnection,
    leads: bool,
}

impl PostgresAlertStore {
    pub(super) fn new(options: DatabaseOptions, clock: DatabaseClock, reader: Reader) -> Self {
        Self { options, clock, reader, session: Mutex::default(), dropped: Dropped::default() }
    }

    /// Does something on the session; where that fails the session is closed, and the lock with it.
    async fn on_session<T>(&self, work: impl AsyncFnOnce(&mut Session) -> Result<T, sqlx::Error>) -> Result<T, StoreError> {
        self.reader.check_schema(LIMIT).await?;
        let mut held = self.session.lock().await;
        let bounded = async {
            let mut session = match held.take() {
                Some(session) => session,
                None => Session { conn: connect::open_for_requests(&self.options).await?, leads: false },
            };
            let done = work(&mut session).await?;
            Ok((session, done))
        };
        let (session, done) =
            timeout(LIMIT, bounded).await.unwrap_or_else(|_| Err(timed_out(LIMIT))).map_err(|error: sqlx::Error| unavailable(&error))?;
        *held = Some(session);
        Ok(done)
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers in memory can be written")
}

fn read_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp(unix_ms.max(0).unsigned_abs())
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[async_trait]
impl AlertStore for PostgresAlertStore {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.clock.unix_millis()).unwrap_or(i64::MAX)
    }

    async fn lead(&self) -> Result<bool, StoreError> {
        self.on_session(async |session| {
            // This also tells whether the session is still there.
            self.clock.measure(&mut session.conn).await?;
            if !session.leads {
                session.leads = try_lock(&mut session.conn, Lock::EvaluateRules).await?;
            }
            Ok(session.leads)
        })
        .await
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        // One statement, so that what it says belongs together.
        let row = self.reader.read(async |conn| {
            let (evaluated_ms, groups, silences): (i64, String, String) = sqlx::query_as(
                "SELECT (extract(epoch FROM at) * 1000)::bigint,
                    (SELECT coalesce(json_agg(state ORDER BY file, group_name), '[]')::text FROM alert_states),
                    (SELECT coalesce(json_agg(silence ORDER BY id), '[]')::text FROM alert_silences)
                FROM alert_evaluation",
            )
            .fetch_one(conn)
            .await?;
            Ok(Stored { evaluated_ms, groups: read_json(&groups)?, silences: read_json(&silences)? })
        });
        row.await
    }

    async fn commit(&self, commit: Commit) -> Result<bool, StoreError> {
        self.on_session(async |session| {
            if !session.leads {
                return Ok(false);
            }
            let mut tx = session.conn.begin().await?;
            // Only the server that has the lock gets here, so an earlier time is that of a clock that has gone back.
            let moved =
                sqlx::query("UPDATE alert_evaluation SET at = $1 WHERE at <> $1").bind(timestamp(commit.at_ms)).execute(&mut *tx).await?;
            if moved.rows_affected() == 0 {
                tx.rollback().await?;
                return Ok(false);
            }
            write_states(&mut tx, &commit).await?;
            let dropped = write_notifications(&mut tx, &commit).await?;
            sqlx::query("DELETE FROM alert_silences WHERE ends_at <= $1")
                .bind(timestamp(commit.at_ms - SILENCE_RETENTION_MS))
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            self.dropped.add(dropped);
            Ok(true)
        })
        .await
    }

    fn take_dropped(&self) -> BTreeMap<String, u64> {
        self.dropped.take()
    }

    async fn claim(&self, receiver: &str) -> Result<Option<Claimed>, StoreError> {
        let claim = Uuid::now_v7();
        let claimed = self.reader.change(async |conn| {
            // What is due later than any pause is long was put off before the clock went back. Two servers may find the same row: the second one waits for
            // the first one's change, and then it is not due any more. Those that were put off come after those that were not: groups that fail take no other's
            // turn. The groups are compared only where the oldest of all is not new. A server of the version before wrote no group_key.
            let row: Option<(String, i32)> = sqlx::query_as(
                "UPDATE alert_notifications SET due_at = clock_timestamp() + make_interval(secs => $2), claim = $3
                WHERE id = coalesce(
                        (SELECT id FROM (SELECT id, due_at, attempts FROM alert_notifications WHERE receiver = $1 ORDER BY id LIMIT 1) AS oldest
                            WHERE attempts = 0 AND (due_at <= clock_timestamp() OR due_at > clock_timestamp() + make_interval(secs => $4))),
                        (SELECT id FROM (
                                SELECT DISTINCT ON (coalesce(group_key, body->>'group')) id, due_at FROM alert_notifications WHERE receiver = $1
                                ORDER BY coalesce(group_key, body->>'group'), id
                            ) AS oldest_of_groups
                            WHERE due_at <= clock_timestamp() OR due_at > clock_timestamp() + make_interval(secs => $4)
                            ORDER BY due_at, id LIMIT 1)
                    )
                    AND (due_at <= clock_timestamp() OR due_at > clock_timestamp() + make_interval(secs => $4))
                RETURNING body::text, attempts",
            )
            .bind(receiver)
            .bind(LEASE.as_secs_f64())
            .bind(claim)
            .bind(LONGEST_PAUSE.as_secs_f64())
            .fetch_optional(conn)
            .await?;
            let Some((body, attempts)) = row else { return Ok(None) };
            Ok(Some(Claimed { notification: read_json(&body)?, attempts: u32::try_from(attempts).unwrap_or(0), claim }))
        });
        claimed.await
    }

    async fn settle(&self, claimed: &Claimed, settled: Settled) -> Result<(), StoreError> {
        self.reader
            .change(async |conn| {
                let query = match settled {
                    Settled::Done => sqlx::query("DELETE FROM alert_notifications WHERE claim = $1").bind(claimed.claim),
                    Settled::Retry(after) => sqlx::query(
                        "UPDATE alert_notifications SET claim = NULL, attempts = attempts + 1,
                            due_at = clock_timestamp() + make_interval(secs => $2)
                        WHERE claim = $1",
                    )
                    .bind(claimed.claim)
                    .bind(after.min(LONGEST_PAUSE).as_secs_f64()),
                };
                query.execute(conn).await.map(drop)
            })
            .await
    }

    async fn waiting(&self) -> Result<BTreeMap<String, Waiting>, StoreError> {
        let rows = self.reader.read(async |conn| {
            sqlx::query_as::<_, (String, i64, i64)>(
                "SELECT receiver, count(*), (extract(epoch FROM min(created_at)) * 1000)::bigint FROM alert_notifications GROUP BY receiver",
            )
            .fetch_all(conn)
            .await
        });
        let waiting =
            |(receiver, count, oldest_ms): (String, i64, i64)| (receiver, Waiting { notifications: count.unsigned_abs(), oldest_ms });
        Ok(rows.await?.into_iter().map(waiting).collect())
    }

    async fn add_silence(&self, silence: Silence) -> Result<bool, StoreError> {
        self.reader
            .change(async |conn| {
                let added = sqlx::query(
                    "INSERT INTO alert_silences (id, silence, ends_at)
                    SELECT $1, $2::json, $3 WHERE (SELECT count(*) FROM alert_silences) < $4",
                )
                .bind(silence.id)
                .bind(json(&silence))
                .bind(timestamp(silence.ends_ms))
                .bind(count(MAX_SILENCES))
                .execute(conn)
                .await?;
                Ok(added.rows_affected() == 1)
            })
            .await
    }

    async fn end_silence(&self, id: Uuid, at_ms: i64) -> Result<bool, StoreError> {
        self.reader
            .change(async |conn| {
                let mut tx = conn.begin().await?;
                let found: Option<(String,)> =
                    sqlx::query_as("SELECT silence::text FROM alert_silences WHERE id = $1 AND ends_at > $2 FOR UPDATE")
                        .bind(id)
                        .bind(timestamp(at_ms))
                        .fetch_optional(&mut *tx)
                        .await?;
                let Some((text,)) = found else { return Ok(false) };
                let silence = Silence { ends_ms: at_ms, ..read_json(&text)? };
                sqlx::query("UPDATE alert_silences SET silence = $2::json, ends_at = $3 WHERE id = $1")
                    .bind(id)
                    .bind(json(&silence))
                    .bind(timestamp(at_ms))
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(true)
            })
            .await
    }
}

async fn write_states(conn: &mut PgConnection, commit: &Commit) -> Result<(), sqlx::Error> {
    let files: Vec<&str> = commit.groups.iter().map(|group| group.file.as_str()).collect();
    let names: Vec<&str> = commit.groups.iter().map(|group| group.name.as_str()).collect();
    let states: Vec<String> = commit.groups.iter().map(json).collect();
    sqlx::query(
        "INSERT INTO alert_states (file, group_name, state)
        SELECT file, group_name, state::json FROM unnest($1::text[], $2::text[], $3::text[]) AS new (file, group_name, state)
        ON CONFLICT (file, group_name) DO UPDATE SET state = excluded.state",
    )
    .bind(files)
    .bind(names)
    .bind(states)
    .execute(&mut *conn)
    .await?;
    let (files, names): (Vec<&str>, Vec<&str>) = commit.removed.iter().map(|(file, name)| (file.as_str(), name.as_str())).unzip();
    sqlx::query("DELETE FROM alert_states WHERE (file, group_name) IN (SELECT * FROM unnest($1::text[], $2::text[]))")
        .bind(files)
        .bind(names)
        .execute(conn)
        .await?;
    Ok(())
}

/// Returns the receiver of each notification that was dropped.
async fn write_notifications(conn: &mut PgConnection, commit: &Commit) -> Result<Vec<String>, sqlx::Error> {
    let mut dropped: Vec<String> = sqlx::query_scalar("DELETE FROM alert_notifications WHERE expires_at <= $1 RETURNING receiver")
        .bind(timestamp(commit.at_ms))
        .fetch_all(&mut *conn)
        .await?;
    let new = || commit.notifications.iter();
    if new().next().is_none() {
        return Ok(dropped);
    }
    let receivers: Vec<&str> = new().map(|notification| notification.receiver.as_str()).collect();
    let bodies: Vec<String> = new().map(|notification: &Notification| json(notification)).collect();
    let groups: Vec<String> = new().map(|notification| json(&notification.group)).collect();
    let created: Vec<Timestamp> = new().map(|notification| timestamp(notification.created_ms)).collect();
    let expires: Vec<Timestamp> = new().map(|notification| timestamp(notification.expires_ms)).collect();
    sqlx::query(
        "INSERT INTO alert_notifications (receiver, body, group_key, created_at, expires_at)
        SELECT receiver, body::json, group_key, created_at, expires_at
        FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
            WITH ORDINALITY AS new (receiver, body, group_key, created_at, expires_at, place)
        ORDER BY place",
    )
    .bind(receivers)
    .bind(bodies)
    .bind(groups)
    .bind(created)
    .bind(expires)
    .execute(&mut *conn)
    .await?;
    let too_many: Vec<String> = sqlx::query_scalar(
        "DELETE FROM alert_notifications WHERE id IN (
            SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY receiver ORDER BY id DESC) AS place FROM alert_notifications) AS all_of_them
            WHERE place > $1
        ) RETURNING receiver",
    )
    .bind(count(MAX_WAITING))
    .fetch_all(conn)
    .await?;
    dropped.extend(too_many);
    Ok(dropped)
}
