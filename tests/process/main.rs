//! The programs as processes: settings, first lines, signals, files.

mod help;
mod loadgen;
mod settings;
mod signals;
mod snapshot;
