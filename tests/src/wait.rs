//! Waiting for conditions instead of sleeping.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// The time between two checks of a condition.
const STEP: Duration = Duration::from_millis(20);

/// The runtime of the harness's own tasks (proxies, receivers), so that a test that blocks does not stop them.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts"));
    &RUNTIME
}

/// Waits until `look` returns something; panics with `what` if that takes longer than the limit.
pub async fn eventually<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// Waits until a condition holds; panics with `what` if that takes longer than the limit.
pub async fn until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    eventually(what, limit, async || holds().await.then_some(())).await;
}
