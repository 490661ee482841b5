//! What both stores share about history: which labels a series has, how its samples reach a query.

mod decode;
pub mod export;
pub mod labels;
pub mod number;
pub mod prefetched;
pub mod query;
pub mod shared;
mod threads;
pub mod time;
