//! What is done from time to time: partitions are made, series and sources expire, and rows that nothing needs are removed. History is sealed and
//! dropped by [`super::sealer`]. Every server tries; a lock lets one of them do it. Each step may be cut off and done again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};

use super::clock::DatabaseClock;
use super::connect::{self, DatabaseOptions, Lock, try_lock, unlock};
use super::error::describe;
use super::partitions::{CHUNKS, FRAMES, Partitions, ROLLUPS_1H, ROLLUPS_5M};
use super::timestamp::Timestamp;
use super::{expire, remove};
use crate::metrics::postgres::WriterMetrics;
use crate::store::Lifetimes;
use crate::store::lifetime::{Mark, ReportingClock};

/// How long one round may take.
const ROUND_LIMIT: Duration = Duration::from_mins(5);
/// How long after a failure the next round comes.
const RETRY_AFTER: Duration = Duration::from_mins(1);
/// Keys are kept for this much longer than they are needed, in milliseconds: a batch may be under way.
pub(super) const KEY_GRACE_MILLIS: u64 = 60 * 60 * 1000;
/// Rows of series and sources are kept for this much longer than their history and keys, in milliseconds: samples may be ahead of their arrival.
const ROW_GRACE_MILLIS: u64 = 60 * 60 * 1000;
/// What the work behind the store needs.
pub(super) struct Maintenance {
    pub(super) options: DatabaseOptions,
    pub(super) clock: DatabaseClock,
    pub(super) lifetimes: Lifetimes,
    pub(super) partitions: Arc<Partitions>,
    pub(super) metrics: WriterMetrics,
}

/// What a round did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// How many series left the newest state, those of expired sources included.
    pub(super) expired_series: u64,
    /// How many named sources were silent for too long.
    pub(super) expired_sources: u64,
    /// How many series' rows went with the last of their history.
    pub(super) removed_series: u64,
}

impl Maintenance {
    /// Never returns.
    pub(super) async fn run(&self) {
        let every = self.lifetimes.sweep_every();
        let mut pause = every;
        loop {
            sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
            let round = timeout(ROUND_LIMIT, self.round()).await;
            pause = if matches!(round, Ok(Ok(_))) { every } else { RETRY_AFTER.min(every) };
            match round {
                Ok(Ok(round)) if round == Round::default() => {}
                Ok(Ok(round)) => tracing::info!(
                    expired_series = round.expired_series,
                    expired_sources = round.expired_sources,
                    removed_series = round.removed_series,
                    "removed what has expired"
                ),
                Ok(Err(error)) => tracing::warn!(problem = describe(&error), "maintenance failed, trying again in a minute"),
                Err(_) => tracing::warn!(limit_seconds = ROUND_LIMIT.as_secs(), "maintenance took too long, trying again in a minute"),
            }
        }
    }

    /// One round.
    pub(super) async fn round(&self) -> Result<Round, sqlx::Error> {
        let mut conn = connect::open_for_schema(&self.options).await?;
        if !try_lock(&mut conn, Lock::Maintenance).await? {
            return Ok(Round::default());
        }
        self.clock.measure(&mut conn).await?;
        let (now, expiry_now) = (self.clock.unix_millis(), self.clock.expiry_unix_millis());
        self.partitions.ensure_around(&mut conn, now).await?;
        let mut round = Round::default();
        self.expire_series(&mut conn, now, &mut round).await?;
        self.expire_sources(&mut conn, now, expiry_now, &mut round).await?;
        round.removed_series = self.remove(&mut conn, expiry_now).await?;
        unlock(&mut conn, Lock::Maintenance).await?;
        Ok(round)
    }

    /// Marks the clocks of sources, and expires the series that were missing for too long.
    async fn expire_series(&self, conn: &mut PgConnection, now: u64, round: &mut Round) -> Result<(), sqlx::Error> {
        // Every batch that comes later has a greater arrival; places in a group are its last 16 bits.
        let arrival = sqlx::query_scalar!("SELECT last_value FROM arrivals").fetch_one(&mut *conn).await?;
        let arrival = u64::try_from(arrival << 16 | 0xffff).unwrap_or(0);
        let rows = sqlx::query!(
            "SELECT id, reporting_millis, mark_reporting_millis, mark_arrivals FROM sources WHERE forgotten_at IS NULL AND name <> ''"
        )
        .fetch_all(&mut *conn)
        .await?;
        for row in rows {
            let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
            let marks: VecDeque<Mark> = row
                .mark_reporting_millis
                .into_iter()
                .zip(row.mark_arrivals)
                .map(|(at, arrival)| Mark { reporting_millis: unsigned(at), arrival: unsigned(arrival) })
                .collect();
            let mut clock = ReportingClock { reporting_millis: unsigned(row.reporting_millis), marks };
            let before = clock.clone();
            clock.mark(arrival, &self.lifetimes);
            if clock != before {
                let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
                let (ats, arrivals): (Vec<i64>, Vec<i64>) =
                    clock.marks.iter().map(|mark| (signed(mark.reporting_millis), signed(mark.arrival))).unzip();
                sqlx::query!("UPDATE sources SET mark_reporting_millis = $2, mark_arrivals = $3 WHERE id = $1", row.id, &ats, &arrivals)
                    .execute(&mut *conn)
                    .await?;
            }
            if let Some(arrival) = clock.expired_up_to(&self.lifetimes) {
                let arrival = i64::try_from(arrival).unwrap_or(i64::MAX);
                let expired = expire::missing(conn, row.id, arrival, Timestamp(now)).await?;
                self.metrics.expired_series.inc_by(expired);
                round.expired_series += expired;
            }
        }
        Ok(())
    }

    /// Expires named sources that were silent for too long.
    async fn expire_sources(&self, conn: &mut PgConnection, now: u64, expiry_now: u64, round: &mut Round) -> Result<(), sqlx::Error> {
        let seen_before = Timestamp(expiry_now.saturating_sub(self.lifetimes.source_expiry_millis()));
        let silent = "last_seen < $1 AND forgotten_at IS NULL AND name <> ''";
        let ids: Vec<i32> =
            sqlx::query_scalar(&format!("SELECT id FROM sources WHERE {silent}")).bind(seen_before).fetch_all(&mut *conn).await?;
        for id in ids {
            let mut tx = conn.begin().await?;
            // It may have reported a moment ago.
            let still: Option<i32> = sqlx::query_scalar(&format!("SELECT id FROM sources WHERE {silent} AND id = $2 FOR NO KEY UPDATE"))
                .bind(seen_before)
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?;
            if still.is_some() {
                let expired = expire::source(&mut tx, id, Timestamp(now)).await?;
                tx.commit().await?;
                self.metrics.expired_series.inc_by(expired);
                round.expired_series += expired;
                round.expired_sources += 1;
            }
        }
        Ok(())
    }

    /// Removes rows whose history and keys are gone.
    async fn remove(&self, conn: &mut PgConnection, now: u64) -> Result<u64, sqlx::Error> {
        let expired_before = removable_before(conn, &self.lifetimes, now).await?;
        let removed = remove::series(conn, Timestamp(expired_before)).await?;
        let forgotten_before = now.saturating_sub(self.lifetimes.dedup_window_millis()).saturating_sub(KEY_GRACE_MILLIS + ROW_GRACE_MILLIS);
        remove::sources(conn, Timestamp(forgotten_before)).await?;
        remove::layouts(conn).await?;
        remove::changes(conn).await?;
        Ok(removed)
    }
}

/// Nothing needs series that expired before this any more, in unix milliseconds.
pub(super) async fn removable_before(conn: &mut PgConnection, lifetimes: &Lifetimes, now: u64) -> Result<u64, sqlx::Error> {
    // An expired series has no sample later than this before its expiry; samples may be ahead of their arrival.
    let oldest = oldest_history(conn, lifetimes, now).await?.unwrap_or(now).min(now);
    Ok(oldest.saturating_sub(ROW_GRACE_MILLIS))
}

/// The oldest time of which there may be samples or rollups, in unix milliseconds.
async fn oldest_history(conn: &mut PgConnection, lifetimes: &Lifetimes, now: u64) -> Result<Option<u64>, sqlx::Error> {
    let frames = FRAMES.existing(&mut *conn).await?.first().map(|slot| FRAMES.start_of(*slot));
    let chunks = CHUNKS.existing(&mut *conn).await?.first().map(|slot| CHUNKS.start_of(*slot));
    let mut oldest = frames.into_iter().chain(chunks).min();
    for (table, retention) in [(ROLLUPS_5M, lifetimes.retention_5m_millis()), (ROLLUPS_1H, lifetimes.retention_1h_millis())] {
        // A partition of rollups goes when all of it is too old; the series of its older part do not wait for that.
        let kept = now.saturating_sub(retention);
        let first = table.existing(&mut *conn).await?.first().map(|slot| table.start_of(*slot).max(kept));
        oldest = oldest.into_iter().chain(first).min();
    }
    Ok(oldest)
}
