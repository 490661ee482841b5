//! The pages. They are rendered on the server, so that they work without JavaScript, and are clients of the query API like any other: what
//! they show beyond the newest values comes from PromQL expressions.

mod agents;
mod alerts;
mod ask;
pub mod assets;
mod changes;
mod cluster;
mod compare;
mod events;
mod explore;
#[cfg(test)]
mod fixture;
mod format;
mod kept;
mod metrics;
mod node;
mod overview;
mod page;
mod panels;
mod pod;
mod pods;
mod problems;
mod rows;
mod shell;
mod sign_in;
mod spark;
mod status;
mod window;

pub use self::alerts::alerts;
pub use self::changes::{KeptChanges, changes};
pub use self::cluster::KeptClusters;
pub use self::compare::compare;
pub use self::events::KeptEvents;
pub use self::explore::explore;
pub use self::metrics::metrics;
pub use self::node::node;
pub use self::overview::overview;
pub use self::page::page;
pub use self::panels::PanelBook;
pub use self::pod::pod;
pub use self::pods::pods;
pub use self::sign_in::{sign_in, sign_in_page, sign_out};
pub use self::status::status;

/// The routes that show what is stored. Where there are API tokens, they need one that reads.
pub const PAGES: [&str; 11] = ["/", "/node", "/source", "/pods", "/pod", "/page", "/changes", "/compare", "/alerts", "/explore", "/status"];
