//! Sends one notification to one receiver.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use golectra_protocol::header::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use golectra_protocol::webhook::Secret;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Url};
use serde_json::Value;

use super::file::checked;
use super::{Access, Address, Receiver, Repeat, Target, email, payload};
use crate::alerts::notification::Notification;
use crate::alerts::store::LONGEST_PAUSE;
use crate::clock::Clock;
use crate::http::client_error::{describe, is_away};

/// The time limit of one try, from connecting to the end of the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// The time limit of connecting, so that a try which takes longer has a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer is read.
const READ_AT_MOST_BYTES: usize = 64 << 10;
/// The largest secret.
const MAX_SECRET_BYTES: u64 = 16 << 10;

/// Why a notification was not delivered. Addresses are not shown: they may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// It may succeed later.
    #[error("{reason}")]
    Failed {
        /// What went wrong.
        reason: String,
        /// How long to wait, where the receiver says so.
        retry_after: Option<Duration>,
    },
    /// The receiver was reached and could not take this notification: it answered with an error of its own, or not in time. It may succeed later, and the
    /// cause may be the notification.
    #[error("{reason}")]
    Broken {
        /// What went wrong.
        reason: String,
        /// How long to wait, where the receiver says so.
        retry_after: Option<Duration>,
    },
    /// The receiver does not want this notification.
    #[error("{reason}")]
    Refused {
        /// What it answered.
        reason: String,
    },
}

/// A client whose requests are bounded and go where they are told to.
pub fn http_client() -> Result<Client, String> {
    golectra_process::install_crypto();
    let builder = Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(LIMIT)
        .pool_idle_timeout(Duration::from_mins(1))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("golectra-server/", env!("CARGO_PKG_VERSION")));
    builder.build().map_err(|error| error.without_url().to_string())
}

pub(super) fn failed(reason: String) -> DeliveryError {
    DeliveryError::Failed { reason, retry_after: None }
}

/// Sends to one receiver, with connections of its own.
#[derive(Clone)]
pub struct Sender {
    receiver: Receiver,
    client: Client,
    clock: Clock,
}

impl Sender {
    /// For this receiver.
    pub fn new(receiver: Receiver, clock: Clock) -> Result<Self, String> {
        Ok(Self { receiver, client: http_client()?, clock })
    }

    /// Whether the receiver is soon told again of what it does not take: an Alertmanager, each minute.
    pub fn tells_again(&self) -> bool {
        self.receiver.repeat == Repeat::Alertmanager
    }

    /// Tries once.
    pub async fn send(&self, notification: &Notification) -> Result<(), DeliveryError> {
        if let Target::Email(to) = &self.receiver.target {
            return email::send(to, notification).await;
        }
        let (url, body, headers) = self.request(notification)?;
        let request = self.client.post(url).headers(headers).body(body);
        let mut answer = request.send().await.map_err(|error| {
            let was_reached = error.is_timeout() && !error.is_connect();
            let reason = describe(error);
            if was_reached { DeliveryError::Broken { reason, retry_after: None } } else { failed(reason) }
        })?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut left = READ_AT_MOST_BYTES;
        while let Ok(Some(chunk)) = answer.chunk().await {
            let Some(rest) = left.checked_sub(chunk.len()) else { break };
            left = rest;
        }
        result_of(status, &headers)
    }

    fn request(&self, notification: &Notification) -> Result<(Url, Vec<u8>, HeaderMap), DeliveryError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let bytes = |value: &Value| serde_json::to_vec(value).expect("texts in memory can be written");
        let (url, body) = match &self.receiver.target {
            Target::Alertmanager { url, access } => {
                authorize(&mut headers, access)?;
                let mut url = address(url)?;
                let path = format!("{}/api/v2/alerts", url.path().trim_end_matches('/'));
                url.set_path(&path);
                (url, bytes(&payload::alertmanager(notification)))
            }
            Target::Webhook { url, key_file, access } => {
                authorize(&mut headers, access)?;
                let body = bytes(&payload::webhook(notification));
                self.sign(&mut headers, notification, key_file.as_deref(), &body)?;
                (address(url)?, body)
            }
            Target::Slack { url } => (address(url)?, bytes(&payload::slack(notification))),
            Target::Ntfy { url, access } => {
                authorize(&mut headers, access)?;
                let mut url = address(url)?;
                let path = url.path().trim_matches('/').to_owned();
                let (folder, topic) = path.rsplit_once('/').unwrap_or(("", &path));
                if topic.is_empty() {
                    return Err(failed("the address of ntfy does not end in a topic".to_owned()));
                }
                let now_ms = i64::try_from(self.clock.unix_millis()).unwrap_or(i64::MAX);
                let body = bytes(&payload::ntfy(notification, topic, now_ms));
                url.set_path(&format!("/{folder}"));
                (url, body)
            }
            Target::Email(_) => return Err(failed("mail is not sent over HTTP".to_owned())),
        };
        Ok((url, body, headers))
    }

    /// As Standard Webhooks has it: an id that is the same on every try, the time, and a signature where there is a key.
    fn sign(
        &self,
        headers: &mut HeaderMap,
        notification: &Notification,
        key_file: Option<&Path>,
        body: &[u8],
    ) -> Result<(), DeliveryError> {
        let (id, now) = (notification.id.to_string(), self.clock.unix_seconds());
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now));
        let secret = key_file.map(secret).transpose()?;
        let secret = secret.map(|text| Secret::parse(&text).map_err(|error| failed(format!("the key_file: {error}")))).transpose()?;
        let signature = secret.map(|secret| secret.sign(&id, now, body));
        for (name, text) in [(WEBHOOK_ID, Some(id)), (WEBHOOK_SIGNATURE, signature)] {
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        Ok(())
    }
}

fn authorize(headers: &mut HeaderMap, access: &Access) -> Result<(), DeliveryError> {
    use base64::Engine as _;
    let text = match access {
        Access::Open => return Ok(()),
        Access::Token(file) => format!("Bearer {}", secret(file)?),
        Access::Password(user, file) => {
            let pair = format!("{user}:{}", secret(file)?);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        }
    };
    let mut value =
        HeaderValue::try_from(text).map_err(|_| failed("the token or password has characters that no header may have".to_owned()))?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    Ok(())
}

fn address(address: &Address) -> Result<Url, DeliveryError> {
    let text = match address {
        Address::Plain(url) => url.clone(),
        Address::File(file) => secret(file)?,
    };
    checked(&text).map_err(failed)?;
    Url::parse(&text).map_err(|error| failed(format!("the url is no address: {error}")))
}

/// The content of a file without the white space at its end. It is read each time, so that secrets can be changed without a restart.
pub(super) fn secret(path: &Path) -> Result<String, DeliveryError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_SECRET_BYTES).read_to_string(&mut text));
    read.map_err(|error| failed(format!("{} can't be read: {error}", path.display())))?;
    let text = text.trim_end();
    if text.is_empty() { Err(failed(format!("{} is empty", path.display()))) } else { Ok(text.to_owned()) }
}

fn result_of(status: StatusCode, headers: &HeaderMap) -> Result<(), DeliveryError> {
    if status.is_success() {
        return Ok(());
    }
    let reason = format!("the receiver answered {status}");
    Err(match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            DeliveryError::Refused { reason }
        }
        // Of an error of its own the notification may be the cause, unless it is away.
        _ if status.is_server_error() && !is_away(status) => DeliveryError::Broken { reason, retry_after: retry_after(headers) },
        // The cause is the address, the secret or the load, and may be mended.
        _ => DeliveryError::Failed { reason, retry_after: retry_after(headers) },
    })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}
