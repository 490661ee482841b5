//! The history's days: one partition of `frames` a UTC day.
//!
//! No change here makes writers wait behind a long read such as pg_dump's: a partition is attached under a lock that reads and writes pass,
//! and dropped only if the lock for that can be had within [`DROP_LOCK_LIMIT`].

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sqlx::{Connection, Executor as _, PgConnection};

use super::connect::Lock;
use super::timestamp::Timestamp;

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// How many days ahead of today partitions are made. Writers make one for themselves where this came to nothing.
const DAYS_AHEAD: i32 = 2;
/// How many past days get their partition at start; older ones when a batch comes for them.
const DAYS_BACK: i32 = 2;
/// How long a drop waits for its lock, and all writers with it.
const DROP_LOCK_LIMIT: &str = "100ms";

/// The day of a time, in days since 1970.
pub(super) fn day_of(unix_millis: u64) -> i32 {
    i32::try_from(unix_millis / DAY_MILLIS).unwrap_or(i32::MAX)
}

/// When a day ends, in unix milliseconds.
pub(super) fn end_of(day: i32) -> u64 {
    u64::try_from(day).unwrap_or(0).saturating_add(1).saturating_mul(DAY_MILLIS)
}

/// The days that are known to have a partition.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<HashSet<i32>>);

impl Partitions {
    /// Makes sure that the day has its partition. Usually known without asking; else it is made, by whoever comes first. Answers false for a day that
    /// was dropped: its keys are forgotten, so none of its batches may be accepted. Must not be called in a transaction, which would hold the
    /// locks for longer.
    pub(super) async fn ensure(&self, conn: &mut PgConnection, day: i32) -> Result<bool, sqlx::Error> {
        if self.lock().contains(&day) {
            return Ok(true);
        }
        let there = create(conn, day).await?;
        if there {
            self.lock().insert(day);
        }
        Ok(there)
    }

    /// Makes the partitions of the days around this time.
    pub(super) async fn ensure_around(&self, conn: &mut PgConnection, unix_millis: u64) -> Result<(), sqlx::Error> {
        let today = day_of(unix_millis);
        for day in today.saturating_sub(DAYS_BACK).max(0)..=today.saturating_add(DAYS_AHEAD) {
            self.ensure(conn, day).await?;
        }
        Ok(())
    }

    /// A partition turned out to be missing.
    pub(super) fn forget_all(&self) {
        self.lock().clear();
    }

    /// Drops the partitions of the days before `oldest`, from the oldest on, and says which. Ends early where a lock can't be had soon.
    pub(super) async fn drop_before(&self, conn: &mut PgConnection, oldest: i32) -> Result<Vec<i32>, sqlx::Error> {
        let mut dropped = Vec::new();
        for (day, table) in existing(conn).await?.into_iter().filter(|(day, _)| *day < oldest) {
            self.lock().remove(&day);
            drop_one(conn, day, &table).await?;
            dropped.push(day);
        }
        Ok(dropped)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The days that have a partition, in order, and its table.
pub(super) async fn existing(conn: &mut PgConnection) -> Result<Vec<(i32, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT to_date(right(child.relname, 8), 'YYYYMMDD') - date '1970-01-01' AS "day!", child.oid::regclass::text AS "table!"
        FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = 'frames'::regclass AND child.relname ~ '^frames_[0-9]{8}$' ORDER BY 1"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.day, row.table)).collect())
}

/// Makes a day's partition, if nobody else does. Answers false where the day was dropped before.
async fn create(conn: &mut PgConnection, day: i32) -> Result<bool, sqlx::Error> {
    let mut tx = conn.begin().await?;
    sqlx::query!("SELECT pg_advisory_xact_lock($1, $2)", Lock::SPACE, Lock::Partition as i32).fetch_one(&mut *tx).await?;
    // Read in a statement of its own, after the lock was had: whoever drops a day holds the same lock.
    let bounds = sqlx::query!(
        r#"SELECT to_char(day, 'YYYYMMDD') AS "suffix!", to_char(day, 'YYYY-MM-DD') AS "from!", to_char(day + 1, 'YYYY-MM-DD') AS "to!",
            to_regclass('frames_' || to_char(day, 'YYYYMMDD')) IS NOT NULL AS "exists!",
            (SELECT at FROM oldest_accepted) > day::timestamp AT TIME ZONE 'UTC' AS "dropped!"
        FROM (SELECT date '1970-01-01' + $1::integer AS day) AS asked"#,
        day,
    )
    .fetch_one(&mut *tx)
    .await?;
    if !bounds.exists && bounds.dropped {
        tx.rollback().await?;
        return Ok(false);
    }
    if !bounds.exists {
        let (suffix, from, to) = (bounds.suffix, bounds.from, bounds.to);
        // Made aside and then attached: CREATE TABLE … PARTITION OF would make all writers wait.
        for statement in [
            format!(
                "CREATE TABLE frames_{suffix} (LIKE frames INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)"
            ),
            format!("ALTER TABLE frames ATTACH PARTITION frames_{suffix} FOR VALUES FROM ('{from} 00:00:00+00') TO ('{to} 00:00:00+00')"),
        ] {
            sqlx::query(&statement).execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    Ok(true)
}

/// Drops a day's partition. With its keys forgotten, no batch of that day or an earlier one is accepted any more.
async fn drop_one(conn: &mut PgConnection, day: i32, table: &str) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    tx.execute(format!("SET LOCAL lock_timeout = '{DROP_LOCK_LIMIT}'").as_str()).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock($1, $2)", Lock::SPACE, Lock::Partition as i32).fetch_one(&mut *tx).await?;
    sqlx::query!("UPDATE oldest_accepted SET at = greatest(at, $1::timestamptz)", Timestamp(end_of(day)) as Timestamp)
        .execute(&mut *tx)
        .await?;
    // The name comes from the catalogue, quoted there.
    tx.execute(format!("DROP TABLE IF EXISTS {table}").as_str()).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_begin_and_end_at_midnight_utc() {
        assert_eq!((day_of(0), day_of(DAY_MILLIS - 1), day_of(DAY_MILLIS)), (0, 0, 1));
        assert_eq!((end_of(0), day_of(end_of(20_000)), day_of(end_of(20_000) - 1)), (DAY_MILLIS, 20_001, 20_000));
    }
}
