//! GET /: the dashboard, and the pages that it links to.

use std::process::Stdio;
use std::time::Duration;

use golectra_tests::remote_write::{remote_series, remote_write_v1};
use golectra_tests::{
    Browser, Receiver, Reply, Server, Target, encode, eventually, on_both_stores, on_every_store, skip, unix_millis, until,
};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

on_every_store!(
    the_page_works_with_nothing_stored,
    the_page_shows_what_is_stored,
    the_page_shows_what_has_no_source,
    a_page_of_many_series_says_that_there_are_more,
    markup_in_names_is_escaped,
    the_page_loads_no_foreign_content
);

on_both_stores!(
    nodes_are_shown_by_either_set_of_names,
    problems_come_first,
    rows_are_sorted_and_filtered,
    forms_and_links_keep_what_the_address_says,
    a_node_has_graphs_of_what_it_reports,
    an_instance_that_others_write_is_a_node,
    an_instance_that_is_no_machine_is_not_silent,
    what_nobody_reports_is_not_said_to_be_well,
    rules_of_one_name_have_states_of_their_own,
    of_many_alerts_the_first_are_listed,
    pods_are_shown_with_what_they_use,
    what_changed_is_ranked,
    what_happened_is_listed,
    nodes_are_compared,
    people_add_pages_and_panels,
    an_expression_has_a_table_or_an_error,
    assets_are_kept_for_good_and_packed
);

async fn the_page_works_with_nothing_stored(t: Target) {
    let server = t.own().start();
    let answer = server.client().get("/").send().await.expect(200);
    assert_eq!(answer.media_type(), "text/html");
    let page = answer.text().to_lowercase();
    assert!(page.contains("<html") && page.contains("</html>") && page.contains("golectra"), "{page}");
    let address = server.url().trim_start_matches("http://").to_owned();
    assert!(page.contains(&format!("address={address} golectra-agent")), "the command for the first agent: {page}");
    for path in ["/pods", "/changes", "/compare", "/alerts", "/explore", "/status"] {
        assert_eq!(server.client().get(path).send().await.expect(200).media_type(), "text/html");
    }
}

async fn the_page_shows_what_has_no_source(t: Target) {
    let server = t.own().start();
    server.client().updates(&json!([{"id": "pressure_bar", "type": "gauge", "value": 1.0625}])).await.expect(200);
    let first = server.client().get("/").send().await.expect(200).text();
    assert!(!first.contains("all reporting"), "nothing is said of nodes where there are none: {first}");
    let all = pages(&t, &server).await.concat();
    assert!(all.contains("(unnamed)") && all.contains("pressure_bar") && all.contains("1.0625"), "{all}");
}

/// All pages of this server that are linked from the first one.
async fn pages(t: &Target, server: &golectra_tests::Server) -> Vec<String> {
    let client = server.client();
    let first = client.get("/").send().await.expect(200).text();
    let mut pages = vec![first.clone()];
    for link in first.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let link = link.replace("&amp;", "&").replace("&#38;", "&");
        if link.starts_with('/') && !link.starts_with("//") {
            let answer = client.get(&link).send().await;
            assert_eq!(answer.status, 200, "a page links to {link} ({:?})", t.store());
            if answer.media_type() == "text/html" {
                pages.push(answer.text());
            }
        }
    }
    pages
}

async fn the_page_shows_what_is_stored(t: Target) {
    let server = t.own().start();
    let batch =
        json!([{"id": "room_temperature", "type": "gauge", "value": 21.375}, {"id": "door_openings", "type": "counter", "delta": 4711}]);
    server.client().post("/updates").source("cellar-7").json(&batch).send().await.expect(200);
    assert!(server.client().get("/").send().await.expect(200).text().contains("cellar-7"));
    let all = pages(&t, &server).await.concat();
    for part in ["room_temperature", "21.375", "door_openings", "4,711"] {
        assert!(all.contains(part), "{part} is on no page");
    }
}

async fn a_page_of_many_series_says_that_there_are_more(t: Target) {
    let server = t.own().start();
    let client = server.client();
    let series = |range: std::ops::Range<u32>| range.map(|n| json!({"id": format!("m{{n=\"{n:05}\"}}"), "type": "gauge", "value": n}));
    for start in [0, 2_000, 4_000] {
        client.post("/updates").source("node").json(&series(start..start + 2_000).collect()).send().await.expect(200);
    }
    let page = async |find: &str| client.get(&format!("/source?name=node&find={find}")).send().await.expect(200).text();
    let more = "There are more than are shown";
    let shown = |page: &str, n: u32| page.contains(&format!("{n:05}"));
    let all = page("").await;
    assert!(all.contains(more) && shown(&all, 0) && shown(&all, 4_999) && !shown(&all, 5_000), "{} bytes", all.len());
    // The search finds text at any position.
    let found = page("0599").await;
    assert!(!found.contains(more) && shown(&found, 5_990) && shown(&found, 5_999) && !shown(&found, 5_989), "{} bytes", found.len());
}

async fn markup_in_names_is_escaped(t: Target) {
    let server = t.own().start();
    let ids = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(2)>",
        "'-alert(3)-'",
        "</title><b>",
        "{{7*7}}",
        "a&lt;b",
        "javascript:alert(4)",
    ];
    let batch: serde_json::Value = ids.iter().map(|id| json!({"id": id, "type": "gauge", "value": 1})).collect();
    server.client().updates(&batch).await.expect(200);
    server.client().post("/updates").source("s").json(&batch).send().await.expect(200);
    let all = pages(&t, &server).await.concat();
    for raw in ["<script>alert", "<img src=x", "</title><b>", "\"><img src=x", "href=\"javascript:"] {
        assert!(!all.contains(raw), "{raw} is not escaped on a page");
    }
    assert!(all.contains("alert(1)"), "the name itself is shown");
    assert!(all.contains("a&amp;lt;b") || all.contains("a&#38;lt;b"), "an ampersand is escaped as well");
}

async fn the_page_loads_no_foreign_content(t: Target) {
    let answer = t.get("/").send().await.expect(200);
    let policy = answer.header("content-security-policy").expect("a page with names from outside has a policy");
    assert!(!policy.contains("script-src *") && !policy.contains("unsafe-eval"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
}

/// Sends gauges of one source.
async fn report(server: &Server, source: &str, gauges: &[(&str, f64)]) {
    let batch: Value = gauges.iter().map(|(id, value)| json!({"id": id, "type": "gauge", "value": value})).collect();
    server.client().post("/updates").source(source).json(&batch).send().await.expect(200);
}

/// A page with all that belongs to it: on a busy machine a query may take longer than a page waits.
async fn page(server: &Server, path: &str) -> String {
    let client = server.client();
    let whole = async || Some(client.get(path).send().await.expect(200).text()).filter(|page| !page.contains("be shown now:"));
    let page = eventually("a page with all that belongs to it", LIMIT, whole).await;
    assert!(!page.contains(">-0<"), "nothing is minus zero: {page}");
    page
}

/// The row of a node in the overview.
fn row<'a>(page: &'a str, node: &str) -> &'a str {
    let row = page.split("<tr").find(|row| row.contains(&format!(">{node}</a>")));
    row.unwrap_or_else(|| panic!("{node} has no row: {page}"))
}

async fn nodes_are_shown_by_either_set_of_names(t: Target) {
    let server = t.own().start();
    report(&server, "old", &[("CPUutilization1", 40.0), ("CPUutilization2", 60.0), ("TotalMemory", 1000.0), ("FreeMemory", 700.0)]).await;
    let of_exporter = [
        ("node_memory_MemTotal_bytes", 1000.0),
        ("node_memory_MemAvailable_bytes", 250.0),
        ("node_load1", 1.25),
        ("node_filesystem_size_bytes{device=\"/dev/vda1\",fstype=\"ext4\",mountpoint=\"/\"}", 200.0),
        ("node_filesystem_avail_bytes{device=\"/dev/vda1\",fstype=\"ext4\",mountpoint=\"/\"}", 120.0),
        ("node_filesystem_size_bytes{device=\"tmpfs\",fstype=\"tmpfs\",mountpoint=\"/run\"}", 100.0),
        ("node_filesystem_avail_bytes{device=\"tmpfs\",fstype=\"tmpfs\",mountpoint=\"/run\"}", 1.0),
    ];
    report(&server, "new", &of_exporter).await;
    let page = page(&server, "/").await;
    let old = row(&page, "old");
    assert!(old.contains("<b>50 %</b>") && old.contains("<b>30 %</b>"), "{old}");
    let new = row(&page, "new");
    assert!(new.contains("<b>75 %</b>") && new.contains("<b>40 %</b>") && new.contains("1.25"), "{new}");
}

async fn problems_come_first(t: Target) {
    let server = t.own().start();
    report(&server, "well", &[("TotalMemory", 1000.0), ("FreeMemory", 900.0)]).await;
    assert!(page(&server, "/").await.contains("No problems"));
    report(&server, "tight", &[("TotalMemory", 1000.0), ("FreeMemory", 20.0)]).await;
    let page = page(&server, "/").await;
    let (problem, nodes) = (page.find("tight: memory 98 %"), page.find("id=\"nodes\""));
    assert!(problem.is_some() && problem < nodes, "{page}");
    assert!(page.find(">tight</a>") < page.find(">well</a>"), "what is wrong comes first among the nodes as well");
}

async fn rows_are_sorted_and_filtered(t: Target) {
    let server = t.own().start();
    for (node, load) in [("a1", 3.0), ("a2", 1.0), ("b1", 2.0)] {
        report(&server, node, &[("node_load1", load)]).await;
    }
    let order = async |path: &str| {
        let page = page(&server, path).await;
        let mut at: Vec<_> = ["a1", "a2", "b1"].iter().filter_map(|node| Some((page.find(&format!(">{node}</a>"))?, *node))).collect();
        at.sort_unstable();
        at.into_iter().map(|(_, node)| node).collect::<Vec<_>>()
    };
    assert_eq!(order("/").await, ["a1", "a2", "b1"]);
    assert_eq!(order("/?sort=-load").await, ["a1", "b1", "a2"]);
    assert_eq!(order("/?sort=load&find=A").await, ["a2", "a1"]);
    for (node, rack) in [("a1", "r2"), ("a2", "r1"), ("b1", "r2")] {
        report(&server, node, &[(&format!("node_labels{{rack=\"{rack}\"}}"), 1.0)]).await;
    }
    assert_eq!(order("/?sort=load&group=rack").await, ["a2", "b1", "a1"]);
    let grouped = page(&server, "/?group=rack").await;
    for part in
        ["<option value=\"rack\" selected>", "scope=\"rowgroup\" colspan=\"9\">r2 <small>2 nodes", "?sort=-load&#38;group=rack#nodes"]
    {
        assert!(grouped.contains(part), "{part}: {grouped}");
    }
}

/// Without scripts a form sends its own fields alone, and a link has what is written in it.
async fn forms_and_links_keep_what_the_address_says(t: Target) {
    let server = t.own().start();
    report(&server, "n", &[("node_load1", 1.0)]).await;
    for (path, action, kept) in [
        ("/explore?range=6h", "/explore", [("range", "6h"); 2]),
        ("/explore?query=node_load1&from=100&to=200", "/explore", [("from", "100"), ("to", "200")]),
        ("/compare?query=node_load1&sort=-mean&range=1d", "/compare", [("sort", "-mean"), ("range", "1d")]),
        ("/node?name=n&range=6h", "/node", [("name", "n"), ("range", "6h")]),
        ("/?sort=-load&rows=all", "/", [("sort", "-load"), ("rows", "all")]),
        ("/pods?sort=-cpu", "/pods", [("sort", "-cpu"); 2]),
        ("/source?name=n", "/source", [("name", "n"); 2]),
    ] {
        let page = page(&server, path).await;
        let form = page.split(&format!("<form action=\"{action}\"")).nth(1).and_then(|rest| rest.split("</form>").next());
        let form = form.unwrap_or_else(|| panic!("{path} has no form: {page}"));
        for (name, value) in kept {
            let field = format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">");
            assert!(form.contains(&field), "{path} does not keep {name}: {form}");
        }
    }
    let compare = page(&server, "/compare?query=node_load1&sort=-mean&range=1d").await;
    assert!(compare.contains("href=\"/compare?query=node_load1&#38;sort=-mean&#38;range=15m\""), "{compare}");
    let expressions = compare.split("aria-label=\"Expressions\">").nth(1).and_then(|rest| rest.split("</nav>").next()).expect("a list");
    let links: Vec<_> = expressions.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(!links.is_empty() && links.iter().all(|link| link.ends_with("&#38;sort=-mean&#38;range=1d")), "{links:?}");
    let node = page(&server, "/node?name=n&find=load&range=6h").await;
    assert!(node.contains("href=\"/node?name=n&#38;find=load&#38;range=15m\""), "{node}");
    let selector = encode("node_load1{instance=\"n\"}");
    assert!(node.contains(&format!("href=\"/explore?query={selector}&#38;range=6h\"")), "{node}");
    // PostgreSQL also lists series that came only after the end of a time: this one is not there yet.
    let later = page(&server, "/node?name=n&from=4102444800&to=4102448400").await;
    assert!(later.contains("Nothing is known of this node in this time."), "{later}");
}

async fn a_node_has_graphs_of_what_it_reports(t: Target) {
    let server = t.own().start();
    report(&server, "n", &[("node_load1", 1.0), ("TotalMemory", 10.0), ("FreeMemory", 5.0), ("made_up", 12.5)]).await;
    let page = page(&server, "/node?name=n").await;
    for part in ["data-title=\"Load\"", "data-title=\"Memory\"", "TotalMemory{instance=\\&#34;n\\&#34;}", "made_up", "12.5"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("data-title=\"Busy disks\""), "there is nothing to draw it from");
    assert_eq!(server.client().get("/node?name=nobody").send().await.status, 404);
}

async fn an_instance_that_others_write_is_a_node(t: Target) {
    let server = t.own().start();
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    let series = [
        remote_series("node_load1", &[("instance", "exporter:9100"), ("job", "node")], &[(now, 0.75)]),
        remote_series("node_memory_MemTotal_bytes", &[("instance", "exporter:9100"), ("job", "node")], &[(now, 100.0)]),
        remote_series("node_memory_MemAvailable_bytes", &[("instance", "exporter:9100"), ("job", "node")], &[(now, 40.0)]),
    ];
    server.client().remote_write(remote_write_v1(&series)).send().await.expect_success();
    let overview = page(&server, "/").await;
    let row = row(&overview, "exporter:9100");
    assert!(row.contains("<b>60 %</b>") && row.contains("0.75"), "{row}");
    assert!(overview.contains("/source?name=remote-write"), "{overview}");
    let node = page(&server, "/node?name=exporter%3A9100").await;
    assert!(node.contains("data-title=\"Load\"") && node.contains("node_load1</a>"), "{node}");
}

async fn an_instance_that_is_no_machine_is_not_silent(t: Target) {
    let server = t.own().start();
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    let written = [remote_series("requests", &[("instance", "app:8080")], &[(now, 1.0)])];
    server.client().remote_write(remote_write_v1(&written)).send().await.expect_success();
    let node = page(&server, "/node?name=app%3A8080").await;
    assert!(node.contains("reporting, last report") && !node.contains("silent"), "{node}");
}

/// An agent that may not read the states of pods: pods are counted, and nothing is said of their states and restarts.
async fn what_nobody_reports_is_not_said_to_be_well(t: Target) {
    let server = t.own().start();
    let of = |name: &str, more: &str| format!("{name}{{container=\"app\",namespace=\"shop\",pod=\"cart\"{more}}}");
    report(&server, "n1", &[(&of("container_memory_working_set_bytes", ""), 1e6)]).await;
    let overview = page(&server, "/").await;
    assert!(overview.contains("<small>Pods</small>"), "{overview}");
    assert!(!overview.contains("all running") && !overview.contains("Restarts"), "{overview}");
    let states = [
        (of("kube_pod_status_phase", ",phase=\"Running\""), 1.0),
        (of("kube_pod_status_phase", ",phase=\"Pending\""), 0.0),
        (of("kube_pod_container_status_restarts_total", ""), 0.0),
    ];
    report(&server, "n1", &states.each_ref().map(|(name, value)| (name.as_str(), *value))).await;
    let overview = page(&server, "/").await;
    assert!(overview.contains("all running") && overview.contains("Restarts, 1 h"), "{overview}");
    // This server evaluates no rules.
    assert!(!page(&server, "/alerts").await.contains("Nothing fires"));
}

async fn rules_of_one_name_have_states_of_their_own(t: Target) {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = "groups:\n- name: g\n  rules:\n  - alert: silence\n    expr: vector(1)\n  - alert: silence\n    expr: vector(0) > 1\n";
    std::fs::write(folder.path().join("rules.yaml"), rules).expect("our own folder");
    let own = t.own().env("RULES_DIR", folder.path().display()).env("BUILT_IN_RULES_DISABLED", "all");
    let server = own.env("EVALUATION_INTERVAL", "1s").start();
    until("the first one fires", LIMIT, async || page(&server, "/alerts").await.contains(">firing</td>")).await;
    let alerts = page(&server, "/alerts").await;
    let rows: Vec<_> = alerts.split("<tr id=\"rule-silence\">").skip(1).collect();
    assert!(rows.len() == 2 && rows[0].contains(">firing</td>") && rows[1].contains(">inactive</td>"), "{alerts}");
    assert!(alerts.contains("/alerts#rule-silence\""), "a link leads to the rule, not to the dialog of that name: {alerts}");
}

async fn of_many_alerts_the_first_are_listed(t: Target) {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = "groups:\n- name: g\n  rules:\n  - alert: Many\n    expr: many\n  - alert: Worst\n    expr: vector(1)\n    labels: {severity: critical}\n";
    std::fs::write(folder.path().join("rules.yaml"), rules).expect("our own folder");
    let own = t.own().env("RULES_DIR", folder.path().display()).env("BUILT_IN_RULES_DISABLED", "all");
    let server = own.env("EVALUATION_INTERVAL", "1s").start();
    let ids: Vec<_> = (0..300).map(|n| format!("many{{n=\"{n:03}\"}}")).collect();
    let gauges: Vec<_> = ids.iter().map(|id| (id.as_str(), 1.0)).collect();
    report(&server, "n", &gauges).await;
    until("all of them fire", LIMIT, async || page(&server, "/alerts").await.contains("101 more are not shown")).await;
    let all = page(&server, "/alerts").await;
    let rows = |page: &str| page.split("<tr data-text=\"").skip(1).map(|row| row.chars().take(5).collect()).collect::<Vec<String>>();
    assert_eq!((rows(&all).len(), rows(&all)[0].as_str()), (200, "Worst"), "the worst come first: {all}");
    assert!(all.contains("<h2>Firing <small>301</small>") && all.contains("data-filter=\"server\""), "{all}");
    let found = page(&server, "/alerts?find=N%3D299").await;
    assert_eq!(rows(&found), ["Many "], "{found}");
    assert!(found.contains("<small>1 of 301</small>") && found.contains("n=<b>299</b>") && !found.contains("not shown"), "{found}");
    let nothing = page(&server, "/alerts?find=nothing").await;
    assert!(nothing.contains("None matches “nothing”") && !nothing.contains("Nothing fires"), "{nothing}");
    assert!(nothing.contains("<tr id=\"rule-Many\">"), "links to rules lead to them, whatever is looked for: {nothing}");
}

async fn pods_are_shown_with_what_they_use(t: Target) {
    let server = t.own().start();
    let of = |name: &str, more: &str| format!("{name}{{container=\"app\",namespace=\"shop\",pod=\"cart\"{more}}}");
    let memory = of("container_memory_working_set_bytes", "");
    let limit = of("kube_pod_container_resource_limits", ",resource=\"memory\"");
    let restarts = of("kube_pod_container_status_restarts_total", "");
    report(&server, "n1", &[(&memory, 3_145_728.0), (&limit, 4_194_304.0), (&restarts, 7.0)]).await;
    let overview = page(&server, "/").await;
    assert!(overview.contains("Restarts, 1 h"), "{overview}");
    let pods = page(&server, "/pods").await;
    for part in [">n1</a>", "3 MiB", "<b>75 %</b>", "<td class=\"restarts num\">7</td>", "/pod?namespace=shop&#38;name=cart"] {
        assert!(pods.contains(part), "{part}: {pods}");
    }
    let pod = page(&server, "/pod?namespace=shop&name=cart").await;
    assert!(pod.contains("data-title=\"Memory\"") && pod.contains("data-title=\"Restarts\""), "{pod}");
    let of_six_hours = page(&server, "/pod?namespace=shop&name=cart&range=6h").await;
    assert!(of_six_hours.contains("href=\"/node?name=n1&#38;range=6h\""), "the node is shown over the same time: {of_six_hours}");
    assert!(page(&server, "/pods?namespace=other").await.contains("0 of 1 pods"));

    // A program beside the agent, and a pod of which no container is told.
    report(&server, "beside", &[(&limit, 4_194_304.0), (&restarts, 7.0)]).await;
    report(&server, "n1", &[("container_memory_working_set_bytes{namespace=\"shop\",pod=\"kata\"}", 9_437_184.0)]).await;
    let pods = page(&server, "/pods").await;
    for part in ["<b>75 %</b>", "<td class=\"restarts num\">7</td>", "/pod?namespace=shop&#38;name=kata", "9 MiB"] {
        assert!(pods.contains(part), "{part}: {pods}");
    }
}

/// Pages and panels of PANELS_DIR: shown with what is chosen on them, read again, and kept when a new version is bad.
async fn people_add_pages_and_panels(t: Target) {
    const FILE: &str = "pages:
- name: games
  title: Game <servers>
  variables:
  - {name: server, label: instance, series: players}
  - {name: world, all: true}
  groups:
  - title: Players
    panels:
    - title: Online
      unit: cores
      lines:
      - {expr: 'players{instance=$server,world=~$world}', name: '{world}'}
node:
- title: Games
  panels:
  - title: Players here
    lines: [{expr: 'players{instance=$node}'}]
";
    let folder = tempfile::tempdir().expect("a folder");
    let put = |text: &str| {
        std::fs::write(folder.path().join("new"), text).expect("our own folder");
        std::fs::rename(folder.path().join("new"), folder.path().join("games.yaml")).expect("our own folder");
    };
    put(FILE);
    let server = t.own().env("PANELS_DIR", folder.path().display().to_string()).start();
    for (node, players) in [("g1", 3.0), ("g2", 4.0)] {
        report(&server, node, &[("players{world=\"a.b\"}", players)]).await;
    }
    report(&server, "other", &[("node_load1", 1.0)]).await;

    let first = page(&server, "/").await;
    assert!(first.contains(r#"<a href="/page?name=games">Game &#60;servers&#62;</a>"#), "{first}");
    let shown = page(&server, "/page?name=games").await;
    let (of_first, unit) = (r"players{instance=\&#34;g1\&#34;,world=~\&#34;.*\&#34;}", "data-unit=\"cores\"");
    for part in [
        of_first,
        unit,
        "data-title=\"Online\"",
        "<option value=\"g1\" selected>g1</option>",
        "<option value=\"g2\">g2</option>",
        "<option value=\"\">All</option>",
        "aria-current=\"page\">Game",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let other = page(&server, "/page?name=games&server=g2&world=a.b&range=6h").await;
    assert!(other.contains(r"players{instance=\&#34;g2\&#34;,world=~\&#34;a\\\\.b\&#34;}"), "{other}");
    assert!(other.contains("server=g2&#38;world=a.b&#38;range=15m"), "another time keeps the choice: {other}");
    // The expression that the page draws is one that the server answers.
    let lines = other.split("data-lines=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a graph");
    let lines: Value = serde_json::from_str(&lines.replace("&#34;", "\"")).expect("JSON");
    let expr = lines[0]["expr"].as_str().expect("an expression");
    let answer = server.client().get(&format!("/api/v1/query?query={}", encode(expr))).send().await.expect(200).json();
    assert_eq!(answer["data"]["result"][0]["value"][1], "4", "{answer}");

    assert!(page(&server, "/node?name=g1").await.contains("data-title=\"Players here\""));
    assert!(!page(&server, "/node?name=other").await.contains("data-title=\"Players here\""), "it has no such metric");
    assert_eq!(server.client().get("/page?name=none").send().await.status, 404);

    put(&FILE.replace("players{instance=$node}", "players{instance=$nod}"));
    let problem = "games.yaml, line 18: expr: there is no variable $nod; there is $node, $window.";
    until("the status names the mistake", LIMIT, async || page(&server, "/status").await.contains(problem)).await;
    let kept = page(&server, "/page?name=games").await;
    assert!(kept.contains(of_first) && kept.contains(problem), "{kept}");
    put(&FILE.replace("Online", "Playing"));
    until("the mended file is read", LIMIT, async || page(&server, "/page?name=games").await.contains("data-title=\"Playing\"")).await;
    assert!(!page(&server, "/status").await.contains("games.yaml"));
}

async fn an_expression_has_a_table_or_an_error(t: Target) {
    let server = t.own().start();
    report(&server, "n", &[("room", 21.5)]).await;
    let table = page(&server, &format!("/explore?query={}", encode("room * 2"))).await;
    assert!(table.contains("instance=<b>n</b>") && table.contains("<td class=\"num\">43</td>"), "{table}");
    let without_labels = page(&server, &format!("/explore?query={}", encode("vector(1)"))).await;
    assert!(without_labels.contains("<th scope=\"row\">value</th>"), "{without_labels}");
    let error = page(&server, &format!("/explore?query={}", encode("sum(room"))).await;
    // Beside the field, and in the part that is fetched again.
    let part = error.split("data-live=\"table\"").nth(1).unwrap_or_default();
    assert!(part.contains("parse error") || part.contains("invalid parameter"), "{error}");
}

async fn assets_are_kept_for_good_and_packed(t: Target) {
    let server = t.own().start();
    report(&server, "n", &[("node_load1", 1.0)]).await;
    let first = server.client().get("/").accepts_gzip().send().await.expect(200);
    let (mut wire, text) = (first.wire.len(), first.text());
    let assets: Vec<_> = text.split('"').filter(|part| part.starts_with("/assets/")).map(str::to_owned).collect();
    assert!(assets.len() >= 3, "{text}");
    for asset in &assets {
        let answer = server.client().get(asset).accepts_gzip().send().await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000, immutable"));
        wire += answer.wire.len();
    }
    assert!(wire <= 60 * 1024, "the first page takes {wire} bytes over the wire");
    assert_eq!(server.client().get("/assets/style.css").send().await.status, 404, "only names with a hash");
    // A page of another version gets what is here for now.
    let other = server.client().get("/assets/style-000000000000.css").send().await.expect(200);
    assert_eq!((other.header("cache-control"), other.media_type()), (Some("no-store"), "text/css"));
    assert_eq!(server.client().get("/assets/nothing-000000000000.css").send().await.status, 404);
}

/// A page as a browser has it once its scripts have run, and what it says on its console.
async fn in_browser(url: &str) -> (String, String) {
    let profile = tempfile::tempdir().expect("a folder");
    let usual =
        ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=8000"];
    let mut command = Command::new("chromium");
    command.args(usual).arg(format!("--user-data-dir={}", profile.path().display())).args(["--dump-dom", url]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(Duration::from_mins(2), output).await.expect("Chromium ends").expect("Chromium starts");
    let console = String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    (String::from_utf8_lossy(&output.stdout).into_owned(), console)
}

#[tokio::test]
async fn pages_work_in_a_browser_and_say_nothing_on_its_console() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let own = "pages: [{name: own, variables: [{name: instance}], groups: [{title: G, panels: [{title: P, lines: [{expr: 'node_load1{instance=$instance}'}]}]}]}]";
    std::fs::write(folder.path().join("own.yaml"), own).expect("our own folder");
    let server = Server::builder().env("PANELS_DIR", folder.path().display().to_string()).start();
    report(&server, "n", &[("node_load1", 1.0), ("TotalMemory", 10.0), ("FreeMemory", 5.0)]).await;
    for (path, part) in [
        ("/", "#search"),
        ("/node?name=n", "canvas"),
        ("/explore?query=node_load1", "canvas"),
        ("/page?name=own&instance=n", "canvas"),
        ("/pods", "#search"),
        ("/changes", "#search"),
        ("/compare", "canvas"),
        ("/alerts", "#search"),
        ("/status", "#search"),
    ] {
        browser.open(&format!("{}{path}", server.url())).await;
        let works = format!("document.querySelector('{part}:not([hidden])') && document.getElementById('live').textContent === 'live'");
        browser.wait_for(&works).await;
        assert_eq!(browser.said(), [] as [String; 0], "{path}: the console");
    }
}

/// The script of the page of alerts, on a page that presses its buttons: the server takes a change only if it is marked as JSON.
#[tokio::test]
async fn buttons_of_the_page_of_alerts_send_json() {
    const PAGE: &str = r#"<!doctype html><p id="said"></p><div id="main"><button data-test="a b">t</button><button data-end="id">e</button></div>
        <dialog id="silence"><form method="dialog"></form></dialog><script type="module" src="/alerts.js"></script>
        <script type="module">for (const button of document.querySelectorAll('#main button')) button.click();</script>"#;
    if Command::new("chromium").arg("--version").stdout(Stdio::null()).status().await.is_err() {
        skip("chromium is not installed");
        return;
    }
    let receiver = Receiver::start(|request| match request.path.as_str() {
        "/" => Reply::status(200).body("text/html", PAGE),
        "/alerts.js" => Reply::status(200).body("text/javascript", include_str!("../../services/server/assets/alerts.js")),
        _ => Reply::status(204),
    })
    .await;
    let (_, console) = in_browser(&receiver.url()).await;
    let mut sent: Vec<_> = receiver.requests().into_iter().filter(|request| request.path.starts_with("/api/")).collect();
    sent.sort_by(|a, b| a.path.cmp(&b.path));
    let line = |request: &golectra_tests::Received| {
        format!("{} {} {}", request.method, request.path, request.header("content-type").unwrap_or("without a type"))
    };
    let expected = ["POST /api/v1/receivers/a%20b/test application/json", "DELETE /api/v1/silences/id application/json"];
    assert_eq!(sent.iter().map(line).collect::<Vec<_>>(), expected, "{console}");
}

/// A series' name and labels, and its values by the minutes that are left until now.
type Written<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a dyn Fn(i64) -> f64);

/// Writes gauges of instances, one value a minute for two hours, by remote-write: `value` gives them by the minutes that are left until now.
async fn write_history(server: &Server, series: &[Written<'_>]) {
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    let written: Vec<_> = series
        .iter()
        .map(|(name, labels, value)| {
            let samples: Vec<_> =
                (0..=120).rev().map(|left| (now - left * 60_000, value(left))).filter(|(_, value)| value.is_finite()).collect();
            remote_series(name, labels, &samples)
        })
        .collect();
    server.client().remote_write(remote_write_v1(&written)).send().await.expect_success();
}

/// The titles of the changes of a list of /changes, in their order.
fn changes<'a>(page: &'a str, list: &str) -> Vec<&'a str> {
    let list = page.split(&format!("<h2>{list}</h2>")).nth(1).unwrap_or_else(|| panic!("there is no list {list}: {page}"));
    let list = list.split("</ol>").next().unwrap_or_default();
    list.split("<li class=\"change\">").skip(1).filter_map(|row| row.split("\">").nth(2)?.split("</a>").next()).collect()
}

/// What is seeded here is found by its changes: a node at full CPU, one that is silent, a pod that restarts and a volume that fills among calm ones.
async fn what_changed_is_ranked(t: Target) {
    let server = t.own().start();
    // Counters began long before: the rate of one that begins at 0 is a smaller one at first.
    let minutes = |left: i64| f64::from(i32::try_from(1_000 - left).unwrap_or_default());
    let idle = |busy: f64, calm: f64| {
        move |left: i64| {
            minutes(left) * 60.0 * calm
                + if left < 30 { f64::from(30 - i32::try_from(left).unwrap_or(30)) * 60.0 * (busy - calm) } else { 0.0 }
        }
    };
    let (calm, full) = (idle(0.7, 0.7), idle(0.02, 0.7));
    let silent = move |left: i64| if left < 20 { f64::NAN } else { minutes(left) * 42.0 };
    // A processor is idle or not.
    let (calm_used, full_used) = (move |left: i64| minutes(left) * 60.0 - calm(left), move |left: i64| minutes(left) * 60.0 - full(left));
    let silent_used = move |left: i64| if left < 20 { f64::NAN } else { minutes(left) * 18.0 };
    let restarts = |left: i64| f64::from(i32::try_from(((50 - left) / 5).max(0)).unwrap_or_default());
    let volume = |left: i64| 118.0 - minutes(left) * 0.1;
    let nodes = ["n1", "n2", "n3", "n4", "busy", "gone"];
    let pods = ["web-1", "web-2", "cart"];
    let node_labels: Vec<_> =
        nodes.iter().map(|node| ["idle", "user"].map(|mode| [("instance", *node), ("cpu", "0"), ("mode", mode)])).collect();
    let pod_labels: Vec<_> =
        pods.iter().map(|pod| [("instance", "n1"), ("namespace", "shop"), ("pod", *pod), ("container", "app")]).collect();
    let claim: &[(&str, &str)] = &[("instance", "n1"), ("namespace", "shop"), ("persistentvolumeclaim", "data")];
    let mut series: Vec<Written> =
        vec![("kubelet_volume_stats_available_bytes", claim, &volume), ("kubelet_volume_stats_capacity_bytes", claim, &|_| 40.0)];
    for (node, labels) in nodes.iter().zip(&node_labels) {
        let values: [&dyn Fn(i64) -> f64; 2] = match *node {
            "busy" => [&full, &full_used],
            "gone" => [&silent, &silent_used],
            _ => [&calm, &calm_used],
        };
        series.extend(labels.iter().zip(values).map(|(labels, value)| ("node_cpu_seconds_total", labels.as_slice(), value)));
    }
    for (pod, labels) in pods.iter().zip(&pod_labels) {
        let value: &dyn Fn(i64) -> f64 = if *pod == "cart" { &restarts } else { &|_| 3.0 };
        series.push(("kube_pod_container_status_restarts_total", labels, value));
    }
    write_history(&server, &series).await;
    let all = page(&server, "/changes").await;
    let (nodes, pods) = (changes(&all, "Nodes"), changes(&all, "Pods and volumes"));
    assert_eq!(nodes.len(), 2, "those that stand still are not listed: {nodes:?}");
    assert!(nodes.contains(&"CPU of busy") && nodes.contains(&"gone is silent"), "{nodes:?}");
    assert_eq!(pods, ["Restarts of shop/cart", "Use of the volume shop/data"]);
    assert!(all.contains("from 30 % to 98 %"), "{all}");
    assert!(all.contains("href=\"/node?name=busy&#38;range=1h\""), "what moved is shown over the same time: {all}");
    let node = page(&server, "/changes?node=busy").await;
    assert_eq!(changes(&node, "Nodes"), ["CPU of busy"]);
    assert!(changes(&node, "Every metric")[0].starts_with("node_cpu_seconds_total{"), "{node}");
    let query = format!("/changes?query={}", encode("sum by (pod) (kube_pod_container_status_restarts_total)"));
    let query = page(&server, &query).await;
    assert_eq!(changes(&query, "Series"), ["{pod=&#34;cart&#34;}"]);
    let refused = server.client().get(&format!("/changes?query={}", encode("sum(("))).send().await.expect(200).text();
    assert!(refused.contains("can&#39;t be shown now"), "an expression that is none has a sentence: {refused}");
    // The first page waits a moment for what changed, and has it at the next look at the latest.
    let has_changes = async || {
        let first = page(&server, "/").await;
        first.contains("CPU of busy") && first.contains("Restarts of shop/cart")
    };
    until("the first page has what changed", LIMIT, has_changes).await;
}

async fn what_happened_is_listed(t: Target) {
    let server = t.own().start();
    let firing: &[(&str, &str)] = &[("alertname", "DiskSlow"), ("alertstate", "firing"), ("instance", "n1"), ("severity", "critical")];
    let cart: &[(&str, &str)] = &[("instance", "n1"), ("namespace", "shop"), ("pod", "cart"), ("container", "app")];
    let old: &[(&str, &str)] = &[("instance", "n1"), ("version", "1.0.0")];
    let new: &[(&str, &str)] = &[("instance", "n1"), ("version", "1.1.0")];
    let other: &[(&str, &str)] = &[("instance", "n2")];
    let there = |is_there: bool, value: f64| if is_there { value } else { f64::NAN };
    write_history(
        &server,
        &[
            ("ALERTS", firing, &|left| there(left < 40, 1.0)),
            ("kube_pod_container_status_restarts_total", cart, &|left| if left < 25 { 1.0 } else { 0.0 }),
            ("golectra_agent_info", old, &|left| there(left >= 15, 1.0)),
            ("golectra_agent_info", new, &|left| there(left < 15, 1.0)),
            ("node_boot_time_seconds", other, &|left| if left < 10 { 9_000.0 } else { 5_000.0 }),
            ("node_load1", other, &|_| 1.0),
        ],
    )
    .await;
    // The page does not wait long for what happened: it may come with a later look.
    let listed = async |path: &str, parts: &[&str]| {
        let limit = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let page = page(&server, path).await;
            let events: String = page.split("<li data-event=\"").skip(1).collect();
            if parts.iter().all(|part| events.contains(part)) {
                return events;
            }
            assert!(tokio::time::Instant::now() < limit, "{path} does not list {parts:?}: {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let version = "n1 runs golectra 1.1.0 instead of 1.0.0";
    let all = listed("/changes", &["DiskSlow of n1 fires", "shop/cart restarted", version, "n2 was started"]).await;
    assert!(all.find(version) < all.find("shop/cart restarted"), "the newest come first: {all}");
    let of_six_hours = listed("/changes?range=6h", &[version]).await;
    assert!(of_six_hours.contains("href=\"/node?name=n1&amp;range=6h\""), "it is shown over the same time: {of_six_hours}");
    let of_node = listed("/node?name=n1", &["DiskSlow of n1 fires", "shop/cart restarted", version]).await;
    assert!(!of_node.contains("n2 was started"), "{of_node}");
    let of_pod = listed("/pod?namespace=shop&name=cart", &["shop/cart restarted"]).await;
    assert!(!of_pod.contains("DiskSlow"), "{of_pod}");
}

async fn nodes_are_compared(t: Target) {
    let server = t.own().start();
    for (node, load) in [("a1", 3.0), ("a2", 1.0), ("b1", 2.0)] {
        report(&server, node, &[("node_load1", load)]).await;
    }
    let order = async |sort: &str| {
        let page = page(&server, &format!("/compare?query=node_load1&sort={sort}")).await;
        let rows = page.split("<td class=\"num soft\">").skip(1);
        rows.map(|row| {
            format!(
                "{} {}",
                row.split('<').next().unwrap_or_default(),
                row.split("\">").nth(2).and_then(|name| name.split('<').next()).unwrap_or_default()
            )
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(order("").await, ["1 a1", "2 b1", "3 a2"]);
    assert_eq!(order("name").await, ["1 a1", "3 a2", "2 b1"]);
    let error = page(&server, &format!("/compare?query={}", encode("sum(("))).await;
    assert!(error.contains("role=\"alert\"") && error.contains("parse error"), "{error}");
}
