//! How many keys are remembered, and when they are forgotten.

use super::conformance::counter as count;
use super::*;

const HOUR: u64 = 3_600_000;

fn shards(max_keys: usize) -> Shards {
    Shards::new(SeriesLimits { total: 100_000, per_source: 50_000 }, Lifetimes::default(), max_keys, 0)
}

fn put(shards: &Shards, source: &str, at: u64, now: u64) -> Result<Applied, StoreError> {
    shards.apply(&batch(source, IdempotencyKey::at(at), vec![count("c", 1)]), now, |_| {})
}

fn remembered(shards: &Shards) -> usize {
    shards.each().map(|shard| shard.keys.len()).sum()
}

#[test]
fn one_source_has_the_room_of_all() {
    let shards = Arc::new(shards(1600));
    for number in 0..1000 {
        assert_eq!(put(&shards, "a", NOW + number, NOW + 1000).unwrap(), Applied::New);
    }
    assert_eq!(remembered(&shards), 1000);
    assert!(shards.each().all(|shard| shard.keys.floor_millis() == 0), "none was forgotten");
    for number in 1000..2000 {
        assert_eq!(put(&shards, "a", NOW + number, NOW + 2000).unwrap(), Applied::New);
        assert!(remembered(&shards) <= 1600);
    }
    assert!(remembered(&shards) > 1500);
    // Those of other shards have their share, whatever the first one has.
    for number in 0..200 {
        for source in 0..64 {
            drop(put(&shards, &format!("s{source}"), NOW + 2000 + number, NOW + 3000));
        }
    }
    assert!(remembered(&shards) < 2 * 1600);
    Sweeper::new(Arc::clone(&shards), Clock::at(NOW + 3000), None).sweep(NOW + 3000);
    assert!(remembered(&shards) <= 1600);
}

#[test]
fn a_write_while_the_clock_is_ahead_forgets_no_key() {
    let shards = shards(100_000);
    shards.expiry_clock.follow(NOW);
    let early = batch("a", IdempotencyKey::at(NOW - 10 * HOUR), vec![count("c", 1)]);
    assert_eq!(shards.apply(&early, NOW, |_| {}).unwrap(), Applied::New);
    assert_eq!(put(&shards, "a", NOW + 40 * HOUR, NOW + 40 * HOUR).unwrap(), Applied::New);
    assert_eq!(put(&shards, "a", NOW - 20 * HOUR, NOW).unwrap(), Applied::New);
    assert_eq!(shards.apply(&early, NOW, |_| {}).unwrap(), Applied::Repeat);
}
