//! The audit webhook: one POST request for each event, signed as Standard Webhooks specifies.

use std::time::Duration;

use async_trait::async_trait;
use golectra_process::trace;
use golectra_protocol::header::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use golectra_protocol::webhook::Secret;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Client, Url};
use tracing::Instrument as _;

use super::{Concurrency, DeliveryError, Sink};
use crate::audit::outbox::Delivery;
use crate::clock::Clock;
use crate::http::client_error::describe;

/// The time limit of one try, from connecting to the end of the answer.
const LIMIT: Duration = Duration::from_secs(5);

/// A delivery gets a second more for every this many bytes. The longest event's limit is still shorter than a lease.
const BYTES_PER_SECOND: usize = 2 << 20;

/// How much of an answer is read so that its connection can be reused. After a longer answer the connection is closed.
const READ_AT_MOST_BYTES: usize = 64 << 10;

/// The longest pause that a receiver can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Why the webhook can't be set up. The address is not shown, because it may contain a password.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is invalid.
    #[error("AUDIT_URL is not an address such as http://audit-sink:8090/: {0}")]
    Url(String),
    /// TLS can't be set up.
    #[error("the audit webhook's HTTP client can't be set up: {0}")]
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
            .pool_idle_timeout(Duration::from_mins(1))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("golectra-server/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| WebhookError::Client(describe(error)))?;
        Ok(Self { client, url, secret, clock })
    }

    fn headers(&self, delivery: &Delivery, body: &[u8]) -> HeaderMap {
        let now = self.clock.unix_seconds();
        let id = delivery.id.to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now));
        let signature = self.secret.as_ref().map(|secret| secret.sign(&id, now, body));
        let texts = [(WEBHOOK_ID, Some(id)), (WEBHOOK_SIGNATURE, signature), ("traceparent", delivery.traceparent.clone())];
        for (name, text) in texts {
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        // With tracing each try has a span of its own, between those of the write and of the receiver.
        trace::inject(&mut headers);
        headers
    }

    async fn post(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        let body = delivery.content.json();
        let request = self.client.post(self.url.clone()).headers(self.headers(delivery, &body)).timeout(time_limit(body.len()));
        let mut answer = request.body(body).send().await.map_err(delivery_error)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut left = READ_AT_MOST_BYTES;
        while let Ok(Some(chunk)) = answer.chunk().await {
            let Some(rest) = left.checked_sub(chunk.len()) else { break };
            left = rest;
        }
        result_of(status, &headers)
    }
}

fn time_limit(body_bytes: usize) -> Duration {
    LIMIT + Duration::from_secs((body_bytes / BYTES_PER_SECOND) as u64)
}

#[async_trait]
impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn concurrency(&self) -> Concurrency {
        Concurrency { batch: 1, calls: 8 }
    }

    async fn deliver(&self, batch: &[Delivery]) -> Result<(), DeliveryError> {
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

/// Interprets an answer's status.
fn result_of(status: StatusCode, headers: &HeaderMap) -> Result<(), DeliveryError> {
    if status.is_success() {
        return Ok(());
    }
    let reason = format!("the audit webhook answered {status}");
    Err(match status {
        // The cause is the address, the key or the load and not the event, which is kept until that is fixed.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => DeliveryError::Failed { reason, retry_after: retry_after(headers) },
        _ if status.is_client_error() => DeliveryError::Refused { reason },
        _ => DeliveryError::Failed { reason, retry_after: retry_after(headers) },
    })
}

/// The header's number of seconds. If it is a date instead, the usual pause applies.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

fn delivery_error(error: reqwest::Error) -> DeliveryError {
    let (connect, timeout) = (error.is_connect(), error.is_timeout());
    let reason = describe(error);
    if connect {
        return DeliveryError::Down { reason: format!("the audit webhook can't be reached: {reason}") };
    }
    let what = if timeout { "did not answer in time" } else { "closed the connection" };
    DeliveryError::Failed { reason: format!("the audit webhook {what}: {reason}"), retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, retry_after: &'static str) -> Result<(), DeliveryError> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
        result_of(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn only_2xx_is_success_and_only_errors_about_the_event_are_final() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(answered(status, ""), Ok(()), "{status}");
        }
        for status in [301, 302, 307, 308, 401, 403, 404, 405, 408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(answered(status, ""), Err(DeliveryError::Failed { retry_after: None, .. })), "{status}");
        }
        for status in [400, 402, 406, 409, 410, 413, 415, 422] {
            assert!(matches!(answered(status, ""), Err(DeliveryError::Refused { .. })), "{status}");
        }
    }

    #[test]
    fn the_longest_delivery_ends_within_its_lease() {
        assert_eq!(time_limit(1000), LIMIT);
        let longest = time_limit(golectra_protocol::audit::MAX_EVENT_BYTES);
        assert_eq!(longest, LIMIT + Duration::from_secs(8));
        assert!(longest < crate::audit::delivery::LEASE_MARGIN && crate::audit::delivery::LEASE_MARGIN < crate::audit::outbox::LEASE);
    }

    #[test]
    fn retry_after_is_in_seconds_and_is_bounded() {
        let asked = |text| match answered(503, text) {
            Err(DeliveryError::Failed { retry_after, .. }) => retry_after.map(|after| after.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("86400"), Some(3600));
        assert_eq!(asked("-1"), None);
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn a_malformed_address_is_not_shown() {
        for url in ["audit-sink:8090", "ftp://me:secret@host/", "http://", "/events", "http://me:secret@ho st/"] {
            let error = Webhook::new(url, None, Clock::default()).unwrap_err().to_string();
            assert!(error.starts_with("AUDIT_URL is not an address") && !error.contains("secret"), "{url}: {error}");
        }
    }
}
