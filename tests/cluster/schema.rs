//! The API server accepts every object that the chart and the kustomize folders can render. It checks them against its schemas and
//! those of the operators in a dry run.

use std::time::Duration;

use crate::kube::{Namespace, root, run};
use crate::{say, turn};

const LIMIT: Duration = Duration::from_mins(3);

/// API groups that a cluster may lack.
const OPTIONAL: [&str; 3] = ["gateway.networking.k8s.io/v1", "monitoring.coreos.com/v1", "postgresql.cnpg.io/v1"];

#[tokio::test(flavor = "multi_thread")]
async fn every_rendering_is_accepted() {
    let Some(_turn) = turn().await else { return };
    let namespace = Namespace::admitting("privileged", "schema").await;
    let known = run("kubectl", &["api-versions"], None, LIMIT).await.expect("kubectl lists the API versions");
    let known: Vec<_> = OPTIONAL.into_iter().filter(|group| known.lines().any(|line| line == *group)).collect();
    let take = async |what: &str, manifest: &str| {
        let apply = ["--namespace", namespace.name(), "apply", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"];
        let taken = run("kubectl", &apply, Some(manifest), LIMIT).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let objects = taken.lines().filter(|line| line.contains('/')).count();
        assert!(objects >= 5, "{what}: the cluster checked {objects} objects: {taken}");
        objects
    };

    let mut objects = 0;
    let mut files: Vec<_> =
        std::fs::read_dir(root().join("charts/golectra/ci")).expect("files").map(|file| file.expect("a file").path()).collect();
    files.sort();
    for file in files {
        let file = file.to_str().expect("text");
        let mut template = vec!["template", "golectra", "charts/golectra", "--namespace", namespace.name(), "--values", file];
        template.extend(known.iter().flat_map(|group| ["--api-versions", group]));
        let manifest = run("helm", &template, None, LIMIT).await.unwrap_or_else(|error| panic!("{file}: {error}"));
        objects += take(file, &manifest).await;
    }
    for folder in ["base", "overlays/embedded", "overlays/external", "overlays/monitored"] {
        let manifest =
            run("kubectl", &["kustomize", &format!("k8s/{folder}")], None, LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        objects += take(folder, &manifest).await;
    }
    let left_out: Vec<_> = OPTIONAL.into_iter().filter(|group| !known.contains(group)).collect();
    say(&format!("the cluster accepts {objects} objects; it lacks the groups {left_out:?}"));
}
