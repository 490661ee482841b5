//! How series share rows: whose they are, and what becomes of the rows of earlier versions.

use std::borrow::Cow;

use golectra_protocol::{IdempotencyKey, Kind, MetricId};
use sqlx::{Connection as _, Executor as _};

use super::*;
use crate::store::conformance::{batch, counter, gauge};

/// Block, source and how many series of it.
async fn shares(conn: &mut PgConnection) -> Vec<(i32, String, i64)> {
    sqlx::query_as(
        "SELECT series.id / 64, sources.name, count(*) FROM series JOIN sources ON sources.id = source_id GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .fetch_all(conn)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_source_fills_its_blocks_and_shares_none() {
    let Some(database) = TestDatabase::create().await else { return };
    let stores = [database.store().await, database.store().await];
    let now = stores[0].writers.shared.clock.unix_millis();
    // A few at a time, by two servers in turn, each batch with an old series and a counter among them.
    for round in 0..10_u32 {
        for source in ["a", "b"] {
            let mut metrics: Vec<_> = (0..13).map(|n| gauge(&format!("g{}", round * 13 + n), f64::from(round))).collect();
            metrics.push(counter("c", 1));
            if round > 0 {
                metrics.push(gauge("g0", f64::from(round)));
            }
            let key = IdempotencyKey::at(now + u64::from(round));
            stores[usize::from(round % 2 == 1)].apply(batch(source, key, metrics)).await.unwrap();
        }
    }
    let mut conn = database.connect().await;
    let shares = shares(&mut conn).await;
    let of = |name: &str| shares.iter().filter(|(_, source, _)| source == name).map(|(.., n)| *n).collect::<Vec<_>>();
    assert_eq!((of("a"), of("b")), (vec![64, 64, 3], vec![64, 64, 3]), "130 gauges and a counter");
    let rows: (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM latest_blocks), (SELECT sum(total)::bigint FROM latest),
            (SELECT count(*) FROM latest JOIN generate_series(1, 129) AS n ON name = 'g' || n AND value = n / 13)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(rows, (6, 20, 258));
    let newest = stores[0].value(&Selector { kind: Kind::Gauge, id: MetricId::parse("g0").unwrap() }).await.unwrap();
    assert_eq!(newest, Some(Value::Gauge(9.0)));
    // A source that is deleted takes its rows with it.
    conn.execute("DELETE FROM sources WHERE name = 'a'").await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM latest_blocks").fetch_one(&mut conn).await.unwrap();
    assert_eq!(left, 3);
}

#[tokio::test]
async fn what_earlier_versions_wrote_is_carried_over() {
    let Some(database) = TestDatabase::create().await else { return };
    let mut conn = database.connect().await;
    conn.execute("CREATE SCHEMA golectra").await.unwrap();
    let mut old = sqlx::migrate!();
    old.migrations = Cow::Owned(old.iter().filter(|one| one.version <= 4).cloned().collect());
    old.run(&mut conn).await.unwrap();
    conn.execute(
        "INSERT INTO sources (name, first_seen, last_seen, series) VALUES ('a', now(), now(), 100), ('b', now(), now(), 100);
        INSERT INTO series (source_id, name, kind) SELECT n % 2 + 1, 'm' || n, n / 2 % 2 FROM generate_series(1, 200) AS n;
        UPDATE series_total SET series = 200;
        INSERT INTO latest (series_id, value, total, at, arrival)
        SELECT id, CASE kind WHEN 0 THEN id * 1.5 END, CASE kind WHEN 1 THEN 9223372036854775807 - id END, to_timestamp(id), id FROM series",
    )
    .await
    .unwrap();
    conn.close().await.unwrap();

    let store = database.store().await;
    let now = store.writers.shared.clock.unix_millis();
    let filter = SeriesFilter { limit: 1_000, ..SeriesFilter::default() };
    let carried = store.series(&filter).await.unwrap();
    assert_eq!(carried.len(), 200);
    for series in &carried {
        let id: u32 = series.id.as_str()[1..].parse().unwrap();
        let value = if (id / 2).is_multiple_of(2) { Value::Gauge(f64::from(id) * 1.5) } else { Value::Counter(i64::MAX - i64::from(id)) };
        assert_eq!((series.value, series.at_millis), (value, u64::from(id) * 1000), "{}", series.id);
    }
    // Old series are written where they are, new ones go to blocks of their source's own.
    store.apply(batch("a", IdempotencyKey::at(now), vec![counter("m2", 2), gauge("m4", 4.0), gauge("new", 1.0)])).await.unwrap();
    store.apply(batch("b", IdempotencyKey::at(now), vec![counter("m3", 3), gauge("new", 2.0)])).await.unwrap();
    let values: Vec<_> =
        store.series(&filter).await.unwrap().into_iter().map(|series| (series.id.as_str().to_owned(), series.value)).collect();
    let of = |name: &str| values.iter().filter(|(id, _)| id == name).map(|(_, value)| *value).collect::<Vec<_>>();
    assert_eq!(of("m2"), [Value::Counter(i64::MAX)]);
    assert_eq!(of("m3"), [Value::Counter(i64::MAX)]);
    assert_eq!(of("m4"), [Value::Gauge(4.0)]);
    assert_eq!(of("new"), [Value::Gauge(1.0), Value::Gauge(2.0)]);
    let full = store.apply(batch("a", IdempotencyKey::at(now + 1), vec![gauge("m4", 5.0), counter("m2", 1)])).await.unwrap_err();
    assert!(matches!(full, StoreError::Overflow { id } if id.as_str() == "m2"));
}
