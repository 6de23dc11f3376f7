//! The door: accepts TCP, shakes hands, serves HTTP/1.1 or HTTP/2 as ALPN agreed.
//!
//! Limits: so many connections, so long for a handshake and for a request head; what is beyond
//! waits in the kernel's queue or is closed. At the end: no new connections, GOAWAY on open ones,
//! and what is not done soon after is cut.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::Body;
use crate::server::authn::Peer;
use crate::server::http::Handler;
use crate::server::http::gather::Gather;
use crate::server::http::unread;
use crate::util::errors::{OrLog, chain};
use crate::util::tasks::Tasks;
use crate::util::tls;

/// Connections at a time: a node has one, a client a handful. Beyond it the kernel queues.
const CONNECTIONS_MAX: usize = 8192;
/// A client that takes longer is not a client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of a request, and between two requests on one HTTP/1.1 connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// From GOAWAY to the cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Open requests on one HTTP/2 connection: an operator has hundreds of watches on one.
const STREAMS_MAX: u32 = 2000;
/// Streams the client cancelled before they were accepted: client-go cancels watches in bursts.
const RESET_STREAMS_MAX: usize = 1000;
const HEADER_LIST_BYTES_MAX: u32 = 128 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE_SECONDS: u32 = 60;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 15;
const KEEPALIVE_PROBES: u32 = 4;
/// What was sent and not acknowledged for so long ends the connection.
const UNACKNOWLEDGED_MS_MAX: u32 = 120_000;
/// After `accept` failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket, not yet serving.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// What is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves in tasks of `tasks` until they are cancelled.
    pub fn serve(
        self,
        identity: &tls::Identity,
        handler: Handler,
        tasks: &Tasks,
    ) -> Result<(), tls::Error> {
        let door = Door {
            acceptor: TlsAcceptor::from(Arc::new(tls::server(identity)?)),
            handler,
            tasks: tasks.clone(),
        };
        tasks.service("https listener", door.accept_all(self.socket));
        Ok(())
    }
}

#[derive(Clone)]
struct Door {
    acceptor: TlsAcceptor,
    handler: Handler,
    tasks: Tasks,
}

impl Door {
    async fn accept_all(self, socket: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let cancelled = self.tasks.cancelled();
        loop {
            let place = tokio::select! {
                () = cancelled.cancelled() => return,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let accepted = tokio::select! {
                () = cancelled.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    let door = self.clone();
                    self.tasks.job("https connection", async move {
                        door.connection(stream, address).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, address: SocketAddr) {
        tune(&stream);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream));
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(peer = %address, error = %error, "handshake failed");
                return;
            }
            Err(_) => return,
        };
        let session = stream.get_ref().1;
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        let certificates = session.peer_certificates().unwrap_or_default();
        let certificates = certificates
            .iter()
            .map(|c| c.clone().into_owned())
            .collect();
        let service = PeerService {
            handler: self.handler.clone(),
            peer: Arc::new(Peer::new(address, certificates)),
        };
        let served = if is_http2 {
            self.serve_http2(stream, service).await
        } else {
            self.serve_http1(stream, service).await
        };
        if let Err(error) = served {
            tracing::debug!(peer = %address, error = %chain(&error), "connection ended");
        }
    }

    async fn serve_http1(
        &self,
        stream: TlsStream<TcpStream>,
        service: PeerService,
    ) -> hyper::Result<()> {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .pipeline_flush(true);
        let connection = builder
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.tasks.cancelled().cancelled_owned() => {}
        }
        connection.as_mut().graceful_shutdown();
        drain(connection).await
    }

    async fn serve_http2(
        &self,
        stream: TlsStream<TcpStream>,
        service: PeerService,
    ) -> hyper::Result<()> {
        let mut builder = http2::Builder::new(Streams(self.tasks.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_local_error_reset_streams(None)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .adaptive_window(true)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let connection = builder.serve_connection(TokioIo::new(Gather::new(stream)), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.tasks.cancelled().cancelled_owned() => {}
        }
        connection.as_mut().graceful_shutdown();
        drain(connection).await
    }
}

/// Answers are written whole, so waiting for more to send only delays watch events. A peer that is
/// gone without a word is noticed also where nothing is sent (an idle watch over HTTP/1.1), and one
/// that does not read is given up.
fn tune(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let set = || -> nix::Result<()> {
        setsockopt(stream, sockopt::TcpNoDelay, &true)?;
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
        setsockopt(
            stream,
            sockopt::TcpKeepInterval,
            &KEEPALIVE_INTERVAL_SECONDS,
        )?;
        setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
        setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS_MAX)
    };
    set().ok_or_log("tune a connection");
}

/// What is still open after the limit is cut by dropping the connection.
async fn drain(connection: impl Future<Output = hyper::Result<()>>) -> hyper::Result<()> {
    tokio::time::timeout(DRAIN_TIMEOUT, connection)
        .await
        .unwrap_or(Ok(()))
}

/// Puts who is at the other end into each request.
#[derive(Clone)]
struct PeerService {
    handler: Handler,
    peer: Arc<Peer>,
}

impl Service<Request<Incoming>> for PeerService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let handler = self.handler.clone();
        let (head, body) = request.into_parts();
        let (body, unread) = unread::lend(body);
        let mut request = Request::from_parts(head, body);
        request.extensions_mut().insert(Arc::clone(&self.peer));
        Box::pin(async move {
            let response = handler.handle(request).await;
            if let Some(unread) = unread {
                unread.discard().await;
            }
            Ok(response)
        })
    }
}

/// Runs HTTP/2 streams as jobs of the listener.
#[derive(Clone)]
struct Streams(Tasks);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.job("http2 stream", async move {
            stream.await;
        });
    }
}
