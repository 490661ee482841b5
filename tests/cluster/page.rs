//! The dashboard in a browser, reached as NOTES.txt describes.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use golectra_tests::{Browser, until};
use serde_json::json;

use crate::forward::Forward;
use crate::release::Release;
use crate::say;

/// The dashboard shows every node. Leaves a screenshot.
pub async fn shows_every_node(release: &Release) {
    let Some(mut browser) = Browser::start().await else { return };
    let forward = Forward::open(&release.namespace, "service/golectra-server", "http").await;
    until("the server answers through the forwarding", Duration::from_mins(1), async || {
        forward.client(None).try_get("/ping/live").await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    browser.show(1280, "light").await;
    browser.open(&forward.url()).await;
    for node in release.nodes().await {
        browser.wait_for(&format!("document.querySelector('#nodes')?.textContent.includes({})", json!(node))).await;
    }
    browser.wait_for("document.getElementById('live').textContent === 'live'").await;
    let shot = browser.call("Page.captureScreenshot", json!({"format": "png"})).await;
    let bytes = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000, "a screenshot with content");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster-dashboard.png");
    std::fs::write(&path, bytes).expect("the folder of the build");
    say(&format!("the dashboard shows every node: {}", path.display()));
}
