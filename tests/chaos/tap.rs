//! A place to listen between agents and their server: it knows every report that was ever sent and which were answered.
//!
//! It can cut answers, be down, and make a naive client of an agent by giving each try a fresh key.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use golectra_tests::{fresh_key, gunzip, runtime};
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// How long the server may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A report that came by.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// What it adds to PollCount.
    pub polls: i64,
    /// Whether a 2xx was passed on.
    pub acknowledged: bool,
}

struct State {
    port: u16,
    http: reqwest::Client,
    /// How many answers in a thousand are cut.
    cut_per_mille: AtomicU64,
    down: AtomicBool,
    naive: AtomicBool,
    cut: AtomicU64,
    /// Reports by source and key.
    reports: Mutex<HashMap<(String, String), Report>>,
    /// When each request came.
    times: Mutex<Vec<Instant>>,
}

/// The tap; it ends when it is dropped.
pub struct Tap {
    port: u16,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

impl Tap {
    /// A tap before the server on this port that cuts this many answers in a thousand.
    pub async fn start(port: u16, cut_per_mille: u64) -> Self {
        let listener = runtime().spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await.expect("no panic").expect("a free port");
        let own = listener.local_addr().expect("it is bound").port();
        // The first caller decides; the others find a provider, which is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).pool_idle_timeout(Duration::from_secs(1)).build();
        let state = Arc::new(State {
            port,
            http: http.expect("a client can be built"),
            cut_per_mille: AtomicU64::new(cut_per_mille),
            down: AtomicBool::new(false),
            naive: AtomicBool::new(false),
            cut: AtomicU64::new(0),
            reports: Mutex::default(),
            times: Mutex::default(),
        });
        let serving = runtime().spawn(accept(listener, Arc::clone(&state)));
        Self { port: own, state, serving }
    }

    /// Where agents send to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether it closes every connection unanswered, before anything reaches the server.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// From now on each try gets a fresh key, as a client without keys is treated.
    pub fn make_naive(&self) {
        self.state.naive.store(true, Ordering::SeqCst);
    }

    /// From now on every answer gets through.
    pub fn heal(&self) {
        self.state.cut_per_mille.store(0, Ordering::SeqCst);
        self.set_down(false);
    }

    /// How many answers it has cut.
    pub fn cut(&self) -> u64 {
        self.state.cut.load(Ordering::SeqCst)
    }

    /// The reports of a source.
    pub fn reports(&self, source: &str) -> Vec<Report> {
        let reports = self.state.reports.lock().expect("no holder panics");
        reports.iter().filter(|((from, _), _)| from == source).map(|(_, report)| *report).collect()
    }

    /// The most requests that came within a second from then on.
    pub fn busiest_second(&self, from: Instant) -> usize {
        let times: Vec<Instant> = self.state.times.lock().expect("no holder panics").iter().copied().filter(|time| *time >= from).collect();
        let mut first = 0;
        let mut most = 0;
        for (last, time) in times.iter().enumerate() {
            while *time - times[first] > Duration::from_secs(1) {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| pass(request, Arc::clone(&state)));
        connections.spawn(async move {
            // A cut is an error of the service: hyper closes the connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The connection ends here.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

async fn pass(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let id = (text("golectra-source"), text("idempotency-key"));
    let polls = polls_in(&body, text("content-encoding") == "gzip");
    state.times.lock().expect("no holder panics").push(Instant::now());
    state.reports.lock().expect("no holder panics").entry(id.clone()).or_insert(Report { polls, acknowledged: false });
    if state.down.load(Ordering::SeqCst) {
        return Err(Cut);
    }
    let mut headers = head.headers.clone();
    for name in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if state.naive.load(Ordering::SeqCst) {
        headers.insert("idempotency-key", fresh_key().parse().expect("a key is a header's value"));
    }
    let url = format!("http://127.0.0.1:{}{}", state.port, head.uri);
    let answer = state.http.request(head.method, url).headers(headers).body(body).send().await.map_err(|_| Cut)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await.map_err(|_| Cut)?;
    if draw() < state.cut_per_mille.load(Ordering::SeqCst) {
        state.cut.fetch_add(1, Ordering::SeqCst);
        return Err(Cut);
    }
    if status.is_success() {
        state.reports.lock().expect("no holder panics").get_mut(&id).expect("it was put there").acknowledged = true;
    }
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    for name in [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

/// A random number below a thousand.
fn draw() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0_u8) % 1000
}

/// What a report adds to PollCount.
fn polls_in(body: &[u8], packed: bool) -> i64 {
    let plain = if packed { gunzip(body) } else { body.to_vec() };
    let items: Value = serde_json::from_slice(&plain).expect("an agent sends JSON");
    items.as_array().expect("an array").iter().filter(|item| item["id"] == "PollCount").filter_map(|item| item["delta"].as_i64()).sum()
}
