//! Bodies that stream: counted while they are open, and ended when the server stops, so that a
//! watch does not hold a stop up. To the client it is the ordinary end of a watch.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::client::Body;
use crate::util::metrics::Gauge;

/// Counts one open stream until dropped.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Open {
    pub(super) fn new(gauge: Gauge) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// `body` until it ends or `stopping` says so.
pub(super) fn until(body: Body, stopping: CancellationToken, open: Open) -> Body {
    let stopping = Box::pin(stopping.cancelled_owned());
    Until {
        body,
        stopping,
        _open: open,
    }
    .boxed_unsync()
}

struct Until {
    body: Body,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: Open,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        self.stopping.as_mut().poll(context).map(|()| None)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::metrics::Metrics;
    use http_body_util::Channel;

    #[tokio::test]
    async fn a_stream_ends_when_the_server_stops_and_is_no_longer_counted() {
        let gauge = Metrics::new().gauges("open", "", &[]).with(&[]);
        let stopping = CancellationToken::new();
        let (mut sender, body) = Channel::<Bytes, Box<dyn std::error::Error + Send + Sync>>::new(1);
        let open = Open::new(gauge.clone());
        let mut body = until(body.boxed_unsync(), stopping.clone(), open);
        sender.send_data(Bytes::from_static(b"a")).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "a");
        assert_eq!(gauge.get(), 1);
        stopping.cancel();
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(gauge.get(), 0);
    }
}
