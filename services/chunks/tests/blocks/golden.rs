//! The format as bytes. Where this test fails, stored history can't be read any more: give the format a new version.
