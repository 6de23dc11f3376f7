//! Reads a container's log over its rotations, and waits for more where asked to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::logs::LogOptions;
use crate::runtime::log::rotated_files;
use crate::runtime::{Phase, Runtime, RuntimeEvent};

/// Bytes read from a file at once.
const READ_BYTES: usize = 64 << 10;

/// Chunks on their way to the client; the body's own window comes on top.
const CHUNKS_MAX: usize = 4;

/// A line longer than this is not one of ours (16 KiB and a head).
const LINE_BYTES_MAX: usize = 1 << 20;

/// How often a file is looked at where the kernel does not tell of changes.
const FALLBACK_PAUSE: Duration = Duration::from_millis(250);

/// How often the container is looked at all the same.
const CHECK_PAUSE: Duration = Duration::from_secs(5);

/// How long the log program may take to write what an ended container left.
const COMPLETE_PAUSE: Duration = Duration::from_millis(20);
const COMPLETE_TRIES_MAX: u32 = 250;

/// A place for chunks, and the body that carries them.
pub(super) fn channel() -> (
    mpsc::Sender<Bytes>,
    impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    (
        sender,
        StreamBody::new(ReceiverStream::new(receiver).map(|data| Ok(Frame::data(data)))),
    )
}

/// The log's files from where reading begins.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    inode: u64,
    /// Files to read after this one, as they were at the beginning.
    rest: VecDeque<PathBuf>,
}

impl Source {
    /// Finds where to begin.
    pub(super) async fn open(path: &Path, options: &LogOptions) -> io::Result<Self> {
        let mut files = rotated_files(path);
        files.push(path.to_owned());
        let (first, offset) = match options.tail_lines {
            Some(lines) => tail_start(&files, lines).await?,
            None => (0, 0),
        };
        let mut rest: VecDeque<PathBuf> = files.split_off(first).into();
        let first = rest.pop_front().unwrap_or_else(|| path.to_owned());
        let mut file = File::open(&first).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(Self {
            path: path.to_owned(),
            inode: file.metadata().await?.ino(),
            file,
            rest,
        })
    }

    async fn switch(&mut self, path: &Path) -> io::Result<()> {
        self.file = File::open(path).await?;
        self.inode = self.file.metadata().await?.ino();
        Ok(())
    }

    /// Goes on with the next of the files there were at the beginning. `false`: there is none.
    async fn next_known(&mut self) -> bool {
        while let Some(path) = self.rest.pop_front() {
            // A file may have been removed by a rotation meanwhile.
            if self.switch(&path).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Goes on with the file that came after this one by a rotation. `false`: this is the newest.
    async fn next_rotated(&mut self) -> bool {
        let Ok(newest) = tokio::fs::metadata(&self.path).await else {
            return false;
        };
        if newest.ino() == self.inode {
            return false;
        }
        let mut files = rotated_files(&self.path);
        files.push(self.path.clone());
        let mut after = 0;
        for (number, path) in files.iter().enumerate() {
            if std::fs::metadata(path).is_ok_and(|meta| meta.ino() == self.inode) {
                after = number + 1;
            }
        }
        match files.get(after) {
            Some(path) => {
                let path = path.clone();
                self.switch(&path).await.is_ok()
            }
            None => false,
        }
    }
}

/// File and offset at which the last `lines` lines begin.
async fn tail_start(files: &[PathBuf], lines: u64) -> io::Result<(usize, u64)> {
    let mut wanted = lines;
    let mut buffer = vec![0; READ_BYTES];
    for (number, path) in files.iter().enumerate().rev() {
        let mut file = match File::open(path).await {
            Ok(file) => file,
            Err(error) if number + 1 == files.len() => return Err(error),
            Err(_) => return Ok((number + 1, 0)),
        };
        let size = file.metadata().await?.len();
        if wanted == 0 {
            return Ok((number, size));
        }
        let mut end = size;
        while end > 0 {
            let start = end.saturating_sub(READ_BYTES as u64);
            let part = &mut buffer[..usize::try_from(end - start).unwrap_or(READ_BYTES)];
            file.seek(SeekFrom::Start(start)).await?;
            file.read_exact(part).await?;
            for (at, byte) in part.iter().enumerate().rev() {
                let position = start + at as u64;
                // The newline at the very end ends the last line and begins none.
                if *byte == b'\n' && position + 1 < size {
                    wanted -= 1;
                    if wanted == 0 {
                        return Ok((number, position + 1));
                    }
                }
            }
            end = start;
        }
        if size > 0 {
            // The first line of the file begins without a newline before it.
            wanted -= 1;
            if wanted == 0 {
                return Ok((number, 0));
            }
        }
    }
    Ok((0, 0))
}

/// The client has gone.
#[derive(Debug)]
pub(super) struct Gone;

/// Sends the log to `to` until its end: of the files, or of the container `running` where it is
/// followed.
pub(super) async fn pour(
    mut source: Source,
    options: LogOptions,
    running: Option<String>,
    runtime: &dyn Runtime,
    to: &mpsc::Sender<Bytes>,
) -> Result<(), Gone> {
    let mut filter = Filter::new(&options);
    let mut waiter = options
        .follow
        .then(|| Waiter::new(&source.path, running, runtime));
    let mut line = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        // Asked before the last look at the file, so that nothing is missed between.
        let ended = match &mut waiter {
            Some(waiter) => waiter.has_ended(runtime).await,
            None => true,
        };
        loop {
            let Ok(count) = source.file.read(&mut buffer).await else {
                return Ok(());
            };
            if count == 0
                && !source.next_known().await
                && !(options.follow && source.next_rotated().await)
            {
                break;
            }
            let out = filter.feed(&mut line, &buffer[..count]);
            if !out.is_empty() {
                to.send(out.into()).await.map_err(|_| Gone)?;
            }
            if filter.is_full() {
                return Ok(());
            }
        }
        match &mut waiter {
            Some(waiter) if !ended => tokio::select! {
                () = waiter.changed() => {}
                () = to.closed() => return Err(Gone),
            },
            _ => return Ok(()),
        }
    }
}

/// Turns log lines into what the client wants to see.
struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    stream: Option<&'static str>,
    left: Option<u64>,
    /// The last piece written was the whole rest of a line.
    at_line_start: bool,
}

impl Filter {
    fn new(options: &LogOptions) -> Self {
        let stream = options.stream.as_deref().map(|stream| match stream {
            "Stderr" => "stderr",
            _ => "stdout",
        });
        Self {
            since: options.since,
            timestamps: options.timestamps,
            stream,
            left: options.limit_bytes,
            at_line_start: true,
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes what was read; `line` keeps the beginning of a line that is not whole yet.
    fn feed(&mut self, line: &mut Vec<u8>, mut data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len());
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            if line.is_empty() {
                self.entry(&data[..end], &mut out);
            } else {
                line.extend_from_slice(&data[..end]);
                self.entry(line, &mut out);
                line.clear();
            }
            data = &data[end + 1..];
        }
        if line.len() + data.len() <= LINE_BYTES_MAX {
            line.extend_from_slice(data);
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }

    /// One line of the file; what is none of ours is passed over.
    fn entry(&mut self, entry: &[u8], out: &mut Vec<u8>) {
        let mut parts = entry.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(tag)) = (parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        let content = parts.next().unwrap_or_default();
        if self
            .stream
            .is_some_and(|wanted| wanted.as_bytes() != stream)
        {
            return;
        }
        if let Some(since) = self.since {
            let time = std::str::from_utf8(time)
                .ok()
                .and_then(|text| text.parse::<Timestamp>().ok());
            if time.is_none_or(|time| time < since) {
                return;
            }
            // Lines are in order: what follows is newer.
            self.since = None;
        }
        if self.timestamps && self.at_line_start {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(content);
        self.at_line_start = !tag.starts_with(b"P");
        if self.at_line_start {
            out.push(b'\n');
        }
    }
}

/// Wakes when the log or the container may have changed.
struct Waiter {
    container: Option<String>,
    events: mpsc::Receiver<RuntimeEvent>,
    watch: Option<AsyncFd<Watch>>,
}

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Waiter {
    fn new(path: &Path, container: Option<String>, runtime: &dyn Runtime) -> Self {
        Self {
            container,
            events: runtime.events(),
            // The kernel allows a user so many of these; without, the file is looked at now and then.
            watch: path.parent().and_then(|folder| watch(folder).ok()),
        }
    }

    /// Whether nothing more will be written.
    async fn has_ended(&mut self, runtime: &dyn Runtime) -> bool {
        let Some(id) = &self.container else {
            return true;
        };
        let phase = runtime
            .container(id)
            .await
            .ok()
            .flatten()
            .map(|state| state.phase);
        if matches!(
            phase,
            Some(Phase::Running { .. } | Phase::Created | Phase::Unknown)
        ) {
            return false;
        }
        for _ in 0..COMPLETE_TRIES_MAX {
            if runtime.log_is_complete(id).await {
                break;
            }
            tokio::time::sleep(COMPLETE_PAUSE).await;
        }
        true
    }

    async fn changed(&mut self) {
        let pause = if self.watch.is_some() {
            CHECK_PAUSE
        } else {
            FALLBACK_PAUSE
        };
        let id = self.container.clone().unwrap_or_default();
        let about_us = async {
            loop {
                match self.events.recv().await {
                    Some(RuntimeEvent::Container { id: other }) if other != id => {}
                    Some(_) => return,
                    None => std::future::pending().await,
                }
            }
        };
        let written = async {
            match &self.watch {
                Some(watch) => {
                    if let Ok(mut ready) = watch.readable().await {
                        // What happened does not matter, that it happened does.
                        let _ = ready.get_inner().0.read_events();
                        ready.clear_ready();
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = about_us => {}
            () = written => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn watch(folder: &Path) -> io::Result<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(folder, what)?;
    #[expect(
        deprecated,
        reason = "its successor needs unsafe code; the descriptor is owned by what is registered"
    )]
    AsyncFd::new(Watch(inotify))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn options() -> LogOptions {
        LogOptions::default()
    }

    fn filtered(options: &LogOptions, log: &str) -> String {
        let mut filter = Filter::new(options);
        let mut line = Vec::new();
        let mut out = Vec::new();
        for part in log.as_bytes().chunks(7) {
            out.extend(filter.feed(&mut line, part));
        }
        String::from_utf8(out).unwrap()
    }

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
        2026-01-01T00:00:01Z stderr F o\nrubbish\n2026-01-01T00:00:02Z stdout F \n";

    #[test]
    fn parts_are_joined_and_rubbish_passed_over() {
        assert_eq!(filtered(&options(), LOG), "one\ntwo\n\n");
        let with_times = LogOptions {
            timestamps: true,
            stream: Some("Stderr".to_owned()),
            ..options()
        };
        assert_eq!(filtered(&with_times, LOG), "2026-01-01T00:00:01Z two\n");
    }

    #[test]
    fn since_and_limit_cut_both_ends() {
        let since = LogOptions {
            since: "2026-01-01T00:00:01Z".parse().ok(),
            ..options()
        };
        assert_eq!(filtered(&since, LOG), "two\n\n");
        let limit = LogOptions {
            limit_bytes: Some(5),
            ..options()
        };
        assert_eq!(filtered(&limit, LOG), "one\nt");
    }

    #[tokio::test]
    async fn the_tail_reaches_back_over_rotated_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let old = folder.path().join("0.log.20260101-000000");
        fs::write(&old, "a\nb\nc\n").unwrap();
        fs::write(&path, "d\ne\n").unwrap();
        let files = [old, path];
        for (lines, wanted) in [
            (0, (1, 4)),
            (1, (1, 2)),
            (2, (1, 0)),
            (3, (0, 4)),
            (5, (0, 0)),
            (9, (0, 0)),
        ] {
            assert_eq!(tail_start(&files, lines).await.unwrap(), wanted, "{lines}");
        }
    }
}
