//! The agent's own memory, with the names of Go's `runtime.MemStats`, so that dashboards for the original keep working.
//!
//! What an allocator has is measured: the counting allocator knows the live objects and bytes, the C library what it holds
//! from the system, /proc the rest. What only a garbage collector or Go's own allocator has is 0.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};

use super::collector::{CollectError, Collector, Readings};
use crate::allocator;

const STATUS: &str = "/proc/self/status";
const SMAPS: &str = "/proc/self/smaps";

/// The kernel computes smaps as it is read. With a small buffer, what follows the heap is never computed.
const SMAPS_BUFFER_BYTES: usize = 4 << 10;

/// Values of a garbage collector, its caches and tables, which a Rust process does not have.
const ALWAYS_ZERO: [&str; 14] = [
    "BuckHashSys",
    "GCCPUFraction",
    "GCSys",
    "LastGC",
    "Lookups",
    "MCacheInuse",
    "MCacheSys",
    "MSpanInuse",
    "MSpanSys",
    "NextGC",
    "NumForcedGC",
    "NumGC",
    "OtherSys",
    "PauseTotalNs",
];

/// The memory of the process. The files stay open between polls.
#[derive(Default)]
pub(super) struct Runtime {
    status: Option<BufReader<File>>,
    smaps: Option<BufReader<File>>,
}

impl Collector for Runtime {
    fn name(&self) -> &'static str {
        "runtime"
    }

    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError> {
        let objects = allocator::counts();
        readings.count("Alloc", objects.alive_bytes);
        readings.count("HeapAlloc", objects.alive_bytes);
        readings.count("TotalAlloc", objects.total_bytes);
        readings.count("Mallocs", objects.mallocs);
        readings.count("Frees", objects.frees);
        readings.count("HeapObjects", objects.mallocs.saturating_sub(objects.frees));
        let heap = allocator::heap();
        readings.count("HeapSys", heap.system_bytes);
        readings.count("HeapInuse", heap.in_use_bytes);
        readings.count("HeapIdle", heap.idle_bytes);
        for name in ALWAYS_ZERO {
            readings.count(name, 0);
        }
        readings.gauge("RandomValue", fastrand::f64());

        let address_space = reread(&mut self.status, STATUS, 1 << 10, address_space)?
            .ok_or(CollectError::Missing { path: STATUS.into(), wanted: "VmSize and VmStk" })?;
        readings.count("Sys", address_space.total_bytes);
        readings.count("StackSys", address_space.stack_bytes);
        readings.count("StackInuse", address_space.stack_bytes);
        let released = reread(&mut self.smaps, SMAPS, SMAPS_BUFFER_BYTES, released_bytes)?
            .ok_or(CollectError::Missing { path: SMAPS.into(), wanted: "how much of the heap is resident" })?;
        readings.count("HeapReleased", released);
        Ok(())
    }
}

/// Reads a file of /proc from its beginning, which gives its current contents; opens it the first time.
fn reread<T>(
    open: &mut Option<BufReader<File>>,
    path: &'static str,
    buffer_bytes: usize,
    parse: impl Fn(&mut BufReader<File>) -> io::Result<Option<T>>,
) -> Result<Option<T>, CollectError> {
    let mut read = || {
        let file = match open {
            Some(file) => {
                file.seek(SeekFrom::Start(0))?;
                file
            }
            None => open.insert(BufReader::with_capacity(buffer_bytes, File::open(path)?)),
        };
        parse(file)
    };
    let result = read();
    if result.is_err() {
        *open = None;
    }
    result.map_err(|error| CollectError::Read { path: path.into(), error })
}

/// From /proc/PID/status.
#[derive(Debug, PartialEq, Eq)]
struct AddressSpace {
    total_bytes: u64,
    /// The stack of the main thread. Those of other threads are part of the total only.
    stack_bytes: u64,
}

/// None when a line is missing.
fn address_space(status: &mut impl BufRead) -> io::Result<Option<AddressSpace>> {
    let (mut total, mut stack) = (None, None);
    let mut line = String::new();
    while total.is_none() || stack.is_none() {
        line.clear();
        if status.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if let Some(rest) = line.strip_prefix("VmSize:") {
            total = kibibytes(rest);
        } else if let Some(rest) = line.strip_prefix("VmStk:") {
            stack = kibibytes(rest);
        }
    }
    Ok(total.zip(stack).map(|(total_bytes, stack_bytes)| AddressSpace { total_bytes, stack_bytes }))
}

/// How much of the main heap was returned to the system or never used, from /proc/PID/smaps: its size minus what is in memory
/// or swapped out. None when there is no heap.
fn released_bytes(smaps: &mut impl BufRead) -> io::Result<Option<u64>> {
    let (mut size, mut kept, mut heap_seen, mut in_heap) = (0, 0, false, false);
    let mut line = String::new();
    loop {
        line.clear();
        if smaps.read_line(&mut line)? == 0 {
            break;
        }
        // A mapping starts with its addresses in lower-case hex, a field with its name.
        if line.starts_with(|first: char| first.is_ascii_digit() || first.is_ascii_lowercase()) {
            in_heap = line.trim_end().ends_with("[heap]");
            if heap_seen && !in_heap {
                break;
            }
            heap_seen |= in_heap;
        } else if in_heap {
            if let Some(rest) = line.strip_prefix("Size:") {
                size += kibibytes(rest).unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("Rss:").or_else(|| line.strip_prefix("Swap:")) {
                kept += kibibytes(rest).unwrap_or(0);
            }
        }
    }
    Ok(heap_seen.then(|| size.saturating_sub(kept)))
}

/// Bytes of `   132 kB`.
fn kibibytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::{AddressSpace, address_space, released_bytes};

    const STATUS: &str = include_str!("testdata/status");
    const SMAPS: &str = include_str!("testdata/smaps");

    #[test]
    fn the_address_space_of_a_recorded_process() {
        let expected = AddressSpace { total_bytes: 4_360 << 10, stack_bytes: 132 << 10 };
        assert_eq!(address_space(&mut STATUS.as_bytes()).unwrap(), Some(expected));
    }

    #[test]
    fn a_status_without_memory_is_none() {
        let kernel_thread: String = STATUS.split_inclusive('\n').filter(|line| !line.starts_with("Vm")).collect();
        assert_eq!(address_space(&mut kernel_thread.as_bytes()).unwrap(), None);
        assert_eq!(address_space(&mut b"VmSize: many kB\nVmStk:\t1 kB\n".as_slice()).unwrap(), None);
    }

    #[test]
    fn the_heap_of_a_recorded_process() {
        // The heap there: 132 kB, of them 16 kB resident.
        assert_eq!(released_bytes(&mut SMAPS.as_bytes()).unwrap(), Some(116 << 10));
        let pieces = &mut BufReader::with_capacity(7, SMAPS.as_bytes());
        assert_eq!(released_bytes(pieces).unwrap(), Some(116 << 10));
    }

    #[test]
    fn swapped_memory_is_not_released_and_two_heap_mappings_are_added() {
        let swapped = SMAPS.replace("Swap:                  0 kB", "Swap:                  4 kB");
        assert_eq!(released_bytes(&mut swapped.as_bytes()).unwrap(), Some(112 << 10));
        let start = SMAPS.lines().position(|line| line.ends_with("[heap]")).unwrap();
        let lines: Vec<&str> = SMAPS.split_inclusive('\n').collect();
        let twice = [&lines[..start + 25], &lines[start..]].concat().concat();
        assert_eq!(released_bytes(&mut twice.as_bytes()).unwrap(), Some(232 << 10));
    }

    #[test]
    fn what_follows_the_heap_is_not_read() {
        let mut text = SMAPS.as_bytes();
        released_bytes(&mut text).unwrap();
        assert!(text.starts_with(b"Size:"), "reading stops at the mapping after the heap");
    }

    #[test]
    fn a_process_without_a_heap_is_none() {
        assert_eq!(released_bytes(&mut SMAPS.replace("[heap]", "/lib/x").as_bytes()).unwrap(), None);
    }
}
