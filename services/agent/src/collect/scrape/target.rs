//! A target and the labels of its series.

use std::borrow::Cow;

use golectra_protocol::{IdError, IdParts, MetricId, Source};
use reqwest::Url;

use crate::collect::kubelet::AnnotatedPod;

/// What a label of the target replaces is kept under a name with this before it.
const EXPORTED: &str = "exported_";

/// The path of Go's expvar.
const EXPVAR_PATH: &str = "/debug/vars";

/// The job of pods that are found by their annotations, as in Prometheus's own example.
const PODS_JOB: &str = "kubernetes-pods";

/// What is read at a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetKind {
    /// Prometheus's text format or OpenMetrics.
    Exposition,
    /// The variables of a Go program as JSON.
    Expvar,
}

/// A program that is scraped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    url: Url,
    labels: Vec<(&'static str, String)>,
}

impl Target {
    /// A target with the labels `job` and `instance`, the host and port of its URL. Each node's own address, such as localhost, is
    /// written as the node's name, so that targets of different nodes differ.
    pub fn new(url: Url, job: Option<&str>, node: &Source) -> Self {
        let host = if is_loopback(&url) && !node.is_unnamed() { node.as_str() } else { url.host_str().unwrap_or_default() };
        let instance = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        let default_job = if kind(&url) == TargetKind::Expvar { "expvar" } else { "scrape" };
        let labels = vec![("job", job.unwrap_or(default_job).to_owned()), ("instance", instance)];
        Self { url, labels }
    }

    /// The target of a pod, with the labels `namespace` and `pod` in addition. None if the kubelet told no valid address.
    pub fn of_pod(pod: &AnnotatedPod) -> Option<Self> {
        let ip: std::net::IpAddr = pod.ip.parse().ok()?;
        let address = std::net::SocketAddr::new(ip, pod.port).to_string();
        let mut url: Url = format!("{}://{address}/", pod.scheme).parse().ok()?;
        // Set in parts, so that no path can name another host.
        let (path, query) = pod.path.split_once('?').map_or((pod.path.as_str(), None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        let labels =
            vec![("job", PODS_JOB.to_owned()), ("instance", address), ("namespace", pod.namespace.clone()), ("pod", pod.name.clone())];
        Some(Self { url, labels })
    }

    /// Where it is scraped.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Whether it is scraped over TLS.
    pub(super) fn uses_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The URL without its query, which may have a secret.
    pub(super) fn url_for_log(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    /// The label `job`.
    pub fn job(&self) -> &str {
        self.label("job")
    }

    /// The label `instance`.
    pub fn instance(&self) -> &str {
        self.label("instance")
    }

    /// The namespace and the name of a pod.
    pub(super) fn pod(&self) -> String {
        format!("{}/{}", self.label("namespace"), self.label("pod"))
    }

    fn label(&self, key: &str) -> &str {
        self.labels.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
    }

    pub(super) fn kind(&self) -> TargetKind {
        kind(&self.url)
    }

    /// The id of a metric about the target itself.
    pub(super) fn own_id(&self, name: &str) -> Result<MetricId, IdError> {
        MetricId::from_parts(name, self.labels.iter().map(|(key, value)| (*key, value.as_str())))
    }

    /// Gives a series the labels of the target. A label that the series has already is renamed, as with Prometheus's
    /// `honor_labels: false`.
    pub(super) fn label_series(&self, series: &mut IdParts<'_>) {
        let mut replaced = Vec::new();
        for (key, value) in &self.labels {
            let value = Cow::Owned(value.clone());
            match series.labels.iter_mut().find(|(name, _)| name == key) {
                Some(label) => replaced.push((*key, std::mem::replace(&mut label.1, value))),
                None => series.labels.push((Cow::Borrowed(*key), value)),
            }
        }
        replaced.sort_by_key(|(key, _)| key.len());
        for (key, value) in replaced {
            let mut name = format!("{EXPORTED}{key}");
            while series.labels.iter().any(|(other, _)| *other == name) {
                name.insert_str(0, EXPORTED);
            }
            series.labels.push((Cow::Owned(name), value));
        }
    }
}

fn kind(url: &Url) -> TargetKind {
    if url.path().trim_end_matches('/') == EXPVAR_PATH { TargetKind::Expvar } else { TargetKind::Exposition }
}

/// Whether a URL names this host in a way that means another one on another host.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(text: &str) -> String {
        let target = Target::new("http://h:1/metrics".parse().unwrap(), Some("j"), &Source::unnamed());
        let id = MetricId::parse(text).unwrap();
        let mut parts = id.parts();
        target.label_series(&mut parts);
        MetricId::from_parts(&parts.name, parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))).unwrap().to_string()
    }

    #[test]
    fn the_path_of_a_pod_names_no_other_host() {
        let pod = |ip: &str, path: &str| {
            let (namespace, name) = ("shop".to_owned(), "app-1".to_owned());
            Target::of_pod(&AnnotatedPod { namespace, name, ip: ip.into(), port: 80, scheme: "http", path: path.into() })
        };
        for path in ["/metrics", "//evil/", "/@evil/", "/\\evil", "/../..", "/a?b=c"] {
            let target = pod("10.1.0.7", path).unwrap();
            assert_eq!((target.url().host_str(), target.instance()), (Some("10.1.0.7"), "10.1.0.7:80"), "{path}");
        }
        assert_eq!(pod("10.1.0.7", "/a?b=c").unwrap().url().as_str(), "http://10.1.0.7/a?b=c");
        assert_eq!(pod("fd00::7", "/m").unwrap().instance(), "[fd00::7]:80");
        assert_eq!(pod("evil", "/m"), None);
        let labels = pod("10.1.0.7", "/m").unwrap().own_id("up").unwrap();
        assert_eq!(labels.as_str(), "up{instance=\"10.1.0.7:80\",job=\"kubernetes-pods\",namespace=\"shop\",pod=\"app-1\"}");
    }

    #[test]
    fn the_labels_of_the_target_replace_those_of_the_series() {
        assert_eq!(labelled("a"), "a{instance=\"h:1\",job=\"j\"}");
        assert_eq!(labelled("a{job=\"x\",z=\"1\"}"), "a{exported_job=\"x\",instance=\"h:1\",job=\"j\",z=\"1\"}");
        assert_eq!(
            labelled("a{exported_job=\"y\",instance=\"i\",job=\"x\"}"),
            "a{exported_exported_job=\"x\",exported_instance=\"i\",exported_job=\"y\",instance=\"h:1\",job=\"j\"}"
        );
    }
}
