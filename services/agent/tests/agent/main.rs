//! The agent against servers on loopback that come late, break off, hang and refuse.

mod faults;
mod process;
mod server;
mod spool;
