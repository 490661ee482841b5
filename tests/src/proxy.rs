//! A TCP proxy on loopback that can do to a connection what networks do.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::runtime;

/// What happens to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: bytes go through.
    None,
    /// The client's first bytes are read, nothing reaches the server, the connection is closed.
    Drop,
    /// The request reaches the server, and the connection is closed when its answer comes.
    Unanswered,
    /// As `Unanswered`, but this many bytes of the answer get through before.
    HalfAnswer(usize),
    /// Everything is read, nothing reaches the server, and no answer ever comes.
    Hang,
    /// The server's answer waits this long.
    Delay(Duration),
    /// Once the client has sent these bytes they still reach the server, but no answer comes back any more.
    SilentAfter(&'static [u8]),
}

struct State {
    upstream: u16,
    /// The faults of the next connections, in their order.
    next: Mutex<VecDeque<Fault>>,
    /// The fault of those after them.
    standing: Mutex<Fault>,
    connections: AtomicUsize,
    /// How many connections have come to the point where their fault shows.
    struck: AtomicUsize,
    /// Changes when every open connection is to be cut.
    cut: watch::Sender<u64>,
}

/// The proxy; it ends when it is dropped.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to a loopback port that lets everything through.
    pub async fn start(upstream: u16) -> Self {
        let listener = runtime().spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await.expect("no panic").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            upstream,
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

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address as an URL without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Does this to each connection from now on; those that are open are cut.
    pub fn set(&self, fault: Fault) {
        *self.state.standing.lock().expect("no holder panics") = fault;
        self.cut();
    }

    /// Does these things to the next connections, one each, in order; those that are open are cut.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.next.lock().expect("no holder panics").extend(faults);
        self.cut();
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.state.cut.send_modify(|version| *version += 1);
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many connections have met their fault.
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
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, state.upstream)).await else { return };
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    if fault == Fault::None {
        // A connection ends in an error as often as not; the programs at its ends deal with that.
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    match fault {
        Fault::SilentAfter(needle) => silent_after(needle, from_client, to_client, from_server, to_server, strike).await,
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

async fn silent_after(
    needle: &[u8],
    mut from_client: OwnedReadHalf,
    mut to_client: OwnedWriteHalf,
    mut from_server: OwnedReadHalf,
    mut to_server: OwnedWriteHalf,
    strike: impl Fn() -> usize,
) {
    let (silence, silent) = watch::channel(false);
    let requests = async {
        let (mut piece, mut seen) = (vec![0; 8192], Vec::new());
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            seen.extend_from_slice(&piece[..length]);
            // Said before the bytes leave, or the answer could overtake the silence.
            if seen.windows(needle.len()).any(|window| window == needle) && !silence.send_replace(true) {
                strike();
            }
            seen.drain(..seen.len().saturating_sub(needle.len() - 1));
            if to_server.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    let answers = async {
        let mut piece = vec![0; 8192];
        while let Ok(length @ 1..) = from_server.read(&mut piece).await {
            if !*silent.borrow() && to_client.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(requests, answers);
}
