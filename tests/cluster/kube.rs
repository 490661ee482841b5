//! kubectl and helm, and a namespace that ends with its test.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::say;

/// How long a command may take that waits for nothing in the cluster.
const LIMIT: Duration = Duration::from_mins(1);

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

/// Runs a program in the repository's root: what it printed, or what it said was wrong.
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

/// A namespace that admits only pods of PodSecurity `restricted`. A test that fails shows what is in it; either way it goes.
pub struct Namespace(String);

impl Namespace {
    /// An empty one, also when an earlier run left its own behind.
    pub async fn fresh(name: &str) -> Self {
        empty(name);
        let delete = ["delete", "namespace", name, "--ignore-not-found", "--timeout=180s"];
        run("kubectl", &delete, None, Duration::from_mins(4)).await.expect("an old namespace goes");
        let manifest = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"
        );
        run("kubectl", &["apply", "-f", "-"], Some(&manifest), LIMIT).await.expect("a namespace can be made");
        Self(name.to_owned())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// kubectl in it; fails the test with kubectl's words.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, LIMIT).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// kubectl in it, which may take longer and may fail.
    pub async fn try_kubectl(&self, arguments: &[&str], limit: Duration) -> Result<String, String> {
        run("kubectl", &[&["--namespace", &self.0], arguments].concat(), None, limit).await
    }

    /// Applies a manifest in it.
    pub async fn apply(&self, manifest: &str) {
        let arguments = ["--namespace", &self.0, "apply", "-f", "-"];
        run("kubectl", &arguments, Some(manifest), LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// helm in it; fails the test with helm's words.
    pub async fn helm(&self, arguments: &[&str]) -> String {
        let limit = Duration::from_mins(6);
        run("helm", &[&["--namespace", &self.0], arguments].concat(), None, limit).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// An object, or a list of them, as JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get"], arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// The pods of a component that are not about to end.
    pub async fn pods(&self, component: &str) -> Vec<Value> {
        let list = self.json(&["pods", "-l", &format!("app.kubernetes.io/component={component}")]).await;
        let pods = list["items"].as_array().expect("a list").iter();
        pods.filter(|pod| pod["metadata"].get("deletionTimestamp").is_none()).cloned().collect()
    }

    /// The names and restarts of a component's pods: the same as long as nothing restarted.
    pub async fn restarts(&self, component: &str) -> Vec<(String, u64)> {
        let pods = self.pods(component).await;
        let mut restarts: Vec<_> =
            pods.iter().map(|pod| (name(pod), pod["status"]["containerStatuses"][0]["restartCount"].as_u64().expect("a number"))).collect();
        restarts.sort();
        restarts
    }

    /// Waits until a workload has what it was told to.
    pub async fn rolled_out(&self, workload: &str) {
        let arguments = ["rollout", "status", workload, "--timeout=180s"];
        self.try_kubectl(&arguments, Duration::from_mins(4)).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Synchronously: a test that failed leaves no runtime to wait on.
        let kubectl = |arguments: &[&str]| {
            let output = std::process::Command::new("kubectl").args(["--namespace", &self.0]).args(arguments).output();
            output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        if std::thread::panicking() {
            say(&format!("what is in {} as its test fails:", self.0));
            say(&kubectl(&["get", "all,pvc,clusters.postgresql.cnpg.io", "-o", "wide"]));
            say(&kubectl(&["get", "events", "--sort-by=.lastTimestamp"]));
            for component in ["server", "agent", "audit-sink"] {
                say(&kubectl(&["logs", "-l", &format!("app.kubernetes.io/component={component}"), "--tail=20", "--prefix"]));
            }
        }
        empty(&self.0);
        kubectl(&["delete", "namespace", &self.0, "--timeout=120s", "--ignore-not-found"]);
    }
}

/// Ends what runs in a namespace that is about to go: PostgreSQL would wait minutes for its clients to leave.
fn empty(namespace: &str) {
    for what in [["clusters.postgresql.cnpg.io", "--wait=false"], ["pods", "--grace-period=5"]] {
        let mut command = std::process::Command::new("kubectl");
        command.args(["--namespace", namespace, "delete", "--all", "--ignore-not-found", "--timeout=60s"]).args(what);
        // What can't be ended early ends with the namespace.
        let _ = command.output();
    }
}

/// An object's name.
pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}
