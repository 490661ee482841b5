//! A receiver of alerts in the cluster: a webhook that keeps what it is told.

use std::time::Duration;

use golectra_tests::eventually;
use serde_json::{Value, json};

use crate::kube::Namespace;
use crate::say;

/// A small image with a web server and a shell.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// Time limit for the pod to be ready, its image pulled.
const READY: Duration = Duration::from_mins(6);

/// Time limit for what it was told to be read, asked again where that fails.
const READ: Duration = Duration::from_mins(1);

/// The name of its pod and its Service.
const NAME: &str = "receiver";

/// A request that the webhook took.
#[derive(Debug)]
pub struct Told {
    /// Its webhook-id: the same whenever the same notification comes again.
    pub id: String,
    /// When it came, in unix seconds.
    pub at_seconds: f64,
    /// Its alerts.
    pub alerts: Vec<Value>,
}

/// Starts the webhook.
pub async fn start(namespace: &Namespace) {
    let config_map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"hook": include_str!("hook.cgi")}});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
        "spec": {"selector": {"app": NAME}, "ports": [{"port": 8080}]},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "fsGroup": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": NAME, "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
                "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
                "ports": [{"containerPort": 8080}],
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "scripts", "mountPath": "/www/cgi-bin"}, {"name": "told", "mountPath": "/told"}],
            }],
            "volumes": [{"name": "scripts", "configMap": {"name": NAME, "defaultMode": 0o555}}, {"name": "told", "emptyDir": {}}],
        },
    });
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [config_map, service, pod]}).to_string()).await;
    let ready = ["wait", "--for=condition=Ready", "pod/receiver", "--timeout=300s"];
    namespace.try_kubectl(&ready, READY).await.unwrap_or_else(|error| panic!("{error}"));
}

/// The values of the chart under `alerts` by which its server reaches the webhook.
pub fn values(namespace: &Namespace) -> Value {
    json!({
        "receivers": [{"name": "webhook", "webhook": {"url": format!("http://{NAME}.{}.svc:8080/cgi-bin/hook", namespace.name())}}],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": NAME}}}], "ports": [{"port": 8080}]}],
    })
}

/// What the webhook was told until now, in the order of time.
pub async fn told(namespace: &Namespace) -> Vec<Told> {
    let find = ["exec", NAME, "--", "find", "/told", "-name", "*.told", "-exec", "cat", "{}", "+"];
    let read = async || namespace.try_kubectl(&find, READ).await.inspect_err(|problem| say(problem)).ok();
    let lines = eventually("what the webhook was told can be read", READ, read).await;
    let mut told: Vec<Told> = lines.lines().map(parsed).collect();
    told.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
    told
}

fn parsed(line: &str) -> Told {
    let mut fields = line.splitn(3, '\t');
    let mut field = || fields.next().unwrap_or_else(|| panic!("three fields: {line}"));
    let (id, at, body) = (field(), field(), field());
    assert!(!id.is_empty(), "a notification has a webhook-id: {line}");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {line}"));
    Told {
        id: id.to_owned(),
        at_seconds: at.parse().unwrap_or_else(|error| panic!("{error}: {line}")),
        alerts: body["alerts"].as_array().expect("a list").clone(),
    }
}
