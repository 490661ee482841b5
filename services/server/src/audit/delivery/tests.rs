//! The worker with a queue in memory and a sink that fails as scripted, on paused time.

use std::sync::Mutex;

use async_trait::async_trait;
use prometheus::Registry;
use uuid::Uuid;

use super::*;
use crate::audit::draft::EventContent;
use crate::audit::metrics::AuditMetrics;
use crate::audit::outbox::memory::{MemoryOutbox, QueuedEvent};
use crate::audit::sinks::Concurrency;

/// How long the sink takes for the event of this number at this time since the start, and its answer.
type Script = dyn Fn(i64, Duration) -> (Duration, Result<(), DeliveryError>) + Send + Sync;

/// A sink that answers as scripted and records the events that it accepted.
struct Scripted {
    concurrency: Concurrency,
    start: Instant,
    script: Box<Script>,
    taken: Mutex<Vec<i64>>,
    tries: Mutex<Vec<(Duration, i64)>>,
    /// Bytes of the events that are being delivered: now, and the maximum.
    bytes: Mutex<(usize, usize)>,
}

#[async_trait]
impl Sink for Scripted {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn concurrency(&self) -> Concurrency {
        self.concurrency
    }

    async fn deliver(&self, batch: &[Delivery]) -> Result<(), DeliveryError> {
        let bytes: usize = batch.iter().map(|delivery| delivery.content.bytes()).sum();
        {
            let mut held = self.bytes.lock().unwrap();
            held.0 += bytes;
            held.1 = held.1.max(held.0);
        }
        let result = self.take(batch).await;
        self.bytes.lock().unwrap().0 -= bytes;
        result
    }
}

impl Scripted {
    async fn take(&self, batch: &[Delivery]) -> Result<(), DeliveryError> {
        for delivery in batch {
            let (number, now) = (delivery.content.ts, self.start.elapsed());
            self.tries.lock().unwrap().push((now, number));
            let (takes, result) = (self.script)(number, now);
            tokio::time::sleep(takes).await;
            result?;
            self.taken.lock().unwrap().push(number);
        }
        Ok(())
    }
}

struct Scene {
    queue: Arc<MemoryOutbox>,
    sink: Arc<Scripted>,
    metrics: SinkMetrics,
    stop: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
}

const WEBHOOK: Concurrency = Concurrency { batch: 1, calls: 8 };
const FILE: Concurrency = Concurrency { batch: 512, calls: 1 };

fn scene(
    concurrency: Concurrency,
    retention: Duration,
    script: impl Fn(i64, Duration) -> (Duration, Result<(), DeliveryError>) + Send + Sync + 'static,
) -> Scene {
    let sink = Arc::new(Scripted {
        concurrency,
        start: Instant::now(),
        script: Box::new(script),
        taken: Mutex::default(),
        tries: Mutex::default(),
        bytes: Mutex::default(),
    });
    let metrics = AuditMetrics::register(&Registry::new()).unwrap().of("webhook");
    let (queue, stop) = (MemoryOutbox::new(10_000, usize::MAX), CancellationToken::new());
    let worker = DeliveryWorker::new(Arc::<MemoryOutbox>::clone(&queue), Arc::<Scripted>::clone(&sink), metrics.clone(), retention);
    let worker = tokio::spawn(worker.run(stop.clone()));
    Scene { queue, sink, metrics, stop, worker }
}

impl Scene {
    fn push(&self, events: std::ops::Range<i64>) {
        self.push_named(events, "[]");
    }

    fn push_named(&self, events: std::ops::Range<i64>, names: &str) {
        let names: Arc<str> = names.into();
        for ts in events {
            let content = EventContent { ts, names: Arc::clone(&names), ip_address: "::1".into() };
            assert!(self.queue.push(QueuedEvent { id: Uuid::now_v7(), content, traceparent: None }));
        }
    }

    /// Waits until the queue is empty; paused time makes this quick.
    async fn emptied(&self) {
        while self.queue.len() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn taken(&self) -> Vec<i64> {
        self.sink.taken.lock().unwrap().clone()
    }
}

fn down() -> Result<(), DeliveryError> {
    Err(DeliveryError::Down { reason: "down".into() })
}

fn failed() -> Result<(), DeliveryError> {
    Err(DeliveryError::Failed { reason: "failed".into(), retry_after: None })
}

const LONG: Duration = Duration::from_hours(48);
const SHORT: Duration = Duration::from_millis(3);

#[tokio::test(start_paused = true)]
async fn a_sink_that_was_down_gets_every_event_once_after_few_tries() {
    for concurrency in [WEBHOOK, FILE] {
        let scene = scene(concurrency, LONG, |_, now| (SHORT, if now < Duration::from_mins(5) { down() } else { Ok(()) }));
        scene.push(0..1000);
        tokio::time::sleep(Duration::from_secs(299)).await;
        let distinct: std::collections::BTreeSet<Duration> = scene.sink.tries.lock().unwrap().iter().map(|(at, _)| *at).collect();
        assert!((5..=20).contains(&distinct.len()), "{distinct:?}");
        scene.push(1000..2000);
        scene.emptied().await;
        assert!(scene.sink.start.elapsed() < Duration::from_secs(300 + 62));
        let taken = scene.taken();
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..2000).collect::<Vec<_>>());
        if concurrency.calls == 1 {
            assert_eq!(taken, sorted, "the order is kept when there is one delivery at a time");
        }
        assert_eq!((scene.metrics.delivered.get(), scene.metrics.dead.get()), (2000, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_event_does_not_delay_the_others() {
    let scene = scene(WEBHOOK, LONG, |number, now| {
        let stuck = number == 3 && now < Duration::from_secs(20);
        if stuck { (Duration::from_secs(5), failed()) } else { (SHORT, Ok(())) }
    });
    scene.push(0..200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.taken().len(), 199);
    scene.emptied().await;
    assert_eq!(scene.taken().last(), Some(&3));
}

#[tokio::test(start_paused = true)]
async fn only_the_refused_event_is_given_up_after_five_tries() {
    let scene =
        scene(WEBHOOK, LONG, |number, _| (SHORT, if number == 1 { Err(DeliveryError::Refused { reason: "410".into() }) } else { Ok(()) }));
    scene.push(0..50);
    scene.emptied().await;
    assert_eq!(scene.sink.tries.lock().unwrap().iter().filter(|(_, number)| *number == 1).count(), 5);
    assert_eq!((scene.metrics.delivered.get(), scene.metrics.dead.get()), (49, 1));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_old_is_given_up() {
    let scene = scene(WEBHOOK, Duration::from_mins(10), |_, _| (SHORT, failed()));
    scene.push(0..3);
    scene.emptied().await;
    let age = scene.sink.start.elapsed();
    assert!((Duration::from_mins(10)..Duration::from_mins(15)).contains(&age), "{age:?}");
    assert_eq!(scene.metrics.dead.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_for_the_whole_sink() {
    let scene = scene(WEBHOOK, LONG, |_, now| {
        let busy = Err(DeliveryError::Failed { reason: "429".into(), retry_after: Some(Duration::from_secs(40)) });
        (SHORT, if now < Duration::from_secs(1) { busy } else { Ok(()) })
    });
    scene.push(0..100);
    scene.emptied().await;
    let tries = scene.sink.tries.lock().unwrap();
    assert!(tries.iter().all(|(at, _)| *at < Duration::from_secs(1) || *at >= Duration::from_secs(40)), "{tries:?}");
    assert!(tries.iter().filter(|(at, _)| *at < Duration::from_secs(1)).count() <= 8);
    drop(tries);
    assert_eq!(scene.taken().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_events_that_would_be_lost_with_the_process() {
    let scene = scene(WEBHOOK, LONG, |_, now| (SHORT, if now < Duration::from_secs(31) { failed() } else { Ok(()) }));
    scene.push(0..100);
    // By now the next try is a long time away.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let asked = Instant::now();
    scene.stop.cancel();
    scene.worker.await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(scene.sink.taken.lock().unwrap().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn only_a_few_large_events_are_held_in_memory() {
    for concurrency in [WEBHOOK, FILE] {
        let scene = scene(concurrency, LONG, |_, _| (SHORT, Ok(())));
        scene.push_named(0..40, &"x".repeat(CLAIM_BYTES / 4));
        scene.emptied().await;
        assert_eq!(scene.taken().len(), 40);
        let most = scene.sink.bytes.lock().unwrap().1;
        assert!(most < 2 * CLAIM_BYTES, "{most} bytes at the same time");
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_wait_too_long_behind_slow_ones_are_returned_and_delivered_once() {
    // With eight deliveries of 6 s at a time, the last of 64 claimed events would begin after its lease.
    let scene = scene(WEBHOOK, LONG, |_, _| (Duration::from_secs(6), Ok(())));
    scene.push(0..200);
    scene.emptied().await;
    let mut taken = scene.taken();
    taken.sort_unstable();
    assert_eq!(taken, (0..200).collect::<Vec<_>>());
    assert!(scene.sink.start.elapsed() < Duration::from_secs(200 / 8 * 6 + 10), "no event waits for a lease to end");
}
