//! Evaluates rules: one server of those that share a store, at times that all of them agree on.
//!
//! An evaluation reads the state of the last one, computes the next, writes the series of the rules and then puts state and notifications into
//! the store at once. Whatever ends it before that, the next one, here or on another server, begins from the same state. Series that are written
//! twice for one time are stored once.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use golectra_process::LogLimiter;
use golectra_promql::staleness::{STALE, is_stale};
use golectra_promql::{Labels, Value, VectorSample};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};

use super::advance::{self, ALERTS, ALERTS_FOR_STATE, RuleSample, Step};
use super::heartbeat::Evaluated as LastEvaluated;
use super::links::Links;
use super::rules::{Rule, RuleBook, RuleGroup, RuleKind, RuleSet};
use super::series::SeriesWriter;
use super::state::{AlertState, GroupState, Phase, RuleState, Stored, Texts};
use super::store::{AlertStore, Commit};
use super::{View, planner};
use crate::alerts::receivers::ReceiverBook;
use crate::history::query::{Queries, QueryError, Question, When};
use crate::history::shared::SharedReads;
use crate::metrics::alerts::AlertMetrics;

/// The longest error of a rule that is kept, in characters.
const MAX_ERROR_CHARS: usize = 500;
/// After so many intervals an evaluation begins no further rule: what was found is committed, and the rest waits for the next one.
const ROUND_INTERVALS: u32 = 2;
/// From so many intervals without an evaluation on, alerts may only be there because nothing was evaluated or received meanwhile.
const GAP_INTERVALS: i64 = 2;
/// A time without an evaluation that is longer than this, and than so many intervals, is a pause. After it alerts may also seem to be over because nothing was
/// received meanwhile: expressions look back 5 minutes, and some of those that are built in 2 minutes. Evaluations that only take long are not so far apart.
const PAUSE_MS: i64 = 2 * 60 * 1000;
const PAUSE_INTERVALS: i64 = 5;
/// For so long after a pause, and for so many intervals, something may not have reported again.
const GRACE_MS: i64 = 60 * 1000;
const GRACE_INTERVALS: i64 = 2;

/// Log lines about evaluations, by what went wrong.
static LOG: LogLimiter<&'static str> = LogLimiter::new();

/// See the module's documentation.
pub struct Evaluator {
    /// The rules.
    pub book: RuleBook,
    /// Whom to tell.
    pub receivers: ReceiverBook,
    /// The state.
    pub states: Arc<dyn AlertStore>,
    /// How expressions are evaluated.
    pub queries: Queries,
    /// Where series are written.
    pub series: SeriesWriter,
    /// How often.
    pub interval: Duration,
    /// What this counts.
    pub metrics: AlertMetrics,
    /// What is shown of the state.
    pub view: View,
    /// Wakes those who deliver.
    pub wake: Arc<Notify>,
    /// The series that recording rules wrote last, by file and group.
    pub recorded: Mutex<BTreeMap<(String, String), BTreeSet<Labels>>>,
    /// The last evaluation before the gap after which this waited for the next time; `i64::MIN` if it never did.
    pub waited_after_ms: AtomicI64,
    /// Whether no rule that reads something succeeded when such rules were evaluated last; false before.
    pub fails: AtomicBool,
    /// When an evaluation here succeeded last.
    pub evaluated: LastEvaluated,
    /// Where people see what a rule asks.
    pub links: Links,
}

/// Samples by their time, in unix milliseconds: groups may ask about different times.
type Timed = BTreeMap<i64, Vec<RuleSample>>;

/// What an evaluation of a group gives.
struct Evaluated {
    state: GroupState,
    /// Series that are not written yet, of the time that the group asks about.
    samples: Vec<RuleSample>,
}

/// What the rules of an evaluation have in common.
struct Round<'a> {
    step: Step<'a>,
    /// No rule begins after it.
    deadline: Instant,
    reads: Option<Arc<SharedReads>>,
}

impl Evaluator {
    /// Never returns.
    pub async fn run(&self) {
        let interval_ms = millis(self.interval);
        loop {
            let led = match self.states.lead().await {
                Ok(leads) => leads,
                Err(error) => {
                    LOG.log(
                        "lease",
                        move |count| tracing::warn!(count, %error, "rules are not evaluated here: the store of alerts is unavailable"),
                    );
                    false
                }
            };
            self.metrics.leads(led);
            // Before the server's own metrics are written, as rules watch these.
            self.show_files();
            let now_ms = self.states.now_ms();
            if led {
                let at_ms = now_ms - now_ms.rem_euclid(interval_ms);
                if let Err(error) = self.evaluate(at_ms).await {
                    self.metrics.failed_rounds.inc();
                    LOG.log(
                        "commit",
                        move |count| tracing::warn!(count, %error, "the state of alerts could not be read or written, trying again"),
                    );
                }
            } else {
                self.evaluated.send_replace(None);
                self.series.leave().await;
                self.view.refresh(&*self.states).await;
            }
            self.show_waiting().await;
            // The leader waits for the next time, and another server looks a few times meanwhile whether it is needed.
            let until_next = interval_ms - self.states.now_ms().rem_euclid(interval_ms);
            let pause = if led { until_next } else { until_next.min(interval_ms / 3).max(100) };
            sleep(Duration::from_millis(pause.unsigned_abs())).await;
        }
    }

    /// Shows how many rules there are and which files are refused, on each server.
    fn show_files(&self) {
        let rules = self.book.current();
        self.metrics.rules(rules.groups.iter().map(|group| group.rules.len()).sum(), rules.refused.len());
        self.metrics.receivers(self.receivers.is_refused());
    }

    /// Shows how much waits for the receivers that there are. What waits for one that was removed is dropped in time, and nobody is to be called for it.
    async fn show_waiting(&self) {
        let Ok(mut waiting) = self.states.waiting().await else { return };
        // While their file is refused it is not known which receivers there are.
        if !self.receivers.is_refused() {
            let receivers = self.receivers.current();
            waiting.retain(|name, _| receivers.iter().any(|receiver| receiver.name == *name));
        }
        self.metrics.waiting(&waiting, self.states.now_ms());
    }

    /// Evaluates the groups that are due at this time, unless that was done.
    pub async fn evaluate(&self, at_ms: i64) -> Result<(), crate::store::StoreError> {
        let mut stored = self.states.load().await?;
        let ahead_ms = stored.evaluated_ms - at_ms;
        let gap_ms = GAP_INTERVALS * millis(self.interval);
        if (0..=gap_ms).contains(&ahead_ms) || self.waits_after_gap(stored.evaluated_ms, at_ms, gap_ms) {
            self.view.set(stored);
            return Ok(());
        }
        if ahead_ms > 0 {
            let seconds = ahead_ms / 1000;
            LOG.log("clock", move |count| {
                tracing::error!(
                    count,
                    seconds,
                    "the clock has gone back by so much since rules were evaluated last: rules are evaluated by it as it is now"
                );
            });
        }
        stored.limit_times(at_ms);
        if stored.evaluated_ms > 0 {
            let missed = (at_ms - stored.evaluated_ms) / millis(self.interval).max(1) - 1;
            self.metrics.missed.inc_by(missed.max(0).unsigned_abs());
        }
        let rules = self.book.current();
        let resumed_ms = resumed(&stored, at_ms, millis(self.interval));
        let gone = alerts_of_gone(&rules, &stored, at_ms);
        let step = Step { now_ms: at_ms, external_url: self.links.root(), resumed_ms, gone: &gone };
        self.series.write_own(at_ms).await;
        let (mut groups, mut samples) = self.round(&rules, &stored, step).await;
        // Where no rule that reads something was due, what is known of those before holds.
        let fails = all_fail(&rules, &groups).unwrap_or_else(|| self.fails.load(Ordering::Relaxed));
        self.fails.store(fails, Ordering::Relaxed);
        let succeeds = !fails && !self.receivers.is_unusable();
        let removed = end_missing(&rules, &stored, &step, &mut groups, &mut samples);
        let receivers = self.receivers.current();
        // Receivers are also told again of alerts whose group is not evaluated now.
        let changed = groups.len();
        let is_new = |before: &&GroupState| !groups.iter().any(|group| group.file == before.file && group.name == before.name);
        let others: Vec<GroupState> =
            stored.groups.iter().filter(is_new).filter(|before| !removed.contains(&key_of(before))).cloned().collect();
        groups.extend(others);
        // Those that are not due now have it too: they may be the only ones, and another server may evaluate next.
        for group in &mut groups {
            group.resumed_ms = resumed_ms;
        }
        self.write_series(samples, &rules, &groups, at_ms).await;
        let notifications =
            planner::plan(&receivers, &mut groups, &stored, at_ms, self.interval, &planner::Pages { links: &self.links, rules: &rules });
        let mut index = 0;
        groups.retain(|group| {
            index += 1;
            index <= changed || stored.group(&group.file, &group.name) != Some(group)
        });
        let commit = Commit { at_ms, groups, removed, notifications };
        let committed = self.states.commit(commit).await;
        match &committed {
            Ok(true) => {
                self.wake.notify_waiters();
                if succeeds {
                    self.evaluated.send_replace(Some(tokio::time::Instant::now()));
                }
            }
            Ok(false) => LOG.log("lost", |count| tracing::info!(count, "another server has evaluated the rules meanwhile")),
            // The memory store has it although it is not in the file: receivers are told nevertheless.
            Err(_) => self.wake.notify_waiters(),
        }
        self.count_dropped();
        let stored = self.states.load().await?;
        self.metrics.show(&stored);
        self.view.set(stored);
        committed.map(drop)
    }

    /// Counts what waited for receivers and was dropped. What waited for one that was removed is not counted: nobody is to be called for it.
    fn count_dropped(&self) {
        let receivers = self.receivers.current();
        for (receiver, notifications) in self.states.take_dropped() {
            if self.receivers.is_refused() || receivers.iter().any(|known| known.name == receiver) {
                self.metrics.dropped(&receiver, notifications);
            }
            LOG.log("dropped", move |count| {
                tracing::error!(count, receiver, notifications, "notifications are given up: they are too old, or too many wait");
            });
        }
    }

    /// Whether to leave this time out. At the first evaluation after a gap everything looks silent that could not report meanwhile. It begins to be pending at
    /// `at_ms`, so if that is long ago, agents have less than `for` to report before an alert fires.
    fn waits_after_gap(&self, evaluated_ms: i64, at_ms: i64, gap_ms: i64) -> bool {
        let is_gap = evaluated_ms > 0 && at_ms - evaluated_ms > gap_ms;
        let is_late = self.states.now_ms() - at_ms > millis(self.interval) / 5;
        // Once for each gap: where every evaluation is late, late ones are better than none.
        is_gap && is_late && self.waited_after_ms.swap(evaluated_ms, Ordering::Relaxed) != evaluated_ms
    }

    /// Evaluates what is due, the groups first that wait for longest. All of them are in the answer, also those that are not begun in time.
    async fn round(&self, rules: &RuleSet, stored: &Stored, step: Step<'_>) -> (Vec<GroupState>, Timed) {
        let at_ms = step.now_ms;
        let started = Instant::now();
        let deadline = started + self.interval * ROUND_INTERVALS;
        let mut due: Vec<(i64, &Arc<RuleGroup>)> = Vec::new();
        for group in &rules.groups {
            let before = stored.group(&group.file, &group.name);
            if is_due(group, before, at_ms) {
                let before_ms = before.map_or(0, |before| before.evaluated_ms);
                // The clock has gone back where it was evaluated in the future.
                due.push((if before_ms > at_ms { 0 } else { before_ms }, group));
            }
        }
        due.sort_by_key(|(before_ms, _)| *before_ms);
        let reads = self.share_reads(&due, at_ms).await;
        let (mut states, mut samples, mut left) = (Vec::with_capacity(due.len()), Timed::new(), 0_usize);
        for (_, group) in &due {
            let before = stored.group(&group.file, &group.name);
            let evaluated = self.group(group, before, &Round { step, deadline, reads: reads.clone() }).await;
            left += usize::from(evaluated.state.evaluated_ms != at_ms);
            samples.entry(at_ms - group.query_offset_ms).or_default().extend(evaluated.samples);
            states.push(evaluated.state);
        }
        if left > 0 {
            LOG.log("slow", move |count| {
                tracing::warn!(
                    count,
                    groups = left,
                    "evaluating the rules takes longer than EVALUATION_INTERVAL: some groups wait for the next time"
                );
            });
        }
        self.metrics.round_seconds.observe(started.elapsed().as_secs_f64());
        (states, samples)
    }

    /// Plans what the rules of a round read together. Without a plan each rule reads for itself.
    async fn share_reads(&self, due: &[(i64, &Arc<RuleGroup>)], at_ms: i64) -> Option<Arc<SharedReads>> {
        let rules = || due.iter().flat_map(|(_, group)| group.rules.iter().map(move |rule| (group, rule)));
        let questions = rules().map(|(group, rule)| self.question(&rule.expr, at_ms - group.query_offset_ms)).collect();
        // These are written between the rules of a group.
        let recorded = rules().filter(|(_, rule)| !rule.is_alerting()).map(|(_, rule)| rule.name.clone());
        let written = recorded.chain([ALERTS, ALERTS_FOR_STATE].map(str::to_owned)).collect();
        timeout(self.interval, self.queries.share_reads(questions, written)).await.ok()?.ok()
    }

    /// Evaluates a group. Rules that are not begun before the deadline keep their alerts and have an error. A group of which no rule is begun keeps the time
    /// of its last evaluation, so that it is among the first of the next one.
    async fn group(&self, group: &RuleGroup, before: Option<&GroupState>, round: &Round<'_>) -> Evaluated {
        let Round { step, deadline, reads } = round;
        let (at_ms, deadline) = (step.now_ms, *deadline);
        // As in Prometheus, series have the time that the expressions are evaluated for, and `for` counts by the time of the evaluation.
        let series_ms = at_ms - group.query_offset_ms;
        let started = Instant::now();
        let evaluated_ms = if started <= deadline { at_ms } else { before.map_or(0, |before| before.evaluated_ms) };
        let mut state = GroupState { file: group.file.clone(), name: group.name.clone(), evaluated_ms, ..GroupState::default() };
        let mut samples = Vec::new();
        let mut recorded = BTreeSet::new();
        let key = (group.file.clone(), group.name.clone());
        let recorded_before = self.recorded.lock().await.remove(&key).unwrap_or_default();
        let mut is_recorded_whole = true;
        for (index, rule) in group.rules.iter().enumerate() {
            // The first rule of a group that is begun in time is begun in time.
            let begun = if index == 0 { started } else { Instant::now() };
            let earlier = before.and_then(|before| before.rules.iter().find(|state| state.is_of(rule)));
            let alerts_before = earlier.map_or(&[][..], |earlier| &earlier.alerts);
            let is_in_time = begun <= deadline;
            let found = if is_in_time {
                self.query(&rule.expr, series_ms, reads.clone()).await
            } else {
                let limit_seconds = (self.interval * ROUND_INTERVALS).as_secs_f64();
                Err(format!("not evaluated in time: the rules before it took more than {limit_seconds} s"))
            };
            let evaluated_ms = if is_in_time { at_ms } else { earlier.map_or(0, |earlier| earlier.evaluated_ms) };
            let mut next = RuleState { key: rule.key.clone(), identity: rule.identity.clone(), evaluated_ms, ..RuleState::default() };
            let made = found.and_then(|found| match &rule.kind {
                RuleKind::Recording => advance::record(rule, group.limit, &found).map(|made| (made, Vec::new())),
                RuleKind::Alerting { .. } => advance::alerts(rule, group.limit, alerts_before, &found, step).map(|alerts| {
                    let made: Vec<RuleSample> = alerts.iter().flat_map(advance::series_of).collect();
                    (with_ends(made, alerts_before.iter().flat_map(advance::series_of)), alerts)
                }),
            });
            match made {
                Ok((made, alerts)) => {
                    next.alerts = alerts;
                    if !rule.is_alerting() {
                        recorded.extend(made.iter().map(|sample| sample.labels.clone()));
                    }
                    samples.extend(made);
                }
                Err(error) => {
                    is_recorded_whole &= rule.is_alerting();
                    // What is not known to be over is not over.
                    next.alerts = alerts_before.to_vec();
                    let (name, group_name) = (rule.name.clone(), group.name.clone());
                    let text: String = error.chars().take(MAX_ERROR_CHARS).collect();
                    next.error = Some(text.clone());
                    LOG.log("rule", move |count| {
                        tracing::warn!(count, rule = name, group = group_name, error = text, "a rule could not be evaluated");
                    });
                }
            }
            self.metrics.evaluated(&group.name, next.error.is_some(), begun.elapsed());
            next.seconds = begun.elapsed().as_secs_f64();
            state.rules.push(next);
            // What later rules of the group ask for must be there.
            let later = group.rules.get(index + 1..).unwrap_or_default();
            if !later.is_empty() && (!rule.is_alerting() || later.iter().any(|rule| rule.expr.contains(ALERTS))) {
                self.series.write(std::mem::take(&mut samples), series_ms).await;
            }
        }
        if is_recorded_whole {
            samples.extend(recorded_before.difference(&recorded).cloned().map(end));
        } else {
            recorded.extend(recorded_before);
        }
        if !recorded.is_empty() {
            self.recorded.lock().await.insert(key, recorded);
        }
        state.seconds = started.elapsed().as_secs_f64();
        Evaluated { state, samples }
    }

    /// Writes the series of an evaluation, and ends what the recording rules of groups wrote that are gone. The groups are all that there are after it. A
    /// series that another rule has now does not end: rules are moved between groups and files.
    async fn write_series(&self, mut samples: Timed, rules: &RuleSet, groups: &[GroupState], at_ms: i64) {
        let mut recorded = self.recorded.lock().await;
        recorded.retain(|(file, name), series| {
            // While it is not known which rules there are, nothing is ended.
            let stays = rules.incomplete || rules.groups.iter().any(|group| group.file == *file && group.name == *name);
            if !stays {
                samples.entry(at_ms).or_default().extend(std::mem::take(series).into_iter().map(end));
            }
            stays
        });
        if samples.values().flatten().any(|sample| is_stale(sample.value)) {
            let alerts = groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts);
            let mut there: BTreeSet<Labels> = alerts.flat_map(advance::series_of).map(|sample| sample.labels).collect();
            there.extend(recorded.values().flatten().cloned());
            for of_one_time in samples.values_mut() {
                of_one_time.retain(|sample| !is_stale(sample.value) || !there.contains(&sample.labels));
            }
        }
        drop(recorded);
        for (time_ms, of_one_time) in samples {
            self.series.write(of_one_time, time_ms).await;
        }
    }

    fn question(&self, expr: &str, time_ms: i64) -> Question {
        Question { text: expr.to_owned(), when: When::At { time_ms }, lookback_ms: None, timeout: Some(self.interval) }
    }

    async fn query(&self, expr: &str, time_ms: i64, reads: Option<Arc<SharedReads>>) -> Result<Vec<VectorSample>, String> {
        // The queries have limits of their own; this one is in case a thread is stuck.
        let limit = self.interval + Duration::from_secs(5);
        let evaluated = match timeout(limit, self.queries.evaluate_rule(self.question(expr, time_ms), reads)).await {
            Ok(evaluated) => evaluated.map_err(|error| describe(&error))?,
            Err(_) => return Err(format!("no answer within {} s", limit.as_secs())),
        };
        match &evaluated.outcome.value {
            Value::Vector { samples, .. } => Ok(samples.clone()),
            Value::Scalar { value, .. } => Ok(vec![VectorSample { labels: Labels::empty(), value: *value }]),
            _ => Err("rule result is not a vector or scalar".to_owned()),
        }
    }
}

/// Whether no rule that reads something succeeded: what they ask can't be read then. None where no such rule was evaluated. The groups have the states of
/// their rules in their order.
fn all_fail(rules: &RuleSet, groups: &[GroupState]) -> Option<bool> {
    let of_group = |state: &GroupState| rules.groups.iter().find(|group| group.file == state.file && group.name == state.name);
    let known = groups.iter().filter_map(|state| Some((of_group(state)?, state)));
    let pairs = known.flat_map(|(group, state)| group.rules.iter().zip(&state.rules));
    let mut states = pairs.filter(|(rule, _)| rule.reads).map(|(_, state)| state).peekable();
    states.peek()?;
    Some(states.all(|state| state.error.is_some()))
}

/// An error of a query with what clients are not told: operators read it.
fn describe(error: &QueryError) -> String {
    match error {
        QueryError::Unavailable(cause) | QueryError::Internal(cause) => format!("{error}: {cause}"),
        other => other.to_string(),
    }
}

/// Adds the ends of series that are no longer there.
fn with_ends(mut now: Vec<RuleSample>, before: impl Iterator<Item = RuleSample>) -> Vec<RuleSample> {
    let there: BTreeSet<Labels> = now.iter().map(|sample| sample.labels.clone()).collect();
    now.extend(before.filter(|sample| !there.contains(&sample.labels)).map(|sample| end(sample.labels)));
    now
}

/// The end of a series.
fn end(labels: Labels) -> RuleSample {
    RuleSample { labels, value: STALE }
}

/// The ends of all series of these alerts.
fn ends_of(alerts: &[AlertState]) -> impl Iterator<Item = RuleSample> {
    alerts.iter().flat_map(advance::series_of).map(|sample| end(sample.labels))
}

/// When rules were evaluated again after a pause, where that is shortly before this time or now. Groups have it from the evaluation before, which another
/// server may have made.
fn resumed(stored: &Stored, at_ms: i64, interval_ms: i64) -> Option<i64> {
    if stored.evaluated_ms > 0 && at_ms - stored.evaluated_ms > PAUSE_MS.max(PAUSE_INTERVALS * interval_ms) {
        return Some(at_ms);
    }
    let last_ms = stored.groups.iter().filter_map(|group| group.resumed_ms).max()?;
    (0..GRACE_MS.max(GRACE_INTERVALS * interval_ms)).contains(&(at_ms - last_ms)).then_some(last_ms)
}

/// Whether a group is evaluated at this time. One that was evaluated in the future is: the clock has gone back. One whose rules have changed is, whatever its
/// interval: where a rule is moved, the group that it leaves and the one that it comes to are evaluated together, and its alerts go on.
fn is_due(group: &RuleGroup, before: Option<&GroupState>, at_ms: i64) -> bool {
    let Some(before) = before else { return true };
    let every_ms = group.interval.map_or(0, millis);
    !(0..every_ms).contains(&(at_ms - before.evaluated_ms)) || has_changed(group, before)
}

/// Whether a rule of a group is new, or one is gone of which an alert is pending or firing.
fn has_changed(group: &RuleGroup, before: &GroupState) -> bool {
    let is_new = |rule: &Rule| !before.rules.iter().any(|state| state.is_of(rule));
    let is_gone = |state: &RuleState| {
        let is_active = state.alerts.iter().any(|alert| alert.phase != Phase::Inactive);
        is_active && !group.rules.iter().any(|rule| state.is_of(rule))
    };
    group.rules.iter().any(is_new) || before.rules.iter().any(is_gone)
}

/// The alerts of the rules that [`end_missing`] finds to be gone, by their labels; of equal ones that which fires.
fn alerts_of_gone(rules: &RuleSet, stored: &Stored, at_ms: i64) -> BTreeMap<Texts, AlertState> {
    let mut gone = BTreeMap::<Texts, AlertState>::new();
    for group in &stored.groups {
        let known = rules.groups.iter().find(|known| known.file == group.file && known.name == group.name);
        if known.is_some_and(|known| !is_due(known, Some(group), at_ms)) {
            continue;
        }
        let is_gone = |rule: &&RuleState| match known {
            Some(known) => !known.rules.iter().any(|new| rule.is_of(new)),
            None => !rules.incomplete,
        };
        let with_alerts = group.rules.iter().filter(|rule| !rule.alerts.is_empty());
        for alert in with_alerts.filter(is_gone).flat_map(|rule| &rule.alerts) {
            if gone.get(&alert.labels).is_none_or(|other| alert.phase > other.phase) {
                gone.insert(alert.labels.clone(), alert.clone());
            }
        }
    }
    gone
}

/// The names of the alerting rules whose newest evaluation failed. The groups are those that are evaluated now.
fn failing<'a>(rules: &'a RuleSet, stored: &Stored, groups: &[GroupState]) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for group in &rules.groups {
        let evaluated = groups.iter().find(|state| state.file == group.file && state.name == group.name);
        let Some(state) = evaluated.or_else(|| stored.group(&group.file, &group.name)) else { continue };
        for failed in state.rules.iter().filter(|state| state.error.is_some()) {
            if let Some(rule) = group.rules.iter().find(|rule| rule.is_alerting() && failed.is_of(rule)) {
                names.insert(rule.name.as_str());
            }
        }
    }
    names
}

/// Ends the alerts and their series of rules and groups that are no longer there, and names the groups of which nothing is left. While it is not known which
/// rules there are, nothing is ended. An alert that goes on under another rule has not ended. One that may go on under another rule has not ended yet: shortly
/// after a pause, and while a rule of its name can't be evaluated.
fn end_missing(
    rules: &RuleSet,
    stored: &Stored,
    step: &Step<'_>,
    groups: &mut Vec<GroupState>,
    samples: &mut Timed,
) -> Vec<(String, String)> {
    let at_ms = step.now_ms;
    // An alert of the same labels whose rule failed now has nothing of the other one: neither that it fires nor whom it was told.
    let goes_on = |alert: &&AlertState| {
        let has_told = |gone: &AlertState| gone.told.keys().all(|receiver| alert.told.contains_key(receiver));
        let has_all = |gone: &AlertState| alert.phase >= gone.phase && has_told(gone);
        alert.phase != Phase::Inactive && step.gone.get(&alert.labels).is_some_and(has_all)
    };
    let all = groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts);
    let going_on: BTreeSet<Texts> = all.filter(goes_on).map(|alert| alert.labels.clone()).collect();
    let failing = failing(rules, stored, groups);
    let stays = |alert: &AlertState| {
        alert.phase != Phase::Inactive && (step.resumed_ms.is_some() || failing.contains(alert.label(advance::ALERT_NAME)))
    };
    let remaining = |rule: &RuleState| -> Vec<AlertState> {
        let alerts = rule.alerts.iter().filter(|alert| !going_on.contains(&alert.labels));
        alerts.filter_map(|alert| if stays(alert) { Some(alert.clone()) } else { advance::ended(alert, at_ms) }).collect()
    };
    let mut removed = Vec::new();
    for before in &stored.groups {
        let is_it = |file: &str, name: &str| before.file == file && before.name == name;
        let known = rules.groups.iter().find(|group| is_it(&group.file, &group.name));
        match groups.iter_mut().find(|group| is_it(&group.file, &group.name)) {
            Some(state) => {
                let series_ms = at_ms - known.map_or(0, |group| group.query_offset_ms);
                for rule in &before.rules {
                    if known.is_some_and(|group| group.rules.iter().any(|new| rule.is_of(new))) {
                        continue;
                    }
                    samples.entry(series_ms).or_default().extend(ends_of(&rule.alerts));
                    let alerts = remaining(rule);
                    if !alerts.is_empty() {
                        // Another rule may have its key now.
                        let key = if rule.identity.is_empty() { rule.key.clone() } else { rule.identity.clone() };
                        state.rules.push(RuleState { key, alerts, ..rule.clone() });
                    }
                }
            }
            None if known.is_some() || rules.incomplete => {}
            None => {
                let mut left = before.clone();
                left.evaluated_ms = at_ms;
                for rule in &mut left.rules {
                    // How far before its evaluations a group that is gone asked is not known any more.
                    samples.entry(at_ms).or_default().extend(ends_of(&rule.alerts));
                    rule.alerts = remaining(rule);
                }
                left.rules.retain(|rule| !rule.alerts.is_empty());
                if left.rules.is_empty() {
                    removed.push((before.file.clone(), before.name.clone()));
                } else {
                    groups.push(left);
                }
            }
        }
    }
    removed
}

fn key_of(group: &GroupState) -> (String, String) {
    (group.file.clone(), group.name.clone())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How many alerts are in a state.
pub fn count(stored: &Stored, phase: Phase) -> usize {
    stored.groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts).filter(|alert| alert.phase == phase).count()
}
