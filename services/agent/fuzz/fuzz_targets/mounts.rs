//! Whatever a list of mounts has, it is read.
#![no_main]

use golectra_agent::collect::fuzzing::mounts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let lines = text.split(|byte| *byte == b'\n').count();
    assert!(mounts(text) <= lines, "a line is one filesystem at most");
});
