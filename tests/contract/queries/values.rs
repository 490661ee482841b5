//! Values at one time and over time.

use golectra_tests::{Target, on_every_store};
use serde_json::json;

use super::{an_hour_ago, counter, data, gauge, get, pairs, post, write_at};

on_every_store!(values_are_found_at_their_times, the_whole_text_of_answers_is_prometheuss, what_a_query_took_is_told);

async fn values_are_found_at_their_times(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    let client = server.client();
    for (after, load, hits) in [(0, 0.25, 5), (10, 0.5, 0), (20, 1e-7, 7)] {
        write_at(&client, "n1", start + after, &json!([gauge("load", load), counter("hits{code=\"200\"}", hits)])).await;
    }
    write_at(&client, "n2", start + 10, &json!([gauge("load", 2.0)])).await;
    client.post("/updates").idempotency_key(&golectra_tests::key_at((start + 10) * 1_000)).json(&json!([gauge("load", 3.0)])).send().await;
    let at = |after: u64| (start + after).to_string();
    let value = |labels: serde_json::Value, after: u64, value: &str| json!({"metric": labels, "value": [start + after, value]});
    let load = |instance: &str| json!({"__name__": "load", "instance": instance});
    let found = data(&client, "query", &[("query", "load"), ("time", &at(15))]).await;
    let unnamed = json!({"__name__": "load"});
    let expected = [value(unnamed, 15, "3"), value(load("n1"), 15, "0.5"), value(load("n2"), 15, "2")];
    assert_eq!(found, json!({"resultType": "vector", "result": expected}));
    let sum = data(&client, "query", &[("query", "sum(load{instance=\"n1\"})"), ("time", &at(20))]).await;
    assert_eq!(sum["result"], json!([value(json!({}), 20, "1e-07")]));
    let (early, late) = (at(0), at(20));
    for step in ["10", "10s", "0h10s"] {
        let range = [("query", "hits"), ("start", early.as_str()), ("end", late.as_str()), ("step", step)];
        let found = data(&client, "query_range", &range).await;
        let hits = json!({"__name__": "hits", "code": "200", "instance": "n1"});
        let values = [json!([start, "5"]), json!([start + 10, "5"]), json!([start + 20, "12"])];
        assert_eq!(found, json!({"resultType": "matrix", "result": [{"metric": hits, "values": values}]}), "totals, not deltas");
        assert_eq!(post(&client, "query_range", &range).await.expect(200).json()["data"], found);
    }
    // The end of the request, which no step meets.
    let at_end = [("query", "load{instance=\"n1\"} @ end()"), ("start", early.as_str()), ("end", late.as_str()), ("step", "15")];
    let found = data(&client, "query_range", &at_end).await;
    assert_eq!(found["result"][0]["values"], json!([[start, "1e-07"], [start + 15, "1e-07"]]));
    let stored = data(&client, "query", &[("query", "load{instance=\"n1\"}[1m]"), ("time", &at(30))]).await;
    let values = [json!([start, "0.25"]), json!([start + 10, "0.5"]), json!([start + 20, "1e-07"])];
    assert_eq!(stored, json!({"resultType": "matrix", "result": [{"metric": load("n1"), "values": values}]}));
    let nothing = data(&client, "query", &[("query", "load"), ("time", &at(320)), ("lookback_delta", "1m")]).await;
    assert_eq!(nothing["result"], json!([]));
    // Without a time it is now.
    let now = data(&client, "query", &[("query", "time()")]).await["result"][0].as_f64().expect("a time");
    let hour_later = std::time::Duration::from_secs(start + 3_600).as_secs_f64();
    assert!((hour_later..hour_later + 200.0).contains(&now), "{now}");
}

async fn the_whole_text_of_answers_is_prometheuss(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    let client = server.client();
    write_at(&client, "n1", start, &json!([gauge("a{z=\"\\\"é\\n\"}", 1.5)])).await;
    for (query, time, expected) in [
        (
            "a",
            format!("{start}.25"),
            format!(
                "vector\",\"result\":[{{\"metric\":{{\"__name__\":\"a\",\"instance\":\"n1\",\"z\":\"\\\"é\\n\"}},\"value\":[{start}.250,\"1.5\"]}}]"
            ),
        ),
        (
            "a[1s]",
            start.to_string(),
            format!(
                "matrix\",\"result\":[{{\"metric\":{{\"__name__\":\"a\",\"instance\":\"n1\",\"z\":\"\\\"é\\n\"}},\"values\":[[{start},\"1.5\"]]}}]"
            ),
        ),
        ("2", "2015-07-01T22:10:30.781+02:00".to_owned(), "scalar\",\"result\":[1435781430.781,\"2\"]".to_owned()),
        ("\"x\\ty\"", "5".to_owned(), "string\",\"result\":[5,\"x\\ty\"]".to_owned()),
        ("vector(1) / 0", "5".to_owned(), "vector\",\"result\":[{\"metric\":{},\"value\":[5,\"+Inf\"]}]".to_owned()),
        ("vector(NaN)", "0".to_owned(), "vector\",\"result\":[{\"metric\":{},\"value\":[0,\"NaN\"]}]".to_owned()),
    ] {
        let parameters = [("query", query), ("time", time.as_str())];
        let expected = format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"{expected}}}}}");
        let answer = get(&client, "query", &parameters).await.expect(200);
        assert_eq!((answer.text(), answer.header("hashsha256")), (expected.clone(), None), "{query}");
        assert_eq!(post(&client, "query", &parameters).await.expect(200).text(), expected);
        let packed = client.get(&format!("/api/v1/query?{}", pairs(&parameters))).accepts_gzip().send().await.expect(200);
        assert!(packed.is_packed() && packed.text() == expected);
    }
    // Remarks stand beside the data; what a limit cuts is one.
    write_at(&client, "n2", start, &json!([gauge("a", 1.0)])).await;
    let time = start.to_string();
    let cut = get(&client, "query", &[("query", "a"), ("time", &time), ("limit", "1")]).await.expect(200).json();
    assert_eq!(cut["data"]["result"].as_array().map(Vec::len), Some(1));
    assert_eq!(cut["warnings"], json!(["results truncated due to limit"]));
    let info = get(&client, "query", &[("query", "rate(a[1m])"), ("time", &time)]).await.expect(200).json();
    assert!(info["infos"].is_null() || info["infos"].as_array().is_some_and(|infos| !infos.is_empty()), "{info}");
    let warned = get(&client, "query", &[("query", "quantile(2, a)"), ("time", &time)]).await.expect(200).json();
    assert!(warned["warnings"][0].as_str().is_some_and(|text| text.contains("quantile value should be between 0 and 1")), "{warned}");
}

async fn what_a_query_took_is_told(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    let client = server.client();
    write_at(&client, "n1", start, &json!([gauge("a", 1.0)])).await;
    let time = start.to_string();
    for stats in ["true", "all"] {
        let found = data(&client, "query", &[("query", "a"), ("time", &time), ("stats", stats)]).await;
        let told = &found["stats"];
        assert_eq!(told["samples"]["totalQueryableSamples"], 1);
        let seconds = |name: &str| told["timings"][name].as_f64().unwrap_or_else(|| panic!("{name} in {told}"));
        assert!(seconds("execTotalTime") >= seconds("evalTotalTime") && seconds("evalTotalTime") >= seconds("innerEvalTime"));
        assert!(seconds("queryPreparationTime") > 0.0 && seconds("execQueueTime") >= 0.0);
    }
}
