//! Scrapes programs that expose metrics themselves: in Prometheus's text format, in OpenMetrics, or Go programs with expvar.
//!
//! Each target is scraped once an interval, all of them at the same time. The targets that answer within a second share
//! batches, in the order in which they were set, so that a server gets the same series in the same order every time; a slower
//! one has a batch of its own. So a batch's time is when its values were measured, to the second.
//!
//! A series has the labels of its target (`job`, `instance`), and each scrape metrics about itself, `up` among them, as with
//! Prometheus. Cumulative counters, histograms and summaries travel as gauges: the wire's counters are what golectra itself
//! counts.

mod client;
mod error;
mod expvar;
mod job;
mod pieces;
mod series;
mod target;

use std::sync::Arc;
use std::time::Duration;

use golectra_process::Secret;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use self::client::Client;
use self::job::{ScrapeJob, Scraped};
use self::pieces::Pieces;
pub use self::target::{Target, is_loopback};
use crate::metrics::{AgentMetrics, SkipReason};
use crate::spool::Queue;

/// How long the first targets of a round wait for the others to share a batch.
const JOINT_WINDOW: Duration = Duration::from_secs(1);

/// The first round starts up to this much after the start, at most a tenth of the interval, so that nodes that were started
/// together do not all scrape together.
const MAX_DELAY: Duration = Duration::from_secs(3);

/// What is scraped, and how.
#[derive(Debug, Clone)]
pub struct ScrapeSettings {
    /// The targets.
    pub targets: Vec<Target>,
    /// Between two scrapes of a target.
    pub interval: Duration,
    /// How long a scrape may take; not longer than the interval.
    pub timeout: Duration,
    /// What a target may expose.
    pub limits: ScrapeLimits,
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

/// Scrapes all targets.
#[derive(Debug)]
pub struct Scraper {
    settings: ScrapeSettings,
    client: Arc<Client>,
    /// In the order of the targets; none while it is scraped.
    jobs: Vec<Option<Box<ScrapeJob>>>,
    hash_key: Option<Secret>,
    metrics: Arc<AgentMetrics>,
}

impl Scraper {
    /// A scraper of these targets.
    pub fn new(settings: ScrapeSettings, hash_key: Option<Secret>, metrics: Arc<AgentMetrics>) -> reqwest::Result<Self> {
        let uses_tls = settings.targets.iter().any(|target| target.url().scheme() == "https");
        let client = Arc::new(Client::new(settings.limits.body_bytes, settings.timeout, uses_tls)?);
        let jobs = settings.targets.iter().map(|_| None).collect();
        Ok(Self { settings, client, jobs, hash_key, metrics })
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
            self.round(&queue, &stop).await;
        }
    }

    /// Scrapes each target once. When `stop` is cancelled, what has been measured is still reported.
    async fn round(&mut self, queue: &Queue, stop: &CancellationToken) {
        let mut running = JoinSet::new();
        for (index, slot) in self.jobs.iter_mut().enumerate() {
            let job = slot.take().or_else(|| {
                let target = self.settings.targets[index].clone();
                ScrapeJob::new(target, self.settings.limits).ok().map(Box::new)
            });
            if let Some(mut job) = job {
                let client = Arc::clone(&self.client);
                running.spawn(async move {
                    let scraped = job.scrape(&client).await;
                    (index, job, scraped)
                });
            }
        }
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
                    self.jobs[index] = Some(job);
                    self.count(&scraped);
                    joint.push((index, scraped.pieces));
                    if !is_joint {
                        self.seal(std::mem::take(&mut joint), queue);
                    }
                }
            }
        }
        self.seal(joint, queue);
    }

    fn count(&self, scraped: &Scraped) {
        let counts = scraped.counts;
        for (reason, samples) in [
            (SkipReason::InvalidValue, counts.not_finite),
            (SkipReason::InvalidId, counts.invalid_ids),
            (SkipReason::Duplicate, counts.duplicates),
        ] {
            if samples > 0 {
                self.metrics.readings_skipped("scrape", reason, samples as u64);
            }
        }
    }

    fn seal(&self, mut scraped: Vec<(usize, Pieces)>, queue: &Queue) {
        scraped.sort_by_key(|(index, _)| *index);
        for piece in Pieces::join(scraped.into_iter().map(|(_, pieces)| pieces)) {
            queue.seal_with(|unix_millis, returned| piece.seal(unix_millis, returned, self.hash_key.as_ref()));
        }
    }
}
