//! What a query really holds in memory, where the process can tell: it is the only test of its process.
#![cfg(target_os = "linux")]

use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, Labels, MemoryBudget, NoInterrupt, Query, Value};

/// The most memory that the process has had so far, in bytes.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn series_of_a_list_stay_as_short_as_they_are_charged() {
    const SERIES: usize = 24;
    let mut store = MemoryStore::default();
    for number in 0..SERIES {
        store.add(&Labels::new([("__name__", "up".to_owned()), ("n", number.to_string())]), 0, 1.0);
    }
    let engine = Engine::default();
    for list in ["sort(up @ 0)", "(up @ 0 + on (n) up @ 0)"] {
        let query = Query::parse(&format!("count_over_time({list}[999999s:1s])"), &engine.parse_limits).unwrap();
        let outcome = engine.instant(&query, 10_000_000_000, &store, &NoInterrupt, &MemoryBudget::new(64 << 20)).unwrap();
        let Value::Vector { samples, .. } = outcome.value else { panic!("a vector") };
        assert_eq!(samples.len(), SERIES);
        assert!(samples.iter().all(|sample| sample.value.to_bits() == 999_999_f64.to_bits()), "{samples:?}");
        // The columns of all series would take 192 MB.
        assert!(peak_bytes() < 128 << 20, "{list}: {} bytes", peak_bytes());
    }
}
