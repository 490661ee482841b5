//! `/pods`: the pods of the node as the Kubernetes API describes them, under the names and labels of kube-state-metrics.
//!
//! Each agent tells about the pods of its own node, so that all agents together tell what kube-state-metrics does.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::items::{Items, LabelSets, Owner, Writer};
use super::quantity;
use super::summary::unix_seconds;
use crate::metrics::SkipReason;

const JOB: (&str, &str) = ("job", "kube-state-metrics");

/// What kube-state-metrics writes where there is no owner.
const NONE: &str = "<none>";

const PHASES: [&str; 5] = ["Pending", "Succeeded", "Failed", "Unknown", "Running"];

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
}

#[derive(Deserialize)]
struct OwnerReference {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    controller: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Cow<'a, str>,
    priority_class_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    resources: Resources,
}

type Quantities = Option<BTreeMap<String, Quantity>>;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resources {
    requests: Quantities,
    limits: Quantities,
}

/// The API writes quantities as texts, but people's static pods may have numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Text(String),
    Number(f64),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Cow<'a, str>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Option<Vec<Condition>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    restart_count: Option<f64>,
    #[serde(default)]
    state: State,
    #[serde(default)]
    last_state: State,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct State {
    waiting: Option<Reason>,
    terminated: Option<Reason>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reason {
    reason: String,
}

/// The names of metrics about containers of one kind.
struct Names {
    restarts: &'static str,
    waiting_reason: &'static str,
    /// None for init containers: each finished one would have a series as long as its pod exists.
    terminated_reason: Option<&'static str>,
    last_terminated_reason: &'static str,
    requests: &'static str,
    limits: &'static str,
}

const CONTAINERS: Names = Names {
    restarts: "kube_pod_container_status_restarts_total",
    waiting_reason: "kube_pod_container_status_waiting_reason",
    terminated_reason: Some("kube_pod_container_status_terminated_reason"),
    last_terminated_reason: "kube_pod_container_status_last_terminated_reason",
    requests: "kube_pod_container_resource_requests",
    limits: "kube_pod_container_resource_limits",
};

const INIT_CONTAINERS: Names = Names {
    restarts: "kube_pod_init_container_status_restarts_total",
    waiting_reason: "kube_pod_init_container_status_waiting_reason",
    terminated_reason: None,
    last_terminated_reason: "kube_pod_init_container_status_last_terminated_reason",
    requests: "kube_pod_init_container_resource_requests",
    limits: "kube_pod_init_container_resource_limits",
};

/// Adds what an object of the list tells. One that cannot be read is skipped.
pub(super) fn read(member: &str, object: &[u8], items: &mut Items, labels: &mut LabelSets) {
    if member != "items" {
        return;
    }
    match serde_json::from_slice::<Pod<'_>>(object) {
        Ok(pod) => pod.write(items, labels),
        Err(error) => items.readings.skip(SkipReason::Unreadable, 1, format_args!("the kubelet's list of pods: {error}")),
    }
}

/// The labels that each metric of a pod has.
#[derive(Clone, Copy)]
struct Of<'a> {
    namespace: &'a str,
    pod: &'a str,
    uid: &'a str,
}

impl Of<'_> {
    fn gauge(self, writer: &mut Writer<'_>, name: &'static str, more: &[(&str, &str)], value: Option<f64>) {
        let mut labels = [("", ""); 12];
        let count = 4 + more.len();
        labels[..4].copy_from_slice(&[JOB, ("namespace", self.namespace), ("pod", self.pod), ("uid", self.uid)]);
        labels[4..count].copy_from_slice(more);
        writer.gauge(name, &labels[..count], value);
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

impl Pod<'_> {
    fn write(&self, items: &mut Items, labels: &mut LabelSets) {
        let Metadata { name, namespace, uid, .. } = &self.metadata;
        let created_at = unix_seconds(self.metadata.creation_timestamp.as_deref()).unwrap_or(0.0);
        let of = Of { namespace, pod: name, uid };
        items.host_networks.insert((namespace.to_string(), name.to_string()), self.spec.host_network == Some(true));
        items.group(labels, Owner::PodObject(namespace.to_string(), name.to_string()), created_at, |writer| {
            self.info(writer, of);
            self.status(writer, of);
            for (names, containers) in [(&CONTAINERS, &self.spec.containers), (&INIT_CONTAINERS, &self.spec.init_containers)] {
                for container in containers.iter().flatten() {
                    self.resources(writer, of, &container.name, names.requests, &container.resources.requests);
                    self.resources(writer, of, &container.name, names.limits, &container.resources.limits);
                }
            }
        });
    }

    fn info(&self, writer: &mut Writer<'_>, of: Of<'_>) {
        let owners = self.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let (created_by_kind, created_by_name) = controller.map_or((NONE, NONE), |owner| (&owner.kind, &owner.name));
        let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        of.gauge(
            writer,
            "kube_pod_info",
            &[
                ("created_by_kind", created_by_kind),
                ("created_by_name", created_by_name),
                ("host_ip", &text(&self.status.host_ip)),
                ("host_network", if self.spec.host_network == Some(true) { "true" } else { "false" }),
                ("node", &self.spec.node_name),
                ("pod_ip", &text(&self.status.pod_ip)),
                ("priority_class", &text(&self.spec.priority_class_name)),
            ],
            Some(1.0),
        );
        if owners.is_empty() {
            let none = [("owner_is_controller", NONE), ("owner_kind", NONE), ("owner_name", NONE)];
            of.gauge(writer, "kube_pod_owner", &none, Some(1.0));
        }
        for owner in owners {
            let is_controller = if owner.controller == Some(true) { "true" } else { "false" };
            let labels = [("owner_is_controller", is_controller), ("owner_kind", &owner.kind), ("owner_name", &owner.name)];
            of.gauge(writer, "kube_pod_owner", &labels, Some(1.0));
        }
    }

    fn status(&self, writer: &mut Writer<'_>, of: Of<'_>) {
        of.gauge(writer, "kube_pod_deletion_timestamp", &[], unix_seconds(self.metadata.deletion_timestamp.as_deref()));
        if !self.status.phase.is_empty() {
            for phase in PHASES {
                of.gauge(writer, "kube_pod_status_phase", &[("phase", phase)], Some(flag(self.status.phase == phase)));
            }
        }
        if let Some(ready) = self.status.conditions.iter().flatten().find(|condition| condition.kind == "Ready") {
            for (condition, status) in [("true", "True"), ("false", "False"), ("unknown", "Unknown")] {
                of.gauge(writer, "kube_pod_status_ready", &[("condition", condition)], Some(flag(ready.status == status)));
            }
        }
        for (names, statuses) in [(&CONTAINERS, &self.status.container_statuses), (&INIT_CONTAINERS, &self.status.init_container_statuses)]
        {
            for container in statuses.iter().flatten() {
                let name: &str = &container.name;
                of.gauge(writer, names.restarts, &[("container", name)], container.restart_count);
                for (metric, state) in [
                    (Some(names.waiting_reason), &container.state.waiting),
                    (names.terminated_reason, &container.state.terminated),
                    (Some(names.last_terminated_reason), &container.last_state.terminated),
                ] {
                    if let (Some(metric), Some(Reason { reason })) = (metric, state) {
                        of.gauge(writer, metric, &[("container", name), ("reason", reason)], Some(1.0));
                    }
                }
            }
        }
    }

    fn resources(&self, writer: &mut Writer<'_>, of: Of<'_>, container: &str, metric: &'static str, quantities: &Quantities) {
        for (resource, quantity) in quantities.iter().flatten() {
            let Some(unit) = unit(resource) else { continue };
            let value = match quantity {
                Quantity::Text(text) => quantity::parse(text),
                Quantity::Number(number) => Some(*number),
            };
            // The API counts processors in thousandths, rounded up.
            let value = value.map(|value| if unit == "core" { (value * 1e3 - 1e-6).ceil().max(0.0) / 1e3 } else { value });
            let name: String = resource.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            let labels = [("container", container), ("node", &*self.spec.node_name), ("resource", &name), ("unit", unit)];
            of.gauge(writer, metric, &labels, value);
        }
    }
}

/// The unit of a resource; None for one that kube-state-metrics leaves out.
fn unit(resource: &str) -> Option<&'static str> {
    match resource {
        "cpu" => Some("core"),
        "memory" | "storage" | "ephemeral-storage" => Some("byte"),
        _ if resource.starts_with("hugepages-") || resource.starts_with("attachable-volumes-") => Some("byte"),
        _ if resource.contains('/') && !resource.starts_with("requests.") => Some("integer"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
