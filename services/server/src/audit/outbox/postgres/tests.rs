//! The outbox in a real database; each test has its own database.

mod away;
mod database;
mod name_lists;
mod size;

use std::collections::BTreeSet;

use golectra_protocol::audit::Event;
use golectra_protocol::{Metric, MetricId, Value};
use prometheus::Registry;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use self::database::Database;
use super::hook::insert;
use super::*;
use crate::audit::delivery::DeliveryWorker;
use crate::audit::metrics::AuditMetrics;
use crate::audit::sinks::{Concurrency, DeliveryError, Sink, file::FileSink};
use crate::audit::{Draft, NameList};

const BOTH: [&str; 2] = ["webhook", "file:here"];

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Bounds that remove nothing.
const WIDE: Bounds =
    Bounds { retention: Duration::from_hours(48), dead_letter_retention: Duration::from_hours(7 * 24), max_bytes: u64::MAX };

/// An event whose JSON needs escapes, and whose names are repeated.
fn draft(number: i64) -> Draft {
    named(number, &["b\"\\"])
}

/// An event of these metrics, whose names are repeated.
fn named(number: i64, ids: &[&str]) -> Draft {
    let metric = |id: &&str| Metric { id: MetricId::parse(id).unwrap(), value: Value::Counter(1) };
    let names = Arc::new(NameList::of(&ids.iter().map(metric).collect()));
    let ip_address = std::net::Ipv6Addr::LOCALHOST.into();
    Draft { ts: number, ip_address, names, repeated: true, traceparent: Some(TRACEPARENT.into()) }
}

/// An event of these metrics, whose names are new.
fn first_named(number: i64, ids: &[&str]) -> Draft {
    Draft { repeated: false, ..named(number, ids) }
}

/// The JSON of a draft's only event.
fn json(draft: &Draft) -> String {
    let events: Vec<Vec<u8>> = draft.contents().map(|content| content.json()).collect();
    assert_eq!(events.len(), 1);
    String::from_utf8(events.concat()).unwrap()
}

impl Database {
    fn outbox(&self, sink: &str) -> PostgresOutbox {
        let (_, ready) = watch::channel(true);
        PostgresOutbox::new(self.connections(), ready, sink.to_owned(), Arc::new(Notify::new()))
    }

    async fn sweep(&self, bounds: &Bounds) -> Swept {
        sweep(&self.connections(), bounds).await.unwrap()
    }

    fn connections(&self) -> Connections {
        Connections { pool: self.pool.clone(), commits: Arc::default() }
    }

    async fn write(&self, numbers: std::ops::Range<i64>, sinks: &[&str]) {
        let names: Vec<String> = sinks.iter().map(|&name| name.to_owned()).collect();
        let wakes = names.iter().map(|_| Arc::new(Notify::new())).collect();
        let hook = Hook::new(names, wakes);
        for number in numbers {
            let mut transaction = self.pool.begin().await.unwrap();
            hook.in_transaction(&mut transaction, &[&draft(number)]).await.unwrap();
            transaction.commit().await.unwrap();
        }
    }

    /// Puts these events into the outbox in one transaction.
    async fn put(&self, drafts: &[Draft], sinks: &[&str]) {
        let names: Vec<String> = sinks.iter().map(|&name| name.to_owned()).collect();
        let mut transaction = self.pool.begin().await.unwrap();
        insert(&mut transaction, &drafts.iter().collect::<Vec<_>>(), &names, true).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn count(&self, table: &str) -> i64 {
        let sql = format!("select count(*) from {table}");
        sqlx::query_scalar(&sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }
}

fn all(claimed: &[Delivery], outcome: &DeliveryOutcome) -> Vec<Settlement> {
    claimed.iter().map(|delivery| Settlement { ticket: delivery.ticket, outcome: outcome.clone() }).collect()
}

fn numbers(claimed: &[Delivery]) -> Vec<i64> {
    claimed.iter().map(|delivery| serde_json::from_slice::<Event>(&delivery.content.json()).unwrap().ts).collect()
}

#[tokio::test]
async fn an_event_is_part_of_its_transaction() {
    let Some(database) = Database::new().await else { return };
    let mut transaction = database.pool.begin().await.unwrap();
    insert(&mut transaction, &[&draft(1)], &["webhook".to_owned()], true).await.unwrap();
    let outbox = database.outbox("webhook");
    assert!(outbox.claim(9).await.unwrap().is_empty(), "not before the commit");
    transaction.rollback().await.unwrap();
    assert!(outbox.claim(9).await.unwrap().is_empty(), "and never after a rollback");
    database.write(2..3, &BOTH).await;
    let claimed = outbox.claim(9).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].content.json(), br#"{"ts":2,"metrics":["b\"\\"],"ip_address":"::1"}"#.as_slice());
    assert_eq!(claimed[0].traceparent, draft(2).traceparent);
}

#[tokio::test]
async fn statements_that_are_planned_for_empty_tables_read_no_long_table_for_each_event() {
    const EVENTS: i64 = 4_000;
    let Some(database) = Database::new().await else { return };
    let outbox = database.outbox("webhook");
    let deliver = async || {
        let claimed = outbox.claim(500).await.unwrap();
        outbox.settle(&all(&claimed, &DeliveryOutcome::Delivered)).await.unwrap();
        claimed.len()
    };
    for _ in 0..2 {
        database.put(&(0..EVENTS).map(draft).collect::<Vec<_>>(), &["webhook"]).await;
        while deliver().await > 0 {
            database.sweep(&WIDE).await;
        }
        // A vacuum finds nothing in them, and keeps their pages: on a busy table it has no lock to cut them off. Statements are planned for what it found.
        database.run("vacuum (truncate off, analyze) outbox").await;
        database.run("vacuum (truncate off, analyze) deliveries").await;
    }
    let read = database.rows_read(&["outbox", "deliveries"]).await;
    assert!(read < 100 * EVENTS, "{read} rows and entries of indexes");
}

#[tokio::test]
async fn an_event_that_is_due_later_than_any_pause_is_due() {
    let Some(database) = Database::new().await else { return };
    database.write(1..4, &["webhook"]).await;
    // As if the database's clock had been set back by a day since the first was postponed; the second is paused for as long as may be.
    database.run("update deliveries set due_at = now() + interval '1 day' where event = (select min(event) from deliveries)").await;
    database.run("update deliveries set due_at = now() + interval '1 hour' where event = (select min(event) + 1 from deliveries)").await;
    let outbox = database.outbox("webhook");
    assert_eq!(numbers(&outbox.claim(9).await.unwrap()), [1, 3]);
    assert!(outbox.claim(9).await.unwrap().is_empty(), "now it is leased");
}

#[tokio::test]
async fn events_of_one_transaction_keep_their_order() {
    let Some(database) = Database::new().await else { return };
    let drafts: Vec<Draft> = (0..500).map(draft).collect();
    database.put(&drafts, &BOTH).await;
    for sink in BOTH {
        assert_eq!(numbers(&database.outbox(sink).claim(999).await.unwrap()), (0..500).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn each_sink_has_its_own_progress_and_events_that_all_sinks_have_are_removed() {
    let Some(database) = Database::new().await else { return };
    database.write(0..5, &BOTH).await;
    let (webhook, file) = (database.outbox("webhook"), database.outbox("file:here"));
    assert!(database.outbox("file:elsewhere").claim(9).await.unwrap().is_empty());
    let claimed = webhook.claim(9).await.unwrap();
    assert_eq!(numbers(&claimed), [0, 1, 2, 3, 4]);
    webhook.settle(&all(&claimed, &DeliveryOutcome::Delivered)).await.unwrap();
    assert_eq!((database.count("outbox").await, database.count("deliveries").await), (5, 5));
    assert_eq!(file.backlog().await.unwrap().events, 5);
    let claimed = file.claim(3).await.unwrap();
    file.settle(&all(&claimed, &DeliveryOutcome::Delivered)).await.unwrap();
    assert_eq!((database.count("outbox").await, database.count("deliveries").await), (2, 2));
    assert_eq!(numbers(&file.claim(9).await.unwrap()), [3, 4]);
}

#[tokio::test]
async fn sinks_that_finish_at_the_same_time_leave_no_rows() {
    let Some(database) = Database::new().await else { return };
    for _ in 0..20 {
        database.write(0..10, &BOTH).await;
        let (webhook, file) = (database.outbox("webhook"), database.outbox("file:here"));
        let (one, other) = (webhook.claim(99).await.unwrap(), file.claim(99).await.unwrap());
        let (one, other) = (all(&one, &DeliveryOutcome::Delivered), all(&other, &DeliveryOutcome::Delivered));
        let (one, other) = tokio::join!(webhook.settle(&one), file.settle(&other));
        one.and(other).unwrap();
        assert_eq!((database.count("outbox").await, database.count("deliveries").await), (0, 0));
    }
}

#[tokio::test]
async fn an_expired_lease_is_taken_over_and_its_former_holder_is_ignored() {
    let Some(database) = Database::new().await else { return };
    database.write(0..2, &["webhook"]).await;
    let (lost, other) = (database.outbox("webhook"), database.outbox("webhook"));
    let held = lost.claim(9).await.unwrap();
    assert!(other.claim(9).await.unwrap().is_empty());
    database.run("update deliveries set due_at = now() - interval '1 second'").await;
    let taken = other.claim(9).await.unwrap();
    assert_eq!(taken.iter().map(|d| d.id).collect::<Vec<_>>(), held.iter().map(|d| d.id).collect::<Vec<_>>());
    // A late failure would make the event due again while the other server delivers it.
    lost.settle(&all(&held, &DeliveryOutcome::NotTried)).await.unwrap();
    assert!(lost.claim(9).await.unwrap().is_empty());
    // A late success still counts.
    lost.settle(&all(&held[..1], &DeliveryOutcome::Delivered)).await.unwrap();
    other.settle(&all(&taken, &DeliveryOutcome::Delivered)).await.unwrap();
    assert_eq!((database.count("outbox").await, database.count("deliveries").await), (0, 0));
}

#[tokio::test]
async fn a_retry_waits_and_is_counted_but_a_returned_event_is_not() {
    let Some(database) = Database::new().await else { return };
    database.write(0..2, &["webhook"]).await;
    let outbox = database.outbox("webhook");
    let claimed = outbox.claim(9).await.unwrap();
    let settlements = [
        Settlement { ticket: claimed[0].ticket, outcome: DeliveryOutcome::Retry(Duration::from_mins(1)) },
        Settlement { ticket: claimed[1].ticket, outcome: DeliveryOutcome::NotTried },
    ];
    outbox.settle(&settlements).await.unwrap();
    let again = outbox.claim(9).await.unwrap();
    assert_eq!((again.len(), again[0].id, again[0].attempts), (1, claimed[1].id, 0));
    database.run("update deliveries set due_at = now()").await;
    let again = outbox.claim(1).await.unwrap();
    assert_eq!((again[0].id, again[0].attempts), (claimed[0].id, 1));
}

#[tokio::test]
async fn dead_letters_are_kept_until_their_time() {
    let Some(database) = Database::new().await else { return };
    database.write(0..2, &BOTH).await;
    let outbox = database.outbox("webhook");
    let claimed = outbox.claim(1).await.unwrap();
    outbox.settle(&all(&claimed, &DeliveryOutcome::GivenUp("it answered 410".into()))).await.unwrap();
    let letter: (Uuid, String, String, String) =
        sqlx::query_as("select event_id, sink, body, reason from audit_dead_letters").fetch_one(&database.pool).await.unwrap();
    assert_eq!(letter, (claimed[0].id, "webhook".into(), json(&draft(0)), "it answered 410".into()));
    assert_eq!(database.outbox("file:here").claim(9).await.unwrap().len(), 2, "the other sink still gets it");
    let hour = Duration::from_hours(1);
    let bounds = Bounds { retention: hour, dead_letter_retention: hour, ..WIDE };
    assert_eq!(database.sweep(&bounds).await.given_up, [].into());
    assert_eq!(database.count("dead_letters").await, 1);
    database.run("update dead_letters set died_at = now() - interval '2 hours'").await;
    let swept = database.sweep(&bounds).await;
    assert_eq!((database.count("dead_letters").await, swept.dead_letters_dropped), (0, [].into()));
}

#[tokio::test]
async fn events_of_a_server_that_does_not_return_are_given_up() {
    let Some(database) = Database::new().await else { return };
    database.write(0..3, &["file:gone"]).await;
    database
        .run("update outbox set created_at = now() - interval '49 hours'; update deliveries set created_at = now() - interval '49 hours'")
        .await;
    database.write(3..5, &["file:gone", "webhook"]).await;
    let outbox = database.outbox("file:gone");
    assert!(outbox.backlog().await.unwrap().oldest_seconds > 48.0 * 3600.0);
    assert_eq!(database.sweep(&WIDE).await.given_up, [("file:gone".to_owned(), 3)].into());
    assert_eq!((database.count("outbox").await, database.count("deliveries").await), (2, 4));
    let letters: Vec<(String, String)> =
        sqlx::query_as("select body, reason from audit_dead_letters order by event_id").fetch_all(&database.pool).await.unwrap();
    let expected = (0..3).map(|number| (json(&draft(number)), "not delivered in time".to_owned()));
    assert_eq!(letters, expected.collect::<Vec<_>>());
    assert!(outbox.backlog().await.unwrap().oldest_seconds < 3600.0);
    assert_eq!(database.sweep(&WIDE).await.given_up, [].into());
}

#[tokio::test]
async fn the_events_of_days_of_outage_are_given_up_in_one_sweep() {
    let Some(database) = Database::new().await else { return };
    // More events than one transaction handles. An earlier version handled only 1,000 in each sweep.
    let drafts: Vec<Draft> = (0..5000).map(draft).collect();
    database.put(&drafts, &["webhook"]).await;
    database.run("update outbox set created_at = now() - interval '49 hours'").await;
    assert_eq!(database.sweep(&WIDE).await.given_up, [("webhook".to_owned(), 5000)].into());
    assert_eq!((database.count("outbox").await, database.count("dead_letters").await), (0, 5000));
}

#[tokio::test]
async fn no_query_is_sent_to_a_database_that_is_not_ready() {
    let (sender, ready) = watch::channel(false);
    // Nothing listens at this address: a query would be an error.
    let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    let connections = Connections { pool, commits: Arc::default() };
    let outbox = PostgresOutbox::new(connections, ready, "webhook".into(), Arc::new(Notify::new()));
    assert!(outbox.claim(9).await.unwrap().is_empty());
    assert_eq!(outbox.backlog().await.unwrap(), Backlog::default());
    sender.send(true).unwrap();
    assert!(outbox.claim(9).await.is_err());
}

/// Records the events that it accepted. It accepts some of them only at the second try.
#[derive(Default)]
struct Unreliable(std::sync::Mutex<(BTreeSet<Uuid>, Vec<Uuid>)>);

#[async_trait]
impl Sink for Unreliable {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn concurrency(&self) -> Concurrency {
        Concurrency { batch: 1, calls: 8 }
    }

    async fn deliver(&self, batch: &[Delivery]) -> Result<(), DeliveryError> {
        let mut state = self.0.lock().unwrap();
        for delivery in batch {
            if delivery.content.ts % 2 == 0 && state.0.insert(delivery.id) {
                return Err(DeliveryError::Failed { reason: "not now".into(), retry_after: None });
            }
            state.1.push(delivery.id);
        }
        Ok(())
    }
}

#[tokio::test]
async fn two_servers_share_the_webhook_and_each_keeps_its_file() {
    let Some(database) = Database::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let sink = Arc::new(Unreliable::default());
    let stop = CancellationToken::new();
    let mut workers = Vec::new();
    for name in ["a", "b"] {
        let metrics = AuditMetrics::register(&Registry::new()).unwrap();
        let file: Arc<dyn Sink> = Arc::new(FileSink::new(folder.path().join(name)));
        let webhook: Arc<dyn Sink> = Arc::<Unreliable>::clone(&sink);
        for (name, sink) in [(format!("file:{name}"), file), ("webhook".to_owned(), webhook)] {
            let metrics = metrics.of(sink.name());
            let worker = DeliveryWorker::new(Arc::new(database.outbox(&name)), sink, metrics, Duration::from_hours(1));
            workers.push(tokio::spawn(worker.run(stop.clone())));
        }
    }
    tokio::join!(database.write(0..60, &["file:a", "webhook"]), database.write(60..100, &["file:b", "webhook"]));
    let emptied = async {
        while database.count("outbox").await > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_mins(1), emptied).await.expect("every event is delivered");
    stop.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
    let taken = sink.0.lock().unwrap().1.clone();
    assert_eq!((taken.len(), taken.iter().collect::<BTreeSet<_>>().len()), (100, 100), "each event once");
    assert!(!sink.0.lock().unwrap().0.is_empty());
    for (name, expected) in [("a", (0..60).collect::<Vec<i64>>()), ("b", (60..100).collect())] {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        let found: Vec<i64> = text.lines().map(|line| serde_json::from_str::<Event>(line).unwrap().ts).collect();
        assert_eq!(found, expected);
    }
}
