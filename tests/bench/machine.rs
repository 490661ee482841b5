//! What it was measured on and with: figures without that say nothing.

use std::path::Path;
use std::process::Command;

use golectra_tests::runtime;
use sqlx::Connection as _;

/// The lock file of the workspace: which versions the echo and the servers are built of.
const LOCK: &str = include_str!("../../Cargo.lock");

/// The machine and the versions, as lines of a list.
pub fn describe(database_url: Option<&str>) -> Vec<String> {
    let processors = read("/proc/cpuinfo");
    let model = field(&processors, "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
    let profile = if cfg!(debug_assertions) { "without optimisation: these figures say nothing" } else { "optimised" };
    let mut lines = vec![
        format!("date: {}", first_line(Command::new("date").args(["-u", "+%Y-%m-%d"]))),
        format!("machine: {model}, {cores} cores, {} GiB, Linux {}", memory.unwrap_or(0) >> 20, read("/proc/sys/kernel/osrelease").trim()),
        format!("load average at the start: {}", read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")),
        format!("files and database on: {}", first_line(Command::new("stat").args(["-f", "-c", "%T", "--"]).arg(std::env::temp_dir()))),
        format!("commit: {}", first_line(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]))),
        format!("built by {}, {profile}", first_line(Command::new("rustc").arg("--version"))),
        ["axum", "hyper", "tokio", "sqlx"].map(|name| format!("{name} {}", locked(name))).join(", "),
    ];
    if let Some(url) = database_url {
        lines.push(postgres(url));
    }
    for (package, path) in [
        ("victoria-metrics", "/usr/bin/victoria-metrics"),
        ("prometheus-pushgateway", "/usr/bin/prometheus-pushgateway"),
        ("prometheus", "/usr/bin/prometheus"),
    ] {
        let version = || first_line(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]));
        lines.push(if Path::new(path).is_file() { format!("{package} {}", version()) } else { format!("{package}: not installed") });
    }
    lines
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned()))
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let line = output.and_then(|output| Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned()));
    line.filter(|line| !line.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

fn locked(name: &str) -> &str {
    let entry = LOCK.split("[[package]]").find(|entry| entry.trim_start().starts_with(&format!("name = \"{name}\"\n")));
    entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next()).unwrap_or("unknown")
}

fn postgres(url: &str) -> String {
    let url = url.to_owned();
    let version = runtime().block_on(async move {
        let mut connection = sqlx::PgConnection::connect(&url).await?;
        let query = "SELECT 'PostgreSQL ' || current_setting('server_version') || ', fsync ' || current_setting('fsync') \
                     || ', synchronous_commit ' || current_setting('synchronous_commit') || ', shared_buffers ' || current_setting('shared_buffers')";
        let (text,): (String,) = sqlx::query_as(query).fetch_one(&mut connection).await?;
        Ok::<_, sqlx::Error>(text)
    });
    version.unwrap_or_else(|error| format!("PostgreSQL: {error}"))
}
