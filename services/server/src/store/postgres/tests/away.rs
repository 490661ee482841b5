//! A database that is away, comes back, or is the wrong one.

use std::time::Instant;

use golectra_protocol::IdempotencyKey;
use sqlx::Connection;

use super::super::testing::{TestCluster, set_standby};
use super::*;
use crate::store::conformance::{batch, counter, name};

/// How long the store may take to notice a database that came back: between two attempts to bring up the schema are up to 7.5 s.
const NOTICED: Duration = Duration::from_secs(30);

/// Applies until it succeeds.
async fn apply_at_last(store: &PostgresStore, one: &Batch) -> Applied {
    let applied = async {
        loop {
            match store.apply(one.clone()).await {
                Ok(applied) => return applied,
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    tokio::time::timeout(NOTICED, applied).await.expect("it recovers")
}

async fn is_unavailable(store: &PostgresStore, one: &Batch) -> String {
    let started = Instant::now();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    // The store's own limits are 0.9 s and 2.85 s. Without them a call would wait 6 s for a statement, or longer.
    assert!(started.elapsed() < Duration::from_secs(2), "ping took {:?}", started.elapsed());
    let started = Instant::now();
    let error = store.apply(one.clone()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "a write took {:?}", started.elapsed());
    let StoreError::Unavailable(why) = error else { panic!("{error:?}") };
    why
}

fn count_one() -> Batch {
    batch("a", IdempotencyKey::at(Clock::System.unix_millis()), vec![counter("c", 1)])
}

/// The first batch whose commit waits for a standby: the setting arrives after a while.
async fn first_without_answer(store: &PostgresStore) -> Batch {
    let started = Instant::now();
    loop {
        let one = count_one();
        match store.apply(one.clone()).await {
            Err(StoreError::Unavailable(_)) => return one,
            other => assert!(started.elapsed() < NOTICED, "{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_comes_back() {
    let Some(cluster) = TestCluster::start_new() else { return };
    let store = PostgresStore::open(config_with_default_limits(cluster.dsn()), Clock::System).unwrap();
    assert!(ready(&store).await);
    assert_eq!(store.apply(count_one()).await.unwrap(), Applied::New);
    for round in 2..4 {
        cluster.stop();
        let one = count_one();
        for _ in 0..2 {
            is_unavailable(&store, &one).await;
        }
        store.snapshot().await.unwrap_err();
        cluster.start();
        assert_eq!(apply_at_last(&store, &one).await, Applied::New);
        store.ping().await.unwrap();
        let total = store.value(&Selector { id: name("c"), kind: golectra_protocol::Kind::Counter }).await.unwrap();
        assert_eq!(total, Some(Value::Counter(round)));
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_may_come_later_and_must_be_a_primary() {
    let Some(cluster) = TestCluster::start_new() else { return };
    cluster.stop();
    let signal = cluster.data().join("standby.signal");
    let store = PostgresStore::open(config_with_default_limits(cluster.dsn()), Clock::System).unwrap();
    let one = count_one();
    let why = is_unavailable(&store, &one).await;
    assert!(why.starts_with("the schema is not there yet"), "{why}");

    // A standby is refused, and the reason says so.
    std::fs::write(&signal, "").unwrap();
    cluster.start();
    let refused = async {
        while !is_unavailable(&store, &one).await.contains("standby") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(NOTICED, refused).await.expect("the standby is noticed");

    cluster.stop();
    std::fs::remove_file(&signal).unwrap();
    cluster.start();
    assert_eq!(apply_at_last(&store, &one).await, Applied::New);

    // What was a primary when the server started is refused as well once it is none.
    cluster.stop();
    std::fs::write(&signal, "").unwrap();
    cluster.start();
    is_unavailable(&store, &one).await;
    cluster.stop();
    std::fs::remove_file(&signal).unwrap();
    cluster.start();
    assert_eq!(apply_at_last(&store, &one).await, Applied::Repeat);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_of_what_no_standby_has_is_not_confirmed() {
    let Some(cluster) = TestCluster::start_new() else { return };
    let store = PostgresStore::open(config_with_default_limits(cluster.dsn()), Clock::System).unwrap();
    // It knows of no commit that was not answered.
    let other = PostgresStore::open(config_with_default_limits(cluster.dsn()), Clock::System).unwrap();
    assert!(ready(&store).await && ready(&other).await);
    assert_eq!(store.apply(count_one()).await.unwrap(), Applied::New);
    let mut conn = PgConnection::connect(cluster.dsn().expose()).await.unwrap();
    set_standby(&mut conn, Some("nobody")).await;
    let mut of_waiting = async |what: &str| {
        let statement = format!("SELECT {what} FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        sqlx::query_scalar::<_, i64>(&statement).fetch_one(&mut conn).await.unwrap()
    };
    let one = first_without_answer(&store).await;

    // Sessions that wait for a standby are ended, and what they wrote is there.
    let ending = Instant::now();
    assert!(of_waiting("count(pg_terminate_backend(pid))").await > 0);
    while of_waiting("count(*)").await > 0 {
        assert!(ending.elapsed() < NOTICED, "they don't end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..2 {
        let answer = other.apply(one.clone()).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        let confirming = of_waiting("count(*) FILTER (WHERE query LIKE '%pg_logical_emit_message%')").await;
        assert_eq!(confirming, 1, "one session waits, however often it is tried");
    }

    // The standby has it now, or none is asked for.
    set_standby(&mut conn, None).await;
    for store in [store, other] {
        assert_eq!(apply_at_last(&store, &one).await, Applied::Repeat);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_for_no_standby_leave_few_sessions_behind() {
    const SOURCES: usize = 6;
    let Some(cluster) = TestCluster::start_new() else { return };
    // So long that a busy machine does not reach them before a commit is said not to be answered.
    let limits = WriteLimits { queued: Duration::from_secs(4), done: Duration::from_secs(5), answered: Duration::from_secs(6) };
    let store = PostgresStore::open(PostgresConfig { write_limits: limits, ..config(cluster.dsn()) }, Clock::System).unwrap();
    assert!(ready(&store).await);
    let of_source = |number: usize| batch(&format!("s{number}"), IdempotencyKey::at(Clock::System.unix_millis()), vec![counter("c", 1)]);
    // Their rows are there, so that their writes do not wait for each other.
    for _ in 0..3 {
        for number in 0..SOURCES {
            assert_eq!(store.apply(of_source(number)).await.unwrap(), Applied::New);
        }
    }
    let mut conn = PgConnection::connect(cluster.dsn().expose()).await.unwrap();
    set_standby(&mut conn, Some("nobody")).await;
    first_without_answer(&store).await;
    let batches: Vec<Batch> = (0..SOURCES).map(of_source).collect();
    for one in &batches {
        let answer = store.apply(one.clone()).await;
        let Err(StoreError::Unavailable(why)) = answer else { panic!("{answer:?}") };
        assert!(why.contains("synchronous standby"), "{why}");
    }
    let statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waiting: i64 = sqlx::query_scalar(statement).fetch_one(&mut conn).await.unwrap();
    // The first, one that waits for all, and perhaps what each writer writes down of sources and a round of sealing.
    assert!((1..=i64::from(WRITERS) + 3).contains(&waiting), "{waiting}");

    set_standby(&mut conn, None).await;
    for one in &batches {
        assert_eq!(apply_at_last(&store, one).await, Applied::New);
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_said_without_the_password() {
    // A port that is taken, and where nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = taken.local_addr().unwrap().port();
    let dsn = Secret::from(format!("postgres://me:hunter2@127.0.0.1:{port}/metrics"));
    let store = PostgresStore::open(config_with_default_limits(dsn), Clock::System).unwrap();
    let refused = async {
        loop {
            let why = is_unavailable(&store, &count_one()).await;
            assert!(!why.contains("hunter2"), "{why}");
            if why.contains("refused") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(NOTICED, refused).await.expect("the refusal is told");
    assert_eq!(store.metrics().pool, Some((0, 0)));
    store.close().await.unwrap();
}
