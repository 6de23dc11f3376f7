//! A server without HTTP: a path and a body in, a code and JSON out.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::status::ApiError;
use crate::client::{Body, body_from, empty_body};
use crate::server::registry::Registry;
use crate::server::request::{RequestInfo, User};
use crate::server::rest::{Permission, Rest, RestConfig, TokenIssuer, TokenWish};
use crate::store::Store;
use crate::store::mvcc::Mvcc;
use crate::util::clock::Clock;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

pub(super) struct Api {
    pub(super) rest: Rest,
    pub(super) store: Arc<Mvcc>,
    pub(super) user: User,
    tasks: Tasks,
}

struct Tokens;

impl TokenIssuer for Tokens {
    fn audience(&self) -> String {
        "api".to_owned()
    }

    fn issue(&self, wish: &TokenWish, _now: Timestamp) -> Result<String, ApiError> {
        let pod = wish.pod.as_ref().map(|pod| pod.name.as_str());
        Ok(format!(
            "token of {} for {pod:?}",
            wish.service_account.name
        ))
    }
}

struct Everything;

impl Permission for Everything {
    fn check(&self, _user: &User, _info: &RequestInfo) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Api {
    /// With the namespace `default` and its service account.
    pub(super) async fn new() -> Self {
        let api = Self::over(Mvcc::in_memory()).await;
        api.ok(
            "POST /api/v1/namespaces",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
        let account = json!({"metadata": {"name": "default"}});
        api.ok("POST /api/v1/namespaces/default/serviceaccounts", account)
            .await;
        api
    }

    /// Over what a store has.
    pub(super) async fn over(store: Arc<Mvcc>) -> Self {
        let (tasks, rng) = (Tasks::new(), Rng::seeded(1));
        let clock = Clock::fixed("2026-01-02T03:04:05Z".parse().unwrap());
        let config = RestConfig {
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            node_port_range: 30000..=32767,
            tokens: Arc::new(Tokens),
        };
        let registry = Arc::new(Registry::builtin());
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let rest = Rest::new(config, registry, shared, clock, rng, &tasks);
        let rest = rest.await.unwrap();
        rest.set_permission(Arc::new(Everything));
        Self {
            rest,
            store,

            user: User::system("admin"),
            tasks,
        }
    }

    /// The answer to `METHOD path`, with headers after the path separated by ` | `.
    pub(super) async fn send(
        &self,
        line: &str,
        body: impl Into<Value>,
    ) -> Result<Response<Body>, ApiError> {
        let mut parts = line.split(" | ");
        let (method, target) = parts.next().unwrap().split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target);
        request = request.header("user-agent", "test/1.0");
        for header in parts {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let body = match body.into() {
            Value::Null => empty_body(),
            Value::String(text) => body_from(text),
            body => body_from(body.to_string()),
        };
        let info = info(method, target);
        let request = request.body(body).unwrap();
        self.rest.handle(info, self.user.clone(), request).await
    }

    /// Code and body of the answer, or of the failure.
    pub(super) async fn call(&self, line: &str, body: impl Into<Value>) -> (u16, Value) {
        match self.send(line, body).await {
            Ok(response) => {
                let code = response.status().as_u16();
                let bytes = response.into_body().collect().await.unwrap().to_bytes();
                let value = serde_json::from_slice(&bytes);
                (
                    code,
                    value.unwrap_or_else(|_| panic!("not JSON: {bytes:?}")),
                )
            }
            Err(error) => (error.code, error.to_status()),
        }
    }

    /// The body of an answer that must be a success.
    pub(super) async fn ok(&self, line: &str, body: impl Into<Value>) -> Value {
        let (code, value) = self.call(line, body).await;
        assert!(code < 300, "{line}: {code} {value:#}");
        value
    }

    /// Code and message of an answer that must be a failure.
    pub(super) async fn err(&self, line: &str, body: impl Into<Value>) -> (u16, String) {
        let (code, value) = self.call(line, body).await;
        assert!(code >= 400, "{line}: {code} {value:#}");
        (
            code,
            value["message"].as_str().unwrap_or_default().to_owned(),
        )
    }

    /// Opens a watch.
    pub(super) async fn watch(&self, target: &str) -> Events {
        let response = self.send(&format!("WATCH {target}"), Value::Null).await;
        Events {
            body: response.unwrap().into_body(),
            text: String::new(),
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// The events of a watch.
pub(super) struct Events {
    body: Body,
    text: String,
}

impl Events {
    /// The next event; `None`: the watch ended.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(3600), self.body.frame());
            let frame = frame.await.expect("an event within an hour")?.unwrap();
            let data = frame.into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// Type and name of the next event.
    pub(super) async fn line(&mut self) -> String {
        let event = self.next().await.expect("one more event");
        let name = event["object"]["metadata"]["name"].as_str();
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            name.unwrap_or("-")
        )
    }
}

fn info(method: &str, target: &str) -> RequestInfo {
    let path = target.split('?').next().unwrap();
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    let (group, version) = if parts[0] == "api" {
        ("", parts[1])
    } else {
        (parts[1], parts[2])
    };
    parts.drain(..if parts[0] == "api" { 2 } else { 3 });
    let mut namespace = "";
    if parts[0] == "namespaces" && parts.len() > 2 && !["status", "finalize"].contains(&parts[2]) {
        namespace = parts[1];
        parts.drain(..2);
    }
    let part = |at: usize| parts.get(at).copied().unwrap_or_default().to_owned();
    let verb = match (method, parts.len()) {
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("WATCH", _) => "watch",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", 1) => "deletecollection",
        ("DELETE", _) => "delete",
        other => panic!("{other:?}"),
    };
    RequestInfo {
        verb: verb.to_owned(),
        is_resource: true,
        group: group.to_owned(),
        version: version.to_owned(),
        resource: part(0),
        name: part(1),
        subresource: part(2),
        namespace: namespace.to_owned(),
        path: path.to_owned(),
        ..RequestInfo::default()
    }
}
