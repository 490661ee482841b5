//! The pages as people use them: in Chromium, with and without scripts, by keyboard, on a phone, and for those who do not see them.

mod alerts;
mod explore;
mod figures;
mod graphs;
mod live;
mod narrow;
mod panels;

use std::path::{Path, PathBuf};
use std::time::Duration;

use golectra_tests::remote_write::{remote_series, remote_write_v1};
use golectra_tests::{Browser, Server, skip, unix_millis, until};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// A series' name and labels, its values by the minutes that are left until now, and the minutes between two of them.
type Written<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a dyn Fn(i64) -> f64, usize);

async fn write(server: &Server, series: &[Written<'_>]) {
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    let written: Vec<_> = series
        .iter()
        .map(|(name, labels, value, every)| {
            let minutes = (0..=120).rev().step_by(*every);
            let samples: Vec<_> = minutes.map(|left| (now - left * 60_000, value(left))).filter(|(_, value)| value.is_finite()).collect();
            remote_series(name, labels, &samples)
        })
        .collect();
    server.client().remote_write(remote_write_v1(&written)).send().await.expect_success();
}

/// Two hours of 20 nodes and 2,000 pods. The node `busy` is at full CPU for half an hour, `gone` has been silent for 20 minutes, the pod shop/cart restarts
/// again and again, and the volume shop/data fills.
async fn seed(server: &Server) {
    let minutes = |left: i64| f64::from(i32::try_from(1_000 - left).unwrap_or_default());
    let full = |left: i64| f64::from(i32::try_from((30 - left).max(0)).unwrap_or_default()) * 40.8;
    let nodes: Vec<_> = (0..20)
        .map(|n| match n {
            7 => "busy".to_owned(),
            13 => "gone".to_owned(),
            n => format!("n{n:02}"),
        })
        .collect();
    let (idle, user) = (move |left| minutes(left) * 42.0, move |left| minutes(left) * 18.0);
    let (busy_idle, busy_user) = (move |left| idle(left) - full(left), move |left| user(left) + full(left));
    let (gone_idle, gone_user) =
        (move |left| if left < 20 { f64::NAN } else { idle(left) }, move |left| if left < 20 { f64::NAN } else { user(left) });
    let mut series: Vec<Written> = Vec::new();
    for node in &nodes {
        let values: [&dyn Fn(i64) -> f64; 2] = match node.as_str() {
            "busy" => [&busy_idle, &busy_user],
            "gone" => [&gone_idle, &gone_user],
            _ => [&idle, &user],
        };
        for (mode, value) in ["idle", "user"].into_iter().zip(values) {
            series.push(("node_cpu_seconds_total", vec![("instance", node), ("cpu", "0"), ("mode", mode)], value, 1));
        }
    }
    write(server, &series).await;
    let pods: Vec<_> = (0..2_000).map(|n| format!("pod-{n}")).collect();
    for some in pods.chunks(400) {
        let labels = |pod| vec![("instance", "n00"), ("namespace", "jobs"), ("pod", pod), ("container", "app")];
        let series: Vec<Written> =
            some.iter().map(|pod| ("kube_pod_container_status_restarts_total", labels(pod.as_str()), &(|_| 3.0) as _, 4)).collect();
        write(server, &series).await;
    }
    let restarts = |left: i64| f64::from(i32::try_from(((50 - left) / 5).max(0)).unwrap_or_default());
    let left = move |left: i64| 109.0 - minutes(left) * 0.1;
    let cart = vec![("instance", "n00"), ("namespace", "shop"), ("pod", "cart"), ("container", "app")];
    let volume = vec![("instance", "n00"), ("namespace", "shop"), ("persistentvolumeclaim", "data")];
    write(
        server,
        &[
            ("kube_pod_container_status_restarts_total", cart, &restarts, 1),
            ("kubelet_volume_stats_available_bytes", volume.clone(), &left, 1),
            ("kubelet_volume_stats_capacity_bytes", volume, &|_| 40.0, 1),
        ],
    )
    .await;
}

/// A server with one rule, which fires at once. The built-in ones are tested elsewhere; evaluating them here would only take time from the pages.
fn start(folder: &TempDir) -> Server {
    let rules = "groups:\n- name: g\n  rules:\n  - alert: Drill\n    expr: vector(1)\n    annotations: {summary: This is a drill}\n";
    std::fs::write(folder.path().join("rules.yaml"), rules).expect("our own folder");
    Server::builder()
        .env("RULES_DIR", folder.path().display())
        .env("BUILT_IN_RULES_DISABLED", "all")
        .env("EVALUATION_INTERVAL", "5s")
        .start()
}

/// Counts how often the page was fetched again since this.
const COUNT: &str = "window.refreshes = 0; document.addEventListener('golectra:refreshed', () => { window.refreshes += 1; }); true";

/// Whether an element is in sight: within the window, and nothing is above its middle.
fn in_sight(selector: &str) -> String {
    format!(
        "(() => {{ const element = document.querySelector({}); const box = element.getBoundingClientRect(); \
         const middle = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2); \
         return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight && element.contains(middle); }})()",
        json!(selector)
    )
}

/// Holds back what the page asks for at addresses that begin so, until `window.release()`. `window.sent` counts it.
fn hold(address: &str) -> String {
    format!(
        "(() => {{ const real = window.fetch; const held = new Promise((resolve) => {{ window.release = resolve; }}); window.sent = 0; \
         window.fetch = async (...asked) => {{ if (!String(asked[0]).startsWith({})) return real(...asked); \
         window.sent += 1; await held; return real(asked[0], {{ ...asked[1], signal: undefined }}); }}; }})()",
        json!(address)
    )
}

/// The titles and links of a page's list.
fn links(page: &str) -> Vec<(String, String)> {
    let found = page.split("<a href=\"").skip(1).filter_map(|rest| {
        let (link, rest) = rest.split_once('"')?;
        let title = rest.split_once('>')?.1.split("</a>").next()?;
        Some((title.to_owned(), link.replace("&amp;", "&").replace("&#38;", "&")))
    });
    found.collect()
}

/// What is wrong among 20 nodes and 2,000 pods is one click away from the first page, and among the first of what changed. No script is needed for that.
#[tokio::test]
async fn what_is_wrong_in_a_large_cluster_is_found_from_the_first_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(&folder);
    seed(&server).await;
    let client = server.client();
    let page = async |path: &str| client.get(path).send().await.expect(200).text();
    let wanted =
        [("busy", "/node?name=busy"), ("gone", "/node?name=gone"), ("shop/cart", "/pod?namespace=shop&name=cart"), ("shop/data", "/")];
    let of = |page: &str, subject: &str, link: &str| {
        links(page).into_iter().find(|(title, to)| title.contains(subject) && to.starts_with(link)).map(|(_, to)| to)
    };
    // A page does not wait long for what changed: it may come with a later look.
    let has_all = async |path: &str| {
        let page = page(path).await;
        wanted.iter().all(|(subject, link)| of(&page, subject, link).is_some())
    };
    for path in ["/", "/changes"] {
        until("what is wrong is on the page", LIMIT, async || has_all(path).await).await;
    }
    let first = page("/").await;
    for (subject, link) in wanted {
        let link = of(&first, subject, link).expect("it was there");
        let about = page(&link).await;
        assert!(about.contains(subject.rsplit('/').next().expect("a part")), "{link}");
    }
    let changes = page("/changes").await;
    for (list, subjects) in [("Nodes", ["busy", "gone"]), ("Pods and volumes", ["shop/cart", "shop/data"])] {
        let list = changes.split(&format!("<h2>{list}</h2>")).nth(1).and_then(|rest| rest.split("</ol>").next()).expect("a list");
        let first: Vec<_> = links(list).into_iter().take(3).map(|(title, _)| title).collect();
        for subject in subjects {
            assert!(first.iter().any(|title| title.contains(subject)), "{subject} is not among the first: {first:?}");
        }
    }
}

#[tokio::test]
async fn people_find_zoom_share_search_and_silence() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(&folder);
    seed(&server).await;
    let url = |path: &str| format!("{}{path}", server.url());
    let at = |path: &str| format!("location.pathname + location.search === {}", json!(path));

    // On a phone nothing is cut off or has to be scrolled sideways, in either theme.
    for scheme in ["light", "dark"] {
        browser.show(390, scheme).await;
        for path in ["/", "/node?name=busy", "/pods", "/pod?namespace=shop&name=cart", "/changes", "/alerts", "/explore", "/status"] {
            browser.open(&url(path)).await;
            assert_eq!(browser.eval("document.documentElement.scrollWidth <= 390").await, json!(true), "{path} is wider than a phone");
        }
    }

    // A click on what is wrong, and a zoom. Its address is what others are sent, and Back leads to where one was.
    browser.show(1280, "light").await;
    browser.open(&url("/")).await;
    browser.wait_for("document.querySelector('a[href=\"/node?name=busy\"]')").await;
    browser.click("a[href=\"/node?name=busy\"]").await;
    browser.wait_for(&at("/node?name=busy")).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    let plot = "(() => { const over = document.querySelector('.u-over'); over.scrollIntoView({ block: 'center', behavior: 'instant' }); \
                const box = over.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; })()";
    let plot: Vec<f64> = browser.eval(plot).await.as_array().expect("a box").iter().filter_map(Value::as_f64).collect();
    let middle = plot[1] + plot[3] / 2.0;
    browser.drag((plot[0] + plot[2] * 0.5, middle), (plot[0] + plot[2] * 0.75, middle)).await;
    browser.wait_for("new URLSearchParams(location.search).has('from')").await;
    let range =
        "(() => { const query = new URLSearchParams(location.search); return Number(query.get('to')) - Number(query.get('from')); })()";
    let seconds = browser.eval(range).await.as_f64().expect("a number");
    assert!((600.0..1_300.0).contains(&seconds), "a quarter of an hour was marked: {seconds} s");
    let shared = browser.eval("location.href").await.as_str().expect("an address").to_owned();
    browser.eval("history.back()").await;
    browser.wait_for(&at("/node?name=busy")).await;
    browser.open(&shared).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    assert_eq!(browser.eval(range).await.as_f64(), Some(seconds));
    assert_eq!(browser.eval("document.querySelector('.ranges a[aria-current]')").await, Value::Null, "no preset is current");

    // The keyboard alone: the cursor of a graph, the search, and a link that Tab leads to.
    browser.eval("document.querySelector('figure.graph .plot').focus()").await;
    let said = "document.querySelector('figure.graph [aria-live]')?.textContent";
    browser.press("ArrowLeft", false).await;
    browser.wait_for(&format!("({said} ?? '').includes('user')")).await;
    browser.press("k", true).await;
    browser.wait_for("document.activeElement?.matches('dialog[open] input')").await;
    browser.type_text("n05").await;
    browser.wait_for("document.querySelector('dialog[open] [role=option]')?.textContent?.includes('n05')").await;
    browser.press("Enter", false).await;
    browser.wait_for(&at("/node?name=n05")).await;
    browser.open(&url("/")).await;
    let is_there = "document.activeElement?.getAttribute('href') === '/node?name=gone'";
    let mut presses = 0;
    while browser.eval(is_there).await != json!(true) {
        presses += 1;
        assert!(presses < 60, "Tab does not lead to the node that is silent");
        browser.press("Tab", false).await;
    }
    browser.press("Enter", false).await;
    browser.wait_for(&at("/node?name=gone")).await;

    // An alert is silenced by a button and a form.
    browser.open(&url("/alerts")).await;
    browser.wait_for("document.querySelector('[data-live=firing] button[data-silence]:not([hidden])')").await;
    browser.click("[data-live=firing] button[data-silence]").await;
    browser.wait_for("document.querySelector('dialog#silence[open]')").await;
    browser.eval("document.querySelector('#silence input[name=by]').focus()").await;
    assert_eq!(browser.eval("getComputedStyle(document.activeElement).outlineStyle").await, json!("solid"), "the focus is visible");
    browser.type_text("ada").await;
    browser.eval("document.querySelector('#silence input[name=comment]').focus()").await;
    browser.type_text("a drill").await;
    browser.press("Enter", false).await;
    let listed = async || server.client().get("/api/v1/silences").send().await.expect(200).json()["silences"][0].clone();
    until("the silence is there", LIMIT, async || listed().await["createdBy"] == "ada").await;
    browser.wait_for("document.querySelector('[data-live=silences]').textContent.includes('a drill')").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");

    // Without scripts links lead to the same pages.
    browser.run_scripts(false).await;
    browser.open(&url("/")).await;
    browser.click("a[href^=\"/pod?namespace=shop\"]").await;
    browser.wait_for(&at("/pod?namespace=shop&name=cart")).await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// axe-core's script, where scripts/browser-tools has installed it.
fn axe() -> Option<String> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/node_modules/axe-core");
    let script = std::fs::read_to_string(folder.join("axe.min.js")).ok();
    if script.is_none() {
        skip("axe-core is not installed; scripts/browser-tools installs it");
    }
    script
}

/// What axe finds wrong in the page as it is now.
async fn violations(browser: &mut Browser, axe: &str) -> Vec<String> {
    browser.eval(&format!("{axe}; true")).await;
    let run = "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map(({ id, help, nodes }) => \
               `${id}: ${help}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' ')}`))";
    let found = browser.eval(run).await;
    found.as_array().expect("a list").iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn axe_finds_nothing_on_any_page() {
    let Some(axe) = axe() else { return };
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(&folder);
    let batch = json!([
        {"id": "node_load1", "type": "gauge", "value": 1}, {"id": "visits", "type": "counter", "delta": 1},
        {"id": "node_memory_MemTotal_bytes", "type": "gauge", "value": 10}, {"id": "node_memory_MemAvailable_bytes", "type": "gauge", "value": 1},
        {"id": "kube_pod_info{namespace=\"shop\",pod=\"cart\",node=\"n\"}", "type": "gauge", "value": 1},
        {"id": "container_memory_working_set_bytes{namespace=\"shop\",pod=\"cart\",container=\"app\"}", "type": "gauge", "value": 1e6},
    ]);
    server.client().post("/updates").source("n").json(&batch).send().await.expect(200);
    let silence =
        json!({"matchers": [{"name": "instance", "value": "m"}], "duration": "1h", "createdBy": "me", "comment": "a disk is replaced"});
    server.client().post("/api/v1/silences").json(&silence).send().await.expect(200);
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "r:read:r-token\n").expect("our own folder");
    let with_tokens = Server::builder().env("API_TOKENS_FILE", tokens.display()).start();
    let behind_proxy = Server::builder().env("AUTH_HEADER", "X-User").env("TRUSTED_PROXIES", "192.0.2.1").start();
    let has_alert = async || server.client().get("/alerts").send().await.expect(200).text().contains("data-silence");
    until("an alert fires", LIMIT, has_alert).await;

    let mut found = Vec::new();
    for (server, path) in [
        (&server, "/"),
        (&server, "/?find=nothing"),
        (&server, "/node?name=n"),
        (&server, "/source?name=n"),
        (&server, "/pods"),
        (&server, "/pod?namespace=shop&name=cart"),
        (&server, "/changes"),
        (&server, "/compare"),
        (&server, "/alerts"),
        (&server, "/explore?query=node_load1"),
        (&server, "/explore?query=sum((("),
        (&server, "/status"),
        (&with_tokens, "/"),
        (&behind_proxy, "/"),
    ] {
        for scheme in ["light", "dark"] {
            browser.show(1280, scheme).await;
            browser.open(&format!("{}{path}", server.url())).await;
            assert_eq!(browser.eval(&format!("matchMedia('(prefers-color-scheme: {scheme})').matches")).await, json!(true));
            browser.wait_for("!document.querySelector('figure.graph') || document.querySelector('canvas, #query-error:not(:empty)')").await;
            found.extend(violations(&mut browser, &axe).await.into_iter().map(|violation| format!("{path} ({scheme}): {violation}")));
            // What opens above a page.
            if path == "/alerts" {
                browser.wait_for("document.querySelector('button[data-silence]:not([hidden])')").await;
                browser.click("button[data-silence]").await;
                browser.wait_for("document.querySelector('dialog#silence[open]')").await;
            } else if path == "/status" {
                browser.press("k", true).await;
                browser.wait_for("document.querySelector('dialog[open] [role=option]')").await;
            } else {
                continue;
            }
            found.extend(
                violations(&mut browser, &axe).await.into_iter().map(|violation| format!("{path}, dialog ({scheme}): {violation}")),
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
