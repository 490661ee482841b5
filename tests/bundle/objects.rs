//! What must hold for objects in every rendering.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::render::{ALL_APIS, ci_values, find, have_helm, name, rendered, text};

const WORKLOADS: [&str; 3] = ["Deployment", "DaemonSet", "StatefulSet"];

fn each_rendering(check: impl Fn(&str, &[Value])) {
    if !have_helm() {
        return;
    }
    for (file, path) in ci_values() {
        check(&file, &rendered(&ALL_APIS, &["--values", &path]));
    }
}

/// The Deployments, DaemonSets and StatefulSets.
pub fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter(|object| WORKLOADS.contains(&text(object, "/kind")))
}

/// A selector cannot be changed once it is installed: always these three labels.
#[test]
fn selectors_are_stable_over_versions() {
    each_rendering(|file, objects| {
        for workload in workloads(objects) {
            let selector = workload.pointer("/spec/selector/matchLabels").expect("a selector");
            let component = text(workload, "/metadata/labels/app.kubernetes.io~1component");
            let expected = json!({
                "app.kubernetes.io/name": "golectra",
                "app.kubernetes.io/instance": "golectra",
                "app.kubernetes.io/component": component,
            });
            assert_eq!(*selector, expected, "{file}: {}", name(workload));
            let labels = workload.pointer("/spec/template/metadata/labels").and_then(Value::as_object).expect("labels");
            for (key, value) in expected.as_object().expect("an object") {
                assert_eq!(labels.get(key), Some(value), "{file}: {} does not select its own pods", name(workload));
            }
            for key in labels.keys() {
                assert!(
                    !key.contains("version") && !key.contains("chart"),
                    "{file}: {}: {key} would restart pods on every upgrade",
                    name(workload)
                );
            }
        }
    });
}

/// A Service, policy, budget or monitor that selects nothing reports no error.
#[test]
fn every_selector_selects_something() {
    each_rendering(assert_selectors_select);
}

pub fn assert_selectors_select(file: &str, objects: &[Value]) {
    let mut pods: Vec<Value> = workloads(objects).map(|workload| workload["spec"]["template"]["metadata"]["labels"].clone()).collect();
    pods.extend(objects.iter().filter(|object| text(object, "/kind") == "Pod").map(|pod| pod["metadata"]["labels"].clone()));
    for cluster in objects.iter().filter(|object| text(object, "/kind") == "Cluster") {
        pods.push(json!({"cnpg.io/cluster": cluster["metadata"]["name"], "cnpg.io/podRole": "instance"}));
    }
    let services: Vec<_> =
        objects.iter().filter(|object| text(object, "/kind") == "Service").map(|service| service["metadata"]["labels"].clone()).collect();
    for object in objects {
        let (pointer, candidates) = match text(object, "/kind") {
            "Service" => ("/spec/selector", &pods),
            "NetworkPolicy" => ("/spec/podSelector/matchLabels", &pods),
            "PodDisruptionBudget" | "PodMonitor" => ("/spec/selector/matchLabels", &pods),
            "ServiceMonitor" => ("/spec/selector/matchLabels", &services),
            _ => continue,
        };
        let selector = object.pointer(pointer).and_then(Value::as_object).expect("a selector");
        let found = candidates.iter().any(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
        assert!(found, "{file}: {} selects nothing", name(object));
    }
}

/// Every object that a pod refers to is in the rendering, created by the operator, or named in the values.
#[test]
fn what_a_pod_refers_to_exists() {
    each_rendering(|file, objects| {
        let mut known: BTreeSet<String> = objects.iter().map(name).collect();
        for cluster in objects.iter().filter(|object| text(object, "/kind") == "Cluster") {
            let cluster = text(cluster, "/metadata/name");
            known.extend([format!("Secret/{cluster}-app"), format!("Secret/{cluster}-ca")]);
        }
        // Secrets that the files in ci/ say exist already.
        known.extend(
            [
                "my-keys",
                "my-signing-keys",
                "my-api-tokens",
                "golectra-hash-key",
                "golectra-audit-key",
                "example-ca",
                "slack",
                "smtp",
                "heartbeat",
                "scrape-token",
            ]
            .map(|secret| format!("Secret/{secret}")),
        );
        for workload in workloads(objects) {
            let pod = &workload["spec"]["template"]["spec"];
            let mut mentioned = vec![format!("ServiceAccount/{}", text(pod, "/serviceAccountName"))];
            for variable in pod["containers"][0]["env"].as_array().expect("variables") {
                if let Some(secret) = variable.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str) {
                    mentioned.push(format!("Secret/{secret}"));
                }
            }
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                if let Some(claim) = volume.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str) {
                    mentioned.push(format!("PersistentVolumeClaim/{claim}"));
                }
                if let Some(secret) = volume.pointer("/secret/secretName").and_then(Value::as_str) {
                    mentioned.push(format!("Secret/{secret}"));
                }
            }
            for mention in mentioned {
                assert!(known.contains(&mention), "{file}: {} refers to {mention}, which does not exist", name(workload));
            }
        }
    });
}

#[test]
fn every_workload_is_probed_and_bounded() {
    each_rendering(|file, objects| {
        for workload in workloads(objects) {
            let container = &workload["spec"]["template"]["spec"]["containers"][0];
            let at = format!("{file}: {}", name(workload));
            assert_eq!(text(container, "/readinessProbe/httpGet/path"), "/ping", "{at}");
            assert!(text(container, "/livenessProbe/httpGet/path").starts_with("/ping"), "{at}");
            assert!(container.pointer("/resources/limits/memory").is_some(), "{at} has no memory limit");
            assert!(container.pointer("/resources/limits/cpu").is_none(), "{at} has a CPU limit");
            assert!(container.pointer("/resources/requests/cpu").is_some(), "{at} asks for no CPU");
            assert_eq!(text(container, "/imagePullPolicy"), "IfNotPresent", "{at}");
            assert!(!text(container, "/image").ends_with(":latest"), "{at}");
            let mut names: Vec<_> =
                container["env"].as_array().expect("variables").iter().map(|variable| text(variable, "/name")).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{at} sets a variable twice");
        }
    });
}

/// The liveness probe waits for the startup probe, which allows at least five minutes.
fn assert_may_start_slowly(objects: &[Value], workload: &str, request: &Value) {
    let container = &find(objects, workload)["spec"]["template"]["spec"]["containers"][0];
    let (startup, liveness) = (&container["startupProbe"], &container["livenessProbe"]);
    assert_eq!((&startup["httpGet"], &liveness["httpGet"]), (request, request));
    let number = |field: &str| startup[field].as_u64().expect("a number");
    assert!(number("periodSeconds") * number("failureThreshold") >= 300, "at least five minutes: {startup}");
    assert!(liveness.get("initialDelaySeconds").is_none(), "it waits for the startup probe: {liveness}");
}

/// An agent reads its spool before it answers, and a full one takes long on a slow disk: the liveness probe must not end that.
#[test]
fn an_agent_has_time_to_read_a_full_spool() {
    if !have_helm() {
        return;
    }
    assert_may_start_slowly(&rendered(&ALL_APIS, &[]), "DaemonSet/golectra-agent", &json!({"path": "/ping", "port": "metrics"}));
}

/// The same holds for an embedded server and its history.
#[test]
fn an_embedded_server_has_time_to_read_a_large_history() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&[], &["--set", "database.mode=embedded"]);
    assert_may_start_slowly(&objects, "Deployment/golectra-server", &json!({"path": "/ping/live", "port": "http"}));
}

#[test]
fn the_defaults_are_the_documented_ones() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&ALL_APIS, &[]);
    let server = find(&objects, "Deployment/golectra-server");
    assert_eq!(server["spec"]["replicas"], 2);
    assert_eq!(server["spec"]["strategy"]["rollingUpdate"], json!({"maxUnavailable": 0, "maxSurge": 1}));
    let pod = &server["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
    let pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("a number");
    assert!(grace > pre_stop + 20, "a server has its 20 s to finish");
    assert_eq!(text(&pod["containers"][0], "/livenessProbe/httpGet/path"), "/ping/live");

    let service = find(&objects, "Service/golectra-server");
    assert_eq!(service["spec"]["ports"].as_array().map(Vec::len), Some(1), "metrics are not on the public Service");
    assert_eq!(text(service, "/spec/ports/0/name"), "http");

    let agent = &find(&objects, "DaemonSet/golectra-agent")["spec"]["template"]["spec"];
    assert_eq!(agent["tolerations"], json!([{"operator": "Exists"}]), "on every node, including the control plane");
    let volumes: Vec<_> = agent["volumes"].as_array().expect("volumes").iter().map(|volume| text(volume, "/name")).collect();
    assert_eq!(volumes, ["spool", "service-account"], "the node is not mounted by default");
    assert_eq!(agent["volumes"][0]["emptyDir"], json!({"sizeLimit": "592Mi"}));
    assert!(agent.get("hostNetwork").is_none());
    let source = agent["containers"][0]["env"].as_array().expect("env").iter().find(|variable| text(variable, "/name") == "SOURCE");
    assert_eq!(text(source.expect("SOURCE"), "/valueFrom/fieldRef/fieldPath"), "spec.nodeName");

    let cluster = find(&objects, "Cluster/golectra-postgres");
    assert_eq!(cluster["spec"]["instances"], 3);
    assert_eq!(
        cluster["spec"]["postgresql"]["synchronous"],
        json!({"method": "any", "number": 1, "dataDurability": "required", "failoverQuorum": true})
    );
    assert!(cluster["spec"].get("imageName").is_none(), "the operator's own default");
    for kept in ["Cluster/golectra-postgres", "PersistentVolumeClaim/golectra-audit-sink-data"] {
        assert_eq!(text(find(&objects, kept), "/metadata/annotations/helm.sh~1resource-policy"), "keep", "{kept}");
    }
}

/// Agents and servers share one key, servers and the sink another.
#[test]
fn a_generated_key_is_the_same_wherever_it_is_used() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&ALL_APIS, &[]);
    let checksum = |workload: &str, key: &str| {
        text(find(&objects, workload), &format!("/spec/template/metadata/annotations/checksum~1{key}")).to_owned()
    };
    assert_eq!(checksum("Deployment/golectra-server", "hash-key"), checksum("DaemonSet/golectra-agent", "hash-key"));
    assert_eq!(checksum("Deployment/golectra-server", "audit-key"), checksum("Deployment/golectra-audit-sink", "audit-key"));
    assert_ne!(
        text(find(&objects, "Secret/golectra-hash-key"), "/data/key"),
        text(find(&objects, "Secret/golectra-audit-key"), "/data/key")
    );
    assert!(text(find(&objects, "Secret/golectra-hash-key"), "/data/key").len() >= 64, "48 characters in base64");

    let with = |key: &str| {
        let objects = rendered(&ALL_APIS, &["--set", &format!("keys.hash.value={key},keys.audit.value=a")]);
        text(find(&objects, "DaemonSet/golectra-agent"), "/spec/template/metadata/annotations/checksum~1hash-key").to_owned()
    };
    assert_ne!(with("one"), with("two"), "another key replaces the pods");
    assert_eq!(with("one"), with("one"));
}

#[test]
fn kinds_that_the_cluster_lacks_are_left_out() {
    if !have_helm() {
        return;
    }
    let everything = ["--set", "access.anonymous=true,server.httpRoute.enabled=true,server.httpRoute.parentRefs[0].name=public"];
    let kinds = |apis: &[&str]| rendered(apis, &everything).iter().map(|object| text(object, "/kind").to_owned()).collect::<BTreeSet<_>>();
    let optional = ["ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"];

    let without = kinds(&["postgresql.cnpg.io/v1"]);
    let with = kinds(&ALL_APIS);
    let some = kinds(&["postgresql.cnpg.io/v1", "monitoring.coreos.com/v1", "monitoring.coreos.com/v1/PodMonitor"]);
    for kind in optional {
        assert!(!without.contains(kind) && with.contains(kind), "{kind}");
        assert_eq!(some.contains(kind), kind == "PodMonitor", "{kind}: a cluster that lists kinds has only those");
    }
}

/// The images are for Linux; on a node with another system a pod would fail to start for ever.
#[test]
fn every_pod_runs_on_linux_nodes_only() {
    each_rendering(|file, objects| {
        let pods = objects.iter().filter_map(|object| match text(object, "/kind") {
            "Pod" => Some(&object["spec"]),
            kind if WORKLOADS.contains(&kind) => Some(&object["spec"]["template"]["spec"]),
            _ => None,
        });
        for pod in pods {
            assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux", "{file}: {pod}");
        }
    });
    if !have_helm() {
        return;
    }
    // A selector of the user's is added to it.
    let objects =
        rendered(&ALL_APIS, &["--set", "agent.nodeSelector.disk=ssd,server.nodeSelector.disk=ssd,auditSink.nodeSelector.disk=ssd"]);
    for workload in workloads(&objects) {
        let selector = &workload["spec"]["template"]["spec"]["nodeSelector"];
        assert_eq!(*selector, json!({"kubernetes.io/os": "linux", "disk": "ssd"}), "{}", name(workload));
    }
}

/// A budget that lets no pod go blocks a drain for ever.
#[test]
fn no_budget_blocks_the_drain_of_a_single_replica() {
    if !have_helm() {
        return;
    }
    for (set, budgets) in [
        ("server.replicas=2", 1),
        ("server.replicas=1", 0),
        ("server.replicas=1,database.cnpg.instances=1", 0),
        ("server.autoscaling.enabled=true,server.autoscaling.minReplicas=1", 1),
        ("server.autoscaling.enabled=true,server.autoscaling.minReplicas=1,server.autoscaling.maxReplicas=1", 0),
        ("database.mode=embedded", 0),
    ] {
        let objects = rendered(&ALL_APIS, &["--set", set]);
        let found: Vec<_> = objects.iter().filter(|object| text(object, "/kind") == "PodDisruptionBudget").collect();
        assert_eq!(found.len(), budgets, "--set {set}: {found:?}");
        for budget in found {
            assert_eq!(budget["spec"]["maxUnavailable"], 1, "--set {set}");
            assert!(budget["spec"].get("minAvailable").is_none(), "--set {set}");
        }
        for cluster in objects.iter().filter(|object| text(object, "/kind") == "Cluster") {
            let several = cluster["spec"]["instances"].as_u64().expect("a number") > 1;
            assert_eq!(cluster["spec"]["enablePDB"], several, "--set {set}: the operator's budget keeps one instance available");
        }
    }
}
