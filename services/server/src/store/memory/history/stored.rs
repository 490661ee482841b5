//! Which samples of a source are stored, for senders that send them again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use golectra_protocol::{Kind, Source};

use super::part::PartReader;
use super::series::place;
use super::source::{Window, window_of};
use crate::store::memory::history::ShardHistory;
use crate::store::memory::table::IdHasher;

/// What is asked for in a window: series and times, with their indexes in the answer.
type AskedOfWindow = BTreeMap<(u32, i64), Vec<usize>>;

impl ShardHistory {
    /// The values, by their bits, that gauges of a source have at these times; None for those without a sample.
    pub(in crate::store::memory) fn stored(&self, hasher: &IdHasher, source: &Source, asked: &[(&str, i64)]) -> Vec<Option<u64>> {
        let mut found = vec![None; asked.len()];
        let Some(history) = self.get(source).filter(|_| !asked.is_empty()) else { return found };
        // Each window is searched once.
        let mut windows: BTreeMap<i64, AskedOfWindow> = BTreeMap::new();
        for (index, (id, at_millis)) in asked.iter().enumerate() {
            if let Some(number) = history.series.find(hasher, id, Kind::Gauge) {
                windows.entry(window_of(*at_millis)).or_default().entry((number, *at_millis)).or_default().push(index);
            }
        }
        for (start, of_window) in windows {
            if let Some(window) = history.windows.get(&start) {
                search(window, &of_window, &mut found);
            }
        }
        found
    }
}

/// Searches a window. Of several samples of one time, the one that arrived last counts, so what arrived later is searched later.
fn search(window: &Window, asked: &AskedOfWindow, found: &mut [Option<u64>]) {
    let mut take = |number: u32, at_millis: i64, bits: u64| {
        for index in asked.get(&(number, at_millis)).into_iter().flatten() {
            found[*index] = Some(bits);
        }
    };
    let mut numbers: Vec<u32> = asked.keys().map(|(number, _)| *number).collect();
    numbers.dedup();
    let mut blocks: Vec<u32> = numbers.iter().map(|number| place(*number).0).collect();
    blocks.dedup();
    for part in &window.parts {
        let reader = PartReader::new(Arc::clone(part), &blocks);
        for number in &numbers {
            let (mut timestamps_ms, mut values) = (Vec::new(), Vec::new());
            // What can't be decoded is counted where it is read for a query.
            if reader.read_gauge(*number, &mut timestamps_ms, &mut values).is_err() {
                continue;
            }
            for (_, at_millis) in asked.range((*number, i64::MIN)..=(*number, i64::MAX)).map(|(key, _)| *key) {
                if let Ok(index) = timestamps_ms.binary_search(&at_millis) {
                    take(*number, at_millis, values[index].to_bits());
                }
            }
        }
    }
    let mut series_at: HashMap<i64, Vec<u32>> = HashMap::new();
    for (number, at_millis) in asked.keys() {
        series_at.entry(*at_millis).or_default().push(*number);
    }
    for (at_millis, numbers, values) in window.open.frames().iter_from(0) {
        let Some(wanted) = series_at.get(&at_millis) else { continue };
        for (number, bits) in numbers.iter().zip(values).filter(|(number, _)| wanted.binary_search(number).is_ok()) {
            take(*number, at_millis, *bits);
        }
    }
}
