//! One try: a batch as an HTTP request, and its answer read to the end.

use std::time::Duration;

use golectra_process::{Secret, install_crypto, trace};
use golectra_protocol::{Source, hash, header};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, Url, redirect};
use tracing::Instrument as _;

use super::Signer;
use super::verdict::{self, Retry, Verdict};
use crate::batch::Batch;
use crate::config::Address;

/// From looking up the name to an open connection, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// From the start of a try to the last byte of its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// An idle connection is closed before the server does it, so that a request does not meet a connection that is just closing.
const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// The answer to a report is a line; what is longer comes from someone else.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Sends batches to one server under one source.
pub struct Client {
    http: reqwest::Client,
    url: Url,
    /// As it will stand in the request line.
    target: String,
    source: HeaderValue,
    key: Option<Secret>,
    signer: Signer,
}

impl Client {
    /// A client. TLS and the system's certificates are set up for an https address only: they take more memory than the rest of the agent.
    pub fn new(address: &Address, source: &Source, key: Option<Secret>, signer: Signer) -> reqwest::Result<Self> {
        install_crypto();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("golectra-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            // Every further try is the gate's to allow.
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
        let source = HeaderValue::from_str(source.as_str()).expect("a source has only characters that a header may have");
        let url = address.updates().clone();
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        Ok(Self { http: builder.build()?, url, target, source, key, signer })
    }

    /// Makes one try.
    pub(super) async fn send(&self, batch: &Batch) -> Verdict {
        let span = tracing::info_span!("send", key = %batch.key(), tries = batch.tries());
        async {
            let mut headers = self.headers(batch);
            if let Err(retry) = self.signer.sign(&self.target, batch, &mut headers).await {
                return Verdict::Retry(retry);
            }
            match self.http.post(self.url.clone()).headers(headers).body(batch.body().clone()).send().await {
                Ok(response) => self.judge(response).await,
                Err(error) => Verdict::Retry(failed(&error)),
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

    /// Reads the whole answer: only then is it known that nothing cut it off.
    async fn judge(&self, mut response: Response) -> Verdict {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if body.len() + piece.len() <= MAX_ANSWER_BYTES => body.extend_from_slice(&piece),
                Ok(None) => break,
                // A refusal is one however long its words are.
                Ok(Some(_)) | Err(_) if !response.status().is_success() => break,
                Ok(Some(_)) => {
                    return Verdict::Retry(Retry::unknown("unverified", format!("the answer is longer than {MAX_ANSWER_BYTES} bytes")));
                }
                Err(error) => return Verdict::Retry(failed(&error)),
            }
        }
        let headers = response.headers();
        if !response.status().is_success() {
            let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            return verdict::of_failure(response.status(), &String::from_utf8_lossy(&body), retry_after);
        }
        if let (Some(key), Some(claimed)) = (&self.key, headers.get(header::HASH_SHA256))
            && !hash::verify(&body, key.expose().as_bytes(), claimed.as_bytes())
        {
            let error = "the answer's HashSHA256 is not that of its body; check that KEY is the server's".to_owned();
            return Verdict::Retry(Retry::unknown("unverified", error));
        }
        let replayed = headers.get(header::IDEMPOTENCY_REPLAYED).is_some_and(|value| value == "true");
        Verdict::Acknowledged { replayed }
    }
}

/// A try without an answer, or without all of it.
fn failed(error: &reqwest::Error) -> Retry {
    let text = causes(error);
    if error.is_connect() {
        return Retry::unsent("connect", text);
    }
    Retry::unknown(if error.is_timeout() { "timeout" } else { "cut" }, text)
}

/// An error with its causes, whose first is too general to act upon.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
