//! golectra-audit-sink: settings, banner, telemetry, and then the sink itself.

use std::process::ExitCode;

use golectra_audit_sink::config::Settings;
use golectra_process::{banner, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = Settings::load("golectra-audit-sink");
    banner::print();
    let telemetry = telemetry::init("golectra-audit-sink");
    let code = match golectra_audit_sink::run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the audit sink cannot start");
            ExitCode::FAILURE
        }
    };
    telemetry.shutdown();
    code
}
