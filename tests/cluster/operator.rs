//! Without the CloudNativePG operator helm prints what to do, and installs nothing.
//!
//! The test's cluster has the operator, and removing its definitions would delete databases. So helm connects through a proxy that
//! leaves the operator's API group out of the cluster's answers.

use std::process::Stdio;
use std::time::Duration;

use golectra_tests::{Received, Receiver, Reply};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::kube::{Namespace, run};
use crate::turn;

const GROUP: &str = "postgresql.cnpg.io";

/// `kubectl proxy`: the cluster on a port of loopback, with the permissions of KUBECONFIG.
async fn cluster_on_loopback() -> (Child, String) {
    let mut child = Command::new("kubectl")
        .args(["proxy", "--port=0"])
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let said = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await.expect("kubectl proxy says where it is");
    let said = said.expect("its output can be read").expect("it goes on");
    let address = said.rsplit(' ').next().expect("an address").to_owned();
    (child, format!("http://{address}"))
}

/// The cluster's answer, without the operator's API group.
fn without_the_group(http: &reqwest::Client, cluster: &str, asked: &Received) -> Reply {
    let fetch = async {
        let method = asked.method.parse().expect("a method");
        // Without helm's Accept header the cluster answers in the plain format.
        let answer = http.request(method, format!("{cluster}{}", asked.path)).body(asked.body.clone()).send().await.expect("an answer");
        (answer.status().as_u16(), answer.bytes().await.expect("a body"))
    };
    let (status, mut body) = tokio::task::block_in_place(|| Handle::current().block_on(fetch));
    if asked.path.split('?').next() == Some("/apis") {
        let mut groups: Value = serde_json::from_slice(&body).expect("the groups are JSON");
        let list = groups["groups"].as_array_mut().expect("a list of groups");
        list.retain(|group| group["name"] != GROUP);
        body = groups.to_string().into();
    }
    Reply::status(status).body("application/json", body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_operator_is_explained() {
    let Some(_turn) = turn().await else { return };
    let namespace = Namespace::fresh("operator").await;
    let (_proxy, cluster) = cluster_on_loopback().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().expect("a client can be built");
    let seen = Receiver::start(move |asked| without_the_group(&http, &cluster, asked)).await;

    let config = tempfile::NamedTempFile::new().expect("a file");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "seen",
        "clusters": [{"name": "seen", "cluster": {"server": seen.url()}}],
        "contexts": [{"name": "seen", "context": {"cluster": "seen", "user": ""}}],
    });
    std::fs::write(config.path(), text.to_string()).expect("it can be written");
    let kubeconfig = config.path().to_str().expect("text");
    let install = ["--kubeconfig", kubeconfig, "--namespace", namespace.name(), "install", "golectra", "charts/golectra"];
    let error = run("helm", &install, None, Duration::from_mins(4)).await.expect_err("the operator is hidden");
    for part in ["needs the CloudNativePG operator", "https://cloudnative-pg.io", "database.mode=external", "database.mode=embedded"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let asked = seen.requests();
    assert!(asked.iter().any(|asked| asked.path.starts_with("/apis")), "helm asked for the API groups");
    assert!(asked.iter().all(|asked| asked.method == "GET"), "helm created nothing");
    let left = namespace.kubectl(&["get", "all,secrets,configmaps,pvc", "-l", "app.kubernetes.io/part-of=golectra", "-o", "name"]).await;
    assert_eq!(left, "", "nothing is installed");
}
