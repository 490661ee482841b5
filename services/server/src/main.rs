//! golectra-server: takes metrics, keeps them, shows them.

mod audit;
mod clock;
mod ingest;
mod store;

fn main() {}
