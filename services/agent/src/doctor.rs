//! `golectra-agent doctor`: says in words what an agent with these settings can and cannot read here, and why.
//!
//! It changes nothing and may run beside an agent. Each finding is a line on stdout; the exit code is 1 when something that the
//! settings ask for is missing. Such a line says what is wrong, where, and what to do about it.

mod machine;
mod server;

use std::process::ExitCode;

use golectra_process::output::{print_error_line, print_line};

use crate::StartError;
use crate::collect::kubelet::{Check, Finding, State};
use crate::collect::{self, scrape};
use crate::config::Settings;

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
    let source = settings.source();
    let host = settings.host(&source);
    let mut findings = vec![Finding::new(State::Note, "source", format!("this agent reports as {source}"))];
    findings.extend(server::findings(settings).await);
    findings.push(machine::spool(settings));
    findings.extend(machine::kernel(&host.paths));
    findings.push(machine::network(settings, &host.paths));
    findings.push(machine::filesystems(settings, &host.paths));
    findings.extend(host.textfile_folders.iter().flat_map(|folder| collect::textfile_findings(folder)));
    findings.extend(scrape::findings(settings.scrape_settings(&source)).await);
    let needs_kubelet = |setting: &str| {
        format!("{setting} needs the kubelet, and KUBELET_URL is not set: set it, such as to https://10.0.0.1:10250, or unset {setting}")
    };
    if settings.scrape_pods && settings.kubelet_url.is_none() {
        findings.push(Finding::new(State::Missing, "scrape", needs_kubelet("SCRAPE_PODS")));
    }
    match settings.kubelet() {
        Some(_) if settings.verifies_without_tls() => {
            findings.push(Finding::new(State::Missing, "kubelet", StartError::KubeletTls.to_string()));
        }
        Some(kubelet) => findings.extend(Check::new(kubelet).run().await),
        None if settings.pods_details => findings.push(Finding::new(State::Missing, "kubelet", needs_kubelet("PODS_DETAILS"))),
        None => {
            let text = "KUBELET_URL is not set: pods and volumes are not reported; a node of Kubernetes has it at https://ADDRESS:10250";
            findings.push(Finding::new(State::Note, "kubelet", text));
        }
    }
    findings
}
