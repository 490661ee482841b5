//! Tables that are partitioned by time: [`FRAMES`] by 30 minutes, [`CHUNKS`] by the UTC day, [`ROLLUPS_5M`] by 7 days, [`ROLLUPS_1H`] by 28.
//!
//! No change here makes writers wait behind a long read such as pg_dump's: a partition is attached under a lock that reads and writes pass,
//! and dropped only if the lock for that can be had within [`DROP_LOCK_LIMIT`], or now and then within [`PATIENT_LOCK_LIMIT`].

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use sqlx::{Connection, Executor as _, PgConnection};

use super::connect::{Lock, lock_in_transaction};
use super::error::has_code;
use super::timestamp::Timestamp;
use crate::clock::rfc3339;

const MINUTE_MILLIS: u64 = 60 * 1000;
const DAY_MILLIS: u64 = 24 * 60 * MINUTE_MILLIS;
/// How many partitions of frames are made ahead of now. Writers make one for themselves where this came to nothing.
const FRAMES_AHEAD: i32 = 4;
/// How long a drop waits for its lock, and all writers with it.
const DROP_LOCK_LIMIT: &str = "100ms";
/// The same for one drop of a round, after rounds in a row in which some were held up: where queries follow each other there is never a moment without one.
/// Statements that wait behind it give up after 2 s. Of the batches that come meanwhile, those are answered 503 that wait for longer than half a second.
const PATIENT_LOCK_LIMIT: &str = "1s";
/// How long such a drop may count the rows of its partition. One that takes longer is held up as well.
const PATIENT_COUNT_LIMIT: &str = "500ms";
/// How many such rounds.
const PATIENT_AFTER: u32 = 10;

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
    pub(super) fn slot_by_name(self, partition: &str) -> Option<i32> {
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

/// How drops are held up by locks of others.
#[derive(Debug, Default)]
struct Held {
    /// In how many rounds in a row some were, since a patient one was.
    rounds: u32,
    /// Whether some were in this round.
    in_this_round: bool,
    /// Whether the next one of this round that is held up may be patient.
    may_be_patient: bool,
}

impl Held {
    fn begin_round(&mut self) {
        let rounds = if self.in_this_round { self.rounds } else { 0 };
        *self = Self { rounds, in_this_round: false, may_be_patient: rounds >= PATIENT_AFTER };
    }

    /// A drop was held up. Says whether it is to be tried again, patiently.
    fn add(&mut self) -> bool {
        if std::mem::take(&mut self.may_be_patient) {
            return true;
        }
        if !self.in_this_round {
            self.in_this_round = true;
            self.rounds = self.rounds.saturating_add(1);
        }
        false
    }

    /// A patient one was held up too: as many rounds pass before the next one. Says how many there were.
    fn add_patient(&mut self) -> u32 {
        self.in_this_round = true;
        std::mem::take(&mut self.rounds)
    }
}

/// The partitions that are known to be there, and what keeps others from being dropped.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    known: Mutex<HashSet<(PartitionedTable, i32)>>,
    held: Mutex<Held>,
}

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

    /// Begins a round of drops.
    pub(super) fn begin_round(&self) {
        self.held().begin_round();
    }

    /// Drops a partition; frames only where it holds this many rows, and says whether it did. Fails with 55P03 where the lock can't be had soon.
    pub(super) async fn drop_one(
        &self,
        conn: &mut PgConnection,
        table: PartitionedTable,
        slot: i32,
        rows: Option<i64>,
    ) -> Result<bool, sqlx::Error> {
        self.lock().remove(&(table, slot));
        let tried = try_to_drop(conn, table, slot, rows, false).await;
        if !is_held_up(&tried) || !self.held().add() {
            return tried;
        }
        let tried = try_to_drop(conn, table, slot, rows, true).await;
        if is_held_up(&tried) {
            let rounds = self.held().add_patient();
            let partition = table.partition(slot);
            tracing::info!(partition, rounds, "reads or a vacuum keep old partitions from being dropped: it is tried again every minute");
        }
        tried
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(PartitionedTable, i32)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_held_up(tried: &Result<bool, sqlx::Error>) -> bool {
    tried.as_ref().is_err_and(|error| has_code(error, "55P03") || has_code(error, "57014"))
}

/// See [`Partitions::drop_one`].
///
/// `dropped_history` is updated in the same transaction: a reader locks the tables before it takes its snapshot, so it ends before the drop or sees all of it.
/// An update before the drop would hide samples that are still there while a long read holds the drop up.
async fn try_to_drop(
    conn: &mut PgConnection,
    table: PartitionedTable,
    slot: i32,
    rows: Option<i64>,
    is_patient: bool,
) -> Result<bool, sqlx::Error> {
    let (parent, name) = (table.name, table.partition(slot));
    let mut tx = conn.begin().await?;
    tx.execute(format!("SET LOCAL lock_timeout = '{DROP_LOCK_LIMIT}'").as_str()).await?;
    lock_in_transaction(&mut tx, Lock::Partition).await?;
    if is_patient {
        // The table before its partition, as writers take them: a wait that long could otherwise end in a deadlock. Of several waits only this one is long.
        let statement = format!(
            "SET LOCAL lock_timeout = '{PATIENT_LOCK_LIMIT}'; LOCK TABLE ONLY {parent} IN ACCESS EXCLUSIVE MODE;
            SET LOCAL lock_timeout = '{DROP_LOCK_LIMIT}'"
        );
        tx.execute(statement.as_str()).await?;
    }
    if let Some(rows) = rows {
        // Writers of late batches wait. A statement of its own after the lock sees the rows of every writer that had this partition open.
        tx.execute(format!("LOCK TABLE {name} IN SHARE MODE").as_str()).await?;
        if is_patient {
            // All writers wait meanwhile.
            tx.execute(format!("SET LOCAL statement_timeout = '{PATIENT_COUNT_LIMIT}'").as_str()).await?;
        }
        let there: i64 = sqlx::query_scalar(&format!("SELECT count(*) FROM {name}")).fetch_one(&mut *tx).await?;
        tx.execute("SET LOCAL statement_timeout TO DEFAULT").await?;
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

/// Makes a partition, if nobody else does. Answers false for frames before the oldest accepted batch, unless the partition is there.
pub(super) async fn create(conn: &mut PgConnection, table: PartitionedTable, slot: i32) -> Result<bool, sqlx::Error> {
    let (parent, name) = (table.name, table.partition(slot));
    let (from, to) = (rfc3339(table.start_of(slot)), rfc3339(table.end_of(slot)));
    let mut tx = conn.begin().await?;
    lock_in_transaction(&mut tx, Lock::Partition).await?;
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

    /// Whether the first and the second drop of a round that are held up are tried patiently.
    fn round(held: &mut Held) -> (bool, bool) {
        held.begin_round();
        (held.add(), held.add())
    }

    #[test]
    fn one_drop_of_a_round_is_patient_after_ten_rounds_in_which_some_were_held_up() {
        let mut held = Held::default();
        for _ in 0..PATIENT_AFTER {
            assert_eq!(round(&mut held), (false, false));
        }
        // As long as that helps, another one each round.
        for _ in 0..3 {
            assert_eq!(round(&mut held), (true, false));
        }
        // In this one none is: they are counted from the beginning.
        held.begin_round();
        assert_eq!(round(&mut held), (false, false));
        for _ in 1..PATIENT_AFTER {
            assert_eq!(round(&mut held), (false, false));
        }
        held.begin_round();
        assert!(held.add());
        assert_eq!(held.add_patient(), PATIENT_AFTER);
        // Where it does not help, as many rounds pass again.
        for _ in 0..PATIENT_AFTER {
            assert_eq!(round(&mut held), (false, false));
        }
        assert_eq!(round(&mut held), (true, false));
    }

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
