//! Aggregates over windows that move forward, at a constant cost for each value however much the windows overlap.

use super::windows::Bounds;

/// Calls `emit` for each window with the aggregate of its values, or with `None` if it is empty.
///
/// `lift` makes an aggregate of the value at an index, `join` of two neighbouring aggregates; joining has to be
/// associative. Windows must not move backwards.
///
/// A window is kept in two parts: the aggregates of all ends of the older part, computed once from back to front, and
/// one aggregate of the newer part that grows. When the older part is used up, the newer one becomes the older. Unlike
/// a difference of running sums this never subtracts, so nothing that has left a window can spoil it.
pub(crate) fn sliding<T: Copy>(
    bounds: &[Bounds],
    lift: impl Fn(usize) -> T,
    join: impl Fn(T, T) -> T,
    mut emit: impl FnMut(usize, Option<T>),
) {
    // The aggregates from each index up to `middle`, the last index first.
    let mut older: Vec<T> = Vec::new();
    let mut newer: Option<T> = None;
    let (mut middle, mut end) = (0, 0);
    for (window, &Bounds { start, end: window_end }) in bounds.iter().enumerate() {
        if start >= window_end {
            emit(window, None);
            continue;
        }
        if start >= middle {
            older.clear();
            for index in (start..window_end).rev() {
                let value = lift(index);
                older.push(older.last().map_or(value, |rest| join(value, *rest)));
            }
            newer = None;
            (middle, end) = (window_end, window_end);
        } else {
            older.truncate(middle - start);
            for index in end..window_end {
                let value = lift(index);
                newer = Some(newer.map_or(value, |rest| join(rest, value)));
            }
            end = window_end;
        }
        let oldest = *older.last().expect("a window that starts before the middle has an older part");
        emit(window, Some(newer.map_or(oldest, |newer| join(oldest, newer))));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Windows that move forward over so many values.
    pub(crate) fn windows(values: usize) -> impl Strategy<Value = Vec<Bounds>> {
        prop::collection::vec((0..4_usize, 0..6_usize), 0..40).prop_map(move |moves| {
            let (mut start, mut end) = (0, 0);
            moves
                .into_iter()
                .map(|(forward, grow)| {
                    start = (start + forward).min(values);
                    end = (end.max(start) + grow).min(values);
                    Bounds { start, end }
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn it_equals_an_aggregate_of_each_window(bounds in windows(50)) {
            // Concatenation tells values that are missing, doubled or out of order.
            let mut found = Vec::new();
            sliding(
                &bounds,
                |index| (index, index, 1),
                |(first, last, count), (next, end, more)| {
                    assert_eq!(last + 1, next);
                    (first, end, count + more)
                },
                |window, aggregate| found.push((window, aggregate)),
            );
            let expected: Vec<_> = bounds
                .iter()
                .enumerate()
                .map(|(window, bounds)| (window, (bounds.start < bounds.end).then(|| (bounds.start, bounds.end - 1, bounds.end - bounds.start))))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
