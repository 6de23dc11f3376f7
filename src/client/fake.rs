//! A strict transport for tests: it answers what it was told to and panics on anything else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use crate::api::status::ApiError;

use super::{Body, Client, Result, Transport, body_from};

type Streamed = http_body_util::channel::Sender<Bytes, Box<dyn std::error::Error + Send + Sync>>;

enum Answer {
    Json(Value),
    Fail(ApiError),
}

/// The transport.
#[derive(Default)]
pub struct Fake {
    answers: Mutex<HashMap<String, Answer>>,
    streams: Mutex<HashMap<String, VecDeque<Body>>>,
    streamable: Notify,
    seen: Mutex<Vec<(String, Value)>>,
}

impl Fake {
    /// Knows no answer.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A client of it.
    pub fn client(self: &Arc<Self>) -> Client {
        Client::new(self.clone())
    }

    /// `request` is `METHOD path?query`; the query may be left out to stand for any.
    pub fn answer(&self, request: &str, body: Value) {
        self.set(request, Answer::Json(body));
    }

    /// The request fails.
    pub fn fail(&self, request: &str, error: ApiError) {
        self.set(request, Answer::Fail(error));
    }

    /// The next watch of `path` gets a body that streams what is sent. A watch for which there is
    /// none waits for one.
    pub fn stream(&self, path: &str) -> Streamed {
        let (sender, body) = Channel::new(16);
        let mut streams = self.streams.lock();
        let waiting = streams.entry(path.to_owned()).or_default();
        waiting.push_back(body.boxed_unsync());
        self.streamable.notify_waiters();
        sender
    }

    /// `METHOD path?query` and body of every request so far.
    pub fn seen(&self) -> Vec<(String, Value)> {
        self.seen.lock().clone()
    }

    fn set(&self, request: &str, answer: Answer) {
        self.answers.lock().insert(request.to_owned(), answer);
    }

    fn answer_to(&self, request: &str) -> Response<Body> {
        let answers = self.answers.lock();
        let (path, _) = request.split_once('?').unwrap_or((request, ""));
        let key = if answers.contains_key(request) {
            request
        } else {
            path
        };
        let answer = answers.get(key);
        let answer = answer.unwrap_or_else(|| panic!("unexpected request: {request}"));
        let (code, body) = match answer {
            Answer::Json(body) => (200, body_from(body.to_string())),
            Answer::Fail(error) => (error.code, body_from(error.to_status().to_string())),
        };
        Response::builder().status(code).body(body).unwrap()
    }

    async fn next_stream(&self, path: &str) -> Response<Body> {
        loop {
            let more = self.streamable.notified();
            let body = self
                .streams
                .lock()
                .get_mut(path)
                .and_then(VecDeque::pop_front);
            match body {
                Some(body) => return Response::new(body),
                None => more.await,
            }
        }
    }
}

#[async_trait]
impl Transport for Fake {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        let line = format!("{} {}", request.method(), request.uri());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.seen.lock().push((line.clone(), body));
        if line.contains("?watch=true") {
            let path = line.trim_start_matches("GET ").split('?').next();
            return Ok(self.next_stream(path.unwrap_or_default()).await);
        }
        Ok(self.answer_to(&line))
    }
}
