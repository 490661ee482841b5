use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const RESOLUTIONS: [Resolution; 2] = [Resolution::FiveMinutes, Resolution::OneHour];

fn gauge(timestamps_ms: &[i64], values: &[f64], resolution: Resolution) -> Vec<GaugeBucket> {
    let mut buckets = Vec::new();
    roll_up_gauge(timestamps_ms, values, resolution, &mut buckets);
    buckets
}

#[test]
fn a_bucket_has_its_start_and_not_its_end() {
    let buckets = gauge(&[-1, 0, 299_999, 300_000], &[1.0, 2.0, 3.0, 4.0], Resolution::FiveMinutes);
    assert_eq!(
        buckets.iter().map(|bucket| (bucket.first_ms, bucket.last_ms)).collect::<Vec<_>>(),
        [(-1, -1), (0, 299_999), (300_000, 300_000)]
    );
    assert_eq!(Resolution::OneHour.bucket_start_ms(i64::MIN), i64::MIN);
}

#[test]
fn stale_markers_are_not_counted_and_other_nans_are() {
    let stale = f64::from_bits(STALE_MARKER);
    assert_eq!(gauge(&[1, 2], &[stale, stale], Resolution::OneHour), []);
    let buckets = gauge(&[1, 2, 3, 4], &[f64::NAN, 5.0, stale, 3.0], Resolution::OneHour);
    let [bucket] = buckets[..] else { panic!("{buckets:?}") };
    assert_eq!((bucket.count, bucket.min, bucket.max, bucket.last), (3, 3.0, 5.0, 3.0));
    assert!(bucket.sum.is_nan());
}

#[test]
fn sums_have_no_rounding_errors_of_their_own() {
    let [bucket] = gauge(&[1, 2, 3], &[1e16, 1.0, -1e16], Resolution::OneHour)[..] else { panic!("one bucket") };
    assert_eq!(bucket.sum.to_bits(), 1.0_f64.to_bits());
    let [bucket] = gauge(&[1, 2], &[f64::MAX, f64::MAX], Resolution::OneHour)[..] else { panic!("one bucket") };
    assert_eq!(bucket.sum.to_bits(), f64::INFINITY.to_bits());
}

#[test]
fn a_bucket_knows_its_ends_and_what_resets_took() {
    let times: Vec<i64> = (0..10).map(|index| index * 60_000).collect();
    // Reset within the first bucket, and between it and the second.
    let values = [10.0, 20.0, 30.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 9.0];
    let buckets = gauge(&times, &values, Resolution::FiveMinutes);
    let ends: Vec<_> = buckets.iter().map(|bucket| (bucket.first_ms, bucket.first, bucket.last_ms, bucket.last, bucket.lost)).collect();
    assert_eq!(ends, [(0, 10.0, 240_000, 6.0, 30.0), (300_000, 1.0, 540_000, 9.0, 0.0)]);
    let mut hour = Vec::new();
    roll_up_buckets(&buckets, Resolution::OneHour, &mut hour);
    assert_eq!(bits(&hour), bits(&gauge(&times, &values, Resolution::OneHour)));
    assert_eq!(hour[0].lost.to_bits(), 36.0_f64.to_bits());
}

/// What buckets of the same length come to, as of one series.
fn joined(mut buckets: Vec<GaugeBucket>, resolution: Resolution) -> Vec<GaugeBucket> {
    buckets.sort_by_key(|bucket| (bucket.first_ms, bucket.last_ms));
    let mut joined = Vec::new();
    roll_up_buckets(&buckets, resolution, &mut joined);
    joined
}

#[test]
fn buckets_of_two_that_report_the_same_join_as_their_samples_do() {
    // Reset within a bucket of five minutes, and where one begins.
    let value = |minute: i32| match minute {
        0..8 => f64::from(100 + minute),
        8..15 => f64::from(minute - 8),
        _ => f64::from(minute - 15),
    };
    let reporter =
        |offset_ms: i64| -> (Vec<i64>, Vec<f64>) { (0..40).map(|minute| (i64::from(minute) * 60_000 + offset_ms, value(minute))).unzip() };
    let (one, other) = (reporter(10_000), reporter(40_000));
    let mut times = [one.0.as_slice(), other.0.as_slice()].concat();
    let mut values = [one.1.as_slice(), other.1.as_slice()].concat();
    crate::merge_gauge(&mut times, &mut values);
    for resolution in RESOLUTIONS {
        let buckets = [gauge(&one.0, &one.1, resolution), gauge(&other.0, &other.1, resolution)].concat();
        assert_eq!(bits(&joined(buckets, resolution)), bits(&gauge(&times, &values, resolution)));
    }
}

#[test]
fn only_what_begins_after_the_end_of_another_was_reset() {
    let join = |one: (&[i64], &[f64]), other: (&[i64], &[f64])| {
        let resolution = Resolution::FiveMinutes;
        let joined = joined([gauge(one.0, one.1, resolution), gauge(other.0, other.1, resolution)].concat(), resolution);
        let [bucket] = joined[..] else { panic!("{joined:?}") };
        (
            bucket.first_ms,
            bucket.last_ms,
            bucket.count,
            [bucket.sum, bucket.min, bucket.max, bucket.first, bucket.last, bucket.lost].map(f64::to_bits),
        )
    };
    // One after the other.
    let found = join((&[1, 2], &[10.0, 20.0]), (&[3, 4], &[3.0, 4.0]));
    assert_eq!(found, (1, 4, 4, [37.0, 3.0, 20.0, 10.0, 4.0, 20.0].map(f64::to_bits)));
    // One within the other.
    let found = join((&[1, 9], &[10.0, 30.0]), (&[3, 4], &[20.0, 25.0]));
    assert_eq!(found, (1, 9, 4, [85.0, 10.0, 30.0, 10.0, 30.0, 0.0].map(f64::to_bits)));
    // One has no sample before the reset.
    let found = join((&[1, 9], &[10.0, 4.0]), (&[3, 11], &[1.0, 5.0]));
    assert_eq!(found, (1, 11, 4, [20.0, 1.0, 10.0, 10.0, 5.0, 10.0].map(f64::to_bits)));
    // One sample each, at the same time.
    let found = join((&[1], &[2.0]), (&[1], &[4.0]));
    assert_eq!(found, (1, 1, 2, [6.0, 2.0, 4.0, 2.0, 4.0, 0.0].map(f64::to_bits)));
}

#[test]
fn a_counters_totals_follow_from_the_total_before() {
    let mut buckets = Vec::new();
    roll_up_counter(&[1_000, 2_000, 3_000, 300_000], &[5, 0, 7, i64::MAX], Resolution::FiveMinutes, &mut buckets);
    let totals = gauge(&[1_000, 2_000, 3_000], &[105.0, 105.0, 112.0], Resolution::FiveMinutes);
    assert_eq!(buckets[0].totals(100), totals[0]);
    assert_eq!((buckets[1].count, buckets[1].delta, buckets[1].sum), (1, i64::MAX, i64::MAX));
}

/// Strictly increasing times over some buckets.
fn times() -> impl Strategy<Value = Vec<i64>> {
    vec(prop_oneof![1..20_000_i64, 200_000..400_000_i64], 1..200).prop_map(|steps| {
        let sum = |time: &mut i64, step| {
            *time += step;
            Some(*time)
        };
        steps.into_iter().scan(1_764_000_000_000, sum).collect()
    })
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        20 => (-500..500_i32).prop_map(|hundredths| f64::from(hundredths) / 100.0),
        2 => any::<f64>(),
        1 => Just(f64::from_bits(STALE_MARKER)),
        1 => Just(f64::NAN),
    ]
}

/// A counter that is reset now and then.
fn counter() -> impl Strategy<Value = (Vec<i64>, Vec<f64>)> {
    times().prop_flat_map(|times| {
        let steps = vec(prop_oneof![30 => (0..100_i32).prop_map(Some), 1 => Just(None)], times.len());
        (Just(times), steps).prop_map(|(times, steps)| {
            let mut total = 0.0;
            let values = steps.into_iter().map(|step| {
                total = step.map_or(0.0, |step| total + f64::from(step));
                total
            });
            (times, values.collect())
        })
    })
}

fn bits(buckets: &[GaugeBucket]) -> Vec<(i64, i64, u32, [u64; 6])> {
    let of = |bucket: &GaugeBucket| {
        let values = [bucket.sum, bucket.min, bucket.max, bucket.first, bucket.last, bucket.lost].map(f64::to_bits);
        (bucket.first_ms, bucket.last_ms, bucket.count, values)
    };
    buckets.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_order_of_arrival_does_not_matter(
        samples in times().prop_flat_map(|times| (Just(times.clone()), vec(value(), times.len()), vec(any::<u64>(), times.len()))),
    ) {
        let (times, values, ranks) = samples;
        let mut arrival: Vec<usize> = (0..times.len()).collect();
        arrival.sort_by_key(|index| ranks[*index]);
        let mut late_times: Vec<i64> = arrival.iter().map(|index| times[*index]).collect();
        let mut late_values: Vec<f64> = arrival.iter().map(|index| values[*index]).collect();
        crate::merge_gauge(&mut late_times, &mut late_values);
        let deltas: Vec<i64> = ranks.iter().map(|rank| rank.cast_signed()).collect();
        let mut counter_times: Vec<i64> = arrival.iter().map(|index| times[*index]).collect();
        let mut late_deltas: Vec<i64> = arrival.iter().map(|index| deltas[*index]).collect();
        crate::merge_counter(&mut counter_times, &mut late_deltas);
        for resolution in RESOLUTIONS {
            prop_assert_eq!(bits(&gauge(&late_times, &late_values, resolution)), bits(&gauge(&times, &values, resolution)));
            let (mut late, mut in_order) = (Vec::new(), Vec::new());
            roll_up_counter(&counter_times, &late_deltas, resolution, &mut late);
            roll_up_counter(&times, &deltas, resolution, &mut in_order);
            prop_assert_eq!(late, in_order);
        }
    }

    #[test]
    fn a_bucket_depends_on_its_own_samples_only(
        (times, values) in times().prop_flat_map(|times| (Just(times.clone()), vec(value(), times.len()))),
        cut: prop::sample::Index,
    ) {
        for resolution in RESOLUTIONS {
            let boundary = resolution.bucket_start_ms(times[cut.index(times.len())]);
            let cut = times.partition_point(|time| *time < boundary);
            let mut parts = gauge(&times[..cut], &values[..cut], resolution);
            parts.extend(gauge(&times[cut..], &values[cut..], resolution));
            prop_assert_eq!(bits(&parts), bits(&gauge(&times, &values, resolution)));
        }
    }

    #[test]
    fn buckets_say_what_their_samples_say((times, values) in counter()) {
        let five_minutes = gauge(&times, &values, Resolution::FiveMinutes);
        let mut hours = Vec::new();
        roll_up_buckets(&five_minutes, Resolution::OneHour, &mut hours);
        for (resolution, buckets) in [(Resolution::FiveMinutes, &five_minutes), (Resolution::OneHour, &hours)] {
            let mut samples: Vec<(i64, f64)> = times.iter().copied().zip(values.iter().copied()).collect();
            for bucket in buckets {
                let start_ms = resolution.bucket_start_ms(bucket.first_ms);
                let own: Vec<(i64, f64)> = samples.extract_if(.., |sample| resolution.bucket_start_ms(sample.0) == start_ms).collect();
                let lost: f64 = own.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1).sum();
                let expected = GaugeBucket {
                    first_ms: own[0].0,
                    last_ms: own[own.len() - 1].0,
                    count: u32::try_from(own.len()).unwrap(),
                    // Whole numbers: every order of addition is exact.
                    sum: own.iter().map(|sample| sample.1).sum(),
                    min: own.iter().map(|sample| sample.1).fold(f64::INFINITY, f64::min),
                    max: own.iter().map(|sample| sample.1).fold(f64::NEG_INFINITY, f64::max),
                    first: own[0].1,
                    last: own[own.len() - 1].1,
                    lost,
                };
                prop_assert_eq!(bucket, &expected);
            }
            prop_assert_eq!(samples, []);
        }
    }

    #[test]
    fn hours_of_a_counter_are_the_same_from_samples_and_from_shorter_buckets(
        (times, deltas) in times().prop_flat_map(|times| {
            let deltas = vec(prop_oneof![-1_000..1_000_i64, (-(1_i64 << 40)..1 << 40)], times.len());
            (Just(times), deltas)
        }),
        before in prop_oneof![0..1_000_i64, any::<i64>()],
    ) {
        let (mut shorter, mut joined, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        roll_up_counter(&times, &deltas, Resolution::FiveMinutes, &mut shorter);
        roll_up_counter_buckets(&shorter, Resolution::OneHour, &mut joined);
        roll_up_counter(&times, &deltas, Resolution::OneHour, &mut expected);
        prop_assert_eq!(&joined, &expected);
        // And what one total before them makes of them is what it makes of the samples.
        let mut total = before;
        for bucket in &joined {
            let own = times.iter().zip(&deltas).filter(|(at, _)| (bucket.first_ms..=bucket.last_ms).contains(*at));
            let mut sum = 0_i128;
            let first = total.wrapping_add(bucket.first);
            let totals = bucket.totals(total);
            let start = total;
            let mut reached = 0_i64;
            for (_, delta) in own {
                reached += delta;
                sum += i128::from(start) + i128::from(reached);
                total = total.wrapping_add(*delta);
            }
            #[expect(clippy::cast_precision_loss, reason = "PromQL computes with doubles")]
            let expected = (sum as f64, first as f64, total as f64);
            prop_assert_eq!((totals.sum, totals.first, totals.last), expected);
        }
    }

    #[test]
    fn rollups_survive_their_coding(
        gauges in vec(times().prop_flat_map(|times| (Just(times.clone()), vec(value(), times.len()))), 0..4),
        counters in vec(counter(), 0..4),
    ) {
        for resolution in RESOLUTIONS {
            let rollups: Vec<Vec<GaugeBucket>> = gauges.iter().chain(&counters).map(|(times, values)| gauge(times, values, resolution)).collect();
            let deltas: Vec<Vec<CounterBucket>> = gauges.iter().map(|(times, values)| {
                let mut buckets = Vec::new();
                roll_up_counter(times, &values.iter().map(|value| value.to_bits().cast_signed()).collect::<Vec<_>>(), resolution, &mut buckets);
                buckets
            }).collect();
            let columns: Vec<RollupColumn<'_>> =
                rollups.iter().map(|buckets| RollupColumn::Gauge(buckets)).chain(deltas.iter().map(|buckets| RollupColumn::Counter(buckets))).collect();
            let block = encode_rollups(&columns);
            let times = crate::Times::decode(&block.times).unwrap();
            for (index, column) in columns.iter().enumerate() {
                match column {
                    RollupColumn::Gauge(expected) => {
                        let mut buckets = Vec::new();
                        decode_gauge_rollup(&times, block.column(index), &mut buckets).unwrap();
                        prop_assert_eq!(bits(&buckets), bits(expected));
                    }
                    RollupColumn::Counter(expected) => {
                        let mut buckets = Vec::new();
                        decode_counter_rollup(&times, block.column(index), &mut buckets).unwrap();
                        prop_assert_eq!(&buckets, expected);
                    }
                }
            }
        }
    }
}
