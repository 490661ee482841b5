//! Whatever a sender writes is decoded within its limit or refused; ids that are decoded are canonical.
#![no_main]

use golectra_protocol::MetricId;
use golectra_protocol::remote_write::{Message, decode, unsnap};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fn read(body: &[u8]) {
    for message in [Message::V1, Message::V2] {
        if let Ok(decoded) = decode(body, message, LIMIT, |bytes| bytes <= LIMIT) {
            assert!(decoded.metrics.held_bytes() <= LIMIT);
            for metric in &decoded.metrics {
                assert_eq!(MetricId::parse(metric.id), Ok(metric.to_id()));
            }
        }
    }
}

fuzz_target!(|body: &[u8]| {
    read(body);
    if let Ok(unpacked) = unsnap(body, LIMIT, |bytes| bytes <= LIMIT) {
        assert!(unpacked.len() <= LIMIT);
        read(&unpacked);
    }
});
