//! The bundle on a real cluster: installed as people do, used, upgraded, and hurt.
//!
//! Needs KUBECONFIG, with helm and kubectl on PATH, and the CloudNativePG operator in the cluster. The images are those
//! that the chart names by default: already on the nodes, or built and put there with the program that CLUSTER_IMAGE
//! names, called as `PROGRAM DOCKERFILE TAG`. Each test has a namespace of its own and takes it away again; they run one
//! after another, and runs may share a cluster. GOLECTRA_CLUSTER_FULL=1 asks for the long form: ten rollouts, a long outage, a Prometheus that alerts.

mod agents;
mod audit;
mod cnpg;
mod embedded;
mod external;
mod faults;
mod forward;
mod hosts;
mod images;
mod keys;
mod kube;
mod kustomize;
mod load;
mod monitoring;
mod operator;
mod page;
mod release;
mod schema;

use std::io::Write as _;
use std::sync::Once;

use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// Tests share one cluster, whose nodes have room for one database at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Once a run: room and images.
static READY: OnceCell<()> = OnceCell::const_new();

/// The right to use the cluster; none where there is no cluster.
pub async fn turn() -> Option<MutexGuard<'static, ()>> {
    static SAID: Once = Once::new();
    if std::env::var_os("KUBECONFIG").is_none_or(|path| path.is_empty()) {
        let required = std::env::var("GOLECTRA_CLUSTER_TESTS").is_ok_and(|value| value == "required");
        assert!(!required, "GOLECTRA_CLUSTER_TESTS=required asks for the cluster tests, but KUBECONFIG is not set");
        // Past the capture of the test harness: who runs the tests is to see it.
        SAID.call_once(|| {
            drop(writeln!(std::io::stderr(), "cluster tests skipped: `make test-cluster` runs them in the cluster that KUBECONFIG names"));
        });
        return None;
    }
    let turn = TURN.lock().await;
    READY
        .get_or_init(|| async {
            kube::sweep().await;
            images::ready().await;
        })
        .await;
    Some(turn)
}

/// Whether the long form is asked for.
pub fn full() -> bool {
    std::env::var("GOLECTRA_CLUSTER_FULL").is_ok_and(|value| value == "1")
}

/// Says what was measured, past the capture of the test harness.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "cluster: {line}");
}
