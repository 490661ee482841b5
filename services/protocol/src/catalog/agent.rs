//! What an agent says about itself.

use super::{MetricGroup, MetricInfo as M};

#[rustfmt::skip]
pub(super) static GROUP: MetricGroup = MetricGroup {
    title: "The agent itself",
    about: "What an agent says about itself, without a label `job`. The values are those of its own /metrics, except that \
            `golectra_agent_reports_dropped_total` is 0 in the first report of each process, so that `increase()` counts what was dropped \
            before it.",
    job: None,
    metrics: &[
        M::gauge("all", "golectra_agent_collector_duration_seconds", "seconds", &["collector"], "How long a collector of the agent took."),
        M::gauge("all", "golectra_agent_collector_success", "", &["collector"], "1 when a collector of the agent succeeded, else 0."),
        M::gauge("kubelet", "golectra_agent_kubelet_certificate_verified", "", &[], "1 when the kubelet's certificate is signed by a known authority, 0 when it was accepted because it came from the own node."),
        M::gauge("agent", "golectra_agent_queue_oldest_age_seconds", "seconds", &[], "Age of the oldest report that waits, in memory or on disk; 0 when there is none."),
        M::counter("agent", "golectra_agent_reports_dropped_total", "", &["reason"], "Reports that the agent dropped, by reason; `spool_full` only with a spool on disk."),
        M::gauge("agent", "golectra_agent_spool_bytes", "bytes", &[], "Disk space that the spool's files take; only with a spool on disk."),
        M::gauge("agent", "golectra_agent_spool_oldest_age_seconds", "seconds", &[], "Age of the oldest report on disk; 0 when there is none; only with a spool on disk."),
        M::gauge("agent", "golectra_agent_stopping", "", &[], "1 in the last report of an agent that was told to end, as by SIGTERM, else 0."),
        M::gauge("agent", "golectra_build_info", "", &["commit", "service", "version"], "Always 1; the labels say which build the agent is."),
    ],
};
