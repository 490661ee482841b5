//! The chart's default images, on every node.

use std::time::{Duration, Instant};

use crate::kube::{root, run};
use crate::{full, say};

/// Enough for a release build without a cache on a small machine.
const BUILD_LIMIT: Duration = Duration::from_mins(40);

/// Builds and loads them with the program in CLUSTER_IMAGE. Without it they must be on the nodes already.
pub async fn ready() {
    let start = Instant::now();
    let options: &[&str] = if full() { &[] } else { &QUICK_BUILD };
    for program in ["server", "agent"] {
        image(&format!("Dockerfile.{program}"), &format!("ghcr.io/golectra/golectra-{program}:{}", version()), options).await;
    }
    say(&format!("the images are ready after {:.0} s", start.elapsed().as_secs_f64()));
}

/// The programs of the short form are built in half the time: no figure is measured there.
const QUICK_BUILD: [&str; 4] = ["--build-arg", "CARGO_PROFILE_RELEASE_LTO=off", "--build-arg", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16"];

/// Builds one image with options of the builder and loads it on every node. False if CLUSTER_IMAGE is not set.
pub async fn image(dockerfile: &str, tag: &str, options: &[&str]) -> bool {
    let Some(program) = std::env::var("CLUSTER_IMAGE").ok().filter(|program| !program.is_empty()) else { return false };
    run(&program, &[&[dockerfile, tag], options].concat(), None, BUILD_LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    true
}

/// The chart's appVersion, which is the default tag.
fn version() -> String {
    let chart = std::fs::read_to_string(root().join("charts/golectra/Chart.yaml")).expect("the chart can be read");
    let line = chart.lines().find_map(|line| line.strip_prefix("appVersion: ")).expect("a version");
    line.trim_matches('"').to_owned()
}
