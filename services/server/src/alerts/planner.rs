//! Decides which receivers are told what, in the same step in which the state changes.
//!
//! What a receiver was told stands in the state of the alert. So a transition is told once whichever server makes the step, an alert that was
//! silenced while it began to fire is told when the silence is over, and no receiver is told of the end of what it was not told of.
//!
//! A webhook is told of the rest of a group that fires as well, as Alertmanager does: what it is told of a group is then what there is of it.
//!
//! Quiet hours work the same way, for the severities that they hold: what begins and ends within them is never told, and the end of what was told
//! before is told when they are over.

#[cfg(test)]
mod quiet_tests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;

use super::advance::RESOLVED_RETENTION_MS;
use super::links::Links;
use super::notification::{Notification, NotifiedAlert};
use super::receivers::{Receiver, Repeat, Severity, Target, held_up_to};
use super::rules::RuleSet;
use super::silences::Silences;
use super::state::{AlertState, GroupState, Phase, RuleState, Silence, Stored, Texts, Told};

/// The most alerts of one notification; more make several.
const MAX_ALERTS: usize = 200;
/// Alertmanager is told again after this long, as Prometheus does.
const RESEND_MS: i64 = 60_000;
/// How long a notification is worth delivering to a receiver that is told once.
const USEFUL_MS: i64 = 24 * 3600 * 1000;

/// Where those who are told find more.
pub struct Pages<'a> {
    /// The addresses.
    pub links: &'a Links,
    /// The rules, for their expressions.
    pub rules: &'a RuleSet,
}

/// The notifications of an evaluation. The groups are those that it changes, and are told what receivers are told of them.
pub fn plan(
    receivers: &[Receiver],
    groups: &mut [GroupState],
    stored: &Stored,
    at_ms: i64,
    interval: Duration,
    pages: &Pages<'_>,
) -> Vec<Notification> {
    let silences = Silences::at(&stored.silences, at_ms);
    let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
    // As Prometheus: four times the longer of how often it is told and how often it is evaluated.
    let valid_until_ms = at_ms + 4 * RESEND_MS.max(interval_ms);
    let mut notifications = Vec::new();
    let mut candidates = Vec::new();
    for GroupState { file, name, rules, .. } in groups {
        for RuleState { key, alerts, .. } in rules.iter_mut().filter(|rule| !rule.alerts.is_empty()) {
            let page: Rc<str> = pages.links.of_rule(pages.rules, file, name, key).into();
            candidates.extend(alerts.iter_mut().map(|alert| Candidate {
                is_silenced: silences.silence(alert),
                page: Rc::clone(&page),
                alert,
            }));
        }
    }
    for receiver in receivers {
        let held_up_to = held_up_to(&receiver.quiet_hours, at_ms);
        let gets_rest = matches!(receiver.target, Target::Webhook { .. });
        let (mut by_group, mut rest) = (BTreeMap::<Texts, Vec<NotifiedAlert>>::new(), Vec::new());
        for (index, Candidate { is_silenced, page, alert }) in candidates.iter_mut().enumerate() {
            let is_over = alert.phase == Phase::Inactive;
            // The end is told under a silence as well, to those who were told of the beginning: they wait for it, and it bothers nobody.
            // An Alertmanager takes an alert that it is no longer told of for one that has ended, and would tell people so.
            let must_go_on = receiver.repeat == Repeat::Alertmanager && alert.told.get(&receiver.name).is_some_and(|told| told.firing);
            if (*is_silenced && !is_over && !must_go_on) || !receiver.min_severity.covers(alert.label("severity")) {
                continue;
            }
            if is_over && !receiver.send_resolved {
                // It need not be told, but if the alert fires again that is news.
                if let Some(told) = alert.told.get_mut(&receiver.name) {
                    (told.firing, told.owed) = (false, false);
                }
                continue;
            }
            let is_held = held_up_to >= Some(Severity::of_label(alert.label("severity")));
            match next_told(alert, receiver, at_ms) {
                Some(told) if !is_held => {
                    alert.told.insert(receiver.name.clone(), told);
                    let news = NotifiedAlert::of(alert, valid_until_ms, page.to_string());
                    by_group.entry(group_of(alert, receiver)).or_default().push(news);
                }
                not_now => {
                    let Some(before) = alert.told.get_mut(&receiver.name) else { continue };
                    if let Some(held) = not_now {
                        before.owed = !held.firing;
                    }
                    if gets_rest && alert.phase == Phase::Firing && before.firing {
                        rest.push(index);
                    }
                }
            }
        }
        let mut rest_by_group = BTreeMap::<Texts, Vec<usize>>::new();
        if !by_group.is_empty() {
            for index in rest {
                let group = candidates.get(index).map(|candidate| group_of(candidate.alert, receiver));
                if let Some(group) = group.filter(|group| by_group.contains_key(group)) {
                    rest_by_group.entry(group).or_default().push(index);
                }
            }
        }
        let expires_ms = if receiver.repeat == Repeat::Alertmanager { valid_until_ms } else { at_ms + USEFUL_MS };
        for (group, mut alerts) in by_group {
            let rest = rest_by_group.remove(&group).unwrap_or_default();
            let firing = if gets_rest { rest.len() + firing(&alerts) } else { 0 };
            // As many as there is room for beside what is new: the rest of a large group makes no notifications of its own.
            let room = alerts.len().next_multiple_of(MAX_ALERTS) - alerts.len();
            for index in rest.into_iter().take(room) {
                let Some(Candidate { page, alert, .. }) = candidates.get_mut(index) else { continue };
                alerts.push(NotifiedAlert::of(alert, valid_until_ms, page.to_string()));
                // It need not be told by itself before its time: with each of a large group told apart, all of it would be sent again and again.
                if let Some(told) = alert.told.get_mut(&receiver.name) {
                    told.at_ms = at_ms;
                }
            }
            notifications.extend(alerts.chunks(MAX_ALERTS).map(|alerts| Notification {
                id: Uuid::now_v7(),
                receiver: receiver.name.clone(),
                created_ms: at_ms,
                expires_ms,
                group: group.clone(),
                alerts: alerts.to_vec(),
                others_firing: firing.saturating_sub(self::firing(alerts)),
                external_url: pages.links.root().to_owned(),
            }));
        }
    }
    notifications
}

/// The labels that an alert's group has for a receiver.
fn group_of(alert: &AlertState, receiver: &Receiver) -> Texts {
    receiver.group_by.iter().filter_map(|name| Some((name.clone(), alert.labels.get(name)?.clone()))).collect()
}

/// How many of them fire.
fn firing(alerts: &[NotifiedAlert]) -> usize {
    alerts.iter().filter(|alert| alert.firing).count()
}

/// The alerts of whose beginning or end quiet hours keep a receiver from being told now.
pub fn held<'a>(groups: &'a [GroupState], silences: &[Silence], receiver: &Receiver, at_ms: i64) -> Vec<&'a AlertState> {
    let Some(held_up_to) = held_up_to(&receiver.quiet_hours, at_ms) else { return Vec::new() };
    let silences = Silences::at(silences, at_ms);
    let is_held = |alert: &&AlertState| {
        let told = alert.told.get(&receiver.name);
        let is_news = match alert.phase {
            Phase::Firing => told.is_none_or(|told| !told.firing) && !silences.silence(alert),
            Phase::Pending | Phase::Inactive => told.is_some_and(|told| told.owed),
        };
        is_news && receiver.min_severity.covers(alert.label("severity")) && Severity::of_label(alert.label("severity")) <= held_up_to
    };
    groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts).filter(is_held).collect()
}

/// An alert of which somebody may be told.
struct Candidate<'a> {
    is_silenced: bool,
    page: Rc<str>,
    alert: &'a mut AlertState,
}

/// What the receiver is told of the alert now, if anything. Ends are only asked about for those who want them.
fn next_told(alert: &AlertState, receiver: &Receiver, at_ms: i64) -> Option<Told> {
    let before = alert.told.get(&receiver.name);
    let is_due = |told: &Told, after_ms: i64| at_ms - told.at_ms >= after_ms;
    let is_told = match (alert.phase, before) {
        (Phase::Pending, _) | (Phase::Inactive, None) => false,
        (Phase::Firing, None) => true,
        (Phase::Firing, Some(told)) if !told.firing => true,
        (Phase::Firing, Some(told)) => match receiver.repeat {
            Repeat::Alertmanager => is_due(told, RESEND_MS),
            Repeat::After(interval) => is_due(told, i64::try_from(interval.as_millis()).unwrap_or(i64::MAX)),
        },
        (Phase::Inactive, Some(told)) if told.firing => true,
        // Alertmanager is told of the end for as long as it is remembered: it may have been away.
        (Phase::Inactive, Some(told)) => {
            let ended_ms = alert.resolved_ms.unwrap_or(at_ms);
            receiver.repeat == Repeat::Alertmanager && is_due(told, RESEND_MS) && at_ms - ended_ms < RESOLVED_RETENTION_MS
        }
    };
    is_told.then_some(Told { firing: alert.phase == Phase::Firing, at_ms, owed: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::receivers::{Access, Address};
    use crate::alerts::state::SilenceMatcher;

    const TICK: Duration = Duration::from_secs(15);

    fn receiver(name: &str, repeat: Repeat, min_severity: Severity) -> Receiver {
        let target = Target::Webhook { url: Address::Plain("http://h/".into()), key_file: None, access: Access::Open };
        Receiver {
            name: name.into(),
            target,
            min_severity,
            group_by: vec!["alertname".into()],
            repeat,
            send_resolved: true,
            quiet_hours: Vec::new(),
        }
    }

    /// A webhook that is told again after four hours, of warnings and what is worse.
    fn hook() -> Receiver {
        receiver("hook", Repeat::After(Duration::from_hours(4)), Severity::Warning)
    }

    fn alert(name: &str, instance: &str, severity: &str) -> AlertState {
        let labels = [("alertname", name), ("instance", instance), ("severity", severity)];
        AlertState {
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            annotations: Texts::new(),
            phase: Phase::Firing,
            active_ms: 0,
            fired_ms: Some(0),
            resolved_ms: None,
            keep_firing_since_ms: None,
            value: 1.0,
            told: BTreeMap::new(),
        }
    }

    fn groups(alerts: Vec<AlertState>) -> Vec<GroupState> {
        vec![GroupState { rules: vec![RuleState { alerts, ..RuleState::default() }], ..GroupState::default() }]
    }

    fn end(alert: &mut AlertState, at_ms: i64) {
        (alert.phase, alert.resolved_ms) = (Phase::Inactive, Some(at_ms));
    }

    /// With a silence of this label and value.
    fn silenced(name: &str, value: &str, starts_ms: i64, ends_ms: i64) -> Stored {
        let matchers = vec![SilenceMatcher { name: name.into(), value: value.into(), is_regex: false, is_equal: true }];
        let silence = Silence { id: Uuid::nil(), matchers, starts_ms, ends_ms, created_by: "me".into(), comment: "why".into() };
        Stored { silences: vec![silence], ..Stored::default() }
    }

    /// What is told, as `receiver: status instance …`.
    fn told(receivers: &[Receiver], groups: &mut [GroupState], stored: &Stored, at_ms: i64) -> Vec<String> {
        let text = |alert: &NotifiedAlert| format!(" {} {}", if alert.firing { "firing" } else { "resolved" }, alert.labels["instance"]);
        let notifications = plan(receivers, groups, stored, at_ms, TICK, &Pages { links: &Links::default(), rules: &RuleSet::default() });
        notifications.iter().map(|one| format!("{}:{}", one.receiver, one.alerts.iter().map(text).collect::<String>())).collect()
    }

    #[test]
    fn each_transition_is_told_once_and_again_as_often_as_a_receiver_wants() {
        let hour = 3_600_000;
        let receivers = [receiver("am", Repeat::Alertmanager, Severity::None), hook()];
        let mut groups = groups(vec![alert("A", "n1", "critical"), alert("A", "n2", "critical"), alert("B", "n3", "info")]);
        let stored = Stored::default();
        let at = |groups: &mut Vec<GroupState>, at_ms| told(&receivers, groups, &stored, at_ms);
        assert_eq!(at(&mut groups, 0), ["am: firing n1 firing n2", "am: firing n3", "hook: firing n1 firing n2"]);
        assert!(at(&mut groups, 15_000).is_empty());
        assert_eq!(at(&mut groups, 60_000), ["am: firing n1 firing n2", "am: firing n3"]);
        assert_eq!(at(&mut groups, 4 * hour).len(), 3);
        groups[0].rules[0].alerts.drain(1..);
        end(&mut groups[0].rules[0].alerts[0], 4 * hour + 15_000);
        assert_eq!(at(&mut groups, 4 * hour + 15_000), ["am: resolved n1", "hook: resolved n1"]);
        assert!(at(&mut groups, 4 * hour + 30_000).is_empty());
        assert_eq!(at(&mut groups, 4 * hour + 75_000), ["am: resolved n1"], "it may have been away");
    }

    #[test]
    fn a_webhook_is_told_of_the_rest_of_a_group_that_fires() {
        let mut slack = receiver("slack", Repeat::After(Duration::from_hours(4)), Severity::Warning);
        slack.target = Target::Slack { url: Address::Plain("http://h/".into()) };
        let receivers = [hook(), slack];
        let mut groups = groups(vec![
            alert("A", "n1", "critical"),
            alert("A", "n2", "critical"),
            alert("B", "n3", "critical"),
            alert("A", "n4", "info"),
        ]);
        let stored = Stored::default();
        assert_eq!(told(&receivers, &mut groups, &stored, 0).len(), 4);
        end(&mut groups[0].rules[0].alerts[0], 15_000);
        assert_eq!(told(&receivers, &mut groups, &stored, 15_000), ["hook: resolved n1 firing n2", "slack: resolved n1"]);
        assert_eq!(groups[0].rules[0].alerts[1].told["hook"].at_ms, 15_000, "it was told with the other");
        assert_eq!(groups[0].rules[0].alerts[1].told["slack"].at_ms, 0);
        assert!(told(&receivers, &mut groups, &stored, 30_000).is_empty());
        end(&mut groups[0].rules[0].alerts[1], 45_000);
        assert_eq!(told(&receivers, &mut groups, &stored, 45_000), ["hook: resolved n2", "slack: resolved n2"]);
    }

    #[test]
    fn the_rest_of_a_large_group_is_counted() {
        let receivers = [hook()];
        let mut groups = groups((0..MAX_ALERTS + 50).map(|index| alert("A", &format!("n{index}"), "critical")).collect());
        let lengths = |groups: &mut Vec<GroupState>, at_ms: i64| {
            let pages = Pages { links: &Links::default(), rules: &RuleSet::default() };
            let notifications = plan(&receivers, groups, &Stored::default(), at_ms, TICK, &pages);
            notifications.iter().map(|one| (one.alerts.len(), one.others_firing)).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&mut groups, 0), [(MAX_ALERTS, 50), (50, MAX_ALERTS)]);
        end(&mut groups[0].rules[0].alerts[0], 15_000);
        assert_eq!(lengths(&mut groups, 15_000), [(MAX_ALERTS, 50)], "of 249 that fire 199 are named");
    }

    #[test]
    fn a_silenced_alert_is_told_when_the_silence_is_over() {
        let receivers = [hook()];
        let stored = silenced("instance", "n1", 0, 1_000);
        let mut groups = groups(vec![alert("A", "n1", "critical")]);
        assert!(told(&receivers, &mut groups, &stored, 0).is_empty());
        assert_eq!(told(&receivers, &mut groups, &stored, 1_000), ["hook: firing n1"]);
    }

    #[test]
    fn the_end_is_told_under_a_silence_to_those_who_were_told_of_the_beginning() {
        let receivers = [hook()];
        let stored = silenced("alertname", "A", 1_000, 7_200_000);
        let mut groups = groups(vec![alert("A", "n1", "critical")]);
        assert_eq!(told(&receivers, &mut groups, &stored, 0), ["hook: firing n1"]);
        groups[0].rules[0].alerts.push(alert("A", "n2", "critical"));
        assert!(told(&receivers, &mut groups, &stored, 4_500_000).is_empty());
        for alert in &mut groups[0].rules[0].alerts {
            end(alert, 5_000_000);
        }
        assert_eq!(told(&receivers, &mut groups, &stored, 5_000_000), ["hook: resolved n1"]);
        assert!(told(&receivers, &mut groups, &stored, 5_015_000).is_empty());
    }

    #[test]
    fn an_alertmanager_goes_on_being_told_under_a_silence_of_what_it_knows() {
        let receivers = [receiver("am", Repeat::Alertmanager, Severity::None)];
        let stored = silenced("alertname", "A", 1_000, 900_000);
        let mut groups = groups(vec![alert("A", "n1", "critical")]);
        assert_eq!(told(&receivers, &mut groups, &stored, 0), ["am: firing n1"]);
        groups[0].rules[0].alerts.push(alert("A", "n2", "critical"));
        assert_eq!(told(&receivers, &mut groups, &stored, 60_000), ["am: firing n1"], "n2 is new");
        assert_eq!(told(&receivers, &mut groups, &stored, 120_000), ["am: firing n1"]);
        assert_eq!(told(&receivers, &mut groups, &stored, 900_000), ["am: firing n1 firing n2"]);
    }

    #[test]
    fn what_fires_again_is_told_to_those_who_are_not_told_of_ends() {
        for repeat in [Repeat::After(Duration::from_hours(4)), Repeat::Alertmanager] {
            let receivers = [Receiver { send_resolved: false, ..receiver("r", repeat, Severity::None) }];
            let mut groups = groups(vec![alert("A", "n1", "critical")]);
            let mut at = |phase, at_ms| {
                let alert = &mut groups[0].rules[0].alerts[0];
                (alert.phase, alert.resolved_ms) = (phase, (phase == Phase::Inactive).then_some(15_000));
                told(&receivers, &mut groups, &Stored::default(), at_ms)
            };
            assert_eq!(at(Phase::Firing, 0), ["r: firing n1"]);
            assert!(at(Phase::Inactive, 15_000).is_empty() && at(Phase::Inactive, 90_000).is_empty());
            assert!(at(Phase::Pending, 105_000).is_empty());
            assert_eq!(at(Phase::Firing, 120_000), ["r: firing n1"]);
        }
    }

    #[test]
    fn what_was_never_told_does_not_end_and_pending_is_not_told() {
        let receivers = [hook()];
        let mut pending = alert("A", "n1", "critical");
        pending.phase = Phase::Pending;
        let mut ended = alert("A", "n2", "critical");
        end(&mut ended, 0);
        assert!(told(&receivers, &mut groups(vec![pending, ended]), &Stored::default(), 0).is_empty());
    }
}
