//! Samples that are not sealed yet: one source's of one window, in the order of their arrival.
//!
//! Samples of one time stand together as a frame: the time, which series, and 8 bytes a value. Agents send the same series again and again,
//! so which series a frame has is kept once for all frames that have the same. Nothing is allocated for a series of its own.

use std::collections::HashMap;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::super::chunks::Chunks;

/// The most values of one frame; what comes together beyond that makes several.
pub(super) const MAX_FRAME_VALUES: usize = 4096;
const FRAMES_A_CHUNK: usize = 256;

/// The samples of one time.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    at_millis: i64,
    /// Which series they are of.
    layout: u32,
    /// The place of the first value.
    first: u32,
}

/// The place of the first series' number, and how many there are.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    first: u32,
    len: u32,
}

/// Frames in the order of their arrival. A copy is cheap, and stays as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Frames {
    heads: Chunks<Frame, FRAMES_A_CHUNK>,
    /// The samples' bits.
    values: Chunks<u64, MAX_FRAME_VALUES>,
    layouts: Chunks<Layout, FRAMES_A_CHUNK>,
    /// The series of the layouts.
    numbers: Chunks<u32, MAX_FRAME_VALUES>,
}

/// A sample as it is in a frame: its time, the order in which it came, and its bits.
pub(super) type OpenSample = (i64, u32, u64);

impl Frames {
    pub(super) fn len(&self) -> usize {
        self.heads.end()
    }

    fn layout(&self, number: u32) -> &[u32] {
        let Layout { first, len } = *self.layouts.get(number as usize);
        &self.numbers.from(first as usize)[..len as usize]
    }

    /// The series that there are samples of, some of them more than once.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.layouts()).flat_map(|layout| self.layout(layout)).copied()
    }

    fn layouts(&self) -> u32 {
        u32::try_from(self.layouts.end()).unwrap_or(u32::MAX)
    }

    /// The frames from this one on, in the order of their arrival: time, series and values.
    pub(super) fn iter_from(&self, first: usize) -> impl Iterator<Item = (i64, &[u32], &[u64])> {
        (first..self.len()).map(|place| {
            let frame = self.heads.get(place);
            let numbers = self.layout(frame.layout);
            (frame.at_millis, numbers, &self.values.from(frame.first as usize)[..numbers.len()])
        })
    }

    /// What reading some of the series needs. `wanted` tells whether a series is one of them.
    pub(super) fn index(&self, wanted: impl Fn(u32) -> bool) -> FrameIndex {
        let mut places: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
        let mut used = vec![false; self.layouts.end()];
        for layout in 0..self.layouts() {
            for (place, number) in (0..).zip(self.layout(layout)).filter(|(_, number)| wanted(**number)) {
                places.entry(*number).or_default().push((layout, place));
                used[layout as usize] = true;
            }
        }
        let mut of_layout: HashMap<u32, Vec<u32>> = HashMap::new();
        for place in 0..u32::try_from(self.len()).unwrap_or(u32::MAX) {
            let layout = self.heads.get(place as usize).layout;
            if used[layout as usize] {
                of_layout.entry(layout).or_default().push(place);
            }
        }
        FrameIndex { places, of_layout }
    }

    /// Puts a series' samples at the end of a list, in no order.
    pub(super) fn read(&self, index: &FrameIndex, number: u32, out: &mut Vec<OpenSample>) {
        for (layout, place) in index.places.get(&number).into_iter().flatten() {
            for arrival in index.of_layout.get(layout).into_iter().flatten() {
                let frame = self.heads.get(*arrival as usize);
                out.push((frame.at_millis, *arrival, *self.values.get((frame.first + place) as usize)));
            }
        }
    }
}

/// Which frames have samples of which series.
#[derive(Debug)]
pub(super) struct FrameIndex {
    /// For each series the layouts that it is in, and its place there.
    places: HashMap<u32, Vec<(u32, u32)>>,
    /// For each layout its frames.
    of_layout: HashMap<u32, Vec<u32>>,
}

impl FrameIndex {
    pub(super) fn has(&self, number: u32) -> bool {
        self.places.contains_key(&number)
    }

    /// How many frames have a sample of this series.
    pub(super) fn samples_of(&self, number: u32) -> usize {
        let layouts = self.places.get(&number).map_or(&[][..], Vec::as_slice);
        layouts.iter().map(|(layout, _)| self.of_layout.get(layout).map_or(0, Vec::len)).sum()
    }

    /// The series that there are samples of, in order.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.places.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// What it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        let lists = |lists: usize, items: usize| lists * 64 + items * 8;
        lists(self.places.len(), self.places.values().map(Vec::len).sum())
            + lists(self.of_layout.len(), self.of_layout.values().map(Vec::len).sum())
    }
}

/// The frames of one window, to be written to.
#[derive(Debug, Default)]
pub(super) struct OpenWindow {
    frames: Frames,
    /// Layouts by the hash of their series.
    lookup: HashTable<u32>,
    /// The layout of the last frame.
    last: u32,
    hasher: foldhash::fast::RandomState,
}

impl OpenWindow {
    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.len() == 0
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let Frames { heads, values, layouts, numbers } = &self.frames;
        let items = heads.room() * size_of::<Frame>() + values.room() * size_of::<u64>();
        let of_layouts = layouts.room() * size_of::<Layout>() + numbers.room() * size_of::<u32>();
        items + of_layouts + self.lookup.capacity() * (size_of::<u32>() + 1)
    }

    /// How many samples there are, gaps between chunks included.
    pub(super) fn samples(&self) -> usize {
        self.frames.values.end()
    }

    /// Without its first frames.
    pub(super) fn without(&self, frames: usize) -> Self {
        let mut rest = Self::default();
        for (at_millis, numbers, values) in self.frames.iter_from(frames) {
            rest.push(at_millis, numbers, values);
        }
        rest
    }

    /// Adds the samples of one time; each series is there once.
    pub(super) fn push(&mut self, at_millis: i64, numbers: &[u32], values: &[u64]) {
        for (numbers, values) in numbers.chunks(MAX_FRAME_VALUES).zip(values.chunks(MAX_FRAME_VALUES)) {
            let layout = self.layout(numbers);
            let first = u32::try_from(self.frames.values.append(values)).expect("a window is sealed long before it has 4 billion samples");
            self.frames.heads.append(&[Frame { at_millis, layout, first }]);
            self.last = layout;
        }
    }

    /// The layout with these series, made where there is none.
    fn layout(&mut self, numbers: &[u32]) -> u32 {
        // Agents that send their series in parts send the parts in turn.
        for likely in [self.last, self.last + 1, 0] {
            if likely < self.frames.layouts() && self.frames.layout(likely) == numbers {
                return likely;
            }
        }
        let (frames, hasher) = (&mut self.frames, &self.hasher);
        let hash = hasher.hash_one(numbers);
        if let Some(layout) = self.lookup.find(hash, |layout| frames.layout(*layout) == numbers) {
            return *layout;
        }
        let first = u32::try_from(frames.numbers.append(numbers)).expect("a window is sealed long before it has 4 billion samples");
        let len = u32::try_from(numbers.len()).expect("a frame has few values");
        let layout = u32::try_from(frames.layouts.append(&[Layout { first, len }])).expect("there are fewer layouts than samples");
        let frames = &self.frames;
        self.lookup.insert_unique(hash, layout, |layout| hasher.hash_one(frames.layout(*layout)));
        layout
    }
}
