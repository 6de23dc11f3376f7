//! Requests to nodes while nobody keeps their connections.

use async_trait::async_trait;
use http::{Request, Response};

use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::http::route::Upstream;
use crate::server::http::tunnel::{AsyncReadWrite, TunnelAcceptor};
use crate::server::request::{RequestInfo, User};

/// Answers that no node can be reached, and closes what nodes leave.
pub(super) struct Unreachable;

#[async_trait]
impl Upstream for Unreachable {
    async fn handle(
        &self,
        _info: RequestInfo,
        _user: User,
        _request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        Err(ApiError::unavailable("there is no connection to the node"))
    }
}

impl TunnelAcceptor for Unreachable {
    fn accept(&self, node: String, io: Box<dyn AsyncReadWrite>) {
        tracing::debug!(node, "nobody takes the node's connection");
        drop(io);
    }
}
