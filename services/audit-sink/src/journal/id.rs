//! Ids of events: on disk as they came, in memory as a hash of a fixed length.

use sha2::{Digest as _, Sha256};

/// The first sixteen bytes of SHA-256: two different ids never share them.
pub(super) type IdHash = u128;

/// Whether an event may have this id: it must fit one line, between spaces.
pub(crate) fn acceptable(id: &str) -> bool {
    (1..=255).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

pub(super) fn hash(id: &str) -> IdHash {
    let digest = Sha256::digest(id.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_visible() {
        for id in ["a", "0199c0de-0000-7000-8000-000000000000", "msg_2Kx:/+~", &"x".repeat(255)] {
            assert!(acceptable(id), "{id}");
        }
        for id in ["", "a b", "a\n", "\u{e9}", "a\t", &"x".repeat(256)] {
            assert!(!acceptable(id), "{id:?}");
        }
        assert_ne!(hash("a"), hash("A"));
        assert_eq!(hash("a"), hash("a"));
    }
}
