//! GET /: the dashboard.

use golectra_tests::{Target, on_every_store};
use serde_json::json;

on_every_store!(
    the_page_works_with_nothing_stored,
    the_page_shows_what_is_stored,
    a_page_of_many_series_says_that_there_are_more,
    markup_in_names_is_escaped,
    the_page_loads_no_foreign_content
);

async fn the_page_works_with_nothing_stored(t: Target) {
    let server = t.own().start();
    let answer = server.client().get("/").send().await.expect(200);
    assert_eq!(answer.media_type(), "text/html");
    let page = answer.text().to_lowercase();
    assert!(page.contains("<html") && page.contains("</html>") && page.contains("golectra"), "{page}");
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
    for part in ["room_temperature", "21.375", "door_openings", "4711"] {
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
