//! Without the CloudNativePG operator helm says what to do, and installs nothing. The cluster has the operator, so helm is
//! kept from asking it.

use std::time::Duration;

use crate::kube::{Namespace, run};
use crate::turn;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_missing_is_one_sentence() {
    let Some(_turn) = turn().await else { return };
    let namespace = Namespace::fresh("golectra-test-operator").await;
    let install = ["--namespace", namespace.name(), "install", "golectra", "charts/golectra", "--dry-run=client"];
    let error = run("helm", &install, None, Duration::from_mins(1)).await.expect_err("there is no operator to be seen");
    for part in ["needs the CloudNativePG operator", "https://cloudnative-pg.io", "database.mode=external", "database.mode=embedded"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let left = namespace.kubectl(&["get", "all,secrets,configmaps,pvc", "-l", "app.kubernetes.io/part-of=golectra", "-o", "name"]).await;
    assert_eq!(left, "", "nothing is installed");
}
