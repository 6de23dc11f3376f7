//! `GET /orch/v1/tunnel`: the outbound connection of a node becomes ours to call back through.

use std::sync::Arc;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::status::ApiError;
use crate::client::{Body, empty_body};
use crate::util::tasks::Tasks;

/// What the `Upgrade` header says.
pub const PROTOCOL: &str = "orch-tunnel";

/// A connection to a node.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncReadWrite for T {}

/// Who keeps the connections of nodes.
pub trait TunnelAcceptor: Send + Sync + 'static {
    /// `io` leads to `node`, which was authenticated.
    fn accept(&self, node: String, io: Box<dyn AsyncReadWrite>);
}

/// Agrees to the upgrade and hands the connection over when it is done.
pub(super) fn serve(
    node: String,
    mut request: Request<Body>,
    acceptor: &Arc<dyn TunnelAcceptor>,
    tasks: &Tasks,
) -> Result<Response<Body>, ApiError> {
    let asked = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok());
    if !asked.is_some_and(|asked| asked.eq_ignore_ascii_case(PROTOCOL)) {
        let message = format!("the tunnel needs the header `Upgrade: {PROTOCOL}` over HTTP/1.1");
        return Err(ApiError::bad_request(message));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let acceptor = Arc::clone(acceptor);
    tasks.job("tunnel upgrade", async move {
        match upgrade.await {
            Ok(upgraded) => acceptor.accept(node, Box::new(TokioIo::new(upgraded))),
            Err(error) => tracing::debug!(node, error = %error, "tunnel was not upgraded"),
        }
    });
    let mut response = Response::new(empty_body());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    Ok(response)
}
