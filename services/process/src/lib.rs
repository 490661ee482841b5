//! How every golectra service starts, listens and stops.
//!
//! The three services differ in what they do, not in how they are run: settings come from the environment, then flags,
//! then defaults; the version banner comes first; logs go to stderr and traces to OTLP; connections have limits; a
//! signal ends the process within a bounded time. That is here, once, so that an operator learns it once.

// What the settings macro expands to says golectra_process, in this crate's tests as well.
extern crate self as golectra_process;

pub mod banner;
pub mod keys;
pub mod listen;
pub mod log_limiter;
pub mod metrics;
pub mod settings;
pub mod shutdown;
mod system;
pub mod telemetry;

pub use keys::{KeyId, Keys};
pub use listen::{ConnectionLimits, ConnectionStats};
pub use log_limiter::LogLimiter;
pub use settings::{Bytes, Interval, ListenAddress, Retention, Secret, SettingsError};
pub use shutdown::Shutdown;
pub use telemetry::{Telemetry, install_crypto, trace};

/// What [`settings!`](crate::settings!) expands to needs these; nothing else should use them.
#[doc(hidden)]
pub mod __private {
    pub use clap;
    pub use serde;

    pub use crate::settings::definition::{Definition, FieldInfo, exit_with};
    pub use crate::settings::field::{OptionalField, required};
    pub use crate::settings::removed::RemovedSetting;
}
