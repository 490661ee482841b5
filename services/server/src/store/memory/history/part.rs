//! Sealed samples: a part of one source's samples of one window, coded by blocks of series.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use golectra_chunks::{
    Column, ColumnValues, DecodeError, EncodedBlock, Times, decode_counter, decode_gauge, encode, merge_counter, merge_gauge,
};
use golectra_protocol::Kind;

use super::open::Frames;
use super::series::{SERIES_A_BLOCK, place};

/// What a part and a block take beside their bytes.
const PART_BYTES: usize = 128;
const BLOCK_BYTES: usize = 144;

/// How many samples are sealed in one turn.
const SAMPLES_A_TURN: usize = 1 << 20;

/// Samples of the series of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SealedBlock {
    /// Which block of the source's series.
    pub(super) number: u32,
    /// Which of the series are counters.
    pub(super) counters: u64,
    pub(super) times: Box<[u8]>,
    /// Where each column begins in the data, and the end of the last.
    pub(super) offsets: Box<[u32]>,
    pub(super) data: Box<[u8]>,
    /// The sum of each column's deltas; empty where there is no counter.
    pub(super) sums: Box<[i64]>,
}

impl SealedBlock {
    pub(super) fn column(&self, slot: usize) -> &[u8] {
        match self.offsets.get(slot..slot + 2) {
            Some(&[start, end]) => self.data.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// The sum of a counter's deltas.
    pub(super) fn sum(&self, slot: usize) -> i64 {
        self.sums.get(slot).copied().unwrap_or(0)
    }

    /// The places of the series that it has something of.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> {
        (0..self.offsets.len().saturating_sub(1).min(SERIES_A_BLOCK as usize)).filter(|slot| !self.column(*slot).is_empty())
    }

    pub(super) fn bytes(&self) -> usize {
        BLOCK_BYTES + self.times.len() + size_of_val(&*self.offsets) + self.data.len() + size_of_val(&*self.sums)
    }
}

/// Samples that were sealed together. Parts of a window stand in the order of their arrival.
#[derive(Debug)]
pub(super) struct Part {
    /// Sorted by number.
    pub(super) blocks: Box<[SealedBlock]>,
    /// How many samples there are.
    pub(super) samples: u64,
    bytes: usize,
    pub(super) stored: Stored,
}

/// Where a part or rollups are stored in the files, once they are. A save that moves them changes that.
#[derive(Debug, Default)]
pub(super) struct Stored(Mutex<Option<StoredAt>>);

impl Stored {
    pub(super) fn get(&self) -> Option<StoredAt> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, at: StoredAt) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }
}

/// A place in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredAt {
    pub(super) segment: u32,
    pub(super) offset: u64,
    pub(super) bytes: u32,
}

/// The samples of one series, by kind.
#[derive(Debug)]
enum Samples {
    Gauge(Vec<i64>, Vec<f64>),
    Counter(Vec<i64>, Vec<i64>),
}

impl Samples {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Gauge => Self::Gauge(Vec::new(), Vec::new()),
            Kind::Counter => Self::Counter(Vec::new(), Vec::new()),
        }
    }

    fn column(&self) -> Column<'_> {
        match self {
            Self::Gauge(timestamps_ms, values) => Column { timestamps_ms, values: ColumnValues::Gauge(values) },
            Self::Counter(timestamps_ms, deltas) => Column { timestamps_ms, values: ColumnValues::Counter(deltas) },
        }
    }

    fn sum(&self) -> i64 {
        match self {
            Self::Gauge(..) => 0,
            Self::Counter(_, deltas) => deltas.iter().fold(0, |sum, delta| sum.saturating_add(*delta)),
        }
    }

    /// Puts what came behind one another in order.
    fn merge(&mut self) {
        match self {
            Self::Gauge(timestamps_ms, values) => merge_gauge(timestamps_ms, values),
            Self::Counter(timestamps_ms, deltas) => merge_counter(timestamps_ms, deltas),
        }
    }

    /// Adds what has arrived after all that is there.
    fn push_open(&mut self, mut samples: Vec<super::open::OpenSample>) {
        samples.sort_unstable_by_key(|(at_millis, arrival, _)| (*at_millis, *arrival));
        match self {
            Self::Gauge(timestamps_ms, values) => {
                timestamps_ms.extend(samples.iter().map(|(at_millis, ..)| at_millis));
                values.extend(samples.iter().map(|(.., bits)| f64::from_bits(*bits)));
            }
            Self::Counter(timestamps_ms, deltas) => {
                timestamps_ms.extend(samples.iter().map(|(at_millis, ..)| at_millis));
                deltas.extend(samples.iter().map(|(.., bits)| bits.cast_signed()));
            }
        }
    }

    fn push_column(&mut self, times: &Times, column: &[u8]) -> Result<(), DecodeError> {
        match self {
            Self::Gauge(timestamps_ms, values) => decode_gauge(times, column, timestamps_ms, values),
            Self::Counter(timestamps_ms, deltas) => decode_counter(times, column, timestamps_ms, deltas),
        }
    }
}

fn kind_of(counters: u64, slot: usize) -> Kind {
    if counters & (1 << slot) == 0 { Kind::Gauge } else { Kind::Counter }
}

/// Codes the samples of a block's series.
fn seal_block(number: u32, counters: u64, columns: &[Samples]) -> (SealedBlock, u64) {
    let samples = columns.iter().map(|samples| samples.column().timestamps_ms.len() as u64).sum();
    let EncodedBlock { times, offsets, data } = encode(&columns.iter().map(Samples::column).collect::<Vec<_>>());
    let sums = if counters == 0 { Box::default() } else { columns.iter().map(Samples::sum).collect() };
    let block = SealedBlock { number, counters, times: times.into(), offsets: offsets.into(), data: data.into(), sums };
    (block, samples)
}

impl Part {
    pub(super) fn new(blocks: Vec<SealedBlock>, samples: u64) -> Self {
        let bytes = PART_BYTES + blocks.iter().map(SealedBlock::bytes).sum::<usize>();
        Self { blocks: blocks.into(), samples, bytes, stored: Stored::default() }
    }

    /// Seals frames. `blocks` are those of the source's series, sorted, with which of them are counters.
    pub(super) fn seal(frames: &Frames, samples: usize, blocks: &[(u32, u64)]) -> Self {
        let (mut sealed, mut sealed_samples) = (Vec::new(), 0);
        // Series by series the samples take more room than they did: many are sealed in several turns.
        let turns = samples.div_ceil(SAMPLES_A_TURN).max(1);
        for some in blocks.chunks(blocks.len().div_ceil(turns).max(1)) {
            let (first, last) = (some[0].0, some[some.len() - 1].0);
            let index = frames.index(|number| (first..=last).contains(&place(number).0));
            for of_block in index.numbers().chunk_by(|one, other| place(*one).0 == place(*other).0) {
                let (number, _) = place(of_block[0]);
                let counters = some.binary_search_by_key(&number, |(block, _)| *block).map_or(0, |at| some[at].1);
                let mut columns: Vec<Samples> = Vec::new();
                for (slot, series) in of_block.iter().map(|series| (place(*series).1, *series)) {
                    columns.extend((columns.len()..=slot).map(|slot| Samples::new(kind_of(counters, slot))));
                    let mut open = Vec::new();
                    frames.read(&index, series, &mut open);
                    columns[slot].push_open(open);
                    columns[slot].merge();
                }
                let (block, of_block) = seal_block(number, counters, &columns);
                sealed.push(block);
                sealed_samples += of_block;
            }
        }
        Self::new(sealed, sealed_samples)
    }

    /// Makes one part of several. What can't be decoded stays out, and is counted.
    pub(super) fn fold(parts: &[Arc<Self>]) -> (Self, u64) {
        let mut numbers: Vec<u32> = parts.iter().flat_map(|part| part.blocks.iter().map(|block| block.number)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (mut blocks, mut samples, mut corrupt) = (Vec::new(), 0, 0);
        for number in numbers {
            let of_number: Vec<&SealedBlock> = parts.iter().filter_map(|part| part.block(number)).collect();
            let counters = of_number.iter().fold(0, |all, block| all | block.counters);
            let slots = of_number.iter().map(|block| block.offsets.len().saturating_sub(1)).max().unwrap_or(0);
            let mut columns: Vec<Samples> = (0..slots).map(|slot| Samples::new(kind_of(counters, slot))).collect();
            for block in of_number {
                let Ok(times) = Times::decode(&block.times) else {
                    corrupt += 1;
                    continue;
                };
                for (slot, samples) in columns.iter_mut().enumerate().filter(|(slot, _)| !block.column(*slot).is_empty()) {
                    corrupt += u64::from(samples.push_column(&times, block.column(slot)).is_err());
                }
            }
            columns.iter_mut().for_each(Samples::merge);
            let (block, of_block) = seal_block(number, counters, &columns);
            blocks.push(block);
            samples += of_block;
        }
        (Self::new(blocks, samples), corrupt)
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn place_of(&self, block: u32) -> Option<usize> {
        self.blocks.binary_search_by_key(&block, |other| other.number).ok()
    }

    pub(super) fn block(&self, block: u32) -> Option<&SealedBlock> {
        self.place_of(block).map(|place| &self.blocks[place])
    }

    /// Whether there are samples of this series.
    pub(super) fn has(&self, number: u32) -> bool {
        let (block, slot) = place(number);
        self.block(block).is_some_and(|block| !block.column(slot).is_empty())
    }

    /// Each counter's number and the sum of its deltas.
    pub(super) fn sums(&self) -> impl Iterator<Item = (u32, i64)> {
        self.blocks.iter().flat_map(|block| (block.number * SERIES_A_BLOCK..).zip(block.sums.iter().copied()))
    }
}

/// A part that some of the series are read from.
#[derive(Debug)]
pub(super) struct PartReader {
    part: Arc<Part>,
    /// Places of blocks whose times are decoded once for several series, sorted.
    shared: Vec<(usize, OnceLock<Result<Times, DecodeError>>)>,
}

impl PartReader {
    /// Reads several series of these blocks, which are sorted: their times are decoded once.
    pub(super) fn new(part: Arc<Part>, blocks: &[u32]) -> Self {
        let shared = blocks.iter().filter_map(|block| Some((part.place_of(*block)?, OnceLock::new()))).collect();
        Self { part, shared }
    }

    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// What the shared times take at the most.
    pub(super) fn sharing_bytes(part: &Part, blocks: &[u32]) -> usize {
        let of = |block: &u32| part.block(*block).map(|block| Times::decode(&block.times).map_or(0, |times| times.memory_bytes()));
        blocks.iter().filter_map(of).map(|bytes| bytes + size_of::<Times>() + 32).sum()
    }

    fn with_times<T>(&self, series: u32, read: impl FnOnce(&Times, &[u8]) -> Result<T, DecodeError>) -> Result<Option<T>, DecodeError> {
        let (block, slot) = place(series);
        let Some(at) = self.part.place_of(block) else { return Ok(None) };
        let block = &self.part.blocks[at];
        let column = block.column(slot);
        if column.is_empty() {
            return Ok(None);
        }
        match self.shared.binary_search_by_key(&at, |(place, _)| *place) {
            Ok(shared) => match self.shared[shared].1.get_or_init(|| Times::decode(&block.times)) {
                Ok(times) => read(times, column).map(Some),
                Err(error) => Err(*error),
            },
            Err(_) => read(&Times::decode(&block.times)?, column).map(Some),
        }
    }

    /// How many samples a series has at most; none where they can't be decoded.
    pub(super) fn max_samples(&self, series: u32) -> usize {
        self.with_times(series, |times, _| Ok(times.longest())).ok().flatten().unwrap_or(0)
    }

    /// Puts a gauge's samples at the end of both lists.
    pub(super) fn read_gauge(&self, series: u32, timestamps_ms: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), DecodeError> {
        self.with_times(series, |times, column| decode_gauge(times, column, timestamps_ms, values)).map(drop)
    }

    /// Puts a counter's deltas at the end of both lists.
    pub(super) fn read_counter(&self, series: u32, timestamps_ms: &mut Vec<i64>, deltas: &mut Vec<i64>) -> Result<(), DecodeError> {
        self.with_times(series, |times, column| decode_counter(times, column, timestamps_ms, deltas)).map(drop)
    }
}

/// The trailing parts that are to be made one: where eight are of one size, those and the smaller ones behind. So each sample is coded again
/// only a few times, however many parts there are.
pub(super) fn foldable(samples: &[u64]) -> Option<Range<usize>> {
    const PARTS: usize = 8;
    let tiers: Vec<u32> = samples.iter().map(|samples| samples.max(&1).ilog(PARTS as u64)).collect();
    let (mut tier, mut of_tier, mut run) = (*tiers.last()?, 0, 0);
    for next in tiers.iter().rev() {
        if *next > tier {
            if of_tier >= PARTS {
                break;
            }
            (tier, of_tier) = (*next, 0);
        }
        run += 1;
        of_tier += usize::from(*next == tier);
    }
    (of_tier >= PARTS).then_some(samples.len() - run..samples.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_folded_only_a_few_times() {
        let (mut parts, mut coded) = (Vec::<u64>::new(), 0);
        for _ in 0..7200 {
            parts.extend([100]);
            if let Some(range) = foldable(&parts) {
                let sum = parts[range.clone()].iter().sum();
                parts.splice(range, [sum]);
                coded += sum;
            }
        }
        assert_eq!(parts.iter().sum::<u64>(), 7200 * 100);
        assert!(parts.len() < 40, "{}", parts.len());
        assert!(coded <= 5 * 7200 * 100, "{coded}");
        assert_eq!(foldable(&[5; 7]), None);
        assert_eq!(foldable(&[100, 5, 5, 5, 5, 5, 5, 5, 5]), Some(1..9));
    }
}
