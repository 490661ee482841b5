//! The wire protocol of golectra.
//!
//! Agent and server use the same code for metric objects, hashes, keys and header names. The crate is pure: no I/O, no clock,
//! no async runtime. docs/protocol.md describes the protocol in prose.
//!
//! A value of a type of this crate is valid by construction: [`MetricId`], [`Source`], [`Metric`] and [`IdempotencyKey`] can
//! only be created by parsing, so code behind the parser does not check again.
#![deny(missing_docs)]

pub mod answer;
pub mod audit;
pub mod catalog;
pub mod exposition;
pub mod gzip;
pub mod hash;
pub mod header;
mod id;
pub mod json;
mod key;
mod metric;
mod metrics;
pub mod number;
pub mod remote_write;
pub mod signature;
mod source;
pub mod webhook;

pub use answer::ErrorCode;
pub use id::{IdError, IdParts, MAX_ID_BYTES, MetricId};
pub use key::{IdempotencyKey, KeyError, MAX_AHEAD_MILLIS, WindowError};
pub use metric::{Kind, Metric, Selector, UnknownKind, Value, ValueError};
pub use metrics::{Iter, MetricRef, Metrics};
pub use source::{Source, SourceError};
