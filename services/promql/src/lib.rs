//! PromQL as Prometheus 3 documents it.
//!
//! A query is read once ([`Query::parse`]) and evaluated at one time ([`Engine::instant`]) or at the steps of a range
//! ([`Engine::range`]) on the samples that a [`Store`] gives. The crate is pure: it does no I/O but through the store,
//! reads no clock and needs no async runtime.
//!
//! ```
//! use golectra_promql::store::MemoryStore;
//! use golectra_promql::{Engine, Labels, MemoryBudget, NoInterrupt, Query, Steps, Value};
//!
//! let mut store = MemoryStore::default();
//! for seconds in 0..60 {
//!     let labels = Labels::new([("__name__", "requests_total"), ("job", "web")]);
//!     store.add(&labels, seconds * 10_000, (seconds * 20) as f64);
//! }
//! let engine = Engine::default();
//! let query = Query::parse("sum by (job) (rate(requests_total[1m]))", &engine.parse_limits)?;
//! let steps = Steps::range(300_000, 420_000, 60_000).unwrap();
//! let outcome = engine.range(&query, steps, &store, &NoInterrupt, &MemoryBudget::new(1 << 20))?;
//! let Value::Matrix(matrix) = outcome.value else { unreachable!() };
//! let samples: Vec<_> = matrix.series[0].samples(&matrix.steps).collect();
//! assert_eq!(samples, [(300_000, 2.0), (360_000, 2.0), (420_000, 2.0)]);
//! # Ok::<_, golectra_promql::EvalError>(())
//! ```
//!
//! # How it evaluates
//!
//! By column: a node of the query gives one series after the other, each with its values at all steps in one vector.
//! Windows slide over the samples of a series, so functions such as `rate` and `sum_over_time` read each sample once
//! however much the windows overlap. An aggregation takes series in as they come and holds its groups only.
//!
//! # What differs from Prometheus
//!
//! - Native histograms are not stored; functions that are only for them give nothing for floats, as documented.
//! - What is experimental in Prometheus 3 is refused by its name: see [`parse::ParseError::is_unsupported`].
//! - The metric's name is removed at the end of the evaluation, as with Prometheus's feature
//!   `promql-delayed-name-removal`; its promqltest files expect that.
//! - Elements of an instant vector are sorted by their labels where the query does not sort them.
#![deny(missing_docs)]
#![expect(clippy::cast_precision_loss, reason = "PromQL computes with doubles: times and counts become them")]
#![expect(clippy::float_cmp, reason = "PromQL compares doubles exactly")]

mod aggregate;
mod annotations;
mod binary;
mod column;
mod engine;
mod error;
mod eval;
pub mod functions;
mod labels;
mod limits;
mod matcher;
mod matching;
pub mod parse;
mod pattern;
mod plan;
mod position;
pub mod staleness;
mod steps;
pub mod store;
mod value;

pub use annotations::{Annotation, Annotations, Severity};
pub use engine::{Engine, Query};
pub use error::EvalError;
pub use labels::{BUCKET_LABEL, Labels, LabelsBuilder, METRIC_NAME};
pub use limits::{Interrupt, Interrupted, Limits, MemoryBudget, MemoryExceeded, NoInterrupt, Reservation};
pub use matcher::{MatchOp, Matcher, all_match};
pub use pattern::{PatternError, expand_template};
pub use position::{Position, Span};
pub use steps::Steps;
pub use store::Store;
pub use value::{Matrix, MatrixSeries, Outcome, RangeVector, Statistics, Value, VectorSample};
