//! Blocks and their columns through the crate's interface.

mod damage;
mod golden;
mod round_trip;
mod samples;
