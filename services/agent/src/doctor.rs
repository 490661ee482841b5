//! `golectra-agent doctor`: says in words what an agent with these settings can and cannot read here, and why.
//!
//! It changes nothing and may run beside an agent. Each finding is a line on stdout; the exit code is 1 when something that the
//! settings ask for is missing.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use golectra_process::output::{print_error_line, print_line};
use golectra_process::{Keys, install_crypto};
use rustix::fs::{Access, access};

use crate::collect::kubelet::{Check, Finding, State};
use crate::collect::{self, scrape};
use crate::config::Settings;

/// How long the server may take to answer.
const SERVER_LIMIT: Duration = Duration::from_secs(5);

/// Examines this machine and prints the findings.
pub fn main(settings: &Settings) -> ExitCode {
    let runtime = match crate::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error_line(&format!("golectra-agent doctor: the event loop could not be created: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let findings = runtime.block_on(examine(settings));
    runtime.shutdown_background();
    for finding in &findings {
        if print_line(&line(finding)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    let missing = findings.iter().filter(|finding| finding.state == State::Missing).count();
    if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(finding: &Finding) -> String {
    let state = match finding.state {
        State::Works => "ok",
        State::Note => "note",
        State::Missing => "MISSING",
    };
    format!("{state:8}{:12} {}", finding.subject, finding.text)
}

/// Everything that is found.
pub async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![Finding::new(State::Note, "source", format!("this agent reports as {}", settings.source()))];
    findings.push(server(settings).await);
    findings.push(keys(settings));
    findings.push(spool(settings.spool_dir.as_deref()));
    findings.extend(system());
    findings.push(folder("HOST_PROC", settings.host_proc.as_deref(), "1/net/dev", "the traffic of the node's network interfaces"));
    findings.push(folder("HOST_ROOT", settings.host_root.as_deref(), "etc", "each of the node's filesystems"));
    let source = settings.source();
    findings.extend(settings.host(&source).textfile_folders.iter().flat_map(|folder| collect::textfile_findings(folder)));
    findings.extend(scrape::findings(settings.scrape_settings(&source)).await);
    if settings.scrape_pods && settings.kubelet_url.is_none() {
        findings.push(Finding::new(State::Missing, "scrape", "SCRAPE_PODS needs KUBELET_URL, which is not set"));
    }
    match settings.kubelet() {
        Some(kubelet) => findings.extend(Check::new(kubelet).run().await),
        None if settings.pods_details => {
            findings.push(Finding::new(State::Missing, "kubelet", "PODS_DETAILS needs KUBELET_URL, which is not set"));
        }
        None => findings.push(Finding::new(State::Note, "kubelet", "KUBELET_URL is not set: pods and volumes stay invisible")),
    }
    findings
}

async fn server(settings: &Settings) -> Finding {
    install_crypto();
    let mut builder = reqwest::Client::builder().timeout(SERVER_LIMIT).redirect(reqwest::redirect::Policy::none());
    if !settings.address.is_https() {
        builder = builder.tls_certs_only([]);
    }
    if settings.address.is_loopback() {
        builder = builder.no_proxy();
    }
    let answer = match builder.build() {
        Ok(http) => http.get(settings.address.ping()).send().await,
        Err(error) => Err(error),
    };
    let address = &settings.address;
    match answer {
        Ok(answer) if answer.status().is_success() => Finding::new(State::Works, "server", format!("{address} takes reports")),
        Ok(answer) => {
            let status = answer.status().as_u16();
            Finding::new(
                State::Missing,
                "server",
                format!("{address} answers /ping with status {status}: reports wait until it takes them"),
            )
        }
        Err(error) => {
            let text = crate::sender::with_causes(&error);
            Finding::new(State::Missing, "server", format!("{address} cannot be reached: {text}; check ADDRESS and the network policy"))
        }
    }
}

fn keys(settings: &Settings) -> Finding {
    match Keys::open(settings.key.as_ref(), settings.keys_dir.as_deref()) {
        Err(error) => Finding::new(State::Missing, "keys", error.to_string()),
        Ok(keys) => match keys.signing_id(settings.signing_key_id.as_ref()) {
            Err(error) => Finding::new(State::Missing, "keys", error.to_string()),
            Ok(None) => Finding::new(State::Note, "keys", "reports are not signed: KEY is not set"),
            Ok(Some(id)) if keys.get(id.as_str()).is_none() => {
                Finding::new(State::Missing, "keys", format!("KEYS_DIR has no key {id}, which SIGNING_KEY_ID names"))
            }
            Ok(Some(id)) => Finding::new(State::Works, "keys", format!("reports are signed with the key {id}")),
        },
    }
}

fn spool(folder: Option<&Path>) -> Finding {
    let Some(folder) = folder else {
        return Finding::new(State::Note, "spool", "SPOOL_DIR is not set: reports wait in memory and are lost with the process");
    };
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::new(State::Works, "spool", format!("{} can be written", folder.display())),
        Err(error) => Finding::new(State::Missing, "spool", format!("{} cannot be written: {error}", folder.display())),
    }
}

/// What the kernel shows of the node to every process.
fn system() -> Vec<Finding> {
    let readable = |path: &str| File::open(path).map(drop);
    let mut findings = Vec::new();
    for (path, what) in [("/proc/stat", "processors"), ("/proc/meminfo", "memory"), ("/proc/diskstats", "disks")] {
        findings.push(match readable(path) {
            Ok(()) => Finding::new(State::Works, "proc", format!("{path} can be read: {what}")),
            Err(error) => Finding::new(State::Missing, "proc", format!("{path} cannot be read: {error}: {what} stay invisible")),
        });
    }
    findings.push(match readable("/proc/pressure/cpu") {
        Ok(()) => Finding::new(State::Works, "pressure", "/proc/pressure can be read"),
        Err(error) => {
            Finding::new(State::Note, "pressure", format!("/proc/pressure cannot be read: {error}: the kernel has no PSI, or it is off"))
        }
    });
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "version 2"
    } else if Path::new("/sys/fs/cgroup/memory").exists() {
        "version 1: the kubelet tells no pressure of containers"
    } else {
        "/sys/fs/cgroup is not mounted"
    };
    findings.push(Finding::new(State::Note, "cgroup", version));
    findings
}

/// A folder of the node that may be mounted here.
fn folder(variable: &str, folder: Option<&Path>, inside: &str, what: &str) -> Finding {
    let subject = if variable == "HOST_PROC" { "host /proc" } else { "host /" };
    let Some(folder) = folder else {
        return Finding::new(
            State::Note,
            subject,
            format!("{variable} is not set: {what} come from the kubelet, or from this machine itself"),
        );
    };
    let path = folder.join(inside);
    match std::fs::metadata(&path) {
        Ok(_) => Finding::new(State::Works, subject, format!("{} is there: {what}", path.display())),
        Err(error) => {
            Finding::new(State::Missing, subject, format!("{} cannot be read: {error}; mount it or unset {variable}", path.display()))
        }
    }
}
