//! One try: a batch as an HTTP request, and its answer read to the end.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use golectra_process::{Secret, install_crypto, trace};
use golectra_protocol::{Source, hash, header};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::{Response, Url, redirect};
use tracing::Instrument as _;

use super::Signer;
use super::outcome::{self, Outcome, Retry, RetryReason};
use super::server_clock::ServerClock;
use crate::batch::Batch;
use crate::config::Address;

/// From the name lookup to an open connection, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// From the start of a try to the last byte of its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// An idle connection is closed before the server closes it, so that no request is sent on a connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// golectra answers a report with one line; a longer answer comes from another server.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Sends batches to one server as one source.
pub struct Client {
    http: reqwest::Client,
    url: Url,
    /// The path and query as they are in the request line.
    target: String,
    source: HeaderValue,
    key: Option<Secret>,
    signer: Signer,
    server_clock: ServerClock,
    /// Whether the log says that answers are not signed.
    unsigned_logged: AtomicBool,
}

impl Client {
    /// A client. TLS and the system's certificates are loaded for an https address only, because they take more memory than the rest of the agent.
    pub fn new(address: &Address, source: &Source, key: Option<Secret>, signer: Signer) -> reqwest::Result<Self> {
        install_crypto();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("golectra-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            // Senders decide when to try again.
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(2)
            .tcp_nodelay(true);
        if !address.is_https() {
            builder = builder.tls_certs_only([]);
        }
        if address.is_loopback() {
            builder = builder.no_proxy();
        }
        let source = HeaderValue::from_str(source.as_str()).expect("a source has only characters that are allowed in a header");
        let url = address.updates().clone();
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let (server_clock, unsigned_logged) = (ServerClock::default(), AtomicBool::new(false));
        Ok(Self { http: builder.build()?, url, target, source, key, signer, server_clock, unsigned_logged })
    }

    /// The server's clock, as far as its answers told.
    pub(super) fn server_clock(&self) -> &ServerClock {
        &self.server_clock
    }

    /// What makes the HashSHA256 of reports.
    pub(super) const fn hash_key(&self) -> Option<&Secret> {
        self.key.as_ref()
    }

    /// Makes one try.
    pub(super) async fn send(&self, batch: &Batch) -> Outcome {
        let span = tracing::info_span!("send", key = %batch.key(), tries = batch.attempts().count());
        async {
            let mut headers = self.headers(batch);
            if let Err(retry) = self.signer.sign(&self.target, batch, &mut headers).await {
                return Outcome::Retry(retry);
            }
            match self.http.post(self.url.clone()).headers(headers).body(batch.body().clone()).send().await {
                Ok(response) => self.read(response, batch.items()).await,
                Err(error) => Outcome::Retry(failed(&error)),
            }
        }
        .instrument(span)
        .await
    }

    fn headers(&self, batch: &Batch) -> HeaderMap {
        let ascii = |text: &str| HeaderValue::from_str(text).expect("a key or a hash is ASCII");
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(HeaderName::from_static(header::SOURCE), self.source.clone());
        headers.insert(HeaderName::from_static(header::IDEMPOTENCY_KEY), ascii(&batch.key().to_string()));
        if let Some(hash) = batch.hash() {
            headers.insert(HeaderName::from_static(header::HASH_SHA256), ascii(hash));
        }
        trace::inject(&mut headers);
        headers
    }

    /// Reads the whole answer to a batch of this many items. Only a whole answer can acknowledge the batch.
    async fn read(&self, mut response: Response, items: u64) -> Outcome {
        self.server_clock.observe(response.headers().get(DATE));
        let success = response.status() == StatusCode::OK;
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if body.len() + piece.len() <= MAX_ANSWER_BYTES => body.extend_from_slice(&piece),
                Ok(None) => break,
                // The status of a refusal counts even if its text is long or cut off.
                Ok(Some(_)) | Err(_) if !success => break,
                Ok(Some(_)) => {
                    let error = format!("the answer is longer than {MAX_ANSWER_BYTES} bytes, so it is not golectra's");
                    return Outcome::Retry(Retry::unknown(RetryReason::NotAcknowledged, error));
                }
                Err(error) => return Outcome::Retry(failed(&error)),
            }
        }
        let headers = response.headers();
        let outcome = if success {
            let replayed = headers.get(header::IDEMPOTENCY_REPLAYED).is_some_and(|value| value == "true");
            outcome::of_success(&body, items, replayed)
        } else {
            let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            outcome::of_failure(response.status(), &body, retry_after)
        };
        // An answer that settles the batch has to be the server's own.
        if !matches!(outcome, Outcome::Retry(_)) && !self.is_verified(headers, &body) {
            let error = "the answer's HashSHA256 does not match its body; check that KEY is the server's".to_owned();
            return Outcome::Retry(Retry::unknown(RetryReason::Unverified, error));
        }
        outcome
    }

    /// Whether the hash of an answer is right or absent. A server without the key, one of the original project's or one that
    /// requires signatures does not send it.
    fn is_verified(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let Some(key) = &self.key else { return true };
        let Some(claimed) = headers.get(header::HASH_SHA256) else {
            if !self.unsigned_logged.swap(true, Relaxed) {
                tracing::info!("the server's answers have no HashSHA256: they are accepted without verifying them");
            }
            return true;
        };
        hash::verify(body, key.expose().as_bytes(), claimed.as_bytes())
    }
}

/// A try without a whole answer.
fn failed(error: &reqwest::Error) -> Retry {
    let text = with_causes(error);
    if error.is_connect() {
        return Retry::not_sent(RetryReason::Connect, text);
    }
    Retry::unknown(if error.is_timeout() { RetryReason::Timeout } else { RetryReason::Cut }, text)
}

/// An error with its causes, because the error itself does not say what to do.
pub(crate) fn with_causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.contains("No CA certificates") {
        text.push_str("; install the package ca-certificates, or set SSL_CERT_FILE to a file of authorities in PEM");
    }
    text
}
