//! Whatever cAdvisor writes, in pieces of any size, gives items that a server reads.
#![no_main]

use golectra_agent::collect::kubelet::fuzzing::cadvisor;
use golectra_protocol::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let whole = cadvisor(text, text.len().max(1));
    assert_eq!(whole, cadvisor(text, 1 + text.len() % 61), "pieces do not matter");
    for items in whole {
        json::decode_batch(format!("[{items}]").as_bytes(), 10_000).expect("a server reads it");
    }
});
