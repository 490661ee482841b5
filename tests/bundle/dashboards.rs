//! The Grafana dashboards: every query can be read, and every one of the server's dashboard uses metrics that exist.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::render::{chart, find, have, have_helm, rendered, text};

/// The files of dashboards.
pub const DASHBOARDS: [&str; 2] = ["golectra.json", "golectra-nodes.json"];

fn dashboard(file: &str) -> Value {
    let text = fs::read_to_string(chart().join("dashboards").join(file)).expect("the dashboard");
    serde_json::from_str(&text).expect("a dashboard is JSON")
}

/// The queries of a dashboard's panels.
pub fn queries(file: &str) -> Vec<String> {
    let dashboard = dashboard(file);
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    panels.flat_map(|panel| panel["targets"].as_array().expect("targets")).map(|target| text(target, "/expr").to_owned()).collect()
}

#[test]
fn each_dashboard_is_complete() {
    let mut uids = BTreeSet::new();
    for file in DASHBOARDS {
        let dashboard = dashboard(file);
        assert!(uids.insert(text(&dashboard, "/uid").to_owned()), "{file}: its uid is another dashboard's");
        assert_eq!(text(&dashboard, "/templating/list/0/type"), "datasource", "{file}");
        let panels = dashboard["panels"].as_array().expect("panels");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels {
            let title = text(panel, "/title");
            let description = text(panel, "/description");
            assert!(!title.is_empty() && (description.is_empty() || description.ends_with('.')), "{file}: {title}: {description}");
            assert!(!text(panel, "/fieldConfig/defaults/unit").is_empty(), "{file}: {title} has no unit");
            assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{file}: {title} has the id of another panel");
            for source in [panel, &panel["targets"][0]] {
                assert_eq!(text(source, "/datasource/uid"), "${datasource}", "{file}: {title}");
            }
            let [left, top, width, height] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a number"));
            assert!(left + width <= 24, "{file}: {title} is beyond the right edge");
            for x in left..left + width {
                for y in top..top + height {
                    assert!(taken.insert((x, y)), "{file}: {title} covers another panel");
                }
            }
        }
    }
}

/// promtool reads each query as the expression of a rule, with values in place of Grafana's variables.
#[test]
fn each_query_can_be_read() {
    if !have("promtool", "--version") {
        return;
    }
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    for file in DASHBOARDS {
        let queries = queries(file);
        assert!(queries.len() >= 15, "{file}");
        for (number, query) in queries.iter().enumerate() {
            let plain = query.replace("$namespace", ".*").replace("$instance", ".*").replace("$__rate_interval", "1m");
            assert!(!plain.contains('$'), "{file}: an unknown variable in {query}");
            let record = file.replace(['.', '-'], "_");
            let _ = write!(rules, "      - record: {record}:{number}\n        expr: {}\n", Value::String(plain));
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.yaml"), &rules).expect("a file can be written");
    let output =
        Command::new("promtool").current_dir(folder.path()).args(["check", "rules", "rules.yaml"]).output().expect("promtool runs");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_config_map_has_all_dashboards() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&[], &["--set", "database.mode=embedded"]);
    let data = find(&objects, "ConfigMap/golectra-dashboard")["data"].as_object().expect("data").clone();
    let names: BTreeSet<_> = data.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(DASHBOARDS));
    for file in DASHBOARDS {
        let rendered: Value = serde_json::from_str(data[file].as_str().expect("a text")).expect("it is JSON");
        assert_eq!(rendered, dashboard(file), "{file}");
    }
}
