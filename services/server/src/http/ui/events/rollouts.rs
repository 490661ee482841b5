//! Pods that take the place of others: those of another ReplicaSet of their Deployment, and new ones of a StatefulSet or DaemonSet.

use std::collections::BTreeMap;

use golectra_promql::Steps;

use super::super::ask::Line;
use super::super::shell::encode;
use super::{Event, SOURCE_LABEL, TOGETHER_STEPS, event};

/// How many pods each ReplicaSet has.
pub(super) const REPLICA_SETS: &str = r#"count by (namespace, owner_name) (kube_pod_owner{owner_kind="ReplicaSet",$of})"#;
/// The pods of StatefulSets and DaemonSets. Their names say no more than the set's, so a new pod is told by its `uid`.
pub(super) const PODS_OF_SETS: &str =
    r#"max by (instance, namespace, pod, owner_kind, owner_name, uid) (kube_pod_owner{owner_kind=~"StatefulSet|DaemonSet",$of})"#;

/// The pods of a set are replaced one after another: what follows within so long is one event.
const ONE_BY_ONE_MS: i64 = 600_000;
/// A pod that comes within so many steps of the end of another one, before or after it, takes its place.
const REPLACED_STEPS: usize = 2 * TOGETHER_STEPS;

/// Deployments that get pods of another ReplicaSet while they have some of one before it. A ReplicaSet's name is its Deployment's and a hash of what its
/// pods are made of.
pub(super) fn of_deployments(lines: &[Line], steps: Steps) -> Vec<Event> {
    let mut deployments = BTreeMap::<(&str, &str), Vec<(&str, &Line)>>::new();
    for line in lines {
        if let Some((deployment, hash)) = line.labels.value("owner_name").rsplit_once('-') {
            deployments.entry((line.labels.value("namespace"), deployment)).or_default().push((hash, line));
        }
    }
    let mut events = Vec::new();
    for ((namespace, deployment), sets) in deployments {
        for (hash, line) in &sets {
            for (step, _) in line.values.iter().enumerate().skip(1).filter(|(_, pods)| pods.is_finite()) {
                let had_pods = |line: &Line, since: usize| line.values[since..step].iter().any(|pods| pods.is_finite());
                // What was missing for a moment is no rollout.
                if had_pods(line, step.saturating_sub(TOGETHER_STEPS)) {
                    continue;
                }
                let before = sets.iter().find(|(other, line)| other != hash && had_pods(line, step - 1));
                if let Some((before, _)) = before {
                    let title = format!("{namespace}/{deployment} was rolled out: {hash} after {before}");
                    let link = format!("/pods?namespace={}&find={}", encode(namespace), encode(deployment));
                    events.push(event(steps.time_ms(step), "info", title, link));
                }
            }
        }
    }
    events
}

/// StatefulSets and DaemonSets whose pods are replaced: a pod of the same name, or on the same node, with another `uid`. A pod that was deleted or moved looks
/// the same, so what is told is that.
pub(super) fn of_sets(lines: &[Line], steps: Steps) -> Vec<Event> {
    let mut sets = BTreeMap::<(&str, &str, &str), BTreeMap<&str, Vec<PodLife>>>::new();
    for line in lines {
        let label = |name: &str| line.labels.value(name);
        let there = |value: &f64| value.is_finite();
        let (Some(first), Some(last)) = (line.values.iter().position(there), line.values.iter().rposition(there)) else { continue };
        let place = label(if label("owner_kind") == "DaemonSet" { SOURCE_LABEL } else { "pod" });
        let set = sets.entry((label("namespace"), label("owner_kind"), label("owner_name"))).or_default();
        set.entry(place).or_default().push(PodLife { pod: label("pod"), uid: label("uid"), first, last });
    }
    let together = TOGETHER_STEPS.max(usize::try_from(ONE_BY_ONE_MS / steps.step_ms().max(1)).unwrap_or_default());
    let mut events = Vec::new();
    for ((namespace, _, name), places) in sets {
        let mut replaced: Vec<(usize, &str)> = Vec::new();
        for lives in places.into_values() {
            // The nodes of pods that others than their agents report are not known, so there are many in one place, and each takes that of one.
            let mut ended: Vec<usize> = lives.iter().map(|life| life.last).collect();
            let mut begun: Vec<&PodLife> = lives.iter().filter(|life| life.first > 0).collect();
            begun.sort_by_key(|life| life.first);
            for life in begun {
                let is_before = |index: usize| lives[index].first < life.first && lives[index].uid != life.uid;
                let before = (0..lives.len()).find(|&index| is_before(index) && ended[index].abs_diff(life.first) <= REPLACED_STEPS);
                if let Some(before) = before {
                    ended[before] = usize::MAX;
                    replaced.push((life.first, life.pod));
                }
            }
        }
        replaced.sort_unstable();
        for run in replaced.chunk_by(|(before, _), (after, _)| after - before <= together) {
            let what = match run {
                [(_, pod)] => format!("the pod {pod} was replaced"),
                run => format!("{} pods were replaced", run.len()),
            };
            let link = format!("/pods?namespace={}&find={}", encode(namespace), encode(name));
            events.push(event(steps.time_ms(run[0].0), "info", format!("{namespace}/{name}: {what}"), link));
        }
    }
    events
}

/// The first and the last step at which a pod was there.
struct PodLife<'a> {
    pod: &'a str,
    uid: &'a str,
    first: usize,
    last: usize,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NONE, line, steps, told};
    use super::*;

    #[test]
    fn pods_of_another_replica_set_are_a_rollout() {
        let of = |set: &'static str| [("namespace", "shop"), ("owner_name", set)];
        let old = line(&of("web-front-7d4b9c"), &[2.0, 2.0, 2.0, 1.0, NONE, NONE, NONE, NONE, NONE, 2.0]);
        let new = line(&of("web-front-5f6c8d"), &[NONE, NONE, 1.0, 2.0, NONE, 2.0, 2.0, 2.0, 2.0, NONE]);
        // A Deployment that is new, and one whose pods were not reported for a while.
        let other = line(&of("cart-66b"), &[NONE, 1.0, NONE, NONE, NONE, NONE, NONE, NONE, 1.0, 1.0]);
        let events = of_deployments(&[old, new, other], steps());
        let (forth, back) = ("shop/web-front was rolled out: 5f6c8d after 7d4b9c", "shop/web-front was rolled out: 7d4b9c after 5f6c8d");
        assert_eq!(told(&events), [(9, "info", back), (2, "info", forth)]);
        assert_eq!(events[0].link, "/pods?namespace=shop&find=web-front");
    }

    #[test]
    fn pods_of_a_set_that_take_the_place_of_others_are_told_together() {
        let of = |kind: &'static str, node: &'static str, pod: &'static str, uid: &'static str, values: &[f64]| {
            let labels =
                [("instance", node), ("namespace", "data"), ("owner_kind", kind), ("owner_name", "db"), ("pod", pod), ("uid", uid)];
            line(&labels, values)
        };
        let pods = [
            // Replaced by pods of the same name, wherever these are.
            of("StatefulSet", "n1", "db-0", "a", &[1.0, 1.0, 1.0, NONE, NONE]),
            of("StatefulSet", "n2", "db-0", "b", &[NONE, NONE, NONE, 1.0, 1.0]),
            of("StatefulSet", "n1", "db-1", "c", &[1.0, NONE, NONE, NONE, NONE]),
            of("StatefulSet", "n1", "db-1", "d", &[NONE, 1.0, 1.0, 1.0, 1.0]),
            // The set has one pod more.
            of("StatefulSet", "n1", "db-2", "e", &[NONE, NONE, 1.0, 1.0, 1.0]),
        ];
        assert_eq!(told(&of_sets(&pods, steps())), [(1, "info", "data/db: 2 pods were replaced")]);
        let pods = [
            of("DaemonSet", "n1", "db-x1", "a", &[1.0, 1.0, NONE, NONE]),
            of("DaemonSet", "n1", "db-x2", "b", &[NONE, 1.0, 1.0, 1.0]),
            // A new node, and a pod that was not reported for a moment.
            of("DaemonSet", "n2", "db-x3", "c", &[NONE, NONE, 1.0, 1.0]),
            of("DaemonSet", "n3", "db-x4", "d", &[1.0, NONE, 1.0, 1.0]),
        ];
        let events = of_sets(&pods, steps());
        assert_eq!(told(&events), [(1, "info", "data/db: the pod db-x2 was replaced")]);
        assert_eq!(events[0].link, "/pods?namespace=data&find=db");
    }
}
