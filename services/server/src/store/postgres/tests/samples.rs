//! Samples that are stored once for each time, by several servers and among other batches.

use futures_util::future::join_all;
use golectra_promql::{Matcher, MemoryBudget};
use golectra_protocol::IdempotencyKey;

use super::*;
use crate::store::Refusal;
use crate::store::conformance::samples::{refused, samples};
use crate::store::conformance::{batch, counter, gauge, patiently, source};
use crate::store::history::{SeriesFilter, TimeRange};

async fn stored(conn: &mut PgConnection, source: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM samples WHERE source = $1").bind(source).fetch_one(conn).await.unwrap()
}

async fn doubled(conn: &mut PgConnection) -> i64 {
    let query = "SELECT count(*) FROM (SELECT FROM samples GROUP BY source, name, at HAVING count(*) > 1) AS doubled";
    sqlx::query_scalar(query).fetch_one(conn).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_store_the_same_request_once() {
    let Some(database) = TestDatabase::create().await else { return };
    let (one, other) = (database.store().await, database.store().await);
    let (now, mut conn) = (one.writers.context.clock.unix_millis(), database.connect().await);
    let ids: Vec<String> = (0..100).map(|number| format!("m{{n=\"{number}\"}}")).collect();
    let mut expected = 0;
    for round in 0..10_u32 {
        // Some of the samples are of an earlier round, so that servers look into the history at the same time.
        let at = now - 60_000 + 1_000 * u64::from(round);
        let fresh = ids.iter().map(|id| (id.as_str(), f64::from(round), at));
        let again = ids.iter().filter(|_| round > 1).map(|id| (id.as_str(), f64::from(round - 2), at - 2_000));
        let of: Vec<_> = fresh.chain(again).collect();
        expected += 100;
        let batch = samples("p", &of);
        let answers = join_all((0..6).map(|number| patiently(if number % 2 == 0 { &*one } else { &*other }, &batch))).await;
        assert_eq!(answers.iter().filter(|applied| **applied == Applied::New).count(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|applied| **applied == Applied::Repeat).count(), 5, "{answers:?}");
        assert_eq!(stored(&mut conn, "p").await, expected);
    }
    assert_eq!(doubled(&mut conn).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_reports_of_many_sources_do_not_wait_for_each_other() {
    let Some(database) = TestDatabase::create().await else { return };
    let (one, other) = (database.store().await, database.store().await);
    let now = one.writers.context.clock.unix_millis();
    let ids: Vec<String> = (0..70).map(|number| format!("m{number}")).collect();
    let (one, other, ids) = (&one, &other, &ids);
    let tasks = (0..8_u64).map(|task| async move {
        let store = if task % 2 == 0 { one } else { other };
        for round in 0..10_u64 {
            let source = format!("s{}", task % 3);
            let at = now - 100_000 + round * 1_000;
            let of: Vec<_> = ids.iter().map(|id| (id.as_str(), 1.0, at - (task % 2) * 5_000)).collect();
            let applied = patiently(&**store, &samples(&source, &of)).await;
            assert_eq!(refused(&applied), [0; 4]);
            let report = batch(&source, IdempotencyKey::at(now + round), ids.iter().map(|id| gauge(&format!("agent_{id}"), 1.0)).collect());
            assert_eq!(patiently(&**store, &report).await, Applied::New);
        }
    });
    join_all(tasks).await;
    let mut conn = database.connect().await;
    let query =
        "SELECT count(*) FROM (SELECT FROM samples WHERE name NOT LIKE 'agent%' GROUP BY source, name, at HAVING count(*) > 1) AS doubled";
    assert_eq!(sqlx::query_scalar::<_, i64>(query).fetch_one(&mut conn).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_is_ahead_of_its_arrival_does_not_hide_what_is_stored() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let now = store.writers.context.clock.unix_millis();
    store.apply(batch("p", IdempotencyKey::at(now + 300_000), vec![gauge("g", 1.0)])).await.unwrap();
    let put = async |value: f64, at: u64| store.apply(samples("p", &[("g", value, at)])).await.unwrap();
    assert_eq!(put(2.0, now + 200_000).await, Applied::New);
    assert_eq!(put(1.0, now + 300_000).await, Applied::Repeat);
    assert_eq!(refused(&put(2.0, now + 300_000).await), [1, 0, 0, 0]);
    assert_eq!(put(2.0, now + 200_000).await, Applied::Repeat);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_that_was_deleted_by_hand_is_made_again() {
    let Some(database) = TestDatabase::create().await else { return };
    let (store, mut conn) = (database.store().await, database.connect().await);
    let now = store.writers.context.clock.unix_millis();
    let of = samples("p", &[("a", 1.0, now), ("b", 1.0, now)]);
    assert_eq!(store.apply(of.clone()).await.unwrap(), Applied::New);
    sqlx::query("DELETE FROM series WHERE metric = 'a'").execute(&mut conn).await.unwrap();
    // It has another number now, and no history.
    assert_eq!(store.apply(of.clone()).await.unwrap(), Applied::New);
    assert_eq!(store.apply(of).await.unwrap(), Applied::Repeat);
    let conflict = store.apply(samples("p", &[("a", 2.0, now)])).await.unwrap();
    let Applied::Partly(why) = conflict else { panic!("{conflict:?}") };
    assert_eq!(why.first(Refusal::Conflict).map(|name| name.id.as_str()), Some("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_fills_up_the_past_of_live_series() {
    let Some(database) = TestDatabase::create().await else { return };
    let (store, mut conn) = (database.store().await, database.connect().await);
    let now = store.writers.context.clock.unix_millis();
    let ids: Vec<String> = (0..200).map(|number| format!("m{{n=\"{number}\"}}")).collect();
    let live: Vec<_> = ids.iter().map(|id| (id.as_str(), 1.0, now)).collect();
    assert_eq!(store.apply(samples("p", &live)).await.unwrap(), Applied::New);
    // 2,000 samples a request, none of which the newest state decides, of times between those of the requests before.
    let request = |number: u64| {
        let of: Vec<_> = (0..10).flat_map(|at| ids.iter().map(move |id| (id.as_str(), 2.0, now - 600_000 + at * 1_000 + number))).collect();
        samples("p", &of)
    };
    for number in 0..6 {
        assert_eq!(store.apply(request(number)).await.unwrap(), Applied::New);
    }
    for number in 0..6 {
        assert_eq!(store.apply(request(number)).await.unwrap(), Applied::Repeat);
    }
    // Some that are stored and some that are not, in one request.
    let of: Vec<_> = ids.iter().flat_map(|id| [(id.as_str(), 2.0, now - 600_000), (id.as_str(), 3.0, now - 590_000)]).collect();
    assert_eq!(store.apply(samples("p", &of)).await.unwrap(), Applied::New);
    assert_eq!(stored(&mut conn, "p").await, 200 * (1 + 6 * 10 + 1));
    assert_eq!(doubled(&mut conn).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_that_has_expired_tells_when_it_was_reported_last() {
    let Some(database) = TestDatabase::create().await else { return };
    let start = Clock::System.unix_millis();
    let clock = Clock::at(start);
    let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
    assert!(ready(&store).await);
    let minutes = |minutes: u64| start + minutes * 60_000;
    store.apply(batch("a", IdempotencyKey::at(start), vec![gauge("first", 1.0), counter("total", 1)])).await.unwrap();
    clock.set(minutes(60));
    store.apply(batch("a", IdempotencyKey::at(minutes(60)), vec![gauge("second", 1.0)])).await.unwrap();
    // A report that is ahead of its arrival is noted for all series of the row.
    store.apply(batch("a", IdempotencyKey::at(minutes(65)), vec![gauge("ahead", 1.0)])).await.unwrap();
    store.apply(samples("p", &[("g", 1.0, start), ("h", 1.0, start)])).await.unwrap();
    clock.set(minutes(120));
    for name in ["a", "p"] {
        assert!(store.forget_source(&source(name), None).await.unwrap());
    }
    let mut conn = database.connect().await;
    let mut expired = async || {
        let statement = "SELECT metric, (extract(epoch FROM at - $1) / 60)::integer, (extract(epoch FROM reported_at - $1) / 60)::integer
            FROM expired_series JOIN series ON series.id = series_id ORDER BY metric";
        sqlx::query_as::<_, (String, i32, i32)>(statement).bind(Timestamp(start)).fetch_all(&mut conn).await.unwrap()
    };
    let of = |metric: &str, reported: i32| (metric.to_owned(), 120, reported);
    assert_eq!(expired().await, [of("ahead", 65), of("first", 10), of("g", 0), of("h", 0), of("second", 65), of("total", 10)]);

    // One that is brought back by samples which are all stored already leaves again as it was.
    clock.set(minutes(130));
    assert_eq!(store.apply(samples("p", &[("g", 1.0, start), ("h", 2.0, minutes(130))])).await.unwrap(), Applied::New);
    assert_eq!(expired().await, [of("ahead", 65), of("first", 10), of("g", 0), of("second", 65), of("total", 10)]);

    // Lists go by it; where a server of the version before did not write it down, by when the series expired.
    let listed = async || {
        let range = TimeRange { start_ms: i64::try_from(minutes(30)).unwrap(), end_ms: i64::try_from(minutes(130)).unwrap() };
        let any = vec![vec![Matcher::equal("instance", "a")]];
        let mut reservation = MemoryBudget::new(1 << 20).reserve(1 << 20);
        let found = store.label_values("__name__", &SeriesFilter { any, range, limit: 10 }, &mut reservation).await.unwrap();
        found.items
    };
    assert_eq!(listed().await, ["ahead", "second"]);
    // All names, where the one pass over what was reported is needed, since something expired before the start.
    let statement = "UPDATE expired_series SET at = $1 WHERE series_id = (SELECT id FROM series WHERE metric = 'g')";
    sqlx::query(statement).bind(Timestamp(minutes(20))).execute(&mut conn).await.unwrap();
    let range = TimeRange { start_ms: i64::try_from(minutes(30)).unwrap(), end_ms: i64::try_from(minutes(130)).unwrap() };
    let mut reservation = MemoryBudget::new(1 << 20).reserve(1 << 20);
    let all = store.label_values("__name__", &SeriesFilter { any: vec![], range, limit: 10 }, &mut reservation).await.unwrap();
    assert_eq!(all.items, ["ahead", "h", "second"]);
    sqlx::query("UPDATE expired_series SET reported_at = NULL").execute(&mut conn).await.unwrap();
    assert_eq!(listed().await, ["ahead", "first", "second", "total"]);
}
