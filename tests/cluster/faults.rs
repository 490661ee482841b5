//! Failover of the database and rollouts of the servers while clients write.

use std::time::{Duration, Instant};

use golectra_tests::{Client, eventually};

use crate::load::{Load, Tally};
use crate::release::Release;
use crate::say;

/// Maximum time until writes are accepted again after the primary's pod was deleted.
const FAILOVER: Duration = Duration::from_secs(20);

/// The same from the promotion on, where the operator took longer to promote another instance: that is not golectra's time.
const AFTER_PROMOTION: Duration = Duration::from_secs(15);

/// Time limit for the operator to promote another instance.
const PROMOTION: Duration = Duration::from_mins(5);

async fn primary(release: &Release) -> String {
    let path = "jsonpath={.status.currentPrimary}";
    release.namespace.kubectl(&["get", "clusters.postgresql.cnpg.io", "golectra-postgres", "-o", path]).await
}

/// Deletes the primary's pod and waits for another primary within the limit: the names of both.
pub async fn promotion(release: &Release, limit: Duration) -> (String, String) {
    let old = primary(release).await;
    release.namespace.kubectl(&["delete", "pod", &old, "--wait=false"]).await;
    let new = eventually("another primary", limit, async || Some(primary(release).await).filter(|now| *now != old)).await;
    (old, new)
}

/// Deletes the primary's pod: another instance is promoted, no write is lost or counted twice, and no server restarts.
pub async fn failover(release: &Release, client: &Client) -> Tally {
    let servers = release.namespace.restarts("server").await;
    let load = Load::start(release, "failover_total").await;
    load.go_on(5).await;
    let start = Instant::now();
    let (old, new) = promotion(release, PROMOTION).await;
    let promoted = start.elapsed();
    load.go_on(20).await;
    let tally = load.finish(client).await;
    let gap = tally.longest_gap();
    say(&format!(
        "failover from {old} to {new}: promoted after {:.1} s, no write acknowledged for {:.1} s, {} writes acknowledged, {} tries failed",
        promoted.as_secs_f64(),
        gap.as_secs_f64(),
        tally.acknowledged.len(),
        tally.failed.len(),
    ));
    let allowed = FAILOVER.max(promoted + AFTER_PROMOTION);
    assert!(gap <= allowed, "writes were accepted again only after {gap:?}, not after {allowed:?}");
    assert_eq!(release.namespace.restarts("server").await, servers, "no server restarts in a failover");
    whole(release).await;
    tally
}

/// Waits until every instance of the database is ready again.
pub async fn whole(release: &Release) {
    let arguments = ["wait", "--for=condition=Ready", "clusters.postgresql.cnpg.io/golectra-postgres", "--timeout=600s"];
    release.namespace.try_kubectl(&arguments, Duration::from_mins(12)).await.unwrap_or_else(|error| panic!("{error}"));
}

/// Replaces all servers several times without a failed request.
pub async fn rollouts(release: &Release, client: &Client, times: usize) -> Tally {
    let load = Load::start(release, "rollout_total").await;
    load.go_on(2).await;
    for _ in 0..times {
        release.namespace.kubectl(&["rollout", "restart", "deployment/golectra-server"]).await;
        release.namespace.rolled_out("deployment/golectra-server").await;
        // The replaced pods go on serving for a while and terminate during this time.
        load.go_on(8).await;
    }
    let tally = load.finish(client).await;
    say(&format!(
        "{times} rollouts: {} writes, {} failed, {} sent again, longest pause {:.2} s",
        tally.acknowledged.len(),
        tally.failed.len(),
        tally.resent,
        tally.longest_gap().as_secs_f64(),
    ));
    // A write that waited for the database longer than 0.5 s is told to come again. The disk below three databases and etcd takes that long at times,
    // rollout or not; what a rollout does to a request is another answer, or none.
    let (late, failed): (Vec<_>, Vec<_>) = tally.failed.iter().partition(|failure| failure.contains(r#""code":"overloaded""#));
    assert!(failed.is_empty(), "requests failed in a rollout: {failed:?}");
    assert!(late.len() * 20 <= tally.acknowledged.len(), "{} of {} writes waited too long", late.len(), tally.acknowledged.len());
    assert_eq!(tally.resent, 0, "kept connections were closed without an answer");
    tally
}
