//! What tells lists of series apart in this process.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;
use golectra_protocol::{Kind, MetricRef, Metrics};

/// 128 bits over kinds and ids in their order, under seeds that are this process's own.
pub(super) type Shape = (u64, u64);

/// Computes shapes. The database's own digest is SHA-256 and only computed for a list that is not known here.
#[derive(Default)]
pub(super) struct ShapeHasher(RandomState, RandomState);

impl ShapeHasher {
    /// The shape of a batch, and about how many bytes its metrics take in memory.
    pub(super) fn shape(&self, metrics: &Metrics) -> (Shape, usize) {
        let (mut one, mut other) = (self.0.build_hasher(), self.1.build_hasher());
        let mut text = 0;
        for metric in metrics {
            let id = metric.id.as_bytes();
            text += id.len();
            // An id's end is told by its length.
            let head = id.len() << 1 | usize::from(metric.kind() == Kind::Counter);
            one.write_usize(head);
            one.write(id);
            other.write_usize(head);
            other.write(id);
        }
        let times = if metrics.has_times() { size_of::<i64>() } else { 0 };
        ((one.finish(), other.finish()), text + metrics.len() * (size_of::<MetricRef<'_>>() + times))
    }

    /// The shape of each series of a batch of gauges, in the batch's order.
    pub(super) fn shapes(&self, metrics: &Metrics) -> Box<[Shape]> {
        let mut last: (&str, Shape) = ("", (0, 0));
        let shape = |id: &str| {
            let (mut one, mut other) = (self.0.build_hasher(), self.1.build_hasher());
            one.write(id.as_bytes());
            other.write(id.as_bytes());
            (one.finish(), other.finish())
        };
        let shapes = metrics.iter().map(|metric| {
            // Samples of one series mostly follow each other, and share their id's text.
            if !std::ptr::eq(last.0, metric.id) {
                last = (metric.id, shape(metric.id));
            }
            last.1
        });
        shapes.collect()
    }
}
