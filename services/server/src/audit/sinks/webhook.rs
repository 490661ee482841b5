//! The audit webhook: one POST an event, signed as Standard Webhooks has it.

use std::time::Duration;

use async_trait::async_trait;
use golectra_process::trace;
use golectra_protocol::header::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use golectra_protocol::webhook::Secret;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Client, Url};
use tracing::Instrument as _;

use super::{Fault, Pace, Sink};
use crate::audit::outbox::Delivery;
use crate::clock::Clock;

/// One try, from connecting to the end of the answer.
const LIMIT: Duration = Duration::from_secs(5);

/// As much of an answer is read so that the connection can be used again; a longer one is cut off with its connection.
const READ_AT_MOST_BYTES: usize = 64 << 10;

/// A sink that asks for more patience than this is asked earlier.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Why there is no webhook sink. The address is not shown: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is none.
    #[error("AUDIT_URL is not an address such as http://audit-sink:8090/: {0}")]
    Url(String),
    /// TLS can't be set up.
    #[error("the audit webhook's client can't be made: {0}")]
    Client(String),
}

/// The receiver of a webhook.
#[derive(Debug)]
pub struct Webhook {
    client: Client,
    url: Url,
    secret: Option<Secret>,
    clock: Clock,
}

impl Webhook {
    /// A webhook at this address; its requests are signed when there is a secret.
    pub fn new(url: &str, secret: Option<Secret>, clock: Clock) -> Result<Self, WebhookError> {
        let url = Url::parse(url).map_err(|error| WebhookError::Url(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(WebhookError::Url("it must begin with http:// or https://".to_owned()));
        }
        golectra_process::install_crypto();
        let client = Client::builder()
            .connect_timeout(LIMIT)
            .timeout(LIMIT)
            .pool_idle_timeout(Duration::from_mins(1))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("golectra-server/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| WebhookError::Client(in_words(error)))?;
        Ok(Self { client, url, secret, clock })
    }

    fn headers(&self, delivery: &Delivery) -> HeaderMap {
        let now = self.clock.unix_seconds();
        let id = delivery.id.to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now));
        let signature = self.secret.as_ref().map(|secret| secret.sign(&id, now, &delivery.body));
        let texts = [(WEBHOOK_ID, Some(id)), (WEBHOOK_SIGNATURE, signature), ("traceparent", delivery.traceparent.clone())];
        for (name, text) in texts {
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        // Where traces are on, the try is a span of its own between the write and what the sink does.
        trace::inject(&mut headers);
        headers
    }

    async fn post(&self, delivery: &Delivery) -> Result<(), Fault> {
        let request = self.client.post(self.url.clone()).headers(self.headers(delivery)).body(delivery.body.clone());
        let mut answer = request.send().await.map_err(fault)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut left = READ_AT_MOST_BYTES;
        while let Ok(Some(chunk)) = answer.chunk().await {
            let Some(rest) = left.checked_sub(chunk.len()) else { break };
            left = rest;
        }
        judge(status, &headers)
    }
}

#[async_trait]
impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn pace(&self) -> Pace {
        Pace { batch: 1, at_once: 8 }
    }

    async fn deliver(&self, batch: &[Delivery]) -> Result<(), Fault> {
        for delivery in batch {
            let span = tracing::info_span!("audit webhook", otel.kind = "producer", id = %delivery.id);
            if let Some(traceparent) = &delivery.traceparent {
                trace::set_parent_str(&span, traceparent);
            }
            self.post(delivery).instrument(span).await?;
        }
        Ok(())
    }
}

/// What an answer means.
fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), Fault> {
    if status.is_success() {
        return Ok(());
    }
    let reason = format!("the audit webhook answered {status}");
    Err(match status {
        // These speak of the address, the key or the moment rather than of the event: it waits until someone has mended that.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => Fault::Failed { reason, retry_after: retry_after(headers) },
        _ if status.is_client_error() => Fault::Refused { reason },
        _ => Fault::Failed { reason, retry_after: retry_after(headers) },
    })
}

/// The header's seconds. Its other form, a date, is left to the back-off.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

fn fault(error: reqwest::Error) -> Fault {
    let (connect, timeout) = (error.is_connect(), error.is_timeout());
    let reason = in_words(error);
    if connect {
        return Fault::Down { reason: format!("the audit webhook can't be reached: {reason}") };
    }
    let what = if timeout { "did not answer in time" } else { "broke off" };
    Fault::Failed { reason: format!("the audit webhook {what}: {reason}"), retry_after: None }
}

/// An error and its causes, without the address.
fn in_words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, retry_after: &'static str) -> Result<(), Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
        judge(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn only_2xx_is_success_and_only_what_speaks_of_the_event_is_final() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(verdict(status, ""), Ok(()), "{status}");
        }
        for status in [301, 302, 307, 308, 401, 403, 404, 405, 408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(verdict(status, ""), Err(Fault::Failed { retry_after: None, .. })), "{status}");
        }
        for status in [400, 402, 406, 409, 410, 413, 415, 422] {
            assert!(matches!(verdict(status, ""), Err(Fault::Refused { .. })), "{status}");
        }
    }

    #[test]
    fn retry_after_is_in_seconds_and_has_an_end() {
        let asked = |text| match verdict(503, text) {
            Err(Fault::Failed { retry_after, .. }) => retry_after.map(|after| after.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("86400"), Some(3600));
        assert_eq!(asked("-1"), None);
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn an_address_that_is_none_is_not_shown() {
        for url in ["audit-sink:8090", "ftp://me:secret@host/", "http://", "/events", "http://me:secret@ho st/"] {
            let error = Webhook::new(url, None, Clock::default()).unwrap_err().to_string();
            assert!(error.starts_with("AUDIT_URL is not an address") && !error.contains("secret"), "{url}: {error}");
        }
    }
}
