//! Seals a source's frames of one half hour.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Executor as _, PgConnection, Row as _};
use uuid::Uuid;

use super::collect::{BlockKinds, Collector, Kinds, Sample};
use super::parts;
use super::{PATIENT, SealerLimits, Steps};
use crate::store::postgres::partitions::FRAMES;
use crate::store::postgres::sealed::{self, MARK_BYTES, Mark, key_mark};
use crate::store::postgres::timestamp::Timestamp;
use crate::store::postgres::writer::as_delta;

/// How many batches one row of sealed_reports remembers.
const MAX_MARKS: usize = 65_536;

/// What is to be sealed.
pub(super) struct Task {
    /// The partition of frames.
    pub(super) slot: i32,
    pub(super) source_id: i32,
    /// Frames with a greater arrival are left alone.
    pub(super) up_to_arrival: i64,
    /// Samples before this are not kept.
    pub(super) oldest_millis: i64,
    pub(super) limits: SealerLimits,
}

/// Blocks of which the frames up to an arrival are written.
#[derive(Debug, Clone, Copy)]
struct BlockRange {
    /// The first of them.
    first: i32,
    /// The one behind the last.
    end: i32,
    after_arrival: i64,
}

/// What was sealed.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Frames that had been sealed before.
    pub(super) known: u64,
    /// Whether the half hour had been sealed before and these came late.
    pub(super) known_before: bool,
    /// Frames that were sealed now.
    pub(super) new: u64,
    /// Whether there are more, which are left to another transaction.
    pub(super) is_part: bool,
    pub(super) samples: u64,
    /// Samples that are not kept, see [`Task::oldest_millis`].
    pub(super) too_old: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// How sealing ended.
pub(super) enum Outcome {
    /// In a commit.
    Done(Done),
    /// Nothing was changed, for want of these partitions of chunks.
    NeedsDays(BTreeSet<i32>),
}

/// The sources that have frames in a partition.
pub(super) async fn sources(conn: &mut PgConnection, slot: i32) -> Result<Vec<i32>, sqlx::Error> {
    let partition = FRAMES.partition(slot);
    sqlx::query_scalar(&format!("SELECT DISTINCT source_id FROM {partition} ORDER BY source_id")).fetch_all(conn).await
}

/// Seals what is not sealed yet, in one transaction, as much as that takes.
pub(super) async fn seal(conn: &mut PgConnection, task: &Task, chunk_days: &BTreeSet<i32>, steps: &Steps) -> Result<Outcome, sqlx::Error> {
    let mut tx = conn.begin().await?;
    // Every pass sees the same frames.
    tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    tx.execute(PATIENT).await?;
    let mut done = Done::default();
    let frames_start = Timestamp(FRAMES.start_of(task.slot));
    let known = sealed::keys_of(&mut tx, frames_start, task.source_id).await?;
    let new = new_frames(&mut tx, task, &known, &mut done).await?;
    done.new = (new.marks.len() / MARK_BYTES) as u64;
    if new.marks.is_empty() {
        tx.rollback().await?;
        return Ok(Outcome::Done(done));
    }
    let layouts = layouts(&mut tx, task).await?;
    let blocks = blocks(&mut tx, task, &layouts).await?;
    let kinds = kinds(&mut tx, &blocks).await?;
    let mut ranges = vec![BlockRange { first: 0, end: i32::MAX, after_arrival: new.after_arrival }];
    while let Some(range) = ranges.pop() {
        let mut collector = Collector::new(&kinds, task.limits.pass_bytes, range.first, range.end);
        let mut too_old = 0;
        let arrivals = (range.after_arrival, new.up_to_arrival);
        let stopped_at = read(&mut tx, task, &known, &layouts, arrivals, &mut collector, &mut too_old).await?;
        // Each frame is in one pass that begins with the first block, and in others for the blocks that were left out.
        done.too_old += if range.first == 0 { too_old } else { 0 };
        let end = collector.end;
        let blocks = collector.blocks.into_iter().map(|(id, (_, block))| (id, block)).collect();
        steps.step()?;
        match parts::write(&mut tx, task.source_id, &kinds, blocks, chunk_days, steps).await? {
            parts::Outcome::Written(written) => {
                done.samples += written.samples;
                done.rows += written.rows;
                done.bytes += written.bytes;
            }
            parts::Outcome::NeedsDays(days) => {
                tx.rollback().await?;
                return Ok(Outcome::NeedsDays(days));
            }
        }
        // Blocks that were left out are read from where this pass began, the others from where it ended.
        if end < range.end {
            ranges.push(BlockRange { first: end, ..range });
        }
        if let Some(after_arrival) = stopped_at {
            ranges.push(BlockRange { end, after_arrival, ..range });
        }
    }
    let next_part: i16 = sqlx::query_scalar!(
        r#"SELECT coalesce(max(part) + 1, 0)::smallint AS "part!" FROM sealed_reports WHERE frames_start = $1 AND source_id = $2"#,
        frames_start as Timestamp,
        task.source_id,
    )
    .fetch_one(&mut *tx)
    .await?;
    for (part, keys) in (next_part..).zip(new.marks.chunks(MAX_MARKS * MARK_BYTES)) {
        sqlx::query!(
            "INSERT INTO sealed_reports (frames_start, source_id, part, keys) VALUES ($1, $2, $3, $4)",
            frames_start as Timestamp,
            task.source_id,
            part,
            keys,
        )
        .execute(&mut *tx)
        .await?;
        steps.step()?;
    }
    tx.commit().await?;
    Ok(Outcome::Done(done))
}

/// The frames that one transaction seals.
struct NewFrames {
    /// How they will be remembered.
    marks: Vec<u8>,
    after_arrival: i64,
    up_to_arrival: i64,
}

/// The frames that are to be sealed, as many as one transaction takes; counts those that were.
async fn new_frames(conn: &mut PgConnection, task: &Task, known: &HashSet<[u8; 8]>, done: &mut Done) -> Result<NewFrames, sqlx::Error> {
    let partition = FRAMES.partition(task.slot);
    // The size of values that are stored out of line is known without them.
    let statement =
        format!(r#"SELECT key, digest, arrival, pg_column_size("values")::bigint FROM {partition} WHERE source_id = $1 ORDER BY arrival"#);
    let mut rows = sqlx::query_as::<_, (Uuid, Vec<u8>, i64, i64)>(&statement).bind(task.source_id).fetch(conn);
    let mut new = NewFrames { marks: Vec::new(), after_arrival: 0, up_to_arrival: 0 };
    let mut bytes = 0;
    while let Some((key, digest, arrival, values_bytes)) = rows.try_next().await? {
        let mark = Mark::of(key, &digest);
        if known.contains(&mark.key) {
            done.known += 1;
        } else if arrival <= task.up_to_arrival && bytes >= task.limits.transaction_bytes {
            done.is_part = true;
        } else if arrival <= task.up_to_arrival {
            if new.marks.is_empty() {
                new.after_arrival = arrival - 1;
            }
            new.up_to_arrival = arrival;
            new.marks.extend(mark.to_bytes());
            bytes = bytes.saturating_add(values_bytes);
        }
    }
    done.known_before = !known.is_empty();
    Ok(new)
}

/// Which series these blocks have. Not all that the source has: rows of pods' series stay as long as their history, and there may be millions.
pub(super) async fn kinds(conn: &mut PgConnection, blocks: &[i32]) -> Result<Kinds, sqlx::Error> {
    let rows: Vec<(i32, i64, i64)> = sqlx::query_as(
        "SELECT block.id, of_block.known, of_block.counters FROM unnest($1::integer[]) AS block (id) CROSS JOIN LATERAL (
            SELECT coalesce(bit_or(1::bigint << (series.id % 64)), 0) AS known,
                coalesce(bit_or(1::bigint << (series.id % 64)) FILTER (WHERE kind = 1), 0) AS counters
            FROM series WHERE series.id >= block.id::bigint * 64 AND series.id < (block.id::bigint + 1) * 64
        ) AS of_block",
    )
    .bind(blocks)
    .fetch_all(conn)
    .await?;
    let kinds = |known: i64, counters: i64| BlockKinds { known: known.cast_unsigned(), counters: counters.cast_unsigned() };
    Ok(Kinds::new(rows.into_iter().map(|(block, known, counters)| (block, kinds(known, counters)))))
}

/// The blocks of the series in the frames of a source, in layouts and in lists of their own.
async fn blocks(conn: &mut PgConnection, task: &Task, layouts: &HashMap<i32, Vec<i32>>) -> Result<Vec<i32>, sqlx::Error> {
    let partition = FRAMES.partition(task.slot);
    let statement = format!("SELECT DISTINCT id / 64 FROM {partition}, unnest(series_ids) AS of_frame (id) WHERE source_id = $1");
    let own: Vec<i32> = sqlx::query_scalar(&statement).bind(task.source_id).fetch_all(conn).await?;
    let all: BTreeSet<i32> = layouts.values().flatten().map(|id| id / 64).chain(own).collect();
    Ok(all.into_iter().collect())
}

/// The lists of series that the frames name by number.
async fn layouts(conn: &mut PgConnection, task: &Task) -> Result<HashMap<i32, Vec<i32>>, sqlx::Error> {
    let partition = FRAMES.partition(task.slot);
    let statement =
        format!("SELECT id, series_ids FROM layouts WHERE id IN (SELECT DISTINCT layout_id FROM {partition} WHERE source_id = $1)");
    let rows: Vec<(i32, Vec<i32>)> = sqlx::query_as(&statement).bind(task.source_id).fetch_all(conn).await?;
    Ok(rows.into_iter().collect())
}

/// Reads the frames between two arrivals in their order, and counts their samples that are not kept. Answers the arrival of the last one that was read, where
/// more are to be read in another pass.
async fn read(
    conn: &mut PgConnection,
    task: &Task,
    known: &HashSet<[u8; 8]>,
    layouts: &HashMap<i32, Vec<i32>>,
    (after_arrival, up_to_arrival): (i64, i64),
    collector: &mut Collector<'_>,
    too_old: &mut u64,
) -> Result<Option<i64>, sqlx::Error> {
    let partition = FRAMES.partition(task.slot);
    let statement = format!(
        r#"SELECT key, arrival, at, layout_id, series_ids, "values", times, deltas FROM {partition}
        WHERE source_id = $1 AND arrival > $2 AND arrival <= $3 ORDER BY arrival"#
    );
    let mut rows = sqlx::query(&statement).bind(task.source_id).bind(after_arrival).bind(up_to_arrival).fetch(conn);
    while let Some(row) = rows.try_next().await? {
        if known.contains(&key_mark(row.try_get("key")?)) {
            continue;
        }
        *too_old += add(&row, task, layouts, collector)?;
        if collector.is_full() {
            return Ok(Some(row.try_get("arrival")?));
        }
    }
    Ok(None)
}

/// Takes the samples of one frame, and says how many of them are not kept. One whose layout is gone has no series any more: its source was deleted by hand.
fn add(row: &PgRow, task: &Task, layouts: &HashMap<i32, Vec<i32>>, collector: &mut Collector<'_>) -> Result<u64, sqlx::Error> {
    let millis = |at: Timestamp| i64::try_from(at.0).unwrap_or(i64::MAX);
    let own: Option<Vec<i32>> = row.try_get("series_ids")?;
    let layout: Option<i32> = row.try_get("layout_id")?;
    let series = own.as_deref().or_else(|| layouts.get(&layout?).map(Vec::as_slice)).unwrap_or_default();
    let values: Vec<f64> = row.try_get("values")?;
    let times: Option<Vec<Timestamp>> = row.try_get("times")?;
    let deltas: Option<Vec<i64>> = row.try_get("deltas")?;
    let at = millis(row.try_get("at")?);
    let mut too_old = 0;
    for (place, (series, value)) in series.iter().zip(values).enumerate() {
        let at_millis = times.as_ref().and_then(|times| times.get(place)).map_or(at, |at| millis(*at));
        let delta = deltas.as_ref().and_then(|deltas| deltas.get(place).copied()).unwrap_or_else(|| as_delta(value));
        if at_millis >= task.oldest_millis {
            collector.add(Sample { series: *series, at_millis, value, delta });
        } else {
            too_old += 1;
        }
    }
    Ok(too_old)
}
