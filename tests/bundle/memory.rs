//! The server's memory limit is at least the sum of everything that its settings and its own bounds allow it to hold, and the spool of an agent has
//! room for the reports of the longest outage.

use std::collections::BTreeMap;
use std::fs;

use golectra_tests::{NODE_REPORT_BYTES, POD_REPORT_BYTES};
use serde_json::Value;

use crate::render::{ALL_APIS, ci_values, find, have_helm, rendered, root, text};

const MIB: u64 = 1 << 20;
/// The program, its allocator's reserve and the runtime.
const PROGRAM: u64 = 64 * MIB;
/// The bound of sealing.
const SEALING: u64 = 64 * MIB;

/// Settings in bytes that are no memory of their own: a part of MAX_INFLIGHT_BYTES, and the database's disk.
const NO_MEMORY: [&str; 2] = ["MAX_BODY_BYTES", "AUDIT_DATABASE_MAX_BYTES"];
const MEMORY: [&str; 5] = ["MAX_INFLIGHT_BYTES", "QUERY_MAX_BYTES", "INDEX_CACHE_BYTES", "SAMPLE_CACHE_BYTES", "HISTORY_MAX_BYTES"];

/// The settings of a program with their defaults, from the table that the program itself prints.
fn defaults_of(program: &str) -> BTreeMap<String, String> {
    let document = fs::read_to_string(root().join("docs/settings.md")).expect("docs/settings.md");
    let table = document.split_once(&format!("## {program}\n")).expect("the program's settings").1;
    let table = table.split_once("\n## ").map_or(table, |(table, _)| table);
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        Some((cells.nth(1)?, cells.next()?))
    });
    rows.collect()
}

fn defaults() -> BTreeMap<String, String> {
    defaults_of("golectra-server")
}

/// A number of bytes with a unit.
fn bytes(text: &str) -> u64 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" | "Mi" => MIB,
        "GiB" | "Gi" => 1 << 30,
        "GB" => 1_000_000_000,
        unit => panic!("the unit {unit:?} of {text}"),
    };
    text[..digits].parse::<u64>().unwrap_or_else(|_| panic!("{text:?} is no size")) * unit
}

/// The value of a constant in a source of the server, such as `16 << 20` or `8 * 1024 * 1024`.
fn constant(file: &str, name: &str) -> u64 {
    let source = fs::read_to_string(root().join("services").join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = source.lines().find(|line| line.contains(&format!("const {name}: "))).unwrap_or_else(|| panic!("{file} has no {name}"));
    let value = line.split_once(" = ").and_then(|(_, value)| value.strip_suffix(';')).expect("a value on one line");
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().unwrap_or_else(|_| panic!("{file}: {line}"));
    match value.split_once("<<") {
        Some((number_of, shift)) => number(number_of) << number(shift),
        None => value.split('*').map(number).product(),
    }
}

/// What the server of these objects may hold, and its limit.
fn held_and_limit(objects: &[Value], workload: &str) -> (u64, u64) {
    let defaults = defaults();
    let container = &find(objects, workload)["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().expect("variables");
    let setting = |name: &str| {
        let set = variables.iter().find(|variable| text(variable, "/name") == name).map(|variable| text(variable, "/value"));
        set.map_or_else(|| defaults.get(name).unwrap_or_else(|| panic!("{name} is no setting")).clone(), str::to_owned)
    };
    let size = |name: &str| bytes(&setting(name));
    let stacks = |threads: u64| threads * constant("server/src/history/threads.rs", "STACK_BYTES");
    let queries_and_exports = size("QUERY_CONCURRENCY") + constant("server/src/history/query/export.rs", "MAX_EXPORTS");
    let mut held = size("MAX_INFLIGHT_BYTES").max(2 * size("MAX_BODY_BYTES"))
        + size("QUERY_MAX_BYTES")
        + stacks(queries_and_exports + constant("server/src/history/query/admission.rs", "RESERVED_FOR_RULES"))
        + constant("server/src/history/decode.rs", "MAX_THREADS") * constant("server/src/history/decode.rs", "STACK_BYTES")
        + size("MAX_CONNECTIONS") * constant("process/src/listen.rs", "CONNECTION_BYTES")
        + constant("process/src/listen.rs", "HEADS_BYTES")
        + constant("server/src/middleware/answer.rs", "TOTAL_BYTES")
        + constant("server/src/http/latest/budget.rs", "TOTAL_BYTES")
        + constant("server/src/audit/names.rs", "CACHE_BYTES")
        + PROGRAM;
    if variables.iter().any(|variable| text(variable, "/name") == "DATABASE_DSN") {
        let layouts = |name: &str| constant("server/src/store/postgres/writer/layouts.rs", name);
        held += constant("server/src/store/postgres/writer/queue.rs", "MAX_BYTES")
            // The threads of those that make way for writers.
            + stacks(queries_and_exports)
            + size("INDEX_CACHE_BYTES")
            + size("SAMPLE_CACHE_BYTES")
            + 4 * constant("server/src/store/postgres/history/layouts.rs", "MAX_IDS")
            // Two writers; an id has 4 bytes, and a list takes about 100 beside its ids.
            + 2 * (4 * layouts("MAX_IDS") + 100 * layouts("MAX_LISTS"))
            + SEALING
            + constant("server/src/audit/outbox.rs", "CLAIM_BYTES")
            + constant("server/src/audit/outbox/postgres/name_lists.rs", "MAX_BYTES");
    } else {
        let disk = |name: &str| constant("server/src/store/memory/disk_writer.rs", name);
        held += size("HISTORY_MAX_BYTES")
            + constant("server/src/audit.rs", "QUEUE_BYTES")
            + disk("MAX_QUEUED_BYTES")
            + disk("GROUP_BYTES")
            // A key takes 36 bytes; a series takes about 60 and the text of its id.
            + 36 * size("MAX_REMEMBERED_KEYS")
            + 128 * size("MAX_SERIES");
    }
    (held, bytes(text(container, "/resources/limits/memory")))
}

/// A new setting in bytes must be told apart here, and in templates/server/_memory.tpl where it is memory.
#[test]
fn every_setting_in_bytes_is_known_as_memory_or_not() {
    let names: Vec<String> = defaults().into_keys().filter(|name| name.ends_with("_BYTES")).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        assert!(MEMORY.contains(&name.as_str()) || NO_MEMORY.contains(&name.as_str()), "is {name} memory of the server?");
    }
}

#[test]
fn the_memory_limit_is_the_sum_of_all_bounds() {
    if !have_helm() {
        return;
    }
    for (file, path) in ci_values() {
        let objects = rendered(&ALL_APIS, &["--values", &path]);
        let server = if file.starts_with("full") { "Deployment/metrics-server" } else { "Deployment/golectra-server" };
        let (held, limit) = held_and_limit(&objects, server);
        assert!(held <= limit && limit - held <= 64 * MIB, "{file}: {} MiB may be held, the limit is {} MiB", held / MIB, limit / MIB);
    }
}

#[test]
fn the_memory_limit_follows_the_settings() {
    if !have_helm() {
        return;
    }
    let external = "database.mode=external,database.external.dsn=postgres://h/d";
    for mode in ["database.mode=cnpg", "database.mode=embedded", external] {
        for settings in [
            &[][..],
            &["queryMaxBytes=1GiB", "queryConcurrency=32"],
            &["maxInflightBytes=1GB", "maxConnections=100000"],
            &["maxInflightBytes=1MiB", "maxBodyBytes=256MiB", "queryMaxBytes=1048576"],
            &["historyMaxBytes=2GiB", "maxSeries=5000000"],
        ] {
            let mode = format!("{mode},database.embedded.storage.size=8Gi");
            let set = settings.iter().fold(mode, |set, setting| format!("{set},server.settings.{setting}"));
            let (held, limit) = held_and_limit(&rendered(&ALL_APIS, &["--set", &set]), "Deployment/golectra-server");
            assert!(held <= limit && limit - held <= 64 * MIB, "{set}: {} MiB may be held, the limit is {} MiB", held / MIB, limit / MIB);
        }
    }
    let objects = rendered(&ALL_APIS, &["--set", "server.resources.limits.memory=3Gi,server.resources.limits.ephemeral-storage=1Gi"]);
    let limits = &find(&objects, "Deployment/golectra-server")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(*limits, serde_json::json!({"memory": "3Gi", "ephemeral-storage": "1Gi"}), "a limit that is given stays");
}

/// What a record of the spool has besides a report, at most.
const RECORD_BYTES: u64 = 256;

/// Whole hours or seconds.
fn seconds(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    number.parse::<u64>().expect("a number") * if unit == "h" { 3600 } else { 1 }
}

/// A node with 16 processors and 110 pods in detail.
#[test]
fn reports_of_the_longest_outage_fit_the_spool() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&ALL_APIS, &["--set", "database.mode=embedded,agent.pods.details=true"]);
    let pod = &find(&objects, "DaemonSet/golectra-agent")["spec"]["template"]["spec"];
    let variables = pod["containers"][0]["env"].as_array().expect("variables");
    let defaults = defaults_of("golectra-agent");
    let setting = |name: &str| {
        let set = variables.iter().find(|variable| text(variable, "/name") == name).map(|variable| text(variable, "/value"));
        set.map_or_else(|| defaults.get(name).unwrap_or_else(|| panic!("{name} is no setting")).clone(), str::to_owned)
    };
    let age = seconds(&setting("SPOOL_MAX_AGE"));
    let of_node = age / seconds(&setting("REPORT_INTERVAL")) * (NODE_REPORT_BYTES + RECORD_BYTES);
    let of_pods = age / seconds(&setting("KUBELET_INTERVAL")) * (POD_REPORT_BYTES + RECORD_BYTES);
    let (needed, room) = (of_node + of_pods, bytes(&setting("SPOOL_MAX_BYTES")));
    assert!(needed <= room, "{} MiB are needed in {} h, there is room for {} MiB", needed / MIB, age / 3600, room / MIB);
    let volume = pod["volumes"].as_array().expect("volumes").iter().find(|volume| volume["name"] == "spool").expect("a volume");
    assert!(bytes(text(volume, "/emptyDir/sizeLimit")) >= room + 16 * MIB);
}
