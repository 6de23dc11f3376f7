//! HTTP to registries: one connection per request, TLS as configured, proxies from the environment.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::config::{RegistriesConfig, Tls};
use crate::util::tasks::Tasks;
use crate::util::tls::{self, Identity, Trust};

const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Until the answer begins.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// An answer that is read whole: tokens, manifests, error texts.
const TEXT_BYTES_MAX: usize = 8 << 20;

/// What a proxy may say before it is connected.
const PROXY_BYTES_MAX: usize = 16 << 10;

/// Where distributions keep the authorities the machine trusts.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A request failed below HTTP.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("{0}")]
    Url(String),
    #[error("TLS for `{host}`: {why}")]
    Tls { host: String, why: String },
    #[error("dial {address}: {why}")]
    Connect { address: String, why: String },
    #[error("{host}: {why}")]
    Http { host: String, why: String },
    #[error("{0}: i/o timeout")]
    Timeout(String),
}

impl TransportError {
    /// Whether trying again may help.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Http { .. } | Self::Timeout(_)
        )
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections.
pub(super) struct Transport {
    config: Arc<RegistriesConfig>,
    jobs: Tasks,
    proxies: Proxies,
    tls: Mutex<HashMap<String, Arc<ClientConfig>>>,
}

impl Transport {
    pub(super) fn new(config: Arc<RegistriesConfig>, jobs: Tasks) -> Self {
        Self {
            config,
            jobs,
            proxies: Proxies::from_environment(),
            tls: Mutex::default(),
        }
    }

    /// Sends a request and gives the answer once it has begun.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TransportError> {
        let uri = request.uri().clone();
        let target = Target::of(&uri)?;
        let host = HeaderValue::from_str(&target.authority)
            .map_err(|_| TransportError::Url(format!("bad host `{}`", target.authority)))?;
        request.headers_mut().insert(HOST, host);
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static("orch"));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path
            .parse()
            .map_err(|_| TransportError::Url(format!("bad path `{path}`")))?;
        let stream = match tokio::time::timeout(CONNECT_LIMIT, self.connect(&target)).await {
            Ok(stream) => stream?,
            Err(_) => {
                return Err(TransportError::Timeout(format!(
                    "dial {}",
                    target.address()
                )));
            }
        };
        let broken = |error: hyper::Error| TransportError::Http {
            host: target.authority.clone(),
            why: crate::util::errors::chain(&error),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        self.jobs.job("registry connection", async move {
            // Its failure is also that of the request or body.
            let _ = connection.await;
        });
        match tokio::time::timeout(ANSWER_LIMIT, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(broken),
            Err(_) => Err(TransportError::Timeout(target.authority.clone())),
        }
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, TransportError> {
        let failed = |error: io::Error| TransportError::Connect {
            address: target.address(),
            why: error.to_string(),
        };
        let plain = match self.proxies.for_target(target) {
            Some(proxy) => through_proxy(proxy, target).await.map_err(failed)?,
            None => TcpStream::connect((target.host.as_str(), target.port))
                .await
                .map_err(failed)?,
        };
        // Latency of small requests; no harm where it cannot be set.
        let _ = plain.set_nodelay(true);
        if !target.https {
            return Ok(Box::new(plain));
        }
        let config = self.tls_config(&target.authority)?;
        let name =
            ServerName::try_from(target.host.clone()).map_err(|error| TransportError::Tls {
                host: target.authority.clone(),
                why: error.to_string(),
            })?;
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, plain)
            .await
            .map_err(|error| TransportError::Tls {
                host: target.authority.clone(),
                why: error.to_string(),
            })?;
        Ok(Box::new(stream))
    }

    fn tls_config(&self, authority: &str) -> Result<Arc<ClientConfig>, TransportError> {
        if let Some(config) = self.tls.lock().get(authority) {
            return Ok(config.clone());
        }
        let failed = |why: String| TransportError::Tls {
            host: authority.to_owned(),
            why,
        };
        let default = Tls::default();
        let wanted = self.config.tls(authority).unwrap_or(&default);
        let config = Arc::new(make_tls(wanted).map_err(failed)?);
        self.tls.lock().insert(authority.to_owned(), config.clone());
        Ok(config)
    }
}

fn make_tls(wanted: &Tls) -> Result<ClientConfig, String> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|error| format!("read `{}`: {error}", path.display()))
    };
    let trust = if wanted.insecure_skip_verify {
        Trust::Anyone
    } else {
        let mut bundle = SYSTEM_BUNDLES
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        if !wanted.ca_file.as_os_str().is_empty() {
            bundle.push('\n');
            bundle.push_str(&read(&wanted.ca_file)?);
        }
        if bundle.is_empty() {
            Trust::Public
        } else {
            Trust::PublicAnd(bundle)
        }
    };
    let identity = if wanted.cert_file.as_os_str().is_empty() {
        None
    } else {
        let chain = read(&wanted.cert_file)?;
        let key = read(&wanted.key_file)?;
        Some(Identity::new(&chain, &key).map_err(|error| crate::util::errors::chain(&error))?)
    };
    tls::client(&trust, identity.as_ref()).map_err(|error| crate::util::errors::chain(&error))
}

/// Reads an answer that must be small.
pub(super) async fn read_text(host: &str, body: Incoming) -> Result<Bytes, TransportError> {
    let limited = http_body_util::Limited::new(body, TEXT_BYTES_MAX);
    match tokio::time::timeout(ANSWER_LIMIT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(TransportError::Http {
            host: host.to_owned(),
            why: error.to_string(),
        }),
        Err(_) => Err(TransportError::Timeout(host.to_owned())),
    }
}

struct Target {
    https: bool,
    authority: String,
    host: String,
    port: u16,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, TransportError> {
        let bad = || TransportError::Url(format!("`{uri}` is not an http or https URL"));
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        Ok(Self {
            https,
            authority: authority.to_string(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
        })
    }

    fn address(&self) -> String {
        format!("tcp {}:{}", self.host, self.port)
    }
}

/// `HTTPS_PROXY` and its kin.
#[derive(Debug, Default)]
struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    not_for: Vec<String>,
}

#[derive(Debug, Clone)]
struct Proxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl Proxies {
    fn from_environment() -> Self {
        let get = |upper: &str| {
            let value = std::env::var(upper).or_else(|_| std::env::var(upper.to_lowercase()));
            value.ok().filter(|value| !value.is_empty())
        };
        Self {
            http: get("HTTP_PROXY").and_then(|url| proxy(&url)),
            https: get("HTTPS_PROXY").and_then(|url| proxy(&url)),
            not_for: get("NO_PROXY")
                .map(|list| list.split(',').map(|item| item.trim().to_owned()).collect())
                .unwrap_or_default(),
        }
    }

    fn for_target(&self, target: &Target) -> Option<&Proxy> {
        let proxy = if target.https {
            &self.https
        } else {
            &self.http
        };
        let local = target.host == "localhost"
            || target
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|a| a.is_loopback());
        if local || self.not_for.iter().any(|rule| is_excepted(rule, target)) {
            return None;
        }
        proxy.as_ref()
    }
}

/// One entry of `NO_PROXY`: `*`, a domain and all below it, an address, a network, a host:port.
fn is_excepted(rule: &str, target: &Target) -> bool {
    if rule == "*" {
        return true;
    }
    if let (Ok(net), Ok(address)) = (
        rule.parse::<ipnet::IpNet>(),
        target.host.parse::<std::net::IpAddr>(),
    ) {
        return net.contains(&address);
    }
    let rule = match rule.rsplit_once(':') {
        Some((host, port)) if port.parse() == Ok(target.port) => host,
        _ => rule,
    };
    let rule = rule.trim_start_matches("*.").trim_start_matches('.');
    !rule.is_empty() && (target.host == rule || target.host.ends_with(&format!(".{rule}")))
}

fn proxy(url: &str) -> Option<Proxy> {
    use base64::Engine as _;
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, rest),
    };
    let authority: http::uri::Authority = host.parse().ok()?;
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    Some(Proxy {
        host: authority.host().to_owned(),
        port: authority.port_u16().unwrap_or(8080),
        authorization: user.map(|user| {
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(decoded(user))
            )
        }),
    })
}

/// Asks a proxy for a connection; used for plain HTTP too, which proxies allow as well.
async fn through_proxy(proxy: &Proxy, target: &Target) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await?;
    let address = format!("{}:{}", target.host, target.port);
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
        if answer.len() > PROXY_BYTES_MAX {
            return Err(io::Error::other("the proxy's answer is too long"));
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) == Some("200") {
        return Ok(stream);
    }
    Err(io::Error::other(format!(
        "proxy {}:{} says `{line}`",
        proxy.host, proxy.port
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::of(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn proxies_are_not_used_where_excepted_or_local() {
        let proxies = Proxies {
            https: proxy("http://me:p%40ss@proxy.test:3128/"),
            http: None,
            not_for: vec![
                ".corp.test".to_owned(),
                "10.0.0.0/8".to_owned(),
                "quay.io:443".to_owned(),
            ],
        };
        let used = |url: &str| proxies.for_target(&target(url)).is_some();
        assert!(used("https://docker.io/v2"));
        assert!(!used("https://a.corp.test/"));
        assert!(!used("https://10.1.2.3:5000/"));
        assert!(!used("https://quay.io/"));
        assert!(!used("https://127.0.0.1/"));
        assert!(!used("http://docker.io/"));
        let authorization = proxies
            .https
            .as_ref()
            .unwrap()
            .authorization
            .clone()
            .unwrap();
        assert_eq!(authorization, "Basic bWU6cEBzcw==");
    }

    #[test]
    fn targets_have_the_schemes_port() {
        assert_eq!(target("https://a/x").port, 443);
        assert_eq!(target("http://[::1]:5/x").host, "::1");
        assert!(Target::of(&"/v2".parse().unwrap()).is_err());
    }
}
