//! Ports for programs that must come back on the same one after a restart.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// A port on which nothing listens. It is below the kernel's range for outgoing connections, so only another test could take
/// it; a program whose port is taken is started again on another one.
pub fn free_port() -> u16 {
    let random = RandomState::new();
    (0_u32..)
        .map(|attempt| 10_000 + u16::try_from(random.hash_one(attempt) % 9_000).expect("less than 9,000"))
        .take(1000)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of a thousand ports is free")
}
