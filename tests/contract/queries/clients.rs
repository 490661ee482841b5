//! What promtool and Grafana's data source ask for.

use std::process::Command;

use golectra_tests::{Server, Target, on_both_stores, skip};
use serde_json::{Value, json};

use super::{an_hour_ago, counter, data, gauge, get, post, write_at};

on_both_stores!(promtool_queries_the_server, grafana_finds_what_it_asks_for);

/// Two nodes with four reports each.
async fn fill(server: &Server, start: u64) {
    let client = server.client();
    for (number, source) in [(1_u32, "n1"), (2, "n2")] {
        for step in 0..4_u32 {
            let batch = json!([gauge("load{job=\"node\"}", f64::from(number * step)), counter("hits_total{job=\"node\"}", number * 60)]);
            write_at(&client, source, start + u64::from(step) * 60, &batch).await;
        }
    }
}

/// What promtool prints.
fn promtool(arguments: &[&str]) -> Option<String> {
    let Ok(output) = Command::new("promtool").arg("query").args(arguments).output() else {
        skip("promtool is not installed; it comes with Debian's package prometheus");
        return None;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {out}{err}");
    Some(out.into_owned())
}

async fn promtool_queries_the_server(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    fill(&server, start).await;
    let url = server.url();
    let (time, early, late) = (format!("--time={}", start + 180), format!("--start={start}"), format!("--end={}", start + 180));
    let Some(instant) = promtool(&["instant", &time, &url, "sum by (instance) (load)"]) else { return };
    let at = format!("@[{}]", start + 180);
    assert_eq!(instant, format!("{{instance=\"n1\"}} => 3 {at}\n{{instance=\"n2\"}} => 6 {at}\n"));
    let range = promtool(&["range", &early, &late, "--step=60s", &url, "load{instance=\"n2\"}"]).expect("it is installed");
    let values: Vec<_> = (0..4).map(|step| format!("{} @[{}]\n", 2 * step, start + 60 * step)).collect();
    assert_eq!(range, format!("load{{instance=\"n2\", job=\"node\"}} =>\n{}", values.concat()));
    let series =
        promtool(&["series", "--match=load", "--match=hits_total{instance=\"n1\"}", &early, &late, &url]).expect("it is installed");
    for expected in [
        "{__name__=\"hits_total\", instance=\"n1\", job=\"node\"}",
        "{__name__=\"load\", instance=\"n1\", job=\"node\"}",
        "{__name__=\"load\", instance=\"n2\", job=\"node\"}",
    ] {
        assert!(series.lines().any(|line| line == expected), "{expected} in {series}");
    }
    assert_eq!(series.lines().count(), 3);
    let labels = promtool(&["labels", &early, &late, &url, "instance"]).expect("it is installed");
    assert_eq!(labels, "n1\nn2\n");
}

async fn grafana_finds_what_it_asks_for(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    fill(&server, start).await;
    let client = server.client();
    let (early, late) = (start.to_string(), (start + 180).to_string());
    // "Save & test": the version, and whether anything answers.
    assert!(data(&client, "status/buildinfo", &[]).await["version"].is_string());
    let answer = post(&client, "query", &[("query", "1+1"), ("time", &late)]).await.expect(200).json();
    assert_eq!(answer["data"], json!({"resultType": "scalar", "result": [start + 180, "2"]}));
    // A panel: a form by POST with times of three digits and a step without a unit.
    let (first, last) = (format!("{start}.000"), format!("{}.000", start + 180));
    let panel = [("query", "rate(hits_total{job=\"node\"}[2m])"), ("start", first.as_str()), ("end", last.as_str()), ("step", "60")];
    let panel = post(&client, "query_range", &panel).await.expect(200).json();
    assert_eq!(panel["data"]["resultType"], "matrix");
    let last = |at: usize| panel["data"]["result"][at]["values"].as_array().and_then(|values| values.last()).cloned();
    assert_eq!((last(0), last(1)), (Some(json!([start + 180, "1"])), Some(json!([start + 180, "2"]))));
    // Its editor: metrics, labels and values within the time of the dashboard, their meaning, and series of one metric.
    let time = [("start", early.as_str()), ("end", late.as_str())];
    assert_eq!(data(&client, "label/__name__/values", &time).await, json!(["hits_total", "load"]));
    let narrow = [("match[]", "{__name__=\"load\"}"), time[0], time[1]];
    assert_eq!(post(&client, "labels", &narrow).await.expect(200).json()["data"], json!(["__name__", "instance", "job"]));
    assert_eq!(data(&client, "label/instance/values", &narrow).await, json!(["n1", "n2"]));
    let series = post(&client, "series", &narrow).await.expect(200).json();
    assert_eq!(series["data"].as_array().map(Vec::len), Some(2));
    let metadata = data(&client, "metadata", &[("limit", "40000")]).await;
    assert_eq!(metadata["node_load1"], json!([{"type": "gauge", "unit": "", "help": metadata["node_load1"][0]["help"]}]));
    // Exemplars of a panel, alerts and rules of the data source.
    let exemplars = [("query", "hits_total"), time[0], time[1]];
    assert_eq!(post(&client, "query_exemplars", &exemplars).await.expect(200).json()["data"], Value::Array(Vec::new()));
    for (path, key) in [("rules", "groups"), ("alerts", "alerts")] {
        assert!(get(&client, path, &[]).await.expect(200).json()["data"][key].is_array(), "{path}");
    }
}
