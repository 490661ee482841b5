//! What the cases of history send and ask: samples of nodes and pods, the protocols, and the expressions.

pub mod node_data;
pub mod pod_data;
pub mod questions;
pub mod remote_write;
pub mod reports;
