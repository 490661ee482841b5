//! One column from the samples of several parts.

use std::cmp::Ordering;

/// Sorts a gauge's samples by time. They stand in the order in which they arrived; of several at one time the last stays.
///
/// Decode the parts of a series one after the other, in order of arrival, into the same lists and call this.
pub fn merge_gauge(timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) {
    merge(timestamps_ms, values, |_, later| later);
}

/// Sorts a counter's samples by time. Deltas at one time add up, modulo 2^64.
pub fn merge_counter(timestamps_ms: &mut Vec<i64>, deltas: &mut Vec<i64>) {
    merge(timestamps_ms, deltas, i64::wrapping_add);
}

fn merge<T: Copy>(timestamps_ms: &mut Vec<i64>, values: &mut Vec<T>, join: impl Fn(T, T) -> T) {
    assert_eq!(timestamps_ms.len(), values.len(), "each sample has a time and a value");
    if timestamps_ms.is_sorted_by(|before, after| before < after) {
        return;
    }
    let mut samples: Vec<(i64, T)> = timestamps_ms.drain(..).zip(values.drain(..)).collect();
    // Stable, and quick with what consists of sorted runs, as parts do.
    samples.sort_by_key(|(timestamp_ms, _)| *timestamp_ms);
    for (timestamp_ms, value) in samples {
        match (timestamps_ms.last(), values.last_mut()) {
            (Some(last), Some(earlier)) if timestamp_ms.cmp(last) == Ordering::Equal => *earlier = join(*earlier, value),
            _ => {
                timestamps_ms.push(timestamp_ms);
                values.push(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_gauge_wins() {
        let (mut times, mut values) = (vec![10, 20, 30, 20, 5, 20], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        merge_gauge(&mut times, &mut values);
        assert_eq!((times, values), (vec![5, 10, 20, 30], vec![5.0, 1.0, 6.0, 3.0]));
    }

    #[test]
    fn deltas_of_a_counter_add_up() {
        let (mut times, mut deltas) = (vec![10, 20, 10, 20, 20], vec![1, 2, 3, i64::MAX, 1]);
        merge_counter(&mut times, &mut deltas);
        assert_eq!((times, deltas), (vec![10, 20], vec![4, i64::MIN + 2]));
    }

    #[test]
    fn sorted_samples_stay() {
        let (mut times, mut values) = (vec![1, 2, 3], vec![1.0, 2.0, 3.0]);
        merge_gauge(&mut times, &mut values);
        assert_eq!((times, values), (vec![1, 2, 3], vec![1.0, 2.0, 3.0]));
        let (mut times, mut values) = (vec![], vec![]);
        merge_gauge(&mut times, &mut values);
        assert!(times.is_empty());
    }
}
