//! What /metrics says of the sink.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// From a page cache to a slow disk.
const SYNC_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What may become of a request, as label values.
pub const RESULTS: [&str; 7] = ["stored", "repeat", "unsigned", "invalid", "too_large", "too_slow", "unavailable"];

/// The sink's figures.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Requests by what became of them.
    pub received: IntCounterVec,
    /// Bytes of events written.
    pub bytes: IntCounter,
    /// How long syncing a group of events took, in seconds.
    pub sync: Histogram,
    /// Files of events.
    pub files: IntGauge,
    /// Ids remembered.
    pub ids: IntGauge,
}

impl Figures {
    /// Registers them. The error is prometheus' own, for a name that is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let received = Opts::new("golectra_audit_sink_received_total", "Events received, by what became of them.");
        let sync = HistogramOpts::new("golectra_audit_sink_sync_seconds", "How long syncing a group of events to disk took, in seconds.");
        let figures = Self {
            received: IntCounterVec::new(received, &["result"])?,
            bytes: IntCounter::new("golectra_audit_sink_stored_bytes_total", "Bytes of events written to disk.")?,
            sync: Histogram::with_opts(sync.buckets(SYNC_SECONDS.to_vec()))?,
            files: IntGauge::new("golectra_audit_sink_files", "Files of events in the folder.")?,
            ids: IntGauge::new("golectra_audit_sink_remembered_ids", "Ids of events that are remembered to tell repeats.")?,
        };
        for result in RESULTS {
            figures.received.with_label_values(&[result]);
        }
        registry.register(Box::new(figures.received.clone()))?;
        registry.register(Box::new(figures.bytes.clone()))?;
        registry.register(Box::new(figures.sync.clone()))?;
        registry.register(Box::new(figures.files.clone()))?;
        registry.register(Box::new(figures.ids.clone()))?;
        Ok(figures)
    }
}
