//! Clients that write during a fault and know exactly what must be stored afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use golectra_protocol::{hash, header};
use golectra_tests::{Client, fresh_key, until};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::release::{Release, answer};

const WRITERS: usize = 4;

/// Time limit for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a write with all of its tries: longer than a failover may take.
const TRIED_AT_MOST: Duration = Duration::from_mins(6);

/// Pause between two writes of one client.
const PAUSE: Duration = Duration::from_millis(20);

/// Running writers.
pub struct Load {
    stop: Arc<AtomicBool>,
    counter: String,
    writers: Vec<JoinHandle<Tally>>,
}

/// The outcome of the writes of one client, or of all.
#[derive(Debug, Default)]
pub struct Tally {
    /// The time of each acknowledgement.
    pub acknowledged: Vec<Instant>,
    /// The sum of the acknowledged writes.
    pub sum: i64,
    /// Tries that were refused or not answered, with the reason.
    pub failed: Vec<String>,
    /// Writes sent again because a kept connection was closed before the answer. A client without idempotency keys would have lost
    /// them.
    pub resent: usize,
}

impl Load {
    /// Starts writers that add to a counter of this name, each as a source of its own.
    pub async fn start(release: &Release, counter: &str) -> Self {
        let (url, key) = (release.url().await, release.key().await);
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS).map(|writer| {
            let writer = Writer {
                http: reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build().expect("a client can be built"),
                url: format!("{url}/updates"),
                key: key.clone(),
                source: format!("load-{writer}"),
                counter: counter.to_owned(),
            };
            tokio::spawn(writer.write_until(Arc::clone(&stop)))
        });
        Self { counter: counter.to_owned(), writers: writers.collect(), stop }
    }

    /// Keeps writing for this time.
    pub async fn go_on(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a writer gave up");
    }

    /// Stops the writers and compares the stored values with the acknowledged ones.
    pub async fn finish(self, client: &Client) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for (index, writer) in self.writers.into_iter().enumerate() {
            let tally = writer.await.expect("a writer does not panic");
            let mut stored = 0;
            until("the series can be read", Duration::from_mins(2), async || {
                let path = format!("/api/v1/latest?source=load-{index}&name={}", self.counter);
                let Some(answer) = answer(client, &path).await else { return false };
                stored = answer.json()["series"][0]["delta"].as_i64().unwrap_or(0);
                true
            })
            .await;
            assert_eq!(stored, tally.sum, "load-{index}: stored is not what was acknowledged");
            all.acknowledged.extend(tally.acknowledged);
            all.sum += tally.sum;
            all.failed.extend(tally.failed);
            all.resent += tally.resent;
        }
        all.acknowledged.sort();
        assert!(all.acknowledged.len() > 50, "there was a load: {} writes", all.acknowledged.len());
        all
    }
}

impl Tally {
    /// The longest time without an acknowledgement.
    pub fn longest_gap(&self) -> Duration {
        self.acknowledged.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

struct Writer {
    http: reqwest::Client,
    url: String,
    key: String,
    source: String,
    counter: String,
}

impl Writer {
    async fn write_until(self, stop: Arc<AtomicBool>) -> Tally {
        let mut tally = Tally::default();
        let mut delta = 0;
        while !stop.load(Ordering::Relaxed) {
            delta = delta % 9 + 1;
            self.write(delta, &mut tally).await;
            tokio::time::sleep(PAUSE).await;
        }
        tally
    }

    /// Makes one write, retried with the same key until it is acknowledged.
    async fn write(&self, delta: i64, tally: &mut Tally) {
        let (start, key) = (Instant::now(), fresh_key());
        let body = json!([{"id": self.counter, "type": "counter", "delta": delta}]).to_string();
        let mut already_closed = false;
        loop {
            let request = self.http.post(&self.url).header(header::SOURCE, &self.source).header(header::IDEMPOTENCY_KEY, &key);
            let signed = request.header(header::HASH_SHA256, hash::body_hash(body.as_bytes(), self.key.as_bytes()));
            let failure = match signed.body(body.clone()).send().await {
                Ok(answer) if answer.status() == 200 => break,
                Ok(answer) => format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                // A kept connection may be closed while a request is sent on it; the key makes a retry safe.
                Err(error) if !error.is_connect() && !error.is_timeout() && !already_closed => {
                    already_closed = true;
                    tally.resent += 1;
                    continue;
                }
                Err(error) => format!("{error:?}"),
            };
            tally.failed.push(failure);
            assert!(start.elapsed() < TRIED_AT_MOST, "{} was not taken within {TRIED_AT_MOST:?}: {:?}", self.source, tally.failed.last());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tally.acknowledged.push(Instant::now());
        tally.sum += delta;
    }
}
