//! What can't be read or run, and how that is said.

use golectra_tests::{KEY, Store, Target, on_both_stores};
use http::Method;

use super::{error_of, get, pairs, post};

on_both_stores!(
    what_can_not_be_read_is_bad_data,
    wrong_escapes_are_answered_in_the_form_of_the_route,
    what_can_not_be_evaluated_is_an_execution_error,
    forms_are_read_as_forms_only,
    queries_by_post_need_no_signature,
    a_hash_is_checked_where_there_is_one,
    a_wrong_method_is_405,
    a_store_that_is_away_is_503,
);

async fn what_can_not_be_read_is_bad_data(t: Target) {
    let range = [("start", "0"), ("end", "10"), ("step", "1")];
    let with = |name: &'static str, value: &'static str| {
        let mut parameters = vec![("query", "1")];
        parameters.extend(range.iter().map(|(key, standard)| (*key, if *key == name { value } else { standard })));
        parameters
    };
    for (path, parameters, words) in [
        ("query", vec![], r#"invalid parameter "query": 1:1: parse error: no expression found in input"#),
        ("query", vec![("query", "up{")], r#"invalid parameter "query": 1:4: parse error: unexpected end of input"#),
        ("query", vec![("query", "up{a=~\"(\"}")], "unclosed group"),
        ("query", vec![("query", "{}")], "must contain at least one non-empty matcher"),
        ("query", vec![("query", "limitk(1, up)")], "experimental"),
        (
            "query",
            vec![("query", "1"), ("time", "yesterday")],
            r#"invalid parameter "time": cannot parse "yesterday" to a valid timestamp"#,
        ),
        ("query", vec![("query", "1"), ("timeout", "soon")], r#"invalid parameter "timeout": cannot parse "soon" to a valid duration"#),
        ("query", vec![("query", "1"), ("limit", "-1")], r#"invalid parameter "limit": limit must be non-negative"#),
        ("query", vec![("query", "1"), ("lookback_delta", "x")], r#"invalid parameter "lookback_delta""#),
        ("query_range", vec![("query", "1")], r#"invalid parameter "start": cannot parse "" to a valid timestamp"#),
        ("query_range", with("end", "-1"), r#"invalid parameter "end": end timestamp must not be before start time"#),
        ("query_range", with("step", ""), r#"invalid parameter "step": cannot parse "" to a valid duration"#),
        ("query_range", with("step", "0"), "zero or negative query resolution step widths are not accepted. Try a positive integer"),
        ("query_range", with("step", "-5"), "zero or negative query resolution step widths are not accepted"),
        (
            "query_range",
            with("end", "11001"),
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
        (
            "query_range",
            [with("end", "5"), vec![]].concat().into_iter().map(|(k, v)| (k, if k == "query" { "up[5m]" } else { v })).collect(),
            r#"invalid expression type "range vector" for range query, must be Scalar or instant Vector"#,
        ),
        ("series", vec![], "no match[] parameter provided"),
        ("series", vec![("match[]", "up{")], r#"invalid parameter "match[]": 1:4: parse error"#),
        ("series", vec![("match[]", "sum(up)")], r#"invalid parameter "match[]": 1:4: parse error"#),
        ("labels", vec![("match[]", "{a=\"\"}")], "at least one non-empty matcher"),
        (
            "series",
            vec![("match[]", "{a=~\"(b{1000}){20}.*\"}"); 9],
            "the regular expressions of all selectors need more than 8388608 bytes",
        ),
        (
            "rules",
            vec![("match[]", "{a=~\"(b{1000}){20}.*\"}"); 9],
            "the regular expressions of all selectors need more than 8388608 bytes",
        ),
        ("rules", vec![("match[]", "up{")], r#"invalid parameter "match[]": 1:4: parse error"#),
        ("labels", vec![("start", "x")], r#"invalid parameter "start""#),
        ("label/a/values", vec![("end", "x")], r#"invalid parameter "end""#),
        ("metadata", vec![("limit", "x")], r#"invalid parameter "limit""#),
        ("query_exemplars", vec![("query", "up("), ("start", "1"), ("end", "2")], "parse error"),
        ("query_exemplars", vec![("query", "up"), ("start", "2"), ("end", "1")], "end timestamp must not be before start timestamp"),
        ("format_query", vec![("query", "up+")], r#"invalid parameter "query": 1:4: parse error"#),
        ("parse_query", vec![], "no expression found in input"),
    ] {
        let message = error_of(&get(&t, path, &parameters).await.expect(400), "bad_data");
        assert!(message.contains(words), "{path} {parameters:?}: {message}");
    }
    // One more than the most steps is one interval more.
    get(&t, "query_range", &with("end", "11000")).await.expect(200);
}

async fn wrong_escapes_are_answered_in_the_form_of_the_route(t: Target) {
    for path in ["/api/v1/query?query=%FF", "/api/v1/label/%FF/values", "/api/v1/export?match[]=%zz", "/api/v1/rules?type=%2"] {
        let message = error_of(&t.get(path).send().await.expect(400), "bad_data");
        assert!(message.contains("UTF-8"), "{path}: {message}");
    }
    for path in
        ["/api/v1/latest?source=%FF", "/api/v1/sources?a=%zz", "/api/v1/snapshot?%", "/api/v1/silences?a=%FF", "/api/v1/receivers?%2"]
    {
        let message = t.get(path).send().await.expect(400).error();
        assert!(message.contains("UTF-8"), "{path}: {message}");
    }
    for (method, path) in [("DELETE", "/api/v1/sources/%FF"), ("DELETE", "/api/v1/silences/%FF"), ("POST", "/api/v1/receivers/%FF/test")] {
        t.request(method.parse().expect("a method"), path).send().await.expect(400).error();
    }
    for path in ["/update?a=%FF", "/updates?a=%FF", "/value?a=%FF"] {
        t.post(path).json(&serde_json::json!({"id": "a", "type": "gauge", "value": 1})).send().await.expect(400).error();
    }
    for path in ["/%FF", "/ping?a=%FF", "/node?name=%FF"] {
        assert_eq!(t.get(path).send().await.expect(400).media_type(), "text/plain", "{path}");
    }
}

async fn what_can_not_be_evaluated_is_an_execution_error(t: Target) {
    for (query, words) in [
        ("vector(1) + on () group_left () label_replace(vector(1), \"a\", \"b\", \"c\", \"(\")", "label_replace"),
        ("label_replace(vector(1), \"\", \"b\", \"c\", \"d\")", "label"),
        ("sum_over_time(vector(1)[1d:1ms])", "more than the 1000000 that are allowed"),
    ] {
        let message = error_of(&post(&t, "query", &[("query", query)]).await.expect(422), "execution");
        assert!(message.contains(words), "{query}: {message}");
    }
}

async fn forms_are_read_as_forms_only(t: Target) {
    let query = |kind: &'static str, body: &'static str| t.post("/api/v1/query").header("content-type", kind).body(body);
    for kind in ["application/x-www-form-urlencoded", "Application/X-WWW-Form-urlencoded; charset=utf-8"] {
        query(kind, "query=1%2B1").send().await.expect(200);
    }
    let packed = query("application/x-www-form-urlencoded", "query=1%2B1").gzip();
    assert_eq!(packed.send().await.expect(200).json()["data"]["result"][1], "2");
    let message = error_of(&query("application/json", "{\"query\":\"1\"}").send().await.expect(400), "bad_data");
    assert!(message.contains("application/x-www-form-urlencoded"), "{message}");
    for body in ["query=%zz", "query=%FF"] {
        let message = error_of(&query("application/x-www-form-urlencoded", body).send().await.expect(400), "bad_data");
        assert!(message.contains("UTF-8"), "{message}");
    }
    // A form's values go before those of the URL, as in Prometheus, and a URL alone will do.
    let both = t.post("/api/v1/query?query=2&time=5").header("content-type", "application/x-www-form-urlencoded").body("query=1");
    assert_eq!(both.send().await.expect(200).json()["data"]["result"], serde_json::json!([5, "1"]));
    assert_eq!(t.post("/api/v1/query?query=2&time=5").send().await.expect(200).json()["data"]["result"][1], "2");
}

async fn queries_by_post_need_no_signature(t: Target) {
    let server = t.own().key(Some(KEY)).env("SIGNATURES", "required").start();
    let client = server.client();
    client.post("/updates").json(&serde_json::json!([])).send().await.expect(401);
    for path in ["query", "query_range", "format_query"] {
        post(&client, path, &[("query", "1"), ("start", "0"), ("end", "1"), ("step", "1")]).await.expect(200);
    }
    let signed = client.post("/api/v1/query").header("content-type", "application/x-www-form-urlencoded").body("query=1");
    signed.clone().signed("default", KEY).send().await.expect(200);
    error_of(&signed.signed("default", "another key").send().await.expect(401), "bad_data");
}

async fn a_hash_is_checked_where_there_is_one(t: Target) {
    let server = t.own().key(Some(KEY)).start();
    let client = server.client();
    let form = client.post("/api/v1/query").header("content-type", "application/x-www-form-urlencoded").body("query=1");
    form.clone().send().await.expect(200);
    form.clone().unsigned().send().await.expect(200);
    let wrong = form.header("hashsha256", "00".repeat(32)).send().await.expect(400);
    assert_eq!(error_of(&wrong, "bad_data"), "invalid hash");
}

async fn a_wrong_method_is_405(t: Target) {
    for (path, allowed) in
        [("/api/v1/query", "GET,HEAD,POST"), ("/api/v1/labels", "GET,HEAD,POST"), ("/api/v1/rules", "GET,HEAD"), ("/-/ready", "GET,HEAD")]
    {
        let answer = t.request(Method::DELETE, path).send().await.expect(405);
        assert_eq!((answer.header("allow"), answer.text().as_str()), (Some(allowed), "method not allowed"));
    }
    t.get("/api/v1/label//values").send().await.expect(404);
    t.get(&format!("/api/v1/query/?{}", pairs(&[("query", "1")]))).send().await.expect(200);
}

async fn a_store_that_is_away_is_503(t: Target) {
    if t.store() == Store::Memory {
        return;
    }
    let server = golectra_tests::Server::builder().env("DATABASE_DSN", "postgres://nobody@127.0.0.1:1/none").start_alive();
    let client = server.client();
    for (path, parameters) in [("query", vec![("query", "up")]), ("labels", vec![]), ("series", vec![("match[]", "up")])] {
        let answer = get(&client, path, &parameters).await.expect(503);
        assert!(answer.header("retry-after").is_some());
        let message = error_of(&answer, "unavailable");
        assert!(message.contains("the store is unavailable") && !message.contains("127.0.0.1"), "{message}");
    }
    client.get("/-/ready").send().await.expect(503);
    client.get("/-/healthy").send().await.expect(200);
    get(&client, "query", &[("query", "1 + 1")]).await.expect(200);
}
