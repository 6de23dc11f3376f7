//! The node's own HTTP API, with the kubelet's paths: logs, exec, attach, port-forward, pods and
//! figures.
//!
//! It has no port. It is served over the connection the agent keeps to each server
//! ([`crate::agent::tunnel`]), so whoever asks was let through by the API server, and no worker
//! needs an open port. Failures are `Status` objects, which the server hands to its client.

mod dial;
mod directory;
mod exec;
mod follow;
mod logs;
mod stats;

use std::sync::Arc;

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::agent::seam::{ContainerView, PodDirectory, PodView};
use crate::api::status::ApiError;
use crate::client::{Body, body_from};
use crate::runtime::Runtime;
use crate::util::clock::Clock;
use crate::util::tasks::Tasks;

type Answer = Result<Response<Body>, ApiError>;

/// Answers the requests of servers. Clones share it.
#[derive(Clone)]
pub struct NodeApi(Arc<Inner>);

struct Inner {
    node: String,
    runtime: Arc<dyn Runtime>,
    pods: Arc<dyn PodDirectory>,
    clock: Clock,
    /// Streams that outlive the head of their answer.
    tasks: Tasks,
}

/// A request line, taken apart.
struct Call<'a> {
    parts: Vec<String>,
    query: &'a str,
}

impl Call<'_> {
    /// The first value of a query parameter.
    fn get(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    fn all(&self, name: &str) -> Vec<String> {
        form_urlencoded::parse(self.query.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .collect()
    }

    /// As the kubelet reads booleans: `1` and `true`.
    fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name).as_deref(), Some("1" | "true"))
    }
}

impl NodeApi {
    /// Serves `pods`, whose containers `runtime` runs, as the node `node`.
    pub fn new(
        node: &str,
        runtime: Arc<dyn Runtime>,
        pods: Arc<dyn PodDirectory>,
        clock: Clock,
        tasks: &Tasks,
    ) -> Self {
        Self(Arc::new(Inner {
            node: node.to_owned(),
            runtime,
            pods,
            clock,
            tasks: tasks.clone(),
        }))
    }

    /// Answers one request; failures are answers too.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        match self.route(request).await {
            Ok(response) => response,
            Err(error) => {
                let code =
                    StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                json_response(code, &error.to_status())
            }
        }
    }

    async fn route(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let call = Call {
            parts: head
                .uri
                .path()
                .trim_matches('/')
                .split('/')
                .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
                .collect(),
            query: head.uri.query().unwrap_or_default(),
        };
        let parts: Vec<&str> = call.parts.iter().map(String::as_str).collect();
        match (&head.method, parts.as_slice()) {
            (&Method::GET, ["healthz"]) => Ok(text("ok")),
            (&Method::GET, ["pods"]) => Ok(self.list_pods()),
            (&Method::GET, ["stats", "summary"]) => self.summary().await,
            (&Method::GET, ["metrics", "resource"]) => self.resource_metrics().await,
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                self.logs(namespace, pod, container, &call).await
            }
            (_, ["exec", namespace, pod, container]) => {
                let view = self.container(namespace, pod, container)?;
                self.exec(&view, &call, body)
            }
            (_, ["attach", namespace, pod, container]) => {
                let view = self.container(namespace, pod, container)?;
                self.attach(&view, &call, body).await
            }
            (_, ["portForward", namespace, pod]) => {
                self.port_forward(namespace, pod, &call, body).await
            }
            (_, ["dial", address]) => self.dial(address, body).await,
            _ => Err(ApiError::no_such_path()),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<PodView, ApiError> {
        self.0.pods.find(namespace, name).ok_or_else(|| {
            ApiError::plain(404, "NotFound", format!("pod \"{name}\" does not exist"))
        })
    }

    /// A container that commands can be run in.
    fn container(&self, namespace: &str, pod: &str, name: &str) -> Result<ContainerView, ApiError> {
        let pod = self.pod(namespace, pod)?;
        pod.containers
            .into_iter()
            .find(|c| {
                c.name == name && c.shown == crate::agent::seam::Shown::Running && c.id.is_some()
            })
            .ok_or_else(|| {
                let message =
                    format!("unable to upgrade connection: container not found (\"{name}\")");
                ApiError::plain(404, "NotFound", message)
            })
    }

    fn list_pods(&self) -> Response<Body> {
        let pods: Vec<_> = self
            .0
            .pods
            .all()
            .iter()
            .map(|view| json!(*view.pod))
            .collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        json_response(StatusCode::OK, &list)
    }
}

fn json_response(code: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(body_from(value.to_string()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(body: &str) -> Response<Body> {
    let mut response = Response::new(body_from(body.to_owned()));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// A body that never fails by itself.
fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed_unsync()
}
