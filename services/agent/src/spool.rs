//! Where sealed batches wait until the server has taken them: in memory, or on disk with memory as its fallback.

pub mod disk;
mod drop_log;
mod interface;
mod memory;
mod queue;
mod queue_metrics;
mod send_order;
mod sync;

pub use self::disk::Disk;
pub use self::interface::{DiskUsage, Spool, Unsent, Usage};
pub use self::memory::{Limits, Memory};
pub use self::queue::Queue;
pub use self::sync::{SyncResult, SyncWork};
