//! PostgreSQL's sessions are ended, it is stopped, restarted, crashed and killed, all under load.

use std::time::{Duration, Instant};

use golectra_tests::{PostgresCluster, Server};

use crate::amount;
use crate::load::{Load, SOME, pass};

/// Runs something that blocks beside the test.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test]
async fn ended_stopped_restarted_killed() {
    let Some(cluster) = beside(PostgresCluster::start).await else { return };
    let cluster = std::sync::Arc::new(cluster);
    let (start, times) = (Instant::now(), amount(1, 20));
    let server = Server::builder().env("DATABASE_DSN", cluster.url()).start();
    let load = Load::start(&[server.port()], SOME).await;
    let mut ended = 0;
    for _ in 0..times {
        load.goes_on().await;
        ended += cluster.terminate_backends().await;
        load.goes_on().await;
        let stopped = std::sync::Arc::clone(&cluster);
        beside(move || stopped.stop()).await;
        // Away for longer than a write waits.
        pass(Duration::from_secs(4)).await;
        let stopped = std::sync::Arc::clone(&cluster);
        beside(move || stopped.start_again()).await;
        load.goes_on().await;
        let crashed = std::sync::Arc::clone(&cluster);
        beside(move || {
            crashed.stop_immediately();
            crashed.start_again();
        })
        .await;
        load.goes_on().await;
        let killed = std::sync::Arc::clone(&cluster);
        beside(move || {
            killed.kill();
            killed.start_after_crash();
        })
        .await;
    }
    load.goes_on().await;
    let results = load.finish().await;
    let faults = format!("{times} times: sessions ended ({ended} in all), stopped for 4 s, crashed, SIGKILLed");
    results.judge("postgres", &faults, start);
}
