//! The wire forms of `kubectl exec`, `attach`, `cp` and `port-forward`, as one set of channels.
//!
//! [`accept`] reads which form a request asks for and answers 101; once that answer is sent, its
//! future gives the [`Session`]. There are three forms: channels over WebSocket (newer clients,
//! browsers), SPDY/3.1 (older clients), and SPDY/3.1 inside WebSocket (`port-forward` of newer
//! clients).
//!
//! Everything is bounded: 64 KiB for each channel from the client, 256 KiB for each connection to
//! it. A slow reader slows the other side down.
//!
//! What is at the other end, and who may reach it, is not known here.

mod channels;
mod spdy;
mod websocket;

#[cfg(test)]
mod tests;

use std::time::Duration;

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::api::status::ApiError;
use crate::client::{Body, empty_body};
use crate::util::tasks::Tasks;

pub use channels::{
    AsyncReadWrite, ChannelWriter, ExecSession, Failure, ForwardSession, Forwarded, Reader,
    exit_code, success,
};
use websocket::{Encoding, Io, Protocol};

/// From the answer 101 to the first byte, and to the last stream of a command: upstream's
/// `DefaultStreamCreationTimeout`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Keeps address translators on the way from forgetting the connection.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// After the last frame: for the client to read it and close.
const LINGER: Duration = Duration::from_secs(5);

/// Ports of the old `port-forward` over WebSocket, of which each takes two of 255 channels.
const PORTS_MAX: usize = 100;
/// Carries a bearer token, and is no protocol.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// Over SPDY, what WebSocket calls the subprotocol.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What the request's path and query ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Channels of a command.
    Exec {
        /// The user types.
        stdin: bool,
        /// The user reads output.
        stdout: bool,
        /// The user reads errors; with `tty` they come with the output.
        stderr: bool,
        /// There is a terminal, whose size changes.
        tty: bool,
    },
    /// Connections to ports.
    Forward {
        /// Of the query `ports`; newer clients name the port with each connection instead.
        ports: Vec<u16>,
    },
}

/// [`Wish::Exec`] alone.
#[derive(Clone, Copy, Debug)]
struct Exec {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Exec {
    fn has_stderr(self) -> bool {
        self.stderr && !self.tty
    }
}

/// What came of a request.
pub enum Session {
    /// For [`Wish::Exec`].
    Exec(ExecSession),
    /// For [`Wish::Forward`].
    Forward(ForwardSession),
}

/// Why no session came of an accepted request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection went away.
    #[error("the connection was not handed over")]
    Upgrade(#[source] hyper::Error),
    /// The client was silent.
    #[error("the client did not open its streams in time")]
    Timeout,
    /// The client went away, or did not speak the protocol, before its streams were there.
    #[error("the client left before its streams were open")]
    Closed,
}

/// Answers a request for an upgrade. Send the answer first: the future waits for that, and then
/// gives the session, whose connection lives in jobs of `tasks`.
///
/// Errors: 400 where the request asks for no upgrade, or for one that is not served here.
pub fn accept(
    request: &mut Request<Body>,
    wish: Wish,
    tasks: &Tasks,
) -> Result<
    (
        Response<Body>,
        impl Future<Output = Result<Session, Error>> + Send + 'static + use<>,
    ),
    ApiError,
> {
    let form = Form::of(request.headers(), &wish)?;
    let answer = form.answer()?;
    let upgraded = hyper::upgrade::on(request);
    let tasks = tasks.clone();
    let session = async move {
        let upgraded = timeout(OPEN_TIMEOUT, upgraded)
            .await
            .map_err(|_| Error::Timeout)?
            .map_err(Error::Upgrade)?;
        form.open(TokioIo::new(upgraded), wish, &tasks).await
    };
    Ok((answer, session))
}

/// How to talk to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    WebSocket {
        accept_key: String,
        /// As the client named it, if it named one.
        name: Option<&'static str>,
        carrier: Carrier,
    },
    Spdy {
        /// As the client named it, if it named one.
        name: Option<&'static str>,
        protocol: spdy::Protocol,
    },
}

/// What WebSocket messages carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Channels(Protocol),
    /// The bytes of a SPDY connection.
    Tunnel,
}

const fn channels(encoding: Encoding, version: u8) -> Carrier {
    Carrier::Channels(Protocol { encoding, version })
}

const fn spdy(version: u8) -> spdy::Protocol {
    spdy::Protocol { version }
}

/// What a client gets that names no subprotocol.
const PLAIN: Carrier = channels(Encoding::Binary, 1);

const EXEC_PROTOCOLS: &[(&str, Carrier)] = &[
    ("v5.channel.k8s.io", channels(Encoding::Binary, 5)),
    ("v4.channel.k8s.io", channels(Encoding::Binary, 4)),
    ("v4.base64.channel.k8s.io", channels(Encoding::Base64, 4)),
    ("channel.k8s.io", PLAIN),
    ("base64.channel.k8s.io", channels(Encoding::Base64, 1)),
];

const FORWARD_PROTOCOLS: &[(&str, Carrier)] = &[
    ("SPDY/3.1+portforward.k8s.io", Carrier::Tunnel),
    ("v4.channel.k8s.io", channels(Encoding::Binary, 4)),
    ("v4.base64.channel.k8s.io", channels(Encoding::Base64, 4)),
];

const EXEC_SPDY: &[(&str, spdy::Protocol)] = &[
    ("v4.channel.k8s.io", spdy(4)),
    ("v3.channel.k8s.io", spdy(3)),
    ("v2.channel.k8s.io", spdy(2)),
    ("channel.k8s.io", spdy(1)),
];

const FORWARD_SPDY: &[(&str, spdy::Protocol)] = &[("portforward.k8s.io", spdy(1))];

impl Form {
    fn of(headers: &HeaderMap, wish: &Wish) -> Result<Self, ApiError> {
        let upgrade = |name: &str| {
            tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
                && tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(name))
        };
        if upgrade("websocket") {
            return Self::websocket(headers, wish);
        }
        if upgrade("SPDY/3.1") {
            return Self::spdy(headers, wish);
        }
        Err(ApiError::bad_request("Upgrade request required"))
    }

    fn websocket(headers: &HeaderMap, wish: &Wish) -> Result<Self, ApiError> {
        let key = headers.get(SEC_WEBSOCKET_KEY);
        let version = headers.get(SEC_WEBSOCKET_VERSION);
        let (Some(key), Some(b"13")) = (key, version.map(HeaderValue::as_bytes)) else {
            return Err(ApiError::bad_request(
                "unable to upgrade: headers `Sec-WebSocket-Key` and `Sec-WebSocket-Version: 13` \
                 are required",
            ));
        };
        let known = match wish {
            Wish::Exec { .. } => EXEC_PROTOCOLS,
            Wish::Forward { .. } => FORWARD_PROTOCOLS,
        };
        let (name, carrier) = negotiate(headers, &SEC_WEBSOCKET_PROTOCOL, known)?.unzip();
        let carrier = carrier.unwrap_or(PLAIN);
        if let (Carrier::Channels(_), Wish::Forward { ports }) = (carrier, wish)
            && !(1..=PORTS_MAX).contains(&ports.len())
        {
            return Err(ApiError::bad_request(format!(
                "query parameter \"ports\" is required, at most {PORTS_MAX} times"
            )));
        }
        Ok(Form::WebSocket {
            accept_key: derive_accept_key(key.as_bytes()),
            name,
            carrier,
        })
    }

    fn spdy(headers: &HeaderMap, wish: &Wish) -> Result<Self, ApiError> {
        let known = match wish {
            Wish::Exec { .. } => EXEC_SPDY,
            Wish::Forward { .. } => FORWARD_SPDY,
        };
        let (name, protocol) = negotiate(headers, &STREAM_PROTOCOL, known)?.unzip();
        // Kubernetes 1.0 named none.
        let protocol = protocol.unwrap_or(spdy(1));
        Ok(Form::Spdy { name, protocol })
    }

    fn answer(&self) -> Result<Response<Body>, ApiError> {
        let mut answer = Response::new(empty_body());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        match self {
            Form::WebSocket {
                accept_key, name, ..
            } => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                let key = HeaderValue::from_str(accept_key).map_err(ApiError::internal)?;
                headers.insert(SEC_WEBSOCKET_ACCEPT, key);
                if let Some(name) = name {
                    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
                }
            }
            Form::Spdy { name, .. } => {
                headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
                if let Some(name) = name {
                    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
                }
            }
        }
        Ok(answer)
    }

    async fn open(self, io: impl Io, wish: Wish, tasks: &Tasks) -> Result<Session, Error> {
        let ports = match wish {
            Wish::Exec {
                stdin,
                stdout,
                stderr,
                tty,
            } => {
                let exec = Exec {
                    stdin,
                    stdout,
                    stderr,
                    tty,
                };
                return self.exec(io, exec, tasks).await.map(Session::Exec);
            }
            Wish::Forward { ports } => ports,
        };
        let session = match self {
            Form::WebSocket {
                carrier: Carrier::Channels(protocol),
                ..
            } => websocket::forward(io, protocol, &ports, tasks).await,
            Form::WebSocket {
                carrier: Carrier::Tunnel,
                ..
            } => spdy::forward(websocket::tunnel(io, tasks).await, tasks)?,
            Form::Spdy { .. } => spdy::forward(io, tasks)?,
        };
        Ok(Session::Forward(session))
    }

    async fn exec(self, io: impl Io, exec: Exec, tasks: &Tasks) -> Result<ExecSession, Error> {
        match self {
            Form::WebSocket {
                carrier: Carrier::Channels(protocol),
                ..
            } => Ok(websocket::exec(io, protocol, exec, tasks).await),
            // Never agreed on for a command.
            Form::WebSocket {
                carrier: Carrier::Tunnel,
                ..
            } => Err(Error::Closed),
            Form::Spdy { protocol, .. } => spdy::exec(io, protocol, exec, tasks).await,
        }
    }
}

/// The comma-separated words of all headers of that name.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// The first protocol the client names that is known, as upstream takes it. `None`: it names none.
fn negotiate<T: Copy>(
    headers: &HeaderMap,
    header: &HeaderName,
    known: &[(&'static str, T)],
) -> Result<Option<(&'static str, T)>, ApiError> {
    let named: Vec<_> = tokens(headers, header)
        .filter(|name| !name.starts_with(TOKEN_PROTOCOL))
        .collect();
    if named.is_empty() {
        return Ok(None);
    }
    let mut found = named
        .iter()
        .filter_map(|name| known.iter().find(|(known, _)| known == name));
    found.next().copied().map(Some).ok_or_else(|| {
        let known: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {named:?}, server \
             accepts {known:?}"
        );
        ApiError::plain(403, "Forbidden", message)
    })
}
