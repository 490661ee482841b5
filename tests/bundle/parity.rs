//! k8s/ and the chart render the same objects, except for Helm's own labels and annotations.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::render::{find, have, have_helm, kustomized, name, rendered, root, text};

const CNPG: &str = "postgresql.cnpg.io/v1";

/// Removes what only Helm uses, and sorts lists whose order has no meaning.
fn plain(mut object: Value) -> (String, Value) {
    for pointer in ["/metadata", "/spec/template/metadata"] {
        let Some(metadata) = object.pointer_mut(pointer) else { continue };
        if let Some(labels) = metadata["labels"].as_object_mut() {
            labels.remove("helm.sh/chart");
            labels.remove("app.kubernetes.io/managed-by");
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.starts_with("helm.sh/") && !key.starts_with("checksum/"));
            if annotations.is_empty() {
                metadata.as_object_mut().expect("metadata is an object").remove("annotations");
            }
        }
    }
    if let Some(pod) = object.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) {
        if pod.get("volumes").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            pod.remove("volumes");
        }
        let container = &mut pod["containers"][0];
        if container["volumeMounts"].as_array().is_some_and(Vec::is_empty) {
            container.as_object_mut().expect("a container is an object").remove("volumeMounts");
        }
        container["env"].as_array_mut().expect("variables").sort_by_key(|variable| text(variable, "/name").to_owned());
    }
    (name(&object), object)
}

fn assert_equal(folder: &str, apis: &[&str], set: &[&str]) {
    if !have_helm() || !have("kubectl", "help") {
        return;
    }
    let mut arguments =
        vec!["--no-hooks", "--set", "keys.hash.existingSecret.name=golectra-hash-key,keys.audit.existingSecret.name=golectra-audit-key"];
    for value in set {
        arguments.extend(["--set", value]);
    }
    let chart: BTreeMap<_, _> = rendered(apis, &arguments).into_iter().map(plain).collect();
    let kustomize: BTreeMap<_, _> = kustomized(folder).into_iter().map(plain).collect();
    assert_eq!(chart.keys().collect::<Vec<_>>(), kustomize.keys().collect::<Vec<_>>(), "k8s/{folder} and the chart have different objects");
    for (name, object) in &chart {
        assert_eq!(object, &kustomize[name], "{name}: the chart (left) and k8s/{folder} (right) differ");
    }
}

#[test]
fn base() {
    assert_equal("base", &[CNPG], &[]);
}

#[test]
fn monitored() {
    assert_equal("overlays/monitored", &[CNPG, "monitoring.coreos.com/v1"], &[]);
}

#[test]
fn textfile() {
    assert_equal("overlays/textfile", &[CNPG], &["agent.textfile.hostPath=/var/lib/node_exporter/textfile_collector"]);
}

#[test]
fn access() {
    assert_equal("overlays/access", &[CNPG], &["server.apiTokens.existingSecret.name=golectra-api-tokens"]);
}

#[test]
fn external() {
    assert_equal("overlays/external", &[], &["database.mode=external", "database.external.existingSecret.name=golectra-database"]);
}

#[test]
fn embedded() {
    assert_equal("overlays/embedded", &[], &["database.mode=embedded"]);
}

/// The components mount their files where the server is told to look for them, in each of the folders.
#[test]
fn components() {
    if !have("kubectl", "help") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("it is there");
    // kustomize takes relative paths alone.
    let up = "../".repeat(folder.components().count() - 1);
    let k8s = format!("{}{}", up.trim_end_matches('/'), root().join("k8s").canonicalize().expect("it is there").display());
    for base in ["base", "overlays/external", "overlays/embedded"] {
        let kustomization =
            format!("resources: [{k8s}/{base}]\ncomponents: [{k8s}/components/access, {k8s}/components/alerts, {k8s}/components/panels]\n");
        std::fs::write(folder.join("kustomization.yaml"), kustomization).expect("our own folder");
        let objects = kustomized(&folder.display().to_string());
        let pod = &find(&objects, "Deployment/golectra-server")["spec"]["template"]["spec"];
        let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}")).clone();
        let (variables, mounts, volumes) = (list("/containers/0/env"), list("/containers/0/volumeMounts"), list("/volumes"));
        let variable = |wanted: &str| {
            let found = variables.iter().find(|variable| variable["name"] == wanted);
            text(found.unwrap_or_else(|| panic!("{base}: {wanted}")), "/value").to_owned()
        };
        assert_eq!(variable("EXTERNAL_URL"), "", "{base}: it is there to be filled in");
        for (setting, file) in [("PANELS_DIR", "/panels.yaml"), ("RULES_DIR", "/rules.yaml")] {
            let mount = mounts.iter().find(|mount| text(mount, "/mountPath") == variable(setting)).expect("the mount");
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("the volume");
            let data = &find(&objects, &format!("ConfigMap/{}", text(volume, "/configMap/name")))["data"];
            assert!(data.pointer(file).is_some_and(Value::is_string), "{base}: {data}");
        }
        let tokens = volumes.iter().find(|volume| volume["name"] == "api-tokens").expect("the tokens");
        let mount = mounts.iter().find(|mount| mount["name"] == "api-tokens").expect("their mount");
        assert_eq!(text(tokens, "/secret/secretName"), "golectra-api-tokens", "{base}");
        assert_eq!(
            variable("API_TOKENS_FILE"),
            format!("{}/{}", text(mount, "/mountPath"), text(tokens, "/secret/items/0/path")),
            "{base}"
        );
    }
}
