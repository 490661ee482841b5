//! Gzip bombs.

use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use golectra_tests::Store;

use crate::{server, valid};

/// The memory that bombs may take: a few times their packed size, not their unpacked size.
const GROWTH_BYTES: u64 = 32 << 20;

/// This many MiB of one byte in one gzip stream, generated piece by piece.
fn packed(byte: u8, mebibytes: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let piece = vec![byte; 1 << 20];
    for _ in 0..mebibytes {
        encoder.write_all(&piece).expect("writing to memory never fails");
    }
    encoder.finish().expect("writing to memory never fails")
}

/// A gibibyte of zeros in one stream, the same with a trailer that claims one byte, and a gibibyte of brackets in 32 streams.
static BOMBS: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let zeros = packed(0, 1024);
    let claim = zeros.len() - 4;
    let modest = [&zeros[..claim], &1_u32.to_le_bytes()].concat();
    [zeros, modest, packed(b'[', 32).repeat(32)]
});

#[tokio::test]
async fn a_gibibyte_of_zeros_is_413_and_leaves_memory_alone_memory() {
    bombs(Store::Memory).await;
}

#[tokio::test]
async fn a_gibibyte_of_zeros_is_413_and_leaves_memory_alone_postgres() {
    bombs(Store::Postgres).await;
}

async fn bombs(store: Store) {
    let Some(builder) = server(store) else { return };
    let mut server = builder.start();
    let traffic = valid::Traffic::start(&server).await;
    server.reset_peak();
    let before = server.rss();
    for bomb in BOMBS.iter().chain(BOMBS.iter()) {
        assert!(bomb.len() < 4 << 20, "the bomb has {} bytes", bomb.len());
        for path in ["/updates", "/update", "/value"] {
            let answer = server.client().post(path).unsigned().header("content-encoding", "gzip").body(bomb.as_slice()).send().await;
            assert!(answer.expect(413).error().contains("bytes"));
        }
    }
    let growth = server.peak_rss().saturating_sub(before);
    assert!(growth < GROWTH_BYTES, "memory grew by {} MiB", growth >> 20);
    assert!(server.exited().is_none());
    assert!(traffic.stop().await > 0);
}
