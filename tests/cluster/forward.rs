//! `kubectl port-forward`, as NOTES.txt describes it.

use std::process::Stdio;
use std::time::Duration;

use golectra_tests::{Answer, Client, eventually};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::kube::Namespace;
use crate::say;

/// Time limit for kubectl to begin.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a pod may take to be reached.
const REACHED: Duration = Duration::from_mins(3);

/// A port on loopback that is forwarded to a pod until this is dropped.
pub struct Forward {
    _child: Child,
    port: u16,
}

impl Forward {
    /// To `pod/NAME`, `service/NAME` or `deployment/NAME` and one of its ports, once there is a pod.
    pub async fn open(namespace: &Namespace, target: &str, port: &str) -> Self {
        let open = async || Self::try_open(namespace, target, port).await.inspect_err(|problem| say(problem)).ok();
        eventually(&format!("port {port} of {target} is forwarded"), REACHED, open).await
    }

    /// The same for a pod that may be gone or not there yet.
    pub async fn try_open(namespace: &Namespace, target: &str, port: &str) -> Result<Self, String> {
        let mut command = Command::new("kubectl");
        command.args(["--namespace", namespace.name(), "port-forward", target, &format!(":{port}")]).kill_on_drop(true);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
        let mut errors = child.stderr.take().expect("piped");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let said = tokio::time::timeout(LIMIT, lines.next_line()).await;
        let said = said.map_err(|_| format!("kubectl port-forward {target} says nothing"))?.expect("its output can be read");
        let Some(said) = said else {
            let mut problem = String::new();
            let _ = tokio::time::timeout(LIMIT, errors.read_to_string(&mut problem)).await;
            return Err(format!("kubectl port-forward {target} {port} ended at once: {problem}"));
        };
        let port = said.split(" -> ").next().and_then(|head| head.rsplit(':').next()).and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| format!("no port in {said:?}"))?;
        // kubectl prints a line for each connection, and errors where a pod is killed, and would block if nobody read them.
        tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { _child: child, port })
    }

    /// The URL of the forwarded port.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A client for the forwarded port.
    pub fn client(&self, key: Option<&str>) -> Client {
        Client::new(&self.url(), key)
    }
}

/// The answer of a target's port to a GET, with the status 200, once it comes.
pub async fn get(namespace: &Namespace, target: &str, port: &str, path: &str) -> Answer {
    eventually(&format!("{path} of {target}"), REACHED, async || try_get(namespace, target, port, path).await).await
}

/// The same; None where the target can't be reached at the moment.
async fn try_get(namespace: &Namespace, target: &str, port: &str, path: &str) -> Option<Answer> {
    let forward = Forward::try_open(namespace, target, port).await;
    let forward = forward.inspect_err(|problem| say(problem)).ok()?;
    forward.client(None).try_get(path).await.filter(|answer| answer.status == 200)
}

/// A pod's own /metrics, once the pod can be reached.
pub async fn metrics(namespace: &Namespace, pod: &str) -> Answer {
    get(namespace, &format!("pod/{pod}"), "9090", "/metrics").await
}

/// The same; None where the pod can't be reached at the moment.
pub async fn try_metrics(namespace: &Namespace, pod: &str) -> Option<Answer> {
    try_get(namespace, &format!("pod/{pod}"), "9090", "/metrics").await
}
