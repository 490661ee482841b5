//! Parts of bodies: the metrics of a target as JSON, in pieces that each fit into a batch.

use golectra_process::Secret;
use golectra_protocol::{Metric, Value, json};

use crate::batch::{Batch, Deltas};

/// The most metrics in a batch.
pub(super) const MAX_ITEMS: usize = 5_000;

/// The largest body, before compression: far below what a server accepts, so that there is room for counters.
const MAX_BYTES: usize = 4 << 20;

/// Metrics as JSON objects with commas between them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    body: Vec<u8>,
    items: usize,
}

impl Piece {
    fn append(&mut self, other: &Self) {
        if self.items > 0 && other.items > 0 {
            self.body.push(b',');
        }
        self.body.extend_from_slice(&other.body);
        self.items += other.items;
    }

    fn has_room_for(&self, items: usize, bytes: usize) -> bool {
        self.items + items <= MAX_ITEMS && self.body.len() + bytes < MAX_BYTES
    }
}

/// The metrics of one target.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pieces(Vec<Piece>);

impl Pieces {
    /// Adds a metric, which `write` appends to a body.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.0.last().is_none_or(|piece| !piece.has_room_for(1, 0)) {
            self.0.push(Piece::default());
        }
        if let Some(piece) = self.0.last_mut() {
            if piece.items > 0 {
                piece.body.push(b',');
            }
            write(&mut piece.body);
            piece.items += 1;
        }
    }

    /// Joins the pieces of several targets into as few as possible, in order.
    pub(super) fn join(all: impl IntoIterator<Item = Self>) -> Vec<Piece> {
        let mut joined: Vec<Piece> = Vec::new();
        for piece in all.into_iter().flat_map(|pieces| pieces.0) {
            match joined.last_mut() {
                Some(last) if last.has_room_for(piece.items, piece.body.len()) => last.append(&piece),
                _ => joined.push(piece),
            }
        }
        joined
    }
}

impl Piece {
    /// The batch of these metrics, and of the deltas that dropped batches returned.
    pub(super) fn seal(mut self, unix_millis: u64, returned: Deltas, hash_key: Option<&Secret>) -> Batch {
        for (id, delta) in returned.iter() {
            let mut counter = Self { body: Vec::new(), items: 1 };
            json::append_metric(&mut counter.body, &Metric { id: id.clone(), value: Value::Counter(delta) });
            self.append(&counter);
        }
        let mut body = Vec::with_capacity(self.body.len() + 2);
        body.push(b'[');
        body.append(&mut self.body);
        body.push(b']');
        Batch::seal(unix_millis, &body, self.items as u64, returned, hash_key)
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{MetricId, gzip};

    use super::*;

    fn pieces(name: &str, count: usize) -> Pieces {
        let mut pieces = Pieces::default();
        for number in 0..count {
            let id = MetricId::parse(&format!("{name}{number}")).unwrap();
            pieces.push(|body| json::append_metric(body, &Metric { id, value: Value::Gauge(1.5) }));
        }
        pieces
    }

    fn text(batch: &Batch) -> String {
        String::from_utf8(gzip::unpack(batch.body(), 16 << 20).unwrap()).unwrap()
    }

    #[test]
    fn targets_share_batches_up_to_the_limit() {
        let joined = Pieces::join([pieces("a", 3000), pieces("b", 2000), pieces("c", 1), pieces("d", 12_000), Pieces::default()]);
        let counts: Vec<_> = joined.iter().map(|piece| piece.items).collect();
        assert_eq!(counts, [5000, 1, 5000, 5000, 2000]);
        for piece in joined {
            let items = piece.items;
            let batch = piece.seal(1, Deltas::default(), None);
            let decoded = json::decode_batch(text(&batch).as_bytes(), MAX_ITEMS).unwrap();
            assert_eq!((decoded.len(), batch.items()), (items, items as u64));
        }
        assert_eq!(Pieces::join([]), []);
    }

    #[test]
    fn long_ids_take_more_batches() {
        let mut pieces = Pieces::default();
        let id = MetricId::parse(&"x".repeat(4096)).unwrap();
        for _ in 0..3000 {
            pieces.push(|body| json::append_metric(body, &Metric { id: id.clone(), value: Value::Gauge(1.5) }));
        }
        let joined = Pieces::join([pieces]);
        assert!(joined.len() > 2 && joined.iter().all(|piece| piece.body.len() < MAX_BYTES + 5000));
    }

    #[test]
    fn a_batch_has_the_deltas_that_dropped_batches_returned() {
        let mut returned = Deltas::default();
        returned.add(&MetricId::parse("PollCount").unwrap(), 3);
        let piece = Pieces::join([pieces("a", 1)]).remove(0);
        let batch = piece.seal(7, returned, None);
        let expected = r#"[{"id":"a0","type":"gauge","value":1.5},{"id":"PollCount","type":"counter","delta":3}]"#;
        assert_eq!(text(&batch), expected);
        assert_eq!((batch.items(), batch.polls(), batch.key().unix_millis()), (2, 3, 7));
    }
}
