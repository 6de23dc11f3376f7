//! The log program itself: one thread, two streams, one file.
//!
//! Started by containerd's shim with standard output at descriptor 3, standard error at 4 and a
//! pipe at 5 that is closed when we are ready; or by the agent with FIFOs. It ends when both
//! streams have ended, or shortly after SIGTERM, which the shim sends when the container is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::close;

use super::LogArgs;
use super::attach::{Clients, lock};
use super::files::LogFile;
use super::lines::Lines;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Asked of the kernel for the pipes, so that a burst does not wait for us.
const PIPE_BYTES: i32 = 256 << 10;

/// After SIGTERM, what still holds a stream open is not the container; this long without output
/// is the end. The shim kills us after 12 s.
const LAST_WORDS_MS: u16 = 300;

/// Runs the log program with what followed [`super::SUBCOMMAND`] on the command line.
pub fn main(json: &str) -> ExitCode {
    match run(json) {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to read a message.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(json: &str) -> io::Result<()> {
    let args: LogArgs = serde_json::from_str(json).map_err(io::Error::other)?;
    let signals = block_signals()?;
    let _lock = lock(&args.attach)?;
    let streams = match &args.fifos {
        Some(folder) => [
            open_end(&folder.join("stdout"))?,
            open_end(&folder.join("stderr"))?,
        ],
        None => inherited()?,
    };
    let log = LogFile::open(args.log)?;
    let clients = Clients::listen(&args.attach)?;
    if args.fifos.is_none() {
        // Ready: the shim goes on when the last writer of this pipe is gone.
        close(5)?;
    }
    let [out, err] = streams;
    Pump {
        log,
        clients,
        signals,
        out: Stream::new(out, "stdout", false),
        err: Stream::new(err, "stderr", true),
        ending: false,
        buffer: vec![0; READ_BYTES],
    }
    .run()
}

fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    Ok(SignalFd::with_flags(
        &term,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// The pipes at descriptors 3 and 4, opened anew (which needs no unsafe code) and made non-blocking.
fn inherited() -> io::Result<[File; 2]> {
    let open = |fd: i32| {
        let file = open_end(format!("/proc/self/fd/{fd}").as_ref())?;
        close(fd)?;
        // Only a wish: an unprivileged limit may forbid it.
        let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok::<_, io::Error>(file)
    };
    Ok([open(3)?, open(4)?])
}

fn open_end(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
}

/// One of the container's streams.
struct Stream {
    /// `None`: ended.
    file: Option<File>,
    lines: Lines,
    is_stderr: bool,
}

impl Stream {
    fn new(file: File, name: &'static str, is_stderr: bool) -> Self {
        Self {
            file: Some(file),
            lines: Lines::new(name),
            is_stderr,
        }
    }
}

struct Pump {
    log: LogFile,
    clients: Clients,
    signals: SignalFd,
    out: Stream,
    err: Stream,
    ending: bool,
    buffer: Vec<u8>,
}

/// What poll said.
#[derive(Default)]
struct Ready {
    out: bool,
    err: bool,
    clients: bool,
    signals: bool,
    nothing: bool,
}

impl Pump {
    fn run(mut self) -> io::Result<()> {
        let mut written = Vec::with_capacity(2 * READ_BYTES);
        while self.out.file.is_some() || self.err.file.is_some() {
            let ready = self.wait()?;
            if ready.signals {
                // Consumed, so that poll does not say it again.
                let _ = self.signals.read_signal();
                self.ending = true;
            }
            if ready.nothing && self.ending {
                break;
            }
            if ready.clients {
                self.clients.accept();
            }
            written.clear();
            let now = Timestamp::now();
            let time = format!("{now:.9}");
            if ready.out {
                take(
                    &mut self.out,
                    &mut self.buffer,
                    &time,
                    &mut self.clients,
                    &mut written,
                );
            }
            if ready.err {
                take(
                    &mut self.err,
                    &mut self.buffer,
                    &time,
                    &mut self.clients,
                    &mut written,
                );
            }
            self.log.write(&written, now);
        }
        written.clear();
        let now = Timestamp::now();
        let time = format!("{now:.9}");
        self.out.lines.finish(&time, &mut written);
        self.err.lines.finish(&time, &mut written);
        self.log.write(&written, now);
        Ok(())
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut watched: Vec<(u8, BorrowedFd<'_>)> = Vec::with_capacity(4);
        if let Some(file) = &self.out.file {
            watched.push((0, file.as_fd()));
        }
        if let Some(file) = &self.err.file {
            watched.push((1, file.as_fd()));
        }
        watched.push((2, self.clients.listener().as_fd()));
        watched.push((3, self.signals.as_fd()));
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        let limit = if self.ending {
            PollTimeout::from(LAST_WORDS_MS)
        } else {
            PollTimeout::NONE
        };
        let count = match poll(&mut fds, limit) {
            Ok(count) => count,
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready {
            nothing: count == 0,
            ..Ready::default()
        };
        for ((which, _), fd) in watched.iter().zip(&fds) {
            let any = fd.any().unwrap_or(true);
            match which {
                0 => ready.out = any,
                1 => ready.err = any,
                2 => ready.clients = any,
                _ => ready.signals = any,
            }
        }
        Ok(ready)
    }
}

fn take(
    stream: &mut Stream,
    buffer: &mut [u8],
    time: &str,
    clients: &mut Clients,
    written: &mut Vec<u8>,
) {
    let Some(file) = &mut stream.file else {
        return;
    };
    match file.read(buffer) {
        Ok(0) => stream.file = None,
        Ok(got) => {
            clients.send(stream.is_stderr, &buffer[..got]);
            stream.lines.feed(&buffer[..got], time, written);
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) => {}
        Err(_) => stream.file = None,
    }
}
