//! skaffold.yaml: its Dockerfiles exist, its images are the chart's, and the chart accepts its values.

use serde_json::Value;

use crate::render::{ALL_APIS, chart, find, have_helm, parse, rendered, root, text};

/// The values that skaffold passes to helm, with a tag as it makes them.
fn set_values(release: &Value, more: Option<(&str, &str)>) -> Vec<String> {
    let templates = release["setValueTemplates"].as_object().expect("templates");
    let mut set: Vec<_> = templates
        .iter()
        .map(|(key, template)| {
            let template = template.as_str().expect("text");
            let (what, image) =
                template.strip_prefix("{{.IMAGE_").and_then(|rest| rest.strip_suffix("}}")?.split_once('_')).expect("an image");
            // In skaffold's variables an image's name has an underscore for every character that is not a letter or a digit.
            let image = image.replace("ghcr_io_golectra_golectra_", "ghcr.io/golectra/golectra-");
            match what {
                "REPO" => format!("{key}={image}"),
                "TAG" => format!("{key}=dev-1"),
                other => panic!("{key}: skaffold knows no IMAGE_{other}"),
            }
        })
        .collect();
    set.extend(release["setValues"].as_object().expect("values").iter().map(|(key, value)| match value {
        Value::String(text) => format!("{key}={text}"),
        other => format!("{key}={other}"),
    }));
    set.extend(more.map(|(key, value)| format!("{key}={value}")));
    set
}

#[test]
fn skaffold_builds_and_installs_this_chart() {
    let text_of = std::fs::read_to_string(root().join("skaffold.yaml")).expect("skaffold.yaml");
    let config = parse(&text_of).remove(0);
    let artifacts = config["build"]["artifacts"].as_array().expect("artifacts");
    for artifact in artifacts {
        let dockerfile = text(artifact, "/docker/dockerfile");
        assert!(root().join(dockerfile).is_file(), "{dockerfile} does not exist");
    }
    let release = &config["deploy"]["helm"]["releases"][0];
    assert_eq!(root().join(text(release, "/chartPath")), chart());
    if !have_helm() {
        return;
    }
    let patch = &config["profiles"][0]["patches"][0];
    let key = text(patch, "/path").rsplit('/').next().expect("a key");
    for more in [None, Some((key, text(patch, "/value")))] {
        let set = set_values(release, more);
        let arguments: Vec<_> = set.iter().flat_map(|value| ["--set", value]).collect();
        // The schema refuses values that the chart does not have.
        let objects = rendered(&ALL_APIS, &arguments);
        for (workload, image) in [("Deployment/golectra-server", 0), ("DaemonSet/golectra-agent", 1), ("Deployment/golectra-audit-sink", 0)]
        {
            let built = text(&artifacts[image], "/image");
            let runs = text(find(&objects, workload), "/spec/template/spec/containers/0/image");
            assert_eq!(runs, format!("{built}:dev-1"), "{workload} runs what skaffold built");
        }
        assert_eq!(more.is_some(), !objects.iter().any(|object| text(object, "/kind") == "Cluster"));
    }
    let forward = &config["portForward"][0];
    assert_eq!((text(forward, "/resourceName"), text(forward, "/port")), ("golectra-server", "http"));
}
