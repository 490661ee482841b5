//! Settings that are numbers within bounds; a value outside of them is refused at the start rather than found out later.

use std::str::FromStr;
use std::time::Duration;

use golectra_process::{Bytes, Interval};

/// Why a number is no setting: one sentence that says what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LimitError(String);

/// A time between two events, 100ms to 24h: shorter ones would keep the host busy, longer ones say nothing of it.
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

/// How many reports may be under way at once, 1 to 64.
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

/// How many reports wait at most, 1 to 1,000,000.
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

/// How much memory waiting reports may take, at least 64KiB, which holds some on the largest host.
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

/// How much disk waiting reports may take, 1MiB to 16GiB: a report that is sealed while the server is away needs 16 bytes of memory too.
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

/// How long a report may wait on disk, at least a minute.
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

fn whole(text: &str, least: usize, most: usize) -> Result<usize, LimitError> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| LimitError(format!("expected a whole number, {least} to {most}")))
}
