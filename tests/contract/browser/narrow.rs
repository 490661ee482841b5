//! Long names on a phone.

use super::*;

/// A name of so many characters in which no line can break as between words.
fn long(begin: &str, length: usize) -> String {
    format!("{begin}{}", "x".repeat(length - begin.len()))
}

/// Whether the page is wider than its window, and what makes it so.
const TOO_WIDE: &str = "(() => { const page = document.scrollingElement; if (page.scrollWidth <= page.clientWidth) return null; \
    const inner = (element) => { for (let up = element.parentElement; up; up = up.parentElement) { if (getComputedStyle(up).overflowX !== 'visible') return true; } return false; }; \
    const wide = [...document.body.querySelectorAll('*')].filter((one) => one.getBoundingClientRect().right > page.clientWidth + 0.5 && !inner(one)); \
    return `${page.scrollWidth} > ${page.clientWidth}: ${wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 200)).join(' | ')}`; })()";

/// A server with files of rules, panels and receivers in which everything that people name has a long name.
fn start_with_long_names(folder: &TempDir, metric: &str) -> Server {
    let folders = ["rules", "panels"].map(|name| folder.path().join(name));
    for path in &folders {
        std::fs::create_dir(path).expect("our own folder");
    }
    let [rules, panels] = folders;
    let (alert, title, text) = (long("Alert", 100), long("Title", 60), long("text", 400));
    let rule = format!(
        "groups:\n- name: {title}\n  rules:\n  - alert: {alert}\n    expr: {metric} > 0\n    labels: {{severity: critical}}\n    annotations: {{summary: {text}, description: {text}, runbook_url: 'https://example.com/{text}'}}\n"
    );
    std::fs::write(rules.join("r.yaml"), rule).expect("our own folder");
    std::fs::write(rules.join(format!("{}.yaml", long("refused", 200))), text.as_str()).expect("our own folder");
    let page = format!(
        "pages:\n- name: own\n  title: {title}\n  groups:\n  - title: {title}\n    panels:\n    - title: {title}\n      lines: [{{expr: {metric}, name: '{{a}}'}}]\n"
    );
    std::fs::write(panels.join("p.yaml"), page).expect("our own folder");
    let receivers = folder.path().join("receivers.yaml");
    let receiver = format!("receivers:\n- name: {}\n  webhook: {{url: 'http://127.0.0.1:9/'}}\n  min_severity: critical\n", long("r", 60));
    std::fs::write(&receivers, receiver).expect("our own folder");
    Server::builder()
        .env("RULES_DIR", rules.display())
        .env("PANELS_DIR", panels.display())
        .env("RECEIVERS_FILE", receivers.display())
        .env("BUILT_IN_RULES_DISABLED", "all")
        .env("EVALUATION_INTERVAL", "5s")
        .start()
}

/// On a phone the bar scrolls away with the page.
#[tokio::test]
async fn a_server_that_does_not_answer_is_told_at_the_end_of_a_page_too() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    browser.show(390, "light").await;
    browser.open(&format!("{}/alerts", server.url())).await;
    browser.wait_for("document.getElementById('live').textContent === 'live'").await;
    let fail = "(() => { window.fetch = () => Promise.reject(new TypeError('Failed to fetch')); scrollTo(0, document.body.scrollHeight); \
        document.dispatchEvent(new Event('golectra:refresh')); return scrollY; })()";
    assert!(browser.eval(fail).await.as_f64() > Some(900.0), "the rules make the page a long one");
    browser.wait_for("document.querySelector('#live.lost')?.textContent === 'the server does not answer'").await;
    browser.wait_for(&in_sight("#live")).await;
    let background = browser.eval("getComputedStyle(document.getElementById('live')).backgroundColor").await;
    assert_ne!(background, json!("rgba(0, 0, 0, 0)"), "what is below does not shine through");
    assert_eq!(browser.eval(TOO_WIDE).await, Value::Null);
}

/// Every page at the width of a phone, in both themes, with names as long as they may be: nothing makes it scroll sideways.
#[tokio::test]
async fn no_page_scrolls_sideways_on_a_phone() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (node, pod, namespace) = (long("node", 120), long("pod", 200), long("namespace", 63));
    let (metric, value, claim) = (long("metric_", 150), long("value", 200), long("claim", 120));
    let server = start_with_long_names(&folder, &metric);

    // Differences that are said with a unit, since they are no factors that anyone would say: the longest that stand beside a change.
    let steps = |before: f64, after: f64| move |left: i64| if left > 30 { before } else { after };
    let total = |before: f64, after: f64| {
        move |left: i64| {
            let minutes = |minutes: i64| f64::from(i32::try_from(minutes).unwrap_or_default()) * 60.0;
            minutes(150 - left.max(30)) * before + minutes((30 - left).max(0)) * after
        }
    };
    let (written, waits, idle, busy) = (total(1_000.0, 88.0e6), total(0.000_1, 0.9), total(0.9, 0.2), total(0.1, 0.8));
    let (used, restarts, left) = (steps(1e6, 1.5e9), steps(1.0, 1_234_567.0), steps(30.0, 1.0));
    let moved = steps(1.0, 12_345_678.0);
    let of_pod = || vec![("instance", node.as_str()), ("namespace", &namespace), ("pod", &pod), ("container", &claim)];
    let with = |more: &[(&'static str, &'static str)]| {
        let mut labels = of_pod();
        labels.extend(more.iter().copied());
        labels
    };
    let volume = || vec![("instance", node.as_str()), ("namespace", &namespace), ("persistentvolumeclaim", &claim)];
    let disk = || vec![("instance", node.as_str()), ("device", &claim), ("mountpoint", &value), ("fstype", "ext4")];
    write(
        &server,
        &[
            ("node_cpu_seconds_total", vec![("instance", &node), ("cpu", "0"), ("mode", "idle")], &idle, 1),
            ("node_cpu_seconds_total", vec![("instance", &node), ("cpu", "0"), ("mode", "user")], &busy, 1),
            ("node_memory_MemTotal_bytes", vec![("instance", &node)], &|_| 16e9, 1),
            ("node_memory_MemAvailable_bytes", vec![("instance", &node)], &|_| 2e9, 1),
            ("node_load1", vec![("instance", &node)], &|_| 12_345.678, 1),
            ("node_filesystem_size_bytes", disk(), &|_| 4e12, 1),
            ("node_filesystem_avail_bytes", disk(), &|_| 1e12, 1),
            ("node_disk_written_bytes_total", vec![("instance", &node), ("device", &claim)], &written, 1),
            ("node_pressure_cpu_waiting_seconds_total", vec![("instance", &node)], &waits, 1),
            // A node of which nothing else moves.
            ("node_load1", vec![("instance", "n2")], &|_| 1.0, 1),
            ("node_disk_written_bytes_total", vec![("instance", "n2"), ("device", "d")], &written, 1),
            ("golectra_build_info", vec![("instance", &node), ("service", "agent"), ("version", &value)], &|_| 1.0, 1),
            ("kube_pod_info", with(&[("node", "n")]), &|_| 1.0, 1),
            ("kube_pod_status_phase", with(&[("phase", "Pending")]), &|_| 1.0, 1),
            ("kube_pod_container_status_waiting_reason", with(&[("reason", "CreateContainerConfigError")]), &|_| 1.0, 1),
            ("kube_pod_container_status_restarts_total", of_pod(), &restarts, 1),
            ("container_memory_working_set_bytes", of_pod(), &used, 1),
            ("kube_pod_container_resource_limits", with(&[("resource", "memory")]), &|_| 1.0, 1),
            ("kubelet_volume_stats_available_bytes", volume(), &left, 1),
            ("kubelet_volume_stats_capacity_bytes", volume(), &|_| 40.0, 1),
            (&metric, vec![("instance", &node), ("a", &value), (long("label", 100).leak(), &value)], &moved, 1),
        ],
    )
    .await;
    let source = long("source", 100);
    let batch =
        json!([{"id": metric, "type": "gauge", "value": 123_456_789.123_456_7}, {"id": value, "type": "counter", "delta": 1_234_567}]);
    server.client().post("/updates").source(&source).json(&batch).send().await.expect(200);
    let matchers = json!([{"name": "instance", "value": value}]);
    let silence = json!({"matchers": matchers, "duration": "1h", "createdBy": long("me", 90), "comment": long("why", 190)});
    server.client().post("/api/v1/silences").json(&silence).send().await.expect(200);
    let has = async |path: &str, text: &str| server.client().get(path).send().await.expect(200).text().contains(text);
    until("the alert fires", LIMIT, async || has("/alerts", "data-silence").await).await;
    until("changes are found", LIMIT, async || has("/changes", "MiB/s</b>").await).await;

    let pod_page = format!("/pod?namespace={namespace}&name={pod}");
    let query = format!("/explore?query={metric}%7Ba%3D%22{value}%22%7D");
    let mut found = Vec::new();
    for path in [
        "/",
        "/?find=nothing",
        &format!("/?group=version&find={node}"),
        &format!("/node?name={node}"),
        &format!("/source?name={source}"),
        &format!("/source?instance={node}"),
        "/pods",
        &format!("/pods?namespace={namespace}&node={node}"),
        &pod_page,
        "/changes",
        &format!("/changes?node={node}"),
        &format!("/changes?query={metric}"),
        "/compare",
        &format!("/compare?query={metric}"),
        "/alerts",
        "/explore",
        &query,
        &format!("/explore?query=sum({value}"),
        "/page?name=own",
        "/status",
    ] {
        for scheme in ["light", "dark"] {
            browser.show(390, scheme).await;
            browser.open(&format!("{}{path}", server.url())).await;
            // What scripts add: the first graph with its legend, or why there is none. Graphs are drawn once they are near.
            browser.eval("document.querySelector('figure.graph')?.scrollIntoView()").await;
            let drawn = "document.querySelector('figure.graph canvas, #query-error:not(:empty), figure.graph .note:not(:empty)')";
            browser.wait_for(&format!("!document.querySelector('figure.graph') || {drawn}")).await;
            let wide = browser.eval(TOO_WIDE).await;
            found.extend(wide.as_str().map(|wide| format!("{path} ({scheme}): {wide}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
