//! A target and the labels of its series.

use std::borrow::Cow;

use golectra_protocol::{IdError, IdParts, MetricId, Source};
use reqwest::Url;

/// What a label of the target replaces is kept under a name with this before it.
const EXPORTED: &str = "exported_";

/// The path of Go's expvar.
const EXPVAR_PATH: &str = "/debug/vars";

/// What is read at a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetKind {
    /// Prometheus's text format or OpenMetrics.
    Exposition,
    /// The variables of a Go program as JSON.
    Expvar,
}

/// A program that is scraped.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// Where it is scraped.
    pub const fn url(&self) -> &Url {
        &self.url
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
    fn the_labels_of_the_target_replace_those_of_the_series() {
        assert_eq!(labelled("a"), "a{instance=\"h:1\",job=\"j\"}");
        assert_eq!(labelled("a{job=\"x\",z=\"1\"}"), "a{exported_job=\"x\",instance=\"h:1\",job=\"j\",z=\"1\"}");
        assert_eq!(
            labelled("a{exported_job=\"y\",instance=\"i\",job=\"x\"}"),
            "a{exported_exported_job=\"x\",exported_instance=\"i\",exported_job=\"y\",instance=\"h:1\",job=\"j\"}"
        );
    }
}
