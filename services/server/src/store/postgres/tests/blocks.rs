//! How series share rows, and whose they are.

use golectra_protocol::{IdempotencyKey, Kind, MetricId};
use sqlx::Executor as _;

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
    let now = stores[0].writers.context.clock.unix_millis();
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
            (SELECT count(*) FROM latest JOIN generate_series(1, 129) AS n ON metric = 'g' || n AND value = n / 13)",
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
