//! Panels that people add while the server runs.

use super::*;

/// A page of its own, and a graph on the page of each node.
const PANELS: &str = "pages:
- name: queues
  title: Queues
  groups:
  - title: Work
    panels:
    - title: Jobs that wait
      lines: [{expr: sum by (instance) (jobs_waiting), name: '{instance}'}]
node:
- title: Queues
  panels:
  - title: Jobs of this node
    lines: [{expr: 'jobs_waiting{instance=$node}', name: jobs}]
";

#[tokio::test]
async fn a_panel_that_is_added_is_seen_without_a_restart() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::builder().env("PANELS_DIR", folder.path().display()).metrics().start();
    write(&server, &[("jobs_waiting", vec![("instance", "n1")], &|left: i64| f64::from(i32::try_from(left).unwrap_or_default()), 1)]).await;
    let url = |path: &str| format!("{}{path}", server.url());
    let put = |text: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, text).expect("our own folder");
        std::fs::rename(new, folder.path().join("queues.yaml")).expect("our own folder");
    };
    let has = |selector: &str| format!("Boolean(document.querySelector({}))", json!(selector));
    let graph = "figure.graph[data-title='Jobs of this node']";
    browser.show(1280, "light").await;
    browser.open(&url("/node?name=n1")).await;
    assert_eq!(browser.eval(&has(graph)).await, json!(false));

    put(PANELS);
    let is_there = async || {
        browser.open(&url("/node?name=n1")).await;
        browser.eval(&has(graph)).await == json!(true)
    };
    until("the graph is on the page of the node", LIMIT, is_there).await;
    browser.eval(&format!("document.querySelector({}).scrollIntoView()", json!(graph))).await;
    browser.wait_for(&has(&format!("{graph} canvas"))).await;
    browser.click("nav a[href='/page?name=queues']").await;
    browser.wait_for("location.pathname + location.search === '/page?name=queues'").await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    browser.wait_for("document.querySelector('.legend')?.textContent.includes('n1')").await;

    // A mistake is said with its place, and what there was stays.
    put(&PANELS.replace("sum by (instance) (jobs_waiting)", "sum("));
    let refused = async || server.metrics_client().get("/metrics").send().await.metric("golectra_panel_files_refused") == Some(1.0);
    until("the file is refused", LIMIT, refused).await;
    browser.open(&url("/status")).await;
    browser.wait_for("document.body.textContent.includes('queues.yaml, line 8')").await;
    browser.open(&url("/page?name=queues")).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}
