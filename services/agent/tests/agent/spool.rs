//! A full spool costs the program an index, not its contents.

use std::sync::Arc;
use std::time::Duration;

use golectra_agent::batch::Sealer;
use golectra_agent::spool::disk::DiskLimits;
use golectra_agent::spool::{Disk, Limits, Memory, Spool};
use golectra_agent::stats::{DropReason, Stats};
use golectra_protocol::{Metric, MetricId, Value};
use tempfile::TempDir;

use crate::process::{agent, figure, wait_for_figures};
use crate::server::Server;

const LIMITS: DiskLimits = DiskLimits { bytes: 16 << 20, age: Duration::from_hours(47) };

/// Fills a spool until the oldest make room; how many batches it holds then.
fn fill(folder: &std::path::Path) -> u64 {
    let stats = Arc::new(Stats::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
    let memory = Memory::new(Limits { batches: 1, bytes: 1 << 20 }, Arc::clone(&stats));
    let mut disk = Disk::open(folder, LIMITS, memory, None, Arc::clone(&stats)).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    let mut sealer = Sealer::new(None);
    while stats.dropped_so_far(DropReason::SpoolFull) == 0 {
        let gauge = |number| {
            let id = MetricId::parse(&format!("gauge_{number}")).unwrap();
            Metric { id, value: Value::Gauge(fastrand::f64()) }
        };
        sealer.add_poll((0..60).map(gauge).collect());
        let given_back = disk.make_room(now);
        disk.push(sealer.seal(now, given_back));
    }
    disk.fill().disk.batches as u64
}

async fn resident_bytes(folder: &std::path::Path, batches: u64) -> u64 {
    let address = Server::reserve().await;
    let metrics = Server::reserve().await;
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
    // Some reports are sealed and some tries made, so that what they take is there in both.
    wait_for_figures(&metrics, &[("golectra_agent_reports_sealed_total", 6), ("golectra_agent_spool_batches", batches)]).await;
    figure(&metrics, "process_resident_memory_bytes").await
}

#[tokio::test]
async fn a_full_spool_is_not_in_memory() {
    let (empty, full) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let batches = fill(full.path());
    let without = resident_bytes(empty.path(), 1).await;
    let with = resident_bytes(full.path(), batches * 9 / 10).await;
    println!("{batches} batches: {with} bytes resident, {without} with an empty spool");
    assert!(with < without + (1 << 20), "{with} bytes resident with {batches} batches, {without} without");
}
