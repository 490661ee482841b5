//! A full spool takes memory for its index, not for its contents.

use std::sync::Arc;
use std::time::Duration;

use golectra_agent::clock::Clock;
use golectra_agent::metrics::{AgentMetrics, DropReason};
use golectra_agent::sealer::Sealer;
use golectra_agent::spool::disk::DiskLimits;
use golectra_agent::spool::{Disk, Limits, Memory, Spool};
use golectra_protocol::{Metric, MetricId, Value};
use tempfile::TempDir;

use crate::process::{agent, metric, wait_for_metrics};
use crate::server::Server;

const LIMITS: DiskLimits = DiskLimits { bytes: 16 << 20, age: Duration::from_hours(47) };

/// Fills a spool until the oldest batches are dropped; how many batches it has then.
fn fill(folder: &std::path::Path) -> u64 {
    let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
    let memory = Memory::new(Limits { batches: 1, bytes: 1 << 20, age: LIMITS.age }, Arc::clone(&metrics));
    let clock = Clock::system();
    let mut disk = Disk::open(folder, LIMITS, memory, None, &clock, Arc::clone(&metrics)).unwrap();
    let mut sealer = Sealer::new(None);
    while metrics.dropped_so_far(DropReason::SpoolFull) == 0 {
        let gauge = |number| {
            let id = MetricId::parse(&format!("gauge_{number}")).unwrap();
            Metric { id, value: Value::Gauge(fastrand::f64()) }
        };
        sealer.add_poll((0..60).map(gauge).collect());
        let returned = disk.make_room();
        disk.push(sealer.seal(clock.unix_millis(), returned));
    }
    disk.usage().disk.batches as u64
}

async fn resident_bytes(folder: &std::path::Path, batches: u64) -> u64 {
    let address = Server::reserve();
    let metrics = Server::free_address();
    let folder = folder.to_str().unwrap();
    let variables = [
        ("ADDRESS", address.as_str()),
        ("SPOOL_DIR", folder),
        ("SPOOL_MAX_BYTES", "16MiB"),
        ("POLL_INTERVAL", "100ms"),
        ("REPORT_INTERVAL", "300ms"),
        ("METRICS_ADDRESS", &metrics),
    ];
    let _child = agent(&variables).spawn().unwrap();
    // Both agents seal some reports and make some tries, so that the memory for that is the same.
    wait_for_metrics(&metrics, &[("golectra_agent_reports_sealed_total", 6), ("golectra_agent_spool_batches", batches)]).await;
    metric(&metrics, "process_resident_memory_bytes").await
}

#[tokio::test]
async fn a_full_spool_takes_little_memory() {
    let (empty, full) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let batches = fill(full.path());
    let without = resident_bytes(empty.path(), 1).await;
    let with = resident_bytes(full.path(), batches * 9 / 10).await;
    println!("{batches} batches: {with} bytes resident, {without} with an empty spool");
    assert!(with < without + (1 << 20), "{with} bytes resident with {batches} batches, {without} without");
}
