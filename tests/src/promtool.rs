//! Checks of /metrics: with Prometheus's promtool, and against the list in docs/monitoring.md.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Checks an answer of /metrics with promtool; where promtool is not installed a message says that it was not checked.
pub fn promtool(text: &str) {
    let run =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut run) = run else {
        // It is a part of a test, which goes on: so it is no test that is left out.
        let missing = "promtool is not installed; it comes with Debian's package prometheus";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "with CI=true no check may be left out, but {missing}");
        let _ = writeln!(std::io::stderr(), "not checked: {missing}");
        return;
    };
    run.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let outcome = run.wait_with_output().expect("promtool ends");
    assert!(outcome.status.success(), "{}{}", String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
}

/// Checks that docs/monitoring.md lists each of golectra's own metrics of an answer of /metrics.
pub fn listed_in_monitoring(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring.md");
    let list = std::fs::read_to_string(path).expect("docs/monitoring.md is there");
    let is_of_a_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    let listed: Vec<&str> = list.split(|byte| !is_of_a_name(byte)).collect();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<&str> = families.filter(|name| name.starts_with("golectra_") && !listed.contains(name)).collect();
    assert!(missing.is_empty(), "docs/monitoring.md does not list {missing:?}");
}
