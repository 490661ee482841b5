//! What the server does when its database or a neighbour fails.

mod logs;
mod outage;
mod pooler;
mod schema;
mod several;
mod start;
