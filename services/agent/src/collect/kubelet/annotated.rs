//! The pods of the node that ask to be scraped, by the annotations that Prometheus's own examples use:
//! `prometheus.io/scrape: "true"`, and perhaps `prometheus.io/port`, `prometheus.io/path` and `prometheus.io/scheme`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::{Client, KubeletAddress, KubeletError};
use super::namespaces::Namespaces;
use super::splitter::Splitter;

/// Without an annotation, and without a port that a container declares.
const DEFAULT_PORT: u16 = 80;

/// The longest path. Kubernetes takes 256 KiB, and a target is kept as long as its pod runs.
const MAX_PATH_BYTES: usize = 1024;

/// How much of an annotation is shown, in characters.
const MAX_SHOWN_CHARS: usize = 100;

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

/// A running pod that asks to be scraped and cannot be, because of its annotations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnusablePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The pods that ask to be scraped, sorted.
#[derive(Debug, Default)]
pub struct PodList {
    /// Those that can be.
    pub pods: Vec<AnnotatedPod>,
    /// The others.
    pub unusable: Vec<UnusablePod>,
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

    /// The pods of these namespaces.
    pub async fn list(&mut self, namespaces: &Namespaces) -> Result<PodList, KubeletError> {
        let (mut splitter, mut list) = (Splitter::default(), PodList::default());
        let mut found = |member: &str, object: &[u8]| {
            if member != "items" {
                return;
            }
            match parse(object) {
                Some(Ok(pod)) if namespaces.allow(&pod.namespace) => list.pods.push(pod),
                Some(Err(pod)) if namespaces.allow(&pod.namespace) => list.unusable.push(pod),
                _ => {}
            }
        };
        self.client.get(super::PODS, |piece| Ok(splitter.read(piece, &mut found)?)).await?;
        splitter.finish()?;
        list.pods.sort();
        list.unusable.sort();
        Ok(list)
    }
}

/// A running pod that asks to be scraped; None for any other.
pub(super) fn parse(object: &[u8]) -> Option<Result<AnnotatedPod, UnusablePod>> {
    let pod: Pod = serde_json::from_slice(object).ok()?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let annotation =
        |name: &str| annotations.get(&format!("prometheus.io/{name}")).map(|value| value.trim()).filter(|value| !value.is_empty());
    if annotation("scrape") != Some("true") || pod.status.phase != "Running" {
        return None;
    }
    let mut ports = pod.spec.containers.iter().flatten().flat_map(|container| container.ports.iter().flatten());
    let declared = ports.find(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP").map(|port| port.container_port);
    let ip = pod.status.pod_ip.filter(|ip| !ip.is_empty())?;
    let endpoint = || -> Result<(u16, &'static str, String), String> {
        // A port that is no number cannot be scraped; guessing another would show another program's metrics.
        let port = match annotation("port") {
            Some(port) => {
                port.parse::<u16>().map_err(|_| format!("prometheus.io/port is {}: it has to be one number up to 65535", shown(port)))?
            }
            None => declared.unwrap_or(DEFAULT_PORT),
        };
        let scheme = match annotation("scheme").unwrap_or("http") {
            scheme if scheme.eq_ignore_ascii_case("http") => "http",
            scheme if scheme.eq_ignore_ascii_case("https") => "https",
            scheme => return Err(format!("prometheus.io/scheme is {}: it has to be http or https", shown(scheme))),
        };
        let path = annotation("path").unwrap_or("/metrics");
        if path.len() > MAX_PATH_BYTES {
            return Err(format!("prometheus.io/path has {} bytes: it may have {MAX_PATH_BYTES}", path.len()));
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok((port, scheme, format!("{slash}{path}")))
    };
    let endpoint = endpoint();
    let (namespace, name) = (pod.metadata.namespace, pod.metadata.name);
    Some(match endpoint {
        Ok((port, scheme, path)) => Ok(AnnotatedPod { namespace, name, ip, port, scheme, path }),
        Err(reason) => Err(UnusablePod { namespace, name, reason }),
    })
}

/// The beginning of an annotation, quoted.
fn shown(value: &str) -> String {
    format!("{:?}", value.chars().take(MAX_SHOWN_CHARS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: &str, rest: &str) -> Option<AnnotatedPod> {
        parsed(annotations, rest)?.ok()
    }

    fn parsed(annotations: &str, rest: &str) -> Option<Result<AnnotatedPod, UnusablePod>> {
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
    fn a_pod_that_asks_in_vain_has_a_reason() {
        let long = "x".repeat(MAX_PATH_BYTES + 1);
        let many = "9,".repeat(1000);
        for (name, value, words) in [
            ("port", "metrics", "prometheus.io/port is \"metrics\": it has to be one number"),
            ("port", "8080,9090", "prometheus.io/port is \"8080,9090\""),
            ("port", many.as_str(), "prometheus.io/port is \"9,9,"),
            ("scheme", "file", "prometheus.io/scheme is \"file\": it has to be http or https"),
            ("path", long.as_str(), "prometheus.io/path has 1025 bytes"),
        ] {
            let annotations = format!(r#"{{"prometheus.io/scrape":"true","prometheus.io/{name}":"{value}"}}"#);
            let unusable = parsed(&annotations, "").unwrap().unwrap_err();
            assert_eq!((unusable.namespace.as_str(), unusable.name.as_str()), ("shop", "app-1"));
            assert!(unusable.reason.contains(words) && unusable.reason.len() < 200, "{unusable:?}");
        }
        assert_eq!(pod(r#"{"prometheus.io/scrape":"true","prometheus.io/scheme":"HTTPS"}"#, "").unwrap().scheme, "https");
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
