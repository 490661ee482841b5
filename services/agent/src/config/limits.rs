//! Settings that are numbers within bounds. Values outside of them are refused at the start.

use std::str::FromStr;
use std::time::Duration;

use golectra_process::{Bytes, Interval};

/// Why a value is refused: one sentence that says what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LimitError(String);

impl LimitError {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// An interval, 100ms to 24h: shorter ones would load the host, longer ones measure too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(Duration);

impl Period {
    /// The same as the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let period = text.parse::<Interval>().map_err(|error| LimitError(error.to_string()))?.duration();
        if (Duration::from_millis(100)..=Duration::from_hours(24)).contains(&period) {
            Ok(Self(period))
        } else {
            Err(LimitError("expected a time, 100ms to 24h".to_owned()))
        }
    }
}

/// How many reports are sent at the same time, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit(usize);

impl RateLimit {
    /// As a number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl FromStr for RateLimit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        whole(text, 1, 64).map(Self)
    }
}

/// How many reports may wait in memory, 1 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBatches(usize);

impl QueueBatches {
    /// As a number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl FromStr for QueueBatches {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        whole(text, 1, 1_000_000).map(Self)
    }
}

/// How much memory waiting reports may take, at least 64KiB, which is several reports of a large host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBytes(Bytes);

impl QueueBytes {
    /// As a size.
    pub const fn bytes(self) -> Bytes {
        self.0
    }
}

impl FromStr for QueueBytes {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let bytes = text.parse::<Bytes>().map_err(|error| LimitError(error.to_string()))?;
        if bytes.get() >= 64 << 10 { Ok(Self(bytes)) } else { Err(LimitError("expected at least 64KiB".to_owned())) }
    }
}

/// How much disk space waiting reports may take, 1MiB to 16GiB. Each report on disk also takes 16 bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolBytes(Bytes);

impl SpoolBytes {
    /// As a size.
    pub const fn bytes(self) -> Bytes {
        self.0
    }
}

impl FromStr for SpoolBytes {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let bytes = text.parse::<Bytes>().map_err(|error| LimitError(error.to_string()))?;
        let fits = (1 << 20..=16 << 30).contains(&bytes.get());
        if fits { Ok(Self(bytes)) } else { Err(LimitError("expected 1MiB to 16GiB".to_owned())) }
    }
}

/// How long a report may wait, at least a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolAge(Duration);

impl SpoolAge {
    /// The same as the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for SpoolAge {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let age = text.parse::<Interval>().map_err(|error| LimitError(error.to_string()))?.duration();
        if age >= Duration::from_mins(1) { Ok(Self(age)) } else { Err(LimitError("expected a time, at least 1m".to_owned())) }
    }
}

/// The longest answer of a target, 16KiB to 64MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeBytes(Bytes);

impl ScrapeBytes {
    /// As a size.
    pub const fn bytes(self) -> Bytes {
        self.0
    }
}

impl FromStr for ScrapeBytes {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let bytes = text.parse::<Bytes>().map_err(|error| LimitError(error.to_string()))?;
        let fits = (16 << 10..=64 << 20).contains(&bytes.get());
        if fits { Ok(Self(bytes)) } else { Err(LimitError("expected 16KiB to 64MiB".to_owned())) }
    }
}

/// A whole number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<const LEAST: usize, const MOST: usize>(usize);

impl<const LEAST: usize, const MOST: usize> Count<LEAST, MOST> {
    /// As a number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl<const LEAST: usize, const MOST: usize> FromStr for Count<LEAST, MOST> {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        whole(text, LEAST, MOST).map(Self)
    }
}

/// How many series of pods are reported, 100 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodsSeries(usize);

impl PodsSeries {
    /// As a number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl FromStr for PodsSeries {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        whole(text, 100, 1_000_000).map(Self)
    }
}

/// How many series of the host a report has at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSeries(usize);

impl HostSeries {
    /// The number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl FromStr for HostSeries {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        whole(text, 100, 100_000).map(Self)
    }
}

fn whole(text: &str, least: usize, most: usize) -> Result<usize, LimitError> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| LimitError(format!("expected a whole number, {least} to {most}")))
}
