//! Ids as they are kept: on disk as they came, in memory as a fixed number of bytes however long they are.

use sha2::{Digest as _, Sha256};

/// Sixteen bytes of SHA-256: no two ids share them.
pub(super) type Mark = u128;

/// Whether this may be an id: it stands on one line, between spaces.
pub(crate) fn acceptable(id: &str) -> bool {
    (1..=255).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

pub(super) fn mark(id: &str) -> Mark {
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
        assert_ne!(mark("a"), mark("A"));
        assert_eq!(mark("a"), mark("a"));
    }
}
