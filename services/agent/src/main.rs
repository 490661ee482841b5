//! golectra-agent: reads the settings, sets up telemetry and a runtime of one thread, and runs the agent.

use std::process::ExitCode;

use golectra_agent::config::Settings;
use golectra_agent::{allocator, runtime};
use golectra_process::{banner, telemetry};

fn main() -> ExitCode {
    allocator::keep_one_arena();
    let settings = Settings::load("golectra-agent");
    banner::print();
    let telemetry = telemetry::init("golectra-agent");
    let ended = runtime().map_err(golectra_agent::StartError::Runtime).and_then(|runtime| {
        let ended = runtime.block_on(golectra_agent::run(settings));
        // A name lookup in progress must not delay the end of the process.
        runtime.shutdown_background();
        ended
    });
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the agent cannot start");
            ExitCode::FAILURE
        }
    };
    telemetry.shutdown();
    code
}
