//! The seam between the client and what carries its requests.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

use super::Result;

/// A body of a request or an answer: whole, or streaming (watch, logs, exec).
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// No body.
pub fn empty_body() -> Body {
    body_from(Bytes::new())
}

/// A body that is at hand as a whole.
pub fn body_from(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Carries a request to an API server and brings back its answer, whose body may stream.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// `request` has a path and query only, no scheme and host.
    ///
    /// Errors: [`super::Error::Transport`] where no answer came. A failure the server answers is
    /// an answer.
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>>;
}
