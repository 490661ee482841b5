//! How every service starts, serves and stops.
