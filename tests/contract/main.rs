//! The wire contract over HTTP against the real server: each case on both stores, with and without a key.
//!
//! In every case, every answer is checked against the rules for all answers (see `Answer` in the harness): compression and the
//! HashSHA256 header.

mod access;
mod alerts;
mod batches;
mod browser;
mod compression;
mod dashboard;
mod forget;
mod hashes;
mod json;
mod keys;
mod latest;
mod limits;
mod methods;
mod metrics;
mod queries;
mod reads;
mod remote_write;
mod replays;
mod signatures;
mod sources;
mod stream;
mod text;
mod tokens;

/// Doubles that inexact conversions to text, JSON, a file or a database would change.
const DELICATE: [f64; 14] = [
    0.1,
    -0.0,
    5e-324,
    2.225_073_858_507_201e-308,
    f64::MIN_POSITIVE,
    f64::MAX,
    f64::MIN,
    f64::EPSILON,
    1.0 / 3.0,
    9_007_199_254_740_993.0,
    1.797_693_134_862_315_5e308,
    123_456_789.123_456_79,
    1e23,
    6.022_140_76e23,
];
