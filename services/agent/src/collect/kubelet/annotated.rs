//! The pods of the node that ask to be scraped, by the annotations that Prometheus's own examples use:
//! `prometheus.io/scrape: "true"`, and perhaps `prometheus.io/port`, `prometheus.io/path` and `prometheus.io/scheme`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::{Client, KubeletAddress, KubeletError};
use super::splitter::Splitter;

/// Without an annotation, and without a port that a container declares.
const DEFAULT_PORT: u16 = 80;

/// The longest path. Kubernetes takes 256 KiB, and a target is kept as long as its pod runs.
const MAX_PATH_BYTES: usize = 1024;

/// A running pod that asks to be scraped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnnotatedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// The port.
    pub port: u16,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The path, and perhaps a query.
    pub path: String,
}

/// Asks the kubelet for these pods.
#[derive(Debug)]
pub struct AnnotatedPods {
    client: Client,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    containers: Option<Vec<Container>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Container {
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
}

impl AnnotatedPods {
    /// Nothing is asked yet.
    pub fn new(address: KubeletAddress) -> Self {
        Self { client: Client::new(address) }
    }

    /// The pods, sorted.
    pub async fn list(&mut self) -> Result<Vec<AnnotatedPod>, KubeletError> {
        let (mut splitter, mut pods) = (Splitter::default(), Vec::new());
        let mut found = |member: &str, object: &[u8]| {
            if member == "items" {
                pods.extend(parse(object));
            }
        };
        self.client.get(super::PODS, |piece| Ok(splitter.read(piece, &mut found)?)).await?;
        splitter.finish()?;
        pods.sort();
        Ok(pods)
    }
}

/// A pod that asks to be scraped and can be; None for any other.
pub(super) fn parse(object: &[u8]) -> Option<AnnotatedPod> {
    let pod: Pod = serde_json::from_slice(object).ok()?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let annotation =
        |name: &str| annotations.get(&format!("prometheus.io/{name}")).map(|value| value.trim()).filter(|value| !value.is_empty());
    if annotation("scrape") != Some("true") || pod.status.phase != "Running" {
        return None;
    }
    let mut ports = pod.spec.containers.iter().flatten().flat_map(|container| container.ports.iter().flatten());
    let declared = ports.find(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP").map(|port| port.container_port);
    // A port that is no number cannot be scraped; guessing another would show another program's metrics.
    let port = match annotation("port") {
        Some(port) => port.parse().ok()?,
        None => declared.unwrap_or(DEFAULT_PORT),
    };
    let scheme = match annotation("scheme") {
        None | Some("http") => "http",
        Some("https") => "https",
        Some(_) => return None,
    };
    let path = annotation("path").unwrap_or("/metrics");
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(AnnotatedPod {
        namespace: pod.metadata.namespace,
        name: pod.metadata.name,
        ip: pod.status.pod_ip.filter(|ip| !ip.is_empty())?,
        port,
        scheme,
        path: format!("{slash}{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: &str, rest: &str) -> Option<AnnotatedPod> {
        let status = r#""status":{"phase":"Running","podIP":"10.1.0.7"}"#;
        let rest = if rest.is_empty() { status } else { rest };
        parse(format!(r#"{{"metadata":{{"name":"app-1","namespace":"shop","annotations":{annotations}}},{rest}}}"#).as_bytes())
    }

    #[test]
    fn the_annotations_say_what_is_scraped() {
        let all = r#"{"prometheus.io/scrape":"true","prometheus.io/port":"9102","prometheus.io/path":"stats?format=prometheus","prometheus.io/scheme":"https"}"#;
        let expected = AnnotatedPod {
            namespace: "shop".into(),
            name: "app-1".into(),
            ip: "10.1.0.7".into(),
            port: 9102,
            scheme: "https",
            path: "/stats?format=prometheus".into(),
        };
        assert_eq!(pod(all, ""), Some(expected.clone()));
        let least = pod(r#"{"prometheus.io/scrape":"true"}"#, "").unwrap();
        assert_eq!(least, AnnotatedPod { port: 80, scheme: "http", path: "/metrics".into(), ..expected });
    }

    #[test]
    fn without_a_port_it_is_the_first_tcp_port_of_a_container() {
        let rest = r#""spec":{"containers":[{"ports":[{"containerPort":53,"protocol":"UDP"}]},{"ports":[{"containerPort":8080},{"containerPort":9}]}]},
            "status":{"phase":"Running","podIP":"10.1.0.7"}"#;
        assert_eq!(pod(r#"{"prometheus.io/scrape":"true"}"#, rest).unwrap().port, 8080);
    }

    #[test]
    fn other_pods_are_left_out() {
        for annotations in [
            "null",
            "{}",
            r#"{"prometheus.io/scrape":"false"}"#,
            r#"{"prometheus.io/scrape":"true","prometheus.io/port":"http"}"#,
            r#"{"prometheus.io/scrape":"true","prometheus.io/port":"70000"}"#,
            r#"{"prometheus.io/scrape":"true","prometheus.io/scheme":"file"}"#,
        ] {
            assert_eq!(pod(annotations, ""), None, "{annotations}");
        }
        let path_of =
            |bytes: usize| pod(&format!(r#"{{"prometheus.io/scrape":"true","prometheus.io/path":"/{}"}}"#, "x".repeat(bytes - 1)), "");
        assert_eq!(path_of(MAX_PATH_BYTES).map(|pod| pod.path.len()), Some(MAX_PATH_BYTES));
        assert_eq!(path_of(MAX_PATH_BYTES + 1), None, "a path of any length would be kept for each pod");
        for status in
            [r#"{"phase":"Pending","podIP":"10.1.0.7"}"#, r#"{"phase":"Succeeded","podIP":"10.1.0.7"}"#, r#"{"phase":"Running"}"#, "{}"]
        {
            assert_eq!(pod(r#"{"prometheus.io/scrape":"true"}"#, &format!("\"status\":{status}")), None, "{status}");
        }
        assert_eq!(parse(b"{}"), None);
    }
}
