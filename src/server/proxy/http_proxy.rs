//! `pods/proxy`, `services/proxy`, `nodes/proxy`: HTTP through the API server to what runs on
//! nodes.
//!
//! A connection to a pod is made by its node ([`crate::util::byte_body`] over the node's
//! connection) and spoken HTTP/1.1 on from here, so that upgrades work too.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    CONNECTION, HOST, HeaderName, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;

use super::{NodeProxy, boxed};
use crate::api::status::ApiError;
use crate::client::{Body, empty_body};
use crate::server::request::RequestInfo;
use crate::server::webhook::{Dial, Stream};
use crate::util::tls::{self, Trust};

/// For one connection only.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// `[scheme:]name[:port]`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub https: bool,
    pub name: &'a str,
    pub port: &'a str,
}

impl<'a> Target<'a> {
    /// `None`: not of that form (`utilnet.SplitSchemeNamePort`).
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let https = match scheme {
            "" | "http" => false,
            "https" => true,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { https, name, port })
    }
}

/// Where a connection is to be made.
pub(super) struct Endpoint {
    /// The node that makes it; empty: this server does.
    pub node: String,
    pub address: IpAddr,
    pub port: u16,
    pub https: bool,
}

impl NodeProxy {
    pub(super) async fn pod_proxy(
        &self,
        info: &RequestInfo,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let invalid = || ApiError::bad_request(format!("invalid pod request \"{}\"", info.name));
        let target = Target::parse(&info.name).ok_or_else(invalid)?;
        let found = self.pod_named(&info.namespace, target.name)?;
        let address = found.address().parse().map_err(|_| {
            ApiError::bad_request(format!("pod {} has no address yet", target.name))
        })?;
        let port = match target.port {
            "" => found
                .first_port()
                .unwrap_or(if target.https { 443 } else { 80 }),
            text => text.parse().map_err(|_| invalid())?,
        };
        let endpoint = Endpoint {
            node: found.node_required()?.to_owned(),
            address,
            port,
            https: target.https,
        };
        self.proxy_to(info, request, &endpoint).await
    }

    /// To the node's own API, or with a port to a server on the node.
    pub(super) async fn node_proxy(
        &self,
        info: &RequestInfo,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let invalid = || ApiError::bad_request(format!("invalid node request \"{}\"", info.name));
        let target = Target::parse(&info.name).ok_or_else(invalid)?;
        let node = self.cacher.get("nodes", target.name);
        let node = node.ok_or_else(|| ApiError::not_found("", "nodes", target.name))?;
        if !matches!(target.port, "" | "10250") {
            let object = node.object().map_err(ApiError::internal)?;
            let addresses = object
                .0
                .get("status")
                .and_then(|s| s["addresses"].as_array());
            let internal = addresses
                .into_iter()
                .flatten()
                .find(|a| a["type"] == "InternalIP");
            let address = internal.and_then(|a| a["address"].as_str()?.parse().ok());
            let endpoint = Endpoint {
                node: target.name.to_owned(),
                address: address.ok_or_else(invalid)?,
                port: target.port.parse().map_err(|_| invalid())?,
                https: target.https,
            };
            return self.proxy_to(info, request, &endpoint).await;
        }
        let (head, body) = request.into_parts();
        let mut forwarded = Request::builder()
            .method(head.method)
            .uri(path_of(info, &head.uri));
        for (name, value) in &passed_on(&head.headers) {
            forwarded = forwarded.header(name, value);
        }
        let forwarded = forwarded
            .body(body)
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        let response = self.tunnels.send(target.name, forwarded).await?;
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, boxed(body)))
    }

    /// Speaks HTTP/1.1 to an endpoint and hands its answer on.
    pub(super) async fn proxy_to(
        &self,
        info: &RequestInfo,
        mut request: Request<Body>,
        endpoint: &Endpoint,
    ) -> Result<Response<Body>, ApiError> {
        if let Some(redirect) = missing_slash(info, &request) {
            return Ok(redirect);
        }
        let stream = self.connect(endpoint).await?;
        let unreachable = |error: &dyn std::fmt::Display| {
            ApiError::unavailable(format!("error trying to reach service: {error}"))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        self.tasks.job("proxied connection", async move {
            // Its failure is also that of the request or its body.
            let _ = connection.with_upgrades().await;
        });
        let upgrades = wants_upgrade(request.headers());
        let client = upgrades.then(|| hyper::upgrade::on(&mut request));
        let forwarded = forwarded(info, request, endpoint, upgrades)?;
        let response = sender
            .send_request(forwarded)
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(self.hand_on(info, response, client))
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Box<dyn Stream>, ApiError> {
        let address = std::net::SocketAddr::new(endpoint.address, endpoint.port);
        let plain = self.tunnels.dial(&endpoint.node, address).await?;
        if !endpoint.https {
            return Ok(plain);
        }
        // As upstream: the certificate of a pod is not anybody's to check.
        let config = tls::client(&Trust::Anyone, None)
            .map_err(|error| ApiError::internal(crate::util::errors::chain(&error)))?;
        let name = ServerName::from(endpoint.address);
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, plain)
            .await
            .map_err(|error| {
                ApiError::unavailable(format!("error trying to reach service: {error}"))
            })?;
        Ok(Box::new(stream))
    }

    fn hand_on(
        &self,
        info: &RequestInfo,
        mut response: Response<Incoming>,
        client: Option<hyper::upgrade::OnUpgrade>,
    ) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            let far = hyper::upgrade::on(&mut response);
            self.tasks.job("proxied upgrade", async move {
                if let (Ok(near), Ok(far)) = tokio::join!(client, far) {
                    // Either side may break off: that is the end of it.
                    let _ = tokio::io::copy_bidirectional(
                        &mut TokioIo::new(near),
                        &mut TokioIo::new(far),
                    )
                    .await;
                }
            });
            let (head, _) = response.into_parts();
            return Response::from_parts(head, empty_body());
        }
        let (mut head, body) = response.into_parts();
        strip(&mut head.headers);
        rewrite_location(info, &mut head.headers);
        Response::from_parts(head, boxed(body))
    }
}

/// Everything up to and with `/proxy`.
fn base(info: &RequestInfo) -> &str {
    let rest = info.rest.len();
    info.path[..info.path.len() - rest].trim_end_matches('/')
}

/// The path behind `/proxy`, still encoded, with its query.
fn path_of(info: &RequestInfo, uri: &Uri) -> String {
    let path = uri.path();
    let marker = "/proxy";
    // What comes before has no such part: names are not paths.
    let from = path
        .find(&format!("{}{marker}", info.name))
        .map(|at| at + info.name.len());
    let from = from
        .or_else(|| path.find(marker))
        .map_or(path.len(), |at| at + marker.len());
    let rest = &path[from..];
    let rest = if rest.is_empty() { "/" } else { rest };
    match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    }
}

/// Relative links of a page need the slash at the end of its address.
fn missing_slash(info: &RequestInfo, request: &Request<Body>) -> Option<Response<Body>> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !info.rest.is_empty() || request.uri().path().ends_with('/') || !reads {
        return None;
    }
    if wants_upgrade(request.headers()) {
        return None;
    }
    let query = request
        .uri()
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let location = format!("{}/{query}", request.uri().path());
    let mut response = Response::new(empty_body());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(response)
}

/// Whether a request wants to be upgraded to whatever.
fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut words = connection.flat_map(|value| value.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    strip(&mut passed);
    passed.remove(HOST);
    passed.remove(http::header::AUTHORIZATION);
    passed
}

fn forwarded(
    info: &RequestInfo,
    request: Request<Body>,
    endpoint: &Endpoint,
    upgrades: bool,
) -> Result<Request<Body>, ApiError> {
    let (head, body) = request.into_parts();
    let mut headers = passed_on(&head.headers);
    if upgrades {
        for name in [CONNECTION, UPGRADE] {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
    }
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let host = std::net::SocketAddr::new(endpoint.address, endpoint.port).to_string();
    let original = head.headers.get(HOST).cloned();
    let entries = [
        (HOST, text(&host)),
        (HeaderName::from_static("x-forwarded-host"), original),
        (HeaderName::from_static("x-forwarded-proto"), text("https")),
        (
            HeaderName::from_static("x-forwarded-uri"),
            text(head.uri.path()),
        ),
    ];
    for (name, value) in entries {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    let mut forwarded = Request::builder()
        .method(head.method)
        .uri(path_of(info, &head.uri))
        .body(body)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    *forwarded.headers_mut() = headers;
    Ok(forwarded)
}

/// A redirect within what is proxied stays within it.
fn rewrite_location(info: &RequestInfo, headers: &mut HeaderMap) {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    if !location.starts_with('/') || location.starts_with("//") {
        return;
    }
    if let Ok(location) = HeaderValue::from_str(&format!("{}{location}", base(info))) {
        headers.insert(LOCATION, location);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(path: &str, rest: &str) -> RequestInfo {
        RequestInfo {
            path: path.to_owned(),
            rest: rest.to_owned(),
            name: "web:80".to_owned(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn targets_have_scheme_name_and_port() {
        let target = |https, name, port| Some(Target { https, name, port });
        assert_eq!(Target::parse("web"), target(false, "web", ""));
        assert_eq!(Target::parse("web:80"), target(false, "web", "80"));
        assert_eq!(Target::parse("https:web:"), target(true, "web", ""));
        assert_eq!(Target::parse("ftp:web:1"), None);
        assert_eq!(Target::parse(""), None);
    }

    #[test]
    fn the_path_behind_proxy_is_kept_as_it_was_sent() {
        let info = info("/api/v1/namespaces/a/pods/web:80/proxy/x y/", "x y/");
        let uri: Uri = "/api/v1/namespaces/a/pods/web:80/proxy/x%20y/?q=1"
            .parse()
            .unwrap();
        assert_eq!(path_of(&info, &uri), "/x%20y/?q=1");
        assert_eq!(base(&info), "/api/v1/namespaces/a/pods/web:80/proxy");
        let mut headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("/login"))]);
        rewrite_location(&info, &mut headers);
        assert_eq!(
            headers[LOCATION],
            "/api/v1/namespaces/a/pods/web:80/proxy/login"
        );
    }

    #[test]
    fn headers_of_one_connection_and_credentials_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-own, close"),
            ("x-own", "1"),
            ("authorization", "secret"),
            ("accept", "a"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let passed = passed_on(&headers);
        assert_eq!(
            passed.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["accept"]
        );
    }
}
