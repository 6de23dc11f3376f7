//! The command line: flags, environment and files become a configuration, a configuration becomes
//! a running server or agent, and every failure becomes one line on stderr and an exit code.
//!
//! Exit codes: 0, 1 for a failure while running, 64 for a wrong flag or configuration.

mod args;
mod check;
mod config_file;
mod explain;
mod node;
mod output;
mod peers;
mod run;
mod snapshot;
mod status;
mod target;
mod token;
mod wire;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command as Clap, CommandFactory, FromArgMatches};

use self::args::{Cli, Command, LogArgs, LogFormat};
use crate::agent::sys::process::{HOLD_COMMAND, hold};
use crate::util::log;

/// A wrong flag or configuration.
const USAGE: u8 = 64;

/// How a command fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was opened: a flag, variable or file is wrong.
    Usage(anyhow::Error),
    /// Something failed on the way.
    Running(anyhow::Error),
}

/// Wraps what is wrong with a flag.
pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Failure {
    Failure::Usage(error.into())
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Running(error.into())
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    if let Some(code) = helper() {
        return code;
    }
    // One provider for the whole process; a second call would find it installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(Stopped::Clap(error)) => return print_clap(&error),
        Err(Stopped::File(error)) => {
            output::error(&anyhow::Error::new(error));
            return ExitCode::from(USAGE);
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => {
            output::error(&error);
            ExitCode::from(USAGE)
        }
        Err(Failure::Running(error)) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Server(args) => {
            start_log(&args.log)?;
            run::server(*args)
        }
        Command::Agent(args) => {
            start_log(&args.log)?;
            run::agent(*args)
        }
        Command::Token(args) => token::run(args),
        Command::Status(args) => status::run(&args),
        Command::Explain(args) => explain::run(args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Check(args) => check::run(&args),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut root(), "orch", &mut std::io::stdout());
            Ok(())
        }
        Command::Version => {
            output::line(format_args!("orch {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    }
}

fn start_log(args: &LogArgs) -> Result<(), Failure> {
    let format = match args.log_format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    log::init(format, &args.log_level).map_err(|error| {
        usage(anyhow::anyhow!(
            "invalid value `{}` for `--log-level`: {error}",
            args.log_level
        ))
    })
}

/// The program's other lives: what stands beside containers is small and quick to start, so
/// nothing else is set up for it.
fn helper() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    let first = words.next()?;
    if first == crate::runtime::log::SUBCOMMAND {
        return Some(crate::runtime::log::main(&words.next().unwrap_or_default()));
    }
    (first == HOLD_COMMAND).then(|| hold(&words.collect::<Vec<_>>()))
}

enum Stopped {
    Clap(clap::Error),
    File(config_file::Error),
}

fn parse(words: Vec<OsString>) -> Result<Cli, Stopped> {
    let matches = root().try_get_matches_from(&words).map_err(Stopped::Clap)?;
    let matches = match with_files(&matches, &words)? {
        Some(words) => root().try_get_matches_from(words).map_err(Stopped::Clap)?,
        None => matches,
    };
    Cli::from_arg_matches(&matches).map_err(Stopped::Clap)
}

/// The words with what the configuration files add, where the command takes such files.
fn with_files(matches: &ArgMatches, words: &[OsString]) -> Result<Option<Vec<OsString>>, Stopped> {
    let Some((name @ ("server" | "agent"), matches)) = matches.subcommand() else {
        return Ok(None);
    };
    let root = root();
    let Some(command) = root.find_subcommand(name) else {
        return Ok(None);
    };
    let added = config_file::arguments(command, matches).map_err(Stopped::File)?;
    Ok(Some(words.iter().cloned().chain(added).collect()))
}

/// The command tree, with an environment variable for every flag of the long-running commands.
fn root() -> Clap {
    ["server", "agent"]
        .into_iter()
        .fold(Cli::command(), |root, name| {
            root.mut_subcommand(name, |command| command.mut_args(with_variable))
        })
}

fn with_variable(argument: clap::Arg) -> clap::Arg {
    let name = match argument.get_long() {
        None | Some("help" | "version") => return argument,
        Some("log-level") => "ORCH_LOG".to_owned(),
        Some(long) => format!("ORCH_{}", long.to_uppercase().replace('-', "_")),
    };
    // clap keeps names for the life of the process; there is a fixed number of them.
    let name: &'static str = Box::leak(name.into_boxed_str());
    argument.env(name).hide_env(true)
}

fn print_clap(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell where printing fails.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        root().debug_assert();
    }

    #[test]
    fn repeated_flags_and_defaults_are_read() {
        let words = [
            "orch",
            "server",
            "--config=/dev/null",
            "--tls-san=a",
            "--tls-san",
            "b",
        ];
        let Ok(cli) = parse(words.into_iter().map(OsString::from).collect()) else {
            panic!("not parsed");
        };
        let Command::Server(server) = cli.command else {
            panic!("not a server")
        };
        assert_eq!(server.tls_san, ["a", "b"]);
        assert_eq!(server.cluster_cidr, "10.244.0.0/16");
    }
}
