//! The sink's metrics.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// From a page cache to a slow disk.
const SYNC_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The results of a request, as label values.
const RESULTS: [&str; 7] = ["stored", "repeat", "unsigned", "invalid", "too_large", "too_slow", "unavailable"];

/// The settings that may make the sink remove events, as label values.
const LIMITS: [&str; 2] = [RETAIN_FILES, RETAIN_BYTES];

/// Events removed because of `RETAIN_FILES`.
pub(crate) const RETAIN_FILES: &str = "RETAIN_FILES";

/// Events removed because of `RETAIN_BYTES`.
pub(crate) const RETAIN_BYTES: &str = "RETAIN_BYTES";

/// The sink's metrics.
#[derive(Debug, Clone)]
pub(crate) struct SinkMetrics {
    /// Requests by result.
    pub(crate) received: IntCounterVec,
    /// Bytes of events written, before they are compressed.
    pub(crate) stored_bytes: IntCounter,
    /// How long syncing a group of events took, in seconds.
    pub(crate) sync: Histogram,
    /// Files of events.
    pub(crate) files: IntGauge,
    /// What the folder's files take, in bytes.
    pub(crate) folder_bytes: IntGauge,
    /// The time of the oldest event, in unix seconds.
    pub(crate) oldest_event: IntGauge,
    /// Removed events by the setting that was the cause.
    pub(crate) removed: IntCounterVec,
    /// Ids remembered.
    pub(crate) ids: IntGauge,
}

impl SinkMetrics {
    /// Registers the metrics. Fails where a name is taken.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let received = Opts::new("golectra_audit_sink_received_total", "Events received, by result.");
        let sync = HistogramOpts::new("golectra_audit_sink_sync_seconds", "How long syncing a group of events to disk took, in seconds.");
        let removed =
            Opts::new("golectra_audit_sink_removed_events_total", "Events removed, the oldest first, by the setting that was the cause.");
        let metrics = Self {
            received: IntCounterVec::new(received, &["result"])?,
            stored_bytes: IntCounter::new(
                "golectra_audit_sink_stored_bytes_total",
                "Bytes of events written to disk, before they are compressed.",
            )?,
            sync: Histogram::with_opts(sync.buckets(SYNC_SECONDS.to_vec()))?,
            files: IntGauge::new("golectra_audit_sink_files", "Files of events in the folder.")?,
            folder_bytes: IntGauge::new(
                "golectra_audit_sink_folder_bytes",
                "What the folder's files take, in bytes; RETAIN_BYTES is the bound.",
            )?,
            oldest_event: IntGauge::new(
                "golectra_audit_sink_oldest_event_timestamp_seconds",
                "Time of the oldest event in the folder, in unix seconds; 0 without events.",
            )?,
            removed: IntCounterVec::new(removed, &["limit"])?,
            ids: IntGauge::new("golectra_audit_sink_remembered_ids", "Ids of events that are remembered to recognise repeats.")?,
        };
        for result in RESULTS {
            metrics.received.with_label_values(&[result]);
        }
        for limit in LIMITS {
            metrics.removed.with_label_values(&[limit]);
        }
        registry.register(Box::new(metrics.received.clone()))?;
        registry.register(Box::new(metrics.stored_bytes.clone()))?;
        registry.register(Box::new(metrics.sync.clone()))?;
        registry.register(Box::new(metrics.files.clone()))?;
        registry.register(Box::new(metrics.folder_bytes.clone()))?;
        registry.register(Box::new(metrics.oldest_event.clone()))?;
        registry.register(Box::new(metrics.removed.clone()))?;
        registry.register(Box::new(metrics.ids.clone()))?;
        Ok(metrics)
    }
}
