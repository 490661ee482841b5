//! Hostile queries: each is answered within the limits of queries, memory stays bounded and writes go on.

use std::time::{Duration, Instant};

use golectra_tests::{Answer, Client, Target, encode, on_both_stores, unix_millis};
use serde_json::{Value, json};

use crate::valid;

on_both_stores!(hostile_queries_are_answered_within_limits);

/// What all of them together may add to the server's memory: QUERY_MAX_BYTES, and as much for what is not counted.
const GROWTH_BYTES: u64 = 256 << 20;

/// The time that a query has, and how long its answer may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(15);

/// A query and what it may be answered.
struct Case {
    name: &'static str,
    path: &'static str,
    parameters: Vec<(&'static str, String)>,
    expected: &'static [u16],
}

fn query(name: &'static str, text: impl Into<String>, expected: &'static [u16]) -> Case {
    Case { name, path: "query", parameters: vec![("query", text.into())], expected }
}

fn range(name: &'static str, text: impl Into<String>, seconds: u64, step: &str, expected: &'static [u16]) -> Case {
    // Behind the samples that were written within this second.
    let now = unix_millis() / 1_000 + 1;
    let parameters =
        vec![("query", text.into()), ("start", (now - seconds).to_string()), ("end", now.to_string()), ("step", step.to_owned())];
    Case { name, path: "query_range", parameters, expected }
}

fn list(name: &'static str, path: &'static str, selectors: Vec<String>, expected: &'static [u16]) -> Case {
    Case { name, path, parameters: selectors.into_iter().map(|selector| ("match[]", selector)).collect(), expected }
}

/// An expression around itself, so many times.
fn nested(levels: usize, before: &str, inner: &str, after: &str) -> String {
    format!("{}{inner}{}", before.repeat(levels), after.repeat(levels))
}

/// It is answered, or runs into its time on a busy machine.
const OK: &[u16] = &[200, 503];
/// It is refused; what takes long to read may run into its time.
const BAD: &[u16] = &[400, 413, 503];
/// It runs into a limit of memory, of time, or of its own.
const LIMITED: &[u16] = &[422, 503];
const ANY: &[u16] = &[200, 422, 503];

fn cases() -> Vec<Case> {
    let mut all = patterns();
    all.extend(shapes());
    all.extend(costs());
    all.extend(lists());
    all
}

fn patterns() -> Vec<Case> {
    let matcher = |pattern: &str| format!("m{{n=~\"{pattern}\"}}");
    vec![
        query("a pattern of nested repetitions", matcher("(((((0*)*)*)*)*)*x"), OK),
        query("a pattern that is a gigabyte compiled", matcher("((0{1000}){1000}){1000}"), BAD),
        query("a pattern of all of Unicode, repeated", matcher(r"(\\p{L}{100}){100}"), BAD),
        query("a pattern of 100 kB", matcher(&"(0|1)?".repeat(16_000)), &[200, 400, 503]),
        query("a pattern of a hundred thousand brackets", matcher(&"(".repeat(100_000)), BAD),
        query("five thousand patterns", format!("m{{{}}}", "n=~\"0.*1\",".repeat(5_000)), BAD),
        query("patterns of megabytes together", format!("m{{{}}}", "n=~\"(0{900}){20}.*\",".repeat(100)), BAD),
        query("a pattern over long values", "label_replace(m, \"a\", \"$1\", \"n\", \"(.*.*.*.*.*.*.*)\")", OK),
        query("a label that doubles with each level", nested(60, "label_replace(", "m", ", \"n\", \"$1$1\", \"n\", \"(.*)\")"), LIMITED),
        query(
            "a label that is repeated 40,000 times",
            nested(2, "label_replace(", "m", &format!(", \"n\", \"{}\", \"n\", \"(.*)\")", "$1".repeat(20_000))),
            LIMITED,
        ),
        query("labels joined to ever longer ones", nested(60, "label_join(", "m", ", \"n\", \"\", \"n\", \"n\", \"n\")"), LIMITED),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        query("a hundred thousand parentheses", "(".repeat(100_000), BAD),
        query("a hundred thousand closed parentheses", nested(50_000, "(", "1", ")"), BAD),
        query("sixty thousand signs", format!("{}1", "-".repeat(60_000)), &[200, 400, 503]),
        query("a chain of thirty thousand operators", format!("1{}", "+1".repeat(30_000)), BAD),
        query("sums of sums", nested(10_000, "sum(", "m", ")"), BAD),
        query("a query of a megabyte", format!("1{}", " ".repeat(900_000)), BAD),
        query("subqueries of subqueries", nested(60, "max_over_time(", "m", "[1h:])"), ANY),
        query("thousands of selectors", balanced(2_000), LIMITED),
        query("a name of 100 kB", "x".repeat(100_000), OK),
        query("control characters", "\u{1}\u{2}\u{7f}\u{0}", BAD),
        query("text direction marks", "\u{202e}m\u{2066}", BAD),
        query("half an escape", "\"\\", BAD),
        query("a duration of ages", "m[9999999999y]", BAD),
        query("a time beyond all", "m @ 9e300", BAD),
        Case {
            name: "a time that is none",
            path: "query",
            parameters: vec![("query", "m".into()), ("time", "9e300".into())],
            expected: BAD,
        },
        Case { name: "a time of ages ago", path: "query", parameters: vec![("query", "m".into()), ("time", "-9e11".into())], expected: OK },
        Case { name: "thousands of parameters", path: "query", parameters: vec![("q", "1".into()); 2_000], expected: BAD },
    ]
}

/// `(m{…} or m{…}) or (…)`, so that many selectors do not nest deep.
fn balanced(selectors: usize) -> String {
    let mut terms: Vec<_> = (0..selectors).map(|number| format!("m{{n=\"{number}\"}}")).collect();
    while terms.len() > 1 {
        terms = terms.chunks(2).map(|pair| format!("({})", pair.join(" or "))).collect();
    }
    terms.remove(0)
}

fn costs() -> Vec<Case> {
    vec![
        range("a million steps", "m", 1_000_000, "1", BAD),
        range("a quintillion steps", "m", 1_000_000_000, "1e-9", BAD),
        range("every step for every series", "m * 2", 11_000, "1", LIMITED),
        range("a range at each step", "max_over_time(m[1h])", 11_000, "1", ANY),
        range("quantiles of ranges", "quantile_over_time(0.5, m[1h])", 11_000, "1", ANY),
        query("a subquery of a million steps", "sum_over_time(m[1000s:1ms])", ANY),
        query("a subquery of a billion steps", "sum_over_time(m[1000000s:1ms])", LIMITED),
        query("subqueries that multiply", "max_over_time(quantile_over_time(0.5, m[400s:1ms])[400s:1ms])", LIMITED),
        query("every series with every other", "m * on () group_left () m", LIMITED),
        query("pairs of all series", "count(m + on (n) group_left () (m or m))", ANY),
        query("a value for each series as a label", "count_values(\"v\", m + on (n) m)", ANY),
        query("the largest of more than there are", "topk(1e18, m)", OK),
        query("as many as there are not", "topk(NaN, m) or bottomk(-1e300, m)", ANY),
        query("a vector of nothing, a thousand times", format!("sum({})", balanced(200).replace("m{", "nothing{")), OK),
        query("a histogram of no buckets", "histogram_quantile(0.9, m)", OK),
    ]
}

fn lists() -> Vec<Case> {
    vec![
        list("a thousand selectors", "series", vec!["m".to_owned(); 900], BAD),
        list("selectors with a hundred patterns each", "series", vec![format!("m{{{}}}", "n=~\"0.*1\",".repeat(100)); 60], BAD),
        list("a pattern that matches slowly", "labels", vec!["{n=~\"(((0*)*)*)*x\"}".to_owned()], OK),
        list("everything", "series", vec!["{__name__!=\"\"}".to_owned()], OK),
        list(
            "a selector that selects nothing by every label",
            "series",
            vec![format!("m{{{}}}", (0..5_000).map(|n| format!("l{n}=\"\"")).collect::<Vec<_>>().join(","))],
            OK,
        ),
    ]
}

/// 2,000 series with long labels, two samples each.
async fn fill(client: &Client) {
    for round in 0..2 {
        for part in 0..4 {
            let id = |number: usize| format!("m{{n=\"{}{number:06}\"}}", "0".repeat(100));
            let batch: Value =
                (part * 500..part * 500 + 500).map(|number| json!({"id": id(number), "type": "gauge", "value": number + round})).collect();
            client.post("/updates").source("n1").json(&batch).send().await.expect(200);
        }
    }
}

async fn hostile_queries_are_answered_within_limits(t: Target) {
    let mut server = t.own().env("QUERY_TIMEOUT", "3s").start();
    fill(&server.client()).await;
    let traffic = valid::Traffic::start(&server).await;
    server.reset_peak();
    let before = server.rss();
    let mut cases = cases().into_iter();
    let mut running = tokio::task::JoinSet::new();
    let mut failures = Vec::new();
    loop {
        while running.len() < 3
            && let Some(case) = cases.next()
        {
            let client = server.client();
            running.spawn(async move { play(&client, case).await.err() });
        }
        match running.join_next().await {
            Some(outcome) => failures.extend(outcome.expect("no panic")),
            None => break,
        }
    }
    assert!(server.exited().is_none(), "the server ended\n{}", server.tail());
    let growth = server.peak_rss().saturating_sub(before);
    assert!(traffic.stop().await > 0);
    assert!(failures.is_empty(), "{} hostile queries:\n{}\n{}", failures.len(), failures.join("\n"), server.tail());
    assert!(growth < GROWTH_BYTES, "memory grew by {} MiB", growth >> 20);
    assert!(!server.stderr().contains("this is a bug"), "{}", server.tail());
}

/// Asks and says what is wrong with the answer.
async fn play(client: &Client, case: Case) -> Result<(), String> {
    let Case { name, path, parameters, expected } = case;
    let form: Vec<_> = parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let request = client.post(&format!("/api/v1/{path}")).header("content-type", "application/x-www-form-urlencoded");
    let start = Instant::now();
    let answer = request.body(form.join("&")).send().await;
    let elapsed = start.elapsed();
    if !expected.contains(&answer.status) {
        return Err(format!("{name}: expected {expected:?}, got {} {}", answer.status, shown(&answer)));
    }
    if elapsed > TIMEOUT + PATIENCE {
        return Err(format!("{name}: answered {} after {elapsed:?}", answer.status));
    }
    let status = if answer.status == 200 { "success" } else { "error" };
    if answer.json()["status"] != status {
        return Err(format!("{name}: {}", shown(&answer)));
    }
    Ok(())
}

fn shown(answer: &Answer) -> String {
    answer.text().chars().take(300).collect()
}
