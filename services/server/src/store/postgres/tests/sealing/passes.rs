//! Frames of a source that are too many for one pass.

use sqlx::Executor as _;

use super::*;

/// So little that a few samples of a series are too many.
pub(super) const SMALL: SealerLimits = SealerLimits {
    pass_bytes: 400,
    transaction_bytes: 200,
    fold_samples: 10,
    sealing: Duration::from_mins(5),
    folding: Duration::from_mins(8),
    others: Duration::from_millis(100),
};

#[tokio::test]
async fn a_block_that_comes_up_behind_a_full_one_is_sealed_once() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.limits = SealerLimits { transaction_bytes: i64::MAX, ..SMALL };
    let all = || (0..64).map(|n| counter(&format!("c{n:02}"), 1)).collect::<Vec<_>>();
    lab.put(batch("a", IdempotencyKey::at(START), all())).await;
    lab.put(batch("a", IdempotencyKey::at(START), vec![counter("in_block_2", 1)])).await;
    lab.clock.set(START + 21 * MINUTE);
    for n in 0..100 {
        // Only after some passes over the second block alone are there series of the first.
        let mut metrics = if matches!(n, 40 | 90) { all() } else { Vec::new() };
        metrics.push(counter("in_block_2", 1));
        lab.put(batch("a", IdempotencyKey::at(START + 20 * MINUTE + n), metrics)).await;
    }
    let blocks: Vec<i32> = sqlx::query_scalar("SELECT DISTINCT id / 64 FROM series").fetch_all(&mut lab.conn).await.unwrap();
    assert_eq!(blocks.len(), 2);
    lab.clock.set(START + HOUR);
    assert_eq!(lab.sealer().round().await.unwrap().frames, 102);
    assert!(lab.count("chunks").await > 6, "in several passes");
    lab.check().await;
    lab.clock.set(START + 5 * HOUR);
    lab.seal_all().await;
    lab.check().await;
}

#[tokio::test]
async fn samples_that_are_not_kept_are_counted_once_in_several_passes() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.limits = SealerLimits { transaction_bytes: i64::MAX, ..SMALL };
    // Of series in two blocks.
    for number in 0..3 {
        let mut metrics = Metrics::default();
        for series in 0..70 {
            for at in [START - HOUR, START + number] {
                metrics.push_parsed_at(&format!("g{series}"), Value::Gauge(1.0), i64::try_from(at).unwrap()).unwrap();
            }
        }
        let plain = batch("a", IdempotencyKey::at(START + number), vec![gauge("unused", 0.0)]);
        assert_eq!(lab.store.apply(Batch { metrics, ..plain }).await.unwrap(), Applied::New);
    }
    lab.conn.execute(format!("UPDATE dropped_history SET raw = to_timestamp({})", START / 1000).as_str()).await.unwrap();
    lab.clock.set(START + HOUR);
    let sealer = lab.sealer();
    assert_eq!(sealer.round().await.unwrap().frames, 3);
    assert_eq!((sealer.metrics.sealed_samples.get(), sealer.metrics.too_old_samples.get()), (3 * 70, 3 * 70));
}

#[tokio::test]
async fn frames_that_are_too_many_for_one_transaction_are_sealed_in_several() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.limits = SealerLimits { transaction_bytes: 200, ..SealerLimits::default() };
    for n in 0..30 {
        lab.clock.set(START + n * MINUTE / 3);
        lab.put(batch("a", IdempotencyKey::at(lab.now()), vec![gauge("g", 1.0), counter("c", 2)])).await;
    }
    lab.clock.set(START + HOUR);
    let mut sealer = lab.sealer();
    sealer.limits.sealing = Duration::ZERO;
    assert_eq!((sealer.round().await.unwrap().frames, lab.count("frames").await), (0, 30), "there is no time");
    lab.check().await;
    // One transaction, and what would be the second ends.
    sealer = lab.sealer();
    sealer.steps.left = Some(AtomicI64::new(6));
    sealer.round().await.unwrap_err();
    let reports = lab.count("sealed_reports").await;
    assert_eq!(reports, 1, "what was done is kept");
    lab.check().await;
    assert_eq!((lab.seal_all().await.half_hours.len(), lab.count("frames").await), (1, 0));
    assert!(lab.count("sealed_reports").await > 3);
    lab.check().await;
}

#[tokio::test]
async fn what_is_coded_between_two_statements_may_take_long() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.conn
        .execute(
            "CREATE TABLE limits (part smallint, idle text);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO limits VALUES (NEW.part, current_setting('idle_in_transaction_session_timeout'));
                RETURN NEW;
            END $$;
            CREATE TRIGGER note BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION note();",
        )
        .await
        .unwrap();
    lab.put(batch("a", IdempotencyKey::at(START), vec![gauge("g", 1.0)])).await;
    lab.clock.set(lab.now() + 5 * HOUR);
    lab.seal_all().await;
    let limits: Vec<(i16, String)> = sqlx::query_as("SELECT part, idle FROM limits ORDER BY part").fetch_all(&mut lab.conn).await.unwrap();
    assert_eq!(limits, [(0, "10min".to_owned()), (1, "10min".to_owned())], "when it is folded and when it is sealed");
}

#[tokio::test]
async fn a_window_with_too_many_samples_is_folded_into_several_rows() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.limits.fold_samples = 25;
    let all = || vec![gauge("f", 1.0), counter("c", 2), gauge("g", 3.0), counter("d", 1)];
    for n in 0..10 {
        lab.put(batch("a", IdempotencyKey::at(START + n), all())).await;
    }
    for late in 0..2 {
        lab.clock.set(lab.now() + 5 * HOUR);
        lab.seal_all().await;
        let parts: Vec<i16> = sqlx::query_scalar("SELECT part FROM chunks ORDER BY part").fetch_all(&mut lab.conn).await.unwrap();
        assert_eq!(parts, [-1, 0]);
        lab.check().await;
        lab.put(batch("a", IdempotencyKey::at(START + 20 + late), all())).await;
        lab.check().await;
    }
}
