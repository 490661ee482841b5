//! Makes one row of the rows of a block and window.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use golectra_chunks::{DecodeError, Times, decode_counter, decode_gauge, samples_of};
use sqlx::{Connection, Executor as _, PgConnection};
use tokio::time::{Instant, sleep};

use super::collect::{Block, BlockKinds, Samples};
use super::{FirstFailure, Round, Sealer, half_hour, parts, rollups};
use crate::store::postgres::partitions::{self, CHUNKS, PartitionedTable, ROLLUPS_1H, ROLLUPS_5M};
use crate::store::postgres::timestamp::Timestamp;

/// How long a window is, in milliseconds.
const SPAN_MILLIS: u64 = super::WINDOW_MILLIS.unsigned_abs();
/// How many blocks one transaction folds.
const BLOCKS_AT_ONCE: usize = 32;
/// How long to pause before others' transactions are looked for again.
const OTHERS_PAUSE: Duration = Duration::from_millis(100);

/// What folding blocks did.
#[derive(Default)]
struct Folded {
    /// How many rows became one with others.
    rows: u64,
    /// The blocks whose window was not folded before.
    new: Vec<i32>,
}

/// A row that is to be folded.
struct Part {
    number: i16,
    times: Vec<u8>,
    offsets: Vec<i32>,
    data: Vec<u8>,
    bases: Option<Vec<i64>>,
}

impl Part {
    fn column(&self, slot: usize) -> &[u8] {
        let offset = |at: usize| usize::try_from(*self.offsets.get(at)?).ok();
        let bytes = || self.data.get(offset(slot)?..offset(slot + 1)?);
        bytes().unwrap_or_default()
    }
}

impl Sealer {
    /// Folds the windows that ended before this, in unix milliseconds, as far as there is time.
    pub(super) async fn fold(
        &self,
        conn: &mut PgConnection,
        ended_before: u64,
        until: Instant,
        round: &mut Round,
    ) -> Result<(), sqlx::Error> {
        let newest = (ended_before / SPAN_MILLIS).saturating_sub(1) * SPAN_MILLIS;
        self.fold_windows(conn, 0..=newest, until, true, round).await
    }

    /// Folds the windows of a day that is about to be dropped: late ones may not be folded yet.
    pub(super) async fn fold_day(&self, conn: &mut PgConnection, day: i32, round: &mut Round) -> Result<(), sqlx::Error> {
        let windows = CHUNKS.start_of(day)..=CHUNKS.end_of(day) - SPAN_MILLIS;
        self.fold_windows(conn, windows, Instant::now() + super::ROUND_LIMIT, false, round).await
    }

    /// Folds the windows that begin then. `tidies` says whether their room is made free for others.
    async fn fold_windows(
        &self,
        conn: &mut PgConnection,
        windows: RangeInclusive<u64>,
        until: Instant,
        tidies: bool,
        round: &mut Round,
    ) -> Result<(), sqlx::Error> {
        let due = sqlx::query!(
            r#"SELECT window_start AS "window_start: Timestamp", source_id FROM chunks WHERE part > 0 AND window_start BETWEEN $1 AND $2
            GROUP BY window_start, source_id ORDER BY window_start, source_id"#,
            Timestamp(*windows.start()) as Timestamp,
            Timestamp(*windows.end()) as Timestamp,
        )
        .fetch_all(&mut *conn)
        .await?;
        let folded_before = round.folded;
        let mut failure = FirstFailure::default();
        let mut window: Option<Timestamp> = None;
        let mut new_blocks = Vec::new();
        let mut partitions = Vec::new();
        for table in [ROLLUPS_5M, ROLLUPS_1H] {
            partitions.extend(table.existing(conn).await?.into_iter().map(|slot| (table, slot)));
        }
        for row in &due {
            if Instant::now() >= until {
                self.pace.is_late();
                tracing::info!("folding takes long, the rest of it follows in a minute");
                break;
            }
            for table in [ROLLUPS_5M, ROLLUPS_1H] {
                let slot = table.slot_of(row.window_start.0);
                if !partitions.contains(&(table, slot)) {
                    partitions::create(conn, table, slot).await?;
                    partitions.push((table, slot));
                }
            }
            // What was folded leaves room in its partition, which the next window takes.
            if let Some(last) = window.filter(|last| tidies && *last != row.window_start) {
                failure.keep(self.tidy(conn, last, &std::mem::take(&mut new_blocks), until).await)?;
            }
            window = Some(row.window_start);
            let folded = failure.keep(self.fold_window(conn, row.window_start, row.source_id, until).await)?.unwrap_or_default();
            round.folded += folded.rows;
            new_blocks.extend(folded.new);
        }
        if let Some(last) = window.filter(|_| tidies && round.folded > folded_before) {
            failure.keep(self.tidy(conn, last, &new_blocks, until).await)?;
        }
        failure.into_result()
    }

    /// Makes the room of what was folded free for others. `new_blocks` were folded in this window for the first time. Where it is the last of its day no window
    /// comes that takes the room of their parts. So their rows move there, and the room at the end of the file is given back to the file system.
    ///
    /// Nobody waits for this. Where somebody else's transaction takes too long, or time is short, the partition keeps the room.
    async fn tidy(&self, conn: &mut PgConnection, window: Timestamp, new_blocks: &[i32], until: Instant) -> Result<(), sqlx::Error> {
        let partition = |table: PartitionedTable| table.partition(table.slot_of(window.0));
        let is_last = window.0 + SPAN_MILLIS == CHUNKS.end_of(CHUNKS.slot_of(window.0));
        // While the parts can't be removed their room is not free, and rows that are moved would make the file longer.
        let moves = is_last && !new_blocks.is_empty() && self.is_removable(conn, until).await?;
        for table in [CHUNKS, ROLLUPS_5M, ROLLUPS_1H] {
            conn.execute(format!("VACUUM (TRUNCATE false) {}", partition(table)).as_str()).await?;
        }
        if !moves {
            return Ok(());
        }
        for ids in new_blocks.chunks(BLOCKS_AT_ONCE) {
            if Instant::now() >= until {
                return Ok(());
            }
            let started = Instant::now();
            // The column is written anew because the expression makes a new value.
            sqlx::query!("UPDATE chunks SET data = data || '' WHERE block_id = ANY($1) AND window_start = $2", ids, window as Timestamp)
                .execute(&mut *conn)
                .await?;
            self.steps.step()?;
            self.pace.rest_after(started.elapsed()).await;
        }
        if self.is_removable(conn, until).await? {
            // It takes the lock for cutting off the end only when nobody has or wants the partition, and gives up after some seconds.
            conn.execute(format!("VACUUM {}", partition(CHUNKS)).as_str()).await?;
        }
        Ok(())
    }

    /// Waits until VACUUM can remove what is deleted by now: no snapshot and no transaction in the database is older. Says whether that came in time.
    async fn is_removable(&self, conn: &mut PgConnection, until: Instant) -> Result<bool, sqlx::Error> {
        let until = until.min(Instant::now() + self.limits.others);
        let next: i64 = sqlx::query_scalar("SELECT txid_snapshot_xmax(txid_current_snapshot())").fetch_one(&mut *conn).await?;
        loop {
            // Numbers of transactions have 32 bits there, and begin anew. Those of VACUUM keep nothing. A standby's feedback is a slot's, or a session's
            // without a database.
            let removable: bool = sqlx::query_scalar(
                "SELECT NOT EXISTS (
                    SELECT FROM (
                        SELECT unnest(ARRAY[backend_xid, backend_xmin]) AS number FROM pg_stat_activity
                        WHERE pid <> pg_backend_pid() AND coalesce(datname = current_database(), true)
                            AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
                        UNION ALL SELECT transaction FROM pg_prepared_xacts WHERE database = current_database()
                        UNION ALL SELECT xmin FROM pg_replication_slots
                    ) AS others WHERE (number::text::bigint - $1) & 4294967295 >= 2147483648)",
            )
            .bind(next)
            .fetch_one(&mut *conn)
            .await?;
            if removable || Instant::now() >= until {
                return Ok(removable);
            }
            sleep(OTHERS_PAUSE).await;
        }
    }

    /// The rest of a window is left to the next round once it is `until`.
    async fn fold_window(&self, conn: &mut PgConnection, window: Timestamp, source_id: i32, until: Instant) -> Result<Folded, sqlx::Error> {
        let blocks = sqlx::query_scalar!(
            "SELECT DISTINCT block_id FROM chunks WHERE window_start = $1 AND source_id = $2 AND part > 0 ORDER BY block_id",
            window as Timestamp,
            source_id,
        )
        .fetch_all(&mut *conn)
        .await?;
        let mut folded = Folded::default();
        for ids in blocks.chunks(BLOCKS_AT_ONCE) {
            if Instant::now() >= until && folded.rows > 0 {
                break;
            }
            let started = Instant::now();
            let mut tx = conn.begin().await?;
            tx.execute(super::PATIENT).await?;
            let kinds = half_hour::kinds(&mut tx, ids).await?;
            for block_id in ids {
                let parts = self.fold_block(&mut tx, window, source_id, *block_id, kinds.of(*block_id)).await?;
                folded.rows += parts.len() as u64;
                if parts.first().is_some_and(|first| *first > 0) {
                    folded.new.push(*block_id);
                }
            }
            tx.commit().await?;
            self.steps.step()?;
            self.pace.rest_after(started.elapsed()).await;
        }
        Ok(folded)
    }

    /// Gives the parts that are one now, in order; none where a row can't be read.
    async fn fold_block(
        &self,
        conn: &mut PgConnection,
        window: Timestamp,
        source_id: i32,
        block_id: i32,
        kinds: BlockKinds,
    ) -> Result<Vec<i16>, sqlx::Error> {
        let parts = sqlx::query_as!(
            Part,
            "SELECT part AS number, times, offsets, data, bases FROM chunks WHERE block_id = $1 AND window_start = $2 ORDER BY part",
            block_id,
            window as Timestamp,
        )
        .fetch_all(&mut *conn)
        .await?;
        let start = i64::try_from(window.0).unwrap_or(0);
        let mut day = match rollups::Day::read(conn, source_id, block_id, start, kinds).await? {
            Ok(day) => day,
            Err(error) => {
                rollups::say_damaged(block_id, start, &error);
                return Ok(Vec::new());
            }
        };
        let bases = parts.iter().filter_map(|part| part.bases.as_deref()).max_by_key(|bases| bases.len());
        day.clear(start);
        let times: Result<Vec<Times>, _> = parts.iter().map(|part| Times::decode(&part.times)).collect();
        let joined = times.and_then(|times| {
            let mut rows = Vec::new();
            for slots in groups(&parts, &times, kinds, self.limits.fold_samples)? {
                let block = join(&parts, &times, kinds, &slots)?;
                day.add(start, &block, bases);
                rows.push(parts::encode_window(&block, start).0);
            }
            Ok(rows)
        });
        let rows = match joined {
            Ok(rows) => rows,
            Err(error) => {
                // Left as it is, for those who look into it; readers say the same.
                tracing::error!(block_id, window = window.0, problem = %error, "a row of chunks can't be read");
                return Ok(Vec::new());
            }
        };
        sqlx::query!("DELETE FROM chunks WHERE block_id = $1 AND window_start = $2", block_id, window as Timestamp)
            .execute(&mut *conn)
            .await?;
        self.steps.step()?;
        // None is left where all of its series were deleted by hand.
        for (number, encoded) in (0_i16..).zip(&rows) {
            parts::insert(conn, &parts::Row { source_id, block_id, window: start, part: -number, bases, encoded }).await?;
            self.steps.step()?;
        }
        day.write(conn).await?;
        self.steps.step()?;
        Ok(parts.iter().map(|part| part.number).collect())
    }
}

/// Which slots have their samples in one row: all, unless their samples are more than this together, which bounds the memory.
fn groups(parts: &[Part], times: &[Times], kinds: BlockKinds, max_samples: usize) -> Result<Vec<Vec<usize>>, DecodeError> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut in_last = 0;
    for slot in (0..64).filter(|slot| kinds.known >> slot & 1 == 1) {
        let mut count = 0;
        for (part, times) in parts.iter().zip(times) {
            let column = part.column(slot);
            count += if column.is_empty() { 0 } else { samples_of(times, column)? };
        }
        if count == 0 {
            continue;
        }
        match groups.last_mut() {
            Some(last) if in_last + count <= max_samples => last.push(slot),
            _ => {
                groups.push(vec![slot]);
                in_last = 0;
            }
        }
        in_last += count;
    }
    Ok(groups)
}

/// The samples that all parts have of these slots.
fn join(parts: &[Part], times: &[Times], kinds: BlockKinds, slots: &[usize]) -> Result<Block, DecodeError> {
    let mut block = BTreeMap::new();
    for slot in slots {
        let mut samples = Samples::empty(kinds.counters >> slot & 1 == 1);
        for (part, times) in parts.iter().zip(times) {
            let column = part.column(*slot);
            match &mut samples {
                _ if column.is_empty() => {}
                Samples::Gauge(at, values) => decode_gauge(times, column, at, values)?,
                Samples::Counter(at, deltas) => decode_counter(times, column, at, deltas)?,
            }
        }
        samples.merge();
        block.insert(*slot, samples);
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use golectra_chunks::EncodedBlock;

    use super::*;

    fn part(block: &Block) -> Part {
        let (EncodedBlock { times, offsets, data }, _) = parts::encode_window(block, 0);
        Part { number: 1, times, offsets: offsets.into_iter().map(|offset| i32::try_from(offset).unwrap()).collect(), data, bases: None }
    }

    #[test]
    fn later_parts_win_and_deltas_add_up() {
        let gauges = |times: &[i64], value| Samples::Gauge(times.into(), vec![value; times.len()]);
        let counter = |times: &[i64], delta| Samples::Counter(times.into(), vec![delta; times.len()]);
        let one = part(&[(0, gauges(&[10, 30], 1.0)), (2, counter(&[10, 30], 1)), (3, gauges(&[1], 9.0))].into());
        let two = part(&[(0, gauges(&[20, 30], 2.0)), (2, counter(&[20, 30], 2))].into());
        let kinds = BlockKinds { known: 0b111, counters: 0b100 };
        let parts = [one, two];
        let times = parts.each_ref().map(|part| Times::decode(&part.times).unwrap());
        let slots_of = |max_samples| groups(&parts, &times, kinds, max_samples).unwrap();
        assert_eq!(slots_of(8), [[0, 2]], "the series that is not known any more is gone");
        assert_eq!(slots_of(7), [[0], [2]]);
        assert_eq!(slots_of(0), [[0], [2]], "a slot is not divided");
        let expected: Block =
            [(0, Samples::Gauge(vec![10, 20, 30], vec![1.0, 2.0, 2.0])), (2, Samples::Counter(vec![10, 20, 30], vec![1, 2, 3]))].into();
        assert_eq!(join(&parts, &times, kinds, &[0, 2]).unwrap(), expected);
    }
}
