//! The scrapes of one target.

use std::borrow::Cow;
use std::sync::Arc;

use golectra_process::LogLimiter;
use golectra_protocol::exposition::Exposition;
use golectra_protocol::{IdError, IdParts, Metric, Value, json};
use tokio::time::Instant;

use super::ScrapeLimits;
use super::client::{Answer, Client, Token};
use super::error::ScrapeError;
use super::expvar;
use super::pieces::Pieces;
use super::series::{Counts, SeriesBudget, SeriesCache};
use super::target::{Target, TargetKind};
use crate::collect::Choice;

static STATE_CHANGES: LogLimiter<(String, bool)> = LogLimiter::new();

/// A target and what is remembered of it between scrapes.
#[derive(Debug)]
pub(super) struct ScrapeJob {
    target: Target,
    limits: ScrapeLimits,
    filter: Arc<Choice>,
    series: SeriesCache,
    own: OwnMetrics,
    failing: bool,
}

/// The metrics about a scrape itself.
#[derive(Debug)]
struct OwnMetrics {
    metrics: [Metric; 5],
}

impl OwnMetrics {
    fn new(target: &Target) -> Result<Self, IdError> {
        let metric = |name| Ok(Metric { id: target.own_id(name)?, value: Value::Gauge(0.0) });
        Ok(Self {
            metrics: [
                metric("scrape_duration_seconds")?,
                metric("scrape_samples_post_metric_relabeling")?,
                metric("scrape_samples_scraped")?,
                metric("scrape_series_added")?,
                metric("up")?,
            ],
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers of samples are small")]
    fn set(&mut self, up: bool, seconds: f64, counts: Counts) {
        let values = [seconds, counts.labelled as f64, counts.samples as f64, counts.added as f64, f64::from(u8::from(up))];
        for (metric, value) in self.metrics.iter_mut().zip(values) {
            metric.value = Value::Gauge(value);
        }
    }
}

/// What a scrape gave.
#[derive(Debug)]
pub(super) struct Scraped {
    /// The metrics as parts of a body.
    pub(super) pieces: Pieces,
    pub(super) counts: Counts,
}

impl ScrapeJob {
    /// The job of a target.
    pub(super) fn new(target: Target, limits: ScrapeLimits, filter: Arc<Choice>, budget: Arc<SeriesBudget>) -> Result<Self, IdError> {
        let own = OwnMetrics::new(&target)?;
        Ok(Self { target, limits, filter, series: SeriesCache::new(budget), own, failing: false })
    }

    pub(super) const fn target(&self) -> &Target {
        &self.target
    }

    /// Scrapes the target once. A scrape that fails gives the metrics about itself alone, so that what was measured before is not
    /// taken for what is.
    pub(super) async fn scrape(&mut self, client: &Client, token: Option<&Token>) -> Scraped {
        let start = Instant::now();
        let answer = client.get(self.target.url(), self.target.kind(), token).await;
        self.of_answer(answer, start)
    }

    /// What an answer gives that was asked for at `start`.
    pub(super) fn of_answer(&mut self, answer: Result<Answer, ScrapeError>, start: Instant) -> Scraped {
        let mut counts = Counts::default();
        let result = answer.and_then(|answer| self.read(&answer, &mut counts));
        if result.is_err() {
            self.series.clear();
            counts.added = 0;
        }
        self.own.set(result.is_ok(), crate::collect::seconds(start.elapsed()), counts);
        self.log_change(result.err());
        let mut pieces = Pieces::default();
        // The last metric of an id counts: a target cannot expose its own `up`.
        for metric in self.series.metrics().chain(&self.own.metrics) {
            pieces.push(|body| json::append_metric(body, metric));
        }
        Scraped { pieces, counts }
    }

    /// Reads an answer into the series. `counts` is set also if that fails.
    pub(super) fn read(&mut self, answer: &Answer, counts: &mut Counts) -> Result<(), ScrapeError> {
        let mut scrape = self.series.scrape(&self.target, &self.limits, &self.filter);
        let result = match self.target.kind() {
            TargetKind::Exposition => {
                let format = answer.format.ok_or_else(|| ScrapeError::ContentType(answer.content_type.clone()))?;
                Exposition::new(&answer.body, format).map_err(ScrapeError::from).and_then(|mut samples| {
                    samples.try_for_each(|sample| {
                        let sample = sample?;
                        scrape.add(sample.series.text(), sample.series.plain_name(), sample.value, || sample.series.parts())
                    })
                })
            }
            TargetKind::Expvar => {
                let mut text = String::new();
                let read = expvar::read(&answer.body, |variable| {
                    text.clear();
                    // No name of a metric that is reported has this character.
                    text.extend([variable.name, "\0", variable.key]);
                    scrape.add(&text, Some(variable.name), variable.value, || {
                        let labels = if variable.key.is_empty() { vec![] } else { vec![("key".into(), variable.key.into())] };
                        Ok(IdParts { name: Cow::Borrowed(variable.name), labels })
                    })
                });
                read.map_err(|error| ScrapeError::Json(error.to_string())).flatten()
            }
        };
        *counts = scrape.counts();
        result.and_then(|()| scrape.finish())
    }

    /// Logs the first failure in a row, and the first success after it.
    fn log_change(&mut self, error: Option<ScrapeError>) {
        let failing = error.is_some();
        if std::mem::replace(&mut self.failing, failing) == failing {
            return;
        }
        let (job, instance, url) = (self.target.job().to_owned(), self.target.instance().to_owned(), self.target.url_for_log());
        STATE_CHANGES.log((url.clone(), failing), move |count| {
            if let Some(error) = error {
                let error = error.to_string();
                tracing::warn!(count, job, instance, url, error, "a target cannot be scraped: its metrics are missing");
            } else {
                tracing::info!(count, job, instance, url, "the target can be scraped again");
            }
        });
    }
}
