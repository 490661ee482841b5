//! Everything that may fail does, under load, and afterwards the books are compared: nothing that was acknowledged is
//! lost, nothing is counted twice.
//!
//! Beside the clients that keep a batch's key goes a naive one that takes a fresh key for each retry. It has to over-count,
//! or else the test would not see it if golectra did.
//!
//! This is the short form, of seconds each. GOLECTRA_CHAOS=full is the complete one: `make chaos`.

mod agents;
mod answers;
mod cluster;
mod disk;
mod disks;
mod failover;
mod history;
mod history_disks;
#[path = "../cluster/images.rs"]
#[allow(dead_code, reason = "the cluster tests need more of it")]
mod images;
#[path = "../cluster/kube.rs"]
#[allow(dead_code, reason = "the cluster tests need more of it")]
mod kube;
mod load;
mod outage;
mod overload;
mod postgres;
mod program;
mod prometheus;
#[path = "../cluster/release.rs"]
#[allow(dead_code, reason = "the cluster tests need more of it")]
mod release;
mod results;
mod sealing;
mod servers;
mod tap;
mod two;

/// Whether the complete form is asked for.
pub fn full() -> bool {
    std::env::var("GOLECTRA_CHAOS").is_ok_and(|value| value == "full")
}

/// How much of something: in the short form, in the complete one.
pub fn amount<T>(short: T, complete: T) -> T {
    if full() { complete } else { short }
}

/// What the modules that the cluster tests share have to say.
pub fn say(line: &str) {
    results::say("cluster", line);
}
