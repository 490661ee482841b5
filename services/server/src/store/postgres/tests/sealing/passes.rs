//! Frames of a source that are too many for one pass.

use super::*;

/// So little that a few samples of a series are too many.
pub(super) const SMALL: SealerLimits =
    SealerLimits { pass_bytes: 400, sealing: Duration::from_mins(5), folding: Duration::from_mins(8) };

#[tokio::test]
async fn a_block_that_comes_up_behind_a_full_one_is_sealed_once() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.limits = SMALL;
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
