//! Sends signals to programs in pods: kills servers without a chance to end in order, and halts agents.

use std::time::Duration;

use golectra_tests::eventually;
use serde_json::json;

use crate::kube::Namespace;
use crate::webhook::BUSYBOX;

/// Time limit for a small pod to do its work, its image pulled.
const LIMIT: Duration = Duration::from_mins(5);

/// See the module's documentation. Deleting a pod with `--grace-period=0 --force` would not do: the pod is gone from the API at once, but the kubelet
/// ends its processes with SIGTERM first.
pub struct Killer(Namespace);

impl Killer {
    /// In a namespace of its own, which allows to see the processes of nodes.
    pub async fn new() -> Self {
        Self(Namespace::admitting("privileged", "killer").await)
    }

    /// Sends SIGKILL to the server in a pod on a node. Its container begins again.
    pub async fn kill(&self, server: &str, node: &str) {
        self.signal("KILL", "golectra-server", server, node).await;
    }

    /// Sends SIGSTOP to the agent in a pod on a node, which then runs no further, also when it is told to end: the kubelet kills it.
    pub async fn halt(&self, agent: &str, node: &str) {
        self.signal("STOP", "golectra-agent", agent, node).await;
    }

    async fn signal(&self, signal: &str, program: &str, of_pod: &str, node: &str) {
        let script = r#"
            for process in /proc/[0-9]*; do
                [ "$(cat "$process/comm")" = "$PROGRAM" ] || continue
                tr '\0' '\n' <"$process/environ" | grep -qxF "HOSTNAME=$OF_POD" || continue
                kill -"$SIGNAL" "${process#/proc/}" && exit 0
            done
            echo "no process of $OF_POD"
            exit 1
        "#;
        let killer = format!("kill-{}", golectra_tests::fresh_key());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": killer},
            "spec": {
                "nodeName": node, "hostPID": true, "restartPolicy": "Never", "automountServiceAccountToken": false,
                "containers": [{
                    "name": "kill", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
                    "env": [
                        {"name": "PROGRAM", "value": program}, {"name": "OF_POD", "value": of_pod}, {"name": "SIGNAL", "value": signal},
                    ],
                    "securityContext": {"privileged": true, "runAsUser": 0},
                }],
            },
        });
        self.0.apply(&pod.to_string()).await;
        let ended = eventually("the killer has ended", LIMIT, async || {
            let pod = self.0.json(&["pod", &killer]).await;
            pod["status"]["phase"].as_str().filter(|phase| ["Succeeded", "Failed"].contains(phase)).map(str::to_owned)
        })
        .await;
        assert_eq!(ended, "Succeeded", "{of_pod}: {}", self.0.kubectl(&["logs", &killer]).await);
    }
}
