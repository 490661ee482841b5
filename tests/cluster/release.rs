//! The release `golectra`, and access to it from outside the cluster.

use std::time::{Duration, Instant};

use golectra_tests::{Client, until};

use crate::kube::{Namespace, run};
use crate::say;

/// Makes the server reachable from outside the cluster: a node port that leads to all of its pods, like a load balancer, and a
/// policy that allows it where policies are enforced.
pub const REACH: &str = "
apiVersion: v1
kind: Service
metadata: {name: reach}
spec:
  type: NodePort
  selector: {app.kubernetes.io/instance: golectra, app.kubernetes.io/component: server}
  ports: [{name: http, port: 8080, targetPort: http}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: reach}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/instance: golectra, app.kubernetes.io/component: server}}
  policyTypes: [Ingress]
  ingress: [{ports: [{port: http}]}]
";

/// An installed release.
pub struct Release {
    /// The release's namespace.
    pub namespace: Namespace,
}

impl Release {
    /// Installs the chart, waits until everything is ready, and runs `helm test`.
    pub async fn install(namespace: Namespace, values: &[&str]) -> Self {
        let release = Self { namespace };
        release.install_again(values).await;
        release.namespace.apply(REACH).await;
        release.namespace.helm(&["test", "golectra", "--timeout", "5m"]).await;
        release
    }

    /// `helm install`, with a time limit of ten minutes.
    pub async fn install_again(&self, values: &[&str]) {
        let start = Instant::now();
        self.namespace.helm(&[&["install", "golectra", "charts/golectra", "--wait", "--timeout", "10m"], values].concat()).await;
        say(&format!("{}: installed and ready after {:.0} s", self.namespace.name(), start.elapsed().as_secs_f64()));
    }

    /// `helm uninstall`, and waits until the last pod is gone, because a terminating pod still answers with its old keys.
    pub async fn uninstall(&self) {
        self.namespace.helm(&["uninstall", "golectra", "--wait", "--timeout", "2m"]).await;
        let gone = ["wait", "--for=delete", "pod", "-l", "app.kubernetes.io/instance=golectra", "--timeout=120s"];
        self.namespace.try_kubectl(&gone, Duration::from_mins(3)).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// `helm upgrade` with the defaults and these values.
    pub async fn upgrade(&self, values: &[&str]) {
        self.namespace.helm(&[&["upgrade", "golectra", "charts/golectra", "--wait", "--timeout", "10m"], values].concat()).await;
    }

    /// The key that writes are signed with.
    pub async fn key(&self) -> String {
        let template = "go-template={{.data.key | base64decode}}";
        let key = self.namespace.kubectl(&["get", "secret", "golectra-hash-key", "-o", template]).await;
        assert!(key.len() >= 32, "a generated key is long");
        key
    }

    /// The server's URL from outside, through all of its pods.
    pub async fn url(&self) -> String {
        let service = self.namespace.json(&["service", "reach"]).await;
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
        let nodes = self.namespace.json(&["nodes"]).await;
        let addresses = nodes["items"][0]["status"]["addresses"].as_array().expect("addresses").clone();
        let address = addresses.iter().find(|address| address["type"] == "InternalIP").expect("a node has an address");
        format!("http://{}:{port}", address["address"].as_str().expect("text"))
    }

    /// A client with the release's key, once the server answers. It sends a read that is refused for the moment again.
    pub async fn client(&self) -> Client {
        let client = Client::new(&self.url().await, Some(&self.key().await)).patient();
        until("the server answers from outside", Duration::from_mins(1), async || {
            client.try_get("/ping").await.is_some_and(|answer| answer.status == 200)
        })
        .await;
        client
    }

    /// The cluster's nodes.
    pub async fn nodes(&self) -> Vec<String> {
        let text = run("kubectl", &["get", "nodes", "-o", "name"], None, Duration::from_secs(30)).await.expect("nodes");
        text.lines().map(|line| line.trim_start_matches("node/").to_owned()).collect()
    }
}
