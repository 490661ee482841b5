//! golectra-audit-sink, as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    golectra_audit_sink::main()
}
