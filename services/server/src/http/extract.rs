//! Extractors of requests.

pub mod body;
mod client;
mod identity;
pub mod signature;

pub use body::{JsonChange, Payload, QueryPayload, SnappyPayload};
pub use client::{ClientAddress, SentBy};
pub use identity::{Key, Sender};
