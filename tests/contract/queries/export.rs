//! /api/v1/export and `golectra-server export`: what was written comes out to the bit, once, wherever the stream is cut.

use std::collections::BTreeMap;
use std::time::Duration;

use golectra_tests::remote_write::{remote_series, remote_write_v1};
use golectra_tests::{Client, Exit, ProgramBuilder, Raw, Server, Target, binary, on_both_stores, unix_millis, until};
use serde_json::{Value, json};

use super::{an_hour_ago, counter, error_of, gauge, get, post, write_at};
use crate::DELICATE;

on_both_stores!(
    an_export_is_what_was_written,
    an_export_goes_on_where_it_was_cut_off,
    a_client_that_does_not_read_holds_no_memory,
    bad_parameters_are_400,
    the_command_writes_what_the_route_answers,
    the_command_goes_on_where_the_disk_was_full,
);

const STALE: u64 = 0x7ff0_0000_0000_0002;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Samples by type and series, with the values' bits; a counter's as an integer's.
type Samples = BTreeMap<(String, String), Vec<(i64, u64)>>;

fn now_ms() -> i64 {
    i64::try_from(unix_millis()).expect("the clock is before the year 292278994")
}

/// The bits of a value as an export has it.
fn bits(kind: &str, text: &str) -> u64 {
    match text {
        _ if kind == "counter" => text.parse::<i64>().expect("a whole number").cast_unsigned(),
        "stale" => STALE,
        "NaN" => 0x7ff8_0000_0000_0001,
        "+Inf" => f64::INFINITY.to_bits(),
        "-Inf" => f64::NEG_INFINITY.to_bits(),
        _ => match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).expect("hexadecimal digits"),
            None => text.parse::<f64>().expect("a number").to_bits(),
        },
    }
}

/// The samples of lines of JSON. Samples of a series come in order.
fn of_json_lines(text: &str) -> Samples {
    let mut samples = Samples::new();
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).expect("a line is an object");
        let kind = json["type"].as_str().expect("a type").to_owned();
        let (times, values) = (json["timestamps_ms"].as_array().expect("a list"), json["values"].as_array().expect("a list"));
        assert_eq!(times.len(), values.len());
        let of_series = samples.entry((kind.clone(), json["metric"].to_string())).or_default();
        // The text of the line, since a JSON value does not have all of a number's digits.
        let (_, texts) = line.rsplit_once("\"values\":[").expect("values stand last");
        let texts = texts.trim_end_matches("]}").split(',').map(|text| text.trim_matches('"'));
        of_series.extend(times.iter().map(|time| time.as_i64().expect("a time")).zip(texts.map(|text| bits(&kind, text))));
        assert!(of_series.is_sorted_by(|one, next| one.0 < next.0));
    }
    samples
}

/// Writes gauges of every kind, counters and samples of several days; answers them by type and labels.
async fn fill(client: &Client, start: u64) -> Samples {
    let mut expected = Samples::new();
    let at_ms = i64::try_from(start * 1000).expect("a time of today");
    let (mut values, mut totals, mut total) = (Vec::new(), Vec::new(), 0_i64);
    for (step, value) in (0_u64..).zip(DELICATE) {
        let delta = 1_i64 << (4 * step);
        total += delta;
        let id = "counted{code=\"a,\\\"b\\\\\"}";
        let batch = json!([gauge("level", value), {"id": id, "type": "counter", "delta": delta}]);
        write_at(client, "n1", start + step * 10, &batch).await;
        let at_ms = at_ms + i64::try_from(step).expect("small") * 10_000;
        values.push((at_ms, value.to_bits()));
        totals.push((at_ms, total.cast_unsigned()));
    }
    expected.insert(("gauge".into(), json!({"__name__": "level", "instance": "n1"}).to_string()), values);
    let labels = json!({"__name__": "counted", "code": "a,\"b\\", "instance": "n1"});
    expected.insert(("counter".into(), labels.to_string()), totals);
    let bits =
        [1.5_f64.to_bits(), STALE, 0x7ff8_0000_0000_0001, 0xfff8_0000_0000_0007, f64::INFINITY.to_bits(), f64::NEG_INFINITY.to_bits()];
    let days: Vec<(i64, u64)> = (0..).zip(bits).map(|(place, bits)| (at_ms - 5 * DAY_MS + place * DAY_MS, bits)).collect();
    let samples: Vec<(i64, f64)> = days.iter().map(|(at_ms, bits)| (*at_ms, f64::from_bits(*bits))).collect();
    client.remote_write(remote_write_v1(&[remote_series("sent", &[("job", "é\n")], &samples)])).send().await.expect(204);
    expected.insert(("gauge".into(), json!({"__name__": "sent", "job": "é\n"}).to_string()), days);
    expected
}

async fn export(client: &Client, parameters: &[(&str, &str)]) -> String {
    let answer = get(client, "export", parameters).await.expect(200);
    assert!(["application/jsonl", "text/csv"].contains(&answer.media_type()), "{answer:?}");
    answer.text()
}

async fn an_export_is_what_was_written(t: Target) {
    let (server, start) = (t.own().start(), an_hour_ago());
    let client = server.client();
    let expected = fill(&client, start).await;
    assert_eq!(of_json_lines(&export(&client, &[]).await), expected);
    let csv = export(&client, &[("format", "csv")]).await;
    assert_eq!(client.get("/api/v1/export").header("accept", "text/csv").send().await.expect(200).text(), csv);
    let packed = client.get("/api/v1/export?format=csv").accepts_gzip().send().await.expect(200);
    assert!(packed.is_packed() && packed.text() == csv);
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("id,type,series,timestamp_ms,value"));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), expected.values().map(Vec::len).sum::<usize>());
    let counted: Vec<(i64, u64)> = lines
        .iter()
        .filter(|line| {
            line.contains(",counter,\"counted{code=\"\"a,\\\"\"b\\\\\"\",instance=\"\"n1\"\"}\",")
                || line.contains(",counter,\"counted{code=")
        })
        .map(|line| {
            let mut ends = line.rsplit(',');
            let (value, at_ms) = (ends.next().expect("a value"), ends.next().expect("a time"));
            (at_ms.parse().expect("a time"), bits("counter", value))
        })
        .collect();
    let of_counter = expected.iter().find(|((kind, _), _)| kind == "counter").map(|(_, samples)| samples.clone());
    assert_eq!(Some(counted), of_counter);
    // Selectors, and a range with both of its ends.
    let of_range =
        [("match[]", "level"), ("match[]", "{job=~\".+\"}"), ("start", &*(start + 10).to_string()), ("end", &*(start + 30).to_string())];
    let found = of_json_lines(&export(&client, &of_range).await);
    let level = &expected[&("gauge".to_owned(), json!({"__name__": "level", "instance": "n1"}).to_string())];
    assert_eq!(found.into_values().collect::<Vec<_>>(), [level[1..4].to_vec()]);
    for nothing in [[("match[]", "nothing"), ("start", "0")], [("start", "10"), ("end", "5")]] {
        assert_eq!(export(&client, &nothing).await, "");
    }
    assert_eq!(post(&client, "export", &[]).await.status, 405);
    // Without chunks its end would say nothing.
    let mut raw = Raw::connect(server.port()).await;
    raw.send("GET /api/v1/export HTTP/1.0\r\n\r\n").await;
    let refused = raw.answer().await.expect("an answer");
    assert!(refused.status == 505 && refused.text().contains("use HTTP/1.1"), "{refused:?}");
}

/// Writes so many series with so many samples each, ten seconds apart.
async fn fill_many(client: &Client, series: usize, samples: i64) {
    let first = now_ms() - samples * 10_000;
    for some in (0..series).collect::<Vec<_>>().chunks(20) {
        let one = |number: &usize| {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let value = |at: i64| (at * 31) as f64 / 8.0 + (number * 7) as f64 / 8.0;
            let samples: Vec<(i64, f64)> = (0..samples).map(|at| (first + at * 10_000, value(at))).collect();
            remote_series("m", &[("n", &format!("{number:03}"))], &samples)
        };
        let series: Vec<_> = some.iter().map(one).collect();
        client.remote_write(remote_write_v1(&series)).send().await.expect(204);
    }
}

async fn an_export_goes_on_where_it_was_cut_off(t: Target) {
    // Little memory makes many small pages.
    let server = t.own().env("QUERY_MAX_BYTES", "1MiB").start();
    let client = server.client();
    fill_many(&client, 80, 150).await;
    let end = (now_ms() / 1000).to_string();
    let whole = export(&client, &[("format", "csv"), ("end", &end)]).await;
    let lines: Vec<&str> = whole.lines().skip(1).collect();
    assert_eq!(lines.len(), 80 * 150);
    for cut in [0, 1, 149, 150, 5_431, lines.len() - 1] {
        let line = lines[cut];
        let (id, at_ms) = (line.split(',').next().expect("an id"), line.rsplit(',').nth(1).expect("a time"));
        let rest = export(&client, &[("format", "csv"), ("end", &end), ("after", &format!("{id}@{at_ms}"))]).await;
        assert!(rest.lines().eq(lines[cut + 1..].iter().copied()), "after line {cut}");
    }
    let whole = export(&client, &[("end", &end)]).await;
    let lines: Vec<&str> = whole.lines().collect();
    let line: Value = serde_json::from_str(lines[1]).expect("an object");
    let last = line["timestamps_ms"].as_array().and_then(|times| times.last()).expect("a time");
    let after = format!("{}@{last}", line["id"].as_str().expect("an id"));
    assert!(export(&client, &[("end", &end), ("after", &after)]).await.lines().eq(lines[2..].iter().copied()));
}

async fn a_client_that_does_not_read_holds_no_memory(t: Target) {
    let server = t.own().metrics().start();
    let client = server.client();
    // More than the buffers of two connections hold.
    fill_many(&client, 100, 4_000).await;
    let metric = async |name: &str| server.metrics_client().get("/metrics").send().await.expect(200).metric(name);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(server.port()).await;
        raw.send("GET /api/v1/export?format=csv HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        clients.push(raw);
    }
    until("the exports hold nothing but their lists", Duration::from_secs(30), async || {
        metric("golectra_query_in_flight").await == Some(2.0) && metric("golectra_query_memory_bytes").await <= Some(2.0 * 65_536.0)
    })
    .await;
    let refused = get(&client, "export", &[]).await.expect(503);
    assert!(refused.header("retry-after").is_some() && error_of(&refused, "unavailable").contains("2 exports"), "{refused:?}");
    drop(clients.pop());
    let all = clients.pop().expect("the other one").to_the_end().await;
    assert!(all.contains("\r\n0\r\n\r\n"), "it has its end");
    let lines = all.lines().filter(|line| line.starts_with("remote-write/")).count();
    // Where a piece ends its length stands between two lines.
    assert_eq!(lines, 400_000);
    until("both have ended", Duration::from_secs(30), async || metric("golectra_query_in_flight").await == Some(0.0)).await;
    assert_eq!(metric("golectra_query_memory_bytes").await, Some(0.0));
}

async fn bad_parameters_are_400(t: Target) {
    // Each by itself may be.
    let many: Vec<(&str, &str)> = vec![("match[]", "{a=~\"(b{1000}){20}.*\"}"); 9];
    for (parameters, name) in [
        (&[("format", "xml")][..], "format"),
        (&[("start", "yesterday")], "start"),
        (&[("end", "NaN")], "end"),
        (&[("after", "x")], "after"),
        (&[("after", "n/1@-5")], "after"),
        (&[("after", "../../x/1@5")], "after"),
        (&[("after", "n/99999999999@5")], "after"),
        (&[("match[]", "up{")], "match[]"),
        (&[("match[]", "{a=~\"(((x{1000}){1000}){1000})\"}")], "match[]"),
        (&[("match[]", "rate(up[5m])")], "match[]"),
        (&many, "match[]"),
    ] {
        let message = error_of(&get(&t, "export", parameters).await.expect(400), "bad_data");
        assert!(message.contains(name), "{parameters:?}: {message}");
    }
    // A position may be of anything.
    for after in ["/0@0", "n/4294967295@9223372036854775807", "zzz/5@5"] {
        assert_eq!(export(&t, &[("match[]", "nothing"), ("after", after)]).await, "");
    }
}

/// Runs the command beside a server's database, or on its files.
fn command(server: &Server, flags: &[&str]) -> (Exit, String, String) {
    let mut builder = ProgramBuilder::new("golectra-server").folder(&server.shared_folder()).flags(["export"]).flags(flags);
    if let Some(database) = server.database() {
        builder = builder.env("DATABASE_DSN", database.url());
    }
    let mut program = builder.start();
    let exit = program.wait(Duration::from_secs(30));
    (exit, program.stdout(), program.stderr())
}

async fn the_command_writes_what_the_route_answers(t: Target) {
    let (mut server, start) = (t.own().start(), an_hour_ago());
    let client = server.client();
    fill(&client, start).await;
    write_at(&client, "n2", start, &json!([counter("other", 5)])).await;
    let csv = export(&client, &[("format", "csv")]).await;
    let time = (start + 5).to_string();
    let json_lines = export(&client, &[("match[]", "other"), ("match[]", "level"), ("end", &time)]).await;
    assert_eq!(server.stop(), Exit::Code(0));
    let (exit, stdout, stderr) = command(&server, &["--format=csv"]);
    assert_eq!((exit, &*stdout), (Exit::Code(0), &*csv), "{stderr}");
    let (exit, stdout, stderr) = command(&server, &["--match=other\nlevel", "--end", &time]);
    assert_eq!((exit, &*stdout), (Exit::Code(0), &*json_lines), "{stderr}");
    // To a file, in two parts.
    let lines: Vec<&str> = csv.lines().collect();
    let (id, at_ms) = (lines[3].split(',').next().expect("an id"), lines[3].rsplit(',').nth(1).expect("a time"));
    std::fs::write(server.folder().join("out.csv"), lines[..4].join("\n") + "\n").expect("our own folder");
    let (exit, _, stderr) = command(&server, &["--format=csv", "-o", "out.csv"]);
    assert!(exit == Exit::Code(1) && stderr.contains("out.csv can't be written"), "{stderr}");
    let (exit, stdout, stderr) = command(&server, &["--format=csv", "-o", "out.csv", &format!("--after={id}@{at_ms}")]);
    assert_eq!((exit, &*stdout), (Exit::Code(0), ""), "{stderr}");
    assert_eq!(std::fs::read_to_string(server.folder().join("out.csv")).expect("it was written"), csv);
    let (exit, stdout, _) = command(&server, &["--help"]);
    assert!(exit == Exit::Code(0) && stdout.contains("--after") && stdout.contains("DATABASE_DSN"), "{stdout}");
    for flags in [["--format=xml"], ["--after=x"], ["--start=x"], ["--match=up{"], ["--key=x"]] {
        let (exit, stdout, stderr) = command(&server, &flags);
        assert!(exit == Exit::Code(2) && stdout.is_empty() && !stderr.is_empty(), "{flags:?}: {exit:?} {stdout} {stderr}");
    }
}

async fn the_command_goes_on_where_the_disk_was_full(t: Target) {
    let mut server = t.own().start();
    let client = server.client();
    fill_many(&client, 80, 150).await;
    let csv = export(&client, &[("format", "csv")]).await;
    assert_eq!(server.stop(), Exit::Code(0));
    // A file may have 150 or 300 KiB, by the shell's unit: the write that comes to that is cut short.
    assert!(csv.len() > 400_000, "{} bytes", csv.len());
    let program = binary("golectra-server").display().to_string();
    let script = "ulimit -f 300; exec \"$0\" export --format=csv --output=out.csv";
    let flags = ["-c", script, program.as_str()];
    let mut builder = ProgramBuilder::foreign("sh", "/bin/sh").folder(&server.shared_folder()).flags(flags);
    if let Some(database) = server.database() {
        builder = builder.env("DATABASE_DSN", database.url());
    }
    let mut limited = builder.start();
    let (exit, said) = (limited.wait(Duration::from_secs(30)), limited.stderr());
    assert_eq!(exit, Exit::Code(1), "{said}");
    let after = said.split_once("--after=").and_then(|(_, rest)| rest.split_whitespace().next()).expect("it says where to go on");
    let out = server.folder().join("out.csv");
    let begun = std::fs::read_to_string(&out).expect("it was begun");
    assert!(begun.ends_with('\n') && csv.starts_with(&begun), "{} bytes of the export", begun.len());
    let (exit, _, stderr) = command(&server, &["--format=csv", "-o", "out.csv", &format!("--after={after}")]);
    assert_eq!(exit, Exit::Code(0), "{stderr}");
    assert!(std::fs::read_to_string(&out).expect("it was written") == csv, "after {after}");
}
