//! Bodies that unpack to more than they should.

use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use golectra_tests::{Store, gzip};

use crate::{server, valid};

/// What one bomb may add to the server's memory.
const GROWTH_BYTES: u64 = 64 << 20;

/// A gibibyte of zeros in one gzip stream.
static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let piece = vec![0; 1 << 20];
    for _ in 0..1024 {
        encoder.write_all(&piece).expect("writing to memory never fails");
    }
    encoder.finish().expect("writing to memory never fails")
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
    let members = gzip(&vec![b'['; 32 << 20]).repeat(32);
    assert!(BOMB.len() < 8 << 20 && members.len() < 8 << 20, "a bomb is small");
    server.reset_peak();
    let before = server.rss();
    for bomb in [&*BOMB, &members, &*BOMB] {
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
