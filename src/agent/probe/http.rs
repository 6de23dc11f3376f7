//! GET for probes and hooks: no proxy, no certificate check, redirects within the host, only the
//! beginning of the answer is read (kubernetes `pkg/probe/http`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Outcome;

/// Beginning of an answer that is kept for the event.
const BODY_BYTES_MAX: usize = 10 << 10;
const REDIRECTS_MAX: usize = 10;

/// What to get and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// A port of a container by number or name.
///
/// Errors: no such name, or not a port.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let ports = container.ports.iter().flatten();
                let mut ports = ports.filter(|port| port.name.as_deref() == Some(name));
                ports.next().map(|port| port.container_port)
            }
        },
    };
    let shown = match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("couldn't find port: {shown}"))
}

/// What an action of a container asks for; `address` is the pod's.
pub(crate) fn target(
    container: &Container,
    action: &HTTPGetAction,
    address: Option<IpAddr>,
) -> Result<Target, String> {
    let own = action.host.as_deref().filter(|host| !host.is_empty());
    let host = match (own, address) {
        (Some(host), _) => host.to_owned(),
        (None, Some(address)) => address.to_string(),
        (None, None) => return Err("the pod has no address".to_owned()),
    };
    let path = action.path.as_deref().unwrap_or_default();
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let headers = action.http_headers.iter().flatten();
    Ok(Target {
        is_tls: action
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host,
        port: port(container, &action.port)?,
        path,
        headers: headers.map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

impl Target {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Gets `target` within `timeout`. Success is a status from 200 to 399.
pub(crate) async fn get(target: &Target, agent: &str, timeout: Duration) -> Outcome {
    match fetch(target, agent, timeout).await {
        Ok((code, body)) if (200..400).contains(&code) => {
            Outcome::Success(String::from_utf8_lossy(&body).into_owned())
        }
        Ok((code, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        Err(why) => Outcome::Failure(why),
    }
}

/// Gets `target` within `timeout`: its status and the beginning of its body.
///
/// Errors: the text Go's client gives.
pub(crate) async fn fetch(
    target: &Target,
    agent: &str,
    timeout: Duration,
) -> Result<(u16, Bytes), String> {
    let answer = tokio::time::timeout(timeout, follow(target, agent)).await;
    let why = match answer {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(why)) => why,
        Err(_) => {
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
        }
    };
    Err(format!("Get \"{}\": {why}", target.url()))
}

async fn follow(target: &Target, agent: &str) -> Result<(u16, Bytes), String> {
    let mut target = target.clone();
    for _ in 0..REDIRECTS_MAX {
        let (parts, body) = once(&target, agent).await?;
        let next = parts.headers.get(LOCATION).and_then(|l| l.to_str().ok());
        let next = next.filter(|_| parts.status.is_redirection());
        match next.and_then(|location| redirected(&target, location)) {
            Some(next) => target = next,
            None => return Ok((parts.status.as_u16(), body)),
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

/// Where a redirect leads; `None` for another host: that it answered is enough.
fn redirected(from: &Target, location: &str) -> Option<Target> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query()?.to_string();
    let Some(host) = uri.host() else {
        return Some(Target {
            path,
            ..from.clone()
        });
    };
    if host.trim_matches(['[', ']']) != from.host {
        return None;
    }
    let is_tls = uri.scheme_str() == Some("https");
    Some(Target {
        is_tls,
        port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
        path,
        ..from.clone()
    })
}

async fn once(target: &Target, agent: &str) -> Result<(http::response::Parts, Bytes), String> {
    let stream = super::tcp::connect(&target.host, target.port).await?;
    if !target.is_tls {
        return exchange(stream, target, agent).await;
    }
    let stream = secure(stream, target).await?;
    exchange(stream, target, agent).await
}

async fn secure(
    stream: TcpStream,
    target: &Target,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    use crate::util::tls::{self, Trust};
    let config: ClientConfig =
        tls::client(&Trust::Anyone, None).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connected.await.map_err(|error| error.to_string())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: &Target,
    agent: &str,
) -> Result<(http::response::Parts, Bytes), String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let request = request(target, agent)?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let (parts, body) = answer.into_parts();
        let body = beginning(Response::new(body)).await;
        Ok((parts, body))
    };
    tokio::pin!(ask);
    tokio::select! {
        answer = &mut ask => answer,
        // Whatever the connection had read is with the request by now.
        _ = connection => ask.await,
    }
}

fn request(target: &Target, agent: &str) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(&target.path)
        .header(HOST, target.authority())
        .header(USER_AGENT, agent)
        .header(ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    for (name, value) in &target.headers {
        let name: HeaderName = name.parse().map_err(|_| format!("bad header `{name}`"))?;
        let value: HeaderValue = value
            .parse()
            .map_err(|_| format!("bad value of header `{name}`"))?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

async fn beginning(answer: Response<Incoming>) -> Bytes {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() >= BODY_BYTES_MAX {
            bytes.truncate(BODY_BYTES_MAX);
            break;
        }
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn container() -> Container {
        serde_json::from_value(json!({"name": "c", "ports":
            [{"name": "web", "containerPort": 8080}]}))
        .unwrap()
    }

    #[test]
    fn targets_come_from_action_container_and_pod() {
        let action: HTTPGetAction = serde_json::from_value(json!({"port": "web", "path": "ready",
            "scheme": "HTTPS", "httpHeaders": [{"name": "X", "value": "y"}]}))
        .unwrap();
        let got = target(&container(), &action, Some("fd00::2".parse().unwrap())).unwrap();
        assert_eq!(got.url(), "https://[fd00::2]:8080/ready");
        assert_eq!(got.headers, [("X".to_owned(), "y".to_owned())]);
        let none = IntOrString::String("none".into());
        assert_eq!(
            port(&container(), &none).unwrap_err(),
            "couldn't find port: none"
        );
    }

    async fn serve(answers: Vec<&'static str>) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        crate::util::tasks::Tasks::new().job("server", async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Target {
            is_tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/".into(),
            headers: vec![],
        }
    }

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn status_codes_decide_and_redirects_are_followed() {
        let found = "HTTP/1.1 302 Found\r\nlocation: /next\r\ncontent-length: 0\r\n\r\n";
        let fine = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let target = serve(vec![found, fine]).await;
        assert_eq!(
            get(&target, "x", LIMIT).await,
            Outcome::Success("ok".into())
        );
        let target = serve(vec!["HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"]).await;
        let failed = Outcome::Failure("HTTP probe failed with statuscode: 500".into());
        assert_eq!(get(&target, "x", LIMIT).await, failed);
    }

    #[tokio::test]
    async fn a_closed_port_is_a_failure_with_its_text() {
        let target = serve(vec![]).await;
        let port = target.port;
        let outcome = get(&target, "x", LIMIT).await;
        let text = format!(
            "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        );
        assert!(
            matches!(&outcome, Outcome::Failure(why) if *why == text)
                || matches!(&outcome, Outcome::Failure(why) if why.contains("127.0.0.1")),
            "{outcome:?}"
        );
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let from = Target {
            is_tls: false,
            host: "10.0.0.2".into(),
            port: 8080,
            path: "/".into(),
            headers: vec![],
        };
        assert_eq!(redirected(&from, "http://elsewhere/x"), None);
        let next = redirected(&from, "https://10.0.0.2/x?y").unwrap();
        assert_eq!(next.url(), "https://10.0.0.2:443/x?y");
    }
}
