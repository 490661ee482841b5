//! What is dropped: days of chunks, old rollups, keys, and the oldest of all where the database takes more than it may.

use std::sync::PoisonError;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::fill::Fill;
use super::{FirstFailure, Round, Sealer};
use crate::metrics::history::HistoryMetrics;
use crate::store::postgres::error::{describe, has_code, is_of_statement};
use crate::store::postgres::maintenance::KEY_GRACE_MILLIS;
use crate::store::postgres::partitions::{CHUNKS, FRAMES, PartitionedTable, ROLLUPS_1H, ROLLUPS_5M};
use crate::store::postgres::timestamp::Timestamp;

/// From this share of HISTORY_MAX_BYTES on it is said that days are about to be dropped, in percent.
const WARN_PERCENT: u64 = 90;
/// How often that is said.
const WARN_EVERY: Duration = Duration::from_hours(1);

/// The tables of the audit trail. They have a limit of their own, AUDIT_DATABASE_MAX_BYTES: while a sink takes no events, no history goes for those that wait.
const AUDIT_TABLES: [&str; 4] = ["outbox", "deliveries", "dead_letters", "audit_name_lists"];

/// Bytes of all tables and indexes of the schema but for those of the audit trail.
async fn bytes(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    // Not `current_schema()::regnamespace`, which reads the name as SQL: without its quotes it is another one, or none.
    let statement = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind = 'r' AND relname <> ALL($1)";
    let bytes: i64 = sqlx::query_scalar(statement).bind(AUDIT_TABLES).fetch_one(conn).await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Tells how much the database takes.
pub(super) async fn measure(conn: &mut PgConnection, metrics: &HistoryMetrics, max_bytes: Option<u64>) -> Result<u64, sqlx::Error> {
    let bytes = bytes(conn).await?;
    metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    metrics.max_bytes.set(i64::try_from(max_bytes.unwrap_or(0)).unwrap_or(i64::MAX));
    Ok(bytes)
}

/// Tells which share of the numbers of series was given out. A number is not given out again, whatever became of its series.
pub(super) async fn measure_series_ids(conn: &mut PgConnection, metrics: &HistoryMetrics) -> Result<(), sqlx::Error> {
    let statement =
        "SELECT last_value::float8 / (SELECT seqmax FROM pg_sequence WHERE seqrelid = 'series_blocks'::regclass) FROM series_blocks";
    let ratio: f64 = sqlx::query_scalar(statement).fetch_one(conn).await?;
    metrics.series_ids_used_ratio.set(ratio);
    Ok(())
}

impl Sealer {
    /// Drops what is not to be kept.
    pub(super) async fn retain(&self, conn: &mut PgConnection, now: u64, round: &mut Round) -> Result<(), sqlx::Error> {
        self.forget_keys(conn, now).await?;
        // Rollups stay at least as long as the samples of their days: of what is late, a window's rollups are made with those of the rest of its day.
        let samples = self.oldest_kept(now);
        let kept = [
            (CHUNKS, samples),
            (ROLLUPS_5M, now.saturating_sub(self.lifetimes.retention_5m_millis()).min(samples)),
            (ROLLUPS_1H, now.saturating_sub(self.lifetimes.retention_1h_millis()).min(samples)),
        ];
        let mut failure = FirstFailure::default();
        for (table, oldest) in kept {
            for slot in table.existing(conn).await?.into_iter().filter(|slot| table.end_of(*slot) <= oldest) {
                // A day whose rollups could not be made has time.
                if table == CHUNKS && failure.keep(self.fold_day(conn, slot, round).await)?.is_none() {
                    break;
                }
                if !self.drop_partition(conn, table, slot, round).await? {
                    break;
                }
            }
        }
        failure.keep(self.keep_within_bytes(conn, now, round).await)?;
        failure.into_result()
    }

    /// Drops a partition of history, unless a long read holds it. Then another round does.
    async fn drop_partition(
        &self,
        conn: &mut PgConnection,
        table: PartitionedTable,
        slot: i32,
        round: &mut Round,
    ) -> Result<bool, sqlx::Error> {
        match self.partitions.drop_one(conn, table, slot, None).await {
            Ok(_) => {
                if table == CHUNKS {
                    round.days.push(slot);
                } else {
                    round.rollups.push(table.partition(slot));
                }
                self.metrics.dropped_partitions.with_label_values(&[table.name]).inc();
                self.steps.step()?;
                Ok(true)
            }
            Err(error) if has_code(&error, "55P03") => {
                let partition = table.partition(slot);
                tracing::info!(partition, "a long read keeps old history from being dropped, trying again in a minute");
                round.held += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// What is dropped next where the database takes more than it may: the oldest samples, then rollups of 5 minutes, then those of an hour. The newest of
    /// each stay. Rollups of an hour stay also where the files are too large only by room for new series: without them that would be no less.
    ///
    /// Where series that are gone take more than all history, these are what has to leave. The oldest history keeps the oldest of them, in whichever
    /// resolution it is: the oldest partition of rollups of an hour goes, with all else of its time. See [`Fill`].
    async fn next_to_drop(&self, conn: &mut PgConnection, fill: &Fill) -> Result<Vec<(PartitionedTable, i32)>, sqlx::Error> {
        let mut old = Vec::new();
        for table in [CHUNKS, ROLLUPS_5M, ROLLUPS_1H] {
            let mut slots = table.existing(conn).await?;
            slots.pop();
            old.extend(slots.into_iter().map(|slot| (table, slot)));
        }
        if let Some((table, slot)) = old.iter().find(|(table, _)| *table == ROLLUPS_1H)
            && fill.is_of_gone_series()
        {
            let end = table.end_of(*slot);
            let of_its_time: Vec<_> = old.iter().copied().filter(|(table, slot)| table.end_of(*slot) <= end).collect();
            if fill.is_kept_by(conn, &of_its_time, end).await? {
                return Ok(of_its_time);
            }
        }
        let is_full = self.max_bytes.is_some_and(|max_bytes| fill.needed_bytes() > max_bytes);
        Ok(old.into_iter().take(1).filter(|(table, _)| *table != ROLLUPS_1H || is_full).collect())
    }

    /// Drops the oldest history while the database takes more than it may, and says so before it comes to that.
    async fn keep_within_bytes(&self, conn: &mut PgConnection, now: u64, round: &mut Round) -> Result<(), sqlx::Error> {
        let Some(max_bytes) = self.max_bytes else { return Ok(()) };
        loop {
            let bytes = measure(conn, &self.metrics, self.max_bytes).await?;
            if bytes <= max_bytes {
                if bytes / 100 >= max_bytes / 10_000 * WARN_PERCENT && self.may_warn() {
                    let fill = Fill::of(conn, bytes, &self.lifetimes, now).await?;
                    let next = self.next_to_drop(conn, &fill).await?;
                    tracing::warn!(
                        bytes,
                        limit_bytes = max_bytes,
                        next = next.last().map(|(table, slot)| table.partition(*slot)),
                        "the database is nearly as large as HISTORY_MAX_BYTES, beyond which the oldest history is dropped: raise the limit, or shorten RETENTION_RAW, RETENTION_5M or RETENTION_1H"
                    );
                }
                return Ok(());
            }
            let fill = Fill::of(conn, bytes, &self.lifetimes, now).await?;
            let next = self.next_to_drop(conn, &fill).await?;
            if next.is_empty() {
                let needed_bytes = fill.needed_bytes();
                round.too_large = Some(needed_bytes);
                if !self.may_warn() {
                    return Ok(());
                }
                if needed_bytes > max_bytes {
                    tracing::error!(
                        bytes,
                        limit_bytes = max_bytes,
                        "the database is larger than HISTORY_MAX_BYTES and no old history is left to drop: raise the limit"
                    );
                } else {
                    tracing::warn!(
                        bytes,
                        limit_bytes = max_bytes,
                        free_bytes = fill.free_bytes(),
                        "the files of the database are larger than HISTORY_MAX_BYTES by room that series left and new ones will use: VACUUM FULL makes them smaller"
                    );
                }
                return Ok(());
            }
            // Rollups that are about to go need not be complete.
            let keeps_rollups = next.iter().all(|(table, _)| *table == CHUNKS);
            for (table, slot) in next {
                let partition = table.partition(slot);
                if keeps_rollups && let Err(error) = self.fold_day(conn, slot, round).await {
                    if !is_of_statement(&error) {
                        return Err(error);
                    }
                    // The disk may be full already.
                    tracing::error!(partition, problem = describe(&error), "history is dropped of which not all could be rolled up");
                }
                if !self.drop_partition(conn, table, slot, round).await? {
                    return Ok(());
                }
                tracing::warn!(
                    bytes,
                    limit_bytes = max_bytes,
                    partition,
                    "dropped the oldest history, the database is larger than HISTORY_MAX_BYTES"
                );
            }
        }
    }

    /// Whether it is time to say again what is so for long.
    fn may_warn(&self) -> bool {
        let mut last = self.warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    /// Forgets keys of sealed frames that are older than any batch that is accepted, and has such batches refused by every server. Keys whose
    /// frames are still there are kept: they say that these are sealed.
    async fn forget_keys(&self, conn: &mut PgConnection, now: u64) -> Result<(), sqlx::Error> {
        let kept = now.saturating_sub(self.lifetimes.dedup_window_millis()).saturating_sub(KEY_GRACE_MILLIS);
        let Some(before) = FRAMES.slot_of(kept).checked_sub(1).map(|last| Timestamp(FRAMES.end_of(last))) else { return Ok(()) };
        let there: Vec<Timestamp> = FRAMES.existing(conn).await?.into_iter().map(|slot| Timestamp(FRAMES.start_of(slot))).collect();
        let mut tx = conn.begin().await?;
        let newest = sqlx::query_scalar!(
            r#"WITH gone AS (DELETE FROM sealed_reports WHERE frames_start < $1 AND frames_start <> ALL($2) RETURNING frames_start)
            SELECT max(frames_start) AS "newest: Timestamp" FROM gone"#,
            before as Timestamp,
            &there as &[Timestamp],
        )
        .fetch_one(&mut *tx)
        .await?;
        let Some(newest) = newest else { return tx.rollback().await };
        self.steps.step()?;
        let forgotten = Timestamp(newest.0 + FRAMES.span_millis);
        sqlx::query!("UPDATE oldest_accepted SET at = greatest(at, $1)", forgotten as Timestamp).execute(&mut *tx).await?;
        self.steps.step()?;
        tx.commit().await
    }
}
