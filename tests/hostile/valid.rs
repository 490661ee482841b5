//! Valid traffic beside the hostile requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use golectra_tests::{Client, Server, runtime};
use serde_json::json;
use tokio::task::JoinHandle;

/// A client that writes and reads until it is stopped, and expects only 200. A few reads may be refused for the moment, as the machine is busy.
pub(crate) struct Traffic {
    client: Client,
    stop: Arc<AtomicBool>,
    /// How many writes were accepted.
    work: JoinHandle<i64>,
}

const ID: &str = "valid_traffic";

impl Traffic {
    pub(crate) async fn start(server: &Server) -> Self {
        let (client, stop) = (server.client().patient(), Arc::new(AtomicBool::new(false)));
        let (worker, stopping) = (client.clone(), Arc::clone(&stop));
        let work = runtime().spawn(async move {
            let mut sent = 0;
            while !stopping.load(Ordering::Relaxed) {
                worker.updates(&json!([{"id": ID, "type": "counter", "delta": 1}])).await.expect(200);
                sent += 1;
                worker.get("/ping").send().await.expect(200);
                worker.get("/").send().await.expect(200);
                assert_eq!(worker.counter(ID).await, sent);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            sent
        });
        let traffic = Self { client, stop, work };
        golectra_tests::until("valid traffic begins", Duration::from_secs(30), async || traffic.client.counter(ID).await > 0).await;
        traffic
    }

    /// Stops it, and returns how many writes were accepted, which is all that were sent.
    pub(crate) async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.work.await.expect("all answers to valid traffic are 200");
        assert_eq!(self.client.counter(ID).await, sent);
        // Three reads belong to each write.
        let (late, reads) = (self.client.late(), 3 * sent.unsigned_abs());
        assert!(late <= 3 + reads / 50, "{late} of {reads} reads were refused for the moment");
        sent
    }
}
