//! What the cases of history send: samples of nodes and pods, and the protocols.

pub mod node_data;
pub mod pod_data;
pub mod remote_write;
pub mod reports;
