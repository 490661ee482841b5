//! Remote-write 1.0 requests, written by hand: the same bytes go to every contestant.

/// Appends a base-128 varint.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a field of bytes.
fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// The labels of a TimeSeries message, coded once for each series.
pub fn labels(labels: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in labels {
        let mut pair = Vec::new();
        bytes(&mut pair, 1, name.as_bytes());
        bytes(&mut pair, 2, value.as_bytes());
        bytes(&mut out, 1, &pair);
    }
    out
}

/// A WriteRequest message: for each series its coded labels and its samples as (unix milliseconds, value); packed with snappy.
pub fn request<'a>(series: impl Iterator<Item = (&'a [u8], Vec<(i64, f64)>)>) -> Vec<u8> {
    let (mut message, mut one) = (Vec::new(), Vec::new());
    for (labels, samples) in series {
        one.clear();
        one.extend_from_slice(labels);
        for (at_ms, value) in samples {
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&value.to_le_bytes());
            sample.push(2 << 3);
            varint(&mut sample, at_ms.cast_unsigned());
            bytes(&mut one, 2, &sample);
        }
        bytes(&mut message, 1, &one);
    }
    snap::raw::Encoder::new().compress_vec(&message).expect("a request is smaller than snappy's 4 GiB")
}
