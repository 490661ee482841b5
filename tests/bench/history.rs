//! What the cases of history send: a node's samples, and the protocol.

pub mod node_data;
pub mod remote_write;
