//! The field of an expression: its completion and its errors.

use super::*;

/// Puts the cursor into the field, which is empty then.
const BEGIN: &str = "(() => { const field = document.getElementById('query'); field.value = ''; field.focus(); })()";

/// Whether a completion with this text is offered.
fn offers(text: &str) -> String {
    format!("[...document.querySelectorAll('.choices [role=option] span')].some((one) => one.textContent === {})", json!(text))
}

/// Makes this of each question to the API; `window.asked` tells whether the search over everything has asked.
fn instead(answer: &str) -> String {
    format!(
        "(() => {{ const real = window.fetch; window.asked = false; window.fetch = (...asked) => {{ const path = String(asked[0]); \
         if (path === '/api/v1/sources') window.asked = true; return path.startsWith('/api/v1/') ? {answer} : real(...asked); }}; }})()"
    )
}

#[tokio::test]
async fn completion_takes_only_what_is_meant() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("up_time", vec![("instance", "n")], &|_| 1.0, 1)]).await;
    let url = |path: &str| format!("{}{path}", server.url());
    let value = "document.getElementById('query').value";

    // Tab completes, Shift+Tab only leaves the field.
    browser.open(&url("/explore")).await;
    browser.wait_for("document.querySelector('.choices')").await;
    browser.eval(BEGIN).await;
    browser.type_text("up").await;
    browser.wait_for(&offers("up_time")).await;
    for kind in ["keyDown", "keyUp"] {
        let event = json!({"type": kind, "key": "Tab", "windowsVirtualKeyCode": 9, "modifiers": 8});
        browser.call("Input.dispatchKeyEvent", event).await;
    }
    browser.wait_for("document.activeElement.id !== 'query'").await;
    assert_eq!(browser.eval(value).await, json!("up"));
    browser.eval(BEGIN).await;
    browser.type_text("up").await;
    browser.wait_for(&offers("up_time")).await;
    browser.press("Tab", false).await;
    assert_eq!(browser.eval(value).await, json!("up_time"));

    // The unit of a duration is no name, so that Enter sends the expression. The names are known by now: a completion would be there at once.
    browser.type_text(" offset 5m").await;
    browser.press("Enter", false).await;
    browser.wait_for("new URLSearchParams(location.search).get('query') === 'up_time offset 5m'").await;

    // In the search over everything Tab does not leave the page: it is not taken for a choice.
    browser.wait_for("document.querySelector('#search:not([hidden])')").await;
    browser.press("k", true).await;
    browser.wait_for("document.activeElement?.matches('dialog[open] input')").await;
    browser.type_text("Status").await;
    browser.wait_for("document.querySelector('dialog[open] [role=option]')?.textContent === 'Statuspage'").await;
    browser.eval("document.addEventListener('keydown', (event) => { if (event.key === 'Tab') window.passed = true; })").await;
    browser.press("Tab", false).await;
    assert_eq!(browser.eval("window.passed").await, json!(true));
    // What is not there is said, and pressing the keys again leaves the search as it is.
    browser.eval("document.querySelector('dialog[open] input').focus()").await;
    browser.type_text("-nowhere").await;
    browser.wait_for("document.querySelector('dialog[open] [role=status]')?.textContent === 'Nothing has such a name.'").await;
    browser.press("k", true).await;
    browser.wait_for("document.querySelector('dialog[open] input')?.value === 'Status-nowhere'").await;

    // What is known stays found until the answers are there.
    browser.eval(&instead("new Promise(() => {})")).await;
    browser.press("k", true).await;
    browser.wait_for("window.asked").await;
    browser.eval("document.querySelector('dialog[open] input').select()").await;
    browser.type_text("up_time").await;
    let found = "document.querySelector('dialog[open] [role=option]')?.textContent";
    assert_eq!(browser.eval(found).await, json!("up_timemetric"));

    // Without answers it is not known what is not there.
    browser.open(&url("/status")).await;
    browser.wait_for("document.querySelector('#search:not([hidden])')").await;
    browser.eval(&instead("Promise.reject(new TypeError('Failed to fetch'))")).await;
    browser.press("k", true).await;
    browser.wait_for("window.asked && document.activeElement?.matches('dialog[open] input')").await;
    browser.type_text("nowhere").await;
    browser.wait_for("document.querySelector('dialog[open] input')?.value === 'nowhere'").await;
    assert_eq!(browser.eval("document.querySelector('dialog[open] [role=status]').textContent").await, json!(""));
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// Enter takes what people see selected, also where answers came just before.
#[tokio::test]
async fn answers_leave_what_is_selected_in_the_search() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let batch = json!([{"id": "node_load1", "type": "gauge", "value": 1}]);
    server.client().post("/updates").source("n1").json(&batch).send().await.expect(200);
    browser.open(&format!("{}/status", server.url())).await;
    browser.wait_for("document.querySelector('#search:not([hidden])')").await;
    browser.eval(&hold("/api/v1/")).await;
    browser.press("k", true).await;
    browser.wait_for("document.activeElement?.matches('dialog[open] input') && document.querySelector('dialog[open] [role=option]')").await;
    for _ in 0..2 {
        browser.press("ArrowDown", false).await;
    }
    let selected = "document.querySelector('dialog[open] [aria-selected=true]')?.textContent";
    assert_eq!(browser.eval(selected).await, json!("Changespage"));
    browser.eval("window.release()").await;
    browser.wait_for("[...document.querySelectorAll('dialog[open] [role=option]')].some((one) => one.textContent === 'n1node')").await;
    assert_eq!(browser.eval(selected).await, json!("Changespage"));

    // Another text begins with its first hit, and so does the search when it is opened again.
    browser.type_text("n1").await;
    browser.wait_for(&format!("{selected} === 'n1node'")).await;
    browser.press("Escape", false).await;
    browser.wait_for("!document.querySelector('dialog[open]')").await;
    browser.press("k", true).await;
    browser.wait_for(&format!("{selected} === 'Overviewpage'")).await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

#[tokio::test]
async fn the_window_of_rates_is_no_error() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let total = |left: i64| f64::from(i32::try_from(1_000 - left).unwrap_or_default());
    write(&server, &[("jobs_total", vec![("instance", "n")], &total, 1)]).await;
    let rate = golectra_tests::encode("rate(jobs_total[$window])");
    let error = "document.getElementById('query-error').textContent";
    for (path, table) in [("/explore", "[data-live=table] tbody td"), ("/compare", "[data-live=table] tbody td b")] {
        browser.open(&format!("{}{path}?query={rate}", server.url())).await;
        browser.wait_for("document.querySelector('figure.graph canvas') && document.querySelector('.choices')").await;
        assert_eq!(browser.eval(error).await, json!(""), "{path}");
        assert_ne!(browser.eval(&format!("document.querySelector('{table}')")).await, Value::Null, "{path}");
        browser.eval("document.getElementById('query').focus()").await;
        browser.type_text(" ").await;
        browser.wait_for("document.getElementById('query').hasAttribute('aria-invalid')").await;
        assert_eq!(browser.eval(error).await, json!(""), "{path}: while one types");

        // An error after it has its mark below its place.
        browser.eval(BEGIN).await;
        browser.type_text("rate(jobs_total[$window]))").await;
        browser.wait_for("document.getElementById('query').getAttribute('aria-invalid') === 'true'").await;
        let shown = browser.eval(error).await;
        let mark = shown.as_str().and_then(|text| text.lines().nth(1)?.find('^'));
        assert_eq!(mark, Some("rate(jobs_total[$window])".len()), "{shown}");
    }
    // The browser reports the answers about the errors that were made on purpose.
    let said: Vec<_> = browser.said().into_iter().filter(|line| !line.contains("/api/v1/parse_query")).collect();
    assert_eq!(said, [] as [String; 0], "the console");
}
