use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::items::checked;
use super::super::splitter::Splitter;
use super::*;

fn read_all(document: &[u8]) -> (BTreeMap<String, f64>, Vec<(SkipReason, u64)>) {
    let (mut items, mut labels, mut splitter) = (Items::default(), LabelSets::default(), Splitter::default());
    let _ = splitter.read(document, &mut |member, object| read(member, object, &mut items, &mut labels));
    let found = checked(&mut items);
    (found, items.readings.skipped_counts().collect())
}

#[test]
fn pods_have_the_names_and_labels_of_kube_state_metrics() {
    let (found, skipped) = read_all(include_bytes!("../testdata/pods-1.36.json"));
    assert_eq!(skipped, [(SkipReason::Unreadable, 1)]);
    let web = r#"namespace="shop",pod="web-7d4b9c-x2x4z""#;
    let uid = r#"uid="0c6a2b1e-5df9-4a51-8f53-2a3a1a5f9e01""#;
    let job = r#"job="kube-state-metrics""#;
    for (id, value) in [
        (
            format!(
                r#"kube_pod_info{{created_by_kind="ReplicaSet",created_by_name="web-7d4b9c",host_ip="10.0.0.1",host_network="false",{job},namespace="shop",node="worker-1",pod="web-7d4b9c-x2x4z",pod_ip="10.244.0.7",priority_class="high",{uid}}}"#
            ),
            1.0,
        ),
        (
            format!(
                r#"kube_pod_owner{{{job},namespace="shop",owner_is_controller="true",owner_kind="ReplicaSet",owner_name="web-7d4b9c",pod="web-7d4b9c-x2x4z",{uid}}}"#
            ),
            1.0,
        ),
        (format!(r#"kube_pod_status_phase{{{job},namespace="shop",phase="Running",pod="web-7d4b9c-x2x4z",{uid}}}"#), 1.0),
        (format!(r#"kube_pod_status_phase{{{job},namespace="shop",phase="Failed",pod="web-7d4b9c-x2x4z",{uid}}}"#), 0.0),
        (format!(r#"kube_pod_status_ready{{condition="true",{job},{web},{uid}}}"#), 0.0),
        (format!(r#"kube_pod_status_ready{{condition="false",{job},{web},{uid}}}"#), 1.0),
        (format!(r#"kube_pod_container_status_restarts_total{{container="web",{job},{web},{uid}}}"#), 7.0),
        (format!(r#"kube_pod_container_status_restarts_total{{container="proxy",{job},{web},{uid}}}"#), 0.0),
        (format!(r#"kube_pod_container_status_waiting_reason{{container="web",{job},{web},reason="CrashLoopBackOff",{uid}}}"#), 1.0),
        (format!(r#"kube_pod_container_status_last_terminated_reason{{container="web",{job},{web},reason="OOMKilled",{uid}}}"#), 1.0),
        (format!(r#"kube_pod_init_container_status_last_terminated_reason{{container="setup",{job},{web},reason="Error",{uid}}}"#), 1.0),
        (format!(r#"kube_pod_deletion_timestamp{{{job},namespace="kube-system",pod="kube-proxy-abc",uid="u2"}}"#), 1_795_600_800.0),
        (resource("limits", "web", "cpu", "core"), 0.5),
        (resource("requests", "web", "cpu", "core"), 0.1),
        (resource("limits", "web", "memory", "byte"), 67_108_864.0),
        (resource("requests", "web", "ephemeral_storage", "byte"), 1_073_741_824.0),
        (resource("limits", "web", "nvidia_com_gpu", "integer"), 1.0),
        (
            format!(
                r#"kube_pod_owner{{{job},namespace="kube-system",owner_is_controller="<none>",owner_kind="<none>",owner_name="<none>",pod="kube-proxy-abc",uid="u2"}}"#
            ),
            1.0,
        ),
    ] {
        assert_eq!(found.get(&id), Some(&value), "{id} in {:#?}", found.keys());
    }
    let waiting = |id: &&String| id.contains("waiting_reason");
    assert_eq!(found.keys().filter(waiting).count(), 1, "a container that runs has no reason to wait");
}

#[test]
fn a_container_that_is_not_restarted_has_the_reason_why_it_ended() {
    let (found, skipped) = read_all(
        br#"{"items":[{"metadata":{"name":"job-1","namespace":"shop","uid":"u"},"status":{"phase":"Failed",
            "containerStatuses":[{"name":"work","restartCount":0,"state":{"terminated":{"exitCode":137,"reason":"OOMKilled"}},"lastState":{}}],
            "initContainerStatuses":[{"name":"setup","restartCount":0,"state":{"terminated":{"reason":"Completed"}},"lastState":{}}]}}]}"#,
    );
    assert!(skipped.is_empty(), "{skipped:?}");
    let reasons: Vec<_> = found.iter().filter(|(id, _)| id.contains("_reason")).collect();
    let id = r#"kube_pod_container_status_terminated_reason{container="work",job="kube-state-metrics",namespace="shop",pod="job-1",reason="OOMKilled",uid="u"}"#;
    assert_eq!(reasons, [(&id.to_owned(), &1.0)]);
}

fn resource(kind: &str, container: &str, name: &str, unit: &str) -> String {
    format!(
        r#"kube_pod_container_resource_{kind}{{container="{container}",job="kube-state-metrics",namespace="shop",node="worker-1",pod="web-7d4b9c-x2x4z",resource="{name}",uid="0c6a2b1e-5df9-4a51-8f53-2a3a1a5f9e01",unit="{unit}"}}"#
    )
}

proptest! {
    #[test]
    fn no_damage_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut document = include_bytes!("../testdata/pods-1.36.json").to_vec();
        for (at, byte) in changes {
            let at = at.index(document.len());
            document[at] = byte;
        }
        let (mut items, mut labels, mut splitter) = (Items::default(), LabelSets::default(), Splitter::default());
        let _ = splitter.read(&document, &mut |member, object| read(member, object, &mut items, &mut labels));
        items.batches(100_000);
    }
}
