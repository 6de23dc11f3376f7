//! The outbound connection to a server, over which the server asks this node's own API.
//!
//! `GET /orch/v1/tunnel` with `Upgrade: orch-tunnel` and the node's client certificate; after 101
//! the agent is the HTTP/2 *server* on it. It is made again whenever it breaks, also silently:
//! both sides ping. Where server and agent are one process, [`serve`] runs over memory instead.

use std::convert::Infallible;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::agent::http::NodeApi;
use crate::client::{Body, HttpsTransport, empty_body};
use crate::util::backoff::Backoff;
use crate::util::errors::chain;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

const PATH: &str = "/orch/v1/tunnel";
const PROTOCOL: &str = "orch-tunnel";

/// Exec, logs and forwarded connections at a time.
const STREAMS_MAX: u32 = 4096;

/// Silence after which the server is pinged, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Receive windows: one slow stream must not stop the others.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A connection that lived this long was fine: the next is made at once.
const STEADY: Duration = Duration::from_secs(30);

/// Keeps a connection to the server of `transport` until `tasks` end; `tell` is told whenever it
/// opens and ends.
pub fn keep(
    transport: HttpsTransport,
    api: NodeApi,
    tasks: &Tasks,
    tell: impl Fn(bool) + Send + Sync + 'static,
) {
    let cancelled = tasks.cancelled();
    let jobs = tasks.clone();
    tasks.service("tunnel", async move {
        tokio::select! {
            () = keep_for_ever(&transport, &api, &jobs, &tell) => {}
            () = cancelled.cancelled() => {}
        }
    });
}

async fn keep_for_ever(
    transport: &HttpsTransport,
    api: &NodeApi,
    tasks: &Tasks,
    tell: &(impl Fn(bool) + Send + Sync),
) {
    let mut backoff = Backoff::new(
        Duration::from_millis(200),
        Duration::from_secs(10),
        Rng::from_system(),
    );
    loop {
        let started = Instant::now();
        match transport.upgrade(request()).await {
            Ok((_, upgraded)) => {
                tracing::debug!("tunnel is open");
                tell(true);
                if let Err(error) = serve(TokioIo::new(upgraded), api.clone(), tasks).await {
                    tracing::debug!(error = %chain(&error), "tunnel ended");
                }
                tell(false);
            }
            Err(error) => tracing::debug!(error = %chain(&error), "tunnel is not made"),
        }
        if started.elapsed() > STEADY {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn request() -> Request<Body> {
    let mut request = Request::new(empty_body());
    *request.uri_mut() = http::Uri::from_static(PATH);
    let headers = request.headers_mut();
    headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static(PROTOCOL));
    request
}

/// Answers requests that come over `io`, in a service of `tasks`, where the server is in the same
/// process.
pub fn serve_in<I>(io: I, api: NodeApi, tasks: &Tasks)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let cancelled = tasks.cancelled();
    let jobs = tasks.clone();
    tasks.service("tunnel", async move {
        let serving = cancelled.run_until_cancelled(serve(io, api, &jobs)).await;
        if let Some(Err(error)) = serving {
            tracing::debug!(error = %chain(&error), "tunnel ended");
        }
    });
}

/// Answers requests that come over `io` until it ends.
pub async fn serve<I>(io: I, api: NodeApi, tasks: &Tasks) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let api = api.clone();
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            Ok::<Response<Body>, Infallible>(api.handle(request).await)
        }
    });
    http2::Builder::new(Streams(tasks.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), service)
        .await
}

/// Runs HTTP/2 streams as jobs.
#[derive(Clone)]
struct Streams(Tasks);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.job("tunnel stream", async move {
            stream.await;
        });
    }
}
