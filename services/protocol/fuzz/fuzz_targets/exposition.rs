//! Whatever a program exposes is read or refused, and every series makes an id or is told from one that makes none.
#![no_main]

use golectra_protocol::MetricId;
use golectra_protocol::exposition::{Exposition, Format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for format in [Format::Text, Format::OpenMetrics] {
        let Ok(mut samples) = Exposition::new(body, format) else { continue };
        while let Some(result) = samples.next() {
            let Ok(sample) = result else {
                assert!(samples.next().is_none(), "nothing follows an error");
                break;
            };
            let Ok(parts) = sample.series.parts() else { continue };
            assert!(!parts.name.is_empty());
            let labels = parts.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
            if let Ok(id) = MetricId::from_parts(&parts.name, labels) {
                // An id has the same parts, unless a name looks like a name with labels.
                assert_eq!(MetricId::parse(id.as_str()), Ok(id));
            }
        }
    }
});
