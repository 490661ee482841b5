//! Batches that share a transaction: what one of them does wrong is its own affair.

use std::time::Instant;

use futures_util::future::join_all;
use golectra_protocol::{IdempotencyKey, Metric, Source};
use sqlx::{Executor, PgConnection};
use tokio::task::JoinHandle;

use super::*;
use crate::store::conformance::{batch, counter, gauge, name};

/// A store, and a database that can be made to stand still.
struct Lab {
    store: Arc<PostgresStore>,
    metrics: WriterMetrics,
    conn: PgConnection,
    database: TestDatabase,
}

impl Lab {
    async fn new(limits: Option<SeriesLimits>) -> Option<Self> {
        let database = TestDatabase::create().await?;
        let plain = config(database.dsn());
        Some(Self::open(PostgresConfig { limits: limits.unwrap_or(plain.limits), ..plain }, database).await)
    }

    /// One whose writes fail as soon as a server's do.
    async fn with_default_write_limits() -> Option<Self> {
        let database = TestDatabase::create().await?;
        Some(Self::open(config_with_default_limits(database.dsn()), database).await)
    }

    async fn open(config: PostgresConfig, database: TestDatabase) -> Self {
        let metrics = config.metrics.clone();
        let store = PostgresStore::open(config, Clock::System).unwrap();
        assert!(ready(&store).await);
        Self { store, metrics, conn: database.connect().await, database }
    }

    fn apply(&self, one: &Batch) -> JoinHandle<Result<Applied, StoreError>> {
        let (store, one) = (Arc::clone(&self.store), one.clone());
        tokio::spawn(async move { store.apply(one).await })
    }

    /// Applies all in one group: they queue behind another batch of their source, whose transaction stands still.
    async fn together(&mut self, source: &str, batches: &[Batch]) -> Vec<Result<Applied, StoreError>> {
        let before = self.metrics.batches.get_sample_count();
        self.conn.execute("BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE").await.unwrap();
        let first = self.apply(&fresh(source, vec![gauge("first", 1.0)]));
        let mut look = self.database.connect().await;
        until(async || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'gate'::regclass";
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut look).await.unwrap() > 0
        })
        .await;
        let all: Vec<_> = batches.iter().map(|one| self.apply(one)).collect();
        // Other sources may be the other writer's.
        let behind = batches.iter().filter(|one| one.source.as_str() == source).count() as u64;
        until(async || self.store.metrics().queue_depth >= behind).await;
        self.conn.execute("COMMIT").await.unwrap();
        assert_eq!(first.await.unwrap().unwrap(), Applied::New);
        let answers = join_all(all).await.into_iter().map(Result::unwrap).collect();
        assert!(self.metrics.batches.get_sample_count() - before < 2 + batches.len() as u64, "they did not share a transaction");
        answers
    }

    /// Makes every transaction that adds a frame wait for a lock.
    async fn with_gate(mut self) -> Self {
        self.run(
            "CREATE TABLE gate ();
            CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN LOCK TABLE gate IN SHARE MODE; RETURN NULL; END $$;
            CREATE TRIGGER wait_at_gate BEFORE INSERT ON frames FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate();",
        )
        .await;
        self
    }

    async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(sql).execute(&mut self.conn).await.unwrap();
    }

    async fn total(&self, id: &str) -> Option<Value> {
        self.store.value(&Selector { id: name(id), kind: golectra_protocol::Kind::Counter }).await.unwrap()
    }
}

/// Waits until it is so, 30 s at most.
async fn until(mut so: impl AsyncFnMut() -> bool) {
    let met = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), met).await.expect("it is so within 30 s");
}

/// A new batch sampled now.
fn fresh(source: &str, metrics: Vec<Metric>) -> Batch {
    batch(source, IdempotencyKey::at(Clock::System.unix_millis()), metrics)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overflow_is_refused_alone() {
    let Some(lab) = Lab::new(None).await else { return };
    let mut lab = lab.with_gate().await;
    lab.store.apply(fresh("a", vec![counter("c", i64::MAX - 10)])).await.unwrap();
    let guilty = fresh("a", vec![counter("c", 11), counter("other", 1), gauge("unseen", 1.0)]);
    let mut batches: Vec<_> = (0..5).map(|_| fresh("a", vec![counter("c", 1), counter("other", 1)])).collect();
    batches.insert(2, guilty);
    // Two deltas that don't fit together in the group either.
    batches.push(fresh("a", vec![counter("sum", i64::MAX)]));
    batches.push(fresh("a", vec![counter("sum", i64::MAX)]));
    batches.push(fresh("b", vec![counter("c", 1)]));
    let answers = lab.together("a", &batches).await;
    assert!(matches!(&answers[2], Err(StoreError::Overflow { id }) if id.as_str() == "c"), "{answers:?}");
    assert!(answers[6].is_ok() != answers[7].is_ok(), "one of both: {answers:?}");
    for at in [0, 1, 3, 4, 5, 8] {
        assert_eq!(*answers[at].as_ref().unwrap(), Applied::New, "{at}");
    }
    assert_eq!((lab.total("other").await, lab.total("sum").await), (Some(Value::Counter(5)), Some(Value::Counter(i64::MAX))));
    let listed = crate::store::conformance::every(lab.store.latest(LatestFilter::default()).await.unwrap()).await;
    let names: Vec<_> = listed.iter().map(|series| (series.source.as_str(), series.id.as_str())).collect();
    assert_eq!(names, [("a", "c"), ("a", "first"), ("a", "other"), ("a", "sum"), ("b", "c")], "nothing of the refused one is left");
    assert_eq!(listed[0].value, Value::Counter(i64::MAX - 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_and_misuse_of_a_key_in_one_group_are_told_apart() {
    let Some(lab) = Lab::new(None).await else { return };
    let mut lab = lab.with_gate().await;
    let one = fresh("a", vec![counter("c", 1)]);
    let other = Batch { digest: [7; 32], metrics: vec![counter("d", 1)].into(), ..one.clone() };
    let batches = [&one, &other, &one, &other, &one].map(Clone::clone);
    let answers = lab.together("a", &batches).await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Ok(Applied::New))).count(), 1, "{answers:?}");
    let reused = answers.iter().filter(|answer| matches!(answer, Err(StoreError::KeyReused))).count();
    let repeats = answers.iter().filter(|answer| matches!(answer, Ok(Applied::Repeat))).count();
    assert!((repeats, reused) == (2, 2) || (repeats, reused) == (1, 3), "whichever came first is the batch: {answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caps_are_exact_within_a_group() {
    let Some(lab) = Lab::new(Some(SeriesLimits { total: 8, per_source: 5 })).await else { return };
    let mut lab = lab.with_gate().await;
    let batches: Vec<_> = (0..10).map(|i| fresh(if i < 7 { "a" } else { "b" }, vec![gauge(&format!("g{i}"), 1.0)])).collect();
    let answers = lab.together("a", &batches).await;
    let of_a = answers[..7].iter().filter(|answer| answer.is_ok()).count();
    // Its first batch had a series as well. Those of `b` may have come to the other writer.
    assert_eq!(of_a, 4, "{answers:?}");
    assert!(answers[..7].iter().flat_map(Result::as_ref).all(|applied| *applied == Applied::New));
    let refused: Vec<_> = answers[..7].iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(refused.iter().all(|error| matches!(error, StoreError::TooManySeriesOfSource { limit: 5 })), "{refused:?}");
    assert_eq!(lab.store.sources().await.unwrap().iter().map(|info| info.series).collect::<Vec<_>>(), [5, 3]);
    let unseen = fresh("unseen", vec![gauge("g", 1.0)]);
    assert!(matches!(lab.store.apply(unseen).await, Err(StoreError::TooManySeries { limit: 8 })));
    assert_eq!(lab.store.sources().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_database_refuses_fails_alone() {
    let Some(lab) = Lab::new(None).await else { return };
    let mut lab = lab.with_gate().await;
    lab.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.values[1] = 13 THEN RAISE EXCEPTION 'no' USING ERRCODE = '22003'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON frames FOR EACH ROW EXECUTE FUNCTION refuse();",
    )
    .await;
    let batches: Vec<_> = (0..20).map(|i| fresh("a", vec![gauge(&format!("g{i}"), f64::from(i)), counter("c", 1)])).collect();
    let answers = lab.together("a", &batches).await;
    for (at, answer) in answers.into_iter().enumerate() {
        if at == 13 {
            assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        } else {
            assert_eq!(answer.unwrap(), Applied::New, "{at}");
        }
    }
    assert_eq!(lab.total("c").await, Some(Value::Counter(19)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_by_the_retry() {
    let Some(mut lab) = Lab::with_default_write_limits().await else { return };
    // The COMMIT itself takes longer than anyone waits for it.
    lab.run(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
            -- As if the connection were only found closed when all is done.
            BEGIN PERFORM set_config('client_connection_check_interval', '0', true); PERFORM pg_sleep(4); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON sources DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger();",
    )
    .await;
    let (one, started) = (fresh("a", vec![counter("c", 1)]), Instant::now());
    assert!(matches!(lab.store.apply(one.clone()).await, Err(StoreError::Unavailable(_))));
    // The limit is 2.75 s; the rest is for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let again = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Ok(applied) = lab.store.apply(one.clone()).await {
                return applied;
            }
        }
    });
    assert_eq!(again.await.unwrap(), Applied::Repeat);
    assert_eq!(lab.total("c").await, Some(Value::Counter(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stands_still_costs_a_known_amount_of_memory() {
    let Some(mut lab) = Lab::with_default_write_limits().await else { return };
    lab.conn.execute("BEGIN; LOCK TABLE frames IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let wide = fresh("s", (0..10_000).map(|i| gauge(&format!("wide_gauge_{i}"), 1.0)).collect());
    let all = (0..150).map(|i| {
        let (key, source) = (IdempotencyKey::at(Clock::System.unix_millis()), Source::from_stored(&format!("s{}", i % 9)).unwrap());
        let (store, one) = (Arc::clone(&lab.store), Batch { source, key, ..wide.clone() });
        tokio::spawn(async move {
            let started = Instant::now();
            (store.apply(one).await, started.elapsed())
        })
    });
    let all: Vec<_> = all.collect();
    let (mut most, mut refused) = (0, 0);
    for one in all {
        most = most.max(lab.metrics.queue_bytes.get());
        let (answer, took) = one.await.unwrap();
        // The limit is 2.85 s.
        assert!(took < Duration::from_secs(10), "{took:?}");
        match answer {
            Err(StoreError::Overloaded) => refused += 1,
            Err(StoreError::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && most <= 32 * 1024 * 1024, "{refused} refused, {most} bytes");
    until(async || lab.metrics.queue_bytes.get() == 0).await;
    lab.conn.execute("ROLLBACK").await.unwrap();
    let recovers = async {
        let one = fresh("a", vec![counter("c", 1)]);
        while lab.store.apply(one.clone()).await.is_err() {}
    };
    tokio::time::timeout(Duration::from_secs(30), recovers).await.expect("it takes writes again");
    assert_eq!(lab.total("c").await, Some(Value::Counter(1)));
}

#[tokio::test]
async fn it_is_written_down_when_a_known_source_was_seen() {
    let Some(lab) = Lab::new(None).await else { return };
    lab.store.apply(fresh("a", vec![counter("c", 1)])).await.unwrap();
    let first = lab.store.sources().await.unwrap()[0].last_seen_millis;
    until(async || Clock::System.unix_millis() > first + 2).await;
    lab.store.apply(fresh("a", vec![counter("c", 1)])).await.unwrap();
    until(async || lab.store.sources().await.unwrap()[0].last_seen_millis > first).await;
    assert_eq!(lab.store.sources().await.unwrap()[0].name, Source::from_stored("a").unwrap());
}
