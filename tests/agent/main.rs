//! The real agent against servers that are late, broken, hanging, restarted or old: no poll is lost and none is counted twice.

mod cost;
mod dashboard;
mod faults;
mod names;
mod own;
mod plain;
mod pods;
mod scrape;
mod signatures;
mod spool;
mod tally;
mod textfile;
