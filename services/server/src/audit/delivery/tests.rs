//! The courier with a queue in memory and a sink that fails as it is told, on paused time.

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::Registry;
use uuid::Uuid;

use super::*;
use crate::audit::figures::Families;
use crate::audit::outbox::memory::{Entry, Queue};
use crate::audit::sinks::Pace;

type Script = dyn Fn(&Delivery, Duration) -> (Duration, Result<(), Fault>) + Send + Sync;

/// Answers each event as its script says, given the time since the start, and remembers what it took.
struct Scripted {
    pace: Pace,
    start: Instant,
    script: Box<Script>,
    taken: Mutex<Vec<Bytes>>,
    tries: Mutex<Vec<(Duration, Bytes)>>,
}

#[async_trait]
impl Sink for Scripted {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    async fn deliver(&self, batch: &[Delivery]) -> Result<(), Fault> {
        for delivery in batch {
            let now = self.start.elapsed();
            self.tries.lock().unwrap().push((now, delivery.body.clone()));
            let (takes, result) = (self.script)(delivery, now);
            tokio::time::sleep(takes).await;
            result?;
            self.taken.lock().unwrap().push(delivery.body.clone());
        }
        Ok(())
    }
}

struct Scene {
    queue: Arc<Queue>,
    sink: Arc<Scripted>,
    figures: Figures,
    stop: CancellationToken,
    courier: tokio::task::JoinHandle<()>,
}

const WEBHOOK: Pace = Pace { batch: 1, at_once: 8 };
const FILE: Pace = Pace { batch: 512, at_once: 1 };

fn scene(
    pace: Pace,
    retention: Duration,
    script: impl Fn(&Delivery, Duration) -> (Duration, Result<(), Fault>) + Send + Sync + 'static,
) -> Scene {
    let sink =
        Arc::new(Scripted { pace, start: Instant::now(), script: Box::new(script), taken: Mutex::default(), tries: Mutex::default() });
    let figures = Families::register(&Registry::new()).unwrap().of("webhook");
    let (queue, stop) = (Queue::new(10_000), CancellationToken::new());
    let courier = Courier::new(Arc::<Queue>::clone(&queue), Arc::<Scripted>::clone(&sink), figures.clone(), retention);
    let courier = tokio::spawn(courier.run(stop.clone()));
    Scene { queue, sink, figures, stop, courier }
}

impl Scene {
    fn push(&self, events: std::ops::Range<usize>) {
        for event in events {
            assert!(self.queue.push(Entry { id: Uuid::now_v7(), body: event.to_string().into(), traceparent: None }));
        }
    }

    /// Waits until the queue is empty; paused time makes this quick.
    async fn emptied(&self) {
        while self.queue.len() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn taken(&self) -> Vec<usize> {
        self.sink.taken.lock().unwrap().iter().map(|body| std::str::from_utf8(body).unwrap().parse().unwrap()).collect()
    }
}

fn down() -> Result<(), Fault> {
    Err(Fault::Down { reason: "down".into() })
}

fn failed() -> Result<(), Fault> {
    Err(Fault::Failed { reason: "failed".into(), retry_after: None })
}

const LONG: Duration = Duration::from_hours(48);
const SHORT: Duration = Duration::from_millis(3);

#[tokio::test(start_paused = true)]
async fn a_sink_that_was_down_gets_every_event_once_and_is_not_pestered() {
    for pace in [WEBHOOK, FILE] {
        let scene = scene(pace, LONG, |_, now| (SHORT, if now < Duration::from_mins(5) { down() } else { Ok(()) }));
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
        if pace.at_once == 1 {
            assert_eq!(taken, sorted, "one at a time keeps the order");
        }
        assert_eq!((scene.figures.delivered.get(), scene.figures.dead.get()), (2000, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_event_stops_no_other() {
    let scene = scene(WEBHOOK, LONG, |delivery, now| {
        let stuck = delivery.body == "3" && now < Duration::from_secs(20);
        if stuck { (Duration::from_secs(5), failed()) } else { (SHORT, Ok(())) }
    });
    scene.push(0..200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.taken().len(), 199);
    scene.emptied().await;
    assert_eq!(scene.taken().last(), Some(&3));
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_given_up_after_five_tries_and_the_others_are_not() {
    let scene = scene(WEBHOOK, LONG, |delivery, _| {
        (SHORT, if delivery.body == "1" { Err(Fault::Refused { reason: "410".into() }) } else { Ok(()) })
    });
    scene.push(0..50);
    scene.emptied().await;
    assert_eq!(scene.sink.tries.lock().unwrap().iter().filter(|(_, body)| body == "1").count(), 5);
    assert_eq!((scene.figures.delivered.get(), scene.figures.dead.get()), (49, 1));
}

#[tokio::test(start_paused = true)]
async fn an_event_too_old_is_given_up() {
    let scene = scene(WEBHOOK, Duration::from_mins(10), |_, _| (SHORT, failed()));
    scene.push(0..3);
    scene.emptied().await;
    let age = scene.sink.start.elapsed();
    assert!((Duration::from_mins(10)..Duration::from_mins(15)).contains(&age), "{age:?}");
    assert_eq!(scene.figures.dead.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_for_the_whole_sink() {
    let scene = scene(WEBHOOK, LONG, |_, now| {
        let busy = Err(Fault::Failed { reason: "429".into(), retry_after: Some(Duration::from_secs(40)) });
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
async fn the_end_of_the_process_waits_for_what_only_it_holds() {
    let scene = scene(WEBHOOK, LONG, |_, now| (SHORT, if now < Duration::from_secs(31) { failed() } else { Ok(()) }));
    scene.push(0..100);
    // By now the next try is far away.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let asked = Instant::now();
    scene.stop.cancel();
    scene.courier.await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(scene.sink.taken.lock().unwrap().len(), 100);
}
