//! What both stores share about history: which labels a series has, how its samples reach a query.

pub mod labels;
pub mod prefetched;
pub mod query;
