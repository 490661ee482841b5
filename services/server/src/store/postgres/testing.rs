//! Databases for tests: each test has one of its own and drops it at its end.
