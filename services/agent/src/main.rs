//! golectra-agent: settings, telemetry, a runtime of one thread, and then the agent itself.

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
        // A name that is still being looked up must not hold up the end.
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
