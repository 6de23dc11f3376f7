//! What of a request's body nobody read is read and thrown away before the answer leaves.
//!
//! A request may be answered before its body was looked at (who sends it may not). An answer that
//! leaves while the body is still on its way is lost for many clients: over HTTP/2 the stream is
//! cancelled together with it, over HTTP/1.1 the connection is reset. Go's server, which clients of
//! Kubernetes are used to, reads on for a while as well.
//!
//! A body that somebody still reads (a proxied upload) is left to them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::client::Body;

/// What is thrown away; who sends more finds the stream closed.
const BYTES_MAX: usize = 8 << 20;
/// How long an answer waits for it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A body that is lent to whoever answers the request.
pub(super) struct Unread(Arc<Mutex<Incoming>>);

/// The reader's end.
struct Lent(Arc<Mutex<Incoming>>);

/// Lends `body`; `None` where there is none to be read.
pub(super) fn lend(body: Incoming) -> (Body, Option<Unread>) {
    if body.is_end_stream() {
        return (body.map_err(Into::into).boxed_unsync(), None);
    }
    let shared = Arc::new(Mutex::new(body));
    let lent = Lent(Arc::clone(&shared));
    (
        lent.map_err(Into::into).boxed_unsync(),
        Some(Unread(shared)),
    )
}

impl Unread {
    /// Reads what is left, where nobody reads any more.
    pub(super) async fn discard(self) {
        let Some(mut body) = Arc::into_inner(self.0).map(Mutex::into_inner) else {
            return;
        };
        let reading = async {
            let mut left = BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let len = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(len) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        // A body that does not come is as good as one that is too long.
        let _ = tokio::time::timeout(TIMEOUT, reading).await;
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}
