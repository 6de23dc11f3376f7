//! Processes of the host: when one was started; and the first process of a new process namespace.

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot};

/// First argument that makes this program hold a process namespace; see [`hold`].
pub const HOLD_COMMAND: &str = "hold-processes";

/// Second argument of the process inside.
const INSIDE: &str = "--inside";

/// When a process was started, in ticks since the start of the machine; `None`: there is none, or
/// it has ended and waits to be collected.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// `PROGRAM hold-processes FOLDER`: makes a process namespace with a first process that does
/// nothing but collect what ends in it, prints that process's number on the host and returns. The
/// process sees nothing but the empty `FOLDER`. `args` are those after `hold-processes`.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the number is this command's answer to the agent that called it"
)]
pub fn hold(args: &[String]) -> ExitCode {
    let result = match args {
        [inside, folder] if inside == INSIDE => inside_namespace(Path::new(folder)),
        [folder] => outside(folder).map(|pid| println!("{pid}")),
        _ => Err(io::Error::other("one folder is wanted")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{HOLD_COMMAND}: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "agent::sys is where processes are started; this one runs before any async runtime"
)]
fn outside(folder: &str) -> io::Result<u32> {
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
    let child = Command::new("/proc/self/exe")
        .args([HOLD_COMMAND, INSIDE, folder])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child.id())
}

fn inside_namespace(folder: &Path) -> io::Result<()> {
    chroot(folder)?;
    chdir("/")?;
    let mut all = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        all.add(signal);
    }
    all.thread_block()?;
    loop {
        all.wait()?;
        let any = Pid::from_raw(-1);
        while let Ok(status) = waitpid(any, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart_by_their_start() {
        let own = start_time(std::process::id()).unwrap();
        assert!(own > 0);
        assert_eq!(start_time(u32::MAX), None);
    }
}
