//! What graphs draw.

use golectra_tests::remote_write::{remote_series, remote_write_v1};

use super::*;

/// How many points of the graph's upper half have a colour, which its grid has not.
const COLOURED: &str = "(() => { const canvas = document.querySelector('figure.graph canvas'); \
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height / 2); let coloured = 0; \
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 20 && Math.abs(data[at + 1] - data[at]) > 40) coloured += 1; return coloured; })()";

/// Six hours of a gauge with a value every 20 s, of which one is a spike, on a graph that has a value every five minutes.
#[tokio::test]
async fn a_spike_between_two_values_of_a_line_stays_visible() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    let spike = (now - 3 * 3_600_000) / 300_000 * 300_000 + 140_000;
    let samples: Vec<_> = (-540_i64..530)
        .map(|at| spike + at * 20_000)
        .filter(|at| *at <= now)
        .map(|at| (at, if at == spike { 500.0 } else { 1.0 }))
        .collect();
    server.client().remote_write(remote_write_v1(&[remote_series("spiky", &[("instance", "n")], &samples)])).send().await.expect_success();
    browser.show(1280, "light").await;
    browser.open(&format!("{}/explore?query=spiky&range=1d", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    browser.wait_for(&format!("{COLOURED} > 0")).await;
    browser.eval("document.querySelector('figure.graph details').open = true").await;
    browser.wait_for("document.querySelector('figure.graph details table')").await;
    let table = browser.eval("document.querySelector('figure.graph details').textContent").await;
    let table = table.as_str().expect("text");
    assert_eq!(table.matches("1 (1 to 500)").count(), 1, "{table}");

    // A rate is about all of the time between two values, and has no spread of its own.
    browser.open(&format!("{}/explore?query=rate(spiky[10m])&range=1d", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// A graph whose end is now is drawn anew every ten seconds.
#[tokio::test]
async fn a_graph_that_is_drawn_anew_keeps_its_cursor_and_its_table() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("steady", vec![("instance", "n")], &|_| 1.0, 1)]).await;
    browser.show(1280, "light").await;
    browser.open(&format!("{}/explore?query=steady&range=15m", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    browser.eval("document.querySelector('figure.graph details').open = true").await;
    browser.wait_for("document.querySelector('figure.graph .scroll table')").await;
    browser.eval("document.querySelector('figure.graph .plot').focus()").await;
    for _ in 0..5 {
        browser.press("ArrowLeft", false).await;
    }
    browser.wait_for("document.querySelector('.when').textContent").await;
    let remember = "(() => { const find = (selector) => document.querySelector(`figure.graph ${selector}`); \
        window.before = { canvas: find('canvas'), scroll: find('.scroll'), when: find('.when').textContent }; })()";
    browser.eval(remember).await;
    browser.wait_for("document.querySelector('canvas') && document.querySelector('canvas') !== window.before.canvas").await;
    browser.wait_for("document.querySelector('.when').textContent === window.before.when").await;
    assert_eq!(browser.eval("document.querySelector('figure.graph .scroll') === window.before.scroll").await, json!(true));
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}
