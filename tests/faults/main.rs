//! The server when its database or another server fails.

mod logs;
mod outage;
mod pooler;
mod schema;
mod several;
mod start;
