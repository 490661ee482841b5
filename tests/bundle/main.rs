//! What the chart and the kustomize folders render, what the chart refuses, the images' script and the workflows. Needs no cluster.
//!
//! Needs helm and kubectl on PATH. `UPDATE=1 cargo test -p golectra-tests --test bundle` rewrites the golden renderings, the
//! chart's files/default-values.yaml and the table in its README.md; review the difference before committing it.

mod alerts;
mod dashboards;
mod defaults;
mod golden;
mod images;
mod memory;
mod network;
mod objects;
mod overrides;
mod parity;
mod postgres;
mod refused;
mod render;
mod security;
mod settings;
mod skaffold;
mod values;
mod workflows;
