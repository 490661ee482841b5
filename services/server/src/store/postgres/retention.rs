//! Keeps the history's days: makes partitions ahead of time and drops those that are wholly too old. Every server tries each
//! hour; a lock lets one of them do it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{sleep, timeout};

use super::connect::{self, DatabaseOptions, Lock, try_lock};
use super::error::describe;
use super::partitions::{Partitions, day_of, end_of};
use crate::clock::Clock;

/// How long one round may take.
const ROUND_LIMIT: Duration = Duration::from_mins(5);
/// How many days ahead of today partitions are made. Writers make one for themselves where this came to nothing.
const DAYS_AHEAD: i32 = 2;
/// How many past days get their partition at start; older ones when a batch comes for them.
const DAYS_BACK: i32 = 7;
/// What is too old is kept for this much longer, in milliseconds: clocks differ, and a batch may be under way.
const GRACE_MILLIS: u64 = 60 * 60 * 1000;

/// What the work behind the store needs.
pub(super) struct Keeper {
    pub(super) options: DatabaseOptions,
    pub(super) clock: Clock,
    pub(super) history_millis: u64,
    pub(super) partitions: Arc<Partitions>,
}

impl Keeper {
    /// Never returns.
    pub(super) async fn run(&self) {
        let mut minutes = 60.0;
        loop {
            sleep(Duration::from_mins(1).mul_f64(minutes * (0.9 + 0.2 * fastrand::f64()))).await;
            let round = timeout(ROUND_LIMIT, self.round()).await;
            // A long read can hold up a drop; the next minute is soon enough.
            minutes = if matches!(round, Ok(Ok(_))) { 60.0 } else { 1.0 };
            match round {
                Ok(Ok(dropped)) if dropped.is_empty() => {}
                Ok(Ok(dropped)) => tracing::info!(days = dropped.len(), "dropped the history's oldest days"),
                Ok(Err(error)) => tracing::warn!(problem = describe(&error), "the history could not be trimmed, trying again in a minute"),
                Err(_) => tracing::warn!("trimming the history took too long, trying again in a minute"),
            }
        }
    }

    /// One round; returns the days it dropped.
    pub(super) async fn round(&self) -> Result<Vec<i32>, sqlx::Error> {
        let mut conn = connect::open_for_schema(&self.options).await?;
        if !try_lock(&mut conn, Lock::Retention).await? {
            return Ok(Vec::new());
        }
        self.create_partitions(&mut conn).await?;
        let oldest = self.oldest_day();
        let dropped = self.partitions.drop_before(&mut conn, oldest).await?;
        // A writer raises last_day before it uses a layout on a later day, so no frame that is kept loses its layout. What a writer
        // holds just now is left alone: nobody waits here while others wait for it.
        sqlx::query!(
            "DELETE FROM layouts WHERE id IN
                (SELECT id FROM layouts WHERE last_day < date '1970-01-01' + $1::integer FOR UPDATE SKIP LOCKED)",
            oldest,
        )
        .execute(&mut conn)
        .await?;
        Ok(dropped)
    }

    /// Makes the partitions of the kept days and of those ahead.
    pub(super) async fn create_partitions(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let today = day_of(self.clock.unix_millis());
        for day in self.oldest_day().max(today.saturating_sub(DAYS_BACK))..=today.saturating_add(DAYS_AHEAD) {
            self.partitions.ensure(conn, day).await?;
        }
        Ok(())
    }

    /// The first day that is not wholly too old.
    fn oldest_day(&self) -> i32 {
        let oldest = self.clock.unix_millis().saturating_sub(self.history_millis).saturating_sub(GRACE_MILLIS);
        let day = day_of(oldest);
        if end_of(day) <= oldest { day + 1 } else { day }
    }
}
