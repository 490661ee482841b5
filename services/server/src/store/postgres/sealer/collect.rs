//! Gathers the samples of frames by block and series, within a bound of memory.

use std::collections::BTreeMap;

use golectra_chunks::{merge_counter, merge_gauge};

/// Which series of a source there are and which of them are counters: a bit each, by block.
#[derive(Debug, Default)]
pub(super) struct Kinds(BTreeMap<i32, BlockKinds>);

/// Bit n is that of series 64 * block + n.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct BlockKinds {
    pub(super) known: u64,
    pub(super) counters: u64,
}

impl Kinds {
    /// Of these blocks.
    pub(super) fn new(blocks: impl IntoIterator<Item = (i32, BlockKinds)>) -> Self {
        Self(blocks.into_iter().collect())
    }

    /// Of one block.
    pub(super) fn of(&self, block: i32) -> BlockKinds {
        self.0.get(&block).copied().unwrap_or_default()
    }

    /// Whether the series is a counter; nothing for one that is not there any more.
    pub(super) fn is_counter(&self, series: i32) -> Option<bool> {
        let (kinds, bit) = (self.of(series / 64), 1_u64 << (series % 64));
        (kinds.known & bit != 0).then_some(kinds.counters & bit != 0)
    }
}

/// The samples of one series.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Samples {
    /// A gauge's values.
    Gauge(Vec<i64>, Vec<f64>),
    /// What was added to a counter.
    Counter(Vec<i64>, Vec<i64>),
}

impl Samples {
    /// None yet.
    pub(super) fn empty(is_counter: bool) -> Self {
        if is_counter { Self::Counter(Vec::new(), Vec::new()) } else { Self::Gauge(Vec::new(), Vec::new()) }
    }

    /// Puts them in the order of their times, one for each time. They stand in the order in which they arrived.
    pub(super) fn merge(&mut self) {
        match self {
            Self::Gauge(times, values) => merge_gauge(times, values),
            Self::Counter(times, deltas) => merge_counter(times, deltas),
        }
    }

    /// Their times.
    pub(super) fn times(&self) -> &[i64] {
        match self {
            Self::Gauge(times, _) | Self::Counter(times, _) => times,
        }
    }
}

/// The series of a block that have samples, by slot.
pub(super) type Block = BTreeMap<usize, Samples>;

/// One sample as a frame has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) series: i32,
    pub(super) at_millis: i64,
    pub(super) value: f64,
    pub(super) delta: i64,
}

/// Memory that a sample takes.
const SAMPLE_BYTES: usize = 16;
/// Memory that a series takes beside its samples.
const SERIES_BYTES: usize = 128;

/// Takes the samples of blocks from one on. Where they become too many, the last blocks are left to another pass; where even one block is too much, the rest
/// of its frames is.
pub(super) struct Collector<'a> {
    kinds: &'a Kinds,
    max_bytes: usize,
    bytes: usize,
    first: i32,
    /// Blocks from this on are left out.
    pub(super) end: i32,
    pub(super) blocks: BTreeMap<i32, (usize, Block)>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(kinds: &'a Kinds, max_bytes: usize, first: i32, end: i32) -> Self {
        Self { kinds, max_bytes, bytes: 0, first, end, blocks: BTreeMap::new() }
    }

    /// Takes a sample, unless its block is left out or its series is gone.
    pub(super) fn add(&mut self, sample: Sample) {
        let block = sample.series / 64;
        if block < self.first || block >= self.end {
            return;
        }
        let Some(is_counter) = self.kinds.is_counter(sample.series) else { return };
        let (bytes, columns) = self.blocks.entry(block).or_default();
        let slot = usize::try_from(sample.series % 64).unwrap_or(0);
        let mut more = SAMPLE_BYTES;
        let column = columns.entry(slot).or_insert_with(|| {
            more += SERIES_BYTES;
            Samples::empty(is_counter)
        });
        match column {
            Samples::Gauge(times, values) => {
                times.push(sample.at_millis);
                values.push(sample.value);
            }
            Samples::Counter(times, deltas) => {
                times.push(sample.at_millis);
                deltas.push(sample.delta);
            }
        }
        *bytes += more;
        self.bytes += more;
    }

    /// After a frame: leaves blocks out until the rest fits. Answers true where one block alone does not fit, and so no more frames are to come.
    pub(super) fn is_full(&mut self) -> bool {
        while self.bytes > self.max_bytes {
            if self.blocks.len() <= 1 {
                return true;
            }
            let Some((block, (bytes, _))) = self.blocks.pop_last() else { return false };
            self.end = block;
            self.bytes -= bytes;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_gauges(blocks: i32) -> Kinds {
        Kinds::new((0..blocks).map(|block| (block, BlockKinds { known: u64::MAX, counters: 0 })))
    }

    fn sample(series: i32, at_millis: i64) -> Sample {
        Sample { series, at_millis, value: 0.0, delta: 0 }
    }

    #[test]
    fn blocks_that_do_not_fit_are_left_to_another_pass() {
        let kinds = all_gauges(4);
        let mut collector = Collector::new(&kinds, 64 * (SERIES_BYTES + SAMPLE_BYTES * 10) * 2, 0, i32::MAX);
        for at in 0..10 {
            for series in 0..256 {
                collector.add(sample(series, at));
            }
            assert!(!collector.is_full());
        }
        assert_eq!((collector.end, collector.blocks.keys().copied().collect::<Vec<_>>()), (2, vec![0, 1]));
        let samples: usize = collector.blocks.values().flat_map(|(_, block)| block.values()).map(|samples| samples.times().len()).sum();
        assert_eq!(samples, 2 * 64 * 10, "what is kept is whole");
    }

    #[test]
    fn a_block_that_is_too_large_ends_the_pass() {
        let kinds = all_gauges(2);
        let mut collector = Collector::new(&kinds, SERIES_BYTES + SAMPLE_BYTES * 3, 0, i32::MAX);
        for at in 0..3 {
            collector.add(sample(64, at));
            assert!(!collector.is_full());
        }
        collector.add(sample(0, 3));
        assert!(!collector.is_full(), "the second block is left out");
        assert_eq!((collector.end, collector.bytes), (1, SERIES_BYTES + SAMPLE_BYTES));
        for at in 0..2 {
            collector.add(sample(0, at));
            collector.add(sample(64, at));
        }
        assert!(!collector.is_full());
        collector.add(sample(0, 9));
        assert!(collector.is_full());
    }

    #[test]
    fn series_that_are_gone_are_left_out() {
        let kinds = Kinds::new([(0, BlockKinds { known: 0b10, counters: 0b10 })]);
        let mut collector = Collector::new(&kinds, 1_000, 0, i32::MAX);
        collector.add(Sample { delta: 3, ..sample(1, 5) });
        collector.add(sample(0, 5));
        collector.add(sample(64, 5));
        assert_eq!(collector.blocks[&0].1, BTreeMap::from([(1, Samples::Counter(vec![5], vec![3]))]));
        assert_eq!(collector.blocks.len(), 1);
    }
}
