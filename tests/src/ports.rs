//! Ports for programs that must come back on the same one after a restart.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ports are these many from 10,000 on, below the kernel's range for outgoing connections.
const PORTS: u64 = 9_000;

/// Counts the ports that were tried, from a random number on.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0) % PORTS));

/// A port on which nothing listens, and which no other test of this process gets: it stays free while its program is restarted.
/// Only another process could take it; a program whose port is taken at its first start is started again on another one.
pub fn free_port() -> u16 {
    (0..PORTS)
        .map(|_| 10_000 + u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % PORTS).expect("less than 9,000"))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of the ports is free")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_callers_get_the_same_port() {
        let ports: BTreeSet<u16> = (0..1_000).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 1_000);
        assert!(ports.iter().all(|port| (10_000..19_000).contains(port)));
    }
}
