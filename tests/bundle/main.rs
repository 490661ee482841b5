//! The bundle without a cluster: what the chart and the kustomize folders render, and what the chart refuses.
//!
//! Needs helm and kubectl on PATH. `UPDATE=1 cargo test -p golectra-tests --test bundle` writes the golden renderings and
//! the table in charts/golectra/README.md anew; read the difference before committing it.

mod alerts;
mod golden;
mod images;
mod objects;
mod parity;
mod refused;
mod render;
mod security;
mod skaffold;
mod values;
mod workflows;
