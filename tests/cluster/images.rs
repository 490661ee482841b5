//! The images that the chart names by default, put on every node.

use std::time::{Duration, Instant};

use crate::kube::{root, run};
use crate::say;

/// A release build of everything from nothing, on a small machine.
const BUILD_LIMIT: Duration = Duration::from_mins(40);

/// Builds and loads them, where CLUSTER_IMAGE names a program that can; elsewhere they have to be there.
pub async fn ready() {
    let start = Instant::now();
    for program in ["server", "agent"] {
        image(&format!("Dockerfile.{program}"), &format!("ghcr.io/golectra/golectra-{program}:{}", version())).await;
    }
    say(&format!("the images are there after {:.0} s", start.elapsed().as_secs_f64()));
}

/// Builds one image and puts it on every node; false where nothing here can.
pub async fn image(dockerfile: &str, tag: &str) -> bool {
    let Some(program) = std::env::var("CLUSTER_IMAGE").ok().filter(|program| !program.is_empty()) else { return false };
    run(&program, &[dockerfile, tag], None, BUILD_LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    true
}

/// The version that the chart asks for.
fn version() -> String {
    let chart = std::fs::read_to_string(root().join("charts/golectra/Chart.yaml")).expect("the chart can be read");
    let line = chart.lines().find_map(|line| line.strip_prefix("appVersion: ")).expect("a version");
    line.trim_matches('"').to_owned()
}
