//! What leads to nodes: logs, exec, attach, port-forward, and the proxies to pods, services and
//! nodes. Everything travels through the connections the nodes keep ([`Tunnels`]).

mod exec;
mod forward;
mod http_proxy;
mod log;
mod pod;
mod service;
mod tunnel;

use async_trait::async_trait;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::cacher::Cacher;
use crate::server::http::route::Upstream;
use crate::server::http::tunnel::{AsyncReadWrite, TunnelAcceptor};
use crate::server::request::{RequestInfo, User};
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

pub use tunnel::Tunnels;

/// Serves what leads to nodes. Clones share it.
#[derive(Clone, Debug)]
pub struct NodeProxy {
    cacher: Cacher,
    tunnels: Tunnels,
    rng: Rng,
    tasks: Tasks,
}

/// The query of a request.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.0.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    fn all(&self, name: &str) -> Vec<String> {
        form_urlencoded::parse(self.0.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .collect()
    }

    /// As the API reads booleans: present without a value is true.
    fn is_set(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| !matches!(value.as_str(), "false" | "0" | "False" | "F" | "f"))
    }
}

impl NodeProxy {
    /// Finds pods in `cacher` and nodes in `tunnels`. Streams live in `tasks`.
    pub fn new(cacher: Cacher, tunnels: Tunnels, rng: Rng, tasks: &Tasks) -> Self {
        Self {
            cacher,
            tunnels,
            rng,
            tasks: tasks.clone(),
        }
    }

    /// Serves one authorized request.
    pub async fn handle(
        &self,
        info: RequestInfo,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        match (info.resource.as_str(), info.subresource.as_str()) {
            ("pods", "log") => {
                let query = request.uri().query().unwrap_or_default().to_owned();
                self.log(&info, &query).await
            }
            ("pods", "exec") => self.exec(&info, request, true).await,
            ("pods", "attach") => self.exec(&info, request, false).await,
            ("pods", "portforward") => self.port_forward(&info, request),
            ("pods", "proxy") => self.pod_proxy(&info, request).await,
            ("services", "proxy") => self.service_proxy(&info, request).await,
            ("nodes", "proxy") => self.node_proxy(&info, request).await,
            _ => Err(ApiError::no_such_path()),
        }
    }

    /// Asks a node; a refusal of its is an error.
    async fn ask(
        &self,
        node: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ApiError> {
        self.tunnels.ask(node, request).await
    }
}

#[async_trait]
impl Upstream for NodeProxy {
    async fn handle(
        &self,
        info: RequestInfo,
        _user: User,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        NodeProxy::handle(self, info, request).await
    }

    async fn admit(&self, _: &RequestInfo, _: &User, _: &str) -> Result<(), ApiError> {
        Ok(())
    }
}

impl TunnelAcceptor for Tunnels {
    fn accept(&self, node: String, io: Box<dyn AsyncReadWrite>) {
        self.take(node, io);
    }
}

/// A node's body as one of ours.
fn boxed(body: Incoming) -> Body {
    body.map_err(Into::into).boxed_unsync()
}

/// Percent-encodes one part of a path.
fn part(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
