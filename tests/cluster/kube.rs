//! kubectl and helm, and namespaces that are deleted with their test.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use golectra_tests::until;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::say;

/// Time limit for a command that does not wait for the cluster.
const LIMIT: Duration = Duration::from_mins(2);

/// Time limit for a pod to terminate: several times every grace period.
const ENDED: Duration = Duration::from_mins(5);

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

/// Runs a program in the repository's root: its output, or its error message.
pub async fn run(program: &str, arguments: &[&str], input: Option<&str>, limit: Duration) -> Result<String, String> {
    let what = format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(|error| format!("{what}: {error}"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).await.map_err(|error| format!("{what}: {error}"))?;
    }
    let output = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = output.map_err(|_| format!("{what}: not done within {limit:?}"))?.map_err(|error| format!("{what}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{what}: {stderr}{}", String::from_utf8_lossy(&output.stdout)))
    }
}

/// Label and annotation of namespaces that these tests created: the machine and the process.
const OWNER: &str = "golectra-test-owner";

/// A namespace of one test, deleted at its end. If the test fails, its content is printed first.
pub struct Namespace(String);

impl Namespace {
    /// A new namespace with PodSecurity `restricted`.
    pub async fn fresh(what: &str) -> Self {
        Self::admitting("restricted", what).await
    }

    /// A new namespace with this level of PodSecurity. Its name is unique, because runs may share a cluster.
    pub async fn admitting(level: &str, what: &str) -> Self {
        let key = golectra_tests::fresh_key();
        let name = format!("golectra-test-{what}-{}", &key[key.len() - 6..]);
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": {"pod-security.kubernetes.io/enforce": level, OWNER: machine()},
                "annotations": {OWNER: std::process::id().to_string()},
            },
        });
        run("kubectl", &["create", "-f", "-"], Some(&object.to_string()), LIMIT).await.expect("a namespace can be made");
        let namespace = Self(name);
        // The API server refuses pods until a controller has made the account.
        until("the namespace has its default ServiceAccount", LIMIT, async || {
            namespace.try_kubectl(&["get", "serviceaccount", "default"], LIMIT).await.is_ok()
        })
        .await;
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs kubectl in the namespace. The test fails with its error message.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, LIMIT).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs kubectl with another time limit, and returns its error.
    pub async fn try_kubectl(&self, arguments: &[&str], limit: Duration) -> Result<String, String> {
        run("kubectl", &[&["--namespace", &self.0], arguments].concat(), None, limit).await
    }

    /// Applies a manifest in the namespace.
    pub async fn apply(&self, manifest: &str) {
        let arguments = ["--namespace", &self.0, "apply", "-f", "-"];
        run("kubectl", &arguments, Some(manifest), LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs helm in the namespace. The test fails with its error message.
    pub async fn helm(&self, arguments: &[&str]) -> String {
        let limit = Duration::from_mins(12);
        run("helm", &[&["--namespace", &self.0], arguments].concat(), None, limit).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// An object, or a list of them, as JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get"], arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// The pods of a component that are not terminating.
    pub async fn pods(&self, component: &str) -> Vec<Value> {
        let mut pods = self.all_pods(component).await;
        pods.retain(|pod| !is_ending(pod));
        pods
    }

    /// Waits until the terminating pods of a component are gone, because until then they answer.
    pub async fn ended(&self, component: &str) {
        until("pods that end are gone", ENDED, async || !self.all_pods(component).await.iter().any(is_ending)).await;
    }

    /// Waits until no pod has these labels, also where the last one is gone already.
    pub async fn gone(&self, labels: &str) {
        until("the pods are gone", ENDED, async || self.pods_with(labels).await.is_empty()).await;
    }

    async fn all_pods(&self, component: &str) -> Vec<Value> {
        self.pods_with(&format!("app.kubernetes.io/component={component}")).await
    }

    async fn pods_with(&self, labels: &str) -> Vec<Value> {
        let mut list = self.json(&["pods", "-l", labels]).await;
        match list["items"].take() {
            Value::Array(pods) => pods,
            other => panic!("a list of pods, not {other}"),
        }
    }

    /// The names and restart counts of a component's pods.
    pub async fn restarts(&self, component: &str) -> Vec<(String, u64)> {
        let pods = self.pods(component).await;
        let mut restarts: Vec<_> =
            pods.iter().map(|pod| (name(pod), pod["status"]["containerStatuses"][0]["restartCount"].as_u64().expect("a number"))).collect();
        restarts.sort();
        restarts
    }

    /// Waits until a workload's rollout has finished.
    pub async fn rolled_out(&self, workload: &str) {
        let arguments = ["rollout", "status", workload, "--timeout=600s"];
        self.try_kubectl(&arguments, Duration::from_mins(12)).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

fn is_ending(pod: &Value) -> bool {
    pod["metadata"].get("deletionTimestamp").is_some()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Synchronously, because a failed test has no runtime any more.
        let kubectl = |arguments: &[&str]| {
            let output = std::process::Command::new("kubectl").args(["--namespace", &self.0]).args(arguments).output();
            output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        if std::thread::panicking() {
            say(&format!("what is in {} as its test fails:", self.0));
            say(&kubectl(&["get", "all,pvc,clusters.postgresql.cnpg.io", "-o", "wide"]));
            say(&kubectl(&["get", "events", "--sort-by=.lastTimestamp"]));
            for component in ["server", "agent", "audit-sink", "test"] {
                say(&kubectl(&["logs", "-l", &format!("app.kubernetes.io/component={component}"), "--tail=20", "--prefix"]));
            }
        }
        remove(&self.0);
    }
}

/// Waits until the API server reaches the CloudNativePG operator's webhooks, without which it takes no database: directly after the operator's start
/// their Service may lead nowhere. Any other refusal is left to the tests.
pub async fn operator_reached() {
    let database = json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": "golectra-test-dry-run", "namespace": "default"},
        "spec": {"instances": 1, "storage": {"size": "1Gi"}},
    });
    let database = database.to_string();
    until("the operator's webhooks are reached", LIMIT, async || {
        let made = run("kubectl", &["create", "--dry-run=server", "-f", "-"], Some(&database), LIMIT).await;
        made.err().is_none_or(|error| !error.contains("failed calling webhook"))
    })
    .await;
}

/// Deletes the namespaces of killed runs on this machine, which use resources that others need.
pub async fn sweep() {
    let ours = ["get", "namespaces", "-l", &format!("{OWNER}={}", machine()), "-o", "json"];
    let list = run("kubectl", &ours, None, LIMIT).await.expect("namespaces can be listed");
    let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
    for namespace in list["items"].as_array().expect("a list") {
        let process = namespace["metadata"]["annotations"][OWNER].as_str().unwrap_or_default();
        if !Path::new("/proc").join(process).join("stat").exists() {
            remove(&name(namespace));
        }
    }
}

/// This machine's name as the value of a label.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(60).collect();
    format!("on-{}", name.trim_end_matches(['-', '.']))
}

/// Deletes a namespace, and before that its databases and pods, because PostgreSQL terminates slowly otherwise.
fn remove(namespace: &str) {
    for what in [["clusters.postgresql.cnpg.io", "--wait=false"], ["pods", "--grace-period=5"]] {
        let mut command = std::process::Command::new("kubectl");
        command.args(["--namespace", namespace, "delete", "--all", "--ignore-not-found", "--timeout=60s"]).args(what);
        // What cannot be deleted now is deleted with the namespace.
        let _ = command.output();
    }
    let _ = std::process::Command::new("kubectl").args(["delete", "namespace", namespace, "--timeout=120s", "--ignore-not-found"]).output();
}

/// An object's name.
pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}
