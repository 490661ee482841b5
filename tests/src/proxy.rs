//! A TCP proxy on loopback that simulates network faults.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::runtime;

/// The fault of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No fault: bytes are passed on.
    None,
    /// The client's first bytes are read, nothing is passed to the server, and the connection is closed.
    Drop,
    /// The request is passed to the server, and the connection is closed when its answer arrives.
    Unanswered,
    /// Like `Unanswered`, but this many bytes of the answer are passed on first.
    HalfAnswer(usize),
    /// Everything is read, nothing is passed to the server, and there is no answer.
    Hang,
    /// The server's answer is delayed by this time.
    Delay(Duration),
    /// Once the client has sent these texts, in this order, no more answers are passed on. The client's bytes are still passed
    /// to the server, the last text after a pause.
    SilentAfter(Vec<String>, Duration),
}

struct State {
    upstream: AtomicU16,
    /// The faults of the next connections, in their order.
    next: Mutex<VecDeque<Fault>>,
    /// The fault of the connections after them.
    standing: Mutex<Fault>,
    connections: AtomicUsize,
    /// The number of connections whose fault has taken effect.
    struck: AtomicUsize,
    /// Changes when all open connections are to be closed.
    cut: watch::Sender<u64>,
}

/// A running proxy; it is stopped when it is dropped.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to a loopback port, without faults.
    pub async fn start(upstream: u16) -> Self {
        let listener = runtime().spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await.expect("no panic").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            upstream: AtomicU16::new(upstream),
            next: Mutex::default(),
            standing: Mutex::new(Fault::None),
            connections: AtomicUsize::new(0),
            struck: AtomicUsize::new(0),
            cut: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        let accepting = runtime().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let mut cut = state.cut.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(client, &state) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, state, accepting }
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The proxy's URL without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the fault of all connections from now on; open connections are closed.
    pub fn set(&self, fault: Fault) {
        *self.state.standing.lock().expect("no holder panics") = fault;
        self.cut();
    }

    /// Sets the faults of the next connections, in order; open connections are closed.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.next.lock().expect("no holder panics").extend(faults);
        self.cut();
    }

    /// Connects to another port from now on.
    pub fn lead_to(&self, upstream: u16) {
        self.state.upstream.store(upstream, Ordering::SeqCst);
        self.cut();
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.state.cut.send_modify(|version| *version += 1);
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// The number of connections whose fault has taken effect.
    pub fn struck(&self) -> usize {
        self.state.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn serve(mut client: TcpStream, state: &State) {
    state.connections.fetch_add(1, Ordering::SeqCst);
    let scripted = state.next.lock().expect("no holder panics").pop_front();
    let fault = scripted.unwrap_or_else(|| state.standing.lock().expect("no holder panics").clone());
    let strike = || state.struck.fetch_add(1, Ordering::SeqCst);
    let mut piece = vec![0; 8192];
    match fault {
        Fault::Drop => {
            let _ = client.read(&mut piece).await;
            strike();
            return;
        }
        Fault::Hang => {
            let _ = client.read(&mut piece).await;
            strike();
            while let Ok(1..) = client.read(&mut piece).await {}
            return;
        }
        _ => {}
    }
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, state.upstream.load(Ordering::SeqCst))).await else { return };
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    if fault == Fault::None {
        // Connections often end with an error, which the programs at both ends handle.
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    match fault {
        Fault::SilentAfter(texts, pause) => {
            let (silence, silent) = watch::channel(false);
            let requests = async {
                let mut search = Search { texts: texts.into(), seen: Vec::new() };
                while let Ok(length @ 1..) = from_client.read(&mut piece).await {
                    // Sent before the bytes are passed on, because otherwise the answer could arrive first.
                    if !*silence.borrow() && search.ends_with(&piece[..length]) {
                        silence.send_replace(true);
                        strike();
                        tokio::time::sleep(pause).await;
                    }
                    if to_server.write_all(&piece[..length]).await.is_err() {
                        return;
                    }
                }
            };
            tokio::join!(requests, answers_until(silent, from_server, to_client));
        }
        Fault::Delay(delay) => {
            let answers = async {
                while let Ok(length @ 1..) = from_server.read(&mut piece).await {
                    strike();
                    tokio::time::sleep(delay).await;
                    if to_client.write_all(&piece[..length]).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                _ = copy(&mut from_client, &mut to_server) => {}
                () = answers => {}
            }
        }
        _ => {
            let passed = if let Fault::HalfAnswer(bytes) = fault { bytes } else { 0 };
            let answer = async {
                let length = from_server.read(&mut piece).await.unwrap_or_default();
                let _ = to_client.write_all(&piece[..length.min(passed)]).await;
                strike();
            };
            tokio::select! {
                _ = copy(&mut from_client, &mut to_server) => {}
                () = answer => {}
            }
        }
    }
}

/// Passes answers on until `silent` is set.
async fn answers_until(silent: watch::Receiver<bool>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut piece = vec![0; 8192];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if !*silent.borrow() && to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

/// Searches a stream for texts, one after the other.
struct Search {
    texts: VecDeque<String>,
    seen: Vec<u8>,
}

impl Search {
    /// Adds bytes; returns whether the last text is complete.
    fn ends_with(&mut self, bytes: &[u8]) -> bool {
        self.seen.extend_from_slice(bytes);
        while let Some(text) = self.texts.front() {
            let Some(at) = self.seen.windows(text.len()).position(|window| window == text.as_bytes()) else {
                let kept = text.len() - 1;
                self.seen.drain(..self.seen.len().saturating_sub(kept));
                return false;
            };
            self.seen.drain(..at + text.len());
            self.texts.pop_front();
        }
        true
    }
}
