//! What exports read: lists of series, and the samples of some of them.

use std::collections::HashMap;

use golectra_promql::Reservation;
use sqlx::PgConnection;

use super::search::{self, FoundSeries, Recency};
use super::{Collected, failed, labels};
use crate::history::labels as names;
use crate::store::history::{ExportedSeries, HistoryError, ListedSeries, ListedSource, SeriesFilter, TimeRange};
use crate::store::postgres::partitions::{CHUNKS, FRAMES};
use crate::store::postgres::timestamp::Timestamp;

/// See [`crate::store::History::list`].
pub(super) async fn list(
    conn: &mut PgConnection,
    filter: &SeriesFilter,
    reservation: &mut Reservation,
) -> Result<Vec<ListedSource>, HistoryError> {
    let Some(range) = range_with_samples(conn, filter.range).await.map_err(failed)? else { return Ok(Vec::new()) };
    let mut series: Vec<(i32, ListedSeries)> = Vec::new();
    let sources = search::sources(conn).await?;
    let mut charged_bytes = 0;
    for matchers in labels::lists(filter) {
        search::each(conn, &sources, matchers, range, Recency::NotExpired, |found| {
            // Twice: sorted by source they are put into lists of their own.
            let bytes = 2 * size_of::<(i32, ListedSeries)>();
            reservation.grow(bytes)?;
            charged_bytes += bytes;
            series.push((found.source_id, ListedSeries { number: number(found.id), beside_gauge: found.beside_gauge }));
            Ok(())
        })
        .await?;
    }
    series.sort_unstable();
    series.dedup_by_key(|(source, series)| (*source, series.number));
    let mut listed: Vec<ListedSource> = Vec::new();
    for of_source in series.chunk_by(|one, other| one.0 == other.0) {
        let Some(source) = of_source.first().and_then(|(source, _)| sources.get(source)) else { continue };
        reservation.grow(size_of::<ListedSource>() + source.len())?;
        listed.push(ListedSource { source: source.clone(), series: of_source.iter().map(|(_, series)| *series).collect(), range });
    }
    drop(series);
    // Only the lists stay while the export goes on.
    let kept_bytes: usize = listed.iter().map(|of_source| size_of_val(of_source.series.as_slice())).sum();
    reservation.shrink(charged_bytes - kept_bytes);
    listed.sort_unstable_by(|one, other| one.source.cmp(&other.source));
    Ok(listed)
}

/// Ids of series are never negative.
fn number(series_id: i32) -> u32 {
    series_id.cast_unsigned()
}

/// The part of a range in which there are samples, as partitions tell.
async fn range_with_samples(conn: &mut PgConnection, range: TimeRange) -> Result<Option<TimeRange>, sqlx::Error> {
    let (chunks, frames) = (CHUNKS.existing(conn).await?, FRAMES.existing(conn).await?);
    let starts = [chunks.first().map(|slot| CHUNKS.start_of(*slot)), frames.first().map(|slot| FRAMES.start_of(*slot))];
    let ends = [chunks.last().map(|slot| CHUNKS.end_of(*slot)), frames.last().map(|slot| FRAMES.end_of(*slot))];
    let Some((start, end)) = starts.into_iter().flatten().min().zip(ends.into_iter().flatten().max()) else { return Ok(None) };
    // A frame may have samples that are older than it.
    let statement = "SELECT min(oldest_at) FROM frames WHERE oldest_at < $1";
    let older: Option<Timestamp> = sqlx::query_scalar(statement).bind(Timestamp(start)).fetch_one(conn).await?;
    let millis = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    let start_ms = range.start_ms.max(millis(older.map_or(start, |older| older.0)));
    let end_ms = range.end_ms.min(millis(end) - 1);
    Ok((start_ms <= end_ms).then_some(TimeRange { start_ms, end_ms }))
}

/// Those of these series that are still there, in order.
pub(super) async fn find(conn: &mut PgConnection, source: &str, series: &[ListedSeries]) -> Result<Vec<FoundSeries>, HistoryError> {
    let ids: Vec<i32> = series.iter().map(|series| series.number.cast_signed()).collect();
    let statement = "SELECT id, source_id, kind, metric FROM series WHERE id = ANY($1) ORDER BY id";
    let rows: Vec<(i32, i32, i16, String)> = sqlx::query_as(statement).bind(&ids).fetch_all(conn).await.map_err(failed)?;
    let beside_gauge: HashMap<u32, bool> = series.iter().map(|series| (series.number, series.beside_gauge)).collect();
    let one = |(id, source_id, kind, metric): (i32, i32, i16, String)| {
        let beside_gauge = beside_gauge.get(&number(id)).copied().unwrap_or_default();
        let labels = names::of_series(source, &metric, beside_gauge);
        FoundSeries { id, source_id, is_counter: kind != 0, beside_gauge, expired_ms: None, labels }
    };
    Ok(rows.into_iter().map(one).collect())
}

/// A series whose samples are collected; none where there are none.
pub(super) fn exported(collected: Collected) -> Option<ExportedSeries> {
    let samples = Box::new(collected.samples.build()?);
    Some(ExportedSeries { number: number(collected.found.id), labels: collected.found.labels, samples })
}
