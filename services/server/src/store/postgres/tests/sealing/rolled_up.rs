//! Rollups hold what the folded samples come to, to the bit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use golectra_chunks::Times;
use golectra_chunks::rollup::{
    CounterBucket, GaugeBucket, Resolution, decode_counter_rollup, decode_gauge_rollup, roll_up_buckets, roll_up_counter, roll_up_gauge,
};
use golectra_promql::MemoryBudget;
use golectra_promql::store::{Bucket, Hints, Selection};
use sqlx::PgConnection;

use super::super::super::sealer::WINDOW_MILLIS;
use super::super::super::timestamp::Timestamp;
use super::reading::{History as Expected, SeriesName};
use super::*;
use crate::history::labels;
use crate::store::History;
use crate::store::history::rollups::DAY_MILLIS;

type Bits = (i64, i64, u32, [u64; 6]);

fn bits(bucket: &GaugeBucket) -> Bits {
    let values = [bucket.sum, bucket.min, bucket.max, bucket.first, bucket.last, bucket.lost].map(f64::to_bits);
    (bucket.first_ms, bucket.last_ms, bucket.count, values)
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap()
}

fn column<'a>(data: &'a [u8], offsets: &[i32], slot: usize) -> &'a [u8] {
    match offsets.get(slot..slot + 2) {
        Some(ends) => &data[usize::try_from(ends[0]).unwrap()..usize::try_from(ends[1]).unwrap()],
        None => &[],
    }
}

/// A counter's running total at the start of each bucket of an order.
fn totals(buckets: &[CounterBucket], mut total: i64) -> Vec<GaugeBucket> {
    let of = |bucket: &CounterBucket| {
        let totals = bucket.totals(total);
        total = total.wrapping_add(bucket.delta);
        totals
    };
    buckets.iter().map(of).collect()
}

type Row5m = (i32, Timestamp, i16, Vec<u8>, Vec<i32>, Vec<u8>, Option<Vec<i64>>);
type Row1h = (i32, Timestamp, Vec<u8>, Vec<i32>, Vec<u8>, Vec<i32>, Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>);

/// Asserts that both tables say of every window that is folded what its samples come to. `history` is what is sealed.
pub(super) async fn check_tables(conn: &mut PgConnection, series: &HashMap<i32, SeriesName>, history: &Expected) {
    let parts: Vec<(i32, Timestamp, i16)> =
        sqlx::query_as("SELECT block_id, window_start, max(part) FROM chunks GROUP BY 1, 2").fetch_all(&mut *conn).await.unwrap();
    let folded: BTreeSet<(i32, i64)> = parts.into_iter().filter(|row| row.2 == 0).map(|row| (row.0, millis(row.1))).collect();
    let rows: Vec<Row5m> = sqlx::query_as("SELECT block_id, day_start, windows, times, offsets, data, bases FROM rollups_5m")
        .fetch_all(&mut *conn)
        .await
        .unwrap();
    let five_minutes: BTreeMap<(i32, i64), Row5m> = rows.into_iter().map(|row| ((row.0, millis(row.1)), row)).collect();
    let rows: Vec<Row1h> =
        sqlx::query_as("SELECT block_id, day_start, times, offsets, data, counts, sums, mins, maxs, lasts FROM rollups_1h")
            .fetch_all(conn)
            .await
            .unwrap();
    let hours: BTreeMap<(i32, i64), Row1h> = rows.into_iter().map(|row| ((row.0, millis(row.1)), row)).collect();
    assert_eq!(five_minutes.keys().collect::<Vec<_>>(), hours.keys().collect::<Vec<_>>());
    for &(block, window) in &folded {
        let day = window - window.rem_euclid(DAY_MILLIS);
        let (row, hours) = (&five_minutes[&(block, day)], &hours[&(block, day)]);
        let index = usize::try_from((window - day) / WINDOW_MILLIS).unwrap();
        assert_eq!(row.2 >> index & 1, 1, "the window is in it");
        let (times, hour_times) = (Times::decode(&row.3).unwrap(), Times::decode(&hours.2).unwrap());
        for slot in 0..64 {
            let Some(name) = series.get(&(block * 64 + i32::try_from(slot).unwrap())) else { continue };
            let samples = history.get(name).into_iter().flatten();
            let own: Vec<(i64, u64)> =
                samples.filter(|sample| (window..window + WINDOW_MILLIS).contains(sample.0)).map(|(at, bits)| (*at, *bits)).collect();
            let ats: Vec<i64> = own.iter().map(|sample| sample.0).collect();
            let in_window = |first_ms: i64| (window..window + WINDOW_MILLIS).contains(&first_ms);
            let coded = column(&row.5, &row.4, slot);
            let of_hours: Vec<GaugeBucket> = if name.is_counter {
                let mut expected = Vec::new();
                let deltas: Vec<i64> = own.iter().map(|sample| sample.1.cast_signed()).collect();
                roll_up_counter(&ats, &deltas, Resolution::FiveMinutes, &mut expected);
                let mut stored = Vec::new();
                decode_counter_rollup(&times, coded, &mut stored).unwrap();
                stored.retain(|bucket: &CounterBucket| in_window(bucket.first_ms));
                assert_eq!(stored, expected, "{name:?} at {window}");
                let before = history.get(name).into_iter().flatten().filter(|sample| *sample.0 < window);
                let total = before.fold(0_i64, |sum, (_, delta)| sum.wrapping_add(delta.cast_signed()));
                if !expected.is_empty() {
                    assert_eq!(row.6.as_deref().unwrap_or_default()[slot * 12 + index], total, "{name:?} at {window}");
                }
                let mut hours = Vec::new();
                roll_up_counter(&ats, &deltas, Resolution::OneHour, &mut hours);
                totals(&hours, total)
            } else {
                let mut expected = Vec::new();
                let values: Vec<f64> = own.iter().map(|sample| f64::from_bits(sample.1)).collect();
                roll_up_gauge(&ats, &values, Resolution::FiveMinutes, &mut expected);
                let mut stored = Vec::new();
                decode_gauge_rollup(&times, coded, &mut stored).unwrap();
                stored.retain(|bucket: &GaugeBucket| in_window(bucket.first_ms));
                assert_eq!(
                    stored.iter().map(bits).collect::<Vec<_>>(),
                    expected.iter().map(bits).collect::<Vec<_>>(),
                    "{name:?} at {window}"
                );
                let mut hours = Vec::new();
                roll_up_buckets(&expected, Resolution::OneHour, &mut hours);
                hours
            };
            let mut stored = Vec::new();
            decode_gauge_rollup(&hour_times, column(&hours.4, &hours.3, slot), &mut stored).unwrap();
            stored.retain(|bucket: &GaugeBucket| in_window(bucket.first_ms));
            assert_eq!(stored.iter().map(bits).collect::<Vec<_>>(), of_hours.iter().map(bits).collect::<Vec<_>>(), "{name:?} at {window}");
            for hour in [2 * index, 2 * index + 1] {
                let place = 24 * slot + hour;
                let start = day + i64::try_from(hour).unwrap() * Resolution::OneHour.bucket_ms();
                let bucket = of_hours.iter().find(|bucket| Resolution::OneHour.bucket_start_ms(bucket.first_ms) == start);
                let count = hours.5.get(place).copied().unwrap_or(0);
                assert_eq!(u32::try_from(count).unwrap(), bucket.map_or(0, |bucket| bucket.count));
                if let Some(bucket) = bucket {
                    let stored = [hours.6[place], hours.7[place], hours.8[place], hours.9[place]].map(f64::to_bits);
                    assert_eq!(stored, [bucket.sum, bucket.min, bucket.max, bucket.last].map(f64::to_bits));
                }
            }
        }
    }
}

/// Asserts that a query sees the rollups of everything up to a time, whatever of it is sealed or folded.
pub(super) async fn check_queries(store: &PostgresStore, expected: &Expected, end_ms: i64) {
    let first = expected.values().filter_map(|samples| samples.keys().next()).min().copied().unwrap_or(0);
    let last = expected.values().filter_map(|samples| samples.keys().next_back()).max().copied().unwrap_or(0);
    let before = |days: i64| (first - days * DAY_MILLIS).max(0);
    // The range that is selected first begins where a bucket does, and so the window just before.
    let boundary = Resolution::FiveMinutes.bucket_start_ms(i64::midpoint(first, last));
    let cases = [
        (Resolution::FiveMinutes, before(10), end_ms.max(first)),
        (Resolution::OneHour, before(70), end_ms.max(first)),
        (Resolution::FiveMinutes, boundary, end_ms.max(boundary + 4 * DAY_MILLIS)),
    ];
    for (resolution, start_ms, end_ms) in cases {
        let hints = Hints { rollup_span_ms: Some(DAY_MILLIS), range_ms: DAY_MILLIS, steps: 1, ..Hints::default() };
        let selection = Selection { matchers: [].into(), start_ms, end_ms, hints };
        let mut reservation = MemoryBudget::new(1 << 30).reserve(1 << 30);
        let mut read: BTreeMap<String, Vec<Bucket>> = BTreeMap::new();
        for series in store.select(&selection, 1_000, &mut reservation).await.unwrap() {
            let rollup = series.samples.rollup().expect("a long time is answered from rollups");
            assert_eq!(rollup.bucket_ms(), resolution.bucket_ms());
            let mut buckets = Vec::new();
            rollup.read(&mut buckets).unwrap();
            if !buckets.is_empty() {
                read.insert(series.labels.to_string(), buckets);
            }
        }
        let mut wanted: BTreeMap<String, (bool, Vec<GaugeBucket>)> = BTreeMap::new();
        for (name, samples) in expected {
            let (ats, bits): (Vec<i64>, Vec<u64>) = samples.iter().filter(|sample| *sample.0 <= selection.end_ms).unzip();
            let mut total = 0_i64;
            let as_read = bits.iter().map(|bits| {
                total = total.wrapping_add(bits.cast_signed());
                #[expect(clippy::cast_precision_loss, reason = "as PromQL sees it")]
                if name.is_counter { total as f64 } else { f64::from_bits(*bits) }
            });
            let values: Vec<f64> = as_read.collect();
            let (mut shorter, mut buckets) = (Vec::new(), Vec::new());
            roll_up_gauge(&ats, &values, Resolution::FiveMinutes, &mut shorter);
            roll_up_buckets(&shorter, resolution, &mut buckets);
            buckets.retain(|bucket| bucket.first_ms >= resolution.bucket_start_ms(start_ms - 1));
            if !buckets.is_empty() {
                wanted.insert(labels::of_series(&name.source, &name.metric, false).to_string(), (name.is_counter, buckets));
            }
        }
        assert_eq!(read.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (labels, buckets) in read {
            let (is_counter, wanted) = &wanted[&labels];
            assert_eq!(buckets.len(), wanted.len(), "{labels}");
            for (found, wanted) in buckets.iter().zip(wanted) {
                let Bucket { first_ms, last_ms, count, sum, min, max, first, last, lost } = *found;
                let found = GaugeBucket { first_ms, last_ms, count, sum, min, max, first, last, lost };
                assert_eq!((first_ms, last_ms, count), (wanted.first_ms, wanted.last_ms, wanted.count), "{labels}");
                if *is_counter {
                    for (found, wanted) in
                        [(sum, wanted.sum), (min, wanted.min), (max, wanted.max), (first, wanted.first), (last, wanted.last)]
                    {
                        assert!((found - wanted).abs() <= 1e-12 * wanted.abs(), "{labels}: {found} instead of {wanted}");
                    }
                } else {
                    assert_eq!(bits(&found), bits(wanted), "{labels}");
                }
            }
        }
    }
}
