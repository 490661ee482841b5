//! The routes, one file a resource.

pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod ping;
pub(crate) mod receive;
