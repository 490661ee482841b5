//! Series and labels, and what the server tells about itself.

use golectra_tests::{Target, on_both_stores};
use http::Method;
use serde_json::{Value, json};

use super::{an_hour_ago, data, gauge, get, post, write_at};

on_both_stores!(
    series_and_labels_are_listed,
    a_limit_cuts_lists,
    what_there_is_none_of_is_empty,
    the_server_tells_about_itself,
    queries_are_formatted_and_parsed
);

async fn series_and_labels_are_listed(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    let client = server.client();
    write_at(
        &client,
        "n1",
        start,
        &json!([gauge("cpu{mode=\"idle\"}", 1.0), gauge("cpu{mode=\"user\"}", 1.0), gauge("{\"m.x\",\"k.l_\"=\"v\"}", 1.0)]),
    )
    .await;
    write_at(&client, "n2", start, &json!([gauge("cpu{mode=\"idle\"}", 1.0)])).await;
    let cpu = |mode: &str, instance: &str| json!({"__name__": "cpu", "mode": mode, "instance": instance});
    for selector in ["cpu{mode=\"idle\"}", "{__name__=~\"c.u\",mode!=\"user\"}"] {
        assert_eq!(data(&client, "series", &[("match[]", selector)]).await, json!([cpu("idle", "n1"), cpu("idle", "n2")]));
    }
    let union = [("match[]", "cpu{mode=\"user\"}"), ("match[]", "cpu{instance=\"n1\"}"), ("match[]", "nothing")];
    assert_eq!(data(&client, "series", &union).await, json!([cpu("idle", "n1"), cpu("user", "n1")]));
    assert_eq!(post(&client, "series", &union).await.expect(200).json()["data"].as_array().map(Vec::len), Some(2));
    let (near, later) = ((start - 60).to_string(), (start + 60).to_string());
    assert_eq!(data(&client, "series", &[("match[]", "cpu"), ("start", &near), ("end", &later)]).await.as_array().map(Vec::len), Some(3));
    assert_eq!(data(&client, "series", &[("match[]", "cpu"), ("start", &later), ("end", &near)]).await, json!([]), "as in Prometheus");
    assert_eq!(data(&client, "labels", &[]).await, json!(["__name__", "instance", "k.l_", "mode"]));
    assert_eq!(data(&client, "labels", &[("match[]", "cpu")]).await, json!(["__name__", "instance", "mode"]));
    assert_eq!(post(&client, "labels", &[("match[]", "cpu")]).await.expect(200).json()["data"], json!(["__name__", "instance", "mode"]));
    for (name, parameters, values) in [
        ("__name__", &[][..], json!(["cpu", "m.x"])),
        ("instance", &[("match[]", "{mode=\"idle\"}")], json!(["n1", "n2"])),
        ("instance", &[("match[]", "{mode=\"user\"}")], json!(["n1"])),
        ("k.l_", &[], json!(["v"])),
        ("U__k_2e_l__", &[], json!(["v"])),
        ("k%2El_", &[], json!(["v"])),
        ("nothing", &[], json!([])),
    ] {
        assert_eq!(data(&client, &format!("label/{name}/values"), parameters).await, values, "{name}");
    }
}

async fn a_limit_cuts_lists(t: Target) {
    let (server, start) = (t.own().env("QUERY_MAX_SERIES", "3").start(), an_hour_ago());
    let client = server.client();
    let batch: Value = (0..5).map(|number| gauge(&format!("m{{n=\"{number}\"}}"), 1.0)).collect();
    write_at(&client, "n1", start, &batch).await;
    let by_request = json!(["results truncated due to limit"]);
    let by_server = json!(["results truncated at 3 series (QUERY_MAX_SERIES)"]);
    for (limit, length, warnings) in [("2", 2, &by_request), ("0", 3, &by_server), ("", 3, &by_server), ("9", 3, &by_server)] {
        let json = get(&client, "series", &[("match[]", "m"), ("limit", limit)]).await.expect(200).json();
        assert_eq!((json["data"].as_array().map(Vec::len), &json["warnings"]), (Some(length), warnings), "{limit}");
    }
    let json = get(&client, "label/n/values", &[("limit", "2")]).await.expect(200).json();
    assert_eq!((&json["data"], &json["warnings"]), (&json!(["0", "1"]), &by_request));
    let json = get(&client, "labels", &[("limit", "2")]).await.expect(200).json();
    assert_eq!((&json["data"], &json["warnings"]), (&json!(["__name__", "instance"]), &by_request));
}

async fn what_there_is_none_of_is_empty(t: Target) {
    for (path, expected) in
        [("metadata?metric=nothing&limit=5&limit_per_metric=1", json!({})), ("query_exemplars?query=up&start=1&end=2", json!([]))]
    {
        let json = t.get(&format!("/api/v1/{path}")).send().await.expect(200).json();
        assert_eq!(json, json!({"status": "success", "data": expected}), "{path}");
    }
}

async fn the_server_tells_about_itself(t: Target) {
    let (server, start) = (t.own().env("QUERY_TIMEOUT", "90s").env("QUERY_CONCURRENCY", "3").start(), an_hour_ago());
    let client = server.client();
    write_at(&client, "n1", start, &json!([gauge("m{n=\"0\"}", 1.0), gauge("m{n=\"1\"}", 1.0), gauge("o", 1.0)])).await;
    let build = data(&client, "status/buildinfo", &[]).await;
    assert!(build["version"].as_str().is_some_and(|version| version.starts_with("3.")), "Grafana asks for what this version has: {build}");
    assert_eq!(build["application"], "golectra");
    let runtime = data(&client, "status/runtimeinfo", &[]).await;
    let started = runtime["startTime"].as_str().expect("a time");
    assert!(started.ends_with('Z') && started <= runtime["serverTime"].as_str().expect("a time"), "{runtime}");
    assert!(runtime["storageRetention"].as_str().is_some_and(|retention| retention.ends_with(['h', 'd'])), "{runtime}");
    let flags = json!({
        "query.lookback-delta": "5m",
        "query.max-concurrency": "3",
        "query.timeout": "1m30s",
        "storage.tsdb.retention.time": runtime["storageRetention"],
        "web.enable-remote-write-receiver": "true",
    });
    assert_eq!(data(&client, "status/flags", &[]).await, flags);
    // The server of a test evaluates no rules.
    assert_eq!(data(&client, "status/config", &[]).await, json!({"yaml": "global:\n  evaluation_interval: 0s\n"}));
    let tsdb = data(&client, "status/tsdb", &[("limit", "2")]).await;
    assert_eq!(tsdb["headStats"], json!({"numSeries": 3, "numLabelPairs": 5}));
    assert_eq!(tsdb["seriesCountByMetricName"], json!([{"name": "m", "value": 2}, {"name": "o", "value": 1}]));
    assert_eq!(tsdb["labelValueCountByLabelName"], json!([{"name": "__name__", "value": 2}, {"name": "n", "value": 2}]));
    assert_eq!(tsdb["seriesCountByLabelValuePair"][0], json!({"name": "instance=n1", "value": 3}));
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(client.get(path).send().await.expect(200).media_type(), "text/plain");
        client.request(Method::HEAD, path).send().await.expect(200);
    }
    // A subquery that gives no step has this interval, or a minute.
    let subquery = [("query", "count_over_time(vector(1)[5m:])")];
    assert_eq!(data(&client, "query", &subquery).await["result"][0]["value"][1], "5");
    let server = server.restart_with(&[("EVALUATION_INTERVAL", "30s")]);
    let client = server.client();
    assert_eq!(data(&client, "status/config", &[]).await, json!({"yaml": "global:\n  evaluation_interval: 30s\n"}));
    assert_eq!(data(&client, "query", &subquery).await["result"][0]["value"][1], "10");
}

async fn queries_are_formatted_and_parsed(t: Target) {
    for (query, pretty) in [("sum(x)by(a)", "sum by (a) (x)"), ("x  +  y", "x + y")] {
        assert_eq!(data(&t, "format_query", &[("query", query)]).await, pretty);
        assert_eq!(post(&t, "format_query", &[("query", query)]).await.expect(200).json()["data"], pretty);
    }
    let tree = data(&t, "parse_query", &[("query", "-x offset 5m")]).await;
    assert_eq!((&tree["type"], &tree["op"], &tree["expr"]["type"]), (&json!("unaryExpr"), &json!("-"), &json!("vectorSelector")));
    assert_eq!(tree["expr"]["offset"], 300_000);
    assert_eq!(tree["expr"]["matchers"], json!([{"name": "__name__", "value": "x", "type": "="}]));
}
