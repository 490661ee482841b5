//! The store in memory: a snapshot file and a journal beside it.
