//! Scrapes programs that expose metrics themselves: in Prometheus's text format, in OpenMetrics, or Go programs with expvar.
//!
//! Each target is scraped once an interval, all of them at the same time. The targets that answer within a second share
//! batches, in the order in which they were set, so that a server gets the same series in the same order every time; a slower
//! one has a batch of its own. So a batch's time is when its values were measured, to the second.
//!
//! The targets are those of `SCRAPE`, and with `SCRAPE_PODS` the pods of the node that ask for it by their annotations.
//!
//! A series has the labels of its target (`job`, `instance`, for a pod also `namespace` and `pod`), and each scrape metrics about itself, `up` among them, as with
//! Prometheus. Cumulative counters, histograms and summaries travel as gauges: the wire's counters are what golectra itself
//! counts.

mod check;
mod client;
mod error;
mod expvar;
#[cfg(fuzzing)]
pub mod fuzzing;
mod job;
mod pieces;
mod series;
mod target;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golectra_process::{LogLimiter, Secret};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use self::check::findings;
pub use self::client::ScrapeClientError;
use self::client::{Client, Roots, Token, read_token};
use self::job::{ScrapeJob, Scraped};
use self::pieces::{Piece, Pieces};
use self::series::SeriesBudget;
pub use self::target::{Target, is_loopback};
use crate::batch::Batch;
use crate::collect::Choice;
use crate::collect::kubelet::{AnnotatedPods, KubeletAddress, Namespaces, PodList, UnusablePod, read_small};
use crate::metrics::{AgentMetrics, SkipReason};
use crate::spool::Queue;

/// How long the first targets of a round wait for the others to share a batch.
const JOINT_WINDOW: Duration = Duration::from_secs(1);

/// The first round starts up to this much after the start, at most a tenth of the interval, so that nodes that were started
/// together do not all scrape together.
const MAX_DELAY: Duration = Duration::from_secs(3);

/// How long a round waits for the kubelet's list of pods; after that the last one counts.
const PODS_LIMIT: Duration = Duration::from_secs(3);

/// The most pods that are scraped.
const MAX_PODS: usize = 250;

static PODS_FAILURES: LogLimiter = LogLimiter::new();

static CA_FAILURES: LogLimiter = LogLimiter::new();

static PODS_OVER_LIMIT: Hourly = Hourly::new();

static SERIES_OVER_LIMIT: Hourly = Hourly::new();

/// What stays so until somebody changes a setting is said once an hour.
struct Hourly(Mutex<Option<Instant>>);

impl Hourly {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether it is to be said now.
    fn is_due(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = said.is_none_or(|said| now.duration_since(said) >= Duration::from_hours(1));
        if is_due {
            *said = Some(now);
        }
        is_due
    }
}

/// What is scraped, and how.
#[derive(Debug, Clone)]
pub struct ScrapeSettings {
    /// The targets.
    pub targets: Vec<Target>,
    /// The kubelet that is asked for pods to scrape.
    pub pods: Option<KubeletAddress>,
    /// The namespaces whose pods are scraped.
    pub namespaces: Namespaces,
    /// Between two scrapes of a target.
    pub interval: Duration,
    /// How long a scrape may take; not longer than the interval.
    pub timeout: Duration,
    /// What a target may expose.
    pub limits: ScrapeLimits,
    /// The metrics that are reported, by name.
    pub filter: Arc<Choice>,
    /// The authorities that may have signed the certificates of targets; None for those of the system.
    pub ca_file: Option<PathBuf>,
    /// The token that the targets are asked with, but not pods: whoever may run a pod could ask for it.
    pub token_file: Option<PathBuf>,
}

/// What a target may expose. One that exposes more fails as a whole, as with Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeLimits {
    /// The length of an answer, unpacked.
    pub body_bytes: usize,
    /// Samples.
    pub samples: usize,
    /// Labels of a series, with its name and the labels of the target.
    pub labels: usize,
    /// The length of a label's name.
    pub label_name_bytes: usize,
    /// The length of a label's value or a metric's name.
    pub label_value_bytes: usize,
}

impl ScrapeSettings {
    /// Whether there is nothing to scrape.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.pods.is_none()
    }
}

/// Scrapes all targets.
#[derive(Debug)]
pub struct Scraper {
    settings: ScrapeSettings,
    client: Arc<Client>,
    pods: Option<AnnotatedPods>,
    /// The targets of the last list of pods.
    pod_targets: Vec<Target>,
    /// Those of that list that ask in vain.
    unusable_pods: Vec<UnusablePod>,
    /// Those that are not being scraped.
    jobs: HashMap<Target, Box<ScrapeJob>>,
    budget: Arc<SeriesBudget>,
    hash_key: Option<Secret>,
    metrics: Arc<AgentMetrics>,
}

impl Scraper {
    /// A scraper of these targets, of which at most `max_series` series are reported together.
    pub fn new(
        settings: ScrapeSettings,
        max_series: usize,
        hash_key: Option<Secret>,
        metrics: Arc<AgentMetrics>,
    ) -> Result<Self, ScrapeClientError> {
        let client = Arc::new(client(&settings, roots(&settings, &settings.targets))?);
        let pods = settings.pods.clone().map(AnnotatedPods::new);
        let budget = Arc::new(SeriesBudget::new(max_series));
        Ok(Self {
            settings,
            client,
            pods,
            pod_targets: Vec::new(),
            unusable_pods: Vec::new(),
            jobs: HashMap::new(),
            budget,
            hash_key,
            metrics,
        })
    }

    /// Scrapes each interval until `stop` is cancelled. Ticks that were missed are skipped.
    pub async fn run(mut self, queue: Queue, stop: CancellationToken) {
        let delay = (self.settings.interval / 10).min(MAX_DELAY).mul_f64(fastrand::f64());
        let mut ticks = interval_at(Instant::now() + delay, self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.list_pods() => {}
            }
            self.round(&queue, &stop).await;
        }
    }

    /// Asks the kubelet which pods are to be scraped. If it does not answer, they are the last ones.
    async fn list_pods(&mut self) {
        let Some(pods) = &mut self.pods else { return };
        let error = match timeout(PODS_LIMIT, pods.list(&self.settings.namespaces)).await {
            Ok(Ok(PodList { pods, unusable })) => {
                for UnusablePod { namespace, name, reason } in unusable.iter().filter(|pod| !self.unusable_pods.contains(pod)) {
                    tracing::warn!(
                        namespace,
                        pod = name,
                        reason,
                        "a pod asks to be scraped and cannot be: its annotations have to be changed"
                    );
                }
                self.unusable_pods = unusable;
                let too_many = pods.len().saturating_sub(MAX_PODS) as u64;
                if too_many > 0 {
                    self.metrics.readings_skipped("scrape", SkipReason::Limit, too_many);
                    if PODS_OVER_LIMIT.is_due() {
                        tracing::warn!(
                            pods = too_many,
                            limit = MAX_PODS,
                            "more pods of this node ask to be scraped than an agent scrapes: the last ones by namespace and name are left out"
                        );
                    }
                }
                self.pod_targets = pods.iter().take(MAX_PODS).filter_map(Target::of_pod).collect();
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the kubelet did not list its pods within {} s", PODS_LIMIT.as_secs()),
        };
        PODS_FAILURES.log("pods", move |count| {
            tracing::warn!(count, error, "the pods to scrape are not known: those of the last list are scraped");
        });
    }

    /// Scrapes each target once. When `stop` is cancelled, what has been measured is still reported.
    async fn round(&mut self, queue: &Queue, stop: &CancellationToken) {
        self.renew_client();
        let token: Option<Arc<Token>> = self.settings.token_file.as_deref().map(|path| Arc::new(read_token(path)));
        let mut running = JoinSet::new();
        let mut jobs = std::mem::take(&mut self.jobs);
        for (index, target) in self.settings.targets.iter().chain(&self.pod_targets).enumerate() {
            let new_job = || {
                ScrapeJob::new(target.clone(), self.settings.limits, Arc::clone(&self.settings.filter), Arc::clone(&self.budget))
                    .ok()
                    .map(Box::new)
            };
            if let Some(mut job) = jobs.remove(target).or_else(new_job) {
                let client = Arc::clone(&self.client);
                let token = token.clone().filter(|_| index < self.settings.targets.len());
                running.spawn(async move {
                    let scraped = job.scrape(&client, token.as_deref()).await;
                    (index, job, scraped)
                });
            }
        }
        // What is left are pods that are gone.
        drop(jobs);
        let joint_until = Instant::now() + JOINT_WINDOW;
        let mut joint: Vec<(usize, Pieces)> = Vec::new();
        let mut is_joint = true;
        loop {
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ended = running.join_next() => ended,
                () = sleep_until(joint_until), if is_joint => {
                    is_joint = false;
                    self.seal(std::mem::take(&mut joint), queue);
                    continue;
                }
            };
            match ended {
                None => break,
                // A bug; the target starts anew with the next round.
                Some(Err(error)) => tracing::error!(%error, "a scrape ended early"),
                Some(Ok((index, job, scraped))) => {
                    self.count(job.target(), &scraped);
                    self.jobs.insert(job.target().clone(), job);
                    joint.push((index, scraped.pieces));
                    if !is_joint {
                        self.seal(std::mem::take(&mut joint), queue);
                    }
                }
            }
        }
        self.seal(joint, queue);
    }

    /// Makes the client anew when a pod is the first target that uses TLS, or when the authorities have changed. Where that fails the
    /// client stays as it is.
    fn renew_client(&mut self) {
        let mut roots = roots(&self.settings, self.settings.targets.iter().chain(&self.pod_targets));
        if roots == Roots::None && *self.client.roots() != Roots::None {
            // It may be needed again.
            roots = self.client.roots().clone();
        }
        if roots == Roots::File(Vec::new()) && matches!(self.client.roots(), Roots::File(_)) {
            // While the file cannot be read, what it had before counts.
            return;
        }
        if roots != *self.client.roots()
            && let Ok(client) = client(&self.settings, roots)
        {
            self.client = Arc::new(client);
        }
    }

    /// Counts what of a target cannot be reported. A limit that is reached is logged; the other reasons are the target's own, and NaN is usual there.
    fn count(&self, target: &Target, scraped: &Scraped) {
        let counts = scraped.counts;
        for (reason, samples) in [
            (SkipReason::InvalidValue, counts.not_finite),
            (SkipReason::InvalidId, counts.invalid_ids),
            (SkipReason::Duplicate, counts.duplicates),
            (SkipReason::Limit, counts.over_budget),
        ] {
            if samples > 0 {
                self.metrics.readings_skipped("scrape", reason, samples as u64);
            }
        }
        if counts.over_budget > 0 && SERIES_OVER_LIMIT.is_due() {
            tracing::warn!(
                job = target.job(),
                instance = target.instance(),
                url = %target.url_for_log(),
                samples = counts.over_budget,
                "samples of a target are left out: all targets together have more series, or more text in them, than SCRAPE_MAX_SERIES allows"
            );
        }
    }

    fn seal(&self, mut scraped: Vec<(usize, Pieces)>, queue: &Queue) {
        scraped.sort_by_key(|(index, _)| *index);
        for Piece { items, count } in Pieces::join(scraped.into_iter().map(|(_, pieces)| pieces)) {
            queue.seal_with(|unix_millis, returned| Batch::of_items(unix_millis, items, count as u64, returned, self.hash_key.as_ref()));
            self.metrics.sealed();
        }
    }
}

/// A client that trusts these authorities.
fn client(settings: &ScrapeSettings, roots: Roots) -> Result<Client, ScrapeClientError> {
    Client::new(settings.limits.body_bytes, settings.timeout, roots)
}

/// The authorities for these targets. Without the file no certificate can be verified, which is what the error of a scrape says then.
fn roots<'a>(settings: &ScrapeSettings, targets: impl IntoIterator<Item = &'a Target>) -> Roots {
    if !targets.into_iter().any(Target::uses_tls) {
        return Roots::None;
    }
    let Some(path) = &settings.ca_file else { return Roots::System };
    Roots::File(read_small(path).unwrap_or_else(|error| {
        let path = path.display().to_string();
        CA_FAILURES.log("ca", move |count| {
            tracing::warn!(count, path, %error, "SCRAPE_CA_FILE cannot be read: no target with https can be scraped");
        });
        Vec::new()
    }))
}
