//! A stream of bytes both ways over one HTTP exchange: the request's body one way, the answer's
//! the other.

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyDataStream, StreamBody};
use tokio::io::{AsyncRead, DuplexStream, Join};
use tokio_stream::StreamExt;
use tokio_util::io::{ReaderStream, StreamReader};

/// Bytes between the writer and the body; the body's own window comes on top.
const BUFFER_BYTES: usize = 64 << 10;

/// What can be written to, and the body that carries it. Shutting the writer down or dropping it
/// ends the body.
pub fn writer() -> (
    DuplexStream,
    impl Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
) {
    let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
    let stream = ReaderStream::with_capacity(theirs, BUFFER_BYTES);
    (
        ours,
        StreamBody::new(stream.map(|part| part.map(Frame::data))),
    )
}

/// Reads a body as bytes.
pub fn reader<B>(body: B) -> impl AsyncRead + Send + Unpin + 'static
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let parts = BodyDataStream::new(body);
    StreamReader::new(
        parts.map(|part| part.map_err(|error| std::io::Error::other(error.to_string()))),
    )
}

/// Both ways as one stream: reads `body`, writes to `writer`.
pub fn stream<B>(
    body: B,
    writer: DuplexStream,
) -> Join<impl AsyncRead + Send + Unpin + 'static, DuplexStream>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    tokio::io::join(reader(body), writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_written_is_read_and_ends_with_the_writer() {
        let (mut to, body) = writer();
        let mut from = reader(Box::pin(body));
        let data = vec![7_u8; 300_000];
        let sent = data.clone();
        let writing = async move {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(writing, from.read_to_end(&mut got));
        read.unwrap();
        assert_eq!(got, data);
    }
}
