//! What graphs draw.

use golectra_tests::remote_write::{remote_series, remote_write_v1};

use super::*;

/// How many points of the graph's upper half have a colour, which its grid has not.
const COLOURED: &str = "(() => { const canvas = document.querySelector('figure.graph canvas'); \
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height / 2); let coloured = 0; \
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 20 && Math.abs(data[at + 1] - data[at]) > 40) coloured += 1; return coloured; })()";

/// How many answers the graphs of the page have had.
const ANSWERS: &str = "performance.getEntriesByType('resource').filter((one) => one.name.includes('query_range')).length";

/// No line leads to a value without a neighbour: it is a point. Steps of days end now as well, not at a multiple of days since 1970.
#[tokio::test]
async fn a_value_alone_is_drawn_in_every_range() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let before = i64::try_from(unix_millis()).expect("the clock is before the year 292278994") - 5 * 3_600_000;
    let alone = remote_series("alone", &[("instance", "n")], &[(before, 5.0)]);
    server.client().remote_write(remote_write_v1(&[alone])).send().await.expect_success();
    browser.show(1280, "light").await;
    for range in ["1w", "1y", "2y"] {
        browser.open(&format!("{}/explore?query=alone&range={range}", server.url())).await;
        browser.wait_for("document.querySelector('figure.graph canvas')").await;
        browser.wait_for(&format!("{COLOURED} > 0")).await;
        assert_eq!(browser.eval("document.querySelector('figure.graph .note').textContent").await, json!(""), "{range}");
    }
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// An infinite value is a gap of the line and stays in the table.
#[tokio::test]
async fn an_infinite_value_leaves_the_others_their_height() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("part", vec![("instance", "n")], &|left| if left == 30 { 0.0 } else { 1.0 }, 1)]).await;
    browser.show(1280, "light").await;
    browser.open(&format!("{}/explore?query={}&range=1h", server.url(), golectra_tests::encode("1 / part"))).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    browser.wait_for(&format!("{COLOURED} > 0")).await;
    browser.eval("document.querySelector('figure.graph details').open = true").await;
    browser.wait_for("document.querySelector('figure.graph details table')?.textContent.includes('∞')").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

#[tokio::test]
async fn a_graph_of_many_lines_says_how_many_it_draws() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let nodes: Vec<_> = (0..300).map(|n| format!("n{n:03}")).collect();
    let series: Vec<Written> = nodes.iter().map(|node| ("many", vec![("instance", node.as_str())], &(|_| 1.0) as _, 60)).collect();
    write(&server, &series).await;
    browser.open(&format!("{}/explore?query=many&range=1d", server.url())).await;
    browser.wait_for("document.querySelectorAll('.legend li').length === 64").await;
    let note = browser.eval("document.querySelector('figure.graph .note').textContent").await;
    assert_eq!(note, json!("Only 64 lines are drawn, the first by their labels."));
}

/// A week is drawn anew every five minutes, a quarter of an hour every ten seconds.
#[tokio::test]
async fn a_short_range_after_a_long_one_is_drawn_anew_in_time() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("steady", vec![("instance", "n")], &|_| 1.0, 1)]).await;
    browser.open(&format!("{}/explore?query=steady&range=1w", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    let before = browser.eval(ANSWERS).await.as_u64().expect("a number");
    browser.click(".ranges a[data-range='15m']").await;
    // One answer for the click, and one more by itself.
    browser.wait_for(&format!("{ANSWERS} >= {}", before + 2)).await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

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
        window.before = { canvas: find('canvas'), scroll: find('.scroll'), table: find('.scroll table'), when: find('.when').textContent }; })()";
    let is_new = "document.querySelector('figure.graph .scroll table') !== window.before.table";
    browser.eval(remember).await;
    browser.wait_for(is_new).await;
    browser.wait_for("document.querySelector('.when').textContent === window.before.when").await;
    assert_eq!(browser.eval("document.querySelector('figure.graph .scroll') === window.before.scroll").await, json!(true));

    // A mouse that rests on the graph has its cursor still: the chart is the same.
    browser.eval("document.activeElement.blur()").await;
    let place = "(() => { const over = document.querySelector('.u-over'); over.scrollIntoView({ block: 'center', behavior: 'instant' }); \
                 const box = over.getBoundingClientRect(); return [box.x + box.width / 3, box.y + box.height / 2]; })()";
    let place = browser.eval(place).await;
    browser.call("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": place[0], "y": place[1]})).await;
    browser.wait_for("!['', window.before.when].includes(document.querySelector('.when').textContent)").await;
    browser.eval(remember).await;
    browser.wait_for(is_new).await;
    assert_eq!(browser.eval("document.querySelector('figure.graph canvas') === window.before.canvas").await, json!(true));
    assert_eq!(browser.eval("document.querySelector('.when').textContent").await.as_str().map(str::is_empty), Some(false));
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}
