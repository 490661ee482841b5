//! Alerts are told once and in time, whatever ends the server that evaluates them and the database's primary meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use golectra_tests::{Client, encode, eventually};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::killer::Killer;
use crate::kube::Namespace;
use crate::release::{Release, answer};
use crate::webhook::Told;
use crate::{agents, evaluator, faults, say, turn, webhook};

/// The alert of the test's own rule, on a gauge of the test's own source.
const ALERT: &str = "TestLoadHigh";
const SOURCE: &str = "alerts-test";

/// How long the alert is pending: long enough for a failover in the middle of it, after the silent node was told of.
const HOLD_SECONDS: f64 = 135.0;

/// The default of EVALUATION_INTERVAL.
const INTERVAL_SECONDS: f64 = 15.0;

/// From a node's last report until its silence is told.
const SILENCE_TOLD_SECONDS: f64 = 90.0;

/// What a notification and its way may add to a time, with clocks of whole seconds.
const WAY_SECONDS: f64 = 5.0;

/// Time limit of a request, of which a connection to a server that was killed takes no answer.
const REQUEST: Duration = Duration::from_secs(5);

/// How long another instance may take to be promoted: well below the five minutes for which a value is looked back, since none is written meanwhile.
const PROMOTION: Duration = Duration::from_mins(3);

/// Longer than anything that is waited for here.
const PATIENCE: Duration = Duration::from_mins(4);

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_told_once_through_kills_and_failovers() {
    let Some(_turn) = turn().await else { return };
    let begun = Instant::now();
    let killer = Killer::new().await;
    let namespace = Namespace::fresh("alerts").await;
    webhook::start(&namespace).await;
    let values = format!("alerts={}", values(&namespace));
    let release = Release::install(namespace, &["--set-json", &values]).await;
    let client = release.client().await;
    agents::on_every_node(&release, &client).await;

    let node = release.nodes().await.pop().expect("a node");
    lose_agent(&release, &killer, &node).await;
    let gauge = Gauge::write(&client, 9.0);
    let pending = eventually("the alert is pending", PATIENCE, async || alert(&client).await).await;
    assert_eq!(pending["state"], "pending");
    let active_seconds = value(&client, &format!("ALERTS_FOR_STATE{{alertname=\"{ALERT}\"}}")).await;

    let silent = first(&release, "NodeSilent", &node, "firing").await;
    let last_report = value(&client, &format!("golectra_source_last_seen_timestamp_seconds{{instance=\"{node}\"}}")).await;
    let silence_seconds = silent.at_seconds - last_report;
    say(&format!("{node} is silent: told {silence_seconds:.1} s after its last report"));
    assert!(silence_seconds <= SILENCE_TOLD_SECONDS, "told only {silence_seconds} s after the last report of {node}");

    assert_eq!(current(&client).await["state"], "pending", "there is time left for a failover");
    let resumed_seconds = disturb(&release, &killer, "pending").await - active_seconds;
    let now = current(&client).await;
    assert_eq!(now["activeAt"], pending["activeAt"], "the timer goes on: {now}");
    let fired_seconds = first(&release, ALERT, SOURCE, "firing").await.at_seconds - active_seconds;
    say(&format!("pending: evaluated again at {resumed_seconds:.0} s, told that it fires at {fired_seconds:.0} s of {HOLD_SECONDS:.0} s"));
    let latest = HOLD_SECONDS.max(resumed_seconds) + 2.0 * INTERVAL_SECONDS + WAY_SECONDS;
    assert!(latest < resumed_seconds + HOLD_SECONDS, "a timer that was reset would not be noticed");
    assert!((HOLD_SECONDS - WAY_SECONDS..=latest).contains(&fired_seconds), "told at {fired_seconds} s, not until {latest} s");

    disturb(&release, &killer, "firing").await;
    let now = current(&client).await;
    assert_eq!((&now["state"], &now["activeAt"]), (&json!("firing"), &pending["activeAt"]), "{now}");
    // Its namespace is deleted meanwhile.
    let cleanup = tokio::task::spawn_blocking(move || drop(killer));
    let set_back = Instant::now();
    gauge.set(1.0);
    first(&release, ALERT, SOURCE, "resolved").await;
    say(&format!("told that it is resolved {:.0} s after the value was set back", set_back.elapsed().as_secs_f64()));

    // What is told twice is told at the next evaluation.
    evaluator::next(&release).await;
    eventually("no notification waits", PATIENCE, async || evaluator::now(&release).await.filter(|now| now.waiting == 0.0)).await;
    each_was_told_once(&webhook::told(&release.namespace).await, &node);
    cleanup.await.expect("a namespace can be deleted");
    say(&format!("alerts through kills and failovers: {:.0} s in all", begun.elapsed().as_secs_f64()));
}

/// The chart's values under `alerts`.
fn values(namespace: &Namespace) -> Value {
    let rule = json!({
        "alert": ALERT, "expr": "test_load > 5", "for": format!("{HOLD_SECONDS}s"),
        "annotations": {"summary": "{{ $labels.instance }} has a load of {{ $value }}."},
    });
    let mut values = webhook::values(namespace);
    values["ruleFiles"] = json!({"test.yaml": {"groups": [{"name": "test", "rules": [rule]}]}});
    values
}

/// Keeps the agents away from a node, as a node that is lost loses its agent. The agent there is halted first: an agent that ends in an orderly way says so,
/// and its node is not silent.
async fn lose_agent(release: &Release, killer: &Killer, node: &str) {
    let agents = agents::by_node(release).await;
    killer.halt(&agents[node], node).await;
    let not_here = json!({"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [not_here]}],
    }}});
    let patch = json!({"spec": {"template": {"spec": {"affinity": affinity}}}}).to_string();
    release.namespace.kubectl(&["patch", "daemonset", "golectra-agent", "--patch", &patch]).await;
}

/// Kills the server that evaluates and at once deletes the primary's pod. When rules were evaluated for the first time after that, in unix seconds.
async fn disturb(release: &Release, killer: &Killer, state: &str) -> f64 {
    let evaluator = eventually("a server evaluates", PATIENCE, async || evaluator::now(release).await).await;
    killer.kill(&evaluator.pod, &evaluator.node).await;
    let start = Instant::now();
    let failover = faults::promotion(release, PROMOTION).await;
    let promoted = start.elapsed();
    let next = evaluator::next(release).await;
    say(&format!(
        "{state}: {} killed, failover from {} to {}: promoted after {:.1} s, rules evaluated by {} after {:.1} s, {:.0} s after the evaluation before",
        evaluator.pod,
        failover.0,
        failover.1,
        promoted.as_secs_f64(),
        next.pod,
        start.elapsed().as_secs_f64(),
        next.evaluated_seconds - evaluator.evaluated_seconds,
    ));
    next.evaluated_seconds
}

/// The test's alert, if a server answers and it is there.
async fn alert(client: &Client) -> Option<Value> {
    let alerts = answer(client, "/api/v1/alerts").await?.json()["data"]["alerts"].as_array().cloned()?;
    alerts.into_iter().find(|alert| alert["labels"]["alertname"] == ALERT)
}

/// The test's alert, which is there.
async fn current(client: &Client) -> Value {
    eventually("the alert is shown", PATIENCE, async || alert(client).await).await
}

/// The only value of a query.
async fn value(client: &Client, query: &str) -> f64 {
    let path = format!("/api/v1/query?query={}", encode(query));
    eventually(query, PATIENCE, async || answer(client, &path).await?.json()["data"]["result"][0]["value"][1].as_str()?.parse().ok()).await
}

/// Waits until the webhook is told that an alert fires or is resolved: the first time.
async fn first(release: &Release, alert: &str, instance: &str, status: &str) -> Told {
    let is_it = |told: &Value| what(told) == (alert.to_owned(), instance.to_owned(), status.to_owned());
    eventually(&format!("{instance}: told that {alert} is {status}"), PATIENCE, async || {
        webhook::told(&release.namespace).await.into_iter().find(|told| told.alerts.iter().any(is_it))
    })
    .await
}

/// The name, the instance and the status of an alert in a notification.
fn what(alert: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&alert["labels"]["alertname"]), text(&alert["labels"]["instance"]), text(&alert["status"]))
}

/// Each transition of the two alerts has one notification, and nothing else was silent. One that came several times has one id.
fn each_was_told_once(told: &[Told], node: &str) {
    let mut notifications: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (id, alert) in told.iter().flat_map(|told| told.alerts.iter().map(|alert| (told.id.as_str(), alert))) {
        notifications.entry(what(alert)).or_default().push(id);
    }
    let repeated = told.iter().enumerate().filter(|(index, one)| told[..*index].iter().any(|before| before.id == one.id)).count();
    say(&format!("{} notifications came, {repeated} of them again: {notifications:?}", told.len()));
    notifications.retain(|(alert, ..), _| [ALERT, "NodeSilent"].contains(&alert.as_str()));
    let expected = [("NodeSilent", node, "firing"), (ALERT, SOURCE, "firing"), (ALERT, SOURCE, "resolved")];
    let mut found: Vec<_> = notifications.keys().map(|(alert, instance, status)| (&alert[..], &instance[..], &status[..])).collect();
    found.sort_unstable();
    assert_eq!(found, expected, "{told:?}");
    for (what, ids) in &mut notifications {
        ids.dedup();
        assert_eq!(ids.len(), 1, "{what:?} was told with the ids {ids:?}");
    }
}

/// A gauge of the test's source, written again and again, so that the source is not silent. Failures are those of the fault.
struct Gauge {
    value: watch::Sender<f64>,
    writer: JoinHandle<()>,
}

impl Gauge {
    fn write(client: &Client, value: f64) -> Self {
        let (value, mut changes) = watch::channel(value);
        let client = client.clone();
        let writer = tokio::spawn(async move {
            loop {
                let batch = json!([{"id": "test_load", "type": "gauge", "value": *changes.borrow_and_update()}]);
                let sent = timeout(REQUEST, client.post("/updates").source(SOURCE).json(&batch).try_send()).await;
                let is_stored = sent.is_ok_and(|sent| sent.is_ok_and(|answer| answer.status == 200));
                let pause = Duration::from_secs(if is_stored { 5 } else { 1 });
                // Either a change or the end of the pause: it is written again.
                let _ = timeout(pause, changes.changed()).await;
            }
        });
        Self { value, writer }
    }

    fn set(&self, value: f64) {
        self.value.send_replace(value);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.writer.abort();
    }
}
