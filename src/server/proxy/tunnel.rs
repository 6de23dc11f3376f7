//! The connections nodes keep to this server: each is an HTTP/2 client on our side.
//!
//! A node that comes back replaces its earlier connection; what runs on that one goes on there
//! until it ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::webhook::{Dial, Stream};
use crate::util::byte_body;
use crate::util::errors::{self, chain};
use crate::util::tasks::Tasks;

use super::part;

/// Silence after which a node is pinged, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Until a node begins to answer; it gives a connection into a pod 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A node's refusal is read up to this.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Receive windows: one slow stream must not stop the others.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The connections by node. Clones share them.
#[derive(Clone)]
pub struct Tunnels(Arc<Inner>);

struct Inner {
    nodes: Mutex<HashMap<String, Open>>,
    next: AtomicU64,
    tasks: Tasks,
}

struct Open {
    number: u64,
    sender: SendRequest<Body>,
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tunnels({:?})", self.connected())
    }
}

impl Tunnels {
    /// No node is connected. Connections live in `tasks`.
    pub fn new(tasks: &Tasks) -> Self {
        Self(Arc::new(Inner {
            nodes: Mutex::default(),
            next: AtomicU64::new(0),
            tasks: tasks.clone(),
        }))
    }

    /// Takes the connection `io` of `node`, over which the node serves.
    pub fn take<I>(&self, node: String, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tunnels = self.clone();
        let cancelled = self.0.tasks.cancelled();
        self.0.tasks.job("node connection", async move {
            tokio::select! {
                () = tunnels.serve(node, io) => {}
                () = cancelled.cancelled() => {}
            }
        });
    }

    async fn serve<I>(&self, node: String, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = Builder::new(Streams(self.0.tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(io))
            .await;
        let (sender, connection) = match handshake {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!(node, error = %chain(&error), "node connection failed");
                return;
            }
        };
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0
            .nodes
            .lock()
            .insert(node.clone(), Open { number, sender });
        tracing::debug!(node, "node is connected");
        if let Err(error) = connection.await {
            tracing::debug!(node, error = %chain(&error), "node connection ended");
        }
        let mut nodes = self.0.nodes.lock();
        if nodes.get(&node).is_some_and(|open| open.number == number) {
            nodes.remove(&node);
        }
    }

    /// Names of the nodes that can be reached.
    pub fn connected(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.nodes.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// Sends a request, whose URI is a path and query, to a node.
    pub(super) async fn send(
        &self,
        node: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, ApiError> {
        let unreachable = |why: &str| {
            ApiError::unavailable(format!("error dialing backend: node \"{node}\" {why}"))
        };
        let sender = self
            .0
            .nodes
            .lock()
            .get(node)
            .map(|open| open.sender.clone());
        let mut sender = sender.ok_or_else(|| unreachable("has no connection to this server"))?;
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let uri = http::Uri::builder()
            .scheme("http")
            .authority("node")
            .path_and_query(path)
            .build();
        *request.uri_mut() = uri.map_err(|error| ApiError::bad_request(error.to_string()))?;
        match tokio::time::timeout(ANSWER_LIMIT, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(&format!("broke off: {}", chain(&error)))),
            Err(_) => Err(unreachable("does not answer")),
        }
    }
}

impl Tunnels {
    /// Asks a node; a refusal of its is an error.
    pub(super) async fn ask(
        &self,
        node: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ApiError> {
        let response = self.send(node, request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let limited = http_body_util::Limited::new(response.into_body(), REFUSAL_BYTES_MAX);
        let body = limited
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let status = serde_json::from_slice(&body).unwrap_or_default();
        Err(ApiError::from_status(code, &status))
    }
}

#[async_trait]
impl Dial for Tunnels {
    async fn dial(&self, node: &str, address: SocketAddr) -> Result<Box<dyn Stream>, ApiError> {
        if node.is_empty() {
            let stream = tokio::net::TcpStream::connect(address).await;
            let stream = stream.map_err(|error| {
                ApiError::unavailable(format!(
                    "error trying to reach service: dial tcp {address}: {}",
                    errors::dial(&error)
                ))
            })?;
            return Ok(Box::new(stream));
        }
        let (writer, body) = byte_body::writer();
        let body: Body = body.map_err(Into::into).boxed_unsync();
        let request = Request::post(format!("/dial/{}", part(&address.to_string())))
            .body(body)
            .map_err(ApiError::internal)?;
        let answer = self.ask(node, request).await?;
        Ok(Box::new(byte_body::stream(answer.into_body(), writer)))
    }
}

/// Runs HTTP/2 streams as jobs.
#[derive(Clone)]
struct Streams(Tasks);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.job("node stream", async move {
            stream.await;
        });
    }
}
