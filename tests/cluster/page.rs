//! The dashboard in a browser, reached as NOTES.txt describes.

use std::path::Path;
use std::time::Duration;

use crate::forward::Forward;
use crate::kube::run;
use crate::release::Release;
use crate::say;

const LIMIT: Duration = Duration::from_mins(2);

async fn chromium(arguments: &[&str], profile: &Path) -> String {
    let profile = format!("--user-data-dir={}", profile.display());
    let usual = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=4000", &profile];
    run("chromium", &[&usual, arguments].concat(), None, LIMIT).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The dashboard shows every node. Leaves a screenshot.
pub async fn shows_every_node(release: &Release) {
    if run("chromium", &["--version"], None, LIMIT).await.is_err() {
        golectra_tests::skip("chromium is not installed");
        return;
    }
    let forward = Forward::open(&release.namespace, "service/golectra-server", "http").await;
    let profile = tempfile::tempdir().expect("a folder");
    let url = forward.url();
    let page = chromium(&["--dump-dom", &url], profile.path()).await;
    for node in release.nodes().await {
        assert!(page.contains(&node), "{node} is not on the dashboard: {page}");
    }
    let shot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster-dashboard.png");
    chromium(&["--hide-scrollbars", "--window-size=1280,400", &format!("--screenshot={}", shot.display()), &url], profile.path()).await;
    let bytes = std::fs::read(&shot).expect("a screenshot");
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000, "a screenshot with content");
    say(&format!("the dashboard shows every node: {}", shot.display()));
}
