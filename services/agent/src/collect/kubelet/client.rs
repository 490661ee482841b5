//! Requests to the kubelet of the node.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use golectra_process::install_crypto;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, StatusCode};
use reqwest::{RequestBuilder, Response, Url, redirect};

use super::splitter::SplitError;
use super::tls::{self, Certificate, LastCertificate, Policy};
use crate::sender::with_causes;

/// From the start of a request to the last byte of its answer. A kubelet may measure while it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// From the start to an open connection, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The longest answer that is read. It is not held in memory.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How much of a refusal is read, for the log.
const MAX_REFUSAL_BYTES: usize = 1 << 10;

/// The largest file of a token or of authorities.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Whether a kubelet's certificate has to be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Where it can be, and where it cannot it is accepted from the node's own address.
    Auto,
    /// Always.
    Verify,
}

/// Why the kubelet told nothing. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The pod's token cannot be read.
    #[error("the token {path} cannot be read: {error}; KUBELET_TOKEN_FILE has to be the file of the service account's token volume")]
    Token {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The client cannot be made.
    #[error("the HTTP client could not be created: {0}")]
    Client(String),
    /// Its certificate is not accepted.
    #[error(
        "the kubelet's certificate is not accepted: {0}; set KUBELET_CA_FILE to the authority that signed it, or KUBELET_TLS=auto and HOST_IP to this node's address"
    )]
    Certificate(String),
    /// It cannot be reached.
    #[error("the kubelet cannot be reached: {0}; check KUBELET_URL and that the network policy lets the agent reach it")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the kubelet did not answer within {} s; look at its log, and at what loads the node", ANSWER_LIMIT.as_secs())]
    Timeout,
    /// It does not know the agent.
    #[error(
        "the kubelet does not accept the agent's token (401): {0}; KUBELET_TOKEN_FILE has to be a token of this cluster, which is sent over https alone, and the kubelet needs --authentication-token-webhook"
    )]
    Unauthenticated(String),
    /// The agent may not read this.
    #[error("the kubelet denies {path} (403): {text}; the agent's ClusterRole must allow `get` on {resource}")]
    Denied {
        /// What was asked for.
        path: &'static str,
        /// What the kubelet says.
        text: String,
        /// What has to be allowed.
        resource: &'static str,
    },
    /// It has nothing at this path.
    #[error("the kubelet has no {0} (404): it is too old, or it is not a kubelet; check KUBELET_URL")]
    NotFound(&'static str),
    /// It answered with another status.
    #[error("the kubelet answered with status {0}: {1}; look at its log")]
    Status(u16, String),
    /// The connection ended within the answer.
    #[error("the kubelet's answer was cut off: {0}; look at its log")]
    Cut(String),
    /// The answer is too long.
    #[error("the kubelet's answer is longer than {} MiB", MAX_ANSWER_BYTES >> 20)]
    TooLarge,
    /// The answer is not what a kubelet answers.
    #[error("the kubelet's answer cannot be read: {0}; check that KUBELET_URL leads to a kubelet")]
    Invalid(String),
}

impl KubeletError {
    /// The value of the label `reason`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Client(_) => "client",
            Self::Certificate(_) => "certificate",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Denied { .. } => "denied",
            Self::NotFound(_) => "not_found",
            Self::Status(..) => "status",
            Self::Cut(_) => "cut",
            Self::TooLarge => "too_large",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl From<SplitError> for KubeletError {
    fn from(error: SplitError) -> Self {
        match error {
            SplitError::CutOff => Self::Cut(error.to_string()),
            SplitError::NotAnObject | SplitError::TooLarge => Self::Invalid(error.to_string()),
        }
    }
}

/// Something that the kubelet can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    /// What a ClusterRole has to allow.
    pub(super) resource: &'static str,
    pub(super) accept: &'static str,
}

/// Where the kubelet is and how the agent proves who it is.
#[derive(Debug, Clone)]
pub struct KubeletAddress {
    /// Such as `https://10.0.0.1:10250`.
    pub url: Url,
    /// The node's own address.
    pub host_ip: Option<IpAddr>,
    /// The node's name.
    pub node_name: Option<String>,
    /// Whether its certificate has to be verified.
    pub tls: TlsMode,
    /// The authorities that may have signed it, in PEM.
    pub ca_file: PathBuf,
    /// The token of the agent's service account, for an https URL.
    pub token_file: PathBuf,
}

impl KubeletAddress {
    /// Whether the kubelet is asked with TLS. Without, everybody on the way could read the token, so it is not sent.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether the URL leads to the node's own address.
    pub fn is_own_node(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host.is_ok_and(|host| Some(host.to_canonical()) == self.host_ip.map(|own| own.to_canonical()))
    }
}

/// Asks one kubelet.
pub(super) struct Client {
    address: KubeletAddress,
    last_certificate: LastCertificate,
    http: Option<(Vec<u8>, reqwest::Client)>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.address.url.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(address: KubeletAddress) -> Self {
        Self { address, last_certificate: LastCertificate::default(), http: None }
    }

    /// What the newest connection showed of the kubelet's certificate.
    pub(super) fn certificate(&self) -> Certificate {
        self.last_certificate.get()
    }

    pub(super) fn address(&self) -> &KubeletAddress {
        &self.address
    }

    /// Asks for something; `read` gets the answer in pieces.
    pub(super) async fn get(
        &mut self,
        endpoint: Endpoint,
        read: impl FnMut(&[u8]) -> Result<(), KubeletError>,
    ) -> Result<(), KubeletError> {
        tokio::time::timeout(ANSWER_LIMIT, self.get_unlimited(endpoint, read)).await.unwrap_or(Err(KubeletError::Timeout))
    }

    async fn get_unlimited(
        &mut self,
        endpoint: Endpoint,
        mut read: impl FnMut(&[u8]) -> Result<(), KubeletError>,
    ) -> Result<(), KubeletError> {
        let token = if self.address.is_https() { Some(self.token()?) } else { None };
        let http = self.http()?;
        let mut url = self.address.url.clone();
        url.set_path(&format!("{}{}", url.path().trim_end_matches('/'), endpoint.path));
        let mut request = http.get(url).header(ACCEPT, HeaderValue::from_static(endpoint.accept));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let mut answer = send_idempotent(request).await.map_err(|error| failed(&error))?;
        if answer.status() != StatusCode::OK {
            let mut text = Vec::new();
            while let Ok(Some(piece)) = answer.chunk().await {
                text.extend_from_slice(&piece[..piece.len().min(MAX_REFUSAL_BYTES - text.len())]);
                if text.len() >= MAX_REFUSAL_BYTES {
                    break;
                }
            }
            return Err(refused(endpoint, answer.status(), &text));
        }
        let mut bytes = 0;
        while let Some(piece) = answer.chunk().await.map_err(|error| failed(&error))? {
            bytes += piece.len();
            if bytes > MAX_ANSWER_BYTES {
                return Err(KubeletError::TooLarge);
            }
            read(&piece)?;
        }
        Ok(())
    }

    /// The token is read for each request: the kubelet replaces its file before it expires.
    fn token(&self) -> Result<HeaderValue, KubeletError> {
        let path = &self.address.token_file;
        let unreadable = |error| KubeletError::Token { path: path.clone(), error };
        let token = read_small(path).map_err(unreadable)?;
        let mut header = HeaderValue::from_bytes(&[b"Bearer ", token.trim_ascii()].concat())
            .map_err(|_| unreadable(io::Error::new(io::ErrorKind::InvalidData, "it is not a token")))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// The client, made anew when the authorities have changed.
    fn http(&mut self) -> Result<reqwest::Client, KubeletError> {
        // Without the file no certificate can be verified, which is what the error says then.
        let pem = read_small(&self.address.ca_file).unwrap_or_default();
        if let Some((known, http)) = &self.http
            && *known == pem
        {
            return Ok(http.clone());
        }
        let http = self.build(&pem)?;
        self.http = Some((pem, http.clone()));
        Ok(http)
    }

    fn build(&self, pem: &[u8]) -> Result<reqwest::Client, KubeletError> {
        install_crypto();
        let policy = Policy {
            accept_own_node: self.address.tls == TlsMode::Auto && self.address.is_own_node(),
            node_name: self.address.node_name.clone(),
        };
        let config = tls::client_config(tls::authorities(pem), &policy, self.last_certificate.clone())
            .map_err(|error| KubeletError::Client(error.to_string()))?;
        reqwest::Client::builder()
            .user_agent(concat!("golectra-agent/", env!("CARGO_PKG_VERSION")))
            // The token is for the kubelet alone.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_LIMIT)
            .pool_max_idle_per_host(1)
            .tcp_nodelay(true)
            .tls_backend_preconfigured(config)
            .build()
            .map_err(|error| KubeletError::Client(with_causes(&error)))
    }
}

/// Sends a request that changes nothing, and once more where the connection ended without an answer: one that is kept from an
/// earlier answer may be closed just then. The caller limits the time of both.
pub(in crate::collect) async fn send_idempotent(request: RequestBuilder) -> reqwest::Result<Response> {
    let again = request.try_clone();
    match (request.send().await, again) {
        (Err(error), Some(again)) if error.is_request() && !error.is_connect() && !error.is_timeout() => again.send().await,
        (sent, _) => sent,
    }
}

/// A small file: a token, or authorities.
pub(in crate::collect) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

fn refused(endpoint: Endpoint, status: StatusCode, text: &[u8]) -> KubeletError {
    let text = String::from_utf8_lossy(text);
    let text: String = text.trim().chars().take(300).flat_map(char::escape_default).collect();
    match status {
        StatusCode::UNAUTHORIZED => KubeletError::Unauthenticated(text),
        StatusCode::FORBIDDEN => KubeletError::Denied { path: endpoint.path, text, resource: endpoint.resource },
        StatusCode::NOT_FOUND => KubeletError::NotFound(endpoint.path),
        _ => KubeletError::Status(status.as_u16(), text),
    }
}

/// The error of TLS that an error is or contains. An I/O error does not have what it contains among its causes.
pub(in crate::collect) fn tls_error(error: &(dyn std::error::Error + 'static)) -> Option<rustls::Error> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(error.clone());
    }
    tls_error(error.downcast_ref::<io::Error>()?.get_ref()?)
}

/// What went wrong, from the causes of an error: the error itself says only that sending failed.
fn failed(error: &reqwest::Error) -> KubeletError {
    let mut text = String::new();
    let mut certificate = None;
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        certificate = certificate.or(tls_error(error));
        cause = error.source();
    }
    match certificate {
        Some(rustls::Error::InvalidCertificate(error)) => KubeletError::Certificate(error.to_string()),
        _ if error.is_connect() => KubeletError::Unreachable(text),
        _ if error.is_timeout() => KubeletError::Timeout,
        _ => KubeletError::Cut(if text.is_empty() { error.to_string() } else { text }),
    }
}
