//! Channels over SPDY/3.1, the server's side: each channel is a stream the client opens.
//!
//! What `github.com/moby/spdystream` speaks is served, which is all Kubernetes ever used: no flow
//! control, no streams from the server, no settings. A stream's headers say what it is for:
//! `streamtype`, and for `port-forward` `port` and `requestid`, which two streams share.

mod frame;
mod headers;
mod pairs;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, DuplexStream, duplex,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::channels::{
    CHUNK_BYTES_MAX, ExecSession, Exit, FRAMES_MAX, ForwardSession, Frame, Life, Link,
    PIPE_BYTES_MAX, Source, Stream, Writer, both, life, pings, sizes,
};
use super::websocket::Io;
use super::{Error, Exec, OPEN_TIMEOUT};
use crate::util::tasks::Tasks;

use frame::{Control, Head};
use headers::{Deflater, Headers, Inflater};
pub(super) use pairs::Pairs;

/// Streams a client has open at a time; a forwarded connection takes two. More are refused.
const STREAMS_MAX: usize = 2000;
/// Opened streams that wait for the session's user.
const OPENED_MAX: usize = 16;

/// A protocol of `exec` over SPDY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    /// 1 to 4: 3 brought sizes of terminals, 4 a `Status` at the end.
    pub(super) version: u8,
}

/// A stream the client opened.
struct Opened {
    id: u32,
    headers: Headers,
    stream: Stream,
}

/// A served connection.
struct Connection {
    opened: mpsc::Receiver<Opened>,
    frames: mpsc::Sender<Frame>,
    link: Link,
}

/// A command's channels over `io`, as soon as the client has opened all of them.
///
/// Errors: it does not, or goes away.
pub(super) async fn exec(
    io: impl Io,
    protocol: Protocol,
    wish: Exec,
    tasks: &Tasks,
) -> Result<ExecSession, Error> {
    let Connection {
        mut opened,
        frames,
        link,
    } = serve(io, tasks)?;
    let mut missing = vec!["error"];
    let optional = [
        ("stdin", wish.stdin),
        ("stdout", wish.stdout),
        ("stderr", wish.has_stderr()),
        ("resize", wish.tty && protocol.version >= 3),
    ];
    missing.extend(
        optional
            .iter()
            .filter(|(_, wished)| *wished)
            .map(|(name, _)| name),
    );
    let deadline = Instant::now() + OPEN_TIMEOUT;
    let mut streams = HashMap::new();
    while !missing.is_empty() {
        let Opened {
            headers, stream, ..
        } = timeout_at(deadline, opened.recv())
            .await
            .map_err(|_| Error::Timeout)?
            .ok_or(Error::Closed)?;
        let name = headers.get("streamtype").unwrap_or_default();
        // One that was not asked for ends as it is dropped.
        if let Some(at) = missing.iter().position(|known| *known == name) {
            streams.insert(missing.swap_remove(at), stream);
        }
    }
    let error = streams.remove("error").ok_or(Error::Closed)?;
    let output = |stream: Stream| Box::new(stream.writer) as _;
    Ok(ExecSession {
        // Read only: its other direction ends with the session.
        stdin: streams.remove("stdin").map(|stream| Box::new(stream) as _),
        stdout: streams.remove("stdout").map(output),
        stderr: streams.remove("stderr").map(output),
        resize: match streams.remove("resize") {
            Some(stream) => sizes(stream, tasks),
            None => mpsc::channel(1).1,
        },
        exit: Exit {
            frames,
            channel: error.writer.into_channel(),
            structured: protocol.version >= 4,
            link,
        },
    })
}

/// Connections to ports over `io`.
pub(super) fn forward(io: impl Io, tasks: &Tasks) -> Result<ForwardSession, Error> {
    let connection = serve(io, tasks)?;
    Ok(ForwardSession {
        source: Source::Pairs(Pairs::new(connection.opened)),
        link: connection.link,
    })
}

fn serve(io: impl Io, tasks: &Tasks) -> Result<Connection, Error> {
    let (read, write) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(FRAMES_MAX);
    let (sender, opened) = mpsc::channel(OPENED_MAX);
    let (link, life) = life();
    let reading = Reading {
        io: BufReader::with_capacity(CHUNK_BYTES_MAX, read),
        inflater: Inflater::new(),
        pipes: HashMap::new(),
        resets: HashMap::new(),
        last: 0,
        frames: frames.clone(),
        opened: sender,
        tasks: tasks.clone(),
    };
    let writing = Writing {
        io: BufWriter::with_capacity(CHUNK_BYTES_MAX, write),
        deflater: Deflater::new().map_err(|_| Error::Closed)?,
        open: HashSet::new(),
    };
    tasks.job(
        "spdy connection",
        run(reading, writing, queue, life, tasks.cancelled()),
    );
    Ok(Connection {
        opened,
        frames,
        link,
    })
}

async fn run<R, W>(
    reading: Reading<R>,
    writing: Writing<W>,
    queue: mpsc::Receiver<Frame>,
    life: Life,
    cancelled: tokio_util::sync::CancellationToken,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let reading = async {
        match reading.run().await {
            Ok(()) => {}
            Err(ReadError::Io(error)) => tracing::debug!(%error, "client is gone"),
            Err(ReadError::Frame(error)) => {
                tracing::debug!(%error, "client broke the protocol");
            }
        }
    };
    tokio::select! {
        () = cancelled.cancelled() => {}
        () = life.abandoned() => {}
        () = both(reading, writing.run(queue)) => {}
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] frame::Error),
}

/// The way in.
struct Reading<R> {
    io: BufReader<R>,
    inflater: Inflater,
    /// Streams whose client side has not ended; without a pipe when nobody reads any more.
    pipes: HashMap<u32, Option<DuplexStream>>,
    /// Whether the client has reset a stream, for those whose writer is still there.
    resets: HashMap<u32, Weak<AtomicBool>>,
    /// The newest stream; numbers only grow.
    last: u32,
    frames: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Opened>,
    tasks: Tasks,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    /// Until the client ends the connection.
    async fn run(mut self) -> Result<(), ReadError> {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        loop {
            let mut head = [0; frame::HEAD_BYTES];
            match self.io.read_exact(&mut head).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            match Head::parse(head)? {
                Head::Data {
                    stream,
                    fin,
                    length,
                } => {
                    self.data(stream, length, &mut buffer).await?;
                    if fin {
                        self.pipes.remove(&stream);
                    }
                }
                Head::Control {
                    kind,
                    flags,
                    length,
                } => {
                    let mut payload = vec![0; length];
                    self.io.read_exact(&mut payload).await?;
                    self.control(Control::parse(kind, flags, &payload)?).await?;
                }
            }
        }
    }

    /// Passes on what a data frame holds. For a stream that nobody reads, or that is gone, it is
    /// dropped.
    async fn data(&mut self, stream: u32, length: usize, buffer: &mut [u8]) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let most = left.min(buffer.len());
            let count = self.io.read(&mut buffer[..most]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= count;
            if let Some(slot) = self.pipes.get_mut(&stream)
                && let Some(pipe) = slot
                && pipe.write_all(&buffer[..count]).await.is_err()
            {
                *slot = None;
            }
        }
        Ok(())
    }

    async fn control(&mut self, control: Control<'_>) -> Result<(), frame::Error> {
        match control {
            Control::Open {
                stream,
                flags,
                block,
            } => {
                let headers = self.inflater.read(block)?;
                self.open(stream, flags, headers).await?;
            }
            Control::Headers { block, stream, fin } => {
                self.inflater.read(block)?;
                if fin {
                    self.pipes.remove(&stream);
                }
            }
            Control::Reset { stream } => {
                self.pipes.remove(&stream);
                if let Some(reset) = self.resets.remove(&stream).and_then(|weak| weak.upgrade()) {
                    reset.store(true, Ordering::Relaxed);
                }
                self.send(Frame::End { channel: stream }).await;
            }
            // Even numbers are answers to our own.
            Control::Ping { id } if id % 2 == 1 => self.send(Frame::Pong { id }).await,
            Control::Ping { .. } | Control::GoAway | Control::Ignore => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, flags: u8, headers: Headers) -> Result<(), frame::Error> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(frame::Error::Order { stream: id });
        }
        self.last = id;
        // A stream of one direction has no use here.
        let wanted = flags & !frame::FIN == 0 && !self.opened.is_closed();
        self.resets.retain(|_, reset| reset.strong_count() > 0);
        if !wanted || self.pipes.len().max(self.resets.len()) >= STREAMS_MAX {
            self.send(Frame::Refuse { channel: id }).await;
            return Ok(());
        }
        self.send(Frame::Accept { channel: id }).await;
        let (near, far) = duplex(PIPE_BYTES_MAX);
        if flags & frame::FIN == 0 {
            self.pipes.insert(id, Some(near));
        }
        let writer = Writer::new(id, &self.frames, &self.tasks);
        self.resets.insert(id, Arc::downgrade(&writer.reset));
        let stream = Stream { pipe: far, writer };
        let opened = Opened {
            id,
            headers,
            stream,
        };
        // Nobody takes it any more: it ends as it is dropped.
        let _ = self.opened.send(opened).await;
        Ok(())
    }

    async fn send(&mut self, frame: Frame) {
        // Refused only where writing ended, and then reading will.
        let _ = self.frames.send(frame).await;
    }
}

/// The way out.
struct Writing<W> {
    io: BufWriter<W>,
    deflater: Deflater,
    /// Streams whose server side has not ended.
    open: HashSet<u32>,
}

impl<W: AsyncWrite + Unpin> Writing<W> {
    /// Until [`Frame::Close`], when every stream ends. The client closes the connection then.
    async fn run(mut self, mut queue: mpsc::Receiver<Frame>) -> io::Result<()> {
        let mut ping = pings();
        let mut ping_id = 0u32;
        loop {
            let frame = match queue.try_recv() {
                Ok(frame) => Some(frame),
                Err(_) => {
                    self.io.flush().await?;
                    tokio::select! {
                        frame = queue.recv() => frame,
                        _ = ping.tick() => {
                            ping_id = ping_id.wrapping_add(2);
                            self.io.write_all(&frame::ping(ping_id)).await?;
                            continue;
                        }
                    }
                }
            };
            match frame {
                Some(Frame::Close) | None => break,
                Some(frame) => self.write(frame).await?,
            }
        }
        for stream in std::mem::take(&mut self.open) {
            self.io
                .write_all(&frame::data(stream, frame::FIN, 0))
                .await?;
        }
        self.io.flush().await
    }

    async fn write(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Data { channel, data } if self.open.contains(&channel) => {
                let head = frame::data(channel, 0, data.len());
                self.io.write_all(&head).await?;
                self.io.write_all(&data).await
            }
            Frame::End { channel } if self.open.remove(&channel) => {
                self.io
                    .write_all(&frame::data(channel, frame::FIN, 0))
                    .await
            }
            Frame::Data { .. } | Frame::End { .. } | Frame::Close => Ok(()),
            Frame::Accept { channel } => {
                self.open.insert(channel);
                let reply = frame::reply(channel, &mut self.deflater).map_err(io::Error::other)?;
                self.io.write_all(&reply).await
            }
            Frame::Refuse { channel } => self.io.write_all(&frame::refuse(channel)).await,
            Frame::Pong { id } => self.io.write_all(&frame::ping(id)).await,
        }
    }
}
