//! The schedule, the queue and the senders together: whatever the server does, the polls it counts are the polls made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use golectra_agent::batch::Sealer;
use golectra_agent::schedule::{self, Intervals};
use golectra_agent::ship::{self, Client, Signer};
use golectra_agent::spool::{Left, Limits, Memory, Queue};
use golectra_agent::stats::{DropReason, Stats};
use golectra_process::Secret;
use golectra_protocol::signature::{self, Claim};
use golectra_protocol::{Metric, MetricId, Source, Value, WindowError, hash};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::server::{Act, Request, Server};

/// An agent without collectors that polls and reports fast.
struct Agent {
    stop: CancellationToken,
    stats: Arc<Stats>,
    queue: Queue,
    running: JoinHandle<Left>,
}

impl Agent {
    fn start(address: &str, senders: usize, key: Option<&str>, batches: usize) -> Self {
        let stats = Arc::new(Stats::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
        let queue = Queue::new(Box::new(Memory::new(Limits { batches, bytes: 1 << 20 }, Arc::clone(&stats))));
        let stop = CancellationToken::new();
        let key = key.map(Secret::from);
        let client =
            Client::new(&address.parse().unwrap(), &Source::parse("node-1").unwrap(), key.clone(), Signer::with_key(key.as_ref())).unwrap();
        let running = {
            let (stats, queue, stop) = (Arc::clone(&stats), queue.clone(), stop.clone());
            tokio::spawn(async move {
                let senders = ship::start(client, queue.clone(), &stats, senders);
                let intervals = Intervals { poll: Duration::from_millis(20), report: Duration::from_millis(100) };
                let sample = async || vec![a_gauge()];
                schedule::run(intervals, sample, &mut Sealer::new(key), &queue, &stats, stop).await;
                queue.close();
                senders.hurry();
                senders.finish(Duration::from_secs(20)).await;
                queue.leave()
            })
        };
        Self { stop, stats, queue, running }
    }

    /// Stops the agent, which must have nothing left; how many polls it made.
    async fn finish(self) -> i64 {
        self.stop.cancel();
        assert_eq!(self.running.await.unwrap(), Left::default());
        i64::try_from(self.stats.polls()).unwrap()
    }
}

fn a_gauge() -> Metric {
    Metric { id: MetricId::parse("Alloc").unwrap(), value: Value::Gauge(1.5) }
}

/// The polls that the server counted are those that were made, after it misbehaved for the first requests.
async fn survives(senders: usize, act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Server {
    let server = Server::start(move |number, _| act(number)).await;
    let agent = Agent::start(&server.address, senders, None, 1000);
    server.wait_for("some polls", |ledger| ledger.polls >= 20).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
    server
}

#[tokio::test]
async fn a_server_that_works() {
    let server = Server::start_at("127.0.0.1:0", Some("key"), |_, _| Act::Apply).await;
    let agent = Agent::start(&server.address, 1, Some("key"), 1000);
    server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
    let polls = agent.finish().await;
    let ledger = server.ledger();
    assert_eq!(ledger.polls, polls);
    for request in &ledger.requests {
        assert!(request.head.starts_with("POST /updates HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("content-encoding"), Some("gzip"));
        assert_eq!(request.header("golectra-source"), Some("node-1"));
        assert!(hash::verify(&request.unpacked(), b"key", request.header("hashsha256").unwrap().as_bytes()));
        is_signed_now(request, b"key");
    }
    assert_eq!(ledger.applied.len(), ledger.requests.len(), "every report has a key of its own");
}

/// Fails unless the request is signed with this key under the id `default`.
fn is_signed_now(request: &Request, key: &[u8]) {
    let claim = Claim::parse(request.header("golectra-signature").expect("a signature").as_bytes()).unwrap();
    assert_eq!(claim.key_id(), "default");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    claim.check_time(now).unwrap();
    let signed = signature::Request {
        method: "POST",
        target: "/updates",
        source: b"node-1",
        idempotency_key: request.header("idempotency-key").unwrap().as_bytes(),
        body_digest: &hash::body_digest(&request.unpacked()),
    };
    claim.verify(&signed, key).unwrap();
}

#[tokio::test]
async fn each_try_is_signed_anew() {
    let refusal = r#"{"error":"Golectra-Signature does not match"}"#.to_owned();
    let act = move |number, _: &_| if number == 0 { Act::Refuse(401, "Retry-After: 1\r\n", refusal.clone()) } else { Act::Apply };
    let server = Server::start_at("127.0.0.1:0", Some("key"), act).await;
    let agent = Agent::start(&server.address, 1, Some("key"), 1000);
    server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
    let polls = agent.finish().await;
    let ledger = server.ledger();
    assert_eq!(ledger.polls, polls, "a refused signature loses nothing");
    let first = &ledger.requests[0];
    let second = ledger.requests[1..].iter().find(|request| request.key() == first.key()).expect("the batch comes again");
    assert_eq!((first.key(), &first.body, first.header("hashsha256")), (second.key(), &second.body, second.header("hashsha256")));
    assert_ne!(first.header("golectra-signature"), second.header("golectra-signature"));
    is_signed_now(first, b"key");
    is_signed_now(second, b"key");
}

#[tokio::test]
async fn a_server_that_comes_up_late() {
    let address = Server::reserve().await;
    let agent = Agent::start(&address, 2, None, 1000);
    tokio::time::timeout(Duration::from_secs(10), async {
        while agent.queue.fill().batches < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("reports queue up");
    let server = Server::start_at(&address, None, |_, _| Act::Apply).await;
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 8).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}

#[tokio::test]
async fn connections_closed_unanswered() {
    let server = survives(1, |number| if number == 0 { Act::Close } else { Act::Apply }).await;
    let tries = server.ledger().requests[..2].to_vec();
    assert_eq!(tries[0], tries[1], "the same batch comes again under its key");
    survives(4, |number| if number < 3 { Act::ApplyAndClose } else { Act::Apply }).await;
}

#[tokio::test]
async fn half_an_answer() {
    survives(1, |number| if number == 0 { Act::ApplyAndAnswerHalf } else { Act::Apply }).await;
    survives(1, |number| if number == 0 { Act::AnswerHalf } else { Act::Apply }).await;
}

#[tokio::test]
async fn a_server_that_hangs() {
    let server = survives(1, |number| if number == 0 { Act::ApplyAndHang } else { Act::Apply }).await;
    let ledger = server.ledger();
    assert_eq!(ledger.requests[0], ledger.requests[1], "the same bytes and headers come again");
}

#[tokio::test]
async fn refusals_that_pass_are_waited_for() {
    let too_new = format!(r#"{{"error":"{}"}}"#, WindowError::TooNew);
    let passing =
        [(401, ""), (404, ""), (429, ""), (500, ""), (503, ""), (307, ""), (400, r#"{"error":"invalid hash"}"#), (409, too_new.as_str())];
    let servers = passing.map(|(status, body)| {
        let body = body.to_owned();
        survives(1, move |number| match number {
            0 => Act::Refuse(status, "Location: /elsewhere\r\n", body.clone()),
            _ => Act::Apply,
        })
    });
    for server in together(servers).await {
        let ledger = server.ledger();
        assert_eq!(ledger.requests[0].key(), ledger.requests[1].key());
        assert!(ledger.requests.iter().all(|request| request.head.starts_with("POST /updates ")), "redirects are not followed");
    }
}

async fn together<F>(all: impl IntoIterator<Item = F>) -> Vec<Server>
where
    F: Future<Output = Server> + Send + 'static,
{
    let tasks: Vec<_> = all.into_iter().map(tokio::spawn).collect();
    let mut servers = Vec::new();
    for task in tasks {
        servers.push(task.await.unwrap());
    }
    servers
}

#[tokio::test]
async fn a_batch_refused_for_good_is_dropped_and_its_polls_go_into_the_next() {
    for (status, reason) in
        [(413, DropReason::TooLarge), (422, DropReason::KeyReused), (409, DropReason::TooOld), (400, DropReason::Invalid)]
    {
        let server = Server::start(move |number, _| match number {
            0 => Act::Refuse(status, "", r#"{"error":"no"}"#.to_owned()),
            _ => Act::Apply,
        })
        .await;
        let agent = Agent::start(&server.address, 1, None, 1000);
        server.wait_for("some polls", |ledger| ledger.polls >= 10).await;
        assert_eq!(agent.stats.dropped_so_far(reason), 1, "{status}");
        let polls = agent.finish().await;
        let ledger = server.ledger();
        assert_ne!(ledger.requests[0].key(), ledger.requests[1].key(), "{status}");
        assert_eq!(ledger.polls, polls, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let server = Server::start(|number, _| match number {
        0 => Act::Refuse(503, "Retry-After: 3\r\n", String::new()),
        _ => Act::Apply,
    })
    .await;
    let start = std::time::Instant::now();
    let agent = Agent::start(&server.address, 4, None, 1000);
    server.wait_for("the second try", |ledger| ledger.requests.len() >= 2).await;
    assert!(start.elapsed() >= Duration::from_secs(3));
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}

#[tokio::test]
async fn a_full_queue_keeps_every_count() {
    let address = Server::reserve().await;
    let agent = Agent::start(&address, 1, None, 3);
    tokio::time::timeout(Duration::from_secs(10), async {
        while agent.stats.dropped_so_far(DropReason::QueueFull) < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the queue overflows");
    let server = Server::start_at(&address, None, |_, _| Act::Apply).await;
    server.wait_for("the backlog", |ledger| ledger.applied.len() >= 5).await;
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}

#[tokio::test]
async fn an_answer_signed_with_another_key_is_not_believed() {
    let honest = Arc::new(AtomicBool::new(false));
    let wrong = {
        let honest = Arc::clone(&honest);
        Server::start(move |_, _| {
            if honest.load(Ordering::Relaxed) {
                Act::Apply
            } else {
                let forged = "HashSHA256: 0000000000000000000000000000000000000000000000000000000000000000\r\n";
                Act::Refuse(200, forged, r#"{"updated":1}"#.to_owned())
            }
        })
        .await
    };
    let agent = Agent::start(&wrong.address, 1, Some("key"), 1000);
    wrong.wait_for("two tries", |ledger| ledger.requests.len() >= 2).await;
    // Each try is signed anew; all else is the same to the byte.
    let unsigned = |request: &Request| {
        let head = request.head.lines().filter(|line| !line.starts_with("golectra-signature: ")).collect::<Vec<_>>().join("\n");
        (head, request.body.clone())
    };
    let tries: Vec<_> = wrong.ledger().requests[..2].iter().map(unsigned).collect();
    assert_eq!(tries[0], tries[1]);
    honest.store(true, Ordering::Relaxed);
    let polls = agent.finish().await;
    assert_eq!(wrong.ledger().polls, polls);
}

#[tokio::test]
async fn a_report_that_a_server_cannot_take_does_not_hold_up_the_others() {
    let (first_key, repaired) = (std::sync::OnceLock::new(), Arc::new(AtomicBool::new(false)));
    let server = {
        let repaired = Arc::clone(&repaired);
        Server::start(move |_, request| {
            let is_first = *first_key.get_or_init(|| request.key()) == request.key();
            if is_first && !repaired.load(Ordering::Relaxed) { Act::Refuse(500, "", String::new()) } else { Act::Apply }
        })
        .await
    };
    let agent = Agent::start(&server.address, 1, None, 1000);
    server.wait_for("the others", |ledger| ledger.applied.len() >= 5).await;
    repaired.store(true, Ordering::Relaxed);
    let polls = agent.finish().await;
    assert_eq!(server.ledger().polls, polls);
}
