//! Prometheus in the cluster reads the metrics and alerts on a silent node. Part of the long form.

use std::time::Duration;

use golectra_tests::{eventually, skip, until};
use serde_json::{Value, json};

use crate::forward::get;
use crate::kube::Namespace;
use crate::release::Release;
use crate::{agents, full, images, say, turn};

const IMAGE: &str = "golectra.test/prometheus:1";

/// The alert fires after two minutes of silence and one minute pending.
const ALERTED: Duration = Duration::from_mins(6);

/// Installs Prometheus with the chart's rules, with the Services as targets.
async fn install_prometheus(namespace: &Namespace) {
    let rules = namespace.json(&["prometheusrules.monitoring.coreos.com", "golectra"]).await["spec"].clone();
    let jobs = ["golectra-server-metrics", "golectra-audit-sink"].map(|service| {
        // The Prometheus operator adds this label.
        json!({
            "job_name": service,
            "dns_sd_configs": [{"names": [format!("{service}.{}.svc", namespace.name())], "type": "A", "port": 9090, "refresh_interval": "5s"}],
            "relabel_configs": [{"target_label": "namespace", "replacement": namespace.name()}],
        })
    });
    let config = json!({
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": ["/etc/golectra/rules.yml"],
        "scrape_configs": jobs,
    });
    let files = json!({"prometheus.yml": config.to_string(), "rules.yml": rules.to_string()});
    let config_map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus"}, "data": files});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "prometheus"},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "fsGroup": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "prometheus", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "args": ["--config.file=/etc/golectra/prometheus.yml", "--storage.tsdb.path=/data"],
                "ports": [{"containerPort": 9090}],
                "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/golectra"}, {"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "prometheus"}}, {"name": "data", "emptyDir": {}}],
        },
    });
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [config_map, pod]}).to_string()).await;
    let ready = ["wait", "--for=condition=Ready", "pod/prometheus", "--timeout=300s"];
    namespace.try_kubectl(&ready, Duration::from_mins(6)).await.unwrap_or_else(|error| panic!("{error}"));
}

async fn ask(release: &Release, path: &str) -> Value {
    get(&release.namespace, "pod/prometheus", "9090", path).await.json()["data"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_alerts_on_a_silent_node() {
    if !full() {
        return;
    }
    let Some(_turn) = turn().await else { return };
    if !images::image("tests/cluster/prometheus.Dockerfile", IMAGE, &[]).await {
        skip("CLUSTER_IMAGE is not set, so no Prometheus can be put on the nodes");
        return;
    }
    let values = ["--set", "database.mode=embedded"];
    let release = Release::install(Namespace::fresh("monitoring").await, &values).await;
    let client = release.client().await;
    agents::on_every_node(&release, &client).await;
    install_prometheus(&release.namespace).await;

    until("Prometheus reads the server and the sink", Duration::from_mins(3), async || {
        let targets = ask(&release, "/api/v1/targets").await;
        let targets = targets["activeTargets"].as_array().expect("a list");
        targets.len() == 2 && targets.iter().all(|target| target["health"] == "up")
    })
    .await;
    for group in ask(&release, "/api/v1/rules").await["groups"].as_array().expect("a list") {
        for rule in group["rules"].as_array().expect("a list") {
            assert_ne!(rule["health"], "err", "{rule}");
        }
    }

    // Only one node keeps its agent.
    let nodes = release.nodes().await;
    let silent = &nodes[1..];
    let only = format!("agent.nodeSelector.kubernetes\\.io/hostname={}", nodes[0]);
    release.upgrade(&[&values[..], &["--set", &only]].concat()).await;
    let firing = eventually("the alert fires", ALERTED, async || {
        let alerts = ask(&release, "/api/v1/alerts").await;
        let firing: Vec<String> = alerts["alerts"]
            .as_array()?
            .iter()
            .filter(|alert| alert["labels"]["alertname"] == "GolectraNodeSilent" && alert["state"] == "firing")
            .map(|alert| alert["labels"]["source"].as_str().unwrap_or_default().to_owned())
            .collect();
        (!firing.is_empty()).then_some(firing)
    })
    .await;
    assert!(firing.iter().any(|source| silent.contains(source)), "the alert fires for {firing:?}, not for {silent:?}");
    assert!(!firing.contains(&nodes[0]), "{} reports", nodes[0]);
    say(&format!("GolectraNodeSilent fires for {firing:?}"));
}
