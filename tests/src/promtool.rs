//! Checks with Prometheus's promtool.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::skip;

/// Checks an answer of /metrics with promtool; skips the check with a message if promtool is not installed.
pub fn promtool(text: &str) {
    let run =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut run) = run else { return skip("promtool is not installed; it comes with Debian's package prometheus") };
    run.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let outcome = run.wait_with_output().expect("promtool ends");
    assert!(outcome.status.success(), "{}{}", String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
}
