//! `golectra-server selfcheck URL`: checks that the server at that address works. For `helm test` and for people.
//!
//! It writes one counter, `golectra_selfcheck_total` of the source `golectra-selfcheck`, twice with the same idempotency key,
//! and checks that it was counted once. Each step prints a line on stdout; the first one that fails ends it with exit code 1.
//! Settings that can't be used end it with exit code 2.
//! A server that cannot be reached yet, or is not ready, is waited for: after `helm install` a Service leads to its ready pods
//! only when every node has heard of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use golectra_process::keys::{FolderError, Key, Keys, SigningKeyError};
use golectra_process::output::{print_error_line, print_line};
use golectra_process::{KeyId, Secret};
use golectra_protocol::{IdempotencyKey, Metric, MetricId, Value, gzip, hash, header, json, signature};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value as Json;

use crate::clock::Clock;
use crate::config::SelfcheckSettings;
use crate::history::labels::SELFCHECK_SOURCE;
use crate::http::client_error::{describe, is_away};

const COUNTER: &str = "golectra_selfcheck_total";

/// The time limit of each request.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a server is waited for that cannot be reached or is not ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the check failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("usage: golectra-server selfcheck URL, such as http://localhost:8080 (the key in KEY)")]
    Usage,
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    #[error("KEYS_DIR has no key {0}, which SIGNING_KEY_ID names")]
    NoKey(KeyId),
    #[error("{step}: no answer from the server: {problem}")]
    NoAnswer { step: &'static str, problem: String },
    #[error("{step}: answered {status}: {body}")]
    Status { step: &'static str, status: StatusCode, body: String },
    #[error("{step}: {problem}")]
    Wrong { step: &'static str, problem: String },
}

impl Failure {
    /// Whether it is what the check was told that can't be used.
    fn is_of_settings(&self) -> bool {
        matches!(self, Self::Usage | Self::Folder(_) | Self::SigningKey(_) | Self::NoKey(_))
    }

    /// Whether it may pass without anybody's doing: nothing answered, or something that is not ready.
    fn passes(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Status { status, .. } => is_away(*status),
            _ => false,
        }
    }
}

/// Runs the check of the command line.
pub fn main() -> ExitCode {
    let first = std::env::args().nth(2).unwrap_or_default();
    // Flags follow the address; without one, as in `selfcheck -h`, they follow at once.
    let flags = std::env::args_os().skip(if first.starts_with('-') { 2 } else { 3 });
    let settings = SelfcheckSettings::load_from("golectra-server selfcheck", flags);
    let url = Some(first).filter(|url| Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let checked = match (url, runtime) {
        (Some(url), Ok(runtime)) => runtime.block_on(async {
            let signing = signing_key(&settings)?;
            check(url.trim_end_matches('/'), settings.key.as_ref().map(Secret::expose), signing).await
        }),
        _ => Err(Failure::Usage),
    };
    match checked {
        Ok(()) => {
            say("the server is well");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            print_error_line(&format!("golectra-server selfcheck: {failure}"));
            if failure.is_of_settings() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// The key that signs, if there is one.
fn signing_key(settings: &SelfcheckSettings) -> Result<Option<(KeyId, Key)>, Failure> {
    let keys = Keys::open(settings.key.as_ref(), settings.keys_dir.as_deref())?;
    let Some(id) = keys.signing_id(settings.signing_key_id.as_ref())? else { return Ok(None) };
    let key = keys.get(id.as_str());
    key.map(|key| Some((id.clone(), key))).ok_or(Failure::NoKey(id))
}

async fn check(url: &str, key: Option<&str>, signing: Option<(KeyId, Key)>) -> Result<(), Failure> {
    golectra_process::install_crypto();
    let client = Client::builder().timeout(LIMIT).no_proxy().build();
    let client = client.map_err(|error| Failure::NoAnswer { step: "client", problem: describe(error) })?;
    let until = Instant::now() + PATIENCE;
    for (step, path) in [("live", "/ping/live"), ("ready", "/ping")] {
        while let Err(failure) = answer(step, client.get(format!("{url}{path}")), key).await {
            if !failure.passes() || Instant::now() >= until {
                return Err(failure);
            }
            print_error_line(&format!("golectra-server selfcheck: {failure}; it is tried again for up to {} s", PATIENCE.as_secs()));
            tokio::time::sleep(Duration::from_millis(fastrand::u64(500..1500))).await;
        }
        passed(step);
    }
    let before = total(&client, url, key).await?;
    let metric = Metric { id: MetricId::parse(COUNTER).expect("a valid id"), value: Value::Counter(1) };
    let body = json::encode_batch(&[metric]);
    let idempotency_key = IdempotencyKey::at(Clock::System.unix_millis()).to_string();
    let target = Url::parse(&format!("{url}/updates")).map_err(|_| Failure::Usage)?.path().to_owned();
    for (step, replayed) in [("write", false), ("repeat", true)] {
        let mut request = client
            .post(format!("{url}/updates"))
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .header(header::SOURCE, SELFCHECK_SOURCE)
            .header(header::IDEMPOTENCY_KEY, &idempotency_key)
            .body(gzip::pack(&body));
        if let Some(key) = key {
            request = request.header(header::HASH_SHA256, hash::body_hash(&body, key.as_bytes()));
        }
        if let Some((id, key)) = &signing {
            let signed = signature::Request {
                method: "POST",
                target: &target,
                source: SELFCHECK_SOURCE.as_bytes(),
                idempotency_key: idempotency_key.as_bytes(),
                body_digest: &hash::body_digest(&body),
            };
            let signature = signed.sign(Clock::System.unix_millis() / 1000, id.as_str(), key.expose());
            request = request.header(header::SIGNATURE, signature);
        }
        let (marked, _) = answer(step, request, key).await?;
        if marked != replayed {
            let problem = format!("{} is {marked}, expected {replayed}", header::IDEMPOTENCY_REPLAYED);
            return Err(Failure::Wrong { step, problem });
        }
        passed(step);
    }
    let after = total(&client, url, key).await?;
    // Another selfcheck may run at the same time, so the counter may grow by more than one.
    if after <= before {
        return Err(Failure::Wrong { step: "count", problem: format!("the counter is {after} and was {before} before") });
    }
    passed("count");
    Ok(())
}

fn passed(step: &str) {
    say(&format!("ok: {step}"));
}

/// Prints a line. The exit code is the result, so a failure to print is ignored.
fn say(line: &str) {
    let _ = print_line(line);
}

/// The counter's total on the server; 0 if it does not exist yet.
async fn total(client: &Client, url: &str, key: Option<&str>) -> Result<i64, Failure> {
    let step = "count";
    let (_, body) = answer(step, client.get(format!("{url}/api/v1/latest?source={SELFCHECK_SOURCE}&name={COUNTER}")), key).await?;
    let answer: Json = serde_json::from_slice(&body).map_err(|error| Failure::Wrong { step, problem: error.to_string() })?;
    Ok(answer["series"][0]["delta"].as_i64().unwrap_or(0))
}

/// Sends a request and expects a good answer; returns whether it was marked as a repeat, and its body.
async fn answer(step: &'static str, request: reqwest::RequestBuilder, key: Option<&str>) -> Result<(bool, Vec<u8>), Failure> {
    let no_answer = |error| Failure::NoAnswer { step, problem: describe(error) };
    let response: Response = request.send().await.map_err(no_answer)?;
    let status = response.status();
    let replayed = response.headers().get(header::IDEMPOTENCY_REPLAYED).is_some_and(|value| value == "true");
    let claimed = response.headers().get(header::HASH_SHA256).cloned();
    let body = response.bytes().await.map_err(no_answer)?;
    if status != StatusCode::OK {
        let body = String::from_utf8_lossy(&body).chars().take(300).collect();
        return Err(Failure::Status { step, status, body });
    }
    // Some answers have no hash: those of added routes, and all answers if signatures are required.
    if let (Some(key), Some(claimed)) = (key, claimed)
        && !hash::verify(&body, key.as_bytes(), claimed.as_bytes())
    {
        return Err(Failure::Wrong { step, problem: "the answer's hash does not match this key: do both sides have the same KEY?".into() });
    }
    Ok((replayed, body.to_vec()))
}
