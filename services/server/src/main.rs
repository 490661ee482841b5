//! golectra-server: takes metrics, keeps them, shows them.

mod audit;
mod clock;
mod config;
mod ingest;
mod metrics;
mod store;

fn main() {}
