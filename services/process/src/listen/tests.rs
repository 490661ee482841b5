//! The limits, tested on real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::MIN_BUFFER_BYTES;
use super::guard::{Guard, Phase};
use super::heads::Heads;
use super::{ConnectionLimits, ConnectionMetrics, Cut, serve_counted};

/// The time limit of every wait in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than the socket buffers of both ends hold.
const LARGE_BYTES: usize = 64 << 20;

struct Running {
    address: SocketAddr,
    metrics: ConnectionMetrics,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    /// One message for each `/slow` request that has begun.
    begun: mpsc::Receiver<()>,
    /// Lets `/slow` requests be answered.
    release: CancellationToken,
}

/// Limits that are never reached unless a test lowers one.
fn long() -> ConnectionLimits {
    ConnectionLimits {
        headers: PATIENCE * 3,
        idle: PATIENCE * 3,
        write_stall: PATIENCE * 3,
        slow_write: PATIENCE * 3,
        drain: PATIENCE * 3,
        ..ConnectionLimits::default()
    }
}

async fn start(limits: ConnectionLimits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, shutdown, release) = (ConnectionMetrics::default(), CancellationToken::new(), CancellationToken::new());
    let (tell, begun) = mpsc::channel(8);
    let held = release.clone();
    let slow = move || {
        let (tell, held) = (tell.clone(), held.clone());
        async move {
            tell.send(()).await.unwrap();
            held.cancelled().await;
            "slow"
        }
    };
    let app = Router::new()
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/large", get(|| async { vec![b'x'; LARGE_BYTES] }))
        .route("/slow", get(slow));
    let task = tokio::spawn(serve_counted(listener, app, limits, metrics.clone(), shutdown.clone()));
    Running { address, metrics, shutdown, task, begun, release }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until a `/slow` request has begun.
    async fn slow_began(&mut self) {
        timeout(PATIENCE, self.begun.recv()).await.expect("the request does not begin").unwrap();
    }
}

async fn send(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.unwrap();
}

/// Reads one answer, head and body.
async fn answer(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let whole = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
        (body.len() >= length).then_some(())
    };
    while whole(&text).is_none() {
        let read = timeout(PATIENCE, client.read_buf(&mut text)).await.expect("no answer").unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

/// Waits until the server closes the connection.
async fn closed(client: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is a close as well.
    let _ = timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("the connection stays open");
}

const PEER: &str = "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n";
const SLOW: &str = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_connection_is_kept_alive_and_handlers_see_the_peers_address() {
    let running = start(long()).await;
    let mut client = running.connect().await;
    let peer = client.local_addr().unwrap().to_string();
    for _ in 0..3 {
        send(&mut client, PEER).await;
        let text = answer(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with(&peer), "{text}");
    }
    assert_eq!((running.metrics.accepted_total(), running.metrics.open()), (1, 1));
}

#[tokio::test]
async fn a_slow_head_is_cut_on_a_new_and_on_a_kept_connection() {
    let running = start(ConnectionLimits { headers: Duration::from_millis(200), ..long() }).await;
    let mut silent = running.connect().await;
    let mut partial = running.connect().await;
    send(&mut partial, "GET /peer HTTP/1.1\r\nHo").await;
    let mut kept = running.connect().await;
    send(&mut kept, PEER).await;
    answer(&mut kept).await;
    closed(&mut silent).await;
    closed(&mut partial).await;
    // The time between requests does not count towards the head's limit.
    send(&mut kept, PEER).await;
    answer(&mut kept).await;
    send(&mut kept, "GET /pe").await;
    closed(&mut kept).await;
    assert_eq!(running.metrics.cut_total(Cut::Headers), 3);
    assert_eq!(running.metrics.cut_total(Cut::Idle), 0);
}

#[tokio::test]
async fn a_head_that_arrives_byte_by_byte_is_cut() {
    let running = start(ConnectionLimits { headers: Duration::from_millis(300), ..long() }).await;
    let (mut read, mut write) = running.connect().await.into_split();
    let trickle = tokio::spawn(async move {
        write.write_all(b"GET /peer HTTP/1.1\r\nX: ").await?;
        let mut every = tokio::time::interval(Duration::from_millis(20));
        loop {
            every.tick().await;
            write.write_all(b"x").await?;
        }
        #[expect(unreachable_code, reason = "names the error's type")]
        Ok::<(), std::io::Error>(())
    });
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, read.read_to_end(&mut rest)).await.expect("the connection stays open");
    assert_eq!(running.metrics.cut_total(Cut::Headers), 1);
    assert!(timeout(PATIENCE, trickle).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_its_time_and_then_cut() {
    let running = start(ConnectionLimits { idle: Duration::from_millis(300), ..long() }).await;
    let mut client = running.connect().await;
    send(&mut client, PEER).await;
    answer(&mut client).await;
    let since = Instant::now();
    closed(&mut client).await;
    assert!(since.elapsed() >= Duration::from_millis(250), "{:?}", since.elapsed());
    assert_eq!(running.metrics.cut_total(Cut::Idle), 1);
}

#[tokio::test]
async fn a_connection_is_not_idle_while_its_request_is_answered() {
    // Long enough for the request to arrive on a busy machine.
    let short = Duration::from_secs(1);
    let mut running = start(ConnectionLimits { idle: short, headers: short, ..long() }).await;
    let mut client = running.connect().await;
    send(&mut client, SLOW).await;
    running.slow_began().await;
    // When another connection was cut by the idle limit, this one would have been cut too.
    closed(&mut running.connect().await).await;
    running.release.cancel();
    assert!(answer(&mut client).await.ends_with("slow"));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let running = start(ConnectionLimits { write_stall: Duration::from_millis(300), ..long() }).await;
    let mut client = running.connect().await;
    send(&mut client, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let until = Instant::now() + PATIENCE;
    while running.metrics.open() > 0 || running.metrics.accepted_total() == 0 {
        assert!(Instant::now() < until, "the connection stays open");
        tokio::task::yield_now().await;
    }
    assert_eq!(running.metrics.cut_total(Cut::Write), 1);
    let mut taken = Vec::new();
    let _ = client.read_to_end(&mut taken).await;
    assert!(taken.len() < LARGE_BYTES);
}

#[tokio::test]
async fn a_slow_reader_that_makes_progress_gets_all_of_a_large_answer() {
    let limits = ConnectionLimits { write_stall: Duration::from_millis(500), idle: Duration::from_millis(500), ..long() };
    let running = start(limits).await;
    let mut client = running.connect().await;
    send(&mut client, "GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut every = tokio::time::interval(Duration::from_millis(20));
    let (mut taken, mut chunk) = (0, vec![0; 1 << 20]);
    loop {
        every.tick().await;
        match timeout(PATIENCE, client.read(&mut chunk)).await.unwrap().unwrap() {
            0 => break,
            read => taken += read,
        }
    }
    assert!(taken > LARGE_BYTES, "{taken}");
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_cut_although_it_makes_progress() {
    for slow_write_bytes in [None, Some(LARGE_BYTES)] {
        let running = start(ConnectionLimits { slow_write: Duration::from_millis(300), slow_write_bytes, ..long() }).await;
        let mut client = running.connect().await;
        // An answer that is read quickly does not start the limit.
        send(&mut client, PEER).await;
        answer(&mut client).await;
        send(&mut client, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut taken, mut chunk) = (0, vec![0; 64 << 10]);
        let mut every = tokio::time::interval(Duration::from_millis(5));
        let until = Instant::now() + PATIENCE;
        while running.metrics.open() > 0 {
            assert!(Instant::now() < until, "the connection stays open");
            every.tick().await;
            taken += client.read(&mut chunk).await.unwrap_or(0);
        }
        assert_eq!(running.metrics.cut_total(Cut::Write), 1);
        assert!(taken < LARGE_BYTES);
    }
}

#[tokio::test]
async fn an_answer_takes_as_long_as_it_has_to_while_the_client_keeps_the_pace() {
    let limits = ConnectionLimits { slow_write: Duration::from_secs(2), slow_write_bytes: Some(1 << 20), ..long() };
    let running = start(limits).await;
    let mut client = running.connect().await;
    send(&mut client, "GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let (begun, mut taken) = (Instant::now(), 0);
    let mut every = tokio::time::interval(Duration::from_millis(80));
    loop {
        every.tick().await;
        let mut part = Vec::new();
        match timeout(PATIENCE, (&mut client).take(1 << 20).read_to_end(&mut part)).await.unwrap().unwrap() {
            0 => break,
            read => taken += read,
        }
    }
    assert!(taken > LARGE_BYTES, "{taken}");
    assert!(begun.elapsed() > Duration::from_secs(4), "it took several times the limit: {:?}", begun.elapsed());
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_open() {
    let running = start(ConnectionLimits { max_connections: 2, ..long() }).await;
    let mut first = running.connect().await;
    let mut second = running.connect().await;
    for client in [&mut first, &mut second] {
        send(client, PEER).await;
        answer(client).await;
    }
    let mut third = running.connect().await;
    send(&mut third, PEER).await;
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(200), third.read(&mut byte)).await.is_err(), "a third was served");
    assert_eq!((running.metrics.open(), running.metrics.cap_reached_total()), (2, 1));
    drop(first);
    assert!(answer(&mut third).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431() {
    let running = start(long()).await;
    let mut client = running.connect().await;
    send(&mut client, &format!("GET /peer HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(60 << 10))).await;
    assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
    let mut client = running.connect().await;
    // The server may close the connection before the whole head is sent.
    let _ = client.write_all(format!("GET /peer HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(65 << 10)).as_bytes()).await;
    assert!(answer(&mut client).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn long_heads_share_a_memory() {
    // hyper's buffer grows to 64 KiB for each of these heads.
    let running = start(ConnectionLimits { heads_bytes: 160 << 10, ..long() }).await;
    let request = |bytes: usize| format!("GET /peer HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    let (mut first, mut second) = (running.connect().await, running.connect().await);
    for client in [&mut first, &mut second] {
        send(client, &request(40 << 10)).await;
        assert!(answer(client).await.starts_with("HTTP/1.1 200"));
    }
    // Both connections keep their shares.
    let mut third = running.connect().await;
    // The server may close the connection before the whole head is sent.
    let _ = third.write_all(request(60 << 10).as_bytes()).await;
    closed(&mut third).await;
    assert_eq!(running.metrics.cut_total(Cut::Memory), 1);
    let mut fourth = running.connect().await;
    for client in [&mut first, &mut fourth] {
        for bytes in [7 << 10, 1, 7 << 10] {
            send(client, &request(bytes)).await;
            assert!(answer(client).await.starts_with("HTTP/1.1 200"), "a short head needs no share");
        }
    }
    drop((first, second));
    let until = Instant::now() + PATIENCE;
    while running.metrics.open() > 1 {
        assert!(Instant::now() < until, "the connections stay open");
        tokio::task::yield_now().await;
    }
    let mut fifth = running.connect().await;
    send(&mut fifth, &request(60 << 10)).await;
    assert!(answer(&mut fifth).await.starts_with("HTTP/1.1 200"));
    assert_eq!(running.metrics.cut_total(Cut::Memory), 1);
}

#[tokio::test]
async fn a_read_does_not_fill_the_buffer_which_hyper_would_then_enlarge() {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(&vec![b'x'; 100 << 10]).await.unwrap();
    let mut guard = Guard::new(server, Phase::default(), long(), Heads::new(1 << 20).share(), ConnectionMetrics::default());
    let mut buffer = vec![0; MIN_BUFFER_BYTES];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), MIN_BUFFER_BYTES - 1);
}

#[tokio::test]
async fn a_shutdown_closes_idle_connections_and_finishes_requests_under_way() {
    let mut running = start(long()).await;
    let mut fresh = running.connect().await;
    let mut idle = running.connect().await;
    send(&mut idle, PEER).await;
    answer(&mut idle).await;
    let mut busy = running.connect().await;
    send(&mut busy, SLOW).await;
    running.slow_began().await;
    running.shutdown.cancel();
    closed(&mut fresh).await;
    closed(&mut idle).await;
    assert!(!running.task.is_finished());
    assert!(TcpStream::connect(running.address).await.is_err(), "new clients are refused");
    running.release.cancel();
    assert!(answer(&mut busy).await.ends_with("slow"));
    closed(&mut busy).await;
    timeout(PATIENCE, running.task).await.expect("serving goes on").unwrap();
    assert_eq!(running.metrics.open(), 0);
}

#[tokio::test]
async fn while_lingering_a_kept_connection_gets_one_more_answer_with_connection_close() {
    let running = start(ConnectionLimits { linger: PATIENCE * 2, ..long() }).await;
    let mut kept = running.connect().await;
    send(&mut kept, PEER).await;
    assert!(!answer(&mut kept).await.to_ascii_lowercase().contains("connection: close"));
    running.shutdown.cancel();
    send(&mut kept, PEER).await;
    let last = answer(&mut kept).await;
    assert!(last.starts_with("HTTP/1.1 200 OK") && last.to_ascii_lowercase().contains("connection: close"), "{last}");
    closed(&mut kept).await;
    // A client that has not been told to close yet is served as well.
    let mut late = running.connect().await;
    send(&mut late, PEER).await;
    assert!(answer(&mut late).await.starts_with("HTTP/1.1 200 OK"));
    closed(&mut late).await;
    assert!(!running.task.is_finished());
}

#[tokio::test]
async fn lingering_ends_and_closes_what_stayed_idle() {
    let linger = Duration::from_millis(300);
    let running = start(ConnectionLimits { linger, ..long() }).await;
    let mut idle = running.connect().await;
    send(&mut idle, PEER).await;
    answer(&mut idle).await;
    let since = Instant::now();
    running.shutdown.cancel();
    closed(&mut idle).await;
    assert!(since.elapsed() >= linger, "{:?}", since.elapsed());
    timeout(PATIENCE, running.task).await.expect("serving goes on").unwrap();
    assert!(TcpStream::connect(running.address).await.is_err(), "new clients are refused");
}

#[tokio::test]
async fn a_request_under_way_has_all_of_the_drain_time_after_the_linger_time() {
    // As long as each other. The drain time is long enough for an answer on a busy machine.
    let time = Duration::from_secs(3);
    let mut running = start(ConnectionLimits { linger: time, drain: time, ..long() }).await;
    let mut idle = running.connect().await;
    send(&mut idle, PEER).await;
    answer(&mut idle).await;
    let mut busy = running.connect().await;
    send(&mut busy, SLOW).await;
    running.slow_began().await;
    running.shutdown.cancel();
    // Idle connections are closed at the end of the linger time.
    closed(&mut idle).await;
    running.release.cancel();
    assert!(answer(&mut busy).await.ends_with("slow"));
    timeout(PATIENCE, running.task).await.expect("serving goes on").unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_finish_within_the_drain_time_is_cut() {
    let mut running = start(ConnectionLimits { drain: Duration::from_millis(200), ..long() }).await;
    let mut busy = running.connect().await;
    send(&mut busy, SLOW).await;
    running.slow_began().await;
    running.shutdown.cancel();
    timeout(PATIENCE, running.task).await.expect("serving goes on").unwrap();
    closed(&mut busy).await;
    assert_eq!(running.metrics.open(), 0);
}
