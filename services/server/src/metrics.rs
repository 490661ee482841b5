//! The server's metrics. All names and labels are here, in one place for dashboards and alerts to refer to.

pub mod alerts;
pub mod history;
pub mod keys;
pub mod memory;
pub mod panels;
pub mod postgres;
pub mod queries;
mod sources;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;
use golectra_process::listen::{ConnectionMetrics, Cut};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use self::sources::{MAX_SOURCES, SourceMetrics};
use golectra_protocol::remote_write::Decoded;

use crate::store::{Applied, Refusal, RefusedSamples, SourceInfo, Store};

/// From half a millisecond to 10 s.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why something of a remote-write request is not stored.
const REMOTE_WRITE_REASONS: [&str; 7] =
    ["series_limit", "conflict", "too_old", "too_new", "invalid_series", "native_histogram", "exemplar"];

/// The server's own metrics. Cheap to clone.
#[derive(Clone)]
pub struct ServerMetrics(Arc<Inner>);

struct Inner {
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGauge,
    batches: IntCounterVec,
    metrics: IntCounter,
    rejected: IntCounterVec,
    signed: IntCounterVec,
    tokens: IntCounterVec,
    remote_write: IntCounterVec,
    store: HistogramVec,
    frequent: Frequent,
    store_up: IntGauge,
    sources: SourceMetrics,
}

/// Metrics that every write updates, looked up once: looking up labels costs more than counting.
struct Frequent {
    routes: [FrequentRoute; 2],
    applied: IntCounter,
    store_apply: Histogram,
    store_value: Histogram,
}

/// A route that agents use.
struct FrequentRoute {
    route: &'static str,
    /// Posts that were answered with 200.
    fine: IntCounter,
    duration: Histogram,
}

impl Frequent {
    fn of(requests: &IntCounterVec, durations: &HistogramVec, batches: &IntCounterVec, store: &HistogramVec) -> Self {
        let route = |route| FrequentRoute {
            route,
            fine: requests.with_label_values(&[route, "POST", StatusCode::OK.as_str()]),
            duration: durations.with_label_values(&[route]),
        };
        Self {
            routes: ["/updates", "/update"].map(route),
            applied: batches.with_label_values(&["applied"]),
            store_apply: store.with_label_values(&["apply"]),
            store_value: store.with_label_values(&["value"]),
        }
    }
}

impl ServerMetrics {
    /// Registers every metric.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = counters("http_requests_total", "Requests answered.", &["route", "method", "status"])?;
        let durations = seconds("http_request_duration_seconds", "From a request's head to its answer.", "route")?;
        let batches = counters("ingest_batches_total", "Batches applied, and repeats of those that had been.", &["outcome"])?;
        let store = seconds("store_duration_seconds", "How long the store took.", "operation")?;
        let inner = Inner {
            frequent: Frequent::of(&requests, &durations, &batches, &store),
            requests,
            durations,
            in_flight: IntGauge::new("golectra_http_requests_in_flight", "Requests under way.")?,
            batches,
            metrics: IntCounter::new("golectra_ingest_metrics_total", "Metrics applied.")?,
            rejected: counters("ingest_rejected_total", "Writes refused.", &["reason"])?,
            signed: counters("signed_requests_total", "Requests with a valid signature, by the id of its key.", &["kid"])?,
            store,
            tokens: counters("api_token_requests_total", "Requests with a valid API token, by the token's name.", &["token"])?,
            remote_write: counters("remote_write_refused_total", "Samples of remote-write that were refused, by reason.", &["reason"])?,
            store_up: IntGauge::new("golectra_store_up", "1 when the store answered last time, 0 when it did not.")?,
            sources: SourceMetrics::register(registry, MAX_SOURCES)?,
        };
        for collector in [
            Box::new(inner.requests.clone()) as Box<dyn Collector>,
            Box::new(inner.durations.clone()),
            Box::new(inner.in_flight.clone()),
            Box::new(inner.batches.clone()),
            Box::new(inner.metrics.clone()),
            Box::new(inner.rejected.clone()),
            Box::new(inner.signed.clone()),
            Box::new(inner.tokens.clone()),
            Box::new(inner.remote_write.clone()),
            Box::new(inner.store.clone()),
            Box::new(inner.store_up.clone()),
        ] {
            registry.register(collector)?;
        }
        for outcome in ["applied", "partly", "repeat"] {
            inner.batches.with_label_values(&[outcome]);
        }
        for reason in REMOTE_WRITE_REASONS {
            inner.remote_write.with_label_values(&[reason]);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Starts observing a request.
    pub fn request_starts(&self) -> RequestWatch {
        self.0.in_flight.inc();
        RequestWatch { metrics: self.clone(), started: Instant::now() }
    }

    /// Counts a batch and its metrics.
    pub fn applied(&self, applied: &Applied, metrics: usize) {
        match applied {
            Applied::New => {
                self.0.frequent.applied.inc();
                self.0.metrics.inc_by(metrics as u64);
            }
            Applied::Partly(refused) => {
                self.0.batches.with_label_values(&["partly"]).inc();
                self.0.metrics.inc_by(metrics.saturating_sub(refused.total()) as u64);
            }
            Applied::Repeat => self.0.batches.with_label_values(&["repeat"]).inc(),
        }
    }

    /// Counts a refused write.
    pub fn rejected(&self, reason: &str) {
        self.0.rejected.with_label_values(&[reason]).inc();
    }

    /// Counts a request that has this API token.
    pub fn token_used(&self, name: &str) {
        self.0.tokens.with_label_values(&[name]).inc();
    }

    /// Counts what was refused of a remote-write request.
    pub fn remote_write(&self, decoded: &Decoded, refused: &RefusedSamples) {
        let counts = [
            refused.count(Refusal::SeriesLimit),
            refused.count(Refusal::Conflict),
            refused.count(Refusal::TooOld),
            refused.count(Refusal::TooNew),
            decoded.invalid.samples,
            decoded.histograms,
            decoded.exemplars,
        ];
        for (reason, count) in REMOTE_WRITE_REASONS.iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.0.remote_write.with_label_values(&[*reason]).inc_by(count as u64);
        }
    }

    /// Counts a request that was signed with this key.
    pub fn signed(&self, key_id: &str) {
        self.0.signed.with_label_values(&[key_id]).inc();
    }

    /// Measures an operation of the store until the timer is dropped.
    pub fn store_timer(&self, operation: &str) -> HistogramTimer {
        match operation {
            "apply" => self.0.frequent.store_apply.start_timer(),
            "value" => self.0.frequent.store_value.start_timer(),
            other => self.0.store.with_label_values(&[other]).start_timer(),
        }
    }

    /// Sets whether the store answered.
    pub fn store_up(&self, up: bool) {
        self.0.store_up.set(i64::from(up));
    }

    /// Exports when each source was last seen.
    pub fn sources(&self, sources: &[SourceInfo]) {
        self.0.sources.set(sources);
    }
}

/// A request that is being handled. If it is dropped without an answer, the client has disconnected.
pub struct RequestWatch {
    metrics: ServerMetrics,
    started: Instant,
}

impl RequestWatch {
    /// Records the answer.
    pub fn ends(self, route: &str, method: &str, status: StatusCode) {
        let inner = &self.metrics.0;
        let seconds = self.started.elapsed().as_secs_f64();
        let frequent = inner.frequent.routes.iter().find(|frequent| frequent.route == route);
        match frequent {
            Some(frequent) => frequent.duration.observe(seconds),
            None => inner.durations.with_label_values(&[route]).observe(seconds),
        }
        match frequent {
            Some(frequent) if method == "POST" && status == StatusCode::OK => frequent.fine.inc(),
            _ => inner.requests.with_label_values(&[route, method, status.as_str()]).inc(),
        }
    }
}

impl Drop for RequestWatch {
    fn drop(&mut self) {
        self.metrics.0.in_flight.dec();
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(format!("golectra_{name}"), help), labels)
}

fn seconds(name: &str, help: &str, label: &str) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(HistogramOpts::new(format!("golectra_{name}"), help).buckets(SECONDS.to_vec()), &[label])
}

/// Metrics that other parts count and that are read at each scrape.
pub struct Borrowed {
    store: Arc<dyn Store>,
    connections: ConnectionMetrics,
    series: Gauge,
    queue: IntGauge,
    pool: IntGaugeVec,
    open: IntGauge,
    accepted: IntCounter,
    cut: IntCounterVec,
}

impl Borrowed {
    /// Registers the metrics of the store and the listener.
    pub fn register(registry: &Registry, store: Arc<dyn Store>, connections: ConnectionMetrics) -> prometheus::Result<()> {
        let pool = Opts::new("golectra_store_pool_connections", "Connections to the database.");
        registry.register(Box::new(Self {
            store,
            connections,
            series: Gauge::new("golectra_store_series", "Series held in memory or known in this process.")?,
            queue: IntGauge::new("golectra_store_queue_depth", "Writes that wait for the store.")?,
            pool: IntGaugeVec::new(pool, &["state"])?,
            open: IntGauge::new("golectra_http_connections_open", "Connections open.")?,
            accepted: IntCounter::new("golectra_http_connections_accepted_total", "Connections accepted.")?,
            cut: counters("http_connections_cut_total", "Connections closed at a limit of time or memory.", &["limit"])?,
        }))
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [&self.series, &self.queue, &self.pool, &self.open, &self.accepted, &self.cut]
    }
}

impl Collector for Borrowed {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.store.metrics();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 series")]
        self.series.set(metrics.series.unwrap_or(0) as f64);
        self.queue.set(int(metrics.queue_depth));
        if let Some((used, idle)) = metrics.pool {
            self.pool.with_label_values(&["used"]).set(used.into());
            self.pool.with_label_values(&["idle"]).set(idle.into());
        }
        self.open.set(int(self.connections.open()));
        catch_up(&self.accepted, self.connections.accepted_total());
        for cut in Cut::ALL {
            catch_up(&self.cut.with_label_values(&[cut.as_str()]), self.connections.cut_total(cut));
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Sets a counter to a total that another part counts.
fn catch_up(counter: &IntCounter, total: u64) {
    /// Two scrapes at the same time would both add what is missing.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes_at_the_same_time_count_nothing_twice() {
        let counter = IntCounter::new("counted_total", "Counted elsewhere.").unwrap();
        let total = Mutex::new(0);
        let count = || {
            let mut total = total.lock().unwrap();
            *total += 1;
            *total
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..100_000 {
                        let now = count();
                        catch_up(&counter, now);
                        let shown = counter.get();
                        let latest = *total.lock().unwrap();
                        assert!((now..=latest).contains(&shown), "{shown} of {now} to {latest}");
                    }
                });
            }
        });
        assert_eq!(counter.get(), 200_000);
    }
}
