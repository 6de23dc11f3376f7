//! How everyone talks to the API: scheduler, controllers, manifests folder, agents, commands.
//!
//! The same code runs over HTTPS and, inside the server's own process, over the request handler
//! itself: both are a [`Transport`].
//!
//! A [`Client`] makes [`Api`] handles, typed (`client.all::<Pod>()`) or dynamic over JSON objects.
//! [`Informers`] keep one watched copy a kind a process; a [`controller`] is a keyed [`Queue`]
//! that their changes fill and workers that empty it.

mod api;
pub mod cache;
pub mod config;
pub mod controller;
pub mod discovery;
mod error;
pub mod events;
pub mod https;
mod informers;
mod kind;
pub mod lease;
mod params;
pub mod queue;
mod transport;
pub mod watch;

#[cfg(test)]
pub mod fake;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::api::{
    gvk::{GroupVersionResource, Scope},
    object::Object,
    status::ApiError,
};

pub use api::{Api, DynamicApi};
pub use cache::{Cache, Change};
pub use error::Error;
pub use events::{Recorder, reference};
pub use https::{Endpoint, HttpsTransport};
pub use informers::Informers;
pub use kind::{HasMeta, Kind, List, PartialObjectMetadata, key_of};
pub use params::{DeleteParams, ListParams, Patch, Propagation};
pub use queue::Queue;
pub use transport::{Body, Transport, body_from, empty_body};

/// What client calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Media type of everything the client sends and asks for.
const JSON: &str = "application/json";

/// Talks to the API through a [`Transport`]. Clones share it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    user_agent: HeaderValue,
}

struct Inner {
    transport: Arc<dyn Transport>,
    mapper: discovery::Mapper,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("user_agent", &self.user_agent)
            .finish_non_exhaustive()
    }
}

/// A request by its parts; see [`Client::call`].
#[derive(Debug)]
pub struct Call<'a> {
    /// HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// Media type of the body, where there is one.
    pub content_type: &'a str,
    /// Media types of the answer.
    pub accept: &'a str,
    /// The body; empty for none.
    pub body: Bytes,
}

impl<'a> Call<'a> {
    /// A request without a body that asks for JSON.
    pub fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            content_type: "",
            accept: JSON,
            body: Bytes::new(),
        }
    }

    /// The same with a JSON body.
    pub fn json(method: Method, path: &'a str, body: impl Into<Bytes>) -> Self {
        Self {
            content_type: JSON,
            body: body.into(),
            ..Self::new(method, path)
        }
    }
}

impl Client {
    /// A client over `transport`, whose field manager is `orch`.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        let inner = Inner {
            transport,
            mapper: discovery::Mapper::default(),
        };
        Self {
            inner: Arc::new(inner),
            user_agent: HeaderValue::from_static("orch"),
        }
    }

    /// The same connection under another name: the user agent, from which the server takes the
    /// field manager of writes. A name that no header can carry is not used.
    pub fn named(&self, name: &str) -> Self {
        let user_agent = HeaderValue::from_str(name).unwrap_or_else(|_| self.user_agent.clone());
        Self {
            user_agent,
            ..self.clone()
        }
    }

    /// Objects of a kind in all namespaces, or of a cluster-scoped kind. For a namespaced kind it
    /// lists, watches and deletes collections only: what names one object is `namespaced`.
    pub fn all<K: Kind>(&self) -> Api<K> {
        Api::at(
            self.clone(),
            kind::path(K::GROUP, K::VERSION, "", K::URL_PATH_SEGMENT),
        )
    }

    /// Objects of a kind in one namespace.
    pub fn namespaced<K: Kind>(&self, namespace: &str) -> Api<K> {
        Api::at(
            self.clone(),
            kind::path(K::GROUP, K::VERSION, namespace, K::URL_PATH_SEGMENT),
        )
    }

    /// Objects of any resource as JSON; `namespace` is empty for cluster-scoped resources and for
    /// lists over all namespaces.
    pub fn dynamic(&self, resource: &GroupVersionResource, namespace: &str) -> DynamicApi {
        Api::at(self.clone(), kind::resource_path(resource, namespace))
    }

    /// Only the metadata of objects of any resource; see [`Client::dynamic`] for `namespace`.
    pub fn metadata(
        &self,
        resource: &GroupVersionResource,
        namespace: &str,
    ) -> Api<PartialObjectMetadata> {
        Api::metadata_at(self.clone(), kind::resource_path(resource, namespace))
    }

    /// What the server serves; fetched once and kept until a kind is missed.
    pub fn discover(&self) -> discovery::Discovery<'_> {
        discovery::Discovery::new(self, &self.inner.mapper)
    }

    /// The handle for `object` by its kind and namespace (`default` where a namespaced object
    /// names none).
    ///
    /// Errors: the server knows no such kind.
    pub async fn api_of(&self, object: &Object) -> Result<DynamicApi> {
        let mapped = self.discover().mapping_of(object).await?;
        let namespace = match (mapped.scope, object.namespace()) {
            (Scope::Cluster, _) => "",
            (Scope::Namespaced, "") => "default",
            (Scope::Namespaced, namespace) => namespace,
        };
        Ok(self.dynamic(&mapped.resource, namespace))
    }

    /// A request with a JSON body, or none, and a JSON answer.
    ///
    /// Errors: no answer, an answer that says it failed, an answer that is not JSON.
    pub async fn request_json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let call = match body {
            None => Call::new(method, path),
            Some(body) => Call::json(method, path, body.to_string()),
        };
        let bytes = self.call(call).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        decode(path, &bytes)
    }

    /// Sends a request and returns the whole answer's body.
    ///
    /// Errors: no answer, or an answer that says it failed ([`Error::Api`]).
    pub async fn call(&self, call: Call<'_>) -> Result<Bytes> {
        let (method, path) = (call.method.clone(), call.path);
        let body = self.open(call).await?;
        collect(body, &method, path).await
    }

    /// Sends a request and returns the answer's body while it still streams.
    ///
    /// Errors: no answer, or an answer that says it failed ([`Error::Api`]).
    pub async fn open(&self, call: Call<'_>) -> Result<Body> {
        let (method, path) = (call.method.clone(), call.path);
        let response = self.inner.transport.send(self.request(call)?).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let bytes = collect(response.into_body(), &method, path).await?;
        let answer = serde_json::from_slice(&bytes).unwrap_or_else(|_| plain_failure(&bytes));
        Err(ApiError::from_status(status.as_u16(), &answer).into())
    }

    fn request(&self, call: Call<'_>) -> Result<Request<Body>> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.path)
            .body(body_from(call.body))
            .map_err(|source| Error::Transport {
                method: call.method.to_string(),
                path: call.path.to_owned(),
                source: source.into(),
            })?;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, self.user_agent.clone());
        set_header(headers, header::ACCEPT, call.accept);
        if !call.content_type.is_empty() {
            set_header(headers, header::CONTENT_TYPE, call.content_type);
        }
        Ok(request)
    }
}

fn set_header(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A `Status` made of an answer that is none (a proxy's page).
fn plain_failure(bytes: &[u8]) -> Value {
    let text: String = String::from_utf8_lossy(bytes).chars().take(512).collect();
    serde_json::json!({ "message": text.trim() })
}

async fn collect(body: Body, method: &Method, path: &str) -> Result<Bytes> {
    let collected = body.collect().await.map_err(|source| Error::Transport {
        method: method.to_string(),
        path: path.to_owned(),
        source,
    })?;
    Ok(collected.to_bytes())
}

fn decode<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Decode {
        path: path.to_owned(),
        source,
    })
}

/// Removes what no reader of a cache needs and what is large.
fn trim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
}
