//! The transport over HTTPS: one HTTP/2 connection, made when needed, to the first server that
//! answers.
//!
//! A connection that dies, also silently (pings tell), fails the requests on it; the next request
//! connects anew, beginning with the server after the one that failed. A request that had not
//! left yet is sent again on the new connection; one that had is not, because it may have been
//! carried out.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::uri::{Authority, Uri};
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::util::{
    tasks::Tasks,
    tls::{self, Identity, Trust},
};

use super::{Body, Error, Result, Transport};

/// TCP, TLS and HTTP/2 handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the head of an answer; longer than the server's own limit of a request (60 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);
/// Silence after which the server is pinged, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Receive windows: a list of thousands of objects must not wait for the client at each 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Where the servers are and how both sides prove who they are.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port` each; tried in order.
    pub servers: Vec<String>,
    /// Put before every path; normally empty.
    pub path_prefix: String,
    /// Whom to believe.
    pub trust: Trust,
    /// Client certificate.
    pub identity: Option<Identity>,
    /// Bearer token.
    pub token: Option<String>,
    /// The name the server's certificate must have, where it is not the host.
    pub server_name: Option<String>,
}

impl Endpoint {
    /// Servers under one authority, with no credentials.
    pub fn new(servers: Vec<String>, trust: Trust) -> Self {
        Self {
            servers,
            path_prefix: String::new(),
            trust,
            identity: None,
            token: None,
            server_name: None,
        }
    }
}

/// One step of a connection failed.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("no server address is configured")]
    NoServer,
    #[error("server address `{0}` is not `host:port`")]
    Address(String),
    #[error("connect to `{0}`")]
    Tcp(String, #[source] std::io::Error),
    #[error("speak TLS with `{0}`")]
    Tls(String, #[source] std::io::Error),
    #[error("speak HTTP with `{0}`")]
    Http(String, #[source] hyper::Error),
    #[error("connect to `{0}`: no answer within 5 s")]
    Timeout(String),
    #[error("no answer within 70 s")]
    NoAnswer,
    #[error("the server refused the upgrade with code {0}")]
    NotUpgraded(u16),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Sender = http2::SendRequest<Body>;

/// The transport. Clones share the connection.
#[derive(Clone)]
pub struct HttpsTransport {
    shared: Arc<Shared>,
}

struct Shared {
    http2: TlsConnector,
    http1: TlsConnector,
    server_name: Option<String>,
    path_prefix: String,
    authorization: Option<HeaderValue>,
    servers: Mutex<Servers>,
    current: Mutex<Option<Sender>>,
    /// Held while connecting, so that many requests make one connection.
    connecting: tokio::sync::Mutex<()>,
    tasks: Tasks,
}

struct Servers {
    all: Vec<String>,
    next: usize,
}

impl std::fmt::Debug for HttpsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpsTransport({:?})", self.shared.servers.lock().all)
    }
}

impl HttpsTransport {
    /// Nothing is connected yet. Connections live in `tasks`.
    ///
    /// Errors: certificates or token that cannot be used.
    pub fn new(endpoint: Endpoint, tasks: &Tasks) -> Result<Self> {
        let connector = |protocol: &[u8]| -> Result<TlsConnector> {
            let config = tls::client(&endpoint.trust, endpoint.identity.as_ref());
            let mut config: ClientConfig = config.map_err(|error| {
                Error::Config(format!(
                    "set up TLS: {}",
                    crate::util::errors::chain(&error)
                ))
            })?;
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok(TlsConnector::from(Arc::new(config)))
        };
        let (http2, http1) = (connector(b"h2")?, connector(b"http/1.1")?);
        let authorization = endpoint.token.as_deref().map(bearer).transpose()?;
        let shared = Shared {
            http2,
            http1,
            server_name: endpoint.server_name,
            path_prefix: endpoint.path_prefix.trim_end_matches('/').to_owned(),
            authorization,
            servers: Mutex::new(Servers {
                all: endpoint.servers,
                next: 0,
            }),
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            tasks: tasks.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The same credentials for connections to `server` alone, in `tasks`.
    pub fn to(&self, server: String, tasks: &Tasks) -> Self {
        let shared = Shared {
            http2: self.shared.http2.clone(),
            http1: self.shared.http1.clone(),
            server_name: self.shared.server_name.clone(),
            path_prefix: self.shared.path_prefix.clone(),
            authorization: self.shared.authorization.clone(),
            servers: Mutex::new(Servers {
                all: vec![server],
                next: 0,
            }),
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            tasks: tasks.clone(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The servers to connect to from now on.
    pub fn set_servers(&self, servers: Vec<String>) {
        let mut known = self.shared.servers.lock();
        if known.all != servers {
            *known = Servers {
                all: servers,
                next: 0,
            };
        }
    }

    /// The next request makes a new connection (the certificate was replaced); what runs on the
    /// old one goes on there.
    pub fn reconnect(&self) {
        *self.shared.current.lock() = None;
    }

    /// Sends `request` on an HTTP/1.1 connection of its own that becomes a stream of bytes:
    /// exec, attach, port-forward, the agents' tunnel. The answer's head is returned with it.
    ///
    /// Errors: no connection; the server's refusal as [`Error::Api`].
    pub async fn upgrade(&self, mut request: Request<Body>) -> Result<(Response<()>, Upgraded)> {
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let failed = |source: Failure| Error::Transport {
            method: method.clone(),
            path: path.clone(),
            source,
        };
        let (stream, server) = self
            .shared
            .dial(&self.shared.http1)
            .await
            .map_err(|error| failed(error.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.into()))?;
        self.shared.keep(connection.with_upgrades());
        self.shared.authorize(&mut request);
        if let Ok(host) = HeaderValue::from_str(&server) {
            request.headers_mut().insert(header::HOST, host);
        }
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request));
        let response = match sent.await {
            Ok(response) => response.map_err(|error| failed(error.into()))?,
            Err(_) => return Err(failed(ConnectError::NoAnswer.into())),
        };
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response, failed).await);
        }
        let (parts, body) = response.into_parts();
        let head = Response::from_parts(parts.clone(), ());
        let upgraded = hyper::upgrade::on(Response::from_parts(parts, body)).await;
        Ok((head, upgraded.map_err(|error| failed(error.into()))?))
    }
}

/// The refusal of an upgrade: the server's `Status` where it sent one.
async fn refused(response: Response<Incoming>, failed: impl Fn(Failure) -> Error) -> Error {
    let code = response.status().as_u16();
    match response.into_body().collect().await {
        Ok(body) => {
            let bytes = body.to_bytes();
            match serde_json::from_slice(&bytes) {
                Ok(status) => crate::api::status::ApiError::from_status(code, &status).into(),
                Err(_) => failed(ConnectError::NotUpgraded(code).into()),
            }
        }
        Err(error) => failed(error.into()),
    }
}

#[async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>> {
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let failed = |source: Failure| Error::Transport {
            method: method.clone(),
            path: path.clone(),
            source,
        };
        self.shared.authorize(&mut request);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.shared.exchange(request)).await;
        match answer {
            Ok(Ok(response)) => Ok(response.map(|body| body.map_err(Into::into).boxed_unsync())),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(failed(ConnectError::NoAnswer.into())),
        }
    }
}

impl Shared {
    fn authorize(&self, request: &mut Request<Body>) {
        if let Some(value) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, value.clone());
        }
    }

    /// Sends on the current connection or a new one. What a dying connection had not sent goes
    /// to a new one, once for each server and once more.
    async fn exchange(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let mut tries = self.servers.lock().all.len() + 1;
        let relative = request.uri().clone();
        loop {
            tries -= 1;
            let mut sender = self.sender().await?;
            *request.uri_mut() = self.absolute(&relative)?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => {
                    self.forget_closed();
                    match error.take_message() {
                        Some(unsent) if tries > 0 => request = unsent,
                        _ => return Err(error.into_error().into()),
                    }
                }
            }
        }
    }

    fn absolute(&self, relative: &Uri) -> Result<Uri, Failure> {
        let authority: Authority = {
            let servers = self.servers.lock();
            let server = servers
                .all
                .get(servers.next)
                .ok_or(ConnectError::NoServer)?;
            server.parse()?
        };
        let path = relative.path_and_query().map_or("/", |path| path.as_str());
        Ok(Uri::builder()
            .scheme("https")
            .authority(authority)
            .path_and_query(format!("{}{path}", self.path_prefix))
            .build()?)
    }

    async fn sender(&self) -> Result<Sender, ConnectError> {
        if let Some(sender) = self.open_sender() {
            return Ok(sender);
        }
        let _one = self.connecting.lock().await;
        if let Some(sender) = self.open_sender() {
            return Ok(sender);
        }
        let (stream, server) = self.dial(&self.http2).await?;
        let mut builder = http2::Builder::new(Spawn(self.tasks.clone()));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http(server, source))?;
        self.keep(connection);
        *self.current.lock() = Some(sender.clone());
        Ok(sender)
    }

    fn open_sender(&self) -> Option<Sender> {
        let current = self.current.lock();
        current
            .as_ref()
            .filter(|sender| !sender.is_closed())
            .cloned()
    }

    /// The connection failed: the next one begins with the next server.
    fn forget_closed(&self) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(Sender::is_closed) {
            *current = None;
            drop(current);
            self.servers.lock().advance();
        }
    }

    /// Connects to the first server that answers, beginning with the one that did last.
    async fn dial(
        &self,
        connector: &TlsConnector,
    ) -> Result<(TlsStream<TcpStream>, String), ConnectError> {
        let count = self.servers.lock().all.len();
        let mut last = ConnectError::NoServer;
        for _ in 0..count {
            let server = {
                let servers = self.servers.lock();
                let server = servers.all.get(servers.next);
                server.cloned().ok_or(ConnectError::NoServer)?
            };
            let connecting = connect(connector, &server, self.server_name.as_deref());
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            match connected {
                Ok(Ok(stream)) => return Ok((stream, server)),
                Ok(Err(error)) => last = error,
                Err(_) => last = ConnectError::Timeout(server),
            }
            self.servers.lock().advance();
        }
        Err(last)
    }

    fn keep<E>(&self, connection: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: std::error::Error + Send + 'static,
    {
        let cancelled = self.tasks.cancelled();
        self.tasks.job("connection", async move {
            if let Some(Err(error)) = cancelled.run_until_cancelled(connection).await {
                tracing::debug!(error = %crate::util::errors::chain(&error), "connection ended");
            }
        });
    }
}

impl Servers {
    fn advance(&mut self) {
        self.next = (self.next + 1) % self.all.len().max(1);
    }
}

async fn connect(
    connector: &TlsConnector,
    server: &str,
    name: Option<&str>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let address = || ConnectError::Address(server.to_owned());
    let authority: Authority = server.parse().map_err(|_| address())?;
    let port = authority.port_u16().ok_or_else(address)?;
    let host = authority.host().trim_matches(['[', ']']);
    let name = ServerName::try_from(name.unwrap_or(host).to_owned()).map_err(|_| address())?;
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(|source| ConnectError::Tcp(server.to_owned(), source))?;
    // Without it small requests wait for the other side's delayed acknowledgement.
    let _ = tcp.set_nodelay(true);
    let stream = connector.connect(name, tcp).await;
    stream.map_err(|source| ConnectError::Tls(server.to_owned(), source))
}

fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Error::Config("the bearer token has characters no header can carry".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Spawns what hyper wants spawned in our tasks.
#[derive(Clone)]
struct Spawn(Tasks);

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let cancelled = self.0.cancelled();
        self.0.job("connection", async move {
            cancelled.run_until_cancelled(future).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, empty_body};

    #[tokio::test]
    async fn every_server_is_tried_and_the_failure_names_the_last() {
        // Two ports of this machine on which nothing listens: bound, then given back.
        let mut servers = Vec::new();
        for _ in 0..2 {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            servers.push(listener.local_addr().unwrap().to_string());
        }
        let last = servers[1].clone();
        let tasks = Tasks::new();
        let endpoint = Endpoint::new(servers, Trust::Anyone);
        let transport = HttpsTransport::new(endpoint, &tasks).unwrap();
        let client = Client::new(Arc::new(transport));
        let error = client
            .request_json(http::Method::GET, "/version", None)
            .await
            .unwrap_err();
        let text = crate::util::errors::chain(&error);
        let expected = format!("GET /version: no answer: connect to `{last}`: ");
        assert!(text.starts_with(&expected), "{text}");
    }

    #[tokio::test]
    async fn requests_and_a_new_connection_go_over_http2_past_a_dead_server() {
        let server = test_server::start().await;
        let tasks = Tasks::new();
        let mut endpoint = Endpoint::new(
            vec!["127.0.0.1:1".into(), server.address.clone()],
            Trust::Authorities(server.ca.clone()),
        );
        endpoint.token = Some("secret".into());
        let transport = HttpsTransport::new(endpoint, &tasks).unwrap();
        for _ in 0..2 {
            let request = Request::get("/a?b=c").body(empty_body()).unwrap();
            let response = transport.send(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(&body[..], b"HTTP/2.0 /a?b=c Bearer secret");
            transport.reconnect();
        }
        tasks.shutdown(Duration::from_secs(1)).await;
        server.tasks.shutdown(Duration::from_secs(1)).await;
    }

    /// A TLS server that answers each request with what it saw of it.
    mod test_server {
        use super::super::*;
        use crate::util::x509::{Authority, Key, Profile, Usage};
        use hyper::service::service_fn;
        use jiff::Timestamp;
        use tokio_rustls::TlsAcceptor;

        pub(super) struct Server {
            pub(super) address: String,
            pub(super) ca: String,
            pub(super) tasks: Tasks,
        }

        pub(super) async fn start() -> Server {
            let (authority, identity) = certificates();
            let config = tls::server(&identity).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let tasks = Tasks::new();
            let jobs = tasks.clone();
            let cancelled = tasks.cancelled();
            tasks.service("server", async move {
                let serving = async {
                    loop {
                        let (tcp, _) = listener.accept().await.unwrap();
                        let acceptor = acceptor.clone();
                        let cancelled = jobs.cancelled();
                        jobs.job("serve", async move {
                            let Ok(tls) = acceptor.accept(tcp).await else {
                                return;
                            };
                            let served = http2_server(tls);
                            cancelled.run_until_cancelled(served).await;
                        });
                    }
                };
                cancelled.run_until_cancelled(serving).await;
            });
            Server {
                address,
                ca: authority,
                tasks,
            }
        }

        async fn http2_server(tls: tokio_rustls::server::TlsStream<TcpStream>) {
            let service = service_fn(|request: Request<Incoming>| async move {
                let token = request.headers()[header::AUTHORIZATION].to_str().unwrap();
                let seen = format!(
                    "{:?} {} {token}",
                    request.version(),
                    request.uri().path_and_query().unwrap()
                );
                Ok::<_, hyper::Error>(Response::new(http_body_util::Full::<bytes::Bytes>::from(
                    seen,
                )))
            });
            let builder = hyper::server::conn::http2::Builder::new(Spawn(Tasks::new()));
            // The client hangs up in the middle: that is an ordinary end here.
            let _ = builder.serve_connection(TokioIo::new(tls), service).await;
        }

        fn certificates() -> (String, Identity) {
            let (now, hour) = (Timestamp::now(), Duration::from_secs(3600));
            let (authority, _) = Authority::generate("test", now, hour).unwrap();
            let key = Key::generate().unwrap();
            let profile = Profile {
                common_name: "server".into(),
                organization: None,
                usage: Usage::Server,
                dns_names: Vec::new(),
                addresses: vec!["127.0.0.1".parse().unwrap()],
                lifetime: hour,
            };
            let certificate = authority.sign(&profile, &key, now).unwrap();
            let identity = Identity::new(&certificate, &key.pem()).unwrap();
            (authority.pem().to_owned(), identity)
        }
    }
}
