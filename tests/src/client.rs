//! An HTTP client that shows exactly what the server sent: it neither unpacks bodies nor follows redirects.
//!
//! Every answer is checked against the rules for all answers (compression, HashSHA256), whatever the test is about.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use golectra_protocol::{ErrorCode, IdempotencyKey, hash, header, signature};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::overload::{self, resend};

/// The time limit of any answer.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a connection is kept for the next request. It is shorter than any server's idle limit in these tests, since a
/// request on a connection that is just being closed fails.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// The longest pause before a read is sent again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A client of one server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    expects_hashes: bool,
    /// How many reads were sent again, where the client does that.
    late: Option<Arc<AtomicU64>>,
}

impl Client {
    /// A client of the server at this URL; with a key it hashes its bodies and expects hashes on answers.
    pub fn new(base: &str, key: Option<&str>) -> Self {
        // The first caller installs the provider; for later callers it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(LIMIT).pool_idle_timeout(IDLE_LIMIT);
        let http = http.build().expect("a client can be built");
        Self { http, base: base.to_owned(), key: key.map(str::to_owned), expects_hashes: key.is_some(), late: None }
    }

    /// Expects no hash on any answer, as from a server that requires signatures.
    #[must_use]
    pub fn expecting_no_hashes(mut self) -> Self {
        self.expects_hashes = false;
        self
    }

    /// Sends a read that was answered with 503 again, some times, as a busy machine makes a server refuse one.
    #[must_use]
    pub fn patient(mut self) -> Self {
        self.late = Some(Arc::default());
        self
    }

    /// How many reads a patient client and its clones had to send again.
    pub fn late(&self) -> u64 {
        self.late.as_ref().map_or(0, |late| late.load(Ordering::Relaxed))
    }

    /// The client's key.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Starts building a request.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder<'_> {
        RequestBuilder {
            client: self,
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Vec::new(),
            packed: false,
            sign: true,
            signature: None,
        }
    }

    /// Starts building a GET.
    pub fn get(&self, path: &str) -> RequestBuilder<'_> {
        self.request(Method::GET, path)
    }

    /// Starts building a POST.
    pub fn post(&self, path: &str) -> RequestBuilder<'_> {
        self.request(Method::POST, path)
    }

    /// Sends a GET that may fail to connect.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        self.get(path).try_send().await.ok()
    }

    /// Sends a batch.
    pub async fn updates(&self, batch: &Value) -> Answer {
        self.post("/updates").json(batch).send().await
    }

    /// A metric's value as text, if the server has the metric.
    pub async fn value(&self, kind: &str, id: &str) -> Option<String> {
        let answer = self.get(&format!("/value/{kind}/{}", encode(id))).send().await;
        (answer.status == 200).then(|| answer.text())
    }

    /// A counter's total; 0 if the server does not have it.
    pub async fn counter(&self, id: &str) -> i64 {
        self.value("counter", id).await.map_or(0, |text| text.parse().expect("a counter is an integer"))
    }
}

/// Whether answers of this path have HashSHA256: those of the original's routes and those of paths without a route.
fn has_hash(path: &str) -> bool {
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["ping", "live"]
        | ["assets" | "-", ..]
        | [
            "source" | "metrics" | "changes" | "compare" | "node" | "pods" | "pod" | "alerts" | "explore" | "status" | "sign-in"
            | "sign-out",
        ] => false,
        ["api", "v1", resource, ..] => *resource == "snapshot",
        _ => true,
    }
}

/// A text escaped as a segment of a path or as a value in a query.
pub fn encode(id: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    id.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A request that is being built.
#[derive(Clone)]
pub struct RequestBuilder<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
    packed: bool,
    sign: bool,
    signature: Option<Signature>,
}

/// How the request is to be signed.
#[derive(Clone)]
struct Signature {
    key_id: String,
    key: Vec<u8>,
    skew_seconds: i64,
}

impl RequestBuilder<'_> {
    /// Whether the request is for this path.
    pub fn is_for(&self, path: &str) -> bool {
        self.path == path
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        self.headers.append(name, HeaderValue::from_bytes(value.as_ref()).expect("a header value"));
        self
    }

    /// Sets the source.
    #[must_use]
    pub fn source(self, name: &str) -> Self {
        self.header(header::SOURCE, name)
    }

    /// Sets the batch's key.
    #[must_use]
    pub fn idempotency_key(self, key: &str) -> Self {
        self.header(header::IDEMPOTENCY_KEY, key)
    }

    /// Accepts packed answers.
    #[must_use]
    pub fn accepts_gzip(self) -> Self {
        self.header("accept-encoding", "gzip")
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// Packs the body.
    #[must_use]
    pub fn gzip(mut self) -> Self {
        self.packed = true;
        self
    }

    /// Leaves out the hash, although the client has a key.
    #[must_use]
    pub fn unsigned(mut self) -> Self {
        self.sign = false;
        self
    }

    /// Signs the request with Golectra-Signature.
    #[must_use]
    pub fn signed(self, key_id: &str, key: impl AsRef<[u8]>) -> Self {
        self.signed_off(key_id, key, 0)
    }

    /// Signs the request with a clock that is this many seconds ahead.
    #[must_use]
    pub fn signed_off(mut self, key_id: &str, key: impl AsRef<[u8]>, skew_seconds: i64) -> Self {
        self.signature = Some(Signature { key_id: key_id.to_owned(), key: key.as_ref().to_vec(), skew_seconds });
        self
    }

    /// The signature header of the request in its current state.
    fn signature(&self) -> Option<String> {
        let Signature { key_id, key, skew_seconds } = self.signature.as_ref()?;
        let value = |name| self.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        let request = signature::Request {
            method: self.method.as_str(),
            target: &self.path,
            source: value(header::SOURCE),
            idempotency_key: value(header::IDEMPOTENCY_KEY),
            body_digest: &hash::body_digest(&self.body),
        };
        let now = (unix_millis() / 1000).saturating_add_signed(*skew_seconds);
        Some(request.sign(now, key_id, key))
    }

    /// Sends the request and expects an answer. A write that the server refused as overloaded is sent again, and by remote-write, where each sample is
    /// stored once, any that may come again; by a [patient](Client::patient) client, a read as well.
    pub async fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.path);
        let send = || async { self.clone().try_send().await.unwrap_or_else(|error| panic!("{what}: {error:?}")) };
        if self.method == Method::POST && self.path == "/api/v1/write" {
            resend(send, Answer::pause).await
        } else if self.is_write() {
            resend(send, Answer::overloaded_pause).await
        } else if let (&Method::GET, Some(late)) = (&self.method, &self.client.late) {
            let is_first = AtomicBool::new(true);
            let pause = |answer: &Answer| {
                let pause = answer.pause_of_read()?;
                if is_first.swap(false, Ordering::Relaxed) {
                    late.fetch_add(1, Ordering::Relaxed);
                }
                Some(pause)
            };
            resend(send, pause).await
        } else {
            send().await
        }
    }

    /// Whether the request is for /update or /updates.
    fn is_write(&self) -> bool {
        self.method == Method::POST && self.path.trim_start_matches('/').starts_with("update")
    }

    /// Sends the request once. The error is that of the connection.
    pub async fn try_send(mut self) -> Result<Answer, reqwest::Error> {
        if let (true, Some(key)) = (self.sign && !self.body.is_empty(), &self.client.key)
            && !self.headers.contains_key(header::HASH_SHA256)
        {
            self = self.clone().header(header::HASH_SHA256, hash::body_hash(&self.body, key.as_bytes()));
        }
        if let Some(signature) = self.signature() {
            self = self.header(header::SIGNATURE, signature);
        }
        if self.packed {
            self.body = gzip(&self.body);
            self = self.header("content-encoding", "gzip");
        }
        let url = format!("{}{}", self.client.base, self.path);
        let mut request = self.client.http.request(self.method.clone(), url).headers(self.headers.clone());
        if self.method != Method::GET || !self.body.is_empty() {
            request = request.body(self.body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let path = response.url().path().to_owned();
        let wire = response.bytes().await?;
        let packed = headers.get("content-encoding").is_some_and(|value| value == "gzip");
        let body = if packed && self.method != Method::HEAD { gunzip(&wire) } else { wire.to_vec() };
        let answer = Answer { status, headers, wire, body };
        let hash_key = self.client.key.as_deref().filter(|_| self.client.expects_hashes && has_hash(&path));
        answer.keeps_the_rules(&self.method, hash_key);
        Ok(answer)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers as received.
    pub headers: HeaderMap,
    /// The body as received.
    pub wire: Bytes,
    /// The body, unpacked.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is ASCII"))
    }

    /// The media type without its parameters; empty if there is none.
    pub fn media_type(&self) -> &str {
        self.header("content-type").map_or("", |value| value.split(';').next().unwrap_or_default().trim())
    }

    /// The pause that the server asks for where it refused the request as overloaded.
    pub fn overloaded_pause(&self) -> Option<Duration> {
        overload::pause(self.status, self.header("retry-after"), &self.body)
    }

    /// The pause after which a refused request may come again.
    fn pause(&self) -> Option<Duration> {
        let seconds = self.header("retry-after").filter(|_| self.status == 503)?;
        Some(Duration::from_secs(seconds.parse().expect("a number of seconds")))
    }

    /// The pause after which a read that was refused for the moment may come again.
    fn pause_of_read(&self) -> Option<Duration> {
        (self.status == 503).then(|| self.pause().unwrap_or(Duration::from_secs(1)).min(LONGEST_PAUSE))
    }

    /// Whether the body was packed.
    pub fn is_packed(&self) -> bool {
        self.headers.contains_key("content-encoding")
    }

    /// Panics with the whole answer if the status is another one.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "as a statement it is an assertion")]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// Panics with the whole answer if the status is not 2xx.
    #[track_caller]
    pub fn expect_success(&self) {
        assert!((200..300).contains(&self.status), "{self:?}");
    }

    /// The message of an error on a JSON route; panics if the answer does not have the form `{"error": "...", "code": "..."}`
    /// or its code is not in the protocol's table.
    #[track_caller]
    pub fn error(&self) -> String {
        assert_eq!(self.media_type(), "application/json", "{self:?}");
        let json = self.json();
        let fields = json.as_object().expect("an object");
        assert_eq!(fields.len(), 2, "{json}");
        let code = ErrorCode::parse(fields["code"].as_str().expect("a text")).expect("a code of the table");
        assert_eq!(code.status(), self.status, "{json}");
        let reason = fields["error"].as_str().expect("a text");
        assert!(!reason.is_empty());
        reason.to_owned()
    }

    /// The sum of a metric's samples in an answer in Prometheus's text format; None if there is no sample.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.text();
        let samples = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with([' ', '{'])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        samples.reduce(|sum, sample| sum + sample)
    }

    /// Checks the rules for every answer.
    fn keeps_the_rules(&self, method: &Method, key: Option<&str>) {
        let shown = || format!("{method} {self:?}");
        let encoding = self.header("content-encoding");
        assert!(matches!(encoding, None | Some("gzip")), "an unknown encoding: {}", shown());
        // The answer to a HEAD has the headers of an answer with a body.
        if self.wire.is_empty() && *method != Method::HEAD {
            assert_eq!(encoding, None, "an empty body is marked gzip: {}", shown());
        }
        if encoding.is_some() {
            let is_packable = matches!(
                self.media_type(),
                "application/json" | "application/jsonl" | "text/csv" | "text/html" | "text/css" | "text/javascript" | "image/svg+xml"
            );
            assert!(is_packable, "only JSON, HTML, exports and what pages consist of are packed: {}", shown());
        }
        // 303 follows a form.
        assert!(!(300..400).contains(&self.status) || matches!(self.status, 303 | 304), "a redirect: {}", shown());
        let expected = key.filter(|_| !self.body.is_empty()).map(|key| hash::body_hash(&self.body, key.as_bytes()));
        if *method != Method::HEAD {
            assert_eq!(self.header(header::HASH_SHA256), expected.as_deref(), "the answer's hash: {}", shown());
        }
    }
}

/// Packs bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory never fails")
}

/// Unpacks bytes that must be gzip.
pub fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("what is marked gzip is gzip");
    out
}

/// The current time in unix milliseconds.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_millis()).expect("the time fits")
}

/// A new idempotency key with the current time.
pub fn fresh_key() -> String {
    key_at(unix_millis())
}

/// A new idempotency key with this time in unix milliseconds.
pub fn key_at(unix_millis: u64) -> String {
    IdempotencyKey::at(unix_millis).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Receiver, Reply};

    #[tokio::test]
    async fn only_a_patient_client_sends_a_refused_read_again() {
        let left = Arc::new(AtomicU64::new(0));
        let refusals = Arc::clone(&left);
        let receiver = Receiver::start(move |_| {
            let refused = refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if refused { Reply::status(503).header("retry-after", 0) } else { Reply::status(200) }
        })
        .await;
        let client = Client::new(&receiver.url(), None);
        left.store(2, Ordering::SeqCst);
        client.get("/ping").send().await.expect(503);
        assert_eq!(client.late(), 0);

        let patient = client.patient();
        left.store(2, Ordering::SeqCst);
        patient.get("/ping").send().await.expect(200);
        assert_eq!(patient.late(), 1, "one read, however often it was refused");
        left.store(1, Ordering::SeqCst);
        patient.post("/other").send().await.expect(503);
        assert_eq!(patient.late(), 1, "only reads are sent again");
    }
}
