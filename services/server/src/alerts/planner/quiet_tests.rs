//! What quiet hours hold, over many days on a clock of the test's own.

use std::time::Duration;

use golectra_promql::{Labels, VectorSample};
use proptest::prelude::*;

use super::*;
use crate::alerts::advance::{self, Step};
use crate::alerts::receivers::{Access, Address, QuietHours};
use crate::alerts::rules::{Rule, parse};

const STEP_MS: i64 = 30 * 60 * 1000;

fn receiver(quiet_hours: &str) -> Receiver {
    Receiver {
        name: "hook".into(),
        target: Target::Webhook { url: Address::Plain("http://h/".into()), key_file: None, access: Access::Open },
        min_severity: Severity::None,
        group_by: Vec::new(),
        repeat: Repeat::After(Duration::from_hours(10_000)),
        send_resolved: true,
        quiet_hours: vec![QuietHours::new(serde_saphyr::from_str(quiet_hours).unwrap()).unwrap()],
    }
}

fn rule(severity: &str, hold: &str) -> Rule {
    let text =
        format!("groups:\n- name: g\n  rules:\n  - alert: A\n    expr: up == 0\n    for: {hold}\n    labels: {{severity: {severity}}}\n");
    parse("f", &text).unwrap().remove(0).rules.remove(0)
}

/// Evaluates a rule step by step from midnight UTC of a Thursday, with a result where `results` says so. For each step: whether it is quiet, the alert's
/// phase, and what the receiver is told of it.
fn run(receiver: &Receiver, rule: &Rule, results: &[bool]) -> Vec<(bool, Phase, Option<bool>)> {
    let found = [VectorSample { labels: Labels::new([("instance", "n1")]), value: 0.0 }];
    let mut groups = vec![GroupState { rules: vec![RuleState::default()], ..GroupState::default() }];
    let (links, rules) = (Links::default(), RuleSet::default());
    let pages = Pages { links: &links, rules: &rules };
    let steps = results.iter().zip(1..).map(|(has_result, step)| {
        let at_ms = step * STEP_MS;
        let alerts = &mut groups[0].rules[0].alerts;
        *alerts = advance::alerts(rule, 0, alerts, if *has_result { &found } else { &[] }, &Step::at(at_ms)).unwrap();
        let phase = alerts.first().map_or(Phase::Inactive, |alert| alert.phase);
        let told = plan(std::slice::from_ref(receiver), &mut groups, &Stored::default(), at_ms, Duration::from_secs(15), &pages);
        assert!(told.len() <= 1, "{told:?}");
        let is_quiet = held_up_to(&receiver.quiet_hours, at_ms).is_some();
        (is_quiet, phase, told.first().map(|notification| notification.alerts[0].firing))
    });
    steps.collect()
}

/// What a receiver is told of an alert that fires at these steps.
fn told(results: impl IntoIterator<Item = (usize, bool)>, severity: &str) -> Vec<(usize, bool)> {
    let results: Vec<bool> = results.into_iter().flat_map(|(steps, fires)| vec![fires; steps]).collect();
    let steps = run(&receiver("{from: '22:00', to: '07:00'}"), &rule(severity, "0s"), &results);
    steps.iter().enumerate().filter_map(|(index, (_, _, told))| Some((index + 1, (*told)?))).collect()
}

#[test]
fn what_begins_in_quiet_hours_is_told_when_they_end() {
    // Steps of half an hour: 44 is 22:00, 62 is 7:00 of the next day.
    assert_eq!(told([(44, false), (20, true)], "warning"), [(62, true)]);
    assert_eq!(told([(44, false), (20, true)], "critical"), [(45, true)]);
    assert_eq!(told([(44, false), (20, true)], "word-that-nobody-knows"), [(45, true)]);
}

#[test]
fn what_begins_and_ends_in_quiet_hours_is_never_told() {
    assert_eq!(told([(44, false), (10, true), (40, false)], "warning"), []);
    assert_eq!(told([(44, false), (10, true), (40, false)], "critical"), [(45, true), (55, false)]);
}

#[test]
fn the_end_of_what_was_told_before_is_told_when_they_are_over() {
    assert_eq!(told([(40, false), (10, true), (40, false)], "warning"), [(41, true), (62, false)]);
    // It is there again in the morning: nothing is new.
    assert_eq!(told([(40, false), (10, true), (4, false), (20, true)], "warning"), [(41, true)]);
}

#[test]
fn quiet_hours_can_hold_what_is_critical_or_only_infos() {
    let results = [vec![false; 44], vec![true; 20]].concat();
    for (max_severity, severity, expected) in
        [("critical", "critical", 62), ("info", "info", 62), ("info", "warning", 45), ("none", "info", 45)]
    {
        let quiet_hours = format!("{{from: '22:00', to: '07:00', max_severity: {max_severity}}}");
        let steps = run(&receiver(&quiet_hours), &rule(severity, "0s"), &results);
        let told = steps.iter().position(|(_, _, told)| *told == Some(true)).map(|index| index + 1);
        assert_eq!(told, Some(expected), "{max_severity}, {severity}");
    }
}

proptest! {
    /// Outside of quiet hours a receiver knows how it is, within them it is told nothing, and it is told nothing twice. An alert that ended in quiet hours
    /// and is pending again when they are over may go on: its end is told when it does not.
    #[test]
    fn a_receiver_is_up_to_date_outside_of_quiet_hours(
        results in prop::collection::vec(any::<bool>(), 1..200),
        hold in prop::sample::select(vec!["0s", "30m", "1h"]),
        weekend in any::<bool>(),
    ) {
        let quiet_hours = if weekend { "{days: [sat, sun], from: '00:00', to: '24:00'}" } else { "{from: '22:00', to: '07:00'}" };
        let receiver = receiver(quiet_hours);
        let mut known = false;
        for (step, (is_quiet, phase, told)) in run(&receiver, &rule("warning", hold), &results).into_iter().enumerate() {
            let fires = phase == Phase::Firing;
            let expected = (!is_quiet && phase != Phase::Pending && fires != known).then_some(fires);
            prop_assert_eq!(told, expected, "step {}", step);
            known = told.unwrap_or(known);
        }
        let mut known = false;
        for (step, (_, phase, told)) in run(&receiver, &rule("critical", hold), &results).into_iter().enumerate() {
            let fires = phase == Phase::Firing;
            prop_assert_eq!(told, (fires != known).then_some(fires), "critical, step {}", step);
            known = fires;
        }
    }
}
