//! Parts of bodies: the metrics of a target as JSON, in pieces that each fit into a batch.

/// The most metrics in a batch.
pub(super) const MAX_ITEMS: usize = 5_000;

/// The largest body, before compression: far below what a server accepts, so that there is room for counters.
const MAX_BYTES: usize = 4 << 20;

/// Metrics as JSON objects with commas between them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) items: String,
    pub(super) count: usize,
}

impl Piece {
    fn append(&mut self, other: &Self) {
        if self.count > 0 && other.count > 0 {
            self.items.push(',');
        }
        self.items.push_str(&other.items);
        self.count += other.count;
    }

    fn has_room_for(&self, count: usize, bytes: usize) -> bool {
        self.count + count <= MAX_ITEMS && self.items.len() + bytes < MAX_BYTES
    }
}

/// The metrics of one target.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pieces(Vec<Piece>);

impl Pieces {
    /// Adds a metric, which `write` appends to a body.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut String)) {
        if self.0.last().is_none_or(|piece| !piece.has_room_for(1, 0)) {
            self.0.push(Piece::default());
        }
        if let Some(piece) = self.0.last_mut() {
            if piece.count > 0 {
                piece.items.push(',');
            }
            write(&mut piece.items);
            piece.count += 1;
        }
    }

    /// Joins the pieces of several targets into as few as possible, in order.
    pub(super) fn join(all: impl IntoIterator<Item = Self>) -> Vec<Piece> {
        let mut joined: Vec<Piece> = Vec::new();
        for piece in all.into_iter().flat_map(|pieces| pieces.0) {
            match joined.last_mut() {
                Some(last) if last.has_room_for(piece.count, piece.items.len()) => last.append(&piece),
                _ => joined.push(piece),
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::{Metric, MetricId, Value, json};

    use super::*;

    fn pieces(name: &str, count: usize) -> Pieces {
        let mut pieces = Pieces::default();
        for number in 0..count {
            let id = MetricId::parse(&format!("{name}{number}")).unwrap();
            pieces.push(|body| json::append_metric(body, &Metric { id, value: Value::Gauge(1.5) }));
        }
        pieces
    }

    #[test]
    fn targets_share_batches_up_to_the_limit() {
        let joined = Pieces::join([pieces("a", 3000), pieces("b", 2000), pieces("c", 1), pieces("d", 12_000), Pieces::default()]);
        let counts: Vec<_> = joined.iter().map(|piece| piece.count).collect();
        assert_eq!(counts, [5000, 1, 5000, 5000, 2000]);
        for piece in joined {
            let decoded = json::decode_batch(format!("[{}]", piece.items).as_bytes(), MAX_ITEMS).unwrap();
            assert_eq!(decoded.len(), piece.count);
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
        assert!(joined.len() > 2 && joined.iter().all(|piece| piece.items.len() < MAX_BYTES + 5000));
    }
}
