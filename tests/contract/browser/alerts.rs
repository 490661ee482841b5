//! The buttons of the page of alerts.

use super::*;

#[tokio::test]
async fn what_a_button_did_is_in_sight_and_meanwhile_it_does_nothing() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let receivers = folder.path().join("receivers");
    std::fs::write(&receivers, "receivers:\n- name: hook\n  webhook: {url: 'http://127.0.0.1:9/'}\n").expect("our own folder");
    let server = Server::builder().env("RECEIVERS_FILE", receivers.display()).start();
    for width in [1280, 390] {
        browser.show(width, "light").await;
        browser.open(&format!("{}/alerts", server.url())).await;
        browser.wait_for("document.querySelector('[data-test]:not([hidden])')").await;
        browser.eval(&hold("/api/v1/receivers/")).await;
        browser.click("[data-test]").await;
        browser.wait_for("document.querySelector('[data-test][aria-disabled=true]')").await;
        // A refresh leaves it so.
        browser.eval(COUNT).await;
        browser.wait_for("window.refreshes >= 1").await;
        browser.click("[data-test]").await;
        assert_eq!(browser.eval("document.querySelector('[data-test]').getAttribute('aria-disabled')").await, json!("true"));
        browser.eval("scrollTo(0, document.body.scrollHeight)").await;
        browser.eval("window.release()").await;
        browser.wait_for("document.getElementById('said').textContent && !document.querySelector('[data-test][aria-disabled]')").await;
        browser.wait_for(&in_sight("#said")).await;
        assert_eq!(browser.eval("window.sent").await, json!(1), "one test");
    }
}

#[tokio::test]
async fn the_dialog_of_a_silence_names_its_alert_and_stays_with_a_refusal() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(&folder);
    browser.show(1280, "light").await;
    browser.open(&format!("{}/alerts", server.url())).await;
    browser.wait_for("document.querySelector('[data-live=firing] button[data-silence]:not([hidden])')").await;
    browser.click("[data-live=firing] button[data-silence]").await;
    browser.wait_for("document.querySelector('dialog#silence[open]')").await;
    let about = browser.eval("document.getElementById('silence-about').textContent").await;
    let about = about.as_str().expect("text");
    assert!(about.starts_with("This is a drill") && about.contains("alertname=Drill"), "{about}");

    let refuse = "(() => { window.real = window.fetch; window.fetch = async (...asked) => (asked[0] === '/api/v1/silences' \
        ? new Response(JSON.stringify({ error: 'It may not be silenced.' }), { status: 403 }) : window.real(...asked)); })()";
    browser.eval(refuse).await;
    for (name, text) in [("by", "ada"), ("comment", "a drill")] {
        browser.eval(&format!("document.querySelector('#silence input[name={name}]').focus()")).await;
        browser.type_text(text).await;
    }
    browser.press("Enter", false).await;
    browser.wait_for("document.getElementById('silence-refusal').textContent === 'It may not be silenced.'").await;
    browser.wait_for(&in_sight("dialog#silence[open] #silence-refusal")).await;

    browser.eval("window.fetch = window.real").await;
    browser.press("Enter", false).await;
    browser.wait_for("!document.querySelector('dialog#silence[open]')").await;
    browser.wait_for("document.getElementById('said').textContent === 'The alert is silenced.'").await;
    browser.wait_for("document.querySelector('[data-live=silences]').textContent.includes('a drill')").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}
