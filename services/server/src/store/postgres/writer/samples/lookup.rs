//! Looks for samples in the history of a source.
//!
//! Frames are read before chunks, each in a statement of its own: what was sealed between the two, and left the frames, is found in chunks.

use std::collections::{BTreeSet, HashMap};

use golectra_chunks::{DecodeError, Times, decode_gauge};
use sqlx::PgConnection;

use crate::store::postgres::sealer::WINDOW_MILLIS;
use crate::store::postgres::timestamp::Timestamp;
use crate::store::postgres::writer::context::BLOCK;

/// How many rows of chunks are read at once. Each has up to 64 series and some hundred kilobytes.
const ROWS_AT_ONCE: usize = 64;

/// Series and times.
type Asked = BTreeSet<(i32, Timestamp)>;

/// Values by series and time, as bits.
type Found = HashMap<(i32, Timestamp), u64>;

/// The values that these series of a source have at these times; those without a sample are not in the answer.
pub(super) async fn find(conn: &mut PgConnection, source_id: i32, asked: Asked) -> Result<Found, sqlx::Error> {
    let mut found = in_frames(conn, source_id, &asked).await?;
    let rest: Asked = asked.into_iter().filter(|one| !found.contains_key(one)).collect();
    in_chunks(conn, &rest, &mut found).await?;
    Ok(found)
}

/// The samples of frames that overlap the time that is asked for: a sender that fills up the past, oldest first, meets few of its own frames. The pairs are
/// looked up in a hash table. A writer's session has no joins by hash, and a join of all samples with all pairs would take their product; `$6` is false, and
/// keeps the planner from making a join of it.
///
/// Of several samples of one time, which come from agents that write to the same source, the one that arrived last counts.
const IN_FRAMES: &str = r#"
    SELECT sample.series_id, coalesce(sample.at, frames.at), sample.value
    FROM frames
    LEFT JOIN layouts ON layouts.id = frames.layout_id
    CROSS JOIN LATERAL unnest(coalesce(frames.series_ids, layouts.series_ids), frames."values", frames.times) AS sample (series_id, value, at)
    WHERE frames.source_id = $3 AND frames.at >= $4
        AND coalesce(frames.oldest_at, frames.at) <= $5 AND coalesce(frames.newest_at, frames.at) >= $4
        AND ($6 OR (sample.series_id, coalesce(sample.at, frames.at)) IN (SELECT * FROM unnest($1::integer[], $2::timestamptz[])))
    ORDER BY frames.arrival"#;

/// Looks into the frames, which hold no sample that is newer than their own time.
async fn in_frames(conn: &mut PgConnection, source_id: i32, asked: &Asked) -> Result<Found, sqlx::Error> {
    let times = || asked.iter().map(|(_, at)| *at);
    let (Some(oldest), Some(newest)) = (times().min(), times().max()) else { return Ok(HashMap::new()) };
    let (series, ats): (Vec<i32>, Vec<Timestamp>) = asked.iter().copied().unzip();
    let rows =
        sqlx::query_as::<_, (i32, Timestamp, f64)>(IN_FRAMES).bind(series).bind(ats).bind(source_id).bind(oldest).bind(newest).bind(false);
    let found = rows.fetch_all(conn).await?;
    Ok(found.into_iter().map(|(series, at, value)| ((series, at), value.to_bits())).collect())
}

/// Adds what is sealed.
async fn in_chunks(conn: &mut PgConnection, asked: &Asked, found: &mut Found) -> Result<(), sqlx::Error> {
    let window_of = |at: Timestamp| Timestamp(at.0 - at.0 % WINDOW_MILLIS.unsigned_abs());
    let rows: BTreeSet<(i32, Timestamp)> = asked.iter().map(|(series, at)| (series / BLOCK, window_of(*at))).collect();
    let rows: Vec<(i32, Timestamp)> = rows.into_iter().collect();
    for some in rows.chunks(ROWS_AT_ONCE) {
        let (block_ids, starts): (Vec<i32>, Vec<Timestamp>) = some.iter().copied().unzip();
        // Of equal times the highest part counts.
        let chunks = sqlx::query!(
            r#"SELECT chunk.block_id, chunk.window_start AS "window_start: Timestamp", chunk.times, chunk.offsets, chunk.data
            FROM unnest($1::integer[], $2::timestamptz[]) AS asked (block_id, window_start)
            JOIN chunks AS chunk ON chunk.block_id = asked.block_id AND chunk.window_start = asked.window_start
            ORDER BY chunk.part"#,
            &block_ids,
            &starts as &[Timestamp],
        )
        .fetch_all(&mut *conn)
        .await?;
        for chunk in chunks {
            let first = chunk.block_id * BLOCK;
            let of_block = asked.range((first, Timestamp(0))..(first + BLOCK, Timestamp(0)));
            let of_window = of_block.filter(|(_, at)| window_of(*at) == chunk.window_start).copied();
            read(&chunk.times, &chunk.offsets, &chunk.data, first, of_window, found)
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        }
    }
    Ok(())
}

/// Reads samples of a chunk whose first slot is that of the series `first`. What is asked for is sorted.
fn read(
    times: &[u8],
    offsets: &[i32],
    data: &[u8],
    first: i32,
    asked: impl Iterator<Item = (i32, Timestamp)>,
    found: &mut Found,
) -> Result<(), DecodeError> {
    let times = Times::decode(times)?;
    let (mut decoded, mut timestamps_ms, mut values) = (None, Vec::new(), Vec::new());
    for (series, at) in asked {
        if decoded != Some(series) {
            timestamps_ms.clear();
            values.clear();
            decode_gauge(&times, column(offsets, data, series - first), &mut timestamps_ms, &mut values)?;
            decoded = Some(series);
        }
        if let Ok(index) = timestamps_ms.binary_search(&i64::try_from(at.0).unwrap_or(i64::MAX)) {
            found.insert((series, at), values[index].to_bits());
        }
    }
    Ok(())
}

/// A slot's column; empty if there is none.
fn column<'a>(offsets: &[i32], data: &'a [u8], slot: i32) -> &'a [u8] {
    let place = |index: usize| offsets.get(index).and_then(|offset| usize::try_from(*offset).ok());
    let slot = usize::try_from(slot).unwrap_or(usize::MAX - 1);
    let range = place(slot).zip(place(slot + 1));
    range.and_then(|(start, end)| data.get(start..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sqlx::{Executor as _, Row as _};

    use super::*;
    use crate::store::postgres::connect;
    use crate::store::postgres::testing::TestDatabase;

    #[tokio::test]
    async fn what_is_asked_is_looked_up_by_its_hash() {
        let Some(database) = TestDatabase::create().await else { return };
        let store = database.store().await;
        let mut conn = connect::open_for_writing(&store.writers.context.options).await.unwrap();
        let prepare = format!("PREPARE lookup (integer[], timestamptz[], integer, timestamptz, timestamptz, boolean) AS {IN_FRAMES}");
        conn.execute(&*prepare).await.unwrap();
        let explain = "EXPLAIN EXECUTE lookup ('{1}', '{2024-01-01}', 1, '2024-01-01', '2024-01-01', false)";
        let plan: Vec<String> = conn.fetch_all(explain).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(plan.iter().any(|line| line.contains("hashed SubPlan")), "{plan:#?}");
    }
}
