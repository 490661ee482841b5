//! Digests that stand for texts in indexes: the first 128 bits of a SHA-256, as a uuid.

use golectra_protocol::Kind;
use golectra_protocol::remote_write::Metadata;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A kind as the tables hold it.
pub(super) const fn code_of(kind: Kind) -> i16 {
    match kind {
        Kind::Gauge => 0,
        Kind::Counter => 1,
    }
}

/// What tells series of one source apart: their kind and id. The same over all sources.
pub(super) fn of_series(kind: i16, id: &str) -> Uuid {
    digest(|hasher| {
        hasher.update(kind.to_be_bytes());
        hasher.update(id);
    })
}

/// That of a metric's name or of a label's key.
pub(super) fn of_text(text: &str) -> Uuid {
    digest(|hasher| hasher.update(text))
}

/// That of what is said about a metric.
pub(super) fn of_metadata(metadata: &Metadata) -> Uuid {
    digest(|hasher| {
        for text in [&metadata.name, metadata.kind.as_str(), &metadata.help, &metadata.unit] {
            hasher.update(text);
            hasher.update([0xff]);
        }
    })
}

/// That of a label's key and value. No text in UTF-8 has the byte between them.
pub(super) fn of_pair(key: &str, value: &str) -> Uuid {
    digest(|hasher| {
        hasher.update(key);
        hasher.update([0xff]);
        hasher.update(value);
    })
}

fn digest(feed: impl FnOnce(&mut Sha256)) -> Uuid {
    let mut hasher = Sha256::new();
    feed(&mut hasher);
    let all: [u8; 32] = hasher.finalize().into();
    let (head, _) = all.split_first_chunk().expect("32 bytes have 16 at their head");
    Uuid::from_bytes(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_digests() {
        // The tables hold them: they may not change.
        assert_eq!(of_text("up").to_string(), "75a288c0-d689-8c5f-7b05-4590845978a8");
        assert_eq!(of_series(0, "up").to_string(), "920a5d67-1c87-99de-56aa-986d7dc41a91");
        assert_eq!(of_pair("a", "b").to_string(), "01ce0241-d2a0-e71a-4fec-d5a8d71157fe");
        assert_ne!(of_series(0, "up"), of_series(1, "up"));
        assert_ne!(of_pair("a", "bc"), of_pair("ab", "c"));
    }
}
