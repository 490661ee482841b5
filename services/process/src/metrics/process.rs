//! Metrics of the process, under the names that Prometheus's client libraries use.

use std::fs;

use prometheus::core::{Collector as Collect, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use crate::system;

const CPU: (&str, &str) = ("process_cpu_seconds_total", "User and system CPU time spent, in seconds.");
const RESIDENT: (&str, &str) = ("process_resident_memory_bytes", "Memory that is in RAM, in bytes.");
const VIRTUAL: (&str, &str) = ("process_virtual_memory_bytes", "Address space in use, in bytes.");
const OPEN_FDS: (&str, &str) = ("process_open_fds", "File descriptors that are open.");
const MAX_FDS: (&str, &str) = ("process_max_fds", "File descriptors that may be open.");
const START: (&str, &str) = ("process_start_time_seconds", "When the process started, in seconds since 1970.");
const THREADS: (&str, &str) = ("process_threads", "Threads of the process.");

/// Reads /proc/self at each scrape and keeps nothing in between.
pub(super) struct Collector {
    descriptions: Vec<Desc>,
    ticks_per_second: f64,
    boot_seconds: Option<f64>,
}

impl Collector {
    pub(super) fn new() -> prometheus::Result<Self> {
        let mut descriptions = Counter::new(CPU.0, CPU.1)?.desc().into_iter().cloned().collect::<Vec<_>>();
        for (name, help) in [RESIDENT, VIRTUAL, OPEN_FDS, MAX_FDS, START, THREADS] {
            descriptions.extend(Gauge::new(name, help)?.desc().into_iter().cloned());
        }
        Ok(Self {
            descriptions,
            ticks_per_second: f64::from(system::clock_ticks_per_second()),
            boot_seconds: fs::read_to_string("/proc/stat").ok().and_then(|text| boot_seconds(&text)),
        })
    }
}

impl Collect for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text)) {
            families.extend(counter(CPU, stat.cpu_ticks / self.ticks_per_second));
            families.extend(gauge(VIRTUAL, stat.virtual_bytes));
            families.extend(gauge(THREADS, stat.threads));
            let start = self.boot_seconds.map(|boot| boot + stat.start_ticks / self.ticks_per_second);
            families.extend(start.into_iter().flat_map(|start| gauge(START, start)));
        }
        let resident = fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text));
        families.extend(resident.into_iter().flat_map(|bytes| gauge(RESIDENT, bytes)));
        let limit = fs::read_to_string("/proc/self/limits").ok().and_then(|text| open_files_limit(&text));
        families.extend(limit.into_iter().flat_map(|limit| gauge(MAX_FDS, limit)));
        // One of them is the descriptor of /proc/self/fd itself, which is being read.
        let open = fs::read_dir("/proc/self/fd").ok().and_then(|folder| u32::try_from(folder.count()).ok());
        families.extend(open.into_iter().flat_map(|open| gauge(OPEN_FDS, f64::from(open.saturating_sub(1)))));
        families
    }
}

fn counter((name, help): (&str, &str), value: f64) -> Vec<MetricFamily> {
    Counter::new(name, help)
        .map(|counter| {
            counter.inc_by(value);
            counter.collect()
        })
        .unwrap_or_default()
}

fn gauge((name, help): (&str, &str), value: f64) -> Vec<MetricFamily> {
    Gauge::new(name, help)
        .map(|gauge| {
            gauge.set(value);
            gauge.collect()
        })
        .unwrap_or_default()
}

/// The fields of /proc/self/stat that are exported.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name stands in parentheses and may itself contain parentheses and spaces.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, threads: field(20)?, start_ticks: field(22)?, virtual_bytes: field(23)? })
    }
}

fn resident_bytes(status: &str) -> Option<f64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    kibibytes.trim().parse::<f64>().ok().map(|kibibytes| kibibytes * 1024.0)
}

/// The soft limit; none when there is no limit.
fn open_files_limit(limits: &str) -> Option<f64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Stat, boot_seconds, open_files_limit, resident_bytes};

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 12345 1048576 300 18446744073709551615 1";
        let stat = Stat { cpu_ticks: 300.0, threads: 7.0, start_ticks: 12345.0, virtual_bytes: 1_048_576.0 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("42 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn the_other_files() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2_097_152.0));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        let limits = "Limit Soft Hard Units\nMax open files            1024                 4096                 files     \n";
        assert_eq!(open_files_limit(limits), Some(1024.0));
        assert_eq!(open_files_limit("Max open files            unlimited            unlimited            files\n"), None);
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }
}
