//! What both wire forms become: channels that are read and written like files, and one bounded
//! queue of frames to the peer.
//!
//! Everything written waits in the queue of its connection, so what was written first arrives
//! first, across channels too: the end of a command never overtakes its output. What arrives is
//! put into a bounded pipe per channel; a full pipe stops the connection, as neither wire form can
//! hold back one channel alone.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, interval_at, timeout};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::spdy::Pairs;
use super::{LINGER, PING_INTERVAL};
use crate::util::tasks::Tasks;

/// Most bytes of one frame to the peer.
pub(super) const CHUNK_BYTES_MAX: usize = 32 * 1024;
/// Bytes from the peer that wait for a reader, per channel.
pub(super) const PIPE_BYTES_MAX: usize = 64 * 1024;
/// Frames to the peer that wait for the socket: with full chunks, 256 KiB.
pub(super) const FRAMES_MAX: usize = 8;
/// Terminal sizes that wait; newer ones replace what does not fit.
const SIZES_MAX: usize = 4;
/// Bytes of a terminal size that is not whole yet.
const SIZE_BYTES_MAX: usize = 1024;

/// Reads and writes.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> AsyncReadWrite for T {}

/// Where bytes from the client come out.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Where bytes to the client go in.
pub type ChannelWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// One thing to send to the peer.
#[derive(Debug)]
pub(super) enum Frame {
    /// Bytes of a channel, at most [`CHUNK_BYTES_MAX`].
    Data { channel: u32, data: Bytes },
    /// Nothing more comes on this channel.
    End { channel: u32 },
    /// SPDY: the stream is accepted.
    Accept { channel: u32 },
    /// SPDY: the stream is not accepted.
    Refuse { channel: u32 },
    /// SPDY: the answer to a ping.
    Pong { id: u32 },
    /// Nothing more comes at all.
    Close,
}

/// The way out of one channel. Dropped, it ends the channel.
pub(super) struct Writer {
    channel: u32,
    sender: PollSender<Frame>,
    ended: bool,
    /// The client wants no more of this channel: writing fails.
    pub(super) reset: Arc<AtomicBool>,
    tasks: Tasks,
}

impl Writer {
    pub(super) fn new(channel: u32, frames: &mpsc::Sender<Frame>, tasks: &Tasks) -> Self {
        Self {
            channel,
            sender: PollSender::new(frames.clone()),
            ended: false,
            reset: Arc::default(),
            tasks: tasks.clone(),
        }
    }

    /// Leaves the channel open, to be written to by its number.
    pub(super) fn into_channel(mut self) -> u32 {
        self.ended = true;
        self.channel
    }

    /// Waits for a place in the queue, then puts `frame` there.
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        frame: impl FnOnce() -> Frame,
    ) -> Poll<io::Result<()>> {
        ready!(self.sender.poll_reserve(context)).map_err(|_| gone())?;
        Poll::Ready(self.sender.send_item(frame()).map_err(|_| gone()))
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone")
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ended || self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Err(gone()));
        }
        let chunk = &bytes[..bytes.len().min(CHUNK_BYTES_MAX)];
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let channel = self.channel;
        let frame = || Frame::Data {
            channel,
            data: Bytes::copy_from_slice(chunk),
        };
        ready!(self.poll_send(context, frame))?;
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            let channel = self.channel;
            ready!(self.poll_send(context, || Frame::End { channel }))?;
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.sender.abort_send();
        let Some(sender) = self.sender.get_ref().cloned() else {
            return;
        };
        let channel = self.channel;
        if let Err(mpsc::error::TrySendError::Full(frame)) = sender.try_send(Frame::End { channel })
        {
            self.tasks.job("end of stream", async move {
                // Refused only where the connection is over anyway.
                let _ = sender.send(frame).await;
            });
        }
    }
}

/// Both ways of one channel.
pub(super) struct Stream {
    pub(super) pipe: DuplexStream,
    pub(super) writer: Writer,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}

/// A command's channels: of `kubectl exec`, `attach` and `cp`.
pub struct ExecSession {
    /// What the user types; ends when the user ends it or is gone.
    pub stdin: Option<Reader>,
    /// Fails with `BrokenPipe` once the user is gone.
    pub stdout: Option<ChannelWriter>,
    /// As `stdout`; never there with a terminal.
    pub stderr: Option<ChannelWriter>,
    /// Columns and rows of the user's terminal, whenever they change. Only the newest ones wait.
    pub resize: mpsc::Receiver<(u16, u16)>,
    pub(super) exit: Exit,
}

/// How a command's end is told.
pub(super) struct Exit {
    pub(super) frames: mpsc::Sender<Frame>,
    /// The error channel.
    pub(super) channel: u32,
    /// Whether the client reads a `Status`; older ones read a text, and only of failures.
    pub(super) structured: bool,
    pub(super) link: Link,
}

/// The life of a connection as its user sees it. Dropped, it ends the connection.
pub(super) struct Link {
    /// Cancelled when the connection is over.
    pub(super) over: CancellationToken,
    pub(super) _guard: DropGuard,
}

/// The life of a connection as its pump sees it: cancel `over` at the end, end at `dropped`.
pub(super) struct Life {
    pub(super) _over: DropGuard,
    pub(super) dropped: CancellationToken,
}

/// The two ends of a connection's life.
pub(super) fn life() -> (Link, Life) {
    let (over, dropped) = (CancellationToken::new(), CancellationToken::new());
    let link = Link {
        over: over.clone(),
        _guard: dropped.clone().drop_guard(),
    };
    let life = Life {
        _over: over.drop_guard(),
        dropped,
    };
    (link, life)
}

impl Life {
    /// Some time after the session was dropped, so that the queue can still be sent.
    pub(super) async fn abandoned(&self) {
        self.dropped.cancelled().await;
        tokio::time::sleep(LINGER).await;
    }
}

/// Until the client is gone, or everything is written and the client had time to go.
pub(super) async fn both<E: std::fmt::Display>(
    reading: impl Future<Output = ()>,
    writing: impl Future<Output = Result<(), E>>,
) {
    let mut reading = pin!(reading);
    let written = tokio::select! {
        () = &mut reading => return,
        written = writing => written,
    };
    match written {
        // A client that does not answer in time is cut.
        Ok(()) => _ = timeout(LINGER, reading).await,
        Err(error) => tracing::debug!(%error, "client is gone"),
    }
}

/// When to ping the client.
pub(super) fn pings() -> Interval {
    interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL)
}

impl ExecSession {
    /// Resolves when the client is gone: there is nobody left to run the command for.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.exit.link.over.clone().cancelled_owned()
    }

    /// Tells how the command ended (a `Status`, see [`success`] and [`exit_code`]) and closes. Write
    /// all output before; what was moved out of the session should be dropped by then. Returns when
    /// the client has everything, or is gone. A session that is dropped instead looks like a broken
    /// connection.
    pub async fn finish(self, status: Value) {
        let Self { exit, stdin, .. } = self;
        drop((stdin, self.stdout, self.stderr));
        let text = exit.text(&status);
        let channel = exit.channel;
        let chunks = text.as_bytes().chunks(CHUNK_BYTES_MAX);
        let data = chunks.map(|chunk| Frame::Data {
            channel,
            data: Bytes::copy_from_slice(chunk),
        });
        let end = [Frame::End { channel }, Frame::Close];
        for frame in data.collect::<Vec<_>>().into_iter().chain(end) {
            if exit.frames.send(frame).await.is_err() {
                return;
            }
        }
        exit.link.over.cancelled().await;
    }
}

impl Exit {
    fn text(&self, status: &Value) -> String {
        if self.structured {
            return status.to_string();
        }
        let field = |name: &str| status.get(name).and_then(Value::as_str);
        match field("status") {
            Some("Success") => String::new(),
            _ => field("message").unwrap_or("unknown failure").to_owned(),
        }
    }
}

/// The `Status` of a command that ended with 0.
pub fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

/// The `Status` of a command that ended with `code`.
pub fn exit_code(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// Connections of `kubectl port-forward`. Dropped, it ends them all.
pub struct ForwardSession {
    pub(super) source: Source,
    pub(super) link: Link,
}

/// Where forwarded connections come from.
pub(super) enum Source {
    /// The old protocol: one for each port asked for, all there from the start.
    Ports(VecDeque<Forwarded>),
    /// Made by the client one after the other.
    Pairs(Pairs),
}

/// One connection to a port of the pod.
pub struct Forwarded {
    /// The port.
    pub port: u16,
    /// Bytes of the connection. Dropped or shut down, it tells the client that the pod's side ended.
    pub data: Box<dyn AsyncReadWrite + Send + Unpin>,
    /// Drop it where nothing failed.
    pub error: Failure,
}

/// Tells the client why a connection failed. Dropped, it says that nothing did.
pub struct Failure(pub(super) Writer);

impl Failure {
    /// What the user reads, then the end of the channel.
    pub async fn fail(mut self, message: &str) {
        let written = self.0.write_all(message.as_bytes()).await;
        if written.is_ok() {
            // Fails only where the client is gone, who then needs no answer.
            let _ = self.0.shutdown().await;
        }
    }
}

impl ForwardSession {
    /// The next connection; `None` once the client is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Forwarded> {
        match &mut self.source {
            Source::Pairs(pairs) => pairs.next().await,
            Source::Ports(ports) => match ports.pop_front() {
                Some(forwarded) => Some(forwarded),
                None => {
                    self.link.over.cancelled().await;
                    None
                }
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    #[serde(default)]
    width: u16,
    #[serde(default)]
    height: u16,
}

/// A channel of terminal sizes, as JSON objects one after the other, read in a job of `tasks`.
pub(super) fn sizes(
    channel: impl AsyncRead + Send + Unpin + 'static,
    tasks: &Tasks,
) -> mpsc::Receiver<(u16, u16)> {
    let (sender, receiver) = mpsc::channel(SIZES_MAX);
    tasks.job("terminal sizes", read_sizes(channel, sender));
    receiver
}

async fn read_sizes(mut channel: impl AsyncRead + Send + Unpin, sender: mpsc::Sender<(u16, u16)>) {
    let mut unread = Vec::new();
    let mut newest = None;
    let mut buffer = [0; 256];
    loop {
        tokio::select! {
            count = channel.read(&mut buffer) => match count {
                Ok(count) if count > 0 && unread.len() < SIZE_BYTES_MAX => {
                    unread.extend_from_slice(&buffer[..count]);
                    match take_sizes(&mut unread) {
                        Ok(size) => newest = size.or(newest),
                        Err(error) => {
                            tracing::debug!(%error, "client sent no terminal size");
                            return;
                        }
                    }
                }
                _ => break,
            },
            place = sender.reserve(), if newest.is_some() => match (place, newest.take()) {
                (Ok(place), Some(size)) => place.send(size),
                _ => return,
            },
            () = sender.closed() => return,
        }
    }
    if let Some(size) = newest {
        // Nobody reads it any more: then nobody needs it.
        let _ = sender.send(size).await;
    }
}

/// Takes all whole objects from `unread` and gives the last one.
fn take_sizes(unread: &mut Vec<u8>) -> Result<Option<(u16, u16)>, serde_json::Error> {
    let mut objects = serde_json::Deserializer::from_slice(unread).into_iter::<Size>();
    let (mut last, mut used) = (None, 0);
    while let Some(size) = objects.next() {
        match size {
            // Upstream's `HandleResizing` skips what is no size.
            Ok(size) if size.width == 0 || size.height == 0 => {}
            Ok(size) => last = Some((size.width, size.height)),
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(error),
        }
        used = objects.byte_offset();
    }
    unread.drain(..used);
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_pieces_and_the_last_one_counts() {
        let mut unread =
            b"{\"Width\":80,\"Height\":24}\n{\"Width\":90,\"Height\":25}{\"Wi".to_vec();
        assert_eq!(take_sizes(&mut unread).unwrap(), Some((90, 25)));
        assert_eq!(unread, b"{\"Wi");
        unread.extend_from_slice(b"dth\":1,\"Height\":2}{\"Width\":0,\"Height\":0}");
        assert_eq!(take_sizes(&mut unread).unwrap(), Some((1, 2)));
        assert!(take_sizes(&mut b"nonsense".to_vec()).is_err());
    }

    #[tokio::test]
    async fn a_dropped_writer_ends_its_channel_even_when_the_queue_is_full() {
        let tasks = Tasks::new();
        let (sender, mut frames) = mpsc::channel(1);
        let mut writer = Writer::new(7, &sender, &tasks);
        writer.write_all(b"last words").await.unwrap();
        drop(writer);
        assert!(matches!(
            frames.recv().await,
            Some(Frame::Data { channel: 7, .. })
        ));
        assert!(matches!(
            frames.recv().await,
            Some(Frame::End { channel: 7 })
        ));
    }
}
