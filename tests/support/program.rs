//! Programs: run to their end with their output, or in the background with a log file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::wait::eventually;

/// What a program that ran to its end gave.
#[derive(Debug)]
pub struct Ran {
    /// Whether its exit code was 0.
    pub ok: bool,
    /// Its exit code, where it was not ended by a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// The output of a program that must succeed.
    #[track_caller]
    pub fn expect_ok(self) -> String {
        assert!(
            self.ok,
            "exit {:?}\n{}\n{}",
            self.code, self.stdout, self.stderr
        );
        self.stdout
    }
}

/// Runs `command` to its end.
pub fn run(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    Ran {
        ok: status.success(),
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Runs a program by words; panics where it fails.
#[track_caller]
pub fn sh(words: &[&str]) -> String {
    run(Command::new(words[0]).args(&words[1..])).expect_ok()
}

/// A program in the background.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts `command`; what it prints goes to the end of `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the end; its exit code.
    pub fn terminate(mut self, limit: Duration) -> Option<i32> {
        signal(self.pid(), libc::SIGTERM);
        let log = self.log.clone();
        eventually("end after SIGTERM", limit, || {
            match self.child.try_wait().unwrap() {
                Some(status) => Ok(status.code()),
                None => Err(tail(&log)),
            }
        })
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

/// Sends a signal to one process that the test started.
pub fn signal(pid: i32, number: i32) {
    // The process may have ended already.
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::try_from(number).unwrap(),
    );
}

/// The last lines of a file; empty where there is none.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
