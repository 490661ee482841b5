//! What happened in a time: alerts, restarts, OOM kills, nodes that fell silent and came back, other versions, rollouts. All of it is read from stored series.

mod rollouts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use golectra_promql::{Labels, Steps};
use tokio::time::{Instant, timeout};

use super::ask::{self, Line};
use super::changes::Scope;
use super::cluster::SILENT_AFTER_MILLIS;
use super::kept::{Keep, Kept, is_shortly_before};
use super::problems::{Severity, subject};
use super::shell::encode;
use super::window::Window;
use crate::alerts::RuleGroup;
use crate::history::labels::SOURCE_LABEL;
use crate::http::App;

/// The number of steps of the time: an event is as exact as one of them.
const STEPS: i64 = 240;
/// The smallest step; rules are evaluated every 15 s.
const MIN_STEP_MS: i64 = 15_000;
/// How long a value counts at least.
const MIN_LOOKBACK_MS: i64 = 60_000;
/// How long a value of an alert counts at least: where rules are evaluated by others, that may be seldom. An alert that ends has a mark at its end.
const MIN_LOOKBACK_OF_ALERTS_MS: i64 = 300_000;
/// What of one series follows within so many steps is one event.
const TOGETHER_STEPS: usize = 4;
/// How long finding them may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a page waits for them.
pub const EVENTS_LIMIT: Duration = Duration::from_millis(400);
/// The number of events that are shown.
const MAX_EVENTS: usize = 100;

const ALERTS: &str = r#"ALERTS{alertstate="firing",alertname!="Watchdog",$of}"#;
const RESTARTS: &str = r#"max by (namespace, pod, container) (kube_pod_container_status_restarts_total{pod!="",exported_pod="",$of}) or max by (namespace, pod, container) (kube_pod_init_container_status_restarts_total{pod!="",exported_pod="",$of})"#;
const OOM_OF_PODS: &str = r#"max by (namespace, pod, container) (container_oom_events_total{pod!="",container!="",exported_pod="",$of})"#;
const OOM_OF_NODES: &str = "max by (instance) (node_vmstat_oom_kill{$of})";
/// How long ago each node had reported when that was written; and, with the label `stopped`, the nodes that were stopped. The age is that at the time of the
/// sample: with rollups a step may be minutes after its newest sample.
const SILENT_FOR: &str = r#"min by (instance) (timestamp(golectra_source_last_seen_timestamp_seconds{$of}) - golectra_source_last_seen_timestamp_seconds{$of})
    or label_replace(max by (instance) (golectra_source_stopped{$of}), "stopped", "yes", "", "")"#;
const BOOTED: &str = "max by (instance) (node_boot_time_seconds{$of})";
const VERSIONS: &str = r#"max by (instance, version) ({__name__=~"golectra_agent_info|golectra_build_info",instance!="",$of})"#;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// The class of its mark.
    pub class: &'static str,
    /// What.
    pub title: String,
    /// Where to look at it.
    pub link: String,
}

/// What happened, newest first.
#[derive(Debug, Default)]
pub struct Events {
    /// The newest ones.
    pub shown: Vec<Event>,
    /// How many there are beside them.
    pub more: usize,
    /// Sentences about what could not be read.
    pub missing: Vec<String>,
}

/// The events that were found last.
pub type KeptEvents = Kept<(Scope, Steps), Events>;

/// The steps of a window. They are at multiples of their length, so that what is found can be shared until the next step.
fn steps_of(window: &Window) -> Steps {
    let length = (window.end_ms - window.start_ms).max(MIN_STEP_MS);
    let step_ms = (length / STEPS).max(MIN_STEP_MS);
    let end_ms = window.end_ms - window.end_ms.rem_euclid(step_ms);
    Steps::range(end_ms - length, end_ms, step_ms).unwrap_or_else(|| Steps::at(end_ms))
}

/// What happened in a window, if it is found soon, else an incomplete or slightly older result; None if there is neither. What was begun goes on.
pub async fn find_soon(app: &Arc<App>, scope: &Scope, window: &Window, limit: Duration) -> Option<Arc<Events>> {
    let steps = steps_of(window);
    let begun = tokio::spawn({
        let (app, key) = (Arc::clone(app), (scope.clone(), steps));
        async move { app.events.get(&key, async || find(&app, &key.0, key.1).await, |found| Keep::if_complete(&found.missing)).await }
    });
    match timeout(limit, begun).await {
        Ok(Ok(Some(found))) => Some(found),
        _ => app.events.known(|(about, before)| {
            let is_alike = about == scope && (before.step_ms(), before.len()) == (steps.step_ms(), steps.len());
            is_alike && is_shortly_before(before.end_ms(), steps.end_ms(), steps.step_ms())
        }),
    }
}

/// Makes events of what a query answered.
type Reads = fn(&[Line], Steps) -> Vec<Event>;

async fn find(app: &App, scope: &Scope, steps: Steps) -> Events {
    let deadline = Instant::now() + LIMIT;
    let (mut events, mut missing) = (Vec::new(), Vec::new());
    let of_pod = matches!(scope, Scope::Pod(..));
    let kinds: [(&str, &str, bool, Reads); 9] = [
        ("Alerts", ALERTS, true, alerts),
        ("Restarts", RESTARTS, true, |lines, steps| increases(lines, steps, "restarted")),
        ("OOM kills", OOM_OF_PODS, true, |lines, steps| increases(lines, steps, "was killed for its memory")),
        ("OOM kills of nodes", OOM_OF_NODES, false, |lines, steps| increases(lines, steps, "had a process killed for its memory")),
        ("Silent nodes", SILENT_FOR, false, silences),
        ("Starts of nodes", BOOTED, false, boots),
        ("Versions", VERSIONS, false, versions),
        ("Rollouts of Deployments", rollouts::REPLICA_SETS, false, rollouts::of_deployments),
        ("Rollouts of StatefulSets and DaemonSets", rollouts::PODS_OF_SETS, true, rollouts::of_sets),
    ];
    for (what, expr, also_of_pods, read) in kinds {
        if of_pod && !also_of_pods {
            continue;
        }
        if Instant::now() >= deadline {
            missing.push(format!("{what} can't be shown now: there was no time left to read them."));
            continue;
        }
        let lookback_ms = if expr == ALERTS {
            lookback_of_alerts(steps.step_ms(), &app.alerts.rules().groups, app.alerts.interval())
        } else {
            steps.step_ms().max(MIN_LOOKBACK_MS)
        };
        match ask::range_looking_back(app, &expr.replace("$of", &scope.matchers()), steps, lookback_ms).await {
            Ok(lines) => events.extend(read(&lines, steps)),
            Err(error) => missing.push(ask::sentence(what, &error)),
        }
    }
    events.sort_by(|a, b| b.at_ms.cmp(&a.at_ms).then_with(|| a.title.cmp(&b.title)));
    let more = events.len().saturating_sub(MAX_EVENTS);
    events.truncate(MAX_EVENTS);
    Events { shown: events, more, missing }
}

/// How long a value of an alert counts: until the next evaluation of any group, so that none seems to end in between.
fn lookback_of_alerts(step_ms: i64, groups: &[Arc<RuleGroup>], interval: Duration) -> i64 {
    let longest = groups.iter().filter_map(|group| group.interval).max().unwrap_or_default();
    let between = i64::try_from(longest.saturating_add(interval).as_millis()).unwrap_or(i64::MAX);
    step_ms.max(MIN_LOOKBACK_OF_ALERTS_MS).max(between)
}

fn event(at_ms: i64, class: &'static str, title: String, link: String) -> Event {
    Event { at_ms: u64::try_from(at_ms).unwrap_or_default(), class, title, link }
}

/// What labels are about, and its page.
fn about(labels: &Labels) -> (String, String) {
    let map: BTreeMap<_, _> = labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let label = |name: &str| labels.value(name);
    let title = match (label("namespace"), label("pod"), label("persistentvolumeclaim"), label(SOURCE_LABEL)) {
        (namespace, pod, ..) if !pod.is_empty() => format!("{namespace}/{pod}"),
        (namespace, _, claim, _) if !claim.is_empty() => format!("{namespace}/{claim}"),
        (.., node) => node.to_owned(),
    };
    (title, subject(&map).unwrap_or_else(|| "/alerts".to_owned()))
}

/// Alerts that begin to fire, and those that end.
fn alerts(lines: &[Line], steps: Steps) -> Vec<Event> {
    let mut events = Vec::new();
    for line in lines {
        let (title, link) = about(&line.labels);
        let name = line.labels.value("alertname");
        let of = if title.is_empty() { String::new() } else { format!(" of {title}") };
        let class = Severity::of_label(line.labels.value("severity")).class();
        for (step, pair) in line.values.windows(2).enumerate() {
            let at = steps.time_ms(step + 1);
            match (pair[0].is_finite(), pair[1].is_finite()) {
                (false, true) => events.push(event(at, class, format!("{name}{of} fires"), link.clone())),
                (true, false) => events.push(event(at, "ok", format!("{name}{of} has ended"), link.clone())),
                _ => {}
            }
        }
    }
    events
}

/// Times at which a total grows. What follows soon is one event.
fn increases(lines: &[Line], steps: Steps, what: &str) -> Vec<Event> {
    let mut events = Vec::new();
    for line in lines {
        let (title, link) = about(&line.labels);
        let mut last = f64::NAN;
        let mut under_way: Option<(usize, usize, f64)> = None;
        let mut tell = |(first, _, times): (usize, usize, f64)| {
            let often = if times > 1.0 { format!(" {times:.0} times") } else { String::new() };
            events.push(event(steps.time_ms(first), "warn", format!("{title} {what}{often}"), link.clone()));
        };
        for (step, value) in line.values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            if *value > last {
                let times = value - last;
                under_way = match under_way {
                    Some((first, latest, sum)) if step - latest <= TOGETHER_STEPS => Some((first, step, sum + times)),
                    other => {
                        other.into_iter().for_each(&mut tell);
                        Some((step, step, times))
                    }
                };
            }
            last = *value;
        }
        under_way.into_iter().for_each(&mut tell);
    }
    events
}

/// Nodes whose last report was long ago, and those that report again.
fn silences(lines: &[Line], steps: Steps) -> Vec<Event> {
    let silent_after = Duration::from_millis(SILENT_AFTER_MILLIS).as_secs_f64();
    let (stopped, seen): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|line| line.labels.get("stopped").is_some());
    let stopped: BTreeMap<&str, &Line> = stopped.into_iter().map(|line| (line.labels.value(SOURCE_LABEL), line)).collect();
    let mut events = Vec::new();
    for line in seen {
        let has_stopped = stopped.get(line.labels.value(SOURCE_LABEL));
        let (title, link) = about(&line.labels);
        let mut silent = None;
        for (step, seconds) in line.values.iter().enumerate().filter(|(_, seconds)| seconds.is_finite()) {
            let is_silent = *seconds > silent_after;
            if silent == Some(false) && is_silent {
                let (class, what) = match has_stopped.and_then(|line| line.values.get(step)) {
                    Some(value) if value.is_finite() => ("info", "was stopped"),
                    _ => ("crit", "fell silent"),
                };
                events.push(event(steps.time_ms(step), class, format!("{title} {what}"), link.clone()));
            } else if silent == Some(true) && !is_silent {
                events.push(event(steps.time_ms(step), "ok", format!("{title} reports again"), link.clone()));
            }
            silent = Some(is_silent);
        }
    }
    events
}

/// Nodes that started: the time of their start moves. Clocks that are set move it a little.
fn boots(lines: &[Line], steps: Steps) -> Vec<Event> {
    let mut events = Vec::new();
    for line in lines {
        let (title, link) = about(&line.labels);
        let mut last = f64::NAN;
        for (step, value) in line.values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            if *value > last + 60.0 {
                events.push(event(steps.time_ms(step), "info", format!("{title} was started"), link.clone()));
            }
            last = *value;
        }
    }
    events
}

/// Versions that come after others of the same instance.
fn versions(lines: &[Line], steps: Steps) -> Vec<Event> {
    let mut starts = BTreeMap::<&str, Vec<(usize, &str, &Line)>>::new();
    for line in lines {
        if let Some(first) = line.values.iter().position(|value| value.is_finite()) {
            starts.entry(line.labels.value(SOURCE_LABEL)).or_default().push((first, line.labels.value("version"), line));
        }
    }
    let mut events = Vec::new();
    for mut of_one in starts.into_values() {
        of_one.sort_by_key(|(first, ..)| *first);
        for pair in of_one.windows(2) {
            let ((_, before, _), (first, version, series)) = (pair[0], pair[1]);
            let (title, _) = about(&series.labels);
            let link = format!("/node?name={}", encode(&title));
            events.push(event(steps.time_ms(first), "info", format!("{title} runs golectra {version} instead of {before}"), link));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{IdempotencyKey, Metrics, Source, Value};
    use prometheus::Registry;

    use super::*;
    use crate::clock::Clock;
    use crate::history::labels::RULES_SOURCE;
    use crate::history::query::{Queries, QueryLimits, Question, When};
    use crate::store::memory::{MemoryConfig, MemoryStore};
    use crate::store::{Applied, Batch, Lifetimes, SeriesLimits, Store};

    pub(super) const NONE: f64 = f64::NAN;

    pub(super) fn steps() -> Steps {
        Steps::range(1_000_000, 1_000_000 + 9 * 15_000, 15_000).unwrap()
    }

    pub(super) fn line(labels: &[(&str, &str)], values: &[f64]) -> Line {
        Line { labels: Labels::new(labels.iter().copied()), values: values.to_vec() }
    }

    pub(super) fn told(events: &[Event]) -> Vec<(u64, &str, &str)> {
        events.iter().map(|event| ((event.at_ms - 1_000_000) / 15_000, event.class, event.title.as_str())).collect()
    }

    #[test]
    fn alerts_begin_and_end_but_not_at_the_edges() {
        let labels = [("alertname", "NodeSilent"), ("instance", "n1"), ("severity", "critical")];
        let events = alerts(&[line(&labels, &[NONE, 1.0, 1.0, NONE, NONE]), line(&labels, &[1.0, 1.0])], steps());
        assert_eq!(told(&events), [(1, "crit", "NodeSilent of n1 fires"), (3, "ok", "NodeSilent of n1 has ended")]);
        assert_eq!(events[0].link, "/node?name=n1");
    }

    #[test]
    fn an_alert_of_an_unknown_severity_is_critical_as_for_receivers() {
        let labels = [("alertname", "Paged"), ("instance", "n1"), ("severity", "page")];
        assert_eq!(told(&alerts(&[line(&labels, &[NONE, 1.0])], steps())), [(1, "crit", "Paged of n1 fires")]);
    }

    #[test]
    fn an_alert_counts_until_its_group_is_evaluated_again() {
        let group = |interval: Option<u64>| {
            let interval = interval.map(Duration::from_secs);
            Arc::new(RuleGroup { file: "f".into(), name: "g".into(), interval, query_offset_ms: 0, limit: 0, rules: Vec::new() })
        };
        let lookback = |step_ms: i64, groups: &[Arc<RuleGroup>]| lookback_of_alerts(step_ms, groups, Duration::from_secs(15));
        assert_eq!(lookback(15_000, &[]), 300_000);
        assert_eq!(lookback(900_000, &[group(None)]), 900_000);
        assert_eq!(lookback(15_000, &[group(Some(3_600)), group(Some(60)), group(None)]), 3_615_000);
    }

    #[test]
    fn totals_that_grow_again_and_again_are_one_event() {
        let labels = [("namespace", "shop"), ("pod", "cart")];
        let events = increases(&[line(&labels, &[0.0, 1.0, 1.0, 3.0, NONE, 3.0, 3.0, 3.0, 3.0, 4.0])], steps(), "restarted");
        assert_eq!(told(&events), [(1, "warn", "shop/cart restarted 3 times"), (9, "warn", "shop/cart restarted")]);
        assert!(increases(&[line(&labels, &[NONE, 7.0, 7.0])], steps(), "restarted").is_empty(), "what it was before is not known");
        assert!(increases(&[line(&labels, &[7.0, 0.0])], steps(), "restarted").is_empty(), "a total that begins again");
    }

    #[test]
    fn nodes_fall_silent_and_come_back() {
        let silent_for = [5.0, 5.0, 15.0, 30.0, 45.0, 60.0, 75.0, NONE, 10.0, 5.0];
        let seen = line(&[("instance", "n1")], &silent_for);
        let events = silences(std::slice::from_ref(&seen), steps());
        assert_eq!(told(&events), [(6, "crit", "n1 fell silent"), (8, "ok", "n1 reports again")]);
        let stopped =
            |node: &str| line(&[("instance", node), ("stopped", "yes")], &[NONE, NONE, NONE, NONE, 1.0, 1.0, 1.0, NONE, NONE, NONE]);
        let events = silences(&[stopped("n2"), stopped("n1"), seen], steps());
        assert_eq!(told(&events), [(6, "info", "n1 was stopped"), (8, "ok", "n1 reports again")]);
    }

    #[tokio::test]
    async fn long_times_have_the_silences_that_there_were_and_no_others() {
        const NOW: i32 = 1_800_000_000;
        const DAY: i32 = 86_400;
        let end_ms = i64::from(NOW) * 1_000;
        let config = MemoryConfig {
            path: None,
            store_interval: Duration::ZERO,
            restore: false,
            lifetimes: Lifetimes::default(),
            max_keys: 1_000,
            limits: SeriesLimits { total: 1_000, per_source: 1_000 },
            history_max_bytes: 64 << 20,
            audit: None,
        };
        let store: Arc<dyn Store> = MemoryStore::open(config, Clock::at(end_ms.unsigned_abs())).unwrap();
        // One node always reports, one is stopped for six hours, one is away for as long without having said so, and for three hours nothing is written of the
        // third.
        let silent = NOW - 3 * DAY..NOW - 3 * DAY + 6 * 3_600;
        let away = NOW - 2 * DAY..NOW - 2 * DAY + 6 * 3_600;
        let unwritten = NOW - 5 * DAY..NOW - 5 * DAY + 3 * 3_600;
        let mut metrics = Metrics::default();
        for second in (NOW - 8 * DAY..=NOW).step_by(15) {
            let mut push = |name: &str, node: &str, value: i32| {
                let id = format!("golectra_source_{name}{{instance=\"{node}\",job=\"golectra-server\"}}");
                metrics.push_parsed_at(&id, Value::Gauge(f64::from(value)), i64::from(second) * 1_000).unwrap();
            };
            let mut seen = |node: &str, seen: i32| push("last_seen_timestamp_seconds", node, seen);
            seen("steady", second - 5);
            seen("paused", if silent.contains(&second) { silent.start - 5 } else { second - 5 });
            seen("vanished", if away.contains(&second) { away.start - 5 } else { second - 5 });
            if !unwritten.contains(&second) {
                seen("third", second - 5);
            }
            if (silent.start + 30..silent.end).contains(&second) {
                push("stopped", "paused", 1);
            }
        }
        let key = IdempotencyKey::at(end_ms.unsigned_abs());
        let batch = Batch { source: Source::parse(RULES_SOURCE).unwrap(), key, keyed: false, digest: [0; 32], metrics, audit: None };
        assert_eq!(store.apply(batch).await.unwrap(), Applied::New);
        let limit = Duration::from_secs(30);
        let limits =
            QueryLimits { concurrency: 1, timeout: limit, max_series: 100, max_bytes: 64 << 20, log_after: limit, subquery_step: limit };
        let queries = Queries::start(Arc::<dyn Store>::clone(&store), limits, store.writer_load(), &Registry::new()).unwrap();
        let text = SILENT_FOR.replace("$of", "");
        for (days, rollups) in [(7, "5-minute"), (365, "1-hour")] {
            let over = steps_of(&Window { start_ms: end_ms - i64::from(days * DAY) * 1_000, end_ms, preset: None });
            let lookback_ms = Some(over.step_ms());
            let evaluated =
                queries.evaluate(Question { text: text.clone(), when: When::Over(over), lookback_ms, timeout: None }).await.unwrap();
            let infos = evaluated.outcome.annotations.texts(golectra_promql::Severity::Info, &text);
            assert!(infos.iter().any(|info| info.contains(&format!("answered from {rollups} rollups"))), "{infos:?}");
            let golectra_promql::Value::Matrix(matrix) = &evaluated.outcome.value else { panic!("no matrix") };
            let lines = matrix.series.iter().map(|series| {
                let mut values = vec![NONE; over.len()];
                for (time_ms, value) in series.samples(&matrix.steps) {
                    values[usize::try_from((time_ms - over.start_ms()) / over.step_ms()).unwrap()] = value;
                }
                Line { labels: series.labels.clone(), values }
            });
            let lines: Vec<_> = lines.collect();
            assert_eq!(lines.len(), 5, "four nodes, and that one of them was stopped");
            let mut events = silences(&lines, over);
            events.sort_by_key(|event| event.at_ms);
            let is_of_those_that_were_away = |event: &Event| ["paused ", "vanished "].iter().any(|name| event.title.starts_with(name));
            assert!(events.iter().all(is_of_those_that_were_away), "{events:?}");
            if days == 7 {
                let told: Vec<_> = events.iter().map(|event| (event.class, event.title.as_str())).collect();
                let expected = [
                    ("info", "paused was stopped"),
                    ("ok", "paused reports again"),
                    ("crit", "vanished fell silent"),
                    ("ok", "vanished reports again"),
                ];
                assert_eq!(told, expected);
                let is_soon_after = |event: &Event, second: i32| {
                    let after_ms = i64::try_from(event.at_ms).unwrap() - i64::from(second) * 1_000;
                    (0..=over.step_ms() + 360_000).contains(&after_ms)
                };
                let times = [silent.start, silent.end, away.start, away.end];
                assert!(events.iter().zip(times).all(|(event, second)| is_soon_after(event, second)), "{events:?}");
            }
        }
    }

    #[test]
    fn what_was_found_of_a_time_is_not_that_of_a_longer_one_with_the_same_steps() {
        let of = |minutes: i64| steps_of(&Window { start_ms: 10_000_001 - minutes * 60_000, end_ms: 10_000_001, preset: None });
        let (quarter, hour) = (of(15), of(60));
        assert_eq!((quarter.step_ms(), quarter.end_ms()), (hour.step_ms(), hour.end_ms()));
        assert_ne!(quarter, hour);
    }

    #[test]
    fn another_version_and_another_start_are_events() {
        let of = |version: &'static str| [("instance", "n1"), ("version", version)];
        let events = versions(&[line(&of("1.8.0"), &[NONE, NONE, 1.0]), line(&of("1.7.2"), &[1.0, 1.0, NONE])], steps());
        assert_eq!(told(&events), [(2, "info", "n1 runs golectra 1.8.0 instead of 1.7.2")]);
        let events = boots(&[line(&[("instance", "n1")], &[100.0, 101.0, 900.0, 900.0])], steps());
        assert_eq!(told(&events), [(2, "info", "n1 was started")]);
    }

    #[test]
    fn every_expression_is_valid_with_and_without_matchers() {
        use golectra_promql::Query;
        use golectra_promql::parse::ParseLimits;
        for expr in
            [ALERTS, RESTARTS, OOM_OF_PODS, OOM_OF_NODES, SILENT_FOR, BOOTED, VERSIONS, rollouts::REPLICA_SETS, rollouts::PODS_OF_SETS]
        {
            for of in ["", r#"instance="a""#] {
                let query = expr.replace("$of", of);
                Query::parse(&query, &ParseLimits::default()).unwrap_or_else(|error| panic!("{query}: {error}"));
            }
        }
    }
}
