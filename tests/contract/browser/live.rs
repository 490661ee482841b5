//! Pages stay current by themselves, and leave what people did with them as it is.

use super::*;

/// Fetches the page again, and is there when that is done. What was under way before counts as well.
const REFRESH: &str = "new Promise((resolve) => { document.addEventListener('golectra:refreshed', () => resolve(true), { once: true }); \
    document.dispatchEvent(new Event('golectra:refresh')); })";

/// From now on the elements that begin so are others each time that the page is fetched: their `data-turn` counts.
fn changing(begin: &str) -> String {
    format!(
        "(() => {{ const real = window.fetch; let turn = 0; window.fetch = async (...asked) => {{ \
         const answer = await real(...asked); if (asked[0] !== location.href) return answer; \
         turn += 1; const text = await answer.text(); const begin = {}; \
         return new Response(text.replaceAll(begin, `${{begin}} data-turn=\"${{turn}}\"`), {{ status: answer.status }}); }}; }})()",
        json!(begin)
    )
}

/// A page as it is after two refreshes: one may have been under way.
async fn refresh(browser: &mut Browser) {
    for _ in 0..2 {
        browser.eval(REFRESH).await;
    }
}

#[tokio::test]
async fn what_people_did_with_a_page_outlasts_its_refreshes() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let receivers = folder.path().join("receivers");
    std::fs::write(&receivers, "receivers:\n- name: hook\n  webhook: {url: 'http://127.0.0.1:9/'}\n").expect("our own folder");
    let server = Server::builder().env("RECEIVERS_FILE", receivers.display()).start();
    let restarts = |left: i64| if left > 25 { 0.0 } else { 1.0 };
    let cart = vec![("instance", "n1"), ("namespace", "shop"), ("pod", "cart"), ("container", "app")];
    write(&server, &[("kube_pod_container_status_restarts_total", cart, &restarts, 1)]).await;
    let matchers = json!([{"name": "instance", "value": "n1"}]);
    let silence = json!({"matchers": matchers, "duration": "1w", "createdBy": "me", "comment": "a disk is replaced"});
    server.client().post("/api/v1/silences").json(&silence).send().await.expect(200);
    let url = |path: &str| format!("{}{path}", server.url());

    // The focus stays on a button, since its row did not change.
    browser.open(&url("/alerts")).await;
    browser.wait_for("document.querySelector('[data-test]:not([hidden])')").await;
    browser.eval(COUNT).await;
    browser.eval("window.button = document.querySelector('[data-test]'); window.button.focus()").await;
    browser.wait_for("window.refreshes >= 2").await;
    assert_eq!(browser.eval("document.activeElement === window.button").await, json!(true));
    // A time of next week has its day.
    let shown = "document.querySelector('[data-live=silences] time').textContent";
    let text = browser.eval(shown).await;
    assert_eq!(browser.eval(&format!("/^\\d+ [A-Za-z]+, \\d+:\\d+:\\d+$/.test({shown})")).await, json!(true), "{text}");

    // A list that is closed stays closed.
    browser.open(&url("/changes")).await;
    browser.wait_for("document.querySelector('.happened [data-event]')").await;
    browser.eval("document.querySelector('.happened details').open = false").await;
    browser.eval(COUNT).await;
    browser.wait_for("window.refreshes >= 2").await;
    assert_eq!(browser.eval("document.querySelector('.happened details').open").await, json!(false));

    // The search finds pods as well.
    browser.press("k", true).await;
    browser.wait_for("document.activeElement?.matches('dialog[open] input')").await;
    browser.type_text("cart").await;
    browser.wait_for("document.querySelector('dialog[open] [role=option]')?.textContent === 'cartpod'").await;
    browser.press("Enter", false).await;
    browser.wait_for("location.pathname + location.search === '/pods?find=cart'").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// A click and a selection need elements that stay while they last.
#[tokio::test]
async fn what_people_press_or_select_is_not_replaced_meanwhile() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    for node in ["n1", "n2"] {
        let batch = json!([{"id": "node_load1", "type": "gauge", "value": 1}]);
        server.client().post("/updates").source(node).json(&batch).send().await.expect(200);
    }
    browser.show(1280, "light").await;
    browser.open(&format!("{}/status", server.url())).await;
    browser.wait_for("document.getElementById('live').textContent === 'live'").await;
    browser.eval(&changing("<td class=\"warn\"")).await;
    refresh(&mut browser).await;
    let turn = "document.querySelector('[data-live=agents] [data-turn]').dataset.turn";
    let before = browser.eval(turn).await;
    refresh(&mut browser).await;
    assert_ne!(browser.eval(turn).await, before, "rows change");

    let select = "new Promise((resolve) => { document.addEventListener('selectionchange', () => resolve(true), { once: true }); \
        getSelection().selectAllChildren(document.querySelector('[data-live=agents] tbody th a')); })";
    browser.eval(select).await;
    let (text, before) = (browser.eval("getSelection().toString()").await, browser.eval(turn).await);
    refresh(&mut browser).await;
    assert_eq!(browser.eval("getSelection().toString()").await, text);
    assert_eq!(browser.eval(turn).await, before, "what is selected stays as it was");
    browser.eval("getSelection().removeAllRanges()").await;
    refresh(&mut browser).await;
    assert_ne!(browser.eval(turn).await, before, "and comes with the next refresh after that");

    let place = "(() => { const box = document.querySelector('[data-live=agents] tbody th a').getBoundingClientRect(); \
        return [box.x + box.width / 2, box.y + box.height / 2]; })()";
    let place = browser.eval(place).await;
    let mouse = |kind: &str, buttons: u8| json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "buttons": buttons, "clickCount": 1});
    browser.call("Input.dispatchMouseEvent", mouse("mousePressed", 1)).await;
    refresh(&mut browser).await;
    browser.call("Input.dispatchMouseEvent", mouse("mouseReleased", 0)).await;
    browser.wait_for("location.pathname === '/source'").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

#[tokio::test]
async fn boxes_stay_scrolled_when_their_content_is_replaced() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let batch = json!([{"id": "node_load1", "type": "gauge", "value": 1}]);
    server.client().post("/updates").source("n").json(&batch).send().await.expect(200);
    let restarts = |left: i64| if left > 25 { 0.0 } else { 1.0 };
    let of = |pod: &'static str| vec![("instance", "n"), ("namespace", "shop"), ("pod", pod), ("container", "app")];
    let pods = ["a", "b", "c", "d"].into_iter();
    let series: Vec<Written> = pods.map(|pod| ("kube_pod_container_status_restarts_total", of(pod), &restarts as _, 1)).collect();
    write(&server, &series).await;
    browser.show(1280, "light").await;
    for (path, rule, begin, selector) in [
        ("/status", ".scroll table { width: 3000px !important }", "<thead", "[data-live=agents] .scroll"),
        ("/changes", ".events { max-height: 40px !important }", "<ol class=\"card events\"", "[data-live=events] .events"),
    ] {
        browser.open(&format!("{}{path}", server.url())).await;
        let is_there = format!("document.getElementById('live').textContent === 'live' && document.querySelector('{selector}')");
        browser.wait_for(&is_there).await;
        browser.eval(&format!("document.styleSheets[0].insertRule({})", json!(rule))).await;
        browser.eval(&changing(begin)).await;
        let scroll = format!(
            "(() => {{ window.box = document.querySelector('{selector}'); window.box.scrollTo(30, 30); return [window.box.scrollLeft, window.box.scrollTop]; }})()"
        );
        let before = browser.eval(&scroll).await;
        assert!(before == json!([30, 0]) || before == json!([0, 30]), "{path}: {before}");
        refresh(&mut browser).await;
        let after = format!(
            "(() => {{ const box = document.querySelector('{selector}'); return [box !== window.box, box.scrollLeft, box.scrollTop]; }})()"
        );
        assert_eq!(browser.eval(&after).await, json!([true, before[0], before[1]]), "{path}");
    }
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

#[tokio::test]
async fn what_is_known_later_comes_to_a_page_with_graphs() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let received = |left: i64| f64::from(i32::try_from(1_000 - left).unwrap_or_default());
    let network = vec![("instance", "app:8080"), ("device", "eth0")];
    write(&server, &[("node_network_receive_bytes_total", network, &received, 1)]).await;
    browser.open(&format!("{}/node?name=app%3A8080", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph')").await;
    browser.eval("window.isFirst = true").await;
    assert_eq!(browser.eval("document.querySelector('[data-live=facts]').textContent").await, json!(""));
    write(&server, &[("node_load1", vec![("instance", "app:8080")], &|_| 1.25, 1)]).await;
    browser.wait_for("document.querySelector('[data-live=facts]').textContent.includes('1.25')").await;
    assert_eq!(browser.eval("window.isFirst").await, json!(true), "the page was not loaded anew");
}

#[tokio::test]
async fn a_filter_that_is_changed_brings_rows_that_the_page_did_not_have() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    for node in ["n1", "n2"] {
        let batch = json!([{"id": "node_load1", "type": "gauge", "value": 1}]);
        server.client().post("/updates").source(node).json(&batch).send().await.expect(200);
    }
    browser.open(&format!("{}/?find=n1", server.url())).await;
    browser.wait_for("document.getElementById('live').textContent === 'live'").await;
    assert_eq!(browser.eval("document.querySelectorAll('tr[data-text]').length").await, json!(1));
    let enter = |text: &str| {
        format!(
            "(() => {{ const input = document.querySelector('input[data-filter]'); input.value = {}; \
             input.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()",
            json!(text)
        )
    };
    browser.eval(&enter("")).await;
    browser.wait_for("document.querySelector('[data-live=rows] a[href=\"/node?name=n2\"]')").await;
    browser.eval(&enter("nothing")).await;
    browser.wait_for("document.querySelector('[data-live=hidden]').textContent.includes('No node matches')").await;
}

/// A page that needs seconds for its queries is not taken for a server that does not answer.
#[tokio::test]
async fn a_slow_page_is_no_dead_server() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    browser.open(&format!("{}/status", server.url())).await;
    browser.wait_for("document.getElementById('live').textContent === 'live'").await;
    let slow = "(() => { const real = window.fetch; const live = document.getElementById('live'); window.lost = []; \
                new MutationObserver(() => { if (live.classList.contains('lost')) window.lost.push(live.textContent); }).observe(live, { attributes: true }); \
                window.fetch = async (...asked) => { if (asked[0] === location.href) await new Promise((resolve) => setTimeout(resolve, 6000)); return real(...asked); }; })()";
    browser.eval(slow).await;
    browser.eval(COUNT).await;
    // The first of them may have been under way before pages were slow.
    browser.wait_for("window.refreshes >= 2").await;
    assert_eq!(browser.eval("window.lost").await, json!([]));
}

/// Links that keep the range of the page follow it when it is changed without a new page.
#[tokio::test]
async fn links_have_the_range_that_is_chosen() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("node_load1", vec![("instance", "n")], &|_| 1.0, 1)]).await;
    let url = |path: &str| format!("{}{path}", server.url());
    let all_have = |selector: &str, range: &str| {
        format!(
            "(() => {{ const links = [...document.querySelectorAll({})]; \
             return links.length > 0 && links.every((link) => new URL(link.href).searchParams.get('range') === {}); }})()",
            json!(selector),
            json!(range)
        )
    };
    browser.open(&url("/compare?query=node_load1&range=1h")).await;
    browser.wait_for("localStorage.getItem('golectra.queries')?.includes('node_load1')").await;
    browser.open(&url("/compare?query=max+by+(instance)+(node_load1)&range=1h")).await;
    let of_compare = [".chips a", "#last a", "[data-live=table] tbody a"];
    for selector in of_compare {
        browser.wait_for(&all_have(selector, "1h")).await;
    }
    browser.click(".ranges a[data-range='15m']").await;
    for selector in of_compare {
        browser.wait_for(&all_have(selector, "15m")).await;
    }
    browser.open(&url("/changes?node=n&range=1h")).await;
    browser.wait_for(&all_have(".crumbs a", "1h")).await;
    browser.click(".ranges a[data-range='15m']").await;
    browser.wait_for(&all_have(".crumbs a", "15m")).await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

#[tokio::test]
async fn who_is_signed_out_gets_the_form_instead_of_a_page_that_stands_still() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "me:read:r-token\n").expect("our own folder");
    let server = Server::builder().env("API_TOKENS_FILE", tokens.display()).start();
    browser.open(&format!("{}/explore?query=vector(1)", server.url())).await;
    browser.eval("document.querySelector('#token').focus()").await;
    browser.type_text("r-token").await;
    browser.press("Enter", false).await;
    browser.wait_for("document.querySelector('figure.graph') && document.getElementById('live').textContent === 'live'").await;
    browser.eval("fetch('/sign-out', { method: 'POST' }).then(() => document.dispatchEvent(new Event('golectra:refresh')))").await;
    browser.wait_for("document.querySelector('#token') && !document.querySelector('script')").await;
}

/// A page without a graph has one form for a range of one's own, as those with graphs have.
#[tokio::test]
async fn a_range_of_ones_own_is_entered_checked_and_left() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    browser.open(&format!("{}/explore?from=1700000030&to=1700003630", server.url())).await;
    browser.wait_for("document.getElementById('live').textContent === 'live' && document.querySelector('#between form')").await;
    assert_eq!(browser.eval("document.querySelectorAll('#between form').length").await, json!(1));
    let is_open = "!document.querySelector('#between form').hidden";
    let enter = |name: &str, value: &str| {
        format!(
            "(() => {{ const input = document.querySelector('#between input[name={name}]'); input.value = {value}; \
             input.dispatchEvent(new Event('input', {{ bubbles: true }})); input.focus(); }})()"
        )
    };
    let from = "document.querySelector('#between input[name=from]').value";
    browser.click("#between > button").await;
    browser.wait_for(is_open).await;

    // Escape closes it, and the focus is on the button that opens it.
    browser.eval("document.querySelector('#between input').focus()").await;
    browser.press("Escape", false).await;
    browser.wait_for("document.querySelector('#between form').hidden && document.activeElement.matches('#between > button')").await;
    browser.press("Enter", false).await;
    browser.wait_for(is_open).await;

    // An end before the beginning is said, and goes nowhere.
    browser.eval(&enter("to", "'2001-01-01T00:00'")).await;
    browser.eval("document.querySelector('#between form').requestSubmit()").await;
    assert_eq!(
        browser.eval("document.querySelector('#between input[name=to]').validationMessage").await,
        json!("The end has to be after the beginning.")
    );
    assert_eq!(browser.eval("new URLSearchParams(location.search).get('to')").await, json!("1700003630"));

    // What was said of those values is not said of those that the form is opened with again.
    browser.press("Escape", false).await;
    browser.wait_for("document.querySelector('#between form').hidden && document.activeElement.matches('#between > button')").await;
    browser.press("Enter", false).await;
    browser.wait_for(is_open).await;
    assert_eq!(browser.eval("document.querySelector('#between form').checkValidity()").await, json!(true));

    // The beginning, which nobody changed, keeps its seconds.
    browser.eval(&enter("to", &format!("`${{Number({from}.slice(0, 4)) + 1}}${{{from}.slice(4)}}`"))).await;
    browser.eval("document.querySelector('#between form').requestSubmit()").await;
    browser.wait_for("Number(new URLSearchParams(location.search).get('to')) > 1700003630").await;
    assert_eq!(browser.eval("new URLSearchParams(location.search).get('from')").await, json!("1700000030"));
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// A time of which a node has nothing says so, and one that has something brings the graphs.
#[tokio::test]
async fn a_page_without_graphs_gets_them_with_another_range() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let batch = json!([{"id": "node_load1", "type": "gauge", "value": 1}]);
    server.client().post("/updates").source("n").json(&batch).send().await.expect(200);
    browser.open(&format!("{}/node?name=n&from=100&to=200", server.url())).await;
    // The page listens to its ranges only after it has made the form.
    browser.wait_for("document.getElementById('live').textContent === 'live' && document.querySelector('#between form')").await;
    assert_eq!(browser.eval("document.querySelector('figure.graph')").await, Value::Null);
    assert_eq!(
        browser.eval("document.querySelector('[data-live=problems] .note').textContent.includes('in this time')").await,
        json!(true)
    );
    browser.click(".ranges a[data-range='1h']").await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// The forms of pages with a time range, sent without scripts.
#[tokio::test]
async fn without_scripts_a_form_keeps_the_range() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let batch = json!([{"id": "node_load1", "type": "gauge", "value": 1}]);
    server.client().post("/updates").source("n").json(&batch).send().await.expect(200);
    browser.run_scripts(false).await;
    let kept = |name: &str| format!("new URLSearchParams(location.search).get('{name}')");
    for path in ["/explore?query=node_load1&range=6h&old=1", "/compare?query=node_load1&sort=-mean&range=6h&old=1"] {
        browser.open(&format!("{}{path}", server.url())).await;
        browser.click("#query-form button[type=submit]").await;
        // What the form does not know is gone.
        browser.wait_for(&format!("document.readyState === 'complete' && {} === null", kept("old"))).await;
        assert_eq!(browser.eval(&kept("range")).await, json!("6h"), "{path}");
        assert_eq!(browser.eval(&kept("query")).await, json!("node_load1"), "{path}");
    }
    assert_eq!(browser.eval(&kept("sort")).await, json!("-mean"));
}
