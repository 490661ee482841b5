//! The chart's default images, on every node.

use std::time::{Duration, Instant};

use crate::kube::{root, run};
use crate::say;

/// Enough for a release build without a cache on a small machine.
const BUILD_LIMIT: Duration = Duration::from_mins(40);

/// Builds and loads them with the program in CLUSTER_IMAGE. Without it they must be on the nodes already.
pub async fn ready() {
    let start = Instant::now();
    for program in ["server", "agent"] {
        image(&format!("Dockerfile.{program}"), &format!("ghcr.io/golectra/golectra-{program}:{}", version())).await;
    }
    say(&format!("the images are ready after {:.0} s", start.elapsed().as_secs_f64()));
}

/// Builds one image and loads it on every node. False if CLUSTER_IMAGE is not set.
pub async fn image(dockerfile: &str, tag: &str) -> bool {
    let Some(program) = std::env::var("CLUSTER_IMAGE").ok().filter(|program| !program.is_empty()) else { return false };
    run(&program, &[dockerfile, tag], None, BUILD_LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    true
}

/// The chart's appVersion, which is the default tag.
fn version() -> String {
    let chart = std::fs::read_to_string(root().join("charts/golectra/Chart.yaml")).expect("the chart can be read");
    let line = chart.lines().find_map(|line| line.strip_prefix("appVersion: ")).expect("a version");
    line.trim_matches('"').to_owned()
}
