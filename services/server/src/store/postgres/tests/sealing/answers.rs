//! What rollups are for SQL, and when they are dropped.

use sqlx::Executor as _;

use super::*;
use crate::store::conformance::rollups::{filled, samples as sent};
use crate::store::conformance::samples as timed;

/// Writes and seals a batch of each of three days.
async fn seal_three_days(lab: &mut Lab) {
    for day in 0..3 {
        lab.clock.set(START + day * DAY);
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 3)])).await;
        lab.clock.set(lab.now() + 5 * HOUR);
        lab.seal_all().await;
    }
}

#[tokio::test]
async fn rollups_of_an_hour_are_there_for_sql() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.clock.set(START + 10 * DAY);
    let (one, _) = filled(lab.now());
    lab.put(one).await;
    lab.clock.set(lab.now() + 5 * HOUR);
    lab.seal_all().await;
    let hourly: (i64, f64, f64) =
        sqlx::query_as("SELECT sum(count)::bigint, sum(sum), max(max) FROM samples_hourly WHERE name = 'g' AND source = 'a'")
            .fetch_one(&mut lab.conn)
            .await
            .unwrap();
    let sent = sent();
    let gauges = || sent.iter().map(|sample| if let Value::Gauge(value) = sample.1[0] { value } else { 0.0 });
    assert_eq!(hourly.0, i64::try_from(sent.len()).unwrap());
    assert!((hourly.1 - gauges().sum::<f64>()).abs() < 1e-3 && (hourly.2 - gauges().fold(0.0, f64::max)).abs() < 1e-9, "{hourly:?}");
}

#[tokio::test]
async fn samples_go_before_rollups_and_those_of_minutes_before_those_of_hours() {
    let Some(mut lab) = Lab::new().await else { return };
    for day in [0, 40, 45, 80, 81] {
        lab.clock.set(START + day * DAY);
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 1)])).await;
        lab.clock.set(lab.now() + 5 * HOUR);
        lab.seal_all().await;
    }
    let mut sealer = sealer(&lab.store);
    let months = Duration::from_hours(24 * 365);
    sealer.lifetimes = Lifetimes { retention_raw: months, ..sealer.lifetimes };
    sealer.max_bytes = Some(1);
    let mut dropped = Round::default();
    for _ in 0..20 {
        dropped = dropped.and(sealer.round().await.unwrap());
    }
    assert_eq!(dropped.days.last(), Some(&20_080), "{dropped:?}");
    let five_minutes = dropped.rollups.iter().take_while(|partition| partition.starts_with("rollups_5m")).count();
    assert!(five_minutes >= 2 && dropped.rollups.len() > five_minutes, "{dropped:?}");
    assert!(dropped.rollups[five_minutes..].iter().all(|partition| partition.starts_with("rollups_1h")), "{dropped:?}");
    let left: (i64, i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM rollups_5m), (SELECT count(*) FROM rollups_1h)")
            .fetch_one(&mut lab.conn)
            .await
            .unwrap();
    assert!(left.0 == 1 && left.1 >= 1 && left.2 >= 1, "the newest of each stay: {left:?}");
}

#[tokio::test]
async fn a_day_that_a_query_may_still_read_is_not_dropped() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.put(batch("a", IdempotencyKey::at(START), vec![gauge("g", 1.0)])).await;
    lab.clock.set(START + 5 * HOUR);
    lab.seal_all().await;
    lab.clock.set(START + 40 * DAY);
    // It has read nothing yet.
    let reading = lab.store.history.begin().await.unwrap();
    let round = lab.sealer().round_once().await.unwrap();
    assert_eq!((round.days, round.held), (Vec::new(), 1));
    assert_eq!(lab.count("chunks").await, 1);
    reading.end();
    assert_eq!(lab.sealer().round().await.unwrap().days, [20_000]);
}

#[tokio::test]
async fn a_day_that_could_not_be_dropped_is_still_there() {
    let Some(mut lab) = Lab::new().await else { return };
    seal_three_days(&mut lab).await;
    let mut sealer = lab.sealer();
    sealer.max_bytes = Some(1);
    // As pg_dump does, for as long as it runs.
    for table in ["chunks", "rollups_5m, rollups_1h, chunks"] {
        let mut dump = lab.database.connect().await;
        dump.execute(format!("BEGIN; LOCK TABLE {table} IN ACCESS SHARE MODE").as_str()).await.unwrap();
        // The first may find the lock of the session before.
        for _ in 0..3 {
            let round = sealer.round_once().await.unwrap();
            assert!(round.days.is_empty() && round.rollups.is_empty() && round.held > 0, "{round:?}");
        }
        dump.execute("ROLLBACK").await.unwrap();
        let dropped: (bool, bool) = sqlx::query_as("SELECT raw > '-infinity', rollups_5m > '-infinity' FROM dropped_history")
            .fetch_one(&mut lab.conn)
            .await
            .unwrap();
        assert_eq!(dropped, (false, false));
        // A question that only samples answer has its answer.
        lab.check().await;
    }
    lab.put(timed::samples("a", &[("g", 2.0, START + 2)])).await;
    lab.clock.set(lab.now() + HOUR);
    let end = i64::try_from(lab.now() + HOUR).unwrap();
    assert_eq!(sealer.round().await.unwrap().days, [20_000, 20_001]);
    let raw: bool = sqlx::query_scalar("SELECT raw = to_timestamp($1) FROM dropped_history")
        .bind(f64::from(20_002 * 86_400))
        .fetch_one(&mut lab.conn)
        .await
        .unwrap();
    assert!(raw, "up to where it was dropped");
    // What came meanwhile is in the rollups.
    rolled_up::check_queries(&lab.store, &lab.model.history, end).await;
}

#[tokio::test]
async fn what_is_late_for_a_dropped_day_hides_no_rollups() {
    let Some(mut lab) = Lab::new().await else { return };
    seal_three_days(&mut lab).await;
    // It is acknowledged before the day is dropped, and is still in a frame when that happens.
    let mut metrics = Metrics::default();
    let at = i64::try_from(START).unwrap() + 1;
    metrics.push_parsed_at("g", Value::Gauge(7.0), at).unwrap();
    metrics.push_parsed_at("c", Value::Counter(7), at).unwrap();
    let plain = batch("a", IdempotencyKey::at(lab.now()), vec![gauge("unused", 0.0)]);
    assert_eq!(lab.store.apply(Batch { metrics, ..plain }).await.unwrap(), Applied::New);
    let mut sealer = lab.sealer();
    sealer.max_bytes = Some(1);
    assert_eq!(sealer.round().await.unwrap().days, [20_000, 20_001]);
    assert_eq!(lab.count("frames").await, 1);
    // Nor is one acknowledged afterwards, and no series is made for it.
    let late = timed::samples("b", &[("g", 1.0, START + 2), ("g", 1.0, 20_002 * DAY - 1)]);
    assert_eq!(timed::refused(&lab.store.apply(late).await.unwrap()), [0, 2, 0, 0]);
    assert_eq!(lab.count("series").await, 2);
    let end = i64::try_from(lab.now() + HOUR).unwrap();
    rolled_up::check_queries(&lab.store, &lab.model.history, end).await;
    lab.clock.set(lab.now() + HOUR);
    let sealer = lab.sealer();
    assert_eq!(sealer.round().await.unwrap().frames, 1);
    assert_eq!(sealer.metrics.too_old_samples.get(), 2);
    rolled_up::check_queries(&lab.store, &lab.model.history, end).await;
}

#[tokio::test]
async fn rollups_of_minutes_stay_while_samples_of_their_day_are_sealed() {
    let Some(mut lab) = Lab::new().await else { return };
    // The last day of a partition of rollups.
    let day = 20_005 * DAY;
    for hour in 0..24 {
        lab.clock.set(day + hour * HOUR + 30 * MINUTE);
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 3)])).await;
    }
    lab.clock.set(day + DAY + 5 * HOUR);
    lab.seal_all().await;
    assert_eq!(lab.count("samples_hourly").await, 48);
    // The store accepts batches that are a day older, so that one is sealed after the border.
    let kept = Duration::from_hours(29 * 24);
    let mut sealer = lab.sealer();
    sealer.lifetimes = Lifetimes { retention_raw: kept, retention_5m: kept, ..sealer.lifetimes };
    lab.clock.set(day + 30 * DAY + MINUTE);
    let round = sealer.round().await.unwrap();
    assert_eq!((round.days, round.rollups), (Vec::new(), Vec::new()));
    lab.put(batch("a", IdempotencyKey::at(day + DAY - MINUTE), vec![gauge("g", 2.0), counter("c", 3)])).await;
    assert_eq!(sealer.round().await.unwrap().frames, 1);
    assert_eq!(lab.count("samples_hourly").await, 48);
    lab.check().await;
    lab.clock.set(day + 31 * DAY + 2 * HOUR);
    let round = sealer.round().await.unwrap();
    assert_eq!((round.days, round.rollups.len()), (vec![20_005], 1));
    assert_eq!((lab.count("samples_hourly").await, lab.count("rollups_5m").await), (48, 0));
}

#[tokio::test]
async fn a_day_that_is_dropped_is_folded_before() {
    let Some(mut lab) = Lab::new().await else { return };
    // Nothing else folds.
    lab.limits.folding = Duration::ZERO;
    seal_three_days(&mut lab).await;
    assert_eq!((lab.count("chunks").await, lab.count("rollups_5m").await), (3, 0));
    let mut sealer = lab.sealer();
    sealer.max_bytes = Some(1);
    assert_eq!(sealer.round().await.unwrap().days, [20_000, 20_001]);
    rolled_up::check_queries(&lab.store, &lab.model.history, i64::try_from(lab.now()).unwrap()).await;
    lab.clock.set(START + 40 * DAY);
    assert_eq!(lab.sealer().round().await.unwrap().days, [20_002]);
    rolled_up::check_queries(&lab.store, &lab.model.history, i64::try_from(lab.now()).unwrap()).await;
}
