//! From a validated batch to an applied one: fold, apply, audit.

pub mod fold;
