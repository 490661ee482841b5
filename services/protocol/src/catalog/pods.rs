//! What the kubelet tells about the pods of its node, under kube-state-metrics's names.

use super::{MetricGroup, MetricInfo as M};

const CONTAINER: &[&str] = &["container", "namespace", "pod", "uid"];
const REASON: &[&str] = &["container", "namespace", "pod", "reason", "uid"];
const RESOURCE: &[&str] = &["container", "namespace", "node", "pod", "resource", "uid", "unit"];

#[rustfmt::skip]
pub(super) static GROUP: MetricGroup = MetricGroup {
    title: "Pods",
    about: "From the kubelet's list of the pods of its node, every 30 s, with `KUBELET_URL` and `PODS_DETAILS` (Kubernetes 1.33 or newer). Names, types, labels \
            and units are kube-state-metrics's. Ids carry `job=\"kube-state-metrics\"`. Pods that are on no node are not seen.",
    job: Some("kube-state-metrics"),
    metrics: &[
        M::gauge("pods", "kube_pod_info", "", &["created_by_kind", "created_by_name", "host_ip", "host_network", "namespace", "node", "pod", "pod_ip", "priority_class", "uid"], "1, with what a pod is."),
        M::gauge("pods", "kube_pod_owner", "", &["namespace", "owner_is_controller", "owner_kind", "owner_name", "pod", "uid"], "1, with an owner of a pod."),
        M::gauge("pods", "kube_pod_deletion_timestamp", "", &["namespace", "pod", "uid"], "When a pod that is being deleted has to be gone, in unix time."),
        M::gauge("pods", "kube_pod_status_phase", "", &["namespace", "phase", "pod", "uid"], "1 for the phase of a pod, 0 for the others."),
        M::gauge("pods", "kube_pod_status_ready", "", &["condition", "namespace", "pod", "uid"], "1 for whether a pod is ready, 0 for the other answers."),
        M::counter("pods", "kube_pod_container_status_restarts_total", "", CONTAINER, "Restarts of a container."),
        M::gauge("pods", "kube_pod_container_status_waiting_reason", "", REASON, "1, with the reason why a container waits."),
        M::gauge("pods", "kube_pod_container_status_terminated_reason", "", REASON, "1, with the reason why a container has ended, as long as it is not started again."),
        M::gauge("pods", "kube_pod_container_status_last_terminated_reason", "", REASON, "1, with the reason why a container ended the last time."),
        M::gauge("pods", "kube_pod_container_resource_requests", "", RESOURCE, "What a container requests."),
        M::gauge("pods", "kube_pod_container_resource_limits", "", RESOURCE, "What a container is limited to."),
        M::counter("pods", "kube_pod_init_container_status_restarts_total", "", CONTAINER, "Restarts of an init container."),
        M::gauge("pods", "kube_pod_init_container_status_waiting_reason", "", REASON, "1, with the reason why an init container waits."),
        M::gauge("pods", "kube_pod_init_container_status_last_terminated_reason", "", REASON, "1, with the reason why an init container ended the last time."),
        M::gauge("pods", "kube_pod_init_container_resource_requests", "", RESOURCE, "What an init container requests."),
        M::gauge("pods", "kube_pod_init_container_resource_limits", "", RESOURCE, "What an init container is limited to."),
    ],
};
