//! Evaluations on the memory stores, with a clock that is set.

use std::sync::atomic::AtomicBool;

use futures_util::FutureExt as _;
use golectra_protocol::{IdempotencyKey, Metrics, Source};
use prometheus::Registry;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::alerts::notification::Notification;
use crate::alerts::store::Settled;
use crate::alerts::store::memory::MemoryAlertStore;
use crate::clock::Clock;
use crate::history::query::QueryLimits;
use crate::store::memory::{MemoryConfig, MemoryStore};
use crate::store::{Applied, Batch, Lifetimes, SeriesLimits, Store};

/// A time at which rules are evaluated.
const START_MS: i64 = 1_800_000_000_000;
const TICK_MS: i64 = 15_000;
/// An expression that can't be evaluated. It reads nothing.
const FAILS: &str = r#"(vector(1) or label_replace(vector(1), "a", "b", "", "")) * on () vector(1)"#;

struct Setup {
    evaluator: Evaluator,
    clock: Clock,
    registry: Registry,
    folder: TempDir,
}

impl Setup {
    fn new(rules: &str) -> Self {
        let clock = Clock::at(START_MS.unsigned_abs());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rules.yaml"), rules).unwrap();
        let receivers = folder.path().join("receivers");
        std::fs::write(&receivers, "receivers:\n- name: there\n  webhook: {url: 'http://h/'}\n").unwrap();
        let config = MemoryConfig {
            path: None,
            store_interval: Duration::ZERO,
            restore: false,
            lifetimes: Lifetimes::default(),
            max_keys: 1_000,
            limits: SeriesLimits { total: 1_000, per_source: 1_000 },
            history_max_bytes: 1 << 20,
            audit: None,
        };
        let store: Arc<dyn Store> = MemoryStore::open(config, clock.clone()).unwrap();
        let limit = Duration::from_secs(30);
        let limits =
            QueryLimits { concurrency: 1, timeout: limit, max_series: 100, max_bytes: 4 << 20, log_after: limit, subquery_step: limit };
        let registry = Registry::new();
        let evaluator = Evaluator {
            book: RuleBook::open(Some(folder.path()), &BTreeSet::from(["all".to_owned()])),
            receivers: ReceiverBook::open(Some(&receivers)).unwrap(),
            states: Arc::new(MemoryAlertStore::open(None, false, clock.clone()).unwrap()),
            queries: Queries::start(Arc::<dyn Store>::clone(&store), limits, store.writer_load(), &registry).unwrap(),
            series: SeriesWriter {
                store,
                registry: registry.clone(),
                instance: "here".into(),
                always: false,
                enabled: AtomicBool::new(false),
                own: Mutex::default(),
            },
            interval: Duration::from_millis(TICK_MS.unsigned_abs()),
            metrics: AlertMetrics::register(&registry).unwrap(),
            view: View::default(),
            wake: Arc::default(),
            recorded: Mutex::default(),
            waited_after_ms: AtomicI64::new(i64::MIN),
            fails: AtomicBool::new(false),
            evaluated: LastEvaluated::new(None),
            links: Links::default(),
        };
        Self { evaluator, clock, registry, folder }
    }

    /// Evaluates for this time when it is so late. Returns the time of the last evaluation.
    async fn at(&self, at_ms: i64, late_ms: i64) -> i64 {
        self.clock.set((at_ms + late_ms).unsigned_abs());
        self.evaluator.evaluate(at_ms).await.unwrap();
        self.stored().await.evaluated_ms
    }

    async fn stored(&self) -> Stored {
        self.evaluator.states.load().await.unwrap()
    }

    /// What the receiver is told since this was asked last: of each alert whether it fires, and its labels.
    async fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(claimed) = self.evaluator.states.claim("there").await.unwrap() {
            self.evaluator.states.settle(&claimed, Settled::Done).await.unwrap();
            for alert in claimed.notification.alerts {
                let labels: Vec<String> = alert.labels.into_values().collect();
                told.push(format!("{} {}", if alert.firing { "firing" } else { "resolved" }, labels.join(" ")));
            }
        }
        told
    }

    /// All alerts: the labels, the phase, and for how long before this time it has been active and has fired, in seconds.
    async fn alerts(&self, at_ms: i64) -> Vec<String> {
        let stored = self.stored().await;
        let text = |alert: &AlertState| {
            let labels: Vec<&str> = alert.labels.values().map(String::as_str).collect();
            let fired = alert.fired_ms.map_or_else(|| "-".to_owned(), |fired_ms| ((at_ms - fired_ms) / 1000).to_string());
            format!("{} {} {} {fired}", labels.join(" "), alert.phase.as_str(), (at_ms - alert.active_ms) / 1000)
        };
        stored.groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts).map(text).collect()
    }

    /// Puts other rules into the file, and reads it.
    fn rewrite(&self, rules: &str) {
        std::fs::write(self.folder.path().join("rules.yaml"), rules).unwrap();
        self.evaluator.book.look();
    }

    /// The values that an expression gives at this time.
    async fn values(&self, expr: &str, at_ms: i64) -> Vec<String> {
        let samples = self.evaluator.query(expr, at_ms, None).await.unwrap();
        samples.iter().map(|sample| sample.value.to_string()).collect()
    }
}

#[tokio::test]
async fn the_first_evaluation_after_a_gap_is_one_that_begins_in_time() {
    let setup = Setup::new("groups:\n- name: g\n  rules:\n  - {alert: A, expr: vector(1), for: 15s}\n");
    assert_eq!(setup.at(START_MS, 14_500).await, START_MS, "nothing is known to have been missed");
    let next = START_MS + TICK_MS;
    assert_eq!(setup.at(next, 14_500).await, next, "a late one without a gap");
    let after = next + 65_000 / TICK_MS * TICK_MS;
    assert_eq!(setup.at(after, 14_500).await, next, "half a second later an alert of 15 s would fire");
    assert_eq!(setup.at(after + TICK_MS, 100).await, after + TICK_MS);
    // Where each is late, the second one counts.
    let again = after + TICK_MS * 10;
    assert_eq!(setup.at(again, 14_500).await, after + TICK_MS);
    assert_eq!(setup.at(again + TICK_MS, 14_500).await, again + TICK_MS);
}

#[tokio::test]
async fn after_a_pause_alerts_go_on_until_everything_can_have_reported_again() {
    for reports_again in [false, true] {
        let mut setup = Setup::new(
            "groups:\n- name: g\n  rules:\n  - {alert: Absent, expr: absent(m)}\n  - {alert: Fires, expr: m}\n  - {alert: Waits, expr: m, for: 5m}\n  - {alert: Holds, expr: vector(1), for: 5m}\n",
        );
        setup.evaluator.series.always = true;
        setup.evaluator.series.enabled.store(true, Ordering::Relaxed);
        let write = async |at_ms: i64| {
            setup.evaluator.series.write(vec![RuleSample { labels: Labels::new([("__name__", "m")]), value: 1.0 }], at_ms).await;
        };
        write(START_MS).await;
        setup.at(START_MS, 0).await;
        assert_eq!(setup.alerts(START_MS).await, ["Fires firing 0 0", "Waits pending 0 -", "Holds pending 0 -"]);
        assert_eq!(setup.told().await, ["firing Fires"]);

        let resumed_ms = START_MS + 600_000;
        for after in [0, 15, 30, 45] {
            let at_ms = resumed_ms + after * 1000;
            setup.at(at_ms, 0).await;
            let active = 600 + after;
            let expected = [
                format!("Absent pending {after} -"),
                format!("Fires firing {active} {active}"),
                format!("Waits pending {active} -"),
                format!("Holds pending {active} -"),
            ];
            assert_eq!(setup.alerts(at_ms).await, expected);
        }
        assert!(setup.told().await.is_empty());
        if reports_again {
            write(resumed_ms + 45_000).await;
        }
        let last_ms = resumed_ms + 60_000;
        setup.at(last_ms, 0).await;
        let (alerts, told) = if reports_again {
            (["Fires firing 660 660", "Waits firing 660 0", "Holds firing 660 0"], &["firing Holds", "firing Waits"][..])
        } else {
            (
                ["Absent firing 60 0", "Fires inactive 660 660", "Holds firing 660 0"],
                &["firing Absent", "resolved Fires", "firing Holds"][..],
            )
        };
        assert_eq!(setup.alerts(last_ms).await, alerts);
        assert_eq!(setup.told().await, told);
        assert!(setup.stored().await.groups.iter().all(|group| group.resumed_ms.is_none()));
    }
}

#[tokio::test]
async fn rules_that_are_not_begun_in_time_keep_their_alerts_and_say_so() {
    let setup = Setup::new("groups:\n- name: g\n  rules:\n  - {alert: A, expr: vector(1)}\n  - {record: r, expr: vector(1)}\n");
    let rules = setup.evaluator.book.current();
    let group = &rules.groups[0];
    let begun = Instant::now();
    let first = setup
        .evaluator
        .group(group, None, &Round { step: Step::at(START_MS), deadline: begun + Duration::from_mins(1), reads: None })
        .await
        .state;
    assert!(first.rules.iter().all(|rule| rule.error.is_none()), "{first:?}");
    assert_eq!(first.rules[0].alerts[0].phase, Phase::Firing);
    let late =
        setup.evaluator.group(group, Some(&first), &Round { step: Step::at(START_MS + TICK_MS), deadline: begun, reads: None }).await.state;
    for (before, rule) in first.rules.iter().zip(&late.rules) {
        assert!(rule.error.as_ref().is_some_and(|error| error.contains("took more than 30 s")), "{rule:?}");
        assert_eq!((&rule.alerts, rule.evaluated_ms), (&before.alerts, START_MS));
    }
}

#[tokio::test]
async fn groups_that_are_not_begun_in_time_keep_their_alerts_and_say_so() {
    let group =
        |name: &str| format!("- name: {name}\n  rules:\n  - {{alert: A, expr: vector(1)}}\n  - {{record: '{name}', expr: vector(1)}}\n");
    let mut setup = Setup::new(&format!("groups:\n{}{}", group("one"), group("two")));
    setup.at(START_MS, 0).await;
    let before = setup.stored().await;
    // So short that it is over before the first group is begun.
    setup.evaluator.interval = Duration::from_nanos(1);
    let next = START_MS + TICK_MS;
    assert_eq!(setup.at(next, 0).await, next);
    let stored = setup.stored().await;
    assert_eq!(stored.groups.len(), 2);
    for (before, group) in before.groups.iter().zip(&stored.groups) {
        assert_eq!((group.evaluated_ms, group.rules.len()), (START_MS, 2), "{} is among the first of the next evaluation", group.name);
        for (before, rule) in before.rules.iter().zip(&group.rules) {
            assert_eq!(before.error, None);
            assert!(rule.error.as_ref().is_some_and(|error| error.starts_with("not evaluated in time")), "{rule:?}");
            assert_eq!((&rule.alerts, rule.evaluated_ms), (&before.alerts, START_MS));
        }
    }
    let families = setup.registry.gather();
    let failures = families.iter().find(|family| family.name() == "golectra_rule_evaluation_failures_total").unwrap();
    let counts: Vec<_> = failures.get_metric().iter().map(|metric| metric.get_counter().get_value().to_string()).collect();
    assert_eq!(counts, ["2", "2"]);
}

#[tokio::test]
async fn series_of_a_group_with_a_query_offset_have_the_time_that_it_asks_about() {
    let mut setup = Setup::new(
        "groups:\n- name: g\n  query_offset: 1m\n  rules:\n  - {record: a, expr: m}\n  - {record: b, expr: a}\n  - {alert: A, expr: b, for: 15s}\n",
    );
    setup.evaluator.series.always = true;
    setup.evaluator.series.enabled.store(true, Ordering::Relaxed);
    let asked_ms = START_MS - 60_000;
    let m = |value| vec![RuleSample { labels: Labels::new([("__name__", "m")]), value }];
    setup.evaluator.series.write(m(7.0), asked_ms).await;
    setup.at(START_MS, 0).await;
    for name in ["a", "b", "ALERTS", "ALERTS_FOR_STATE"] {
        let times = setup.values(&format!("timestamp({name})"), START_MS).await;
        assert_eq!(times, [(asked_ms / 1000).to_string()], "{name}");
    }
    assert_eq!(setup.values("b", START_MS).await, ["7"]);
    assert_eq!(setup.stored().await.groups[0].rules[2].alerts[0].active_ms, START_MS, "`for` counts by the time of the evaluation");
    // The end has that time too.
    setup.evaluator.series.write(m(STALE), asked_ms + TICK_MS).await;
    setup.at(START_MS + TICK_MS, 0).await;
    assert_eq!(setup.values("a", asked_ms + TICK_MS - 1).await, ["7"]);
    assert!(setup.values("a", asked_ms + TICK_MS).await.is_empty());
}

#[tokio::test]
async fn what_a_server_told_of_itself_ends_when_another_one_evaluates() {
    const AGE: &str = "golectra_alerts_oldest_notification_age_seconds";
    let mut setup = Setup::new("groups: []\n");
    setup.evaluator.series.always = true;
    setup.evaluator.series.enabled.store(true, Ordering::Relaxed);
    let age = |job: &str| {
        let labels = [("__name__", AGE), ("instance", "before"), ("job", job), ("receiver", "there")];
        RuleSample { labels: Labels::new(labels), value: 200.0 }
    };
    for at_ms in [START_MS, START_MS + 4 * TICK_MS] {
        // Where a server has just started, this changes nothing.
        setup.evaluator.series.leave().await;
        let before_ms = at_ms - TICK_MS;
        setup.clock.set(at_ms.unsigned_abs());
        setup.evaluator.series.write(vec![age("golectra-server"), age("of-a-rule")], before_ms).await;
        assert_eq!(setup.values(AGE, before_ms).await, ["200", "200"]);
        setup.at(at_ms, 0).await;
        assert_eq!(setup.values(AGE, at_ms).await, ["200"], "of a rule");
        assert_eq!(setup.values("golectra_rule_files_refused", at_ms).await.len(), 1, "its own");
    }
}

#[tokio::test]
async fn a_node_has_stopped_from_a_last_report_that_says_so_until_it_reports_again() {
    const STOPPING: &str = "golectra_agent_stopping";
    for another_server_goes_on in [false, true] {
        let setup = Setup::new("groups: []\n");
        let report = async |source: &str, id: &str, value: f64, at_ms: i64, arrival_ms: i64| {
            setup.clock.set(arrival_ms.unsigned_abs());
            let mut metrics = Metrics::default();
            metrics.push_parsed(id, golectra_protocol::Value::Gauge(value)).unwrap();
            let (source, key) = (Source::parse(source).unwrap(), IdempotencyKey::at(at_ms.unsigned_abs()));
            let batch = Batch { source, key, keyed: true, digest: [0; 32], metrics, audit: None };
            assert_eq!(setup.evaluator.series.store.apply(batch).await.unwrap(), Applied::New);
        };
        let last_ms = START_MS - 10_000;
        // An agent of an earlier version has come after one that ended.
        report("old", STOPPING, 1.0, START_MS - 300_000, START_MS - 300_000).await;
        report("stopped", STOPPING, 0.0, START_MS - 20_000, START_MS - 20_000).await;
        report("old", "up", 1.0, last_ms, last_ms).await;
        report("stopped", STOPPING, 1.0, last_ms, last_ms).await;
        report("vanished", STOPPING, 0.0, last_ms, last_ms).await;
        // Scraped from a page of metrics.
        report("vanished", "golectra_agent_stopping{job=\"agents\"}", 1.0, last_ms, last_ms).await;
        // The one that was started again was faster than the last report of the one before.
        report("back", STOPPING, 0.0, last_ms, last_ms).await;
        report("back", STOPPING, 1.0, START_MS - 15_000, last_ms).await;

        for at_ms in [START_MS, START_MS + TICK_MS] {
            setup.at(at_ms, 0).await;
            assert!(setup.values("golectra_source_stopped", at_ms).await.is_empty(), "it may be back soon");
        }
        let third = START_MS + 2 * TICK_MS;
        setup.at(third, 0).await;
        assert_eq!(setup.values("golectra_source_stopped", third).await, ["1"]);
        let of_it = "golectra_source_stopped{instance=\"stopped\",job=\"golectra-server\"}";
        assert_eq!(setup.values(of_it, third).await, ["1"]);

        if another_server_goes_on {
            setup.evaluator.series.leave().await;
        }
        report("stopped", STOPPING, 0.0, third + 5_000, third + 5_000).await;
        let fourth = third + TICK_MS;
        setup.at(fourth, 0).await;
        assert!(setup.values("golectra_source_stopped", fourth).await.is_empty(), "it is back");
    }
}

#[tokio::test]
async fn series_of_rules_that_are_gone_end() {
    let alerts = |names: &[&str]| {
        let rules: Vec<String> = names.iter().map(|name| format!("  - {{alert: {name}, expr: vector(1)}}\n")).collect();
        format!("- name: alerts\n  rules:\n{}", rules.concat())
    };
    let record = |name: &str| format!("- name: {name}\n  rules:\n  - {{record: r, expr: vector(1)}}\n");
    let mut setup = Setup::new(&format!("groups:\n{}{}", alerts(&["A", "B"]), record("before")));
    setup.evaluator.series.always = true;
    setup.at(START_MS, 0).await;
    assert_eq!(setup.values("ALERTS", START_MS).await, ["1", "1"]);
    assert_eq!(setup.values("ALERTS_FOR_STATE", START_MS).await.len(), 2);
    assert_eq!(setup.values("r", START_MS).await, ["1"]);

    setup.rewrite(&format!("groups:\n{}{}", alerts(&["A"]), record("after")));
    let second = START_MS + TICK_MS;
    setup.at(second, 0).await;
    assert_eq!(setup.values("ALERTS", second).await, ["1"], "one rule of the group is gone");
    assert_eq!(setup.values("ALERTS_FOR_STATE", second).await.len(), 1);
    assert_eq!(setup.values("r", second).await, ["1"], "another group has the rule");
    assert_eq!(setup.evaluator.recorded.lock().await.len(), 1);

    setup.rewrite("groups: []\n");
    let third = second + TICK_MS;
    setup.at(third, 0).await;
    for name in ["ALERTS", "ALERTS_FOR_STATE", "r"] {
        assert!(setup.values(name, third).await.is_empty(), "{name}");
    }
    assert!(setup.evaluator.recorded.lock().await.is_empty());
}

#[tokio::test]
async fn an_evaluation_succeeds_unless_every_rule_that_reads_fails() {
    let rule = |expr: &str| format!("  - {{alert: A, expr: '{expr}'}}\n");
    let reads_and_fails = rule(&format!("up or ({FAILS})"));
    for (rules, succeeds) in [
        (rule("vector(1)"), true),
        (rule("up + on () group_left () up"), true),
        (String::new(), true),
        (rule(FAILS), true),
        (reads_and_fails.clone(), false),
        (reads_and_fails.clone() + &rule("vector(1)"), false),
        (reads_and_fails.clone() + &rule("up"), true),
    ] {
        let setup = Setup::new(&format!("groups:\n- name: g\n  rules:\n{}", if rules.is_empty() { "  []\n" } else { rules.as_str() }));
        setup.at(START_MS, 0).await;
        assert_eq!(setup.evaluator.evaluated.borrow().is_some(), succeeds, "{rules}");
    }
    let setup = Setup::new(&format!("groups:\n- name: g\n  interval: 1m\n  rules:\n{reads_and_fails}"));
    for after_ms in [0, 15_000] {
        setup.at(START_MS + after_ms, 0).await;
        assert!(setup.evaluator.evaluated.borrow().is_none(), "{after_ms} ms after it: that nothing is due says nothing new");
    }
}

#[tokio::test]
async fn an_evaluation_does_not_succeed_while_no_receiver_is_known() {
    let mut setup = Setup::new("groups: []\n");
    let file = setup.folder.path().join("bad-receivers");
    std::fs::write(&file, "receivers: 1\n").unwrap();
    setup.evaluator.receivers = ReceiverBook::open(Some(&file)).unwrap();
    assert_eq!(setup.at(START_MS, 0).await, START_MS);
    assert!(setup.evaluator.evaluated.borrow().is_none(), "nobody would be told of anything");
    setup.evaluator.show_files();
    let families = setup.registry.gather();
    let gauge = families.iter().find(|family| family.name() == "golectra_alerts_receivers_file_refused").unwrap();
    assert_eq!(gauge.get_metric()[0].get_gauge().get_value().to_string(), "1");
}

#[tokio::test]
async fn receivers_are_told_although_the_file_of_the_state_can_not_be_written() {
    let mut setup = Setup::new("groups:\n- name: g\n  rules:\n  - {alert: A, expr: vector(1)}\n");
    let folder = tempfile::tempdir().unwrap();
    let states = MemoryAlertStore::open(Some(folder.path().join("m.alerts")), false, setup.clock.clone()).unwrap();
    setup.evaluator.states = Arc::new(states);
    folder.close().unwrap();
    let wake = Arc::clone(&setup.evaluator.wake);
    let woken = wake.notified();
    assert!(setup.evaluator.evaluate(START_MS).await.is_err());
    assert!(setup.evaluator.evaluated.borrow().is_none());
    assert!(woken.now_or_never().is_some(), "those who deliver look for it");
    assert_eq!(setup.evaluator.states.waiting().await.unwrap()["there"].notifications, 1);
    assert_eq!(count(&setup.evaluator.view.get(), Phase::Firing), 1);
}

#[tokio::test]
async fn a_rule_sees_the_alerts_of_a_rule_before_it() {
    let mut setup = Setup::new(
        "groups:\n- name: g\n  rules:\n  - {alert: A, expr: vector(1)}\n  - {record: seen, expr: 'count(ALERTS{alertname=\"A\"})'}\n",
    );
    setup.evaluator.series.always = true;
    setup.at(START_MS, 0).await;
    assert_eq!(setup.values("seen", START_MS).await, ["1"]);
}

#[tokio::test]
async fn a_rule_keeps_its_alerts_when_one_of_its_name_before_it_goes() {
    let rule = |team: &str| format!("  - {{alert: A, expr: vector(1), for: 15s, labels: {{team: {team}}}}}\n");
    let group = |teams: &[&str]| format!("groups:\n- name: g\n  rules:\n{}", teams.iter().map(|team| rule(team)).collect::<String>());
    let alerts = |stored: &Stored| {
        let rules = stored.groups[0].rules.iter();
        let text = |alert: &AlertState| format!("{} {} {}", alert.label("team"), alert.phase.as_str(), alert.active_ms - START_MS);
        rules.flat_map(|rule| &rule.alerts).map(text).collect::<Vec<_>>()
    };
    // Also where the state was written when rules of one name were known by their place.
    for is_of_earlier_version in [false, true] {
        let setup = Setup::new(&group(&["one", "two"]));
        setup.at(START_MS, 0).await;
        if is_of_earlier_version {
            let mut groups = setup.stored().await.groups;
            groups[0].rules.iter_mut().for_each(|rule| rule.identity.clear());
            assert!(setup.evaluator.states.commit(Commit { at_ms: START_MS + 1, groups, ..Commit::default() }).await.unwrap());
        }
        setup.at(START_MS + TICK_MS, 0).await;
        assert_eq!(alerts(&setup.stored().await), ["one firing 0", "two firing 0"]);
        setup.rewrite(&group(&["two"]));
        setup.at(START_MS + 2 * TICK_MS, 0).await;
        let stored = setup.stored().await;
        assert_eq!(alerts(&stored), ["two firing 0", "one inactive 0"]);
        let keys: Vec<_> = stored.groups[0].rules.iter().map(|rule| rule.key.as_str()).collect();
        assert_eq!(keys, ["A", r#"A{team="one"}"#]);
        // One that comes before it changes nothing for it.
        setup.rewrite(&group(&["new", "two"]));
        setup.at(START_MS + 3 * TICK_MS, 0).await;
        assert_eq!(alerts(&setup.stored().await), ["new pending 45000", "two firing 0", "one inactive 0"]);
    }
}

#[tokio::test]
async fn an_alert_goes_on_when_its_rule_is_moved() {
    let moved = |group: &str| {
        format!(
            "groups:\n- name: {group}\n  rules:\n  - {{alert: Fires, expr: vector(1)}}\n  - {{alert: Waits, expr: vector(1), for: 30s}}\n"
        )
    };
    let setup = Setup::new(&moved("before"));
    setup.at(START_MS, 0).await;
    assert_eq!(setup.told().await, ["firing Fires"]);
    setup.rewrite(&moved("after"));
    for (ticks, expected, told) in [
        (1, ["Fires firing 15 15", "Waits pending 15 -"], &[][..]),
        (2, ["Fires firing 30 30", "Waits firing 30 0"], &["firing Waits"][..]),
    ] {
        let at_ms = START_MS + ticks * TICK_MS;
        setup.at(at_ms, 0).await;
        assert_eq!(setup.alerts(at_ms).await, expected);
        assert_eq!(setup.told().await, told);
    }
    assert_eq!(setup.stored().await.groups.len(), 1);
}

#[tokio::test]
async fn an_alert_goes_on_when_its_rule_is_moved_between_groups_with_intervals() {
    let group = |name: &str, alerts: &[&str]| {
        let rules: Vec<String> = alerts.iter().map(|alert| format!("  - {{alert: {alert}, expr: vector(1)}}\n")).collect();
        format!("- name: {name}\n  interval: 1m\n  rules:\n{}", rules.concat())
    };
    let whole = format!("groups:\n{}", group("one", &["A", "B"]));
    let split = format!("groups:\n{}{}", group("one", &["A"]), group("two", &["B"]));
    let setup = Setup::new(&whole);
    setup.at(START_MS, 0).await;
    assert_eq!(setup.told().await, ["firing A", "firing B"]);
    for ticks in 1..=12 {
        // When no group is due by its interval.
        match ticks {
            1 => setup.rewrite(&split),
            7 => setup.rewrite(&whole),
            _ => {}
        }
        let (at_ms, seconds) = (START_MS + ticks * TICK_MS, ticks * 15);
        setup.at(at_ms, 0).await;
        assert_eq!(setup.alerts(at_ms).await, ["A", "B"].map(|name| format!("{name} firing {seconds} {seconds}")));
        assert_eq!(setup.told().await, Vec::<String>::new(), "after {seconds} s");
    }
    let evaluated = setup.stored().await.groups[0].evaluated_ms;
    assert_eq!(evaluated, START_MS + 11 * TICK_MS, "the interval counts from the evaluation after the change");
}

#[tokio::test]
async fn an_alert_goes_on_when_its_rule_is_moved_during_a_pause() {
    let moved = |group: &str| format!("groups:\n- name: {group}\n  rules:\n  - {{alert: Fires, expr: m}}\n");
    let mut setup = Setup::new(&moved("before"));
    setup.evaluator.series.always = true;
    setup.evaluator.series.enabled.store(true, Ordering::Relaxed);
    let m = || vec![RuleSample { labels: Labels::new([("__name__", "m")]), value: 1.0 }];
    setup.evaluator.series.write(m(), START_MS).await;
    setup.at(START_MS, 0).await;
    assert_eq!(setup.told().await, ["firing Fires"]);
    setup.rewrite(&moved("after"));
    for after in [600, 615, 630, 645, 660] {
        let at_ms = START_MS + after * 1000;
        if after == 660 {
            setup.evaluator.series.write(m(), at_ms - TICK_MS).await;
        }
        setup.at(at_ms, 0).await;
        assert_eq!(setup.alerts(at_ms).await, [format!("Fires firing {after} {after}")]);
        assert_eq!(setup.told().await, Vec::<String>::new(), "after {after} s");
    }
    assert_eq!(setup.stored().await.groups.len(), 1);
}

#[tokio::test]
async fn an_alert_goes_on_until_the_rule_that_has_it_now_can_be_evaluated() {
    // Also where that rule was there before, and nobody was told of the alert.
    for is_new in [true, false] {
        let (name, labels) = if is_new { ("A", "") } else { ("A info", ", labels: {severity: info}") };
        let group =
            |name: &str, expr: &str, hold: &str| format!("- name: {name}\n  rules:\n  - {{alert: A, expr: '{expr}'{hold}{labels}}}\n");
        let after = |expr: &str| group("two", expr, ", for: 10m");
        let both = group("one", "vector(1)", "") + &if is_new { String::new() } else { after("vector(1)") };
        let setup = Setup::new(&format!("groups:\n{both}"));
        setup.at(START_MS, 0).await;
        assert_eq!(setup.told().await.len(), usize::from(is_new));
        for (ticks, expr) in [(1, FAILS), (2, FAILS), (3, "vector(1)")] {
            setup.rewrite(&format!("groups:\n{}", after(expr)));
            let (at_ms, seconds) = (START_MS + ticks * TICK_MS, ticks * 15);
            setup.at(at_ms, 0).await;
            let mut expected = vec![format!("{name} firing {seconds} {seconds}")];
            if !is_new && expr == FAILS {
                expected.push(format!("{name} pending {seconds} -"));
            }
            assert_eq!(setup.alerts(at_ms).await, expected, "{expr}");
            assert_eq!(setup.told().await, Vec::<String>::new(), "{expr}");
        }
        assert_eq!(setup.stored().await.groups.len(), 1);
    }
}

#[tokio::test]
async fn an_alert_goes_on_when_another_rule_of_its_name_and_labels_goes() {
    let rule = |n: &str| format!("  - {{alert: A, expr: 'label_replace(vector(1), \"n\", \"{n}\", \"\", \"\")'}}\n");
    let setup = Setup::new(&format!("groups:\n- name: g\n  rules:\n{}{}", rule("one"), rule("two")));
    setup.at(START_MS, 0).await;
    assert_eq!(setup.told().await, ["firing A one", "firing A two"]);
    setup.rewrite(&format!("groups:\n- name: g\n  rules:\n{}", rule("two")));
    let next = START_MS + TICK_MS;
    setup.at(next, 0).await;
    assert_eq!(setup.alerts(next).await, ["A one inactive 15 15", "A two firing 15 15"]);
    // A webhook is told of the rest of a group as well.
    assert_eq!(setup.told().await, ["resolved A one", "firing A two"]);
}

#[tokio::test]
async fn a_clock_that_has_gone_back_is_followed() {
    let group = |name: &str, interval: &str| {
        format!("- name: {name}\n  interval: {interval}\n  rules:\n  - {{alert: A, expr: vector(1), for: 30s}}\n")
    };
    let setup = Setup::new(&format!("groups:\n{}{}", group("often", "15s"), group("seldom", "1m")));
    assert_eq!(setup.at(START_MS, 0).await, START_MS);
    assert_eq!(setup.at(START_MS - 2 * TICK_MS, 0).await, START_MS, "a small step is waited for");
    let earlier = START_MS - 600_000;
    assert_eq!(setup.at(earlier, 0).await, earlier);
    let stored = setup.stored().await;
    for group in &stored.groups {
        assert_eq!((group.evaluated_ms, group.rules[0].alerts[0].active_ms), (earlier, earlier), "{}", group.name);
    }
    setup.at(earlier + TICK_MS, 0).await;
    setup.at(earlier + 2 * TICK_MS, 0).await;
    let stored = setup.stored().await;
    assert_eq!(stored.group("rules.yaml", "often").unwrap().rules[0].alerts[0].phase, Phase::Firing);
}

#[tokio::test]
async fn what_waits_for_a_receiver_that_was_removed_is_neither_shown_nor_counted_when_it_is_dropped() {
    let setup = Setup::new("groups: []\n");
    let notification = |receiver: &str| Notification {
        id: Uuid::now_v7(),
        receiver: receiver.into(),
        created_ms: START_MS,
        expires_ms: START_MS + 1_000_000,
        group: Texts::new(),
        alerts: Vec::new(),
        others_firing: 0,
        external_url: String::new(),
    };
    let notifications = vec![notification("there"), notification("gone")];
    assert!(setup.evaluator.states.commit(Commit { at_ms: START_MS, notifications, ..Commit::default() }).await.unwrap());
    setup.evaluator.show_waiting().await;
    setup.at(START_MS + 67 * TICK_MS, 0).await;
    assert!(setup.evaluator.states.waiting().await.unwrap().is_empty());
    for name in [
        "golectra_alerts_notifications_waiting",
        "golectra_alerts_oldest_notification_age_seconds",
        "golectra_alerts_notifications_dropped_total",
    ] {
        let families = setup.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let receivers: Vec<_> = family.get_metric().iter().map(|metric| metric.get_label()[0].value()).collect();
        assert_eq!(receivers, ["there"], "{name}");
    }
}
