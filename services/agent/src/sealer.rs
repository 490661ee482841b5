//! Gathers polls and seals them into batches.

use std::collections::{BTreeMap, VecDeque};

use golectra_process::Secret;
use golectra_protocol::{Metric, MetricId, Value, json};

use crate::batch::{Batch, Deltas, MAX_BATCH_ITEMS, POLL_COUNT};
use crate::collect::RenderedGauge;

/// How many polls the window holds. Of a longer report interval the newest are kept.
const WINDOW_POLLS: usize = 16;

/// How much memory the window may take, so that a batch stays well below the largest body that a server accepts. The newest
/// poll is kept whatever it takes; the collectors bound it.
const WINDOW_BYTES: usize = 4 << 20;

/// One poll.
#[derive(Debug)]
struct Poll {
    metrics: Vec<Metric>,
    bytes: usize,
}

/// The polls since the last batch.
#[derive(Debug)]
pub struct Sealer {
    hash_key: Option<Secret>,
    poll_count: MetricId,
    polls: i64,
    window: VecDeque<Poll>,
    window_bytes: usize,
    /// The host's gauges, the last first.
    host: Vec<RenderedGauge>,
}

impl Sealer {
    /// A sealer without polls. `hash_key` makes the HashSHA256 of batches.
    pub fn new(hash_key: Option<Secret>) -> Self {
        let poll_count = MetricId::parse(POLL_COUNT).expect("the name is a valid id");
        Self { hash_key, poll_count, polls: 0, window: VecDeque::new(), window_bytes: 0, host: Vec::new() }
    }

    /// Adds a poll. All polls since the last batch are kept, not only the newest, so that a collector that missed
    /// the last poll still reports what it measured before.
    pub fn add_poll(&mut self, metrics: Vec<Metric>) {
        self.polls = self.polls.saturating_add(1);
        self.add_measured(metrics);
    }

    /// Adds what was measured besides a poll.
    pub fn add_measured(&mut self, metrics: Vec<Metric>) {
        let bytes = metrics.iter().map(|metric| size_of::<Metric>() + metric.id.as_str().len()).sum();
        self.window.push_back(Poll { metrics, bytes });
        self.window_bytes += bytes;
        while self.window.len() > WINDOW_POLLS || (self.window.len() > 1 && self.window_bytes > WINDOW_BYTES) {
            if let Some(oldest) = self.window.pop_front() {
                self.window_bytes -= oldest.bytes;
            }
        }
    }

    /// Polls since the last batch.
    pub const fn polls(&self) -> i64 {
        self.polls
    }

    /// Sets what was measured of the host for this report.
    pub fn set_host(&mut self, mut gauges: Vec<RenderedGauge>) {
        gauges.reverse();
        self.host = gauges;
    }

    /// Whether something is left that did not fit into the batch that was sealed last.
    pub const fn has_more(&self) -> bool {
        !self.host.is_empty()
    }

    /// Seals the polls: of each gauge the newest value, of each counter what was added since the last batch, and
    /// `returned`, the deltas of dropped batches that were not applied; and what fits of the host's gauges.
    pub fn seal(&mut self, unix_millis: u64, returned: Deltas) -> Batch {
        let mut deltas = returned;
        // A further batch of one report has no polls.
        if self.polls > 0 {
            deltas.add(&self.poll_count, std::mem::take(&mut self.polls));
        }

        self.window_bytes = 0;
        let window = std::mem::take(&mut self.window);
        let gauges: BTreeMap<MetricId, Value> =
            window.into_iter().flat_map(|poll| poll.metrics).map(|metric| (metric.id, metric.value)).collect();
        let counters = deltas.iter().map(|(id, delta)| (id.clone(), Value::Counter(delta)));
        let mut metrics: Vec<Metric> = gauges.into_iter().chain(counters).map(|(id, value)| Metric { id, value }).collect();
        // A server sees the same series in the same order every time.
        metrics.sort_by(|a, b| a.id.cmp(&b.id));
        let left = self.host.len().saturating_sub(MAX_BATCH_ITEMS.saturating_sub(metrics.len()));
        let gauges = self.host.drain(left..).rev();
        let items = metrics.len() + gauges.len();
        let body = json::encode_batch_with(&metrics, gauges.map(|gauge| (gauge.start, gauge.value)));
        Batch::seal(unix_millis, &body, items as u64, deltas, self.hash_key.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{MAX_ID_BYTES, gzip, hash};

    use super::*;
    use crate::batch::MAX_BODY_BYTES;

    fn gauge(id: &str, value: f64) -> Metric {
        Metric { id: MetricId::parse(id).unwrap(), value: Value::gauge(value).unwrap() }
    }

    fn text(batch: &Batch) -> String {
        String::from_utf8(gzip::unpack(batch.body(), MAX_BODY_BYTES).unwrap()).unwrap()
    }

    #[test]
    fn a_batch_has_the_newest_gauges_and_the_deltas_since_the_last_one() {
        let mut sealer = Sealer::new(Some(Secret::from("key")));
        sealer.add_poll(vec![gauge("b", 1.0), gauge("only_once", 7.0)]);
        sealer.add_poll(vec![gauge("b", 2.0), gauge("Z", 0.5)]);
        let batch = sealer.seal(1_700_000_000_123, Deltas::default());
        let expected = r#"[{"id":"PollCount","type":"counter","delta":2},{"id":"Z","type":"gauge","value":0.5},{"id":"b","type":"gauge","value":2.0},{"id":"only_once","type":"gauge","value":7.0}]"#;
        assert_eq!(text(&batch), expected);
        assert_eq!(batch.hash(), Some(hash::body_hash(expected.as_bytes(), b"key").as_str()));
        assert_eq!(batch.key().unix_millis(), 1_700_000_000_123);
        assert_eq!((batch.items(), batch.polls(), sealer.polls()), (4, 2, 0));
        sealer.add_poll(vec![]);
        assert_eq!(text(&sealer.seal(1, Deltas::default())), r#"[{"id":"PollCount","type":"counter","delta":1}]"#);
    }

    #[test]
    fn returned_deltas_are_in_the_next_batch_once() {
        let mut sealer = Sealer::new(None);
        sealer.add_poll(vec![]);
        let first = sealer.seal(1, Deltas::default());
        sealer.add_poll(vec![]);
        let second = sealer.seal(2, first.deltas().clone());
        assert_eq!((first.polls(), second.polls()), (1, 2));
        sealer.add_poll(vec![]);
        assert_eq!(sealer.seal(3, Deltas::default()).polls(), 1);
    }

    #[test]
    fn the_window_is_bounded_and_every_poll_is_counted() {
        let mut sealer = Sealer::new(None);
        for poll in 0..1000_u32 {
            sealer.add_poll(vec![gauge(&format!("poll_{poll}"), 1.0)]);
        }
        let batch = sealer.seal(1, Deltas::default());
        assert_eq!(batch.polls(), 1000);
        assert_eq!(text(&batch).matches("poll_").count(), WINDOW_POLLS);
    }

    #[test]
    fn many_long_ids_are_bounded_and_the_newest_poll_is_whole() {
        let id = |poll: usize, number: usize| format!("{poll}_{number}_{}", "x".repeat(MAX_ID_BYTES - 10));
        let mut sealer = Sealer::new(None);
        for poll in 0..WINDOW_POLLS {
            sealer.add_poll((0..500).map(|number| gauge(&id(poll, number), 1.0)).collect());
        }
        assert!(sealer.window_bytes <= WINDOW_BYTES);
        let batch = sealer.seal(1, Deltas::default());
        let text = text(&batch);
        assert!(text.len() <= MAX_BODY_BYTES);
        assert_eq!(text.matches(&format!("\"{}_", WINDOW_POLLS - 1)).count(), 500, "the newest poll");
        assert_eq!(batch.polls(), i64::try_from(WINDOW_POLLS).unwrap());
        assert_eq!((sealer.window_bytes, sealer.polls()), (0, 0));
    }
}
