//! Gives new series their ids, by the block: the series of a source stand together, and no two sources share a block.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::store::postgres::writer::context::BLOCK;
use crate::store::postgres::writer::failure::GroupFailure;

/// A source, an id and a kind.
pub(super) type SeriesKey<'a> = (i32, &'a str, i16);

/// Ids for these series. `next` has the next id of each source's last block and is moved on; whoever calls holds the sources.
/// Counters come first, which keeps the array of totals short where a block holds both.
pub(super) async fn give<'a>(
    conn: &mut PgConnection,
    new: &BTreeSet<SeriesKey<'a>>,
    next: &mut BTreeMap<i32, i32>,
) -> Result<Vec<(i32, SeriesKey<'a>)>, GroupFailure> {
    let mut order: Vec<SeriesKey<'a>> = new.iter().copied().collect();
    order.sort_by_key(|(source_id, name, kind)| (*source_id, Reverse(*kind), *name));
    let needed = order.chunk_by(|one, other| one.0 == other.0).map(|of_source| blocks(next.get(&of_source[0].0), of_source.len())).sum();
    let mut free = take(conn, needed).await?.into_iter();
    let mut given = Vec::with_capacity(order.len());
    for series in order {
        let id = next.entry(series.0).or_default();
        if *id % BLOCK == 0 {
            *id = free.next().and_then(|block| block.checked_mul(BLOCK)).ok_or(GroupFailure::Stale)?;
        }
        given.push((*id, series));
        *id += 1;
    }
    Ok(given)
}

/// How many more blocks a source needs for so many series.
fn blocks(next: Option<&i32>, series: usize) -> usize {
    const SIZE: usize = BLOCK as usize;
    let taken = next.map_or(0, |next| usize::try_from(next % BLOCK).unwrap_or(0));
    series.saturating_sub((SIZE - taken) % SIZE).div_ceil(SIZE)
}

/// Takes blocks that nobody has.
async fn take(conn: &mut PgConnection, blocks: usize) -> Result<Vec<i32>, GroupFailure> {
    if blocks == 0 {
        return Ok(Vec::new());
    }
    let blocks = i32::try_from(blocks).map_err(|_| GroupFailure::Stale)?;
    let taken = sqlx::query_scalar!(r#"SELECT nextval('series_blocks')::integer AS "block!" FROM generate_series(1, $1::integer)"#, blocks);
    Ok(taken.fetch_all(conn).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_filled_before_another_is_taken() {
        for (next, series, needed) in
            [(0, 1, 1), (0, 64, 1), (0, 65, 2), (65, 63, 0), (65, 64, 1), (127, 1, 0), (128, 1, 1), (127, 66, 2), (100, 0, 0), (0, 0, 0)]
        {
            assert_eq!(blocks(Some(&next), series), needed, "{series} series from {next}");
        }
        assert_eq!(blocks(None, 3), 1);
    }
}
