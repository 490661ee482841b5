//! What is kept of samples beyond them: buckets of 5 minutes and of an hour, of 64 series and a day in a row.

use golectra_chunks::rollup::{CounterBucket, GaugeBucket};

use super::partitions::{PartitionedTable, ROLLUPS_1H, ROLLUPS_5M};
use super::sealer::WINDOW_MILLIS;
use crate::store::history::rollups::DAY_MILLIS;

pub(super) use golectra_chunks::rollup::Resolution;

/// How many windows a day has.
pub(super) const WINDOWS: usize = 12;

/// The table of a resolution.
pub(super) const fn table_of(resolution: Resolution) -> PartitionedTable {
    match resolution {
        Resolution::FiveMinutes => ROLLUPS_5M,
        Resolution::OneHour => ROLLUPS_1H,
    }
}

/// Which of its day's windows a time is in.
pub(super) fn window_index(at_millis: i64) -> usize {
    usize::try_from(at_millis.rem_euclid(DAY_MILLIS) / WINDOW_MILLIS).unwrap_or(0)
}

/// A counter's totals, from its buckets and its total at the start of each window of their day.
pub(super) fn totals_of(buckets: &[CounterBucket], base_of: impl Fn(usize) -> i64, totals: &mut Vec<GaugeBucket>) {
    for window in buckets.chunk_by(|one, other| window_index(one.first_ms) == window_index(other.first_ms)) {
        let mut total = base_of(window_index(window[0].first_ms));
        for bucket in window {
            totals.push(bucket.totals(total));
            total = total.wrapping_add(bucket.delta);
        }
    }
}
