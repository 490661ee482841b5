//! Log lines about batches that are dropped here. What the server rejects is logged where the answer is read.

use golectra_process::LogLimiter;

use crate::metrics::DropReason;

static DROPPED: LogLimiter = LogLimiter::new();

/// Logs that a batch was dropped for want of room or because of its age.
pub(super) fn log_dropped(reason: DropReason) {
    let message = match reason {
        DropReason::QueueFull => {
            "the queue in memory is full: the oldest reports were dropped; the next report adds the counters of those that were not applied"
        }
        DropReason::SpoolFull => {
            "the spool is full (SPOOL_MAX_BYTES): the oldest reports were dropped; the next report adds the counters of those that were not applied"
        }
        DropReason::Expired => "reports waited longer than SPOOL_MAX_AGE and were dropped",
        _ => return,
    };
    DROPPED.log(reason.as_str(), move |count| tracing::warn!(count, reason = reason.as_str(), "{message}"));
}
