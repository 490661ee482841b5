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

/// Lines that come or go make another chart of a graph. A mouse that rests on it does not move the cursor of that.
#[tokio::test]
async fn a_graph_with_other_lines_keeps_its_cursor() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let left = |left: i64| f64::from(i32::try_from(left).unwrap_or_default());
    write(&server, &[("countdown", vec![("instance", "a")], &left, 1)]).await;
    browser.show(1280, "light").await;
    // A range that has ended is not drawn anew by itself.
    let end = i64::try_from(unix_millis() / 1000).expect("the clock is before the year 292278994") - 300;
    let range = |end: i64| format!("/explore?query=countdown&from={}&to={end}", end - 3_600);
    browser.open(&format!("{}{}", server.url(), range(end))).await;
    browser.wait_for(&format!("{COLOURED} > 0")).await;
    let point = "(() => { const over = document.querySelector('.u-over'); const box = over.getBoundingClientRect(); \
                 over.dispatchEvent(new MouseEvent('mousemove', { bubbles: true, clientX: box.x + box.width / 3, clientY: box.y + box.height / 2 })); })()";
    browser.eval(point).await;
    browser.wait_for("document.querySelector('.when').textContent").await;
    let remember = "(() => { const find = (selector) => document.querySelector(`figure.graph ${selector}`); \
        window.before = { canvas: find('canvas'), when: find('.when').textContent, value: find('.legend b').textContent }; })()";
    browser.eval(remember).await;
    write(&server, &[("countdown", vec![("instance", "b")], &|_| 7.0, 1)]).await;
    // The same time is somewhere else in a range that ends a minute later.
    let later = json!(range(end + 60));
    browser.eval(&format!("history.replaceState(null, '', {later}); window.dispatchEvent(new PopStateEvent('popstate'))")).await;
    browser.wait_for("document.querySelectorAll('.legend b').length === 2").await;
    browser.wait_for("document.querySelector('.when').textContent === window.before.when").await;
    assert_eq!(browser.eval("document.querySelector('figure.graph canvas') === window.before.canvas").await, json!(false), "another chart");
    let values = browser.eval("[...document.querySelectorAll('.legend b')].map((one) => one.textContent)").await;
    let before = browser.eval("window.before.value").await;
    assert_eq!(values, json!([before, "7"]), "the values at the cursor");
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// All graphs of a page have one cursor, for the keyboard as for the mouse.
#[tokio::test]
async fn the_keyboard_moves_the_cursors_of_all_graphs() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let node = || vec![("instance", "n")];
    write(
        &server,
        &[
            ("node_memory_MemTotal_bytes", node(), &|_| 4.0, 1),
            ("node_memory_MemAvailable_bytes", node(), &|_| 1.0, 1),
            ("node_load1", node(), &|_| 1.0, 1),
        ],
    )
    .await;
    browser.show(1280, "light").await;
    browser.open(&format!("{}/node?name=n&range=15m", server.url())).await;
    let are_drawn = "document.querySelectorAll('figure.graph canvas').length >= 2 && !document.querySelector('.plot.busy')";
    browser.wait_for(are_drawn).await;
    let once = browser.eval(ANSWERS).await.as_u64().expect("a number");
    browser.eval("document.querySelector('figure.graph .plot').focus()").await;
    let times = "[...document.querySelectorAll('.when')].map((one) => one.textContent).filter(Boolean)";
    browser.press("ArrowLeft", false).await;
    browser.wait_for(&format!("{times}.length >= 2")).await;
    browser.press("Escape", false).await;
    browser.wait_for(&format!("{times}.length === 0")).await;

    // All of them stay at that time when they are drawn anew.
    for _ in 0..5 {
        browser.press("ArrowLeft", false).await;
    }
    browser.wait_for(&format!("{times}.length >= 2 && new Set({times}).size === 1")).await;
    let before = browser.eval(times).await;
    let so_far = browser.eval(ANSWERS).await.as_u64().expect("a number");
    browser.wait_for(&format!("{ANSWERS} >= {} && {are_drawn}", so_far + once)).await;
    assert_eq!(browser.eval(times).await, before);

    // When the focus leaves the graph, so does the cursor that the keyboard has moved. In the next graph it goes on from there.
    browser.eval("document.activeElement.blur()").await;
    browser.wait_for(&format!("{times}.length === 0")).await;
    browser.eval("document.querySelectorAll('figure.graph .plot')[1].focus()").await;
    browser.press("ArrowRight", false).await;
    browser.press("ArrowLeft", false).await;
    browser.wait_for(&format!("{times}.length >= 2")).await;
    assert_eq!(browser.eval(times).await, before);
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// A range that has ended is not asked for again by itself, unless there was no answer.
#[tokio::test]
async fn a_graph_is_drawn_when_the_server_answers_again() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("steady", vec![("instance", "n")], &|_| 1.0, 1)]).await;
    let end = unix_millis() / 1000;
    browser.open(&format!("{}/explore?query=steady&from={}&to={end}", server.url(), end - 3_600)).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    let problem = "document.querySelector('figure.graph .note').textContent";
    let fail = "(() => { window.real = window.fetch; \
                window.fetch = (...asked) => (String(asked[0]).includes('query_range') ? Promise.reject(new TypeError('Failed to fetch')) : window.real(...asked)); \
                window.dispatchEvent(new PopStateEvent('popstate')); })()";
    browser.eval(fail).await;
    browser.wait_for(&format!("{problem} === 'The server does not answer.'")).await;
    browser.eval("window.fetch = window.real; document.dispatchEvent(new Event('golectra:refresh'))").await;
    browser.wait_for(&format!("{problem} === ''")).await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// Runs before the scripts of a page: what is drawn anew every ten seconds is drawn anew every half second, and an answer takes three times as long. Counts the
/// questions that were given up.
const SLOW_ANSWERS: &str = "(() => { const [later, ask] = [window.setTimeout, window.fetch]; window.given_up = 0; \
    window.setTimeout = (work, ms, ...more) => later(work, ms === 10000 ? 500 : ms, ...more); \
    window.fetch = async (...asked) => { \
        if (String(asked[0]).includes('query_range')) { \
            await new Promise((resolve) => later(resolve, 1500)); \
            if (asked[1].signal.aborted) window.given_up += 1; \
        } \
        return ask(...asked); \
    }; })()";

/// An answer may take longer than the time after which a graph is drawn anew. Only another range does not wait for it.
#[tokio::test]
async fn a_graph_is_drawn_where_answers_are_slow() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("steady", vec![("instance", "n")], &|_| 1.0, 1)]).await;
    browser.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": SLOW_ANSWERS})).await;
    browser.open(&format!("{}/explore?query=steady&range=15m", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    browser.wait_for(&format!("{ANSWERS} >= 2")).await;
    assert_eq!(browser.eval("window.given_up").await, json!(0));
    let click = "new Promise((resolve) => { const look = () => { if (!document.querySelector('.plot.busy')) { setTimeout(look, 20); return; } \
                 document.querySelector('.ranges a[data-range=\"1h\"]').click(); resolve(true); }; look(); })";
    browser.eval(click).await;
    browser.wait_for("window.given_up > 0 && !document.querySelector('.plot.busy')").await;
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// Graphs of a day have values at multiples of a quarter of an hour and more, and those of months are made of whole hours: what a server that has just started
/// knows comes after the last one.
#[tokio::test]
async fn what_began_a_moment_ago_is_on_the_graph_of_a_day_and_of_years() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("young", vec![("instance", "n")], &|left| if left == 1 { 1.0 } else { f64::NAN }, 1)]).await;
    for range in ["1d", "90d", "1y", "2y"] {
        browser.open(&format!("{}/explore?query=young&range={range}", server.url())).await;
        browser.wait_for("document.querySelector('figure.graph canvas')").await;
        assert_eq!(browser.eval("document.querySelector('figure.graph .note').textContent").await, json!(""), "{range}");
        assert_eq!(browser.eval("document.querySelector('.legend b')?.textContent").await, json!("1"), "{range}");
    }
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// Without a cursor the legend has the newest values. One of long ago is not that of now.
#[tokio::test]
async fn a_line_that_has_ended_has_the_time_of_its_value_and_comes_last() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    let ended = |left: i64| if left < 40 { f64::NAN } else { 7.0 };
    write(&server, &[("level", vec![("instance", "a")], &ended, 1), ("level", vec![("instance", "b")], &|_| 3.0, 1)]).await;
    browser.show(1280, "light").await;
    browser.open(&format!("{}/explore?query=level&range=1h", server.url())).await;
    browser.wait_for("document.querySelectorAll('.legend li').length === 2").await;
    let legend = browser.eval("[...document.querySelectorAll('.legend li')].map((one) => one.textContent)").await;
    let lines: Vec<_> = legend.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(lines[0].contains("\"b\"") && lines[0].ends_with("}3"), "{lines:?}");
    assert!(lines[1].contains("\"a\"") && lines[1].contains("}7 at "), "{lines:?}");
    assert_eq!(browser.eval("[...document.querySelectorAll('.legend b')].map((one) => one.className)").await, json!(["", "old"]));
    let spoken = browser.eval("document.querySelector('figure.graph .plot').getAttribute('aria-label')").await;
    let spoken = spoken.as_str().expect("text");
    assert!(spoken.find("} 3").is_some_and(|at| spoken[at..].contains("} 7 at ")), "{spoken}");

    // At the cursor both have the values of its time.
    browser.eval("document.querySelector('figure.graph .plot').focus()").await;
    browser.press("Home", false).await;
    browser.wait_for("document.querySelector('.when').textContent").await;
    let values = browser.eval("[...document.querySelectorAll('.legend b')].map((one) => one.textContent)").await;
    assert_eq!(values, json!(["3", "7"]));
    assert_eq!(browser.said(), [] as [String; 0], "the console");
}

/// A line below zero lies on no edge of its graph: the grid ends there.
#[tokio::test]
async fn a_graph_of_what_is_below_zero_has_zero_at_its_top() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = Server::builder().start();
    write(&server, &[("debt", vec![("instance", "n")], &|_| -5.0, 1)]).await;
    browser.show(1280, "light").await;
    browser.open(&format!("{}/explore?query=debt&range=1h", server.url())).await;
    browser.wait_for("document.querySelector('figure.graph canvas')").await;
    // The line is in the lower half. It was on the lower edge before, as zero was not on the scale.
    let rows = "(() => { const canvas = document.querySelector('figure.graph canvas'); \
        const { data } = canvas.getContext('2d').getImageData(canvas.width / 2, 0, 1, canvas.height); const rows = []; \
        for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 150 && Math.abs(data[at + 1] - data[at]) > 40) rows.push(at / 4 / canvas.height); return rows; })()";
    browser.wait_for(&format!("{rows}.length > 0")).await;
    let rows = browser.eval(rows).await;
    let rows: Vec<_> = rows.as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
    assert!(rows.iter().all(|row| (0.5..0.9).contains(row)), "{rows:?}");
}
