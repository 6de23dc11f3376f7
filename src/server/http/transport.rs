//! The two in-process transports: through the whole handler as some user, and straight to the
//! REST verbs for the parts the handler itself is made of.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Request, Response};

use crate::api::status::ApiError;
use crate::client::{Body, Error, Result, Transport};
use crate::server::http::Handler;
use crate::server::http::respond;
use crate::server::http::route::{Upstream, request_info};
use crate::server::request::{RequestInfo, User};
use crate::server::rest::Rest;

#[async_trait]
impl Upstream for Rest {
    async fn handle(
        &self,
        info: RequestInfo,
        user: User,
        request: Request<Body>,
    ) -> std::result::Result<Response<Body>, ApiError> {
        Rest::handle(self, info, user, request).await
    }

    async fn admit(
        &self,
        info: &RequestInfo,
        user: &User,
        query: &str,
    ) -> std::result::Result<(), ApiError> {
        self.connect(info, user, query).await
    }
}

/// Requests as `user` through every filter but authentication.
pub(super) struct InProcess {
    pub(super) handler: Handler,
    pub(super) user: User,
}

#[async_trait]
impl Transport for InProcess {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        request.extensions_mut().insert(self.user.clone());
        Ok(self.handler.handle(request).await)
    }
}

/// Requests as the program itself, past every filter.
pub struct Direct {
    rest: Arc<dyn Upstream>,
    user: User,
}

impl Direct {
    /// To `rest`, as `system:apiserver`.
    pub fn new(rest: Arc<dyn Upstream>) -> Self {
        Self {
            rest,
            user: User::system("system:apiserver"),
        }
    }
}

#[async_trait]
impl Transport for Direct {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let uri = request.uri();
        let query = uri.query().unwrap_or_default();
        let answer = match request_info(request.method(), uri.path(), query) {
            Some(info) => self.rest.handle(info, self.user.clone(), request).await,
            None => Err(ApiError::no_such_path()),
        };
        Ok(answer.unwrap_or_else(|error| respond::error(&error)))
    }
}
