//! The agent against servers on loopback that start late, close connections, hang and refuse.

mod answers;
mod clocks;
mod doctor;
mod faults;
mod harness;
mod hidepid;
mod kubelet;
mod kubelet_server;
mod process;
mod scrape;
mod server;
mod spool;
