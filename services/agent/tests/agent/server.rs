//! A server that applies each key once, as golectra's does, and misbehaves as a test tells it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use golectra_protocol::{IdempotencyKey, Value, gzip, hash, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// The sockets of addresses that are reserved.
static RESERVED: Mutex<Vec<(String, TcpSocket)>> = Mutex::new(Vec::new());

/// Programs listen on these many ports from 10,000 on, below the kernel's range for outgoing connections.
const PORTS: u64 = 9_000;

/// Counts the ports that were tried, from a random number on.
static NEXT_PORT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0) % PORTS));

/// What the server does with a request.
#[derive(Clone)]
pub enum Act {
    /// Applies it and answers 200 with the number of items, and for a repeat the header that says so.
    Apply,
    /// Applies it and closes the connection unanswered.
    ApplyAndClose,
    /// Applies it and answers half of a 200.
    ApplyAndAnswerHalf,
    /// Answers half of a 200 without having applied anything.
    AnswerHalf,
    /// Applies it and never answers.
    ApplyAndHang,
    /// Closes the connection.
    Close,
    /// Answers with this status, these header lines and this body, and applies nothing.
    Answer(u16, &'static str, String),
    /// Refuses it as ahead of the server's clock, with or without a Date.
    TooNew { date: bool },
    /// Applies it and answers with this status, these header lines and this body.
    ApplyAndAnswer(u16, &'static str, String),
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(line[name.len() + 1..].trim())
    }

    pub fn key(&self) -> IdempotencyKey {
        IdempotencyKey::parse(self.header("idempotency-key").expect("every report has a key")).unwrap()
    }

    pub fn unpacked(&self) -> Vec<u8> {
        gzip::unpack(&self.body, 1 << 20).unwrap()
    }

    pub fn items(&self) -> usize {
        json::decode_batch(&self.unpacked(), 10_000).unwrap().len()
    }

    pub fn polls(&self) -> i64 {
        let metrics = json::decode_batch(&self.unpacked(), 10_000).unwrap();
        let counters = metrics.iter().filter(|metric| metric.id == "PollCount");
        counters.map(|metric| if let Value::Counter(delta) = metric.value { delta } else { panic!("PollCount is a counter") }).sum()
    }
}

#[derive(Default)]
pub struct Ledger {
    pub requests: Vec<Request>,
    pub applied: HashMap<IdempotencyKey, Vec<u8>>,
    pub polls: i64,
}

impl Ledger {
    /// Applies a request once; whether it is a repeat.
    fn apply(&mut self, request: &Request) -> bool {
        if let Some(body) = self.applied.get(&request.key()) {
            assert_eq!(body, &request.body, "a key means one body");
            return true;
        }
        self.applied.insert(request.key(), request.body.clone());
        self.polls += request.polls();
        false
    }
}

pub struct Server {
    pub address: String,
    ledger: Arc<Mutex<Ledger>>,
    changes: watch::Sender<usize>,
}

impl Server {
    /// An address where nothing listens before a server is started at it. Until then it is held, so that no other test gets it.
    pub fn reserve() -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        RESERVED.lock().unwrap().push((address.clone(), socket));
        address
    }

    /// An address for a program to listen on. No other test of this process gets it.
    pub fn free_address() -> String {
        let mut ports = (0..PORTS).map(|_| 10_000 + u16::try_from(NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS).unwrap());
        let free = ports.find(|port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        format!("127.0.0.1:{}", free.expect("one of the ports is free"))
    }

    /// A server whose `act` gets the number of requests before and the request.
    pub async fn start(act: impl Fn(usize, &Request) -> Act + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", None, act).await
    }

    /// The same at an address, with a key that makes the HashSHA256 of answers.
    pub async fn start_at(address: &str, key: Option<&'static str>, act: impl Fn(usize, &Request) -> Act + Send + Sync + 'static) -> Self {
        let reserved = {
            let mut reserved = RESERVED.lock().unwrap();
            let place = reserved.iter().position(|(held, _)| held == address);
            place.map(|place| reserved.swap_remove(place).1)
        };
        let listener = match reserved {
            Some(socket) => socket.listen(1024).unwrap(),
            None => TcpListener::bind(address).await.unwrap(),
        };
        let address = listener.local_addr().unwrap().to_string();
        let (ledger, changes, act) = (Arc::new(Mutex::new(Ledger::default())), watch::Sender::new(0), Arc::new(act));
        let server = Self { address, ledger: Arc::clone(&ledger), changes: changes.clone() };
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (ledger, changes, act) = (Arc::clone(&ledger), changes.clone(), Arc::clone(&act));
                tokio::spawn(async move { serve(stream, key, &ledger, &changes, act.as_ref()).await });
            }
        });
        server
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Waits until the condition holds.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Ledger) -> bool) {
        let mut changes = self.changes.subscribe();
        let reached = async {
            while !wanted(&self.ledger()) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_mins(1), reached).await.is_err() {
            let ledger = self.ledger();
            panic!("timeout while waiting for {what}: {} requests, {} polls", ledger.requests.len(), ledger.polls);
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    key: Option<&'static str>,
    ledger: &Mutex<Ledger>,
    changes: &watch::Sender<usize>,
    act: &(dyn Fn(usize, &Request) -> Act + Send + Sync),
) {
    while let Some(request) = read(&mut stream).await {
        let (act, items, replayed) = {
            let mut ledger = ledger.lock().unwrap();
            let act = act(ledger.requests.len(), &request);
            let apply = !matches!(act, Act::AnswerHalf | Act::Close | Act::Answer(..) | Act::TooNew { .. });
            // What is refused may be anything, such as a request without a body.
            let items = if apply { request.items() } else { 0 };
            let replayed = apply && ledger.apply(&request);
            ledger.requests.push(request);
            (act, items, replayed)
        };
        changes.send_modify(|count| *count += 1);
        let body = format!(r#"{{"updated":{items}}}"#);
        let (status, extra, body) = match act {
            Act::Close | Act::ApplyAndClose => return,
            Act::ApplyAndHang => std::future::pending().await,
            Act::AnswerHalf | Act::ApplyAndAnswerHalf => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"upd").await;
                return;
            }
            Act::Apply => (200, if replayed { "Idempotency-Replayed: true\r\n".to_owned() } else { String::new() }, body),
            Act::TooNew { date } => {
                let date = if date { format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now())) } else { String::new() };
                (409, date, r#"{"error":"ahead","code":"too_new"}"#.to_owned())
            }
            Act::Answer(status, extra, body) | Act::ApplyAndAnswer(status, extra, body) => (status, extra.to_owned(), body),
        };
        let signature = key.map(|key| format!("HashSHA256: {}\r\n", hash::body_hash(body.as_bytes(), key.as_bytes()))).unwrap_or_default();
        let answer = format!("HTTP/1.1 {status} X\r\n{extra}{signature}Content-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    };
    let mut request = Request { head: String::from_utf8(bytes[..head_end].to_vec()).unwrap(), body: bytes[head_end..].to_vec() };
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let have = request.body.len();
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body[have..]).await.ok()?;
    Some(request)
}
