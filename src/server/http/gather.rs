//! Gathers what is written to a connection while others have something to write to it.
//!
//! HTTP/2 writes and flushes frame by frame, and over TLS each flush would be a record and a system
//! call of its own. Here a flush only says that one is due: it is carried out when the connection's
//! task runs again, after every task that was ready, so that answers to many requests, and an event
//! to many watches, leave together. The buffer exists only while something waits in it, so an idle
//! connection costs nothing.
//!
//! Invariant: where something waits, a flush is due, and then the task was woken or the stream will
//! wake it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Two full TLS records; more together would not save much.
const GATHERED_BYTES_MAX: usize = 32 << 10;
/// What is longer is not worth copying.
const PIECE_BYTES_MAX: usize = 8 << 10;

/// A stream whose writes wait for a flush.
#[derive(Debug)]
pub(super) struct Gather<S> {
    stream: S,
    waiting: Vec<u8>,
    /// So much of what waits is written already.
    written: usize,
    /// A flush was asked for and not carried out.
    is_due: bool,
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            waiting: Vec::new(),
            written: 0,
            is_due: false,
        }
    }

    /// Carries out the flush that is due.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(context))?;
        self.waiting = Vec::new();
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.is_due = false;
        Poll::Ready(Ok(()))
    }

    /// Hands everything that waits to the stream.
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.waiting.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Makes room for `len` bytes; `true`: they are to be taken in.
    fn poll_room(&mut self, context: &mut Context<'_>, len: usize) -> Poll<io::Result<bool>> {
        if self.waiting.len() + len > GATHERED_BYTES_MAX {
            ready!(self.poll_write_out(context))?;
        }
        if len <= PIECE_BYTES_MAX {
            return Poll::Ready(Ok(true));
        }
        ready!(self.poll_write_out(context))?;
        Poll::Ready(Ok(false))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if ready!(self.poll_room(context, bytes.len()))? {
            self.waiting.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if ready!(self.poll_room(context, len))? {
            for piece in pieces {
                self.waiting.extend_from_slice(piece);
            }
            return Poll::Ready(Ok(len));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_empty() {
            return Pin::new(&mut self.stream).poll_flush(context);
        }
        if !std::mem::replace(&mut self.is_due, true) {
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 reads each time its task runs. What cannot be written yet does not stop it.
        if self.is_due
            && let Poll::Ready(Err(error)) = self.poll_due(context)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Takes at most so many bytes a write, remembers each, and has nothing to read.
    struct Sink(usize, Vec<Vec<u8>>);

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.0);
            self.1.push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Sink {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    async fn read_nothing(gather: &mut Gather<Sink>) {
        let mut byte = [0];
        let read = gather.read(&mut byte);
        assert!(read.now_or_never().is_none());
    }

    #[tokio::test]
    async fn small_writes_leave_together_when_the_task_runs_again() {
        let mut gather = Gather::new(Sink(usize::MAX, Vec::new()));
        gather.write_all(b"ab").await.unwrap();
        gather.flush().await.unwrap();
        let pieces = [io::IoSlice::new(b"c"), io::IoSlice::new(b"d")];
        assert_eq!(gather.write_vectored(&pieces).await.unwrap(), 2);
        gather.flush().await.unwrap();
        assert!(gather.stream.1.is_empty());
        read_nothing(&mut gather).await;
        assert_eq!(gather.stream.1, [b"abcd".to_vec()]);
        assert_eq!(gather.waiting.capacity(), 0);
        read_nothing(&mut gather).await;
        assert_eq!(gather.stream.1.len(), 1);
    }

    #[tokio::test]
    async fn a_large_write_pushes_out_what_waits_before_it() {
        let mut gather = Gather::new(Sink(usize::MAX, Vec::new()));
        gather.write_all(b"ab").await.unwrap();
        let large = vec![b'e'; PIECE_BYTES_MAX + 1];
        gather.write_all(&large).await.unwrap();
        assert_eq!(gather.stream.1, [b"ab".to_vec(), large]);
        let piece = vec![b'p'; PIECE_BYTES_MAX];
        for _ in 0..5 {
            gather.write_all(&piece).await.unwrap();
        }
        assert_eq!(gather.stream.1[2].len(), 4 * PIECE_BYTES_MAX);
    }

    #[tokio::test]
    async fn what_a_stream_takes_in_parts_is_not_lost_or_doubled() {
        let mut gather = Gather::new(Sink(3, Vec::new()));
        gather.write_all(b"abcd").await.unwrap();
        gather.flush().await.unwrap();
        read_nothing(&mut gather).await;
        gather.write_all(b"efgh").await.unwrap();
        gather.shutdown().await.unwrap();
        assert_eq!(gather.stream.1.concat(), b"abcdefgh");
    }
}
