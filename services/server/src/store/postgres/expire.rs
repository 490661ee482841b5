//! Takes series out of the newest state: those that their source no longer reports, and all of a source that is silent or deleted.
//!
//! The order of locks is that of the writers (see [`super::writer`]): the source, the count of all series, rows of latest_blocks by id.

use golectra_protocol::{MAX_AHEAD_MILLIS, Source};
use sqlx::{Connection, PgConnection};

use super::timestamp::Timestamp;

/// How many rows of latest_blocks one transaction takes, 64 series each, so that no writer waits long for it.
const BLOCKS_AT_ONCE: i64 = 128;

/// What of a source is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Series whose last report has at most this arrival.
    Missing(i64),
    /// All.
    All,
}

/// Takes the series of a source out of the newest state whose last report has at most this arrival; says how many.
pub(super) async fn missing(conn: &mut PgConnection, source_id: i32, arrival: i64, now: Timestamp) -> Result<u64, sqlx::Error> {
    let mut all = 0;
    let mut after = -1;
    loop {
        // Looked for without a lock: mostly there is none.
        let blocks = sqlx::query_scalar!(
            "SELECT id FROM latest_blocks WHERE source_id = $1 AND id > $2 AND (
                (cardinality(arrivals) = 0 AND arrival <= $3)
                OR EXISTS (
                    SELECT FROM unnest(arrivals) WITH ORDINALITY AS of_slot (arrival, n)
                    WHERE of_slot.arrival <= $3 AND used >> (n - 1)::integer & 1 = 1
                )
            ) ORDER BY id LIMIT $4",
            source_id,
            after,
            arrival,
            BLOCKS_AT_ONCE,
        )
        .fetch_all(&mut *conn)
        .await?;
        let Some(last) = blocks.last() else { return Ok(all) };
        after = *last;
        let mut tx = conn.begin().await?;
        lock(&mut tx, source_id).await?;
        all += expire(&mut tx, source_id, &blocks, Which::Missing(arrival), now).await?;
        tx.commit().await?;
    }
}

/// Takes a source and all of its series out of the newest state, in the caller's transaction; says how many series that were.
pub(super) async fn source(conn: &mut PgConnection, source_id: i32, now: Timestamp) -> Result<u64, sqlx::Error> {
    lock(conn, source_id).await?;
    let blocks =
        sqlx::query_scalar!("SELECT id FROM latest_blocks WHERE source_id = $1 ORDER BY id", source_id).fetch_all(&mut *conn).await?;
    let series = expire(conn, source_id, &blocks, Which::All, now).await?;
    sqlx::query!(
        "UPDATE sources SET forgotten_at = $2, mark_reporting_millis = '{}', mark_arrivals = '{}' WHERE id = $1",
        source_id,
        now as Timestamp,
    )
    .execute(conn)
    .await?;
    Ok(series)
}

/// The id of a source that is in the newest state, locked until the end of the transaction.
pub(super) async fn find(conn: &mut PgConnection, source: &Source) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar!("SELECT id FROM sources WHERE name = $1 AND forgotten_at IS NULL FOR NO KEY UPDATE", source.as_str())
        .fetch_optional(conn)
        .await
}

async fn lock(conn: &mut PgConnection, source_id: i32) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT id FROM sources WHERE id = $1 FOR NO KEY UPDATE", source_id).fetch_optional(&mut *conn).await?;
    sqlx::query!("SELECT series FROM series_total FOR NO KEY UPDATE").fetch_one(conn).await?;
    Ok(())
}

/// A row of latest_blocks, as far as it is needed here.
struct Block {
    id: i32,
    used: u64,
    arrival: i64,
    arrivals: Vec<i64>,
}

impl Block {
    /// The slots that are to go, a bit each.
    fn leaving(&self, which: Which) -> u64 {
        let Which::Missing(arrival) = which else { return self.used };
        let gone = (0..64_usize).filter(|slot| self.arrivals.get(*slot).copied().unwrap_or(self.arrival) <= arrival);
        gone.fold(0, |bits, slot| bits | 1 << slot) & self.used
    }
}

/// Expires series in these blocks, under the locks of the source and of the count of all series.
async fn expire(conn: &mut PgConnection, source_id: i32, blocks: &[i32], which: Which, now: Timestamp) -> Result<u64, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, used, arrival, arrivals FROM latest_blocks WHERE id = ANY($1) AND source_id = $2 ORDER BY id FOR NO KEY UPDATE",
        blocks,
        source_id,
    )
    .fetch_all(&mut *conn)
    .await?;
    let (mut changed, mut left, mut series) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let block = Block { id: row.id, used: row.used.cast_unsigned(), arrival: row.arrival, arrivals: row.arrivals };
        let leaving = block.leaving(which);
        if leaving != 0 {
            changed.push(block.id);
            left.push((block.used & !leaving).cast_signed());
            series.extend((0..64).filter(|slot| leaving >> slot & 1 == 1).map(|slot| block.id * 64 + slot));
        }
    }
    if series.is_empty() {
        return Ok(0);
    }
    // Before the slots are given up: the view shows live series only.
    sqlx::query!(
        "INSERT INTO retired_totals AS retired (identity, metric, total)
        SELECT identity, metric, total FROM latest
        WHERE series_id = ANY($1) AND source_id = $2 AND kind = 1
            AND (SELECT cardinality(terms) FROM series WHERE series.id = series_id) = 1
        ORDER BY identity
        ON CONFLICT (identity) DO UPDATE
            SET total = least(retired.total::numeric + excluded.total, 9223372036854775807)::bigint",
        &series,
        source_id,
    )
    .execute(&mut *conn)
    .await?;
    // Before the slots are given up, too: they tell when each series was reported last. A sample may be later than its slot says, by as much as it may be ahead
    // of its arrival, but not later than `ahead_until`. That alone says too little: it is of all series of the row.
    let statement = "INSERT INTO expired_series (series_id, at, reported_at)
        SELECT gone.id, $2,
            CASE WHEN block.ahead_until > slot.at THEN least(block.ahead_until, slot.at + $3::bigint * interval '1 millisecond') ELSE slot.at END
        FROM unnest($1::integer[]) AS gone (id) LEFT JOIN latest_blocks AS block ON block.id = gone.id / 64
        CROSS JOIN LATERAL (SELECT coalesce(block.ats[gone.id % 64 + 1], block.at) AS at) AS slot";
    sqlx::query(statement).bind(&series).bind(now).bind(MAX_AHEAD_MILLIS.cast_signed()).execute(&mut *conn).await?;
    sqlx::query!(
        "UPDATE latest_blocks AS block SET used = fresh.used FROM unnest($1::integer[], $2::bigint[]) AS fresh (id, used) WHERE block.id = fresh.id",
        &changed,
        &left,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM latest_blocks WHERE id = ANY($1) AND used = 0", &changed).execute(&mut *conn).await?;
    let count = i32::try_from(series.len()).unwrap_or(i32::MAX);
    sqlx::query!("UPDATE sources SET series = series - $2 WHERE id = $1", source_id, count).execute(&mut *conn).await?;
    sqlx::query!("UPDATE series_total SET series = series - $1", i64::from(count)).execute(conn).await?;
    Ok(series.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_used_slots_leave_and_only_old_ones() {
        let mut block = Block { id: 1, used: 0b1011, arrival: 7, arrivals: Vec::new() };
        assert_eq!(block.leaving(Which::Missing(6)), 0);
        assert_eq!(block.leaving(Which::Missing(7)), 0b1011);
        block.arrivals = vec![0; 64];
        (block.arrivals[0], block.arrivals[1], block.arrivals[3]) = (5, 7, 6);
        assert_eq!(block.leaving(Which::Missing(6)), 0b1001);
        assert_eq!(block.leaving(Which::All), 0b1011);
    }
}
