//! The programs as processes: settings, banner, signals and files.

mod help;
mod loadgen;
mod selfcheck;
mod settings;
mod signals;
mod snapshot;
