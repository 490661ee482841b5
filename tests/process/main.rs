//! The programs as processes: settings, banner, signals and files.

mod help;
mod loadgen;
mod settings;
mod signals;
mod snapshot;
