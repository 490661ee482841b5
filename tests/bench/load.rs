//! Load: many connections on one thread, closed (the next request follows the answer) or open (at a pace of its own).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use golectra_loadgen::{Address, Answer, Connection, Failure};
use golectra_tests::statistics::percentile;

use crate::bodies::Pool;
use crate::wire::Turn;

/// How long a connection and an answer may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long answers may be awaited after the time of a run is over.
const GRACE: Duration = Duration::from_mins(1);

/// What a run sends.
pub struct Plan<'a> {
    /// Where to; connections are spread over them.
    pub addresses: &'a [Address],
    pub connections: usize,
    /// Requests a second. None: as fast as answers come.
    pub pace: Option<f64>,
    /// When it ends; earlier when there are no more bodies.
    pub seconds: f64,
    pub pool: &'a Pool,
    /// Which of its bodies.
    pub bodies: Range<usize>,
}

/// An accepted request.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// When it was sent, since the start.
    pub sent_micros: u32,
    /// How long its answer took.
    pub micros: u32,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// 429 and 503 that don't say when to come back.
    pub without_retry_after: u64,
    /// Requests without an answer: the connection failed.
    pub broken: u64,
    /// The 2xx.
    pub accepted: Vec<Accepted>,
    /// Metrics in accepted requests.
    pub metrics: u64,
    /// What accepted requests added to counters.
    pub deltas: u64,
    /// What all requests would have added to counters.
    pub issued_deltas: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// When it began.
    pub start: Option<Instant>,
}

impl Tally {
    /// How long accepted requests took, at this share of them, in milliseconds.
    pub fn latency_millis(&self, share: f64) -> f64 {
        let mut micros: Vec<u32> = self.accepted.iter().map(|one| one.micros).collect();
        f64::from(percentile(&mut micros, share).unwrap_or(0)) / 1000.0
    }

    /// Requests that were sent.
    pub fn requests(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.broken
    }

    /// Requests that were refused or not answered.
    pub fn not_accepted(&self) -> u64 {
        self.requests() - self.accepted.len() as u64
    }

    /// Panics unless every request was accepted.
    pub fn all_accepted(&self, what: &str) {
        let others = self.not_accepted();
        assert_eq!(others, 0, "{what}: not every request was accepted: {:?}, {} without an answer", self.answers, self.broken);
        assert!(!self.accepted.is_empty(), "{what}: nothing was sent");
    }
}

/// Sends what is planned, each request as `write` writes it.
pub fn run(plan: &Plan<'_>, write: &dyn Fn(&mut Vec<u8>, Turn)) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let limit = Duration::from_secs_f64(plan.seconds) + GRACE;
    runtime.block_on(async {
        tokio::time::timeout(limit, send_all(plan, write)).await.expect("every request is answered or cut within a minute")
    })
}

async fn send_all(plan: &Plan<'_>, write: &dyn Fn(&mut Vec<u8>, Turn)) -> Tally {
    let mut connections = Vec::new();
    for number in 0..plan.connections {
        let connection = Connection::open(&plan.addresses[number % plan.addresses.len()], LIMIT).await;
        let connection = connection.expect("the server accepts connections");
        connections.push((number, connection));
    }
    let tally = RefCell::new(Tally::default());
    let next = Cell::new(plan.bodies.start);
    let start = Instant::now();
    let work: FuturesUnordered<_> =
        connections.into_iter().map(|(number, connection)| one_connection(plan, write, number, connection, &next, start, &tally)).collect();
    work.collect::<Vec<()>>().await;
    let mut tally = tally.into_inner();
    tally.seconds = start.elapsed().as_secs_f64();
    tally.start = Some(start);
    tally
}

async fn one_connection(
    plan: &Plan<'_>,
    write: &dyn Fn(&mut Vec<u8>, Turn),
    number: usize,
    connection: Connection,
    next: &Cell<usize>,
    start: Instant,
    tally: &RefCell<Tally>,
) {
    let end = start + Duration::from_secs_f64(plan.seconds);
    let last = plan.bodies.end.min(plan.pool.len());
    let address = &plan.addresses[number % plan.addresses.len()];
    let (mut connection, mut request) = (Some(connection), Vec::new());
    loop {
        let index = next.get();
        if index >= last || Instant::now() >= end {
            return;
        }
        next.set(index + 1);
        if let Some(pace) = plan.pace {
            #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
            let due = start + Duration::from_secs_f64((index - plan.bodies.start) as f64 / pace);
            if due >= end {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
        request.clear();
        write(&mut request, Turn { index, connection: number });
        let sent = Instant::now();
        let answer = exchange(&mut connection, address, &request).await;
        let took = sent.elapsed();
        let mut tally = tally.borrow_mut();
        tally.issued_deltas += plan.pool.payloads[index].deltas;
        let Ok(answer) = answer else {
            tally.broken += 1;
            continue;
        };
        *tally.answers.entry(answer.status).or_default() += 1;
        if (200..300).contains(&answer.status) {
            tally.accepted.push(Accepted { sent_micros: micros(sent - start), micros: micros(took) });
            tally.metrics += plan.pool.metrics_each as u64;
            tally.deltas += plan.pool.payloads[index].deltas;
        } else if answer.retry_after.is_none() && [429, 503].contains(&answer.status) {
            tally.without_retry_after += 1;
        }
    }
}

/// Sends a request on the connection, or on a new one where the last was closed.
pub async fn exchange(connection: &mut Option<Connection>, address: &Address, request: &[u8]) -> Result<Answer, Failure> {
    let mut open = match connection.take().filter(Connection::is_open) {
        Some(open) => open,
        None => Connection::open(address, LIMIT).await?,
    };
    let answer = open.exchange(request, LIMIT, false).await?;
    *connection = Some(open);
    Ok(answer)
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
