//! The release `golectra`, and access to it from outside the cluster.

use std::time::{Duration, Instant};

use golectra_tests::{Answer, Client, eventually, until};
use tokio::time::timeout;

use crate::kube::{Namespace, run};
use crate::say;

/// Time limit for a Service to lead to the server: every node is told of each change of its pods, and a small machine takes its time.
const REACHED: Duration = Duration::from_mins(3);

/// Time limit of one request meanwhile: what is sent to a pod that is gone is answered by nobody.
const REQUEST: Duration = Duration::from_secs(10);

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
        self.namespace.helm(&["uninstall", "golectra", "--wait", "--timeout", "5m"]).await;
        self.namespace.gone("app.kubernetes.io/instance=golectra").await;
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
        until("the server answers from outside", REACHED, async || answer(&client, "/ping").await.is_some()).await;
        client
    }

    /// The cluster's nodes.
    pub async fn nodes(&self) -> Vec<String> {
        let text = run("kubectl", &["get", "nodes", "-o", "name"], None, Duration::from_mins(1)).await.expect("nodes");
        text.lines().map(|line| line.trim_start_matches("node/").to_owned()).collect()
    }
}

/// The answer to a GET, if it comes now and has the status 200.
pub async fn answer(client: &Client, path: &str) -> Option<Answer> {
    timeout(REQUEST, client.try_get(path)).await.ok()?.filter(|answer| answer.status == 200)
}

/// A counter's total, once it can be read. After a pod was replaced or killed a Service may lead nowhere again although it led to the server before.
pub async fn total(client: &Client, id: &str) -> i64 {
    let path = format!("/value/counter/{id}");
    eventually(&format!("the counter {id} can be read"), REACHED, async || answer(client, &path).await?.text().parse().ok()).await
}
