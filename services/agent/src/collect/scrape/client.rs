//! Gets the answers of targets within limits of time and memory.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use golectra_process::install_crypto;
use golectra_protocol::exposition::Format;
use golectra_protocol::gzip::{self, UnpackError};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Response, Url, redirect};
use rustls::ClientConfig;
use rustls::crypto::ring;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ScrapeError, excerpt, location_for_log};
use super::target::TargetKind;
use crate::collect::kubelet::{authorities, read_small, send_idempotent, tls_error};
use crate::sender::with_causes;

/// What Prometheus accepts, without protobuf.
const ACCEPT_EXPOSITION: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// Tells a target how long the answer may take, in seconds.
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";

/// Answers that are in memory at the same time may take this many times the longest answer together.
const ANSWERS_IN_MEMORY: usize = 4;

/// A connection is kept for the next scrapes, unless the target closes it.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

/// Memory is reserved in steps of this many bytes.
const STEP_BYTES: usize = 16 << 10;

/// Why there is no client for scraping.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeClientError {
    /// The HTTP client could not be made.
    #[error("{}", with_causes(.0))]
    Http(#[from] reqwest::Error),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// How many names of targets are looked up at once: a name that does not resolve keeps a helper thread for ten seconds and more, and the server's name
/// and the spool need helper threads too.
const LOOKUPS: usize = 2;

/// Looks up the names of targets.
#[derive(Debug)]
struct FewLookups(Arc<Semaphore>);

impl Default for FewLookups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }
}

impl Resolve for FewLookups {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = Arc::clone(&self.0);
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            let look_up = move || {
                let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
                // Not before: a lookup goes on when nobody waits for it any more.
                drop(permit);
                found
            };
            let found = tokio::task::spawn_blocking(look_up).await??;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Gets answers.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    body_bytes: usize,
    timeout: Duration,
    roots: Roots,
    memory: AnswerMemory,
}

/// The memory that answers may take together.
#[derive(Debug, Clone)]
struct AnswerMemory {
    /// What all share, in steps.
    shared: Arc<Semaphore>,
    /// Room for one answer of any length, packed and unpacked. Answers that hold a part of what is shared while they wait for more
    /// can't all wait for each other: one of them gets this and ends.
    last: Arc<Semaphore>,
}

impl AnswerMemory {
    fn new(body_bytes: usize) -> Self {
        let steps = (body_bytes * (ANSWERS_IN_MEMORY - 1)).div_ceil(STEP_BYTES);
        Self { shared: Arc::new(Semaphore::new(steps)), last: Arc::new(Semaphore::new(1)) }
    }
}

/// The authorities that may have signed the certificates of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// None: no target uses TLS.
    None,
    /// Those of the system.
    System,
    /// Those of `SCRAPE_CA_FILE`, in PEM.
    File(Vec<u8>),
}

/// What a target is asked with, or why that cannot be read.
pub(super) type Token = Result<HeaderValue, (String, String)>;

/// The token in a file, which is read anew for each round: what made it may replace it.
pub(super) fn read_token(path: &Path) -> Token {
    let failed = |error: io::Error| (path.display().to_string(), error.to_string());
    let token = read_small(path).map_err(failed)?;
    let token = token.trim_ascii();
    let header = if token.is_empty() { None } else { HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok() };
    let mut header = header.ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidData, "it is not a token")))?;
    header.set_sensitive(true);
    Ok(header)
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// None for an answer that is no exposition.
    pub(super) format: Option<Format>,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    _memory: Option<Memory>,
}

#[cfg(fuzzing)]
impl Answer {
    /// An answer that no target gave.
    pub(super) fn of(body: Vec<u8>, format: Option<Format>) -> Self {
        Self { format, content_type: String::new(), body, _memory: None }
    }
}

/// Memory that an answer has reserved.
#[derive(Debug)]
struct Memory {
    of: AnswerMemory,
    permit: Option<OwnedSemaphorePermit>,
    /// Held by the answer that has the room for any length.
    last: Option<OwnedSemaphorePermit>,
}

impl Memory {
    fn steps(bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(STEP_BYTES)).unwrap_or(u32::MAX)
    }

    fn held_bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, |permit| permit.num_permits() * STEP_BYTES)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// Waits for memory for this many bytes in total; the scrape's time limit ends the wait.
    async fn reserve(&mut self, bytes: usize) -> Result<(), ScrapeError> {
        let Some(more) = self.missing_steps(bytes) else { return Ok(()) };
        tokio::select! {
            biased;
            permit = Arc::clone(&self.of.shared).acquire_many_owned(more) => self.add(permit.map_err(|_| ScrapeError::NoMemory)?),
            permit = Arc::clone(&self.of.last).acquire_owned() => self.last = Some(permit.map_err(|_| ScrapeError::NoMemory)?),
        }
        Ok(())
    }

    /// Reserves memory for this many bytes in total if it is there now.
    fn try_reserve(&mut self, bytes: usize) -> bool {
        let Some(more) = self.missing_steps(bytes) else { return true };
        let permit = Arc::clone(&self.of.shared).try_acquire_many_owned(more);
        permit.map(|permit| self.add(permit)).is_ok()
    }

    /// What has to be reserved for this many bytes in total; None if that is there.
    fn missing_steps(&self, bytes: usize) -> Option<u32> {
        let missing = bytes.saturating_sub(self.held_bytes());
        (missing > 0 && self.last.is_none()).then(|| Self::steps(missing))
    }
}

impl Client {
    /// A client. The system's certificates are loaded only if a target uses TLS, because they take memory.
    pub(super) fn new(body_bytes: usize, timeout: Duration, roots: Roots) -> Result<Self, ScrapeClientError> {
        install_crypto();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("golectra-agent/", env!("CARGO_PKG_VERSION")))
            // A target must not make the agent read something else in its name.
            .redirect(redirect::Policy::none())
            .timeout(timeout)
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(1)
            // Targets are near; Prometheus does not use a proxy by default either.
            .no_proxy()
            .dns_resolver(FewLookups::default());
        builder = match &roots {
            Roots::None => builder.tls_certs_only([]),
            Roots::System => builder,
            Roots::File(pem) => {
                let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
                let config = config.with_safe_default_protocol_versions()?.with_root_certificates(authorities(pem));
                builder.tls_backend_preconfigured(config.with_no_client_auth())
            }
        };
        Ok(Self { http: builder.build()?, body_bytes, timeout, roots, memory: AnswerMemory::new(body_bytes) })
    }

    /// The authorities that it trusts.
    pub(super) const fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Gets one answer.
    pub(super) async fn get(&self, url: &Url, kind: TargetKind, token: Option<&Token>) -> Result<Answer, ScrapeError> {
        let late = || ScrapeError::Timeout(self.timeout.as_secs_f64());
        tokio::time::timeout(self.timeout, self.get_within(url, kind, token)).await.map_err(|_| late())?
    }

    async fn get_within(&self, url: &Url, kind: TargetKind, token: Option<&Token>) -> Result<Answer, ScrapeError> {
        let accept = match kind {
            TargetKind::Exposition => ACCEPT_EXPOSITION,
            TargetKind::Expvar => "application/json",
        };
        let mut headers = HeaderMap::with_capacity(4);
        if let Some(token) = token {
            let token = token.clone().map_err(|(path, error)| ScrapeError::Token(path, error))?;
            headers.insert(AUTHORIZATION, token);
        }
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if let Ok(seconds) = HeaderValue::from_str(&self.timeout.as_secs_f64().to_string()) {
            headers.insert(HeaderName::from_static(TIMEOUT_HEADER), seconds);
        }
        let request = self.http.get(url.clone()).headers(headers);
        let response = send_idempotent(request).await.map_err(|error| self.failed(error))?;
        let text = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if response.status() != StatusCode::OK {
            let location = text(LOCATION).filter(|_| response.status().is_redirection());
            let location = location.and_then(|location| location_for_log(url, &location));
            return Err(ScrapeError::Status { status: response.status().as_u16(), location });
        }
        let content_type = text(CONTENT_TYPE).unwrap_or_default();
        let format = Format::of_content_type(Some(&content_type));
        let packed = match text(CONTENT_ENCODING).as_deref() {
            None | Some("identity") => false,
            Some(encoding) if encoding.eq_ignore_ascii_case("gzip") => true,
            Some(other) => return Err(ScrapeError::Encoding(excerpt(other))),
        };
        let mut memory = Memory { of: self.memory.clone(), permit: None, last: None };
        let mut body = self.read(response, &mut memory).await?;
        if packed {
            body = self.unpack(&body, &mut memory).await?;
        }
        Ok(Answer { format, content_type: excerpt(&content_type), body, _memory: Some(memory) })
    }

    async fn read(&self, mut response: Response, memory: &mut Memory) -> Result<Vec<u8>, ScrapeError> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.failed(error))? {
            let len = body.len() + piece.len();
            if len > self.body_bytes {
                return Err(ScrapeError::TooLarge(self.body_bytes));
            }
            memory.reserve(len).await?;
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Unpacks an answer that is in memory itself; waits for the memory that this takes.
    async fn unpack(&self, packed: &[u8], memory: &mut Memory) -> Result<Vec<u8>, ScrapeError> {
        // Two lengths are asked for at most: the claimed one, and the measured one where that is longer.
        loop {
            let unpacked = gzip::unpack_within(packed, self.body_bytes, |bytes| memory.try_reserve(packed.len() + bytes));
            match unpacked {
                Ok(body) => return Ok(body),
                Err(UnpackError::Invalid) => return Err(ScrapeError::Gzip),
                Err(UnpackError::TooLarge(limit)) => return Err(ScrapeError::TooLarge(limit)),
                Err(UnpackError::NoRoom(bytes)) => memory.reserve(packed.len() + bytes).await?,
            }
        }
    }

    fn failed(&self, error: reqwest::Error) -> ScrapeError {
        if error.is_timeout() {
            return ScrapeError::Timeout(self.timeout.as_secs_f64());
        }
        // The URL is in the log line already, and may have a secret in its query.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut certificate = None;
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            certificate = certificate.or(tls_error(error));
            cause = error.source();
        }
        match certificate {
            Some(rustls::Error::InvalidCertificate(error)) => ScrapeError::Certificate(error.to_string()),
            _ => ScrapeError::Request(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_that_all_want_more_memory_than_is_left_end_one_after_the_other() {
        let of = AnswerMemory::new(4 * STEP_BYTES);
        let mut answers = JoinSet::new();
        for _ in 0..6 {
            let mut memory = Memory { of: of.clone(), permit: None, last: None };
            memory.reserve(2 * STEP_BYTES).await.unwrap();
            answers.spawn(async move { memory.reserve(4 * STEP_BYTES).await });
        }
        assert_eq!(of.shared.available_permits(), 0);
        let all = tokio::time::timeout(Duration::from_secs(1), answers.join_all()).await.expect("none waits for ever");
        assert!(all.iter().all(Result::is_ok));
        assert_eq!((of.shared.available_permits(), of.last.available_permits()), (12, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn packed_answers_wait_for_the_memory_that_they_unpack_to() {
        let limit = Duration::from_secs(1);
        let client = Arc::new(Client::new(4 * STEP_BYTES, limit, Roots::None).unwrap());
        let packed = gzip::pack("a".repeat(4 * STEP_BYTES).as_bytes());
        let mut answers = JoinSet::new();
        for _ in 0..6 {
            let mut memory = Memory { of: client.memory.clone(), permit: None, last: None };
            memory.reserve(2 * STEP_BYTES).await.unwrap();
            let (client, packed) = (Arc::clone(&client), packed.clone());
            answers.spawn(async move { client.unpack(&packed, &mut memory).await.map(|body| body.len()) });
        }
        assert_eq!(client.memory.shared.available_permits(), 0);
        let all = tokio::time::timeout(limit, answers.join_all()).await.expect("none waits for ever");
        assert!(all.iter().all(|answer| matches!(answer, Ok(len) if *len == 4 * STEP_BYTES)), "{all:?}");
        assert_eq!((client.memory.shared.available_permits(), client.memory.last.available_permits()), (12, 1));
    }
}
