//! Whatever a client sends is decoded or refused; what is decoded survives another round.
#![no_main]

use golectra_protocol::{MetricId, gzip, json};
use libfuzzer_sys::fuzz_target;

const MAX_ITEMS: usize = 100;

fuzz_target!(|body: &[u8]| {
    if let Ok(batch) = json::decode_batch(body, MAX_ITEMS) {
        let metrics: Vec<_> = batch.iter().map(|metric| metric.to_metric()).collect();
        let again = json::decode_batch(&json::encode_batch(&metrics), MAX_ITEMS).expect("what was encoded decodes");
        assert_eq!(batch, again);
        for metric in &batch {
            assert_eq!(MetricId::parse(metric.id), Ok(metric.to_id()));
        }
    }
    // The fast reader and serde_json are one: the same metrics to the bit, the same words about what is wrong.
    match (json::decode_batch(body, MAX_ITEMS), json::decode_batch_by_serde(body, MAX_ITEMS)) {
        (Ok(fast), Ok(right)) => assert_eq!(format!("{fast:?}"), format!("{right:?}")),
        (fast, right) => assert_eq!(fast, right),
    }
    let _ = json::decode_metric(body);
    let _ = json::decode_selector(body);
    if let Ok(unpacked) = gzip::unpack(body, 1 << 16) {
        assert!(unpacked.len() <= 1 << 16);
    }
});
