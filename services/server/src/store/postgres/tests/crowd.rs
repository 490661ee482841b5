//! Several servers, one database.

use futures_util::future::join_all;
use golectra_protocol::IdempotencyKey;

use super::*;
use crate::store::conformance::{batch, counter, gauge, name, patiently};

fn now() -> u64 {
    Clock::System.unix_millis()
}

async fn total(store: &PostgresStore, id: &str) -> Option<Value> {
    store.value(&Selector { id: name(id), kind: golectra_protocol::Kind::Counter }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_servers_start_at_once_on_an_empty_database() {
    let Some(database) = TestDatabase::create().await else { return };
    let stores: Vec<_> = (0..5).map(|_| PostgresStore::open(config(database.dsn()), Clock::System).unwrap()).collect();
    assert!(join_all(stores.iter().map(|store| ready(store))).await.into_iter().all(|ready| ready));
    for (i, store) in stores.iter().enumerate() {
        let one = batch(&format!("s{i}"), IdempotencyKey::at(now()), vec![counter("c", 1)]);
        assert_eq!(store.apply(one).await.unwrap(), Applied::New);
    }
    assert_eq!(total(&stores[0], "c").await, Some(Value::Counter(5)));
    let mut conn = database.connect().await;
    let migrations: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations WHERE success").fetch_one(&mut conn).await.unwrap();
    assert_eq!(
        usize::try_from(migrations).unwrap(),
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_server_is_served() {
    let Some(database) = TestDatabase::create().await else { return };
    database.store().await.close().await.unwrap();
    let mut conn = database.connect().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99999, 'to come', true, '', 0)",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let store = database.store().await;
    assert_eq!(store.apply(batch("a", IdempotencyKey::at(now()), vec![gauge("g", 1.0)])).await.unwrap(), Applied::New);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_on_two_servers_one_is_new() {
    let Some(database) = TestDatabase::create().await else { return };
    let stores = [database.store().await, database.store().await];
    let one = batch("a", IdempotencyKey::at(now()), vec![counter("c", 3), gauge("g", 1.0)]);
    let tries = (0..100).map(|i| {
        let (store, one) = (Arc::clone(&stores[i % 2]), one.clone());
        tokio::spawn(async move { patiently(&*store, &one).await })
    });
    let answers: Vec<Applied> = join_all(tries).await.into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Applied::New).count(), 1);
    assert_eq!(total(&stores[0], "c").await, Some(Value::Counter(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_write_the_same_sources_without_a_deadlock() {
    let Some(database) = TestDatabase::create().await else { return };
    let stores = [database.store().await, database.store().await];
    let (writers, rounds) = (12_usize, 25_usize);
    let all = (0..writers).map(|writer| {
        let store = Arc::clone(&stores[writer % 2]);
        tokio::spawn(async move {
            for round in 0..rounds {
                // The same series in another order each time, some of them new.
                let mut metrics: Vec<_> = (0..20).map(|i| counter(&format!("c{i}"), 1)).collect();
                metrics.rotate_left((writer * 7 + round) % 20);
                metrics.push(gauge(&format!("g{}", round % 5), 1.0));
                let one = batch(&format!("s{}", (writer + round) % 3), IdempotencyKey::at(now()), metrics);
                assert_eq!(patiently(&*store, &one).await, Applied::New);
            }
        })
    });
    for done in join_all(all).await {
        done.unwrap();
    }
    assert_eq!(total(&stores[1], "c0").await, Some(Value::Counter(i64::try_from(writers * rounds).unwrap())));
    let mut conn = database.connect().await;
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetch_one(&mut conn).await.unwrap();
    assert_eq!(deadlocks, 0);
    let counted: (i64, i64, i64) =
        sqlx::query_as("SELECT (SELECT series FROM series_total), (SELECT sum(series) FROM sources), (SELECT count(*) FROM series)")
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert_eq!(counted, (75, 75, 75));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_make_sources_and_series_without_a_deadlock() {
    let Some(database) = TestDatabase::create().await else { return };
    let stores = [database.store().await, database.store().await];
    let (writers, rounds) = (16_usize, 12_usize);
    let all = (0..writers).map(|writer| {
        let stores = stores.clone();
        tokio::spawn(async move {
            for round in 0..rounds {
                // Some sources are everyone's, some are new, and each batch has series that nobody has had.
                let source = if round % 3 == 0 { format!("new{writer}-{round}") } else { format!("s{}", (writer * 5 + round) % 4) };
                let mut metrics: Vec<_> = (0..8).map(|i| counter(&format!("w{writer}r{round}n{i}"), 1)).collect();
                metrics.extend((0..8).map(|i| counter(&format!("c{i}"), 1)));
                metrics.rotate_left((writer * 3 + round) % 16);
                let one = batch(&source, IdempotencyKey::at(now()), metrics);
                // Its sender lost the first answer, and asks both servers.
                let answers = tokio::join!(patiently(&*stores[0], &one), patiently(&*stores[1], &one));
                let answers = [answers.0, answers.1];
                assert!(answers.contains(&Applied::New) && answers.contains(&Applied::Repeat), "{answers:?}");
            }
        })
    });
    for done in join_all(all).await {
        done.unwrap();
    }
    let batches = i64::try_from(writers * rounds).unwrap();
    assert_eq!(total(&stores[0], "c0").await, Some(Value::Counter(batches)));
    let mut conn = database.connect().await;
    let (deadlocks, total, of_sources, series): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()), (SELECT series FROM series_total),
            (SELECT sum(series) FROM sources), (SELECT count(*) FROM series)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    let sources = 4 + i64::try_from(writers * rounds.div_ceil(3)).unwrap();
    let expected = batches * 8 + sources * 8;
    assert_eq!((deadlocks, total, of_sources, series), (0, expected, expected, expected));
}
