//! What the kubelet lets this agent read, in words.

use std::sync::Arc;

use super::client::{Client, Endpoint, read_small};
use super::items::{Items, LabelSets};
use super::splitter::Splitter;
use super::summary::Summary;
use super::{CADVISOR, Certificate, KubeletError, KubeletSettings, PODS, SUMMARY, TlsMode, mounts};

/// The kubelet's own metrics, which tell its version.
const METRICS: Endpoint = Endpoint { path: "/metrics", resource: "nodes/metrics", accept: "text/plain" };

/// How something that the agent may read turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can be read.
    Works,
    /// It was not asked for, or says something about the node.
    Note,
    /// It was asked for and cannot be read.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it turned out.
    pub state: State,
    /// What it is, in one or two words.
    pub subject: &'static str,
    /// What was found, and what to do if it is missing.
    pub text: String,
}

impl Finding {
    /// A finding.
    pub fn new(state: State, subject: &'static str, text: impl Into<String>) -> Self {
        Self { state, subject, text: text.into() }
    }
}

/// Looks at one kubelet.
#[derive(Debug)]
pub struct Check {
    client: Client,
    settings: KubeletSettings,
    findings: Vec<Finding>,
}

impl Check {
    /// Nothing is looked at yet.
    pub fn new(settings: KubeletSettings) -> Self {
        Self { client: Client::new(settings.address.clone()), settings, findings: Vec::new() }
    }

    /// Asks for everything that the settings name.
    pub async fn run(mut self) -> Vec<Finding> {
        self.files();
        let answers = self.summary().await;
        self.certificate();
        self.details(answers).await;
        self.findings
    }

    fn add(&mut self, state: State, subject: &'static str, text: impl Into<String>) {
        self.findings.push(Finding::new(state, subject, text));
    }

    fn files(&mut self) {
        let token = self.settings.address.token_file.clone();
        // What is wrong with it is the error of the first question.
        if self.settings.address.is_https() && read_small(&token).is_ok() {
            self.add(State::Works, "token", format!("{} can be read", token.display()));
        }
        let authorities = self.settings.address.ca_file.clone();
        let state = if self.settings.address.tls == TlsMode::Verify { State::Missing } else { State::Note };
        let advice = "set KUBELET_CA_FILE to the authorities that may have signed the kubelet's certificate";
        match read_small(&authorities).map(|pem| super::tls::authorities(&pem).len()) {
            Ok(0) => self.add(state, "authorities", format!("{} has no certificate in PEM; {advice}", authorities.display())),
            Ok(1) => self.add(State::Works, "authorities", format!("{} has 1 certificate", authorities.display())),
            Ok(count) => self.add(State::Works, "authorities", format!("{} has {count} certificates", authorities.display())),
            Err(error) => self.add(state, "authorities", format!("{} cannot be read: {error}; {advice}", authorities.display())),
        }
    }

    /// Whether there is a kubelet that can be asked for more.
    async fn summary(&mut self) -> bool {
        let (mut items, mut labels, mut splitter) = (Items::default(), LabelSets::default(), Splitter::default());
        let mut summary = Summary::new(self.settings.node_metrics, Arc::clone(&self.settings.filter), mounts::devices());
        let read = |piece: &[u8]| Ok(splitter.read(piece, &mut |member, object| summary.read(member, object, &mut items, &mut labels))?);
        let result = self.client.get(SUMMARY, read).await.and_then(|()| Ok(splitter.finish()?));
        let url = self.settings.address.url.clone();
        match result {
            Ok(()) => {
                let pods = summary.pods;
                self.add(State::Works, "kubelet", format!("{url} tells about {pods} pods"));
                let pressure = if summary.has_pressure {
                    "it tells how long containers were stalled (PSI)"
                } else {
                    "it does not tell how long containers were stalled (PSI): that needs Kubernetes 1.34, cgroup v2 and a kernel with PSI"
                };
                self.add(State::Note, "pressure", pressure);
                true
            }
            Err(error) => {
                self.add(State::Missing, "kubelet", format!("{url}: {error}"));
                matches!(error, KubeletError::Denied { .. })
            }
        }
    }

    fn certificate(&mut self) {
        match self.client.certificate() {
            Certificate::Verified => self.add(State::Works, "certificate", "the kubelet's certificate is verified"),
            Certificate::OfOwnNode => self.add(
                State::Note,
                "certificate",
                "the kubelet's certificate is not signed by a known authority: it is accepted because the address is this node's own \
                 (KUBELET_TLS=auto)",
            ),
            Certificate::Unknown => {}
        }
    }

    async fn details(&mut self, kubelet_answers: bool) {
        if !self.settings.details {
            self.add(
                State::Note,
                "details",
                "not asked for (PODS_DETAILS): throttling, OOM kills, restarts, phases, requests, limits and the kubelet's version stay \
                 invisible",
            );
            return;
        }
        if !kubelet_answers {
            let text =
                "PODS_DETAILS: throttling, OOM kills, restarts, phases, requests and limits are not reported until the kubelet answers";
            return self.add(State::Missing, "details", text);
        }
        let mut version = Version::default();
        let read = |piece: &[u8]| {
            version.read(piece);
            Ok(())
        };
        match self.client.get(METRICS, read).await {
            Ok(()) => {
                let text = version.found.unwrap_or_else(|| "it does not tell its version".to_owned());
                self.add(State::Works, "version", format!("kubelet {text}"));
            }
            Err(error) => self.add(State::Note, "version", format!("the kubelet's version is not known: {error}")),
        }
        for (subject, endpoint, what) in
            [("cadvisor", CADVISOR, "throttling and OOM kills"), ("pods", PODS, "phases, readiness, restarts, requests and limits")]
        {
            match self.ask(endpoint).await {
                Ok(()) => self.add(State::Works, subject, format!("{} can be read: {what}", endpoint.path)),
                Err(error) => self.add(State::Missing, subject, format!("{what} stay invisible: {error}")),
            }
        }
    }

    async fn ask(&mut self, endpoint: Endpoint) -> Result<(), KubeletError> {
        self.client.get(endpoint, |_| Ok(())).await
    }
}

/// Looks for the version in the kubelet's metrics.
#[derive(Debug, Default)]
struct Version {
    line: Vec<u8>,
    found: Option<String>,
}

impl Version {
    /// The longest line that is looked at.
    const MAX_LINE_BYTES: usize = 4 << 10;

    fn read(&mut self, piece: &[u8]) {
        for byte in piece {
            if *byte != b'\n' {
                if self.line.len() < Self::MAX_LINE_BYTES {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line);
            if line.starts_with("kubernetes_build_info{") {
                let version = line.split_once("git_version=\"").and_then(|(_, rest)| rest.split_once('"'));
                self.found = version.map(|(version, _)| version.escape_default().to_string());
            }
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn the_version_is_found_in_any_pieces() {
        let text = b"# TYPE kubernetes_build_info gauge\nkubernetes_build_info{build_date=\"x\",git_version=\"v1.34.1\",minor=\"34\"} 1\nother 1\n";
        for piece_bytes in [1, 10, 1000] {
            let mut version = Version::default();
            text.chunks(piece_bytes).for_each(|piece| version.read(piece));
            assert_eq!(version.found.as_deref(), Some("v1.34.1"));
        }
    }
}
