//! The spool in memory, whose contents are lost with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use golectra_protocol::IdempotencyKey;

use super::drop_log::log_dropped;
use super::send_order::{PATIENCE_TRIES, Pick, SendOrder};
use super::{DiskUsage, Spool, Unsent, Usage};
use crate::batch::{Age, Batch, Deltas};
use crate::metrics::{AgentMetrics, DropReason};

/// Bounds of the spool. Batches that are being sent count, but only waiting ones are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Batches.
    pub batches: usize,
    /// Memory that they take, in bytes.
    pub bytes: usize,
    /// How long a batch may wait.
    pub age: Duration,
}

/// Batches in memory. Those that wait are sorted by age.
pub struct Memory {
    limits: Limits,
    metrics: Arc<AgentMetrics>,
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
    handed_out: BTreeMap<IdempotencyKey, HandedOut>,
    returned: Deltas,
    order: SendOrder,
}

fn is_failing(batch: &Batch) -> bool {
    batch.attempts().count() >= PATIENCE_TRIES
}

/// What is known of a batch that a sender has.
struct HandedOut {
    bytes: usize,
    polls: i64,
    age: Age,
}

impl Memory {
    /// An empty spool that counts what it drops in `metrics`.
    pub fn new(limits: Limits, metrics: Arc<AgentMetrics>) -> Self {
        Self {
            limits,
            metrics,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            handed_out: BTreeMap::new(),
            returned: Deltas::default(),
            order: SendOrder::default(),
        }
    }

    fn bytes(&self) -> usize {
        self.waiting_bytes + self.handed_out.values().map(|out| out.bytes).sum::<usize>()
    }

    fn batches(&self) -> usize {
        self.waiting.len() + self.handed_out.len()
    }

    /// Removes the oldest waiting batch, for the disk to take it.
    pub(super) fn pop_oldest(&mut self) -> Option<Batch> {
        self.remove(0)
    }

    fn remove(&mut self, index: usize) -> Option<Batch> {
        let batch = self.waiting.remove(index)?;
        self.waiting_bytes -= batch.memory_bytes();
        Some(batch)
    }

    /// Drops waiting batches until the bounds hold: the oldest first, but those that were certainly not applied before those
    /// that may have been, because their counters are not lost. One batch may take more than all the bytes.
    fn shrink(&mut self) {
        while self.batches() > self.limits.batches || (self.bytes() > self.limits.bytes && self.batches() > 1) {
            let index = self.waiting.iter().position(|batch| !batch.attempts().may_be_applied()).unwrap_or(0);
            let Some(batch) = self.remove(index) else { break };
            self.drop_batch(&batch, DropReason::QueueFull);
        }
    }

    /// Drops what has waited too long. A batch that the server calls too new and that waits for another key is not too old,
    /// whatever its age.
    fn expire(&mut self) {
        let limit = self.limits.age;
        let expired = move |batch: &Batch| batch.age().in_this_process() > limit && !batch.attempts().waits_for_another_key();
        while let Some(index) = self.waiting.iter().position(expired) {
            let Some(batch) = self.remove(index) else { break };
            self.drop_batch(&batch, DropReason::Expired);
        }
    }

    /// Hands out the picked batch; a failing one where there is no other.
    pub(super) fn take_pick(&mut self, pick: Pick) -> Option<Batch> {
        let index = match pick {
            Pick::Oldest => self.waiting.iter().position(|batch| !is_failing(batch)),
            Pick::Newest => self.waiting.iter().rposition(|batch| !is_failing(batch)),
            Pick::Failing => None,
        };
        let batch = self.remove(index.or_else(|| self.failing())?)?;
        self.handed_out.insert(batch.key(), HandedOut { bytes: batch.memory_bytes(), polls: batch.polls(), age: batch.age() });
        Some(batch)
    }

    /// The failing batch with the fewest tries.
    fn failing(&self) -> Option<usize> {
        (0..self.waiting.len())
            .filter(|index| is_failing(&self.waiting[*index]))
            .min_by_key(|index| self.waiting[*index].attempts().count())
    }

    fn insert(&mut self, batch: Batch) {
        self.waiting_bytes += batch.memory_bytes();
        // By age, because keys are not in order after the clock was set.
        let place = |batch: &Batch| (batch.age().known_since, batch.key());
        let index = self.waiting.partition_point(|other| place(other) < place(&batch));
        self.waiting.insert(index, batch);
        self.shrink();
    }

    fn drop_batch(&mut self, batch: &Batch, reason: DropReason) {
        log_dropped(reason);
        self.metrics.dropped(reason, 1);
        if !batch.attempts().may_be_applied() {
            self.returned.add_all(batch.deltas());
        }
    }
}

impl Spool for Memory {
    fn make_room(&mut self) -> Deltas {
        self.expire();
        std::mem::take(&mut self.returned)
    }

    fn push(&mut self, batch: Batch) {
        self.insert(batch);
    }

    fn take(&mut self) -> Option<Batch> {
        let failing = self.failing().map(|index| self.waiting[index].attempts().count());
        let others = self.waiting.iter().any(|batch| !is_failing(batch));
        let pick = self.order.next(failing, others)?;
        self.take_pick(pick)
    }

    fn put_back(&mut self, batch: Batch) {
        self.handed_out.remove(&batch.key());
        self.order.failed();
        self.insert(batch);
    }

    fn seal_again(&mut self, batch: Batch, unix_millis: u64) -> bool {
        self.handed_out.remove(&batch.key());
        self.insert(batch.sealed_again(unix_millis));
        true
    }

    fn acknowledge(&mut self, key: IdempotencyKey) {
        if self.handed_out.remove(&key).is_some() {
            self.order.settled();
        }
    }

    fn reject(&mut self, batch: &Batch, reason: DropReason) {
        if self.handed_out.remove(&batch.key()).is_some() {
            self.order.settled();
            self.drop_batch(batch, reason);
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn usage(&self) -> Usage {
        let ages = self.waiting.front().map(Batch::age).into_iter().chain(self.handed_out.values().map(|out| out.age));
        Usage {
            batches: self.batches(),
            bytes: self.bytes(),
            oldest_age_seconds: ages.map(|age| age.total().as_secs_f64()).reduce(f64::max),
            disk: DiskUsage::default(),
        }
    }

    fn close(&mut self) -> Unsent {
        let lost_batches = self.batches() as u64;
        let in_batches: i64 = self.waiting.iter().map(Batch::polls).chain(self.handed_out.values().map(|out| out.polls)).sum();
        let lost_polls = in_batches + std::mem::take(&mut self.returned).polls();
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.handed_out.clear();
        Unsent { lost_batches, lost_polls, ..Unsent::default() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::batch::Failure;
    use crate::sealer::Sealer;

    const HOUR: Duration = Duration::from_hours(1);
    const ROOMY: Limits = Limits { batches: 100, bytes: 1 << 20, age: HOUR };

    fn batch(unix_millis: u64) -> Batch {
        let mut sealer = Sealer::new(None);
        sealer.add_poll(vec![]);
        sealer.seal(unix_millis, Deltas::default())
    }

    fn spool(limits: Limits) -> Memory {
        let metrics = AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap();
        Memory::new(limits, Arc::new(metrics))
    }

    fn times(spool: &Memory) -> Vec<u64> {
        spool.waiting.iter().map(|batch| batch.key().unix_millis()).collect()
    }

    fn take_time(spool: &mut Memory) -> Option<u64> {
        spool.take().map(|batch| batch.key().unix_millis())
    }

    /// Takes the next batch and puts it back after a try with this result; the batch's time.
    fn fail(spool: &mut Memory, failure: Failure) -> u64 {
        let mut batch = spool.take().unwrap();
        batch.record(failure);
        let time = batch.key().unix_millis();
        spool.put_back(batch);
        time
    }

    #[test]
    fn the_oldest_is_sent_first_and_dropped_first() {
        let mut spool = spool(Limits { batches: 2, ..ROOMY });
        for time in 1..=3 {
            spool.push(batch(time));
        }
        assert_eq!(times(&spool), [2, 3]);
        assert_eq!((take_time(&mut spool), take_time(&mut spool), take_time(&mut spool)), (Some(2), Some(3), None));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let one = batch(1).memory_bytes();
        let mut spool = spool(Limits { bytes: one * 2 + one / 2, ..ROOMY });
        for time in 1..=5 {
            spool.push(batch(time));
        }
        assert_eq!(times(&spool), [4, 5]);
        assert!(spool.usage().bytes <= one * 3);
    }

    #[test]
    fn one_batch_that_is_larger_than_all_the_bytes_is_kept() {
        let mut spool = spool(Limits { bytes: 1, ..ROOMY });
        spool.push(batch(1));
        assert_eq!(times(&spool), [1]);
        spool.push(batch(2));
        assert_eq!(times(&spool), [2]);
    }

    #[test]
    fn a_batch_that_is_being_sent_counts_but_is_not_dropped() {
        let mut spool = spool(Limits { batches: 1, ..ROOMY });
        spool.push(batch(1));
        let sending = spool.take().unwrap();
        spool.push(batch(2));
        let usage = spool.usage();
        assert_eq!((usage.batches, usage.bytes, spool.waiting()), (1, sending.memory_bytes(), 0), "there was no room for another one");
        spool.put_back(sending);
        assert_eq!(take_time(&mut spool), Some(1));
        spool.acknowledge(batch(1).key());
        assert_eq!(spool.usage().batches, 1, "the key of another batch removes nothing");
        assert_eq!(spool.close(), Unsent { lost_batches: 1, lost_polls: 2, ..Unsent::default() });
        assert_eq!(spool.usage(), Usage::default());
    }

    #[test]
    fn a_batch_that_may_have_been_applied_is_dropped_last() {
        let mut spool = spool(Limits { batches: 2, ..ROOMY });
        spool.push(batch(1));
        fail(&mut spool, Failure::Unknown);
        spool.push(batch(2));
        spool.push(batch(3));
        assert_eq!(times(&spool), [1, 3]);
    }

    #[test]
    fn only_counters_that_were_certainly_not_applied_are_returned() {
        let mut spool = spool(ROOMY);
        for time in [1, 2] {
            spool.push(batch(time));
            let mut rejected = spool.take().unwrap();
            if time == 2 {
                rejected.record(Failure::Unknown);
            }
            spool.reject(&rejected, DropReason::TooLarge);
        }
        assert_eq!(spool.metrics.dropped_so_far(DropReason::TooLarge), 2);
        assert_eq!(spool.close(), Unsent { lost_batches: 0, lost_polls: 1, ..Unsent::default() });
        assert_eq!(spool.make_room().polls(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_expires_by_the_time_it_has_waited_whatever_its_key_says() {
        let mut spool = spool(ROOMY);
        // As sealed by clocks that are 3 days apart.
        spool.push(batch(1));
        spool.push(batch(3 * 86_400_000));
        advance(HOUR / 2).await;
        spool.push(batch(2));
        assert_eq!(spool.make_room().polls(), 0);
        assert_eq!((spool.waiting(), spool.usage().oldest_age_seconds), (3, Some(1800.0)));
        advance(HOUR / 2 + Duration::from_secs(1)).await;
        assert_eq!(spool.make_room().polls(), 2, "the next report adds their counters");
        assert_eq!((times(&spool), spool.metrics.dropped_so_far(DropReason::Expired)), (vec![2], 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_the_server_calls_too_new_does_not_expire_while_it_may_get_another_key() {
        let mut spool = spool(ROOMY);
        spool.push(batch(1));
        fail(&mut spool, Failure::TooNew);
        advance(HOUR * 100).await;
        spool.make_room();
        assert_eq!(spool.waiting(), 1);
        fail(&mut spool, Failure::Unknown);
        fail(&mut spool, Failure::TooNew);
        spool.make_room();
        assert_eq!((spool.waiting(), spool.metrics.dropped_so_far(DropReason::Expired)), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_sealed_again_keeps_its_age_and_its_place() {
        let mut spool = spool(ROOMY);
        for time in [5000, 6000, 1000] {
            spool.push(batch(time));
            advance(Duration::from_secs(10)).await;
        }
        let mut first = spool.take().unwrap();
        first.record(Failure::TooNew);
        assert!(spool.seal_again(first, 700));
        assert_eq!(times(&spool), [700, 6000, 1000]);
        assert_eq!((spool.usage().batches, spool.usage().oldest_age_seconds), (3, Some(30.0)));
        let again = spool.take().unwrap();
        assert_eq!((again.key().unix_millis(), again.attempts().count(), again.polls()), (700, 0, 1));
    }

    #[test]
    fn a_failing_batch_alternates_with_the_others() {
        let mut spool = spool(ROOMY);
        spool.push(batch(1));
        for _ in 0..PATIENCE_TRIES {
            fail(&mut spool, Failure::Unknown);
        }
        for time in 2..=9 {
            spool.push(batch(time));
        }
        let mut order = Vec::new();
        for _ in 0..11 {
            let mut batch = spool.take().unwrap();
            order.push(batch.key().unix_millis());
            if batch.key().unix_millis() == 1 {
                batch.record(Failure::Unknown);
                spool.put_back(batch);
            } else {
                spool.acknowledge(batch.key());
            }
        }
        assert_eq!(order, [1, 2, 9, 1, 3, 8, 4, 7, 1, 5, 6]);
        assert_eq!(take_time(&mut spool), Some(1), "nothing else is left");
    }

    #[test]
    fn while_nothing_succeeds_few_batches_are_tried() {
        let mut spool = spool(ROOMY);
        for time in 1..=20 {
            spool.push(batch(time));
        }
        for _ in 0..24 {
            fail(&mut spool, Failure::Unknown);
        }
        assert!(spool.waiting.iter().filter(|batch| batch.attempts().may_be_applied()).count() <= 5);
    }
}
