//! Prometheus as the reference: both scrape the same texts and have the same series, values and verdicts. What golectra accepts and
//! Prometheus does not (see `golectra_protocol::exposition`) is not among them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use golectra_tests::{Client, Prometheus, Receiver, Reply, Server, encode};

use super::{LIMIT, scraping};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers of real programs.
const CAPTURED: [&str; 2] = [
    include_str!("../../../services/protocol/src/exposition/testdata/node_exporter-1.5.prom"),
    include_str!("../../../services/protocol/src/exposition/testdata/prometheus-2.42.prom"),
];

/// Texts in Prometheus's format, valid and not.
const TEXTS: &[&str] = &[
    "",
    "\n\n",
    "a 1",
    "a 1\n",
    "a 1\nb",
    "a 1\n\n \t\nb 2\n",
    "a{} 1\n",
    "a{ } 1\n",
    "a{k=\"v\"}1\n",
    "a {k=\"v\"} 1\n",
    "a{k=\"v\",} 1\n",
    "a{k=\"v\",,} 1\n",
    "a{,} 1\n",
    "a{k=\"v\"l=\"w\"} 1\n",
    "a{ k = \"v\" , l = \"w\" } 1\n",
    "a{k=\"\"} 1\n",
    "a{k=\"q\\\"b\\\\n\\nx\\y\"} 1\n",
    "a{k=\"} {,=#\"} 1\n",
    "a{k=\"é\"} 1\n",
    "a{k=\"v} 1\n",
    "a{k=v} 1\n",
    "a{k} 1\n",
    "a{1k=\"v\"} 1\n",
    "a{k:=\"v\"} 1\n",
    "a{k=\"v\" 1\n",
    "a{k=\"v\",k=\"w\"} 1\n",
    "a{__name__=\"b\"} 1\n",
    "{k=\"v\"} 1\n",
    "{} 1\n",
    "1a 1\n",
    "a:b_c1 1\n:a 1\n_ 1\n",
    "a-b 1\n",
    "a.b 1\n",
    "a-1\n",
    "a 1 1700000000000\n",
    "a 1 1700000000\n",
    "a 1 x\n",
    "a 1 1.5\n",
    "a 1 1 1\n",
    "a 1 # {} 1\n",
    "a one\n",
    "a 1,5\n",
    "a 1_000\n",
    "a 0x10\n",
    "a 0x1p4\n",
    "a 1e3\nb 1E-3\nc +5\nd -5\ne .5\nf 5.\ng -0\nh 1e-400\n",
    "a 1e999\n",
    "a NaN\nb +Inf\nc -Inf\nd 1\n",
    "a nan\nb inf\nc Infinity\nd -infinity\ne +INF\nf 1\n",
    "a -NaN\n",
    "a +NaN\n",
    "# HELP\na 1\n",
    "# HELP a\na 1\n",
    "# HELP a  text \\n \\\\ text\na 1\n",
    "# TYPE a gauge\na 1\n# TYPE a counter\na{k=\"v\"} 2\n",
    "# TYPE a nothing\na 1\n",
    "# TYPE a unknown\na 1\n",
    "# TYPE a\na 1\n",
    "# TYPE 1 gauge\na 1\n",
    "#TYPE a nothing\na 1\n",
    "# TYPES a nothing\na 1\n",
    "#\n# \n#a\n# EOF\na 1\n",
    "\t# a comment\na 1\n",
    "a 1\na 2\n",
    "a{k=\"1\",l=\"2\"} 1\na{l=\"2\",k=\"1\"} 2\n",
    "a{job=\"x\",instance=\"y\",exported_job=\"z\"} 1\n",
    "a{exported_instance=\"z\"} 1\n",
    "<html>\n",
    "{\"a\": 1}\n",
    "\u{feff}a 1\n",
    "# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\nh_count 2\n",
    "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns{quantile=\"0.99\"} NaN\ns_sum 3.5\ns_count 2\n",
];

/// Texts in OpenMetrics, valid and not.
const OPEN_METRICS_TEXTS: &[&str] = &[
    "# EOF\n",
    "# EOF",
    "",
    "a 1\n",
    "a 1\n# EOF\n",
    "a 1\n# EOF",
    "a 1\n# EOF\nb 1\n",
    "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds text\na_seconds_total 1 1700000000.5\na_seconds_created 1.5e9\n# EOF\n",
    "# TYPE a counter\na_total 5 # {trace_id=\"x\"} 1\n# EOF\n",
    "# TYPE a counter\na_total 5 1700000000 # {trace_id=\"x\",span=\"}\\\"\"} 1 1700000000.25\n# EOF\n",
    "# TYPE a counter\na_total 5 # {} 1\n# EOF\n",
    "# TYPE a counter\na_total 5 # {trace_id=\"x\"}\n# EOF\n",
    "# TYPE a counter\na_total 5 # {trace_id=\"x\"} one\n# EOF\n",
    "a 1 x\n# EOF\n",
    "a 1 NaN\n# EOF\n",
    "a 1 1 1\n# EOF\n",
    "# TYPE a untyped\na 1\n# EOF\n",
    "# TYPE a unknown\na 1\n# EOF\n",
    "# TYPE a info\na_info{v=\"1\"} 1\n# TYPE b stateset\nb{b=\"x\"} 1\n# TYPE c gaugehistogram\nc_bucket{le=\"+Inf\"} 1\nc_gsum 1\nc_gcount 1\n# EOF\n",
    "# TYPE a nothing\na 1\n# EOF\n",
    "a{k=\"q\\\"b\\\\n\\nx\\y\"} 1\n# EOF\n",
    "a one\n# EOF\n",
];

/// The series that a server has of the jobs of this test: by job, name and labels.
async fn series(client: &Client) -> BTreeMap<String, f64> {
    let query = encode("{job=~\"case-.+\",__name__!~\"scrape_duration_seconds|scrape_series_added\"}");
    let answer = client.get(&format!("/api/v1/query?query={query}")).send().await.expect(200).json();
    let result = answer["data"]["result"].as_array().expect("a vector").clone();
    let named = result.iter().map(|series| {
        let labels = series["metric"].as_object().expect("labels");
        let normalized = |key: &str, value: &str| match value.parse::<f64>() {
            // This version keeps the bound of a bucket as it was written; the current one writes it as OpenMetrics does.
            Ok(bound) if key == "le" || key == "quantile" => format!("{bound:?}"),
            _ => value.to_owned(),
        };
        let labels = labels.iter().filter(|(key, _)| *key != "instance").map(|(key, value)| {
            let value = value.as_str().expect("a text");
            format!("{key}={:?}", normalized(key, value))
        });
        let labels: Vec<_> = labels.collect();
        (labels.join(","), series["value"][1].as_str().expect("a text").parse::<f64>().expect("a number"))
    });
    // The wire has no NaN and no infinities.
    named.filter(|(_, value)| value.is_finite()).collect()
}

/// For how many targets a server has a verdict.
fn ups(series: &BTreeMap<String, f64>) -> usize {
    series.keys().filter(|key| key.starts_with("__name__=\"up\"")).count()
}

fn differences(cases: &[(&str, &str)], expected: &BTreeMap<String, f64>, found: &BTreeMap<String, f64>) -> Vec<String> {
    let mut differences = Vec::new();
    for key in expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key))) {
        let (expected, found) = (expected.get(key), found.get(key));
        if expected.map(|value| value.to_bits()) != found.map(|value| value.to_bits()) {
            let case = key.split("job=\"case-").nth(1).and_then(|rest| rest.split('"').next()?.parse::<usize>().ok());
            let text = case.map(|case| cases[case].1.chars().take(200).collect::<String>());
            differences.push(format!("{text:?}: {key} is {found:?}, for Prometheus {expected:?}"));
        }
    }
    differences
}

#[tokio::test]
async fn what_prometheus_makes_of_a_text_golectra_makes_of_it() {
    let texts = CAPTURED.iter().chain(TEXTS).map(|text| (TEXT, *text));
    let cases: Vec<(&str, &str)> = texts.chain(OPEN_METRICS_TEXTS.iter().map(|text| (OPEN_METRICS, *text))).collect();
    let answers: Vec<(&'static str, String)> = cases.iter().map(|(media_type, text)| (*media_type, (*text).to_owned())).collect();
    let target = Receiver::start(move |request| {
        let (media_type, text) = &answers[request.path[1..].parse::<usize>().expect("a number")];
        Reply::status(200).body(media_type, text.as_str())
    })
    .await;
    let address = format!("127.0.0.1:{}", target.port());
    let jobs: Vec<_> = (0..cases.len()).map(|case| (format!("case-{case}"), address.clone(), format!("/{case}"))).collect();
    let Some(prometheus) = Prometheus::scraping(&jobs) else { return };
    let server = Server::builder().start();
    let scrape: Vec<_> = jobs.iter().map(|(job, address, path)| format!("{job}=http://{address}{path}")).collect();
    let agent = scraping(&server, &scrape.join(" "));

    let (reference, ours) = (Client::new(&prometheus.url(), None), server.client());
    let start = Instant::now();
    // On a busy machine a scrape may be late, so the newest ones are compared until they agree.
    let expected = loop {
        let (expected, found) = (series(&reference).await, series(&ours).await);
        let differences = differences(&cases, &expected, &found);
        if differences.is_empty() && ups(&expected) == cases.len() {
            break expected;
        }
        let logs = || format!("{}\n{}", prometheus.tail(), agent.tail());
        assert!(start.elapsed() < LIMIT, "of {} targets: {}\n{}", cases.len(), differences.join("\n"), logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(expected.len() > 900, "the captured texts alone have more series than {}", expected.len());
}
