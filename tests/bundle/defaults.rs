//! Values that are missing or null get their defaults: `--reuse-values` with the values of an older chart, bare keys, subcharts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::render::{ALL_APIS, chart, find, have_helm, helm_template, helm_template_of, name, parse, root, text, update};
use crate::values::{documented, load};

/// Keys that are not random, so that two renderings can be compared.
const KEYS: &str = "keys.hash.value=h,keys.audit.value=a";

fn values_in(json: &Value) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("values.yaml");
    fs::write(&path, json.to_string()).expect("JSON is YAML");
    let path = path.to_string_lossy().into_owned();
    (folder, path)
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let path = entry.expect("its entries too").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, target).expect("a file can be copied");
        }
    }
}

/// The chart with another values.yaml, which is what `helm upgrade --reuse-values` renders.
fn chart_with_values(values: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("golectra");
    copy_folder(&chart(), &copy);
    fs::write(copy.join("values.yaml"), values).expect("values.yaml can be written");
    (folder, copy)
}

fn assert_renders_as_default(rendered: Result<String, String>, what: &str) {
    let rendered = rendered.unwrap_or_else(|error| panic!("{what}: {error}"));
    let default = helm_template(&ALL_APIS, &["--set", KEYS]).expect("the defaults render");
    for (line, (is, was)) in rendered.lines().zip(default.lines()).enumerate() {
        assert_eq!(is, was, "{what}: line {line} differs from the default rendering");
    }
    assert_eq!(rendered.lines().count(), default.lines().count(), "{what}");
}

/// Templates cannot read values.yaml, so its data is in a second file.
#[test]
fn the_defaults_of_the_templates_are_those_of_values_yaml() {
    let path = chart().join("files/default-values.yaml");
    let (_, values) = load();
    if update() {
        let data = serde_yaml_ng::to_string(&values).expect("values are YAML");
        let head =
            "# The data of values.yaml, written by the test that compares the two: UPDATE=1 cargo test -p golectra-tests --test bundle\n";
        fs::write(&path, format!("{head}{data}")).expect("the file can be written");
    }
    let copy = parse(&fs::read_to_string(&path).expect("files/default-values.yaml can be read")).remove(0);
    assert_eq!(copy, values, "files/default-values.yaml is behind values.yaml: run this with UPDATE=1");
}

/// Maps that are one value, whose entries the user chooses, and maps that consist of values are told apart by a list in the template.
#[test]
fn the_templates_know_which_maps_are_one_value() {
    let template = fs::read_to_string(chart().join("templates/_values.tpl")).expect("_values.tpl");
    let list = template.lines().find_map(|line| line.split_once("$userMaps := list ")).expect("the list").1;
    let known: BTreeSet<_> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let documented: BTreeSet<_> = documented()
        .into_iter()
        .filter(|(_, default)| default.is_object())
        .map(|(path, _)| path.rsplit('.').next().expect("a name").to_owned())
        .collect();
    assert_eq!(known, documented);
}

/// A template that did not would see values that are missing.
#[test]
fn every_template_completes_the_values_first() {
    let mut folders = vec![chart().join("templates")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("templates can be read") {
            let path = entry.expect("its entries too").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name.starts_with('_') {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a template can be read");
            let first = text.lines().next().unwrap_or_default();
            let expected =
                if name == "validate.yaml" { r#"{{- include "golectra.validate" . -}}"# } else { r#"{{- include "golectra.init" . -}}"# };
            assert_eq!(first, expected, "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 30, "{count} templates");
}

/// `commonLabels:` with nothing behind it, for every value, every section, and every section of a section.
#[test]
fn a_bare_key_means_the_default() {
    if !have_helm() {
        return;
    }
    let documented = documented();
    let values: BTreeSet<_> = documented.iter().map(|(path, _)| path.as_str()).filter(|path| !path.starts_with("keys.")).collect();
    assert!(values.contains("commonLabels") && values.contains("database.cnpg.extraSpec") && values.len() > 100, "{values:?}");
    for depth in 1..=4 {
        let paths: BTreeSet<String> = values
            .iter()
            .filter(|path| path.split('.').count() >= depth)
            .map(|path| path.split('.').take(depth).collect::<Vec<_>>().join("."))
            .collect();
        let (_folder, file) = values_in(&nested(&paths, &Value::Null));
        assert_renders_as_default(helm_template(&ALL_APIS, &["--values", &file, "--set", KEYS]), &format!("{paths:?}"));
    }
}

/// A value at each of these paths.
fn nested(paths: &BTreeSet<String>, value: &Value) -> Value {
    let mut values = json!({});
    for path in paths {
        let mut at = &mut values;
        for part in path.split('.') {
            at = &mut at[part];
        }
        *at = value.clone();
    }
    values
}

/// An entry of a map is the user's: null takes it out, as Helm documents it.
#[test]
fn an_entry_that_is_null_is_left_out() {
    if !have_helm() {
        return;
    }
    let given = json!({
        "server": {"resources": {"limits": null}},
        "database": {"cnpg": {"parameters": {"shared_buffers": null}}},
        "monitoring": {"labels": {"release": null}},
    });
    let (_folder, file) = values_in(&given);
    let objects = parse(&helm_template(&ALL_APIS, &["--values", &file]).unwrap_or_else(|error| panic!("{error}")));
    let resources = &find(&objects, "Deployment/golectra-server")["spec"]["template"]["spec"]["containers"][0]["resources"];
    assert!(resources.get("limits").is_none() && resources["requests"]["cpu"] == "100m", "{resources}");
    assert!(find(&objects, "Cluster/golectra-postgres")["spec"]["postgresql"]["parameters"].get("shared_buffers").is_none());
    assert!(find(&objects, "ServiceMonitor/golectra-server")["metadata"]["labels"].get("release").is_none());
}

/// With `--reuse-values` the values of the installed chart, with what the user had set, take the place of values.yaml. The files are those of earlier
/// commits, unchanged and under their names.
#[test]
fn the_values_of_an_older_chart_render() {
    if !have_helm() {
        return;
    }
    let names = |rendered: Result<String, String>, what: &str| -> Vec<String> {
        parse(&rendered.unwrap_or_else(|error| panic!("{what}: {error}"))).iter().map(name).collect()
    };
    let cases = [
        &[][..],
        &["--set", "database.mode=embedded"],
        &["--set", "database.mode=external,database.external.dsn=postgres://h/d"],
        &["--set", "server.settings.historyRetention=72h,server.replicas=1"],
        &["--set", "server.nodeSelector.disk=ssd,podSecurityContext.runAsUser=1000,networkPolicy.dnsPorts[0]=5353"],
    ];
    let mut files = 0;
    for entry in fs::read_dir(root().join("tests/bundle/older-values")).expect("tests/bundle/older-values can be read") {
        let path = entry.expect("its entries too").path();
        let (_folder, copy) = chart_with_values(&fs::read_to_string(&path).expect("values can be read"));
        for arguments in cases {
            let what = format!("{} {arguments:?}", path.display());
            let older = names(helm_template_of(&copy, &ALL_APIS, arguments), &what);
            assert_eq!(older, names(helm_template(&ALL_APIS, arguments), &what), "{what}");
        }
        files += 1;
    }
    assert!(files >= 2);

    // The oldest chart of all had no value that this one has.
    let (_folder, copy) = chart_with_values("{}\n");
    assert_renders_as_default(helm_template_of(&copy, &ALL_APIS, &["--set", KEYS]), "no values at all");
}

/// A chart that depends on this one, once for each alias.
fn parent(aliases: &[&str], values: &Value) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("parent");
    let dependencies: Vec<_> = aliases
        .iter()
        .map(|alias| json!({"name": "golectra", "version": "0.1.0", "alias": alias, "condition": format!("{alias}.enabled")}))
        .collect();
    copy_folder(&chart(), &path.join("charts/golectra"));
    let definition = json!({"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": dependencies});
    fs::write(path.join("Chart.yaml"), definition.to_string()).expect("Chart.yaml can be written");
    fs::write(path.join("values.yaml"), values.to_string()).expect("values.yaml can be written");
    (folder, path)
}

#[test]
fn it_can_be_a_dependency_with_a_condition_and_global_values() {
    if !have_helm() {
        return;
    }
    let objects = |path: &Path, arguments: &[&str]| {
        let text = helm_template_of(path, &ALL_APIS, arguments).unwrap_or_else(|error| panic!("{error}"));
        let mut objects = parse(&text);
        objects.sort_by_key(name);
        objects
    };
    let keys = json!({"hash": {"value": "h"}, "audit": {"value": "a"}});
    let global = json!({"imageRegistry": "registry.example.com", "nested": {"a": [1]}});
    let alone = objects(&chart(), &["--set", KEYS]);

    let (_folder, path) = parent(&["golectra"], &json!({"global": global, "golectra": {"enabled": true, "keys": keys}}));
    assert_eq!(objects(&path, &[]), alone, "as a dependency it renders what it renders alone");
    assert_eq!(objects(&path, &["--set", "golectra.enabled=false"]), Vec::<Value>::new());

    // Helm has not always removed null values that a parent gives to a dependency.
    let bare = json!({
        "enabled": true, "keys": keys, "commonLabels": null, "agent": {"tolerations": null, "resources": null, "spool": null},
        "database": {"cnpg": {"extraSpec": null}}, "networkPolicy": null,
    });
    let (_folder, path) = parent(&["golectra"], &json!({"global": null, "golectra": bare}));
    assert_eq!(objects(&path, &[]), alone, "bare keys");
}

/// Each has names and keys of its own.
#[test]
fn one_parent_can_have_it_twice() {
    if !have_helm() {
        return;
    }
    let (_folder, path) = parent(&["one", "two"], &json!({"one": {"enabled": true}, "two": {"enabled": true}}));
    let objects = parse(&helm_template_of(&path, &ALL_APIS, &[]).unwrap_or_else(|error| panic!("{error}")));
    let names: BTreeSet<_> = objects.iter().map(name).collect();
    assert_eq!(names.len(), objects.len(), "two objects have one name");
    let key = |alias: &str| text(find(&objects, &format!("Secret/golectra-{alias}-hash-key")), "/data/key").to_owned();
    assert_ne!(key("one"), key("two"), "a key that is generated for one is not the other's");
    for alias in ["one", "two"] {
        let checksum = |workload: &str| {
            let workload =
                find(&objects, &format!("{workload}/golectra-{alias}-{}", if workload == "DaemonSet" { "agent" } else { "server" }));
            text(workload, "/spec/template/metadata/annotations/checksum~1hash-key").to_owned()
        };
        assert_eq!(checksum("DaemonSet"), checksum("Deployment"), "{alias}");
    }
}
