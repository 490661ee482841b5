//! Whatever a kubelet answers to /pods, in pieces of any size, gives items that a server reads.
#![no_main]

use golectra_agent::collect::kubelet::fuzzing::pods;
use golectra_protocol::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    let whole = pods(document, document.len().max(1));
    assert_eq!(whole, pods(document, 1 + document.len() % 61), "pieces do not matter");
    for items in whole {
        json::decode_batch(format!("[{items}]").as_bytes(), 10_000).expect("a server reads it");
    }
});
