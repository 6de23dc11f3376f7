//! Channels over WebSocket: each message opens with the number of its channel.
//!
//! `channel.k8s.io` has that number as a byte, `base64.channel.k8s.io` as a digit before text in
//! base64. `v4.` means that the error channel carries a `Status`, `v5.` that a message `255, n`
//! ends the client's side of channel n (`k8s.io/apimachinery/pkg/util/remotecommand`). Through
//! `SPDY/3.1+portforward.k8s.io` the messages are one after the other the bytes of a SPDY
//! connection (KEP-4006).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Utf8Bytes};

use super::Exec;
use super::channels::{
    CHUNK_BYTES_MAX, ExecSession, Exit, FRAMES_MAX, Failure, ForwardSession, Forwarded, Frame,
    Life, PIPE_BYTES_MAX, Source, Stream, Writer, both, life, pings, sizes,
};
use crate::util::tasks::Tasks;

/// Some clients send all of their input as one message; beyond this the connection ends.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What tungstenite may hold of what the socket does not take.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

const STDIN: usize = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: usize = 4;
/// In v5: the byte after it names the channel that ends.
const CLOSE: usize = 255;

/// How a message shows its channel and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Binary,
    Base64,
}

/// A subprotocol that carries channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) encoding: Encoding,
    /// 1, 4 or 5.
    pub(super) version: u8,
}

type Sink<Io> = SplitSink<WebSocketStream<Io>, Message>;
type Messages<Io> = SplitStream<WebSocketStream<Io>>;

/// What a socket must be.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A command's channels over `io`.
pub(super) async fn exec(
    io: impl Io,
    protocol: Protocol,
    wish: Exec,
    tasks: &Tasks,
) -> ExecSession {
    let (frames, queue) = mpsc::channel(FRAMES_MAX);
    let (link, life) = life();
    let mut pipes = Pipes::new(protocol);
    let stdin = wish.stdin.then(|| Box::new(pipes.open(STDIN)) as _);
    let resize = sizes(pipes.open(RESIZE), tasks);
    let writer = |channel| Box::new(Writer::new(channel, &frames, tasks)) as _;
    let stdout = wish.stdout.then(|| writer(STDOUT));
    let stderr = wish.has_stderr().then(|| writer(STDERR));
    let pump = Pump {
        pipes,
        queue,
        // Without a `Status`, a normal end would look like success.
        abandoned: CloseCode::Error,
        life,
    };
    pump.start(io, tasks).await;
    greet(&frames, wish).await;
    ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit: Exit {
            frames,
            channel: ERROR,
            structured: protocol.version >= 4,
            link,
        },
    }
}

/// Upstream opens with an empty message on the first channel that is written to.
async fn greet(frames: &mpsc::Sender<Frame>, wish: Exec) {
    let channel = match wish {
        Exec { stdout: true, .. } => STDOUT,
        _ if wish.has_stderr() => STDERR,
        _ => ERROR,
    };
    let data = Bytes::new();
    // Refused only where the client is gone already, which the session will show.
    let _ = frames.send(Frame::Data { channel, data }).await;
}

/// The old protocol of `port-forward`: channels 2n and 2n+1 are data and error of the n-th port,
/// and both open with the port's two bytes, low one first.
pub(super) async fn forward(
    io: impl Io,
    protocol: Protocol,
    ports: &[u16],
    tasks: &Tasks,
) -> ForwardSession {
    let (frames, queue) = mpsc::channel(FRAMES_MAX);
    let (link, life) = life();
    let mut pipes = Pipes::new(protocol);
    let forwarded = (0u32..).zip(ports).map(|(index, port)| Forwarded {
        port: *port,
        data: Box::new(Stream {
            pipe: pipes.open(index as usize * 2),
            writer: Writer::new(index * 2, &frames, tasks),
        }),
        error: Failure(Writer::new(index * 2 + 1, &frames, tasks)),
    });
    let forwarded = forwarded.collect();
    let pump = Pump {
        pipes,
        queue,
        abandoned: CloseCode::Normal,
        life,
    };
    pump.start(io, tasks).await;
    for (index, port) in (0u32..).zip(ports) {
        for channel in [index * 2, index * 2 + 1] {
            let data = Bytes::copy_from_slice(&port.to_le_bytes());
            // Refused only where the client is gone already, which the session will show.
            let _ = frames.send(Frame::Data { channel, data }).await;
        }
    }
    ForwardSession {
        source: Source::Ports(forwarded),
        link,
    }
}

/// The bytes that the messages carry, as one connection.
pub(super) async fn tunnel(io: impl Io, tasks: &Tasks) -> DuplexStream {
    let socket = socket(io).await;
    let (near, far) = duplex(PIPE_BYTES_MAX);
    let cancelled = tasks.cancelled();
    tasks.job("websocket tunnel", async move {
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = run_tunnel(socket, near) => {}
        }
    });
    far
}

async fn socket<I: Io>(io: I) -> WebSocketStream<I> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BYTES_MAX);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

async fn run_tunnel<I: Io>(socket: WebSocketStream<I>, near: DuplexStream) {
    let (mut sink, mut messages) = socket.split();
    let (mut from, mut to) = tokio::io::split(near);
    let reading = async {
        while let Some(bytes) = next_message(&mut messages).await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    let writing = async {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let mut ping = pings();
        loop {
            tokio::select! {
                count = from.read(&mut buffer) => match count {
                    Ok(count) if count > 0 => {
                        let data = Bytes::copy_from_slice(&buffer[..count]);
                        sink.send(Message::Binary(data)).await?;
                    }
                    _ => break,
                },
                _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await?,
            }
        }
        close(&mut sink, CloseCode::Normal).await
    };
    both(reading, writing).await;
}

async fn close<I: Io>(sink: &mut Sink<I>, code: CloseCode) -> Result<(), WsError> {
    let reason = Utf8Bytes::default();
    sink.send(Message::Close(Some(CloseFrame { code, reason })))
        .await
}

/// The bytes of the next message; `None` at the end. Pings are answered below here.
async fn next_message<I: Io>(messages: &mut Messages<I>) -> Option<Bytes> {
    loop {
        match messages.next().await? {
            Ok(Message::Binary(bytes)) => return Some(bytes),
            Ok(Message::Text(text)) => return Some(text.into()),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "client is gone");
                return None;
            }
        }
    }
}

/// Moves frames and messages of one connection.
struct Pump {
    pipes: Pipes,
    queue: mpsc::Receiver<Frame>,
    /// How to close when nobody writes any more and nobody said [`Frame::Close`].
    abandoned: CloseCode,
    life: Life,
}

impl Pump {
    async fn start(self, io: impl Io, tasks: &Tasks) {
        let (sink, messages) = socket(io).await.split();
        let cancelled = tasks.cancelled();
        let Self {
            pipes,
            queue,
            abandoned,
            life,
        } = self;
        tasks.job("websocket channels", async move {
            let protocol = pipes.protocol;
            let reading = read(messages, pipes);
            let writing = write(sink, queue, protocol.encoding, abandoned);
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = life.abandoned() => {}
                () = both(reading, writing) => {}
            }
        });
    }
}

async fn read<I: Io>(mut messages: Messages<I>, mut pipes: Pipes) {
    while let Some(message) = next_message(&mut messages).await {
        if let Err(error) = pipes.take(&message).await {
            tracing::debug!(%error, "client broke the protocol");
            return;
        }
    }
}

async fn write<I: Io>(
    mut sink: Sink<I>,
    mut queue: mpsc::Receiver<Frame>,
    encoding: Encoding,
    abandoned: CloseCode,
) -> Result<(), WsError> {
    let mut ping = pings();
    let code = loop {
        tokio::select! {
            frame = queue.recv() => match frame {
                Some(Frame::Data { channel, data }) => {
                    sink.send(encoding.message(channel, &data)).await?;
                }
                Some(Frame::Close) => break CloseCode::Normal,
                // Only SPDY knows the others; here a channel has no end of its own.
                Some(_) => {}
                None => break abandoned,
            },
            _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await?,
        }
    };
    close(&mut sink, code).await
}

impl Encoding {
    fn message(self, channel: u32, data: &[u8]) -> Message {
        let channel = u8::try_from(channel).unwrap_or(u8::MAX);
        match self {
            Encoding::Binary => {
                let mut message = Vec::with_capacity(data.len() + 1);
                message.push(channel);
                message.extend_from_slice(data);
                Message::Binary(message.into())
            }
            Encoding::Base64 => {
                let mut message = String::with_capacity(data.len() * 4 / 3 + 5);
                message.push(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(data, &mut message);
                Message::Text(message.into())
            }
        }
    }

    /// Channel and bytes of a message; `None`: it is none.
    fn open(self, message: &[u8]) -> Option<(usize, std::borrow::Cow<'_, [u8]>)> {
        let (first, rest) = message.split_first()?;
        match self {
            Encoding::Binary => Some((usize::from(*first), rest.into())),
            Encoding::Base64 => {
                let channel = usize::from(first.checked_sub(b'0')?);
                Some((channel, STANDARD.decode(rest).ok()?.into()))
            }
        }
    }
}

/// Where bytes from the client go, by channel.
struct Pipes {
    protocol: Protocol,
    pipes: Vec<Option<DuplexStream>>,
}

#[derive(Debug, thiserror::Error)]
#[error("message of {bytes} bytes is not of the agreed protocol")]
struct BrokenMessage {
    bytes: usize,
}

impl Pipes {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            pipes: Vec::new(),
        }
    }

    /// Opens `channel` and gives the end to read from.
    fn open(&mut self, channel: usize) -> DuplexStream {
        let (near, far) = duplex(PIPE_BYTES_MAX);
        if self.pipes.len() <= channel {
            self.pipes.resize_with(channel + 1, || None);
        }
        self.pipes[channel] = Some(near);
        far
    }

    /// Bytes for a channel nobody reads are dropped, as upstream does.
    async fn take(&mut self, message: &[u8]) -> Result<(), BrokenMessage> {
        let broken = BrokenMessage {
            bytes: message.len(),
        };
        let (channel, bytes) = self.protocol.encoding.open(message).ok_or(broken)?;
        if channel == CLOSE && self.protocol.version >= 5 {
            let ended = bytes.first().map(|channel| usize::from(*channel));
            if let Some(pipe) = ended.and_then(|channel| self.pipes.get_mut(channel)) {
                *pipe = None;
            }
            return Ok(());
        }
        let Some(slot) = self.pipes.get_mut(channel) else {
            return Ok(());
        };
        if let Some(pipe) = slot
            && pipe.write_all(&bytes).await.is_err()
        {
            *slot = None;
        }
        Ok(())
    }
}
