//! Whatever a target answers, twice, gives items that a server reads; each series once.
#![no_main]

use std::collections::HashSet;

use golectra_agent::collect::scrape::fuzzing::scrapes;
use golectra_protocol::exposition::Format;
use golectra_protocol::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answers: &[u8]| {
    // A form feed separates the two answers.
    let second = answers.iter().position(|byte| *byte == b'\x0c');
    let (first, second) = second.map_or((answers, answers), |at| (&answers[..at], &answers[at + 1..]));
    for format in [Some(Format::Text), Some(Format::OpenMetrics), None] {
        for items in scrapes([first, second], format) {
            let text = format!("[{items}]");
            let metrics = json::decode_batch(text.as_bytes(), 10_000).expect("a server reads it");
            let mut seen = HashSet::new();
            for metric in metrics.iter().filter(|metric| !metric.id.starts_with("up{") && !metric.id.starts_with("scrape_")) {
                assert!(seen.insert(metric.id), "{} is there twice", metric.id);
            }
        }
    }
});
