//! Everything between a connection and the REST verbs: TLS, filters, routes, health, discovery.
//!
//! Order of the filters: request id and panics → what is asked ([`route`]) → who asks → as whom →
//! may they → is there room → who serves. A request from inside the process brings its user along
//! and passes the same filters from "may they" on.

mod documents;
mod filters;
mod flow;
mod gather;
pub mod health;
pub mod listener;
mod observe;
mod openapi;
pub(crate) mod respond;
pub mod route;
mod stream;
mod trace;
mod transport;
pub mod tunnel;
mod unread;

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::status::ApiError;
use crate::client::{Body, Transport, empty_body};
use crate::server::audit::{Audit, Head, Trail};
use crate::server::authn::service_account::Tokens;
use crate::server::authn::{Authn, Peer};
use crate::server::authz::Authz;
use crate::server::cacher::Cacher;
use crate::server::join::Join;
use crate::server::openapi::OpenApi;
use crate::server::registry::Registry;
use crate::server::request::{RequestInfo, User};
use crate::server::review::Review;
use crate::server::scheduler::explain::Explainer;
use crate::server::snapshot::Snapshots;
use crate::util::metrics::Metrics;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

use documents::Discovery;
use flow::Flow;
use health::Health;
use observe::Observed;
use route::Upstream;
use tunnel::TunnelAcceptor;

pub use flow::default_objects as default_flow_control;
pub use transport::Direct;

/// Long enough for the largest list to a slow client, short enough to free what hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// Upstream's limit of a request body.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
const AUDIT_ID: &str = "audit-id";

/// What a handler is made of.
pub struct Parts {
    /// Who is calling.
    pub authn: Arc<Authn>,
    /// May they.
    pub authz: Arc<Authz>,
    /// What is served.
    pub registry: Arc<Registry>,
    /// The REST verbs.
    pub rest: Arc<dyn Upstream>,
    /// What leads to nodes: logs, exec, attach, port-forward, proxies.
    pub nodes: Arc<dyn Upstream>,
    /// How machines become nodes.
    pub join: Arc<Join>,
    /// The datastore as a file.
    pub snapshots: Snapshots,
    /// Asks the scheduler why a Pod waits.
    pub explainer: Explainer,
    /// Who keeps the connections of nodes.
    pub tunnel: Arc<dyn TunnelAcceptor>,
    /// Service-account tokens, for their public keys.
    pub tokens: Arc<Tokens>,
    /// Named checks.
    pub health: Health,
    /// What `/metrics` prints.
    pub metrics: Metrics,
    /// What is written about requests.
    pub audit: Option<Audit>,
    /// Where FlowSchemas and priority levels are read.
    pub cacher: Cacher,
    /// The authority's certificate.
    pub ca_pem: String,
    /// `host:port` as clients reach it.
    pub address: String,
    /// For request ids.
    pub rng: Rng,
    /// Runs what outlives a request.
    pub tasks: Tasks,
}

/// The API server behind TLS. Clones share it.
#[derive(Clone)]
pub struct Handler(Arc<Inner>);

struct Inner {
    parts: Parts,
    discovery: Discovery,
    openapi: Arc<OpenApi>,
    review: Review,
    flow: Flow,
    observed: Observed,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

impl Handler {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Self {
        parts.metrics.add_process();
        Self(Arc::new(Inner {
            discovery: Discovery::new(Arc::clone(&parts.registry), parts.address.clone()),
            openapi: Arc::new(OpenApi::new(Arc::clone(&parts.registry))),
            review: Review::new(Arc::clone(&parts.authn), Arc::clone(&parts.authz)),
            flow: Flow::new(&parts.metrics, Some(parts.cacher.clone())),
            observed: Observed::new(&parts.metrics),
            stopping: parts.tasks.cancelled(),
            parts,
        }))
    }

    /// Requests from inside the process, as `user`; no sockets.
    pub fn transport(&self, user: User) -> Arc<dyn Transport> {
        Arc::new(transport::InProcess {
            handler: self.clone(),
            user,
        })
    }

    /// Raised when other resources are served.
    pub fn served(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.parts.registry.generation()
    }

    /// What is served.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.parts.registry
    }

    /// The checks of the health endpoints.
    pub fn health(&self) -> &Health {
        &self.0.parts.health
    }

    /// Answers one request; failures and panics are answers too.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let is_head = request.method() == Method::HEAD;
        let audit_id = self.audit_id(&request);
        let uri = request.uri();
        let query = uri.query().unwrap_or_default();
        let info = route::request_info(request.method(), uri.path(), query);
        let mut response = match &info {
            Some(info) => {
                let mut request = request;
                let trail = self.trail(info, &audit_id, &request);
                if let Some(trail) = trail {
                    request.extensions_mut().insert(trail);
                }
                self.answer(info.clone(), audit_id.clone(), request).await
            }
            None => respond::error(&ApiError::no_such_path()),
        };
        let info = info.unwrap_or_default();
        let table = self.0.parts.registry.snapshot();
        let is_served = table
            .find(&info.group, &info.version, &info.resource)
            .is_some();
        let took = started.elapsed();
        self.0
            .observed
            .count(&info, is_served, response.status(), took);
        let headers = response.headers_mut();
        headers.insert(AUDIT_ID, audit_id);
        let no_cache = HeaderValue::from_static("no-cache, private");
        headers.entry(CACHE_CONTROL).or_insert(no_cache);
        if !is_head {
            return response;
        }
        let length = response.body().size_hint().exact();
        let mut response = response.map(|_| empty_body());
        if let Some(length) = length {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        response
    }

    async fn answer(
        &self,
        info: RequestInfo,
        audit_id: HeaderValue,
        request: Request<Body>,
    ) -> Response<Body> {
        let is_local = request.extensions().get::<User>().is_some();
        let prefers_protobuf = info.is_resource && respond::prefers_protobuf(request.headers());
        let is_list = info.is_resource && info.verb == "list";
        let may_pack = !is_local && respond::accepts_gzip(request.headers());
        let inner = Arc::clone(&self.0);
        let path = info.path.clone();
        let is_long = route::is_long_running(&info);
        let trail = request.extensions().get::<Arc<Trail>>().cloned();
        let work = async move { inner.serve(&info, request).await };
        let response = match AssertUnwindSafe(work.boxed()).catch_unwind().await {
            Ok(Ok(response)) => match trail {
                Some(trail) => trace::answered(&trail, response, is_long).await,
                None => response,
            },
            Ok(Err(error)) => {
                if let Some(trail) = trail {
                    trail.failed(&error);
                    trail.completed(error.code).await;
                }
                respond::error_for(&error, prefers_protobuf)
            }
            Err(_) => {
                if let Some(trail) = trail {
                    trail.panicked().await;
                }
                tracing::error!(path, audit_id = ?audit_id, "request panicked");
                let message = format!(
                    "this request caused apiserver to panic; look in the logs for {}",
                    audit_id.to_str().unwrap_or_default()
                );
                respond::error(&ApiError::internal(message))
            }
        };
        match may_pack {
            false => response,
            true if is_list => respond::compressed_stream(respond::compressed(response).await),
            true => respond::compressed(response).await,
        }
    }

    /// Begins to take notes of a request, where there is an audit log.
    fn trail(
        &self,
        info: &RequestInfo,
        id: &HeaderValue,
        request: &Request<Body>,
    ) -> Option<Arc<Trail>> {
        let audit = self.0.parts.audit.as_ref()?;
        let uri = request.uri();
        let uri = uri
            .path_and_query()
            .map_or(uri.path(), |whole| whole.as_str());
        let peer = request.extensions().get::<Arc<Peer>>();
        let peer = peer.map(|peer| peer.address().ip());
        let head = Head::new(id.to_str().unwrap_or_default(), uri, info);
        Some(audit.trail(head.sent_by(request.headers(), peer)))
    }

    /// The client's own id where it sent one, so that its logs and ours can be joined.
    fn audit_id(&self, request: &Request<Body>) -> HeaderValue {
        let given = request.headers().get(AUDIT_ID).cloned();
        given
            .filter(|id| id.len() <= 64)
            .or_else(|| HeaderValue::from_str(&self.0.parts.rng.uid()).ok())
            .unwrap_or(HeaderValue::from_static("none"))
    }
}
