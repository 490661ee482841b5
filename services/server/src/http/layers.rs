//! What every request passes on its way in, and every answer on its way out.

pub mod answer;
pub mod drain;
pub mod observe;
pub mod path;
