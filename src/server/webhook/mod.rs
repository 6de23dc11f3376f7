//! Calls webhooks (admission, conversion): HTTPS to a URL or to a service of the cluster, where the
//! connection is made by the node of one of the service's ready endpoints.
//!
//! Connections are kept for the next call; one that broke meanwhile is replaced without the caller
//! noticing. Requests, answers, waiting and idle connections have limits.

mod pool;
mod target;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::status::ApiError;
use crate::server::cacher::Cacher;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

use pool::Pool;
pub use target::{Hook, InvalidHook, Place};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 6 << 20;
/// Shown of an answer that is no answer.
const SHOWN_BYTES_MAX: usize = 1024;

/// A connection to an endpoint.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections from where the address is reachable.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects from `node`; empty: from this server.
    ///
    /// Errors: 503.
    async fn dial(
        &self,
        node: &str,
        address: std::net::SocketAddr,
    ) -> Result<Box<dyn Stream>, ApiError>;
}

/// Why a call gave no answer; prints as Go's HTTP client does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was sent, or nothing came back.
    #[error("Post \"{url}\": {why}")]
    Transport {
        /// What was called.
        url: String,
        /// For instance `context deadline exceeded`.
        why: String,
    },
    /// The server answered, but not with 2xx.
    #[error("{0}")]
    Refused(String),
    /// The answer is no JSON.
    #[error("{0}")]
    Unreadable(String),
}

impl Error {
    /// Whether the time was over.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::Transport { why, .. } if why == DEADLINE)
    }
}

/// What Go says when a deadline passes.
const DEADLINE: &str = "context deadline exceeded";

/// Calls webhooks. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Webhooks {
    pool: Pool,
}

impl Webhooks {
    /// Finds services in `cacher`, connects by `dial`. Connections live in `tasks`.
    pub fn new(cacher: Cacher, dial: std::sync::Arc<dyn Dial>, rng: Rng, tasks: &Tasks) -> Self {
        let pool = Pool::new(cacher, dial, rng, tasks);
        Self { pool }
    }

    /// Posts JSON and reads the JSON that comes back, all within `timeout`.
    pub async fn post(&self, hook: &Hook, body: Bytes, timeout: Duration) -> Result<Value, Error> {
        let url = hook.url(timeout);
        let failed = |why: String| Error::Transport {
            url: url.clone(),
            why,
        };
        let exchange = async {
            let response = self.send(hook, &url, body).await.map_err(&failed)?;
            let status = response.status();
            let limited = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = limited.collect().await;
            let bytes = bytes.map_err(|error| failed(error.to_string()))?.to_bytes();
            if !status.is_success() {
                return Err(Error::Refused(refusal(status.as_u16(), &bytes)));
            }
            serde_json::from_slice(&bytes)
                .map_err(|error| Error::Unreadable(unreadable(&bytes, &error)))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(failed(DEADLINE.to_owned())),
        }
    }

    async fn send(
        &self,
        hook: &Hook,
        url: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let (authority, path) = target::split(url)?;
        // A kept connection may turn out to be closed: then a new one has its turn.
        for fresh in [false, true] {
            let kept = match fresh {
                false => self.pool.kept(hook, authority),
                true => Some(self.pool.connect(hook, authority).await?),
            };
            let Some(mut sender) = kept else {
                continue;
            };
            let request = request(authority, &path, body.clone())?;
            match sender.send_request(request).await {
                Ok(response) => {
                    self.pool.keep(hook, authority, sender);
                    return Ok(response);
                }
                Err(error) if fresh => return Err(text_of(&error)),
                Err(_) => {}
            }
        }
        Err("EOF".to_owned())
    }
}

fn text_of(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() {
        return "EOF".to_owned();
    }
    error.to_string()
}

fn request(authority: &str, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
    let json = HeaderValue::from_static("application/json");
    Request::post(path)
        .header(HOST, host)
        .header(ACCEPT, json.clone())
        .header(CONTENT_TYPE, json)
        .header(USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|error| error.to_string())
}

/// What upstream's client makes of an answer that is an error.
fn refusal(code: u16, body: &[u8]) -> String {
    let status: Option<Value> = serde_json::from_slice(body).ok();
    let message = status.as_ref().filter(|status| status["kind"] == "Status");
    if let Some(message) = message.and_then(|status| status["message"].as_str()) {
        return message.to_owned();
    }
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    match code {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => shown.trim().to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        406 => "the server was unable to respond with a content type that the client supports"
            .to_owned(),
        415 => "the body of the request was in an unknown format - accepted media types include: "
            .to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be \
                processing the request"
            .to_owned(),
        500.. => format!(
            "an error on the server ({:?}) has prevented the request from succeeding",
            if shown.trim().is_empty() {
                "unknown"
            } else {
                shown.trim()
            }
        ),
        _ => format!(
            "the server responded with the status code {code} but did not return more information"
        ),
    }
}

fn unreadable(body: &[u8], error: &serde_json::Error) -> String {
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    format!(
        "couldn't get version/kind; json parse error: {error} ({})",
        shown.trim()
    )
}

#[cfg(test)]
mod tests;
