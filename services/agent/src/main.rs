//! golectra-agent: reads the settings, sets up telemetry and a runtime of one thread, and runs the agent; or, called with `doctor`,
//! says what an agent could read here.

use std::process::ExitCode;

use golectra_agent::config::Settings;
use golectra_agent::{allocator, doctor, runtime};
use golectra_process::{banner, telemetry};

fn main() -> ExitCode {
    allocator::keep_heap_small();
    if std::env::args_os().nth(1).is_some_and(|first| first == "doctor") {
        let settings = Settings::load_from("golectra-agent doctor", std::env::args_os().skip(2));
        return doctor::main(&settings);
    }
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
            tracing::error!(target: telemetry::UNFILTERED, %error, "the agent cannot start");
            // The same exit code as for a bad value.
            if error.is_of_settings() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    };
    telemetry.shutdown();
    code
}
