//! A proxy between client and server that causes the faults of networks at random, reproducibly from a seed.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::plan::Address;

/// How long a server may take to accept a connection before the next one is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How often each fault occurs: probabilities from 0 to 1. At most one fault is drawn for a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// The server's answer is cut off after some of its bytes, or all of it: the server has done its work.
    pub cut_answers: f64,
    /// The request is cut off after some of its first bytes.
    pub cut_requests: f64,
    /// Client and server get a reset when the answer comes.
    pub resets: f64,
    /// The answer waits, for up to `longest_delay`.
    pub delays: f64,
    /// The longest that an answer waits.
    pub longest_delay: Duration,
}

impl Faults {
    /// Everything goes through.
    pub const NONE: Self = Self { cut_answers: 0.0, cut_requests: 0.0, resets: 0.0, delays: 0.0, longest_delay: Duration::ZERO };

    fn draw(&self, random: &mut fastrand::Rng) -> Action {
        let mut dice = random.f64();
        let mut occurs = |probability: f64| {
            let hit = dice < probability;
            dice -= probability;
            hit
        };
        if occurs(self.cut_answers) {
            Action::CutAnswer(random.f64())
        } else if occurs(self.cut_requests) {
            Action::CutRequest(random.f64())
        } else if occurs(self.resets) {
            Action::Reset
        } else if occurs(self.delays) {
            Action::Delay(self.longest_delay.mul_f64(random.f64()))
        } else {
            Action::Pass
        }
    }
}

/// What a proxy did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FaultCounts {
    /// Requests that began to come through it.
    pub requests: u64,
    /// Answers cut off.
    pub cut_answers: u64,
    /// Requests cut off.
    pub cut_requests: u64,
    /// Connections reset when their answer came.
    pub resets: u64,
    /// Answers delayed.
    pub delays: u64,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    Pass,
    /// This share of the answer's first bytes gets through.
    CutAnswer(f64),
    /// This share of the request's first bytes gets through.
    CutRequest(f64),
    Reset,
    Delay(Duration),
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    cut_answers: AtomicU64,
    cut_requests: AtomicU64,
    resets: AtomicU64,
    delays: AtomicU64,
}

struct State {
    upstreams: Vec<Address>,
    /// Which of them the next connection goes to.
    turn: AtomicUsize,
    faults: Mutex<Faults>,
    random: Mutex<fastrand::Rng>,
    counts: Counts,
}

impl State {
    fn draw(&self) -> Action {
        count(&self.counts.requests);
        let faults = *self.faults.lock().expect("no holder panics");
        faults.draw(&mut self.random.lock().expect("no holder panics"))
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The proxy: a port of this machine. It and its connections end when it is dropped.
pub struct FaultProxy {
    port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free loopback port and leads to the servers: each connection to the next one, or to the one after it
    /// where that can't be reached, as a load balancer does. The error is the system's refusal to listen.
    pub async fn start(upstreams: Vec<Address>, faults: Faults, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let state = State { upstreams, turn: AtomicUsize::new(0), faults: Mutex::new(faults), random, counts: Counts::default() };
        let state = Arc::new(state);
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { port, state, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        Address::local(self.port)
    }

    /// Does this to the requests that come from now on.
    pub fn set(&self, faults: Faults) {
        *self.state.faults.lock().expect("no holder panics") = faults;
    }

    /// What it did so far.
    pub fn counts(&self) -> FaultCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.state.counts;
        FaultCounts {
            requests: read(&counts.requests),
            cut_answers: read(&counts.cut_answers),
            cut_requests: read(&counts.cut_requests),
            resets: read(&counts.resets),
            delays: read(&counts.delays),
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(connections.spawn(serve(client, Arc::clone(&state)))),
            // No file handle left, say: the next one may find one.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, state: Arc<State>) {
    let Some(mut server) = connect(&state).await else { return };
    let nodelay = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    // An error of either side ends both connections.
    let reset = nodelay.is_ok() && relay(&mut client, &mut server, &state).await.is_err_and(|end| end == End::Reset);
    if reset {
        // Dropping a socket that may not linger sends a reset instead of a proper end.
        let _ = client.set_zero_linger().and_then(|()| server.set_zero_linger());
    }
}

async fn connect(state: &State) -> Option<TcpStream> {
    for _ in 0..state.upstreams.len() {
        let next = &state.upstreams[state.turn.fetch_add(1, Ordering::Relaxed) % state.upstreams.len()];
        if let Ok(Ok(server)) = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((next.host(), next.port()))).await {
            return Some(server);
        }
    }
    None
}

/// Why a relay ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Cut,
    Reset,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Cut
    }
}

/// Passes requests and answers on, one at a time as HTTP/1.1 has them, until a fault ends the connection.
async fn relay(client: &mut TcpStream, server: &mut TcpStream, state: &State) -> Result<(), End> {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut action = None;
    loop {
        tokio::select! {
            read = from_client.read(&mut up) => {
                let length = read?;
                if length == 0 {
                    return Ok(());
                }
                let drawn = *action.get_or_insert_with(|| state.draw());
                if let Action::CutRequest(share) = drawn {
                    count(&state.counts.cut_requests);
                    to_server.write_all(&up[..part(length, share)]).await?;
                    return Err(End::Cut);
                }
                to_server.write_all(&up[..length]).await?;
            }
            read = from_server.read(&mut down) => {
                let length = read?;
                if length == 0 {
                    return Ok(());
                }
                // The next bytes of the client begin another request.
                match action.take().unwrap_or(Action::Pass) {
                    Action::CutAnswer(share) => {
                        count(&state.counts.cut_answers);
                        to_client.write_all(&down[..part(length, share)]).await?;
                        return Err(End::Cut);
                    }
                    Action::Reset => {
                        count(&state.counts.resets);
                        return Err(End::Reset);
                    }
                    Action::Delay(delay) => {
                        count(&state.counts.delays);
                        tokio::time::sleep(delay).await;
                    }
                    Action::Pass | Action::CutRequest(_) => {}
                }
                to_client.write_all(&down[..length]).await?;
            }
        }
    }
}

/// A share of some bytes, never all of them.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a few thousand")]
fn part(length: usize, share: f64) -> usize {
    ((length as f64 * share) as usize).min(length - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Connection, Failure};

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers every four bytes, and counts them.
    async fn server(answered: Arc<AtomicU64>) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answered = Arc::clone(&answered);
                tokio::spawn(async move {
                    while stream.read_exact(&mut [0; 4]).await.is_ok() {
                        count(&answered);
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                });
            }
        });
        Address::local(port)
    }

    async fn outcomes(faults: Faults, tries: usize) -> (Vec<Result<u16, Failure>>, FaultCounts, u64) {
        let answered = Arc::new(AtomicU64::new(0));
        let proxy = FaultProxy::start(vec![server(Arc::clone(&answered)).await], faults, 3).await.unwrap();
        let mut outcomes = Vec::new();
        let mut connection = None;
        for _ in 0..tries {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(&proxy.address(), LIMIT).await.unwrap(),
            };
            let outcome = open.exchange(b"ping", LIMIT, false).await;
            connection = outcome.is_ok().then_some(open);
            outcomes.push(outcome.map(|answer| answer.status));
        }
        (outcomes, proxy.counts(), answered.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn without_faults_everything_goes_through() {
        let (outcomes, counts, answered) = outcomes(Faults::NONE, 50).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Ok(200)));
        assert_eq!((counts, answered), (FaultCounts { requests: 50, ..FaultCounts::default() }, 50));
    }

    #[tokio::test]
    async fn a_cut_answer_was_worked_for() {
        let (outcomes, counts, answered) = outcomes(Faults { cut_answers: 1.0, ..Faults::NONE }, 20).await;
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert_eq!((counts.cut_answers, answered), (20, 20));
    }

    #[tokio::test]
    async fn a_cut_request_was_not() {
        let (outcomes, counts, answered) = outcomes(Faults { cut_requests: 1.0, ..Faults::NONE }, 20).await;
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert_eq!((counts.cut_requests, answered), (20, 0));
    }

    #[tokio::test]
    async fn resets_and_delays_are_what_they_say() {
        let (seen, counts, _) = outcomes(Faults { resets: 1.0, ..Faults::NONE }, 5).await;
        assert_eq!((seen, counts.resets), (vec![Err(Failure::Reset); 5], 5));
        let (seen, counts, _) = outcomes(Faults { delays: 1.0, longest_delay: Duration::from_millis(5), ..Faults::NONE }, 5).await;
        assert_eq!((seen, counts.delays), (vec![Ok(200); 5], 5));
    }

    #[tokio::test]
    async fn connections_go_to_each_server_that_is_there() {
        let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let upstreams = vec![server(Arc::clone(&counts[0])).await, Address::local(gone), server(Arc::clone(&counts[1])).await];
        let proxy = FaultProxy::start(upstreams, Faults::NONE, 3).await.unwrap();
        for _ in 0..10 {
            let mut connection = Connection::open(&proxy.address(), LIMIT).await.unwrap();
            assert_eq!(connection.exchange(b"ping", LIMIT, false).await.map(|answer| answer.status), Ok(200));
        }
        let seen = counts.map(|count| count.load(Ordering::Relaxed));
        assert_eq!((seen[0] + seen[1], seen[0]), (10, 5));
    }

    #[tokio::test]
    async fn a_seed_gives_the_same_faults_again() {
        let faults = Faults { cut_answers: 0.3, cut_requests: 0.2, ..Faults::NONE };
        let (first, second) = (outcomes(faults, 100).await, outcomes(faults, 100).await);
        assert_eq!((&first.1, first.2), (&second.1, second.2));
        assert!(first.1.cut_answers > 10 && first.1.cut_requests > 10 && first.0.contains(&Ok(200)), "{:?}", first.1);
    }
}
