//! Prometheus's HTTP API: one file a family of routes.
//!
//! Parameters, answers and errors are those of Prometheus 3, so that Grafana, promtool and the like need not know golectra.

mod answer;
mod error;
mod parameters;
mod syntax;

pub mod export;
pub mod labels;
pub mod metadata;
pub mod query;
pub mod rules;
pub mod status;
pub mod write;

pub use self::error::ApiFailure;
