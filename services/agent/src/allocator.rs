//! Counts what the process allocates, as Go's runtime does and Rust's does not.
//!
//! The `unsafe` code here calls the C library's allocator. The agent's only other `unsafe` code reads the clock's state (`collect/host/timex.rs`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static ALLOCATED_BYTES: AtomicU64 = AtomicU64::new(0);
static FREED_BYTES: AtomicU64 = AtomicU64::new(0);
static MALLOCS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator with counters. Each counter is exact, but two that are read together may differ by a moment.
struct Counting;

fn allocated(bytes: usize) {
    ALLOCATED_BYTES.fetch_add(bytes as u64, Relaxed);
    MALLOCS.fetch_add(1, Relaxed);
}

fn freed(bytes: usize) {
    FREED_BYTES.fetch_add(bytes as u64, Relaxed);
    FREES.fetch_add(1, Relaxed);
}

#[expect(unsafe_code, reason = "a global allocator is an unsafe trait; every call is passed to the system's unchanged")]
// SAFETY: all memory comes from `System`, under the caller's own guarantees; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps alloc's contract.
        let place = unsafe { System.alloc(layout) };
        if !place.is_null() {
            allocated(layout.size());
        }
        place
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps alloc_zeroed's contract.
        let place = unsafe { System.alloc_zeroed(layout) };
        if !place.is_null() {
            allocated(layout.size());
        }
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps dealloc's contract.
        unsafe { System.dealloc(place, layout) };
        freed(layout.size());
    }

    /// Counted as a new object that replaces the old one, as Go's append does.
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps realloc's contract.
        let new_place = unsafe { System.realloc(place, layout, new_size) };
        if !new_place.is_null() {
            freed(layout.size());
            allocated(new_size);
        }
        new_place
    }
}

/// What the process has allocated since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of all objects allocated, including those freed since.
    pub total_bytes: u64,
    /// Bytes of live objects.
    pub alive_bytes: u64,
    /// Objects allocated.
    pub mallocs: u64,
    /// Objects freed.
    pub frees: u64,
}

/// The counts now.
pub fn counts() -> Counts {
    // Read in this order, what was freed is never more than what was allocated.
    let (freed_bytes, frees) = (FREED_BYTES.load(Relaxed), FREES.load(Relaxed));
    let (total_bytes, mallocs) = (ALLOCATED_BYTES.load(Relaxed), MALLOCS.load(Relaxed));
    Counts { total_bytes, alive_bytes: total_bytes.saturating_sub(freed_bytes), mallocs, frees }
}

/// The memory that the C library's allocator has from the system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heap {
    /// Obtained from the system: arenas and mapped blocks.
    pub system_bytes: u64,
    /// In allocated blocks, including the allocator's own headers.
    pub in_use_bytes: u64,
    /// In free blocks that are kept for later use.
    pub idle_bytes: u64,
}

/// The heap now. Walking the free lists takes microseconds.
#[expect(unsafe_code, reason = "mallinfo2 takes nothing and returns numbers")]
pub fn heap() -> Heap {
    // SAFETY: no pointers are passed, and glibc locks what it reads.
    let info = unsafe { libc::mallinfo2() };
    Heap {
        system_bytes: (info.arena + info.hblkhd) as u64,
        in_use_bytes: (info.uordblks + info.hblkhd) as u64,
        idle_bytes: info.fordblks as u64,
    }
}

/// A block of at least this many bytes is mapped on its own, and so many free bytes at the end of the heap are given back: glibc's own first value.
const LARGE_BLOCK_BYTES: libc::c_int = 128 << 10;

/// Keeps the heap small. Must be called before any thread is started.
///
/// All threads share one arena: the few threads rarely allocate at the same time, and an arena for each of them would cost address space and pages.
/// Large blocks, of which a report of many pods needs some for a moment, go back to the system when they are freed: left alone, glibc raises its limit
/// with the first of them that is freed, after which the heap keeps megabytes until the next report.
#[expect(unsafe_code, reason = "mallopt takes and returns numbers")]
pub fn keep_heap_small() {
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES), (libc::M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES)]
    {
        // SAFETY: no pointers are passed. A refusal (0) leaves the default, which works as well.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(test)]
mod tests {
    use super::{counts, heap};

    // Other tests allocate at the same time, so only values that cannot shrink are compared.
    #[test]
    fn allocating_and_freeing_are_counted() {
        let before = counts();
        let mut block = Vec::<u8>::with_capacity(1 << 20);
        let with_block = counts();
        assert!(with_block.total_bytes >= before.total_bytes + (1 << 20));
        assert!(with_block.mallocs > before.mallocs);
        assert!(with_block.alive_bytes >= 1 << 20);
        block.reserve_exact(2 << 20);
        let grown = counts();
        assert!(grown.total_bytes >= with_block.total_bytes + (2 << 20), "a larger block is a new object");
        assert!(grown.frees > with_block.frees);
        drop(block);
        assert!(counts().frees > grown.frees);
    }

    #[test]
    fn the_heap_adds_up() {
        let block = vec![1_u8; 4 << 20];
        let heap = heap();
        assert!(heap.in_use_bytes >= block.len() as u64);
        assert_eq!(heap.system_bytes, heap.in_use_bytes + heap.idle_bytes);
    }
}
