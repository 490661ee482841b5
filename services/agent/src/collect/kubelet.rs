//! What the kubelet of the node tells about the node, its pods and their volumes: an agent sees them without any mount.
//!
//! The kubelet is asked every 30 s, apart from the other collectors and in batches of its own: an answer takes it up to seconds,
//! and what it tells does not change faster. Each answer is sealed as soon as it comes, so that its values have its time. A kubelet that
//! is slow, gone, older or denies is a metric and a line in the log, never a report that fails. What it no longer tells is not sent
//! any more, so that it is gone from queries after their lookback.

mod annotated;
mod cadvisor;
mod check;
mod client;
#[cfg(fuzzing)]
pub mod fuzzing;
mod items;
mod mounts;
mod namespaces;
mod pods;
mod quantity;
mod splitter;
mod summary;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use golectra_process::{LogLimiter, Secret};
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

pub use self::annotated::{AnnotatedPod, AnnotatedPods, PodList, UnusablePod};
use self::cadvisor::Cadvisor;
pub use self::check::{Check, Finding, State};
use self::client::{Client, Endpoint};
pub use self::client::{KubeletAddress, KubeletError, TlsMode};
pub(super) use self::client::{read_small, send_idempotent, tls_error};
use self::items::{BatchItems, Items, LabelSets, Owner, Writer};
pub use self::namespaces::{NamespaceList, NamespaceListError, Namespaces};
use self::splitter::Splitter;
pub use self::summary::NodeMetrics;
use self::summary::{HostNetworks, Summary};
pub use self::tls::Certificate;
pub(super) use self::tls::authorities;
use super::Filter;
use crate::batch::Batch;
use crate::metrics::AgentMetrics;
use crate::spool::Queue;

static FAILURES: LogLimiter<(&'static str, &'static str)> = LogLimiter::new();

const SUMMARY: Endpoint = Endpoint { path: "/stats/summary", resource: "nodes/stats", accept: "application/json" };

/// Kubelets before 1.33, and later ones without KubeletFineGrainedAuthz, ask for `nodes/proxy` here, which would allow far more
/// than reading: the agent's ClusterRole never allows it.
const PODS: Endpoint = Endpoint { path: "/pods", resource: "nodes/pods (Kubernetes 1.33 or newer)", accept: "application/json" };

const CADVISOR: Endpoint = Endpoint { path: "/metrics/cadvisor", resource: "nodes/metrics", accept: "text/plain" };

/// How many series say how long one request took and whether it succeeded.
const NOTE_SERIES: usize = 2;

/// How the kubelet is asked.
#[derive(Debug, Clone)]
pub struct KubeletSettings {
    /// Where it is.
    pub address: KubeletAddress,
    /// Time between two questions.
    pub interval: Duration,
    /// Whether its pods are asked for in detail: throttling, OOM kills, restarts, phases, requests and limits.
    pub details: bool,
    /// Whose pods are reported.
    pub namespaces: Namespaces,
    /// The most series that are reported.
    pub max_series: usize,
    /// Which metrics of the node are reported from here.
    pub node_metrics: NodeMetrics,
    /// Which series of these are reported.
    pub filter: Arc<Filter>,
}

/// Reads from one kubelet.
#[derive(Debug)]
pub struct Kubelet {
    client: Client,
    settings: KubeletSettings,
    labels: LabelSets,
    metrics: Arc<AgentMetrics>,
    /// What the log says of its certificate.
    logged_certificate: Certificate,
    /// The questions that failed the last time.
    failing: Vec<&'static str>,
    /// What the last list of pods told.
    host_networks: Arc<HostNetworks>,
}

impl Kubelet {
    /// Nothing is read yet.
    pub fn new(settings: KubeletSettings, metrics: Arc<AgentMetrics>) -> Self {
        Self {
            client: Client::new(settings.address.clone()),
            settings,
            labels: LabelSets::default(),
            metrics,
            logged_certificate: Certificate::Unknown,
            failing: Vec::new(),
            host_networks: Arc::default(),
        }
    }

    /// Reads at once and then at each interval, and puts batches into the queue, until `stop` is cancelled.
    pub async fn run(mut self, queue: Queue, hash_key: Option<Secret>, stop: CancellationToken) {
        // Agents that were started together do not all ask and send at the same time.
        let second = tokio::time::Instant::now() + self.settings.interval.mul_f64(0.5 + fastrand::f64() / 2.0);
        let mut ticks = interval_at(second, self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = self.read(&queue, hash_key.as_ref()) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Asks once, and puts the values of each answer into the queue.
    async fn read(&mut self, queue: &Queue, hash_key: Option<&Secret>) {
        self.labels.next_reading();
        let mut items = Items::of(self.settings.namespaces.clone());
        items.reserved = if self.settings.details { 2 * NOTE_SERIES } else { 0 };
        let start = Instant::now();
        let result = self.summary(&mut items).await;
        self.note("kubelet", result, start.elapsed(), &mut items);
        self.note_certificate(&mut items);
        self.seal(&mut items, queue, hash_key);
        if self.settings.details {
            items.reserved = NOTE_SERIES;
            let start = Instant::now();
            let result = self.pods(&mut items).await;
            self.note("pods", result, start.elapsed(), &mut items);
            self.seal(&mut items, queue, hash_key);
            items.reserved = 0;
            let start = Instant::now();
            let result = self.cadvisor(&mut items).await;
            self.note("cadvisor", result, start.elapsed(), &mut items);
            self.seal(&mut items, queue, hash_key);
        }
        super::log_skipped("kubelet", items.readings, &self.metrics);
    }

    /// Seals what was added since the last call, with the time of now.
    fn seal(&self, items: &mut Items, queue: &Queue, hash_key: Option<&Secret>) {
        for BatchItems { text, items: count } in items.batches(self.settings.max_series) {
            queue.seal_with(|unix_millis, returned| Batch::of_items(unix_millis, text, count as u64, returned, hash_key));
            self.metrics.sealed();
        }
    }

    async fn summary(&mut self, items: &mut Items) -> Result<(), KubeletError> {
        let mut summary = Summary::new(self.settings.node_metrics, Arc::clone(&self.settings.filter), mounts::devices())
            .knowing(Arc::clone(&self.host_networks));
        let mut splitter = Splitter::default();
        let labels = &mut self.labels;
        self.client
            .get(SUMMARY, |piece| Ok(splitter.read(piece, &mut |member, object| summary.read(member, object, items, labels))?))
            .await?;
        splitter.finish()?;
        if summary.has_node { Ok(()) } else { Err(KubeletError::Invalid("it has no part on the node".to_owned())) }
    }

    async fn pods(&mut self, items: &mut Items) -> Result<(), KubeletError> {
        let (mut splitter, labels) = (Splitter::default(), &mut self.labels);
        let read = |piece: &[u8]| Ok(splitter.read(piece, &mut |member, object| pods::read(member, object, items, labels))?);
        self.client.get(PODS, read).await?;
        splitter.finish()?;
        self.host_networks = Arc::new(std::mem::take(&mut items.host_networks));
        Ok(())
    }

    async fn cadvisor(&mut self, items: &mut Items) -> Result<(), KubeletError> {
        let mut cadvisor = Cadvisor::default();
        self.client
            .get(CADVISOR, |piece| {
                cadvisor.read(piece);
                Ok(())
            })
            .await?;
        cadvisor.write(items, &mut self.labels);
        Ok(())
    }

    /// Says how asking went, in the agent's own metrics, in those that are sent, and when it fails in the log.
    fn note(&mut self, question: &'static str, result: Result<(), KubeletError>, took: Duration, items: &mut Items) {
        let (seconds, success) = (super::seconds(took), result.is_ok());
        self.metrics.collected(question, seconds, success);
        items.group(&mut self.labels, Owner::Node(question), 0.0, |writer: &mut Writer<'_>| {
            let labels: &[(&str, &str)] = &[("collector", question)];
            writer.gauge("golectra_agent_collector_duration_seconds", labels, Some(seconds));
            writer.gauge("golectra_agent_collector_success", labels, Some(f64::from(u8::from(success))));
        });
        let failed_before = self.failing.contains(&question);
        match result {
            Ok(()) if failed_before => {
                self.failing.retain(|failing| *failing != question);
                tracing::info!(collector = question, "the collector works again");
            }
            Ok(()) => {}
            Err(error) => {
                let reason = error.reason();
                self.metrics.kubelet_failed(reason);
                if !failed_before {
                    self.failing.push(question);
                }
                FAILURES.log((question, reason), move |count| {
                    tracing::warn!(count, collector = question, reason, %error, "the kubelet did not answer as expected: metrics are missing");
                });
            }
        }
    }

    /// Says once that a certificate could not be verified.
    fn note_certificate(&mut self, items: &mut Items) {
        let certificate = self.client.certificate();
        if certificate == Certificate::Unknown {
            return;
        }
        let verified = f64::from(u8::from(certificate == Certificate::Verified));
        self.metrics.kubelet_certificate_verified(verified);
        items.group(&mut self.labels, Owner::Node("certificate"), 0.0, |writer: &mut Writer<'_>| {
            writer.gauge("golectra_agent_kubelet_certificate_verified", &[], Some(verified));
        });
        if std::mem::replace(&mut self.logged_certificate, certificate) == certificate {
            return;
        }
        let url = self.client.address().url.as_str();
        if certificate == Certificate::OfOwnNode {
            tracing::warn!(
                url,
                "the kubelet's certificate is not signed by an authority in KUBELET_CA_FILE: it is accepted because the address is this \
                 node's own; KUBELET_TLS=verify would refuse it"
            );
        } else {
            tracing::info!(url, "the kubelet's certificate is verified");
        }
    }
}
