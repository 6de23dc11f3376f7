//! The command line.

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    // Before anything else: the log program stands beside every container and must stay small.
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(crate::runtime::log::SUBCOMMAND) {
        return crate::runtime::log::main(&args.next().unwrap_or_default());
    }
    ExitCode::SUCCESS
}
