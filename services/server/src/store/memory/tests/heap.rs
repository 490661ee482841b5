//! What a series costs: bytes of the heap, counted by the allocator, and what a save keeps writers waiting for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use golectra_promql::{MatchOp, Matcher};
use golectra_protocol::{Metrics, Source};

use super::super::copy::ShardCopy;
use super::super::shards::Shards;
use super::conformance::{counter as count, gauge, is_full};
use super::*;

thread_local! {
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread of a test takes and gives back.
struct Counting;

impl Counting {
    fn add(bytes: isize) {
        // A thread that ends has no count any more.
        let _ = HELD_BYTES.try_with(|held| held.set(held.get() + bytes));
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write; this one hands every call on as it is")]
// SAFETY: what is asked of it is asked of the system's allocator with the same arguments, and its answer is given back.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        Self::add(-layout.size().cast_signed());
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        Self::add(bytes.cast_signed() - layout.size().cast_signed());
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What this thread has taken of the heap and not given back.
pub(super) fn held_bytes() -> isize {
    HELD_BYTES.get()
}

/// A million at full scale; the bounds hold for fewer as well.
fn series() -> usize {
    if is_full() { 1_000_000 } else { 320_000 }
}

const BATCH: usize = 1000;

/// Batches of one source's series, ids of 30 bytes, every fifth a counter.
fn batches(series: usize) -> Vec<Metrics> {
    let metric = |i: usize| {
        let id = format!("node_http_requests_{:011}", i * 40_503);
        if i.is_multiple_of(5) { count(&id, 1) } else { gauge(&id, 0.5) }
    };
    let places: Vec<usize> = (0..series).collect();
    places.chunks(BATCH).map(|some| some.iter().map(|i| metric(*i)).collect()).collect()
}

/// Shards of many series, so many a source, and how many bytes each series has.
fn full(of_source: usize) -> (Shards, isize) {
    let templates = batches(of_source);
    let before = HELD_BYTES.get();
    let limits = SeriesLimits { total: series(), per_source: of_source };
    let shards = Shards::new(limits, Lifetimes::default(), 100_000, 0);
    for source in 0..series() / of_source {
        let name = Source::parse(&format!("node-{source}.example.org")).unwrap();
        for metrics in &templates {
            let batch = Batch {
                source: name.clone(),
                key: IdempotencyKey::at(NOW),
                keyed: true,
                digest: [0; 32],
                metrics: metrics.clone(),
                audit: None,
            };
            shards.apply(&batch, NOW, |_| {}).unwrap();
        }
    }
    assert_eq!(shards.series(), series());
    let bytes = HELD_BYTES.get() - before;
    (shards, bytes / series().cast_signed())
}

#[test]
fn a_series_of_many_costs_at_most_90_bytes_and_a_save_of_them_copies_none_under_a_lock() {
    for of_source in [1000, series() / 10] {
        let (shards, bytes) = full(of_source);
        println!("{bytes} bytes of heap a series, {of_source} series a source");
        assert!((50..=90).contains(&bytes), "{bytes} bytes a series with {of_source} a source");
        save_and_write(&shards, of_source);
    }
}

/// Takes what a save takes under the locks, and writes a batch meanwhile.
fn save_and_write(shards: &Shards, of_source: usize) {
    let before = HELD_BYTES.get();
    let saved: Vec<ShardCopy> = shards.each().map(|mut shard| ShardCopy::cut(&mut shard, 1)).collect();
    let taken = (HELD_BYTES.get() - before) / (series() / of_source).cast_signed();
    println!("{taken} bytes a source allocated under the locks");
    assert!(taken < 4096, "{taken} bytes a source with {of_source} series");

    let before = HELD_BYTES.get();
    let metrics = batches(BATCH).remove(0);
    let name = Source::parse("node-0.example.org").unwrap();
    let batch = Batch { source: name.clone(), key: IdempotencyKey::at(NOW), keyed: true, digest: [0; 32], metrics, audit: None };
    shards.apply(&batch, NOW, |_| {}).unwrap();
    drop(batch);
    let taken = HELD_BYTES.get() - before;
    assert!(taken < 64 * 1024, "a batch of a chunk copies {taken} bytes");
    let held = shards.of(&name);
    let source = held.shard.source(held.place().unwrap());
    assert_eq!(source.table.shared_chunks(), of_source.div_ceil(1024) - 1);
    drop(saved);
    assert_eq!(source.table.shared_chunks(), 0);
}

/// A series of a pod; each id has 60 bytes.
fn of_pod(metric: usize, pod: usize) -> golectra_protocol::Metric {
    gauge(&format!("container_metric_{metric:02}{{namespace=\"n{:02}\",pod=\"web-front-{pod:07}\"}}", pod % 20), 0.5)
}

#[tokio::test]
async fn a_series_with_an_id_of_60_bytes_costs_at_most_120_bytes_and_matchers_find_it_by_its_name() {
    let (metrics, pods) = (20, 1_000);
    let sources = series() / (metrics * pods);
    let before = HELD_BYTES.get();
    let limits = SeriesLimits { total: series(), per_source: series() };
    let store =
        MemoryStore::open(MemoryConfig { limits, history_max_bytes: 0, ..config(None, Duration::ZERO, false) }, Clock::at(NOW)).unwrap();
    for source in 0..sources {
        for pod in 0..pods {
            let all: Vec<_> = (0..metrics).map(|metric| of_pod(metric, source * pods + pod)).collect();
            assert!(all.iter().all(|one| one.id.as_str().len() == 60));
            let one = super::conformance::batch(&format!("node-{source}"), IdempotencyKey::at(NOW), all);
            store.shards.apply(&Batch { keyed: false, ..one }, NOW, |_| {}).unwrap();
        }
    }
    assert_eq!(store.shards.series(), series());
    let bytes = (HELD_BYTES.get() - before) / series().cast_signed();
    println!("{bytes} bytes of heap a series with ids of 60 bytes");
    assert!((85..=120).contains(&bytes), "{bytes} bytes a series");

    let matcher = |label: &str, op: MatchOp, value: &str| Matcher::new(op, label, value).unwrap();
    let name = || matcher("__name__", MatchOp::Equal, "container_metric_03");
    for (case, matchers, expected) in [
        (
            "name, =, =~",
            vec![name(), matcher("namespace", MatchOp::Equal, "n07"), matcher("pod", MatchOp::Match, "web-front-00001.*")],
            5_000 / 1_000,
        ),
        (
            "name, =, !=",
            vec![name(), matcher("pod", MatchOp::Equal, "web-front-0012345"), matcher("namespace", MatchOp::NotEqual, "n1")],
            1,
        ),
    ] {
        let mut took = Vec::new();
        for _ in 0..11 {
            let started = std::time::Instant::now();
            let filter = LatestFilter { matchers: matchers.clone(), ..LatestFilter::default() };
            let found = super::conformance::every(store.latest(filter).await.unwrap()).await;
            took.push(started.elapsed());
            assert_eq!(found.len(), expected, "{case}");
        }
        took.sort();
        println!("{} series over {sources} sources, {case}: median {:?}, slowest {:?}", series(), took[5], took[10]);
    }
}
