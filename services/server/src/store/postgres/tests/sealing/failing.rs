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
