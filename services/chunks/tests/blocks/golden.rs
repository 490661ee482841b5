//! The format as bytes. Where this test fails, stored history can't be read any more: give the format a new version.

use golectra_chunks::{EncodedBlock, Times, encode_integers};

use crate::samples::{Samples, decode, encode};

/// Columns that together use every form of the format: one set of times and several, whole numbers, decimals and doubles, values that stand apart, few
/// values and many.
fn columns() -> Vec<Samples> {
    let grid: Vec<i64> = (0..720).map(|at| 1_795_724_400_000 + at * 10_000).collect();
    let jittered: Vec<i64> = grid.iter().enumerate().map(|(at, time)| time + [0, 3, 1, 7][at % 4]).collect();
    let some: Vec<i64> = grid[100..160].to_vec();
    // Without a random number generator the bytes depend on nothing but the format.
    let noise = |at: usize| f64::from(u32::try_from(at * at * 7_919 % 104_729).unwrap());
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    vec![
        Samples::gauge(grid.clone(), vec![1.5; 720]),
        Samples::gauge(grid.clone(), (0..720).map(|at| noise(at) / 100.0).collect()),
        Samples::counter(grid.clone(), (0..720).map(|at| if at % 90 == 0 { 1_000 + at } else { 5 }).collect()),
        Samples::gauge(Vec::new(), Vec::new()),
        Samples::gauge(jittered.clone(), (0..720).map(|at| noise(at) * 4_096.0).collect()),
        Samples::gauge(jittered, (0..720).map(|at| (noise(at) + 0.5).sqrt()).collect()),
        Samples::gauge(some.clone(), (0..60).map(|at| if at == 59 { stale } else { f64::from(at) }).collect()),
        Samples::counter(some, (0..60).map(|at| i64::MAX / 64 - at).collect()),
        Samples::counter(vec![grid[5]], vec![i64::MIN]),
        Samples::gauge(vec![-5, 9], vec![-0.0, f64::MAX]),
    ]
}

/// The block in lines of 64 digits.
fn written(block: &EncodedBlock) -> String {
    let hex = |bytes: &[u8]| -> String {
        let lines: Vec<String> =
            bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat() + "\n").collect();
        lines.concat()
    };
    let columns: Vec<String> = (0..block.offsets.len() - 1).map(|index| format!("column {index}\n{}", hex(block.column(index)))).collect();
    format!("times\n{}{}integers\n{}", hex(&block.times), columns.concat(), hex(&encode_integers(&[1, 5, 9, 13, -4_000_000_000])))
}

const GOLDEN: &str = include_str!("golden.txt");

/// The bytes of a section of the file.
fn read(section: &str) -> Vec<u8> {
    let lines =
        GOLDEN.lines().skip_while(|line| *line != section).skip(1).take_while(|line| line.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let digits: String = lines.collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn stored_bytes_are_read() {
    let times = Times::decode(&read("times")).unwrap();
    for (index, samples) in columns().iter().enumerate() {
        assert_eq!(decode(&times, &read(&format!("column {index}")), samples).as_ref(), Ok(samples), "column {index}");
    }
    let mut integers = Vec::new();
    golectra_chunks::decode_integers(&read("integers"), &mut integers).unwrap();
    assert_eq!(integers, [1, 5, 9, 13, -4_000_000_000]);
}

/// Other bytes that read back the same are allowed: where a change of the encoder is meant, put what this prints into golden.txt beside what was there.
#[test]
fn the_encoder_writes_the_same_bytes() {
    let written = written(&encode(&columns()));
    assert!(written == GOLDEN, "{written}");
}
