//! GET /api/v1/latest: series with their newest values.

use std::time::{Duration, Instant};

use golectra_tests::{Client, Raw, Server, Target, encode, on_both_stores, on_every_store, until};
use serde_json::{Value, json};

on_every_store!(series_are_listed_and_filtered, a_long_listing_is_sorted, the_limit_counts_matching_series);

on_both_stores!(
    series_are_selected_by_their_labels,
    several_selectors_select_the_union,
    an_invalid_selector_is_400,
    an_invalid_query_is_400,
    a_listing_is_packed_if_the_client_accepts_gzip,
    a_listing_works_with_http_1_0,
    the_memory_of_many_slow_readers_is_bounded,
);

/// The memory that listings may take, plus a margin for other changes of the server's memory.
const MEMORY_BOUND: u64 = (16 + 16) << 20;

async fn put(t: &Client, source: &str, batch: &Value) {
    t.post("/updates").source(source).json(batch).send().await.expect(200);
}

/// The series of a listing, each as `source id type value`, and whether it is truncated.
async fn listed(client: &Client, query: &str) -> (Vec<String>, bool) {
    let answer = client.get(&format!("/api/v1/latest{query}")).send().await.expect(200);
    assert_eq!(answer.media_type(), "application/json");
    read(&answer.json())
}

fn read(json: &Value) -> (Vec<String>, bool) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let one = |one: &Value| {
        let value = if one["type"] == "gauge" { &one["value"] } else { &one["delta"] };
        format!("{} {} {} {}", text(&one["source"]), text(&one["id"]), text(&one["type"]), text(value))
    };
    (json["series"].as_array().expect("an array").iter().map(one).collect(), json["truncated"].as_bool().expect("a boolean"))
}

/// A query string with its values escaped.
fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    format!("?{}", pairs.join("&"))
}

/// Writes this many gauges `name{n="…"}` of a source, whose values are their numbers.
async fn fill(client: &Client, source: &str, name: &str, many: usize) {
    let numbers: Vec<usize> = (0..many).collect();
    for part in numbers.chunks(1_000) {
        let batch: Value = part.iter().map(|n| json!({"id": format!("{name}{{n=\"{n:06}\"}}"), "type": "gauge", "value": n})).collect();
        put(client, source, &batch).await;
    }
}

/// Writes series whose listing has 10 MB: more than the socket buffers of both ends hold.
async fn fill_with_long_ids(client: &Client) {
    let long = "x".repeat(150);
    for source in 0..10 {
        for part in 0..4 {
            let id = |n: usize| format!("m{{n=\"{part}-{n}\",text=\"{long}\"}}");
            let batch = (0..1_000).map(|n| json!({"id": id(n), "type": "gauge", "value": n}));
            put(client, &format!("s{source}"), &batch.collect()).await;
        }
    }
}

async fn series_are_listed_and_filtered(t: Target) {
    let server = t.own().start();
    let client = server.client();
    let load = |value: f64| json!({"id": "load", "type": "gauge", "value": value});
    let hits = |code: i32, delta: i32| json!({"id": format!("hits{{code=\"{code}\"}}"), "type": "counter", "delta": delta});
    put(&client, "one", &json!([load(0.25), hits(200, 5)])).await;
    put(&client, "two", &json!([load(0.5), hits(500, 1)])).await;
    put(&client, "one", &json!([hits(200, 5)])).await;
    client.updates(&json!([load(1.0)])).await.expect(200);
    let unnamed = [" load gauge 1.0"];
    let one = ["one hits{code=\"200\"} counter 10", "one load gauge 0.25"];
    let two = ["two hits{code=\"500\"} counter 1", "two load gauge 0.5"];
    for (query, expected) in [
        (String::new(), [unnamed.as_slice(), &one, &two].concat()),
        ("?source=one".into(), one.to_vec()),
        ("?source=".into(), unnamed.to_vec()),
        ("?name=load".into(), vec![unnamed[0], one[1], two[1]]),
        ("?name=hits".into(), vec![one[0], two[0]]),
        (query(&[("name", "hits{code=\"500\"}")]), vec![two[0]]),
        ("?source=two&name=load".into(), vec![two[1]]),
        ("?source=two&name=".into(), two.to_vec()),
        ("?source=nobody".into(), vec![]),
        ("?name=nothing".into(), vec![]),
    ] {
        assert_eq!(listed(&client, &query).await, (expected.into_iter().map(str::to_owned).collect(), false), "{query}");
    }
    let json = client.get("/api/v1/latest?source=two").send().await.expect(200).json();
    let fields = |one: &Value| one.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&json["series"][0]), ["at", "delta", "id", "source", "type"]);
    assert_eq!(fields(&json["series"][1]), ["at", "id", "source", "type", "value"]);
    assert!(json["series"][0]["at"].as_str().is_some_and(|at| at.len() == 24 && at.ends_with('Z')), "{json}");
}

async fn a_long_listing_is_sorted(t: Target) {
    let server = t.own().start();
    let client = server.client();
    // Pages of the store end after 1,000 series, within a source and between two sources.
    for (source, many) in [("b", 2_345), ("a", 1_000), ("c", 1)] {
        fill(&client, source, "m", many).await;
    }
    put(&client, "b", &json!([{"id": "m{n=\"000007\"}", "type": "counter", "delta": 5}])).await;
    let (series, truncated) = listed(&client, "").await;
    assert!(!truncated);
    let gauges = |source: &'static str, numbers: std::ops::Range<usize>| {
        numbers.map(move |n| format!("{source} m{{n=\"{n:06}\"}} gauge {n}.0")).collect::<Vec<_>>()
    };
    let counter = vec!["b m{n=\"000007\"} counter 5".to_owned()];
    let expected = [gauges("a", 0..1_000), gauges("b", 0..8), counter, gauges("b", 8..2_345), gauges("c", 0..1)].concat();
    assert!(series == expected, "{} series of {}", series.len(), expected.len());
}

async fn the_limit_counts_matching_series(t: Target) {
    let server = t.own().start();
    let client = server.client();
    // The series before the matching ones fill more than a page.
    fill(&client, "a", "other", 2_500).await;
    fill(&client, "b", "wanted", 10).await;
    for (limit, many, truncated) in [("1", 1, true), ("9", 9, true), ("10", 10, false), ("11", 10, false), ("0", 10, false)] {
        for query in [query(&[("name", "wanted"), ("limit", limit)]), query(&[("match[]", "wanted"), ("limit", limit)])] {
            let (series, cut) = listed(&client, &query).await;
            assert_eq!((series.len(), cut), (many, truncated), "{query}");
            assert!(series.iter().all(|one| one.starts_with("b wanted")), "{series:?}");
        }
    }
    let (all, truncated) = listed(&client, "?limit=2501").await;
    assert_eq!((all.len(), truncated), (2_501, true));
}

async fn series_are_selected_by_their_labels(t: Target) {
    let server = t.own().start();
    let client = server.client();
    let gauge = |id: &str| json!({"id": id, "type": "gauge", "value": 1});
    for source in ["n1", "n2"] {
        let ids = ["mem", "mem{pod=\"web-1\"}", "mem{pod=\"web-2\"}", "mem{pod=\"db-1\"}", "memory{pod=\"web-1\"}"];
        put(&client, source, &ids.map(gauge).into_iter().collect()).await;
    }
    put(&client, "n1", &json!([gauge("{\"t.°C\",\"k.l\"=\"é\"}"), gauge("odd{"), gauge("mem{instance=\"own\"}")])).await;
    for (selector, expected) in [
        ("mem{pod=~\"web-.*\",instance=\"n1\"}", vec!["n1 mem{pod=\"web-1\"}", "n1 mem{pod=\"web-2\"}"]),
        ("{__name__=\"mem\",pod!=\"\",pod!~'web.+'}", vec!["n1 mem{pod=\"db-1\"}", "n2 mem{pod=\"db-1\"}"]),
        ("{__name__=~\"mem.+\", instance=~`.2`}", vec!["n2 memory{pod=\"web-1\"}"]),
        ("mem{pod=\"\"}", vec!["n1 mem", "n1 mem{instance=\"own\"}", "n2 mem"]),
        ("mem{instance=\"own\"}", vec!["n1 mem{instance=\"own\"}"]),
        ("{\"t.°C\",\"k.l\"=\"\\u00e9\"}", vec!["n1 {\"t.°C\",\"k.l\"=\"é\"}"]),
        ("{\"odd{\"}", vec!["n1 odd{"]),
        ("{pod=\"web-1\",__name__!=\"mem\"}", vec!["n1 memory{pod=\"web-1\"}", "n2 memory{pod=\"web-1\"}"]),
        ("nothing", vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|series| format!("{series} gauge 1.0")).collect();
        assert_eq!(listed(&client, &query(&[("match[]", selector)])).await, (expected, false), "{selector}");
    }
    let both = query(&[("match[]", "{pod=\"web-1\"}"), ("source", "n2"), ("name", "mem")]);
    assert_eq!(listed(&client, &both).await.0, ["n2 mem{pod=\"web-1\"} gauge 1.0"], "all conditions hold");
}

async fn several_selectors_select_the_union(t: Target) {
    let server = t.own().start();
    let client = server.client();
    for source in ["a", "b"] {
        fill(&client, source, "x", 1_100).await;
        fill(&client, source, "y", 3).await;
    }
    let (series, _) = listed(&client, &query(&[("match[]", "y"), ("match[]", "{n=~\"00000[12]\"}"), ("match[]", "nothing")])).await;
    let of = |source: &str| {
        [("x", 1), ("x", 2), ("y", 0), ("y", 1), ("y", 2)].map(|(name, n)| format!("{source} {name}{{n=\"{n:06}\"}} gauge {n}.0"))
    };
    assert_eq!(series, [of("a"), of("b")].concat(), "sorted, without duplicates");
    let all = listed(&client, &query(&[("match[]", "x"), ("match[]", "{n!=\"\"}"), ("limit", "2205")])).await;
    assert_eq!((all.0.len(), all.1), (2_205, true));
}

async fn an_invalid_selector_is_400(t: Target) {
    for (selector, words) in [
        ("", "at character 1: expected a metric's name or '{', found the end"),
        ("mem{pod=web}", "at character 9: expected a text in quotes, found 'w'"),
        ("mem{pod=\"a\"", "at character 12: expected ',' or '}', found the end"),
        ("mem[5m]", "at character 4: expected the end of the selector, found '['"),
        ("mem{pod=~\"(\"}", "invalid regular expression \"(\": unclosed group"),
        ("{}", "at least one condition must not match the empty text"),
        ("{pod=~\".*\"}", "at least one condition must not match the empty text"),
        (&"m".repeat(9_000), "at most 8192 are allowed"),
    ] {
        let answer = t.get(&format!("/api/v1/latest{}", query(&[("match[]", selector)]))).send().await.expect(400);
        assert_eq!(answer.json()["code"], "bad_selector", "{selector}");
        assert!(answer.error().contains(words), "{selector}: {}", answer.error());
    }
    let conditions = format!("m{{{}}}", ["a=\"1\""; 9].join(","));
    for many in [vec![("match[]", "m"); 9], vec![("match[]", conditions.as_str()); 2]] {
        let answer = t.get(&format!("/api/v1/latest{}", query(&many))).send().await.expect(400);
        assert!(answer.json()["code"] == "bad_selector" && answer.error().contains("at most 8 selectors"), "{answer:?}");
    }
}

async fn an_invalid_query_is_400(t: Target) {
    for (query, code) in [
        ("?source=a%20b", "invalid_source"),
        ("?limit=-1", "malformed"),
        ("?limit=many", "malformed"),
        ("?limit=", "malformed"),
        ("?limit=1&limit=2", "malformed"),
        ("?name=a&name=b", "malformed"),
        ("?source=a&source=", "malformed"),
    ] {
        let answer = t.get(&format!("/api/v1/latest{query}")).send().await.expect(400);
        assert_eq!(answer.json()["code"], code, "{query}");
        answer.error();
    }
    t.get("/api/v1/latest?of_a_later_version=1&limit=1").send().await.expect(200);
}

async fn a_listing_is_packed_if_the_client_accepts_gzip(t: Target) {
    let server = t.own().start();
    let client = server.client();
    let empty = client.get("/api/v1/latest").accepts_gzip().send().await.expect(200);
    assert!(empty.is_packed());
    assert_eq!(empty.json(), json!({"series": [], "truncated": false}));
    fill(&client, "a", "m", 3_000).await;
    let plain = client.get("/api/v1/latest").send().await.expect(200);
    for accept in ["gzip", "br, gzip;q=0.2", "*"] {
        let packed = client.get("/api/v1/latest").header("accept-encoding", accept).send().await.expect(200);
        assert!(packed.is_packed() && packed.wire.len() < plain.body.len() / 5, "{} of {}", packed.wire.len(), plain.body.len());
        assert_eq!(packed.body, plain.body, "{accept}");
        assert_eq!(packed.header("vary"), Some("accept-encoding"));
    }
    for accept in ["gzip;q=0", "gzip;q=0, *", "br", ""] {
        let answer = client.get("/api/v1/latest").header("accept-encoding", accept).send().await.expect(200);
        assert!(!answer.is_packed() && answer.header("vary") == Some("accept-encoding"), "{accept}");
    }
    for answer in [plain, client.request(http::Method::HEAD, "/api/v1/latest").send().await.expect(200)] {
        assert_eq!((answer.header("x-content-type-options"), answer.header("hashsha256")), (Some("nosniff"), None));
        assert_eq!(answer.header("content-length"), None, "its length is not known when it begins");
    }
}

async fn a_listing_works_with_http_1_0(t: Target) {
    let server = t.own().start();
    fill(&server.client(), "a", "m", 2_500).await;
    let mut raw = Raw::connect(server.port()).await;
    raw.send("GET /api/v1/latest HTTP/1.0\r\n\r\n").await;
    let text = raw.to_the_end().await;
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 200") && !head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(read(&serde_json::from_str(body).expect("the whole answer")).0.len(), 2_500);
}

/// Starts a listing and reads only its status.
async fn begin(server: &Server) -> (Raw, u16, Duration) {
    let start = Instant::now();
    let mut raw = Raw::connect(server.port()).await;
    raw.send("GET /api/v1/latest HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let status = raw.status().await;
    (raw, status, start.elapsed())
}

async fn the_memory_of_many_slow_readers_is_bounded(t: Target) {
    let server = t.own().start();
    let client = server.client();
    fill_with_long_ids(&client).await;
    // The first listing makes the allocator keep memory, which must not be counted.
    client.get("/api/v1/latest").send().await.expect(200);
    let before = server.rss();
    server.reset_peak();
    let asked = futures_util::future::join_all((0..24).map(|_| begin(&server))).await;
    let (running, refused): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, status, _)| *status == 200);
    assert_eq!((running.len(), refused.len()), (16, 8));
    for (mut raw, status, took) in refused {
        assert_eq!(status, 503);
        assert!(took >= Duration::from_secs(4), "it waits for other listings to end: {took:?}");
        let answer = raw.answer().await.expect("an answer");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert!(answer.text().contains("\"code\":\"overloaded\""), "{answer:?}");
    }
    let grown = server.peak_rss().saturating_sub(before);
    assert!(grown < MEMORY_BOUND, "{grown} bytes for 16 answers");
    // Other requests are answered meanwhile, and clients that disconnect make room.
    client.updates(&json!([{"id": "c", "type": "counter", "delta": 1}])).await.expect(200);
    client.get("/source?name=s1").send().await.expect(200);
    drop(running);
    until("there is room again", Duration::from_secs(30), async || client.get("/api/v1/latest?limit=1").send().await.status == 200).await;
}
