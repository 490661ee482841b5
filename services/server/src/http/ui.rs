//! The pages. They are rendered on the server, so that they work without JavaScript, and are clients of the query API like any other: what
//! they show beyond the newest values comes from PromQL expressions.

mod ask;
pub mod assets;
mod cluster;
mod explore;
mod format;
mod metrics;
mod node;
mod overview;
mod panels;
mod pod;
mod pods;
mod problems;
mod rows;
mod shell;
mod spark;
mod status;
mod window;

pub use self::explore::explore;
pub use self::metrics::metrics;
pub use self::node::node;
pub use self::overview::overview;
pub use self::pod::pod;
pub use self::pods::pods;
pub use self::status::status;
