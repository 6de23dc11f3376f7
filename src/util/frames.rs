//! Several streams on one HTTP body: `[channel][length, 4 bytes, big-endian][bytes]`.
//!
//! How the server and a node's agent carry exec and attach between them. The channels are
//! Kubernetes' own ([`STDIN`] … [`RESIZE`]); [`CLOSE`] with a channel's number says that the
//! channel has ended while the others go on.

use std::convert::Infallible;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body, Frame as BodyFrame};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// The `Status` at the end.
pub const ERROR: u8 = 3;
/// Terminal sizes as JSON.
pub const RESIZE: u8 = 4;
/// Ends the channel whose number is the data.
pub const CLOSE: u8 = 255;

/// A frame that is longer is refused; senders stay far below.
const FRAME_BYTES_MAX: usize = 1 << 20;

const HEAD_BYTES: usize = 5;

/// Frames on their way to the other side; the body's own window comes on top.
const FRAMES_MAX: usize = 8;

/// Bytes of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which.
    pub channel: u8,
    /// What.
    pub data: Bytes,
}

/// The stream of frames is broken.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The body failed.
    #[error("read frames: {0}")]
    Body(String),
    /// It ended within a frame.
    #[error("the stream of frames ended within one")]
    Cut,
    /// Nobody sends such frames.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
}

/// The other side is gone.
#[derive(Debug, thiserror::Error)]
#[error("the other side is gone")]
pub struct Gone;

/// Where frames are put.
#[derive(Clone, Debug)]
pub struct FrameSender(mpsc::Sender<Bytes>);

/// A sender, and the body that carries what it sends. The body ends when every clone of the sender
/// is dropped.
pub fn channel() -> (
    FrameSender,
    impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) {
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    let body = StreamBody::new(ReceiverStream::new(receiver).map(|data| Ok(BodyFrame::data(data))));
    (FrameSender(sender), body)
}

impl FrameSender {
    /// Sends bytes of a channel, waiting while the other side is slow.
    pub async fn send(&self, channel: u8, data: &[u8]) -> Result<(), Gone> {
        for part in data.chunks(FRAME_BYTES_MAX) {
            self.send_part(channel, part).await?;
        }
        if data.is_empty() {
            self.send_part(channel, data).await?;
        }
        Ok(())
    }

    /// Says that a channel has ended.
    pub async fn close(&self, channel: u8) -> Result<(), Gone> {
        self.send_part(CLOSE, &[channel]).await
    }

    /// Resolves when the other side is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    async fn send_part(&self, channel: u8, data: &[u8]) -> Result<(), Gone> {
        let mut frame = BytesMut::with_capacity(HEAD_BYTES + data.len());
        frame.put_u8(channel);
        frame.put_u32(u32::try_from(data.len()).unwrap_or(0));
        frame.put_slice(data);
        self.0.send(frame.freeze()).await.map_err(|_| Gone)
    }
}

/// Frames as they come.
#[derive(Debug)]
pub struct FrameReader<B> {
    body: B,
    buffer: BytesMut,
}

impl<B> FrameReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// Reads frames off a body.
    pub fn new(body: B) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(FrameError::Cut),
                Some(Err(error)) => return Err(FrameError::Body(error.to_string())),
                Some(Ok(part)) => {
                    if let Ok(data) = part.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let [channel, length @ ..] = match self.buffer.first_chunk::<HEAD_BYTES>() {
            Some(head) => *head,
            None => return Ok(None),
        };
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        let data = self.buffer.split_to(length).freeze();
        Ok(Some(Frame { channel, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_sent_however_the_body_is_cut() {
        let (sender, body) = channel();
        let mut reader = FrameReader::new(Box::pin(body));
        sender.send(STDOUT, b"hello").await.unwrap();
        sender.send(STDERR, b"").await.unwrap();
        sender.close(STDIN).await.unwrap();
        drop(sender);
        let mut got = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            got.push((frame.channel, frame.data.to_vec()));
        }
        assert_eq!(
            got,
            [
                (STDOUT, b"hello".to_vec()),
                (STDERR, Vec::new()),
                (CLOSE, vec![STDIN])
            ]
        );
    }

    #[tokio::test]
    async fn a_cut_or_giant_frame_is_an_error() {
        let whole = |bytes: &'static [u8]| http_body_util::Full::new(Bytes::from_static(bytes));
        let cut = FrameReader::new(whole(&[1, 0, 0, 0, 9, 1])).next().await;
        assert!(matches!(cut, Err(FrameError::Cut)));
        let giant = FrameReader::new(whole(&[1, 255, 0, 0, 0])).next().await;
        assert!(matches!(giant, Err(FrameError::TooLong(_))));
    }
}
