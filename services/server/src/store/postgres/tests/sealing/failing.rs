//! What is seen from outside while history can't be sealed.

use sqlx::Executor as _;

use super::*;

#[tokio::test]
async fn the_age_of_unsealed_reports_rises_while_sealing_fails() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.put(batch("a", IdempotencyKey::at(START), vec![gauge("g", 1.0)])).await;
    let sealer = sealer(&lab.store);
    lab.clock.set(START + 20 * MINUTE);
    sealer.round().await.unwrap();
    let measured = sealer.metrics.unsealed_age_seconds.get();
    assert!(measured >= 20.0 * 60.0, "{measured}");
    // The first statement of a round fails.
    lab.conn.execute("ALTER SEQUENCE arrivals RENAME TO renamed").await.unwrap();
    let mut before = measured;
    for failures in 1..=2 {
        sealer.attempt(&mut None).await;
        assert_eq!(sealer.metrics.failures.get(), failures);
        let age = sealer.metrics.unsealed_age_seconds.get();
        assert!(age > before, "{age} after {before}");
        before = age;
    }
    assert!(before < measured + 60.0, "{before} after {measured}");
}

#[tokio::test]
async fn a_source_that_cannot_be_sealed_holds_nothing_else_back() {
    let Some(mut lab) = Lab::new().await else { return };
    for source in ["a", "b"] {
        lab.put(batch(source, IdempotencyKey::at(START), vec![gauge("g", 1.0)])).await;
    }
    lab.clock.set(START + 5 * HOUR);
    lab.seal_all().await;
    lab.clock.set(START + 40 * DAY);
    for source in ["a", "b"] {
        lab.put(batch(source, IdempotencyKey::at(lab.now() - 4 * HOUR), vec![gauge("g", 2.0)])).await;
    }
    lab.conn
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.source_id = (SELECT id FROM sources WHERE name = 'a') THEN RAISE EXCEPTION 'no'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION refuse();",
        )
        .await
        .unwrap();
    let last: i64 = sqlx::query_scalar("SELECT last_value FROM arrivals").fetch_one(&mut lab.conn).await.unwrap();
    let settled = last << 16 | 0xffff;
    lab.put(batch("b", IdempotencyKey::at(lab.now()), vec![gauge("g", 3.0)])).await;
    let sealer = lab.sealer();
    let mut noted = Some((tokio::time::Instant::now().checked_sub(Duration::from_mins(1)).unwrap(), settled));
    sealer.attempt(&mut noted).await;
    assert_eq!(sealer.metrics.failures.get(), 1);
    assert!(noted.unwrap().1 > settled, "the next round seals what came until this one");
    let statement = "SELECT name, part, window_start > to_timestamp($1) FROM chunks JOIN sources ON sources.id = source_id";
    let chunks: Vec<(String, i16, bool)> =
        sqlx::query_as(statement).bind(f64::from(20_001 * 86_400)).fetch_all(&mut lab.conn).await.unwrap();
    assert_eq!(chunks, [("b".to_owned(), 0, true)], "sealed and folded, and the old day is gone");
    lab.conn.execute("DROP TRIGGER refuse ON chunks").await.unwrap();
    assert_eq!(lab.seal_all().await.frames, 1);
    assert_eq!(lab.count("chunks").await, 2);
}

#[tokio::test]
async fn a_vacuum_that_somebodys_lock_keeps_out_holds_no_folding_back() {
    let Some(mut lab) = Lab::new().await else { return };
    // Two windows, which are sealed in one round and folded in another.
    lab.clock.set(START + 5 * HOUR);
    for hours in [0, 2] {
        lab.put(batch("a", IdempotencyKey::at(START + hours * HOUR), vec![gauge("g", 1.0)])).await;
    }
    let mut sealer = lab.sealer();
    sealer.limits.folding = Duration::ZERO;
    sealer.round().await.unwrap();
    assert_eq!(lab.count("chunks WHERE part > 0").await, 2);
    let mut other = lab.database.connect().await;
    let partition: String = sqlx::query_scalar("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'chunks'::regclass")
        .fetch_one(&mut other)
        .await
        .unwrap();
    other.execute(format!("BEGIN; LOCK TABLE {partition} IN SHARE UPDATE EXCLUSIVE MODE").as_str()).await.unwrap();
    sealer.limits.folding = Duration::from_mins(8);
    let error = sealer.round_once().await.unwrap_err();
    assert!(error.to_string().contains("lock timeout"), "{error}");
    assert_eq!(lab.count("chunks WHERE part > 0").await, 0);
    other.execute("ROLLBACK").await.unwrap();
    lab.check().await;
}
