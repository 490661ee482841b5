//! The chart on a real cluster: installed, used, upgraded, with failures of its parts.
//!
//! Needs KUBECONFIG, helm and kubectl on PATH, and the CloudNativePG operator in the cluster. The images are the chart's
//! default ones: they are on the nodes already, or are built and loaded by the program in CLUSTER_IMAGE, called as
//! `PROGRAM DOCKERFILE TAG`. Each test creates and deletes a namespace of its own; tests run one after another, and several runs
//! may share a cluster. GOLECTRA_CLUSTER_FULL=1 selects the long form: ten rollouts, a long outage, alerts in Prometheus, the values of the kubelets.

mod agents;
mod alerts;
mod audit;
mod cnpg;
mod embedded;
mod evaluator;
mod external;
mod faults;
mod forward;
mod hosts;
mod images;
mod keys;
mod killer;
mod kube;
mod kustomize;
mod load;
mod monitoring;
mod operator;
mod page;
mod release;
mod schema;
mod webhook;

use std::io::Write as _;
use std::sync::Once;

use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// The cluster may have resources for only one test at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Done once in each run: old namespaces are deleted, the images loaded, and the operator is waited for.
static READY: OnceCell<()> = OnceCell::const_new();

/// Waits for the exclusive use of the cluster. None if there is no cluster.
pub async fn turn() -> Option<MutexGuard<'static, ()>> {
    static SAID: Once = Once::new();
    if std::env::var_os("KUBECONFIG").is_none_or(|path| path.is_empty()) {
        let required = std::env::var("GOLECTRA_CLUSTER_TESTS").is_ok_and(|value| value == "required");
        assert!(!required, "GOLECTRA_CLUSTER_TESTS=required asks for the cluster tests, but KUBECONFIG is not set");
        // To stderr directly, because the test harness captures println.
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
            kube::operator_reached().await;
        })
        .await;
    Some(turn)
}

/// Whether the long form is selected.
pub fn full() -> bool {
    std::env::var("GOLECTRA_CLUSTER_FULL").is_ok_and(|value| value == "1")
}

/// Prints a measurement to stderr directly, because the test harness captures println.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "cluster: {line}");
}
