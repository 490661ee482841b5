//! Tables that are partitioned by time: [`FRAMES`] by 30 minutes, [`CHUNKS`] by the UTC day, [`ROLLUPS_5M`] by 7 days, [`ROLLUPS_1H`] by 28.
//!
//! No change here makes writers wait behind a long read such as pg_dump's: a partition is attached under a lock that reads and writes pass,
//! and dropped only if the lock for that can be had within [`DROP_LOCK_LIMIT`].

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use sqlx::{Connection, Executor as _, PgConnection};

use super::connect::Lock;
use super::timestamp::Timestamp;
use crate::clock::rfc3339;

const MINUTE_MILLIS: u64 = 60 * 1000;
const DAY_MILLIS: u64 = 24 * 60 * MINUTE_MILLIS;
/// How many partitions of frames are made ahead of now. Writers make one for themselves where this came to nothing.
const FRAMES_AHEAD: i32 = 4;
/// How long a drop waits for its lock, and all writers with it.
const DROP_LOCK_LIMIT: &str = "100ms";

/// A table that is partitioned by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PartitionedTable {
    /// Its name, in lower case.
    pub(super) name: &'static str,
    /// How much time a partition is for, in milliseconds.
    pub(super) span_millis: u64,
    /// How many digits of its start a partition's name has: YYYYMMDD, or YYYYMMDDHHMM.
    digits: usize,
}

/// The frames, by the time of the batch.
pub(super) const FRAMES: PartitionedTable = PartitionedTable { name: "frames", span_millis: 30 * MINUTE_MILLIS, digits: 12 };
/// The chunks, by the start of their window.
pub(super) const CHUNKS: PartitionedTable = PartitionedTable { name: "chunks", span_millis: DAY_MILLIS, digits: 8 };

/// The rollups of 5 minutes, by day.
pub(super) const ROLLUPS_5M: PartitionedTable = PartitionedTable { name: "rollups_5m", span_millis: 7 * DAY_MILLIS, digits: 8 };
/// The rollups of an hour, by day.
pub(super) const ROLLUPS_1H: PartitionedTable = PartitionedTable { name: "rollups_1h", span_millis: 28 * DAY_MILLIS, digits: 8 };

/// The day of a time, in days since 1970.
pub(super) fn day_of(unix_millis: u64) -> i32 {
    CHUNKS.slot_of(unix_millis)
}

impl PartitionedTable {
    /// The column of `dropped_history` that says up to where the table's partitions were dropped, where there is one.
    fn dropped_column(self) -> Option<&'static str> {
        match self {
            CHUNKS => Some("raw"),
            ROLLUPS_5M => Some("rollups_5m"),
            _ => None,
        }
    }

    /// Which of the table's partitions a time belongs to, counted from 1970 on.
    pub(super) fn slot_of(self, unix_millis: u64) -> i32 {
        i32::try_from(unix_millis / self.span_millis).unwrap_or(i32::MAX)
    }

    /// When a partition begins, in unix milliseconds.
    pub(super) fn start_of(self, slot: i32) -> u64 {
        u64::try_from(slot).unwrap_or(0).saturating_mul(self.span_millis)
    }

    /// When a partition ends, in unix milliseconds.
    pub(super) fn end_of(self, slot: i32) -> u64 {
        self.start_of(slot).saturating_add(self.span_millis)
    }

    /// The partition's name.
    pub(super) fn partition(self, slot: i32) -> String {
        let digits = rfc3339(self.start_of(slot)).bytes().filter(u8::is_ascii_digit).take(self.digits).map(char::from).collect::<String>();
        format!("{}_{digits}", self.name)
    }

    /// The slot of a partition by its name; none where it is another's table.
    fn slot_by_name(self, partition: &str) -> Option<i32> {
        let digits = partition.strip_prefix(self.name)?.strip_prefix('_')?;
        if digits.len() != self.digits || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let all = format!("{digits:0<12}");
        let text = format!("{}-{}-{}T{}:{}:00Z", &all[..4], &all[4..6], &all[6..8], &all[8..10], &all[10..12]);
        let start = humantime::parse_rfc3339(&text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(self.slot_of(u64::try_from(start.as_millis()).ok()?))
    }

    /// The partitions that there are, in order.
    pub(super) async fn existing(self, conn: &mut PgConnection) -> Result<Vec<i32>, sqlx::Error> {
        let names = sqlx::query_scalar!(
            r#"SELECT child.relname::text AS "name!" FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = to_regclass($1)"#,
            self.name,
        )
        .fetch_all(conn)
        .await?;
        Ok(self.slots_by_names(names.iter().map(String::as_str)))
    }

    /// The partitions of these names, in order.
    pub(super) fn slots_by_names<'a>(self, names: impl Iterator<Item = &'a str>) -> Vec<i32> {
        let mut slots: Vec<i32> = names.filter_map(|name| self.slot_by_name(name)).collect();
        slots.sort_unstable();
        slots
    }
}

/// The partitions that are known to be there.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<HashSet<(PartitionedTable, i32)>>);

impl Partitions {
    /// Makes sure that the partition is there. Usually known without asking; else it is made, by whoever comes first. Answers false for frames that
    /// are older than the oldest accepted batch. Must not be called in a transaction, which would hold the locks for longer.
    pub(super) async fn ensure(&self, conn: &mut PgConnection, table: PartitionedTable, slot: i32) -> Result<bool, sqlx::Error> {
        if self.lock().contains(&(table, slot)) {
            return Ok(true);
        }
        let there = create(conn, table, slot).await?;
        if there {
            self.lock().insert((table, slot));
        }
        Ok(there)
    }

    /// Makes the frames' partitions for batches around this time.
    pub(super) async fn ensure_around(&self, conn: &mut PgConnection, unix_millis: u64) -> Result<(), sqlx::Error> {
        let now = FRAMES.slot_of(unix_millis);
        for slot in now..=now.saturating_add(FRAMES_AHEAD) {
            self.ensure(conn, FRAMES, slot).await?;
        }
        Ok(())
    }

    /// A partition turned out to be missing.
    pub(super) fn forget_all(&self) {
        self.lock().clear();
    }

    /// Drops a partition; frames only where it holds this many rows, and says whether it did. Fails with 55P03 where the lock can't be had soon.
    ///
    /// `dropped_history` is updated in the same transaction: a reader locks the tables before it takes its snapshot, so it ends before the drop or sees all of it.
    /// An update before the drop would hide samples that are still there while a long read holds the drop up.
    pub(super) async fn drop_one(
        &self,
        conn: &mut PgConnection,
        table: PartitionedTable,
        slot: i32,
        rows: Option<i64>,
    ) -> Result<bool, sqlx::Error> {
        self.lock().remove(&(table, slot));
        let name = table.partition(slot);
        let mut tx = conn.begin().await?;
        tx.execute(format!("SET LOCAL lock_timeout = '{DROP_LOCK_LIMIT}'").as_str()).await?;
        sqlx::query!("SELECT pg_advisory_xact_lock($1, $2)", Lock::SPACE, Lock::Partition as i32).fetch_one(&mut *tx).await?;
        if let Some(rows) = rows {
            // Writers of late batches wait. A statement of its own after the lock sees the rows of every writer that had this partition open.
            tx.execute(format!("LOCK TABLE {name} IN SHARE MODE").as_str()).await?;
            let there: i64 = sqlx::query_scalar(&format!("SELECT count(*) FROM {name}")).fetch_one(&mut *tx).await?;
            if there != rows {
                tx.rollback().await?;
                return Ok(false);
            }
        }
        tx.execute(format!("DROP TABLE IF EXISTS {name}").as_str()).await?;
        if let Some(column) = table.dropped_column() {
            // After the lock: a drop that fails and is tried again each minute leaves no dead rows.
            let statement = format!("UPDATE dropped_history SET {column} = $1 WHERE {column} < $1");
            sqlx::query(&statement).bind(Timestamp(table.end_of(slot))).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(PartitionedTable, i32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a partition, if nobody else does. Answers false for frames before the oldest accepted batch, unless the partition is there.
pub(super) async fn create(conn: &mut PgConnection, table: PartitionedTable, slot: i32) -> Result<bool, sqlx::Error> {
    let (parent, name) = (table.name, table.partition(slot));
    let (from, to) = (rfc3339(table.start_of(slot)), rfc3339(table.end_of(slot)));
    let mut tx = conn.begin().await?;
    sqlx::query!("SELECT pg_advisory_xact_lock($1, $2)", Lock::SPACE, Lock::Partition as i32).fetch_one(&mut *tx).await?;
    // Read in a statement of its own, after the lock was had: whoever drops a partition holds the same lock.
    let found = sqlx::query!(
        r#"SELECT to_regclass($1) IS NOT NULL AS "exists!", (SELECT at FROM oldest_accepted) >= $2::text::timestamptz AS "too_old!""#,
        name,
        to,
    )
    .fetch_one(&mut *tx)
    .await?;
    if !found.exists && found.too_old && table == FRAMES {
        tx.rollback().await?;
        return Ok(false);
    }
    if !found.exists {
        // Made aside and then attached: CREATE TABLE … PARTITION OF would make all writers wait.
        for statement in [
            format!("CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)"),
            format!("ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"),
        ] {
            sqlx::query(&statement).execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_begin_and_end_where_their_names_say() {
        for (table, at, name) in [
            (CHUNKS, 0, "chunks_19700101"),
            (CHUNKS, DAY_MILLIS - 1, "chunks_19700101"),
            (CHUNKS, DAY_MILLIS, "chunks_19700102"),
            (FRAMES, 30 * MINUTE_MILLIS - 1, "frames_197001010000"),
            (FRAMES, 30 * MINUTE_MILLIS, "frames_197001010030"),
            (FRAMES, 20_000 * DAY_MILLIS + 23 * 60 * MINUTE_MILLIS, "frames_202410042300"),
        ] {
            let slot = table.slot_of(at);
            assert_eq!(table.partition(slot), name);
            assert_eq!(table.slot_by_name(name), Some(slot));
            assert!(table.start_of(slot) <= at && at < table.end_of(slot));
        }
        for name in ["frames_20240101", "frames_2024010100000", "frames_202413010000", "chunks_202401010000", "frames", "chunks_x0240101"] {
            assert_eq!((FRAMES.slot_by_name(name), CHUNKS.slot_by_name(name)), (None, None), "{name}");
        }
    }
}
