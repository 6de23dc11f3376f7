//! The audit log: who asked what of the API, and what became of it, as `audit.k8s.io/v1` events.
//!
//! Life of a [`Trail`]: made for each request where there is a policy; [`Trail::begin`] when it is
//! known who asks, which decides the level; notes of what the filters found out; one event for
//! each stage the policy wants. Without a policy nothing of this costs anything.

mod log;
pub mod policy;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::USER_AGENT;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::api::status::ApiError;
use crate::api::time;
use crate::server::request::{RequestInfo, User};
use crate::util::clock::Clock;
use crate::util::metrics::{Counters, Metrics};
use crate::util::tasks::Tasks;

use policy::{Decision, Level, Policy, Stage};

/// Events that wait for the disk. Beyond it requests wait: an event is worth more than speed to
/// whoever asked for an audit log.
const QUEUED_MAX: usize = 10_000;
/// As upstream: longer addresses lists are somebody playing.
const SOURCES_MAX: usize = 16;

/// Where events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `--audit-log-path`
    pub path: PathBuf,
    /// `--audit-log-maxsize`
    pub size_mib_max: u64,
    /// `--audit-log-maxbackup`; 0: no limit.
    pub backups_max: usize,
    /// `--audit-log-maxage`; 0: no limit.
    pub age_days_max: u32,
}

/// Writes events by a policy. Clones share it.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: Policy,
    lines: mpsc::Sender<String>,
    clock: Clock,
    events: Counters,
    errors: Counters,
}

/// What a request says of itself.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// `audit-id`
    pub id: String,
    /// Path and query.
    pub uri: String,
    /// What is asked.
    pub info: RequestInfo,
    /// From the nearest proxy to the farthest as they say, then the peer.
    pub sources: Vec<String>,
    /// As sent.
    pub user_agent: String,
}

/// What is known of one request. In its extensions while it is served.
#[derive(Debug)]
pub struct Trail {
    shared: Arc<Shared>,
    head: Head,
    received: Timestamp,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    decision: Decision,
    user: User,
    acting_as: Option<User>,
    request: Option<Value>,
    response: Option<Value>,
    failure: Option<Value>,
    code: u16,
    annotations: BTreeMap<String, String>,
}

impl Audit {
    /// Writes in a task of `tasks`.
    pub fn start(
        policy: Policy,
        config: LogConfig,
        clock: &Clock,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Self {
        let (lines, queue) = mpsc::channel(QUEUED_MAX);
        let errors = metrics.counters(
            "apiserver_audit_error_total",
            "Counter of audit events that failed to be audited properly. Plugin identifies the \
             plugin affected by the error.",
            &["plugin"],
        );
        let log = log::Log {
            config,
            clock: clock.clone(),
            lines: queue,
            errors: errors.clone(),
        };
        tasks.service("audit log", log.run(tasks.cancelled()));
        Self(Arc::new(Shared {
            policy,
            lines,
            clock: clock.clone(),
            events: metrics.counters(
                "apiserver_audit_event_total",
                "Counter of audit events generated and sent to the audit backend.",
                &[],
            ),
            errors,
        }))
    }

    /// The trail of a request that has just come in.
    pub fn trail(&self, head: Head) -> Arc<Trail> {
        Arc::new(Trail {
            shared: Arc::clone(&self.0),
            received: self.0.clock.now(),
            head,
            facts: Mutex::default(),
        })
    }
}

impl Head {
    /// Of a request with `headers` from `peer`.
    pub fn new(id: &str, uri: &str, info: &RequestInfo) -> Self {
        Self {
            id: id.to_owned(),
            uri: uri.to_owned(),
            info: info.clone(),
            ..Self::default()
        }
    }

    /// Adds where it came from and by what program.
    pub fn sent_by(mut self, headers: &HeaderMap, peer: Option<std::net::IpAddr>) -> Self {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let forwarded = text("x-forwarded-for");
        let forwarded = forwarded.split(',').map(str::trim);
        let mut sources: Vec<String> = forwarded
            .filter(|address| address.parse::<std::net::IpAddr>().is_ok())
            .take(SOURCES_MAX)
            .map(str::to_owned)
            .collect();
        let peer = peer.map(|peer| peer.to_string());
        sources.extend(peer.filter(|peer| !sources.contains(peer)));
        self.sources = sources;
        self.user_agent = text(USER_AGENT.as_str());
        self
    }
}

impl Trail {
    /// `user` asks: decides how much is written, and writes that the request was received.
    pub async fn begin(&self, user: &User) {
        let decision = self.shared.policy.decide(user, &self.head.info);
        {
            let mut facts = self.facts.lock();
            facts.decision = decision;
            facts.user = user.clone();
        }
        self.write(Stage::RequestReceived).await;
    }

    /// Nobody knows who asks. Written as upstream does: at `ResponseStarted`, for nobody.
    pub async fn refused(&self, error: &ApiError) {
        let nobody = User::default();
        let decision = self.shared.policy.decide(&nobody, &self.head.info);
        self.facts.lock().decision = decision;
        self.failed(error);
        self.write(Stage::ResponseStarted).await;
        // The trail ends here.
        self.facts.lock().decision = Decision::default();
    }

    /// The user acts as somebody else.
    pub fn acting_as(&self, user: &User) {
        self.facts.lock().acting_as = Some(user.clone());
    }

    /// Adds an annotation; the first of a key stays.
    pub fn annotate(&self, key: &str, value: &str) {
        let mut facts = self.facts.lock();
        let entry = facts.annotations.entry(key.to_owned());
        entry.or_insert_with(|| value.to_owned());
    }

    /// Whether the bodies of requests, and of answers, are wanted.
    pub fn wants(&self) -> (bool, bool) {
        let level = self.facts.lock().decision.level;
        (level >= Level::Request, level >= Level::RequestResponse)
    }

    /// The body of the request.
    pub fn request(&self, body: &Bytes) {
        let object = self.object(body);
        self.facts.lock().request = object;
    }

    /// The body of the answer.
    pub fn response(&self, body: &Bytes) {
        let object = self.object(body);
        self.facts.lock().response = object;
    }

    /// The answer is this failure.
    pub fn failed(&self, error: &ApiError) {
        let mut facts = self.facts.lock();
        facts.code = error.code;
        facts.failure = Some(error.to_status());
    }

    /// The answer's code; writes that it started.
    pub async fn started(&self, code: u16) {
        self.facts.lock().code = code;
        self.write(Stage::ResponseStarted).await;
    }

    /// The answer is whole.
    pub async fn completed(&self, code: u16) {
        self.facts.lock().code = code;
        self.write(Stage::ResponseComplete).await;
    }

    /// Serving it panicked.
    pub async fn panicked(&self) {
        self.facts.lock().code = 500;
        self.write(Stage::Panic).await;
    }

    /// Writes the end of a long-running answer when what is returned is dropped.
    pub fn at_end(self: &Arc<Self>) -> AtEnd {
        AtEnd(Arc::clone(self))
    }

    /// Objects are read as JSON or YAML; what is neither (protobuf, binary streams) is left out.
    fn object(&self, body: &Bytes) -> Option<Value> {
        let mut object: Value = serde_json::from_slice(body)
            .ok()
            .or_else(|| serde_yaml::from_slice(body).ok())
            .filter(|value: &Value| value.is_object() || value.is_array())?;
        if self.facts.lock().decision.omit_managed_fields {
            drop_managed_fields(&mut object);
        }
        Some(object)
    }

    fn line(&self, stage: Stage) -> Option<String> {
        let facts = self.facts.lock();
        let is_wanted =
            facts.decision.level > Level::None && !facts.decision.omit_stages.contains(&stage);
        is_wanted.then(|| {
            let now = self.shared.clock.now();
            format!(
                "{}\n",
                event(&self.head, &facts, stage, (self.received, now))
            )
        })
    }

    async fn write(&self, stage: Stage) {
        let Some(line) = self.line(stage) else { return };
        match self.shared.lines.send(line).await {
            Ok(()) => self.shared.events.increment(&[]),
            Err(_) => self.shared.errors.increment(&["log"]),
        }
    }
}

/// See [`Trail::at_end`].
#[derive(Debug)]
pub struct AtEnd(Arc<Trail>);

impl Drop for AtEnd {
    /// Nothing can wait here: what finds the queue full is counted as lost.
    fn drop(&mut self) {
        let Some(line) = self.0.line(Stage::ResponseComplete) else {
            return;
        };
        match self.0.shared.lines.try_send(line) {
            Ok(()) => self.0.shared.events.increment(&[]),
            Err(_) => self.0.shared.errors.increment(&["log"]),
        }
    }
}

fn drop_managed_fields(object: &mut Value) {
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(object);
    let items = object.get_mut("items").and_then(Value::as_array_mut);
    items.into_iter().flatten().for_each(strip);
}

fn event(
    head: &Head,
    facts: &Facts,
    stage: Stage,
    (received, now): (Timestamp, Timestamp),
) -> Value {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1",
        "level": format!("{:?}", facts.decision.level),
        "auditID": head.id,
        "stage": format!("{stage:?}"),
        "requestURI": head.uri,
        "verb": head.info.verb,
        "user": user_info(&facts.user),
        "requestReceivedTimestamp": time::micros(received),
        "stageTimestamp": time::micros(now),
    });
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            event[field] = value;
        }
    };
    set("impersonatedUser", facts.acting_as.as_ref().map(user_info));
    set(
        "sourceIPs",
        (!head.sources.is_empty()).then(|| json!(head.sources)),
    );
    set(
        "userAgent",
        (!head.user_agent.is_empty()).then(|| json!(head.user_agent)),
    );
    set("objectRef", object_ref(&head.info, facts.request.as_ref()));
    if stage != Stage::RequestReceived {
        set("responseStatus", Some(response_status(facts)));
    }
    if facts.decision.level >= Level::Request && stage != Stage::RequestReceived {
        set("requestObject", facts.request.clone());
    }
    if facts.decision.level >= Level::RequestResponse && stage == Stage::ResponseComplete {
        let response = facts.response.clone().or_else(|| facts.failure.clone());
        set("responseObject", response);
    }
    let annotations = (!facts.annotations.is_empty()).then(|| json!(facts.annotations));
    set("annotations", annotations);
    event
}

fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    if !user.name.is_empty() {
        info.insert("username".into(), user.name.as_str().into());
    }
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    info.into()
}

fn object_ref(info: &RequestInfo, object: Option<&Value>) -> Option<Value> {
    if !info.is_resource {
        return None;
    }
    let of_object = |field: &str| {
        let value = object.and_then(|object| object.get("metadata")?.get(field)?.as_str());
        value.unwrap_or_default()
    };
    let name = match info.name.as_str() {
        "" => of_object("name"),
        name => name,
    };
    let mut reference = Map::new();
    for (field, value) in [
        ("resource", info.resource.as_str()),
        ("namespace", &info.namespace),
        ("name", name),
        ("uid", of_object("uid")),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("resourceVersion", of_object("resourceVersion")),
        ("subresource", &info.subresource),
    ] {
        if !value.is_empty() {
            reference.insert(field.to_owned(), value.into());
        }
    }
    Some(reference.into())
}

fn response_status(facts: &Facts) -> Value {
    let mut status = json!({"metadata": {}, "code": facts.code});
    if let Some(failure) = &facts.failure {
        for field in ["status", "message", "reason", "details"] {
            if let Some(value) = failure.get(field).filter(|value| !value.is_null()) {
                status[field] = value.clone();
            }
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(rule: &str) -> (Audit, mpsc::Receiver<String>) {
        let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rule}]");
        let (lines, queue) = mpsc::channel(16);
        let metrics = Metrics::new();
        let shared = Shared {
            policy: Policy::read(&text).unwrap(),
            lines,
            clock: Clock::fixed("2026-11-25T14:00:00Z".parse().unwrap()),
            events: metrics.counters("a_total", "", &[]),
            errors: metrics.counters("b_total", "", &["plugin"]),
        };
        (Audit(Arc::new(shared)), queue)
    }

    fn head() -> Head {
        let info = RequestInfo {
            is_resource: true,
            verb: "create".into(),
            version: "v1".into(),
            resource: "configmaps".into(),
            namespace: "default".into(),
            ..RequestInfo::default()
        };
        let headers = HeaderMap::from_iter([(USER_AGENT, "kubectl/v1".parse().unwrap())]);
        let peer = "127.0.0.1".parse().ok();
        Head::new("id", "/api/v1/namespaces/default/configmaps?x=y", &info).sent_by(&headers, peer)
    }

    fn next(queue: &mut mpsc::Receiver<String>) -> Value {
        serde_json::from_str(&queue.try_recv().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn an_event_reads_as_upstream_writes_it() {
        let (audit, mut queue) = audit("{level: RequestResponse, omitManagedFields: true}");
        let trail = audit.trail(head());
        trail.begin(&User::system("admin")).await;
        trail.acting_as(&User {
            name: "jane".into(),
            ..User::default()
        });
        trail.annotate("authorization.k8s.io/decision", "allow");
        let body = r#"{"metadata":{"name":"a","managedFields":[1]}}"#;
        trail.request(&Bytes::from_static(body.as_bytes()));
        trail.response(&Bytes::from_static(b"kind: ConfigMap"));
        trail.completed(201).await;
        assert_eq!(next(&mut queue)["stage"], "RequestReceived");
        let groups = ["system:masters", "system:authenticated"];
        assert_eq!(
            next(&mut queue),
            json!({
                "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse",
                "auditID": "id", "stage": "ResponseComplete", "verb": "create",
                "requestURI": "/api/v1/namespaces/default/configmaps?x=y",
                "user": {"username": "admin", "groups": groups},
                "impersonatedUser": {"username": "jane"},
                "sourceIPs": ["127.0.0.1"], "userAgent": "kubectl/v1",
                "objectRef": {"resource": "configmaps", "namespace": "default", "name": "a",
                    "apiVersion": "v1"},
                "responseStatus": {"metadata": {}, "code": 201},
                "requestObject": {"metadata": {"name": "a"}},
                "responseObject": {"kind": "ConfigMap"},
                "requestReceivedTimestamp": "2026-11-25T14:00:00.000000Z",
                "stageTimestamp": "2026-11-25T14:00:00.000000Z",
                "annotations": {"authorization.k8s.io/decision": "allow"},
            })
        );
    }

    #[tokio::test]
    async fn levels_and_stages_leave_out_what_they_say() {
        let (audit, mut queue) = audit("{level: Metadata, omitStages: [RequestReceived]}");
        let trail = audit.trail(head());
        trail.begin(&User::system("admin")).await;
        assert_eq!(trail.wants(), (false, false));
        trail.failed(&ApiError::not_found("", "configmaps", "a"));
        trail.started(404).await;
        drop(trail.at_end());
        assert_eq!(next(&mut queue)["stage"], "ResponseStarted");
        let end = next(&mut queue);
        assert_eq!(end["stage"], "ResponseComplete");
        assert_eq!(end["responseStatus"]["reason"], "NotFound");
        assert!(end.get("requestObject").is_none());
        assert!(queue.try_recv().is_err());
    }

    #[tokio::test]
    async fn who_is_not_known_leaves_one_event() {
        let (audit, mut queue) = audit("{level: Metadata}");
        let trail = audit.trail(head());
        trail.refused(&ApiError::unauthorized()).await;
        trail.completed(401).await;
        let event = next(&mut queue);
        assert_eq!(
            (&event["stage"], &event["user"]),
            (&json!("ResponseStarted"), &json!({}))
        );
        assert_eq!(event["responseStatus"]["code"], 401);
        assert!(queue.try_recv().is_err());
    }
}
