//! What an agent says about the programs that it scrapes.

use super::{MetricGroup, MetricInfo};

const fn scrape(name: &'static str, unit: &'static str, help: &'static str) -> MetricInfo {
    MetricInfo::gauge("scrape", name, unit, &[], help)
}

#[rustfmt::skip]
pub(super) static GROUP: MetricGroup = MetricGroup {
    title: "Scraped programs",
    about: "An agent scrapes the URLs in `SCRAPE` and, with `SCRAPE_PODS`, the pods of its node that are annotated with `prometheus.io/scrape`, every \
`SCRAPE_INTERVAL`. It reads Prometheus's text format and OpenMetrics, and of Go programs `/debug/vars`. What they expose has their names and labels, and \
as with Prometheus (`honor_labels: false`) the labels `job` and `instance` (host and port of the target; `localhost` becomes the node's name), \
for pods also `namespace` and `pod`; a label that was there already becomes `exported_…`.

- Counters, histograms and summaries are sent as their series, with running totals. Bounds of buckets and quantiles are written as Prometheus 3 writes \
them: `le=\"1.0\"` for `le=\"1\"`.
- Timestamps and exemplars in the text are ignored: a sample has the time of its batch, at most a second after the scrape.
- NaN and infinities cannot be sent. They are left out and counted in `golectra_agent_readings_skipped_total`, as are names that no server accepts and \
the second of two samples of one series.
- A target that does not answer in time, cannot be parsed or exceeds a limit (`SCRAPE_MAX_…`) has `up` 0 and no other series of its own; the agent's \
log says why. Series that are gone are not sent any more.
- `memstats` of `/debug/vars` gives the original's names (`Alloc`, `TotalAlloc` …) with the target's labels, so that they are not taken for the \
agent's own; any other variable that is a number gives a gauge of its name, and a map of numbers one with the label `key`.

For each target the agent adds these, with the target's labels:",
    job: None,
    metrics: &[
        scrape("up", "", "1 when the target was scraped, else 0."),
        scrape("scrape_duration_seconds", "seconds", "How long the scrape took."),
        scrape("scrape_samples_scraped", "", "Samples that the target exposed."),
        scrape("scrape_samples_post_metric_relabeling", "", "Samples that are left after `SCRAPE_METRICS_INCLUDE` and `SCRAPE_METRICS_EXCLUDE`."),
        scrape("scrape_series_added", "", "Series that were not in the scrape before."),
    ],
};
