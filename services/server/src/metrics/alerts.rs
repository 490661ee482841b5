//! What evaluating rules takes and what becomes of notifications. Names follow Prometheus's `prometheus_rule_*` and `prometheus_notifications_*`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{SECONDS, counters, int};
use crate::alerts::{Phase, Stored, Waiting, count};

/// The metrics of alerts. Cheap to clone.
#[derive(Clone)]
pub struct AlertMetrics(Arc<Inner>);

/// See [`AlertMetrics`].
pub struct Inner {
    evaluations: IntCounterVec,
    failures: IntCounterVec,
    rule_seconds: Histogram,
    /// How long an evaluation of all rules that were due took.
    pub round_seconds: Histogram,
    /// Evaluations that did not take place in time.
    pub missed: IntCounter,
    /// Evaluations whose state could not be read or written.
    pub failed_rounds: IntCounter,
    leader: IntGauge,
    last: IntGauge,
    rules: IntGauge,
    refused_files: IntGauge,
    receivers_refused: IntGauge,
    alerts: IntGaugeVec,
    sent: IntCounterVec,
    failed: IntCounterVec,
    dropped: IntCounterVec,
    waiting: IntGaugeVec,
    oldest: GaugeVec,
    /// The receivers that `waiting` and `oldest` show.
    shown: Mutex<BTreeSet<String>>,
    /// Heartbeats that were taken.
    pub heartbeats: IntCounter,
    /// Heartbeats that were not.
    pub heartbeats_failed: IntCounter,
}

impl std::ops::Deref for AlertMetrics {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl AlertMetrics {
    /// Registers every metric.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let histogram = |name: &str, help: &str| Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()));
        let inner = Inner {
            evaluations: counters("rule_evaluations_total", "Rules evaluated.", &["rule_group"])?,
            failures: counters("rule_evaluation_failures_total", "Rules that could not be evaluated.", &["rule_group"])?,
            rule_seconds: histogram("golectra_rule_evaluation_duration_seconds", "How long the evaluation of a rule took.")?,
            round_seconds: histogram("golectra_rule_round_duration_seconds", "How long the evaluation of all rules that were due took.")?,
            missed: IntCounter::new("golectra_rule_rounds_missed_total", "Evaluations of all rules that did not take place in time.")?,
            failed_rounds: IntCounter::new(
                "golectra_rule_rounds_failed_total",
                "Evaluations of all rules whose state could not be read or written.",
            )?,
            leader: IntGauge::new("golectra_rule_evaluator", "1 on the server that evaluates rules, 0 on others.")?,
            last: IntGauge::new("golectra_rule_last_evaluation_timestamp_seconds", "When rules were evaluated last.")?,
            rules: IntGauge::new("golectra_rule_rules", "How many rules there are.")?,
            refused_files: IntGauge::new(
                "golectra_rule_files_refused",
                "Files of RULES_DIR that can't be used; 1 where the folder can't.",
            )?,
            receivers_refused: IntGauge::new("golectra_alerts_receivers_file_refused", "1 while RECEIVERS_FILE can't be used, 0 else.")?,
            alerts: IntGaugeVec::new(Opts::new("golectra_alerts", "Alerts by state."), &["state"])?,
            sent: counters("alerts_notifications_sent_total", "Notifications that a receiver took.", &["receiver"])?,
            failed: counters("alerts_notifications_failed_total", "Tries to deliver notifications that failed.", &["receiver"])?,
            dropped: counters("alerts_notifications_dropped_total", "Notifications that were given up or dropped.", &["receiver"])?,
            waiting: IntGaugeVec::new(
                Opts::new("golectra_alerts_notifications_waiting", "Notifications that wait for a receiver."),
                &["receiver"],
            )?,
            oldest: GaugeVec::new(
                Opts::new("golectra_alerts_oldest_notification_age_seconds", "Age of the oldest notification that waits for a receiver."),
                &["receiver"],
            )?,
            shown: Mutex::default(),
            heartbeats: IntCounter::new("golectra_alerts_heartbeats_sent_total", "Heartbeats that HEARTBEAT_URL took.")?,
            heartbeats_failed: IntCounter::new("golectra_alerts_heartbeats_failed_total", "Heartbeats that HEARTBEAT_URL did not take.")?,
        };
        let all: [Box<dyn Collector>; 19] = [
            Box::new(inner.evaluations.clone()),
            Box::new(inner.failures.clone()),
            Box::new(inner.rule_seconds.clone()),
            Box::new(inner.round_seconds.clone()),
            Box::new(inner.missed.clone()),
            Box::new(inner.failed_rounds.clone()),
            Box::new(inner.leader.clone()),
            Box::new(inner.last.clone()),
            Box::new(inner.rules.clone()),
            Box::new(inner.refused_files.clone()),
            Box::new(inner.receivers_refused.clone()),
            Box::new(inner.alerts.clone()),
            Box::new(inner.sent.clone()),
            Box::new(inner.failed.clone()),
            Box::new(inner.dropped.clone()),
            Box::new(inner.waiting.clone()),
            Box::new(inner.oldest.clone()),
            Box::new(inner.heartbeats.clone()),
            Box::new(inner.heartbeats_failed.clone()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Whether this server evaluates.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A rule was evaluated.
    pub fn evaluated(&self, group: &str, failed: bool, took: Duration) {
        self.evaluations.with_label_values(&[group]).inc();
        self.failures.with_label_values(&[group]).inc_by(u64::from(failed));
        self.rule_seconds.observe(took.as_secs_f64());
    }

    /// How many rules there are, and how many files can't be used.
    pub fn rules(&self, rules: usize, refused_files: usize) {
        self.rules.set(int(rules as u64));
        self.refused_files.set(int(refused_files as u64));
    }

    /// Whether the file of receivers can't be used.
    pub fn receivers(&self, refused: bool) {
        self.receivers_refused.set(i64::from(refused));
    }

    /// What an evaluation found.
    pub fn show(&self, stored: &Stored) {
        self.last.set(stored.evaluated_ms / 1000);
        for phase in [Phase::Pending, Phase::Firing] {
            self.alerts.with_label_values(&[phase.as_str()]).set(int(count(stored, phase) as u64));
        }
    }

    /// What waits for receivers. A receiver that is told again is not removed meanwhile: a scrape at that time would not see it.
    pub fn waiting(&self, waiting: &BTreeMap<String, Waiting>, now_ms: i64) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.iter().filter(|receiver| !waiting.contains_key(*receiver)) {
            // Both are there: whoever is in `shown` was set below.
            let _ = self.waiting.remove_label_values(&[gone]);
            let _ = self.oldest.remove_label_values(&[gone]);
        }
        *shown = waiting.keys().cloned().collect();
        for (receiver, waiting) in waiting {
            self.waiting.with_label_values(&[receiver]).set(i64::try_from(waiting.notifications).unwrap_or(i64::MAX));
            #[expect(clippy::cast_precision_loss, reason = "ages are far below 2^53 ms")]
            self.oldest.with_label_values(&[receiver]).set((now_ms - waiting.oldest_ms).max(0) as f64 / 1000.0);
        }
    }

    /// A notification was taken.
    pub fn delivered(&self, receiver: &str) {
        self.sent.with_label_values(&[receiver]).inc();
    }

    /// A try failed.
    pub fn failed(&self, receiver: &str) {
        self.failed.with_label_values(&[receiver]).inc();
    }

    /// So many notifications were given up.
    pub fn dropped(&self, receiver: &str, notifications: u64) {
        self.dropped.with_label_values(&[receiver]).inc_by(notifications);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_something_waits_for_is_in_every_scrape() {
        let registry = Registry::new();
        let metrics = AlertMetrics::register(&registry).unwrap();
        let tell = |receivers: &[&str]| {
            let waiting = Waiting { notifications: 2, oldest_ms: 1_000 };
            metrics.waiting(&receivers.iter().map(|receiver| ((*receiver).to_owned(), waiting)).collect(), 4_000);
        };
        let shows = |receiver: &str| {
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            let label = format!("{{receiver=\"{receiver}\"}}");
            let lines = [
                format!("golectra_alerts_notifications_waiting{label} 2\n"),
                format!("golectra_alerts_oldest_notification_age_seconds{label} 3\n"),
            ];
            lines.map(|line| text.contains(&line))
        };
        tell(&["a", "b"]);
        assert_eq!([shows("a"), shows("b")], [[true, true]; 2]);
        std::thread::scope(|scope| {
            let telling = scope.spawn(|| {
                for _ in 0..20_000 {
                    tell(&["a"]);
                }
            });
            while !telling.is_finished() {
                assert_eq!(shows("a"), [true, true]);
            }
        });
        assert_eq!([shows("a"), shows("b")], [[true, true], [false, false]]);
        tell(&[]);
        assert_eq!(shows("a"), [false, false]);
    }
}
