//! How large and how quick the pages are. The sizes are checked with all tests; times are measured only where that is asked for, since they depend on the machine:
//!
//! after `make build`, `GOLECTRA_BIN=$PWD/target/release cargo test -p golectra-tests --test contract browser::figures -- --ignored --nocapture`

use std::time::Instant;

use golectra_tests::remote_write::joined_labels;

use super::*;

/// The most bytes that the first page takes, with all that it loads.
const MAX_BYTES: f64 = 60.0 * 1024.0;

/// The bytes that came over the wire for the page and what it loaded.
const TRANSFERRED: &str = "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].reduce((sum, one) => sum + one.transferSize, 0)";

#[tokio::test]
async fn the_first_page_is_small() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(&folder);
    seed(&server).await;
    let has_all = async || {
        let page = server.client().get("/").send().await.expect(200).text();
        ["busy", "gone", "shop/cart"].iter().all(|name| page.contains(name)) && page.contains("class=\"change\"")
    };
    until("the page has what it shows", LIMIT, has_all).await;
    browser.call("Network.setCacheDisabled", json!({"cacheDisabled": true})).await;
    browser.show(1280, "light").await;
    browser.open(&format!("{}/", server.url())).await;
    browser.wait_for("document.getElementById('live').textContent === 'live'").await;
    let bytes = browser.eval(TRANSFERRED).await.as_f64().expect("a number");
    let resources = browser.eval("performance.getEntriesByType('resource').length").await.as_u64().expect("a number");
    assert!(resources >= 4, "the page loads its style, its icon and its scripts: {resources}");
    assert!((10_000.0..=MAX_BYTES).contains(&bytes), "the first page takes {bytes} bytes");
    println!("the first page takes {bytes} bytes in {} answers", resources + 1);
}

/// 500 nodes with 100 metrics and 10,000 pods.
async fn seed_large(server: &Server) {
    let minutes = |left: i64| f64::from(i32::try_from(1_000 - left).unwrap_or_default());
    let nodes: Vec<String> = (0..500).map(|n| format!("node-{n:03}")).collect();
    let names: Vec<String> = (0..70).map(|n| format!("node_vmstat_{n}")).collect();
    let modes = ["idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user"];
    let cpus = ["0", "1"];
    let (idle, other) = (move |left| minutes(left) * 42.0, move |left| minutes(left) * 2.5);
    for some in nodes.chunks(25) {
        let mut series: Vec<Written> = Vec::new();
        for node in some {
            let of = |more: &[(&'static str, &'static str)]| joined_labels(&[("instance", node)], more);
            for cpu in cpus {
                for mode in modes {
                    let value: &dyn Fn(i64) -> f64 = if mode == "idle" { &idle } else { &other };
                    series.push(("node_cpu_seconds_total", of(&[("cpu", cpu), ("mode", mode)]), value, 1));
                }
            }
            series.push(("node_load1", of(&[]), &|_| 2.0, 2));
            series.push(("node_memory_MemTotal_bytes", of(&[]), &|_| 16e9, 2));
            series.push(("node_memory_MemAvailable_bytes", of(&[]), &|_| 9e9, 2));
            let disk = [("device", "/dev/vda"), ("fstype", "ext4"), ("mountpoint", "/")];
            series.push(("node_filesystem_size_bytes", of(&disk), &|_| 100e9, 2));
            series.push(("node_filesystem_avail_bytes", of(&disk), &|_| 60e9, 2));
            series.extend(names.iter().map(|name| (name.as_str(), of(&[]), &other as &dyn Fn(i64) -> f64, 10)));
        }
        write(server, &series).await;
    }
    let pods: Vec<String> = (0..10_000).map(|n| format!("app-{n:05}")).collect();
    let used = move |left| minutes(left) * 3.0;
    for (index, some) in pods.chunks(400).enumerate() {
        let mut series: Vec<Written> = Vec::new();
        for (at, pod) in some.iter().enumerate() {
            let node = nodes[(index * 400 + at) % nodes.len()].as_str();
            let of =
                |more: &[(&'static str, &'static str)]| joined_labels(&[("instance", node), ("namespace", "shop"), ("pod", pod)], more);
            series.push(("kube_pod_info", [of(&[]), vec![("node", node)]].concat(), &|_| 1.0, 2));
            series.push(("kube_pod_status_phase", of(&[("phase", "Running")]), &|_| 1.0, 2));
            series.push(("kube_pod_container_status_restarts_total", of(&[("container", "app")]), &|_| 3.0, 2));
            series.push(("container_cpu_usage_seconds_total", of(&[("container", "app")]), &used, 2));
            series.push(("container_memory_working_set_bytes", of(&[("container", "app")]), &|_| 5e7, 2));
        }
        write(server, &series).await;
    }
}

/// A day of 50 nodes, with a value a minute.
async fn seed_day(server: &Server) {
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    let nodes: Vec<String> = (0..50).map(|n| format!("day-{n:02}")).collect();
    let of = |node: &String| {
        let value = |minute: i64| {
            f64::from(u32::try_from((minute * 7919 + i64::try_from(node.len()).unwrap_or_default()) % 1_000).unwrap_or_default())
        };
        let samples: Vec<_> = (0..1_440).rev().map(|left| (now - left * 60_000, value(left))).collect();
        remote_series("day_load", &[("instance", node)], &samples)
    };
    server.client().remote_write(remote_write_v1(&nodes.iter().map(of).collect::<Vec<_>>())).send().await.expect_success();
}

/// Opens a page and waits until it is painted. The milliseconds that took, from the navigation on.
async fn shown(browser: &mut Browser, url: &str) -> f64 {
    browser.open(url).await;
    browser.wait_for("performance.getEntriesByName('first-contentful-paint').length > 0").await;
    browser.eval("performance.getEntriesByName('first-contentful-paint')[0].startTime").await.as_f64().expect("a number")
}

/// The longest task of the page in milliseconds while it refreshes itself for so long; below 50 it is not told, and this is 0.
async fn longest_task(browser: &mut Browser, length: Duration) -> f64 {
    let watch = "globalThis.tasks = []; globalThis.refreshed = 0; document.addEventListener('golectra:refreshed', () => { refreshed += 1; }); \
                 new PerformanceObserver((list) => { for (const one of list.getEntries()) tasks.push(one.duration); }).observe({ type: 'longtask' }); true";
    browser.eval(watch).await;
    let begun = Instant::now();
    while begun.elapsed() < length {
        browser.wait_for("true").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(browser.eval("refreshed").await.as_u64() > Some(0), "the page is live");
    browser.eval("Math.max(0, ...tasks)").await.as_f64().expect("a number")
}

#[tokio::test]
#[ignore = "measures times, which depend on the machine; the first lines of this file say how it is run"]
async fn pages_of_a_large_cluster_are_quick() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder()
        .env("MAX_SERIES", 500_000)
        .env("MAX_SERIES_PER_SOURCE", 500_000)
        .env("QUERY_MAX_SERIES", 200_000)
        .env("HISTORY_MAX_BYTES", "1GiB")
        .start();
    let begun = Instant::now();
    seed_large(&server).await;
    seed_day(&server).await;
    println!("seeded in {:.1} s", begun.elapsed().as_secs_f64());
    browser.show(1280, "light").await;
    let mut missed = Vec::new();
    let mut figure = |what: &str, milliseconds: f64, limit: f64| {
        println!("{what}: {milliseconds:.0} ms (limit {limit:.0} ms)");
        if milliseconds > limit {
            missed.push(format!("{what}: {milliseconds:.0} ms"));
        }
    };
    for path in ["/", "/pods"] {
        let url = format!("{}{path}", server.url());
        let mut times = Vec::new();
        for _ in 0..5 {
            times.push(shown(&mut browser, &url).await);
        }
        times.sort_by(f64::total_cmp);
        figure(&format!("{path} is painted"), times[2], 1_000.0);
        figure(&format!("longest task of {path} while it is live"), longest_task(&mut browser, Duration::from_secs(20)).await, 50.0);
    }

    // A day of 50 nodes, from the arrival of the answer to the picture.
    let query = golectra_tests::encode("max by (instance) (day_load)");
    browser.open(&format!("{}/explore?query={query}&range=1d", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    let redraw = "new Promise((resolve) => { const plot = document.querySelector('.plot'); let answered = 0; \
                  const json = Response.prototype.json; Response.prototype.json = function () { answered = performance.now(); return json.call(this); }; \
                  new MutationObserver(() => { if (plot.classList.contains('busy')) return; \
                  requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - answered))); }).observe(plot, { attributeFilter: ['class'] }); \
                  window.dispatchEvent(new PopStateEvent('popstate')); })";
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(browser.eval(redraw).await.as_f64().expect("a number"));
    }
    times.sort_by(f64::total_cmp);
    let lines = browser.eval("document.querySelectorAll('.legend li').length").await;
    assert_eq!(lines, json!(50), "each node has a line");
    figure("a day of 50 nodes is drawn after its answer", times[2], 200.0);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[tokio::test]
#[ignore = "measures times, which depend on the machine; the first lines of this file say how it is run"]
async fn the_first_page_is_quick() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(&folder);
    seed(&server).await;
    browser.show(1280, "light").await;
    let url = format!("{}/", server.url());
    let mut times = Vec::new();
    for _ in 0..7 {
        times.push(shown(&mut browser, &url).await);
    }
    times.sort_by(f64::total_cmp);
    println!("the first page is painted after {:.0} ms; of seven times {times:.0?}", times[3]);
    assert!(times[3] < 300.0, "{times:?}");
}
