//! Records what happened to objects as core/v1 `Event`s, as `kubectl describe` shows them.
//!
//! Terms (as `k8s.io/client-go/tools/record`). *The same* event, again, raises the count of the
//! stored one. *Similar* events differ only in their message: after [`SIMILAR_MAX`] within
//! [`SIMILAR_WINDOW_SECONDS`] they are counted as one. *Spam*: one source may tell of one object
//! [`BURST`] times, then once every [`REFILL_SECONDS`]; the rest is dropped.
//!
//! Recording never blocks and never fails its caller: past [`WAITING_MAX`] events that wait to be
//! written, new ones are dropped and a debug line says so.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;

use crate::util::{clock::Clock, errors::chain, tasks::Tasks};

use super::{Client, Kind, Patch, Result};

/// Events that wait to be written (a burst of pods, a slow server).
const WAITING_MAX: usize = 1000;
/// Similar events told one by one.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW_SECONDS: i64 = 600;
/// Token bucket of one source and object.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Remembered objects, and remembered events; past it the oldest are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// Longest message the API takes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Records events of one component. Clones share the worker that writes them.
#[derive(Clone, Debug)]
pub struct Recorder {
    waiting: mpsc::Sender<Occurrence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Occurrence {
    about: About,
    kind: &'static str,
    reason: String,
    message: String,
}

/// An object reference that can be a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct About {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    revision: String,
    field_path: String,
}

impl Recorder {
    /// Writes through `client`, in `tasks`, as `component` (for instance
    /// `deployment-controller`) on `host` (empty for controllers).
    pub fn new(client: Client, tasks: &Tasks, clock: Clock, source: (&str, &str)) -> Self {
        let (sender, mut waiting) = mpsc::channel(WAITING_MAX);
        let mut correlator = Correlator::new(source.0, source.1);
        let cancelled = tasks.cancelled();
        tasks.service("events", async move {
            let writing = async {
                while let Some(occurrence) = waiting.recv().await {
                    write(&client, &mut correlator, occurrence, &clock).await;
                }
            };
            cancelled.run_until_cancelled(writing).await;
        });
        Self { waiting: sender }
    }

    /// Something expected happened.
    pub fn normal(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(about, "Normal", reason, message.into());
    }

    /// Something went wrong.
    pub fn warning(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(about, "Warning", reason, message.into());
    }

    fn record(&self, about: &ObjectReference, kind: &'static str, reason: &str, message: String) {
        let occurrence = Occurrence {
            about: About::from(about),
            kind,
            reason: reason.to_owned(),
            message: shortened(message),
        };
        if self.waiting.try_send(occurrence).is_err() {
            tracing::debug!(reason, "too many events wait, one is dropped");
        }
    }
}

/// What an event of `object` refers to.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let mut end = MESSAGE_BYTES_MAX - 3;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}

async fn write(client: &Client, correlator: &mut Correlator, what: Occurrence, clock: &Clock) {
    let written = match correlator.observe(what, clock.now()) {
        Verdict::Spam => return,
        Verdict::New(event) => create(client, &event).await,
        Verdict::Again(event) => again(client, &event).await,
    };
    if let Err(error) = written {
        tracing::debug!(error = %chain(&error), "an event could not be written");
    }
}

async fn create(client: &Client, event: &Event) -> Result<()> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    client.namespaced::<Event>(namespace).create(event).await?;
    Ok(())
}

/// Raises the count of the stored event; one that expired is made anew.
async fn again(client: &Client, event: &Event) -> Result<()> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let patch = Patch::Merge(json!({"count": event.count, "message": event.message,
        "lastTimestamp": event.last_timestamp}));
    let events = client.namespaced::<Event>(namespace);
    match events.patch(name, &patch).await {
        Err(error) if error.is_not_found() => create(client, event).await,
        other => other.map(drop),
    }
}

#[derive(Debug)]
enum Verdict {
    Spam,
    New(Event),
    Again(Event),
}

/// Decides what becomes of each occurrence.
struct Correlator {
    component: String,
    host: String,
    buckets: Remembered<About, Bucket>,
    similar: Remembered<Occurrence, Similar>,
    written: Remembered<Occurrence, Written>,
    count: u64,
}

#[derive(Default)]
struct Bucket {
    spent: f64,
    at: Timestamp,
}

#[derive(Default)]
struct Similar {
    messages: HashSet<String>,
    at: Timestamp,
}

#[derive(Clone, Default)]
struct Written {
    name: String,
    first: Timestamp,
    count: i32,
}

impl Correlator {
    fn new(component: &str, host: &str) -> Self {
        Self {
            component: component.to_owned(),
            host: host.to_owned(),
            buckets: Remembered::default(),
            similar: Remembered::default(),
            written: Remembered::default(),
            count: 0,
        }
    }

    fn observe(&mut self, what: Occurrence, now: Timestamp) -> Verdict {
        let object = About {
            revision: String::new(),
            field_path: String::new(),
            ..what.about.clone()
        };
        if !self.buckets.of(object.clone()).spend(now) {
            return Verdict::Spam;
        }
        let key = Occurrence {
            about: About {
                field_path: what.about.field_path.clone(),
                ..object
            },
            ..what.clone()
        };
        let (key, message) = self.combined(key, what.message.clone(), now);
        self.count += 1;
        let serial = self.count;
        let written = self.written.of(key);
        let fresh = written.count == 0;
        if fresh {
            written.first = now;
            let nanos = now.as_nanosecond() + i128::from(serial % 1000);
            written.name = format!("{}.{nanos:x}", what.about.name);
        }
        written.count += 1;
        let written = written.clone();
        let event = self.event(&what, &written, message, now);
        if fresh {
            Verdict::New(event)
        } else {
            Verdict::Again(event)
        }
    }

    /// After too many similar events: one key for all of them.
    fn combined(
        &mut self,
        key: Occurrence,
        message: String,
        now: Timestamp,
    ) -> (Occurrence, String) {
        let group = Occurrence {
            message: String::new(),
            ..key.clone()
        };
        let similar = self.similar.of(group.clone());
        if now.as_second() - similar.at.as_second() > SIMILAR_WINDOW_SECONDS {
            similar.messages.clear();
        }
        similar.at = now;
        if similar.messages.len() < SIMILAR_MAX || similar.messages.contains(&message) {
            similar.messages.insert(message.clone());
            return (key, message);
        }
        (
            group,
            shortened(format!("(combined from similar events): {message}")),
        )
    }

    fn event(&self, what: &Occurrence, w: &Written, message: String, now: Timestamp) -> Event {
        let namespace = match what.about.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(w.name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: what.about.to_reference(),
            reason: Some(what.reason.clone()),
            message: Some(message),
            type_: Some(what.kind.to_owned()),
            source: Some(EventSource {
                component: some(&self.component),
                host: some(&self.host),
            }),
            first_timestamp: Some(Time(seconds(w.first))),
            last_timestamp: Some(Time(seconds(now))),
            count: Some(w.count),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        }
    }
}

fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

impl Bucket {
    fn spend(&mut self, now: Timestamp) -> bool {
        let elapsed = (now.as_millisecond() - self.at.as_millisecond()) as f64 / 1000.0;
        self.spent = (self.spent - elapsed.max(0.0) / REFILL_SECONDS).max(0.0);
        self.at = now;
        if self.spent + 1.0 > BURST {
            return false;
        }
        self.spent += 1.0;
        true
    }
}

impl From<&ObjectReference> for About {
    fn from(reference: &ObjectReference) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            api_version: text(&reference.api_version),
            kind: text(&reference.kind),
            namespace: text(&reference.namespace),
            name: text(&reference.name),
            uid: text(&reference.uid),
            revision: text(&reference.resource_version),
            field_path: text(&reference.field_path),
        }
    }
}

impl About {
    fn to_reference(&self) -> ObjectReference {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        ObjectReference {
            api_version: some(&self.api_version),
            kind: some(&self.kind),
            namespace: some(&self.namespace),
            name: some(&self.name),
            uid: some(&self.uid),
            resource_version: some(&self.revision),
            field_path: some(&self.field_path),
        }
    }
}

/// A map that forgets the older half when it is full.
struct Remembered<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq, V: Default> Remembered<K, V> {
    fn of(&mut self, key: K) -> &mut V {
        if self.young.len() >= REMEMBERED_MAX / 2 && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let known = self.old.remove(&key);
        let slot = self.young.entry(key);
        slot.or_insert_with(|| known.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: &str) -> Occurrence {
        Occurrence {
            about: About::from(&ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("d".into()),
                name: Some("p".into()),
                ..ObjectReference::default()
            }),
            kind: "Normal",
            reason: "Killing".into(),
            message: message.into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn the_same_event_again_raises_the_count_of_the_first() {
        let mut correlator = Correlator::new("kubelet", "n1");
        let Verdict::New(first) = correlator.observe(told("x"), at(0)) else {
            panic!("new");
        };
        let Verdict::Again(second) = correlator.observe(told("x"), at(5)) else {
            panic!("again");
        };
        assert_eq!(second.metadata.name, first.metadata.name);
        assert_eq!(second.count, Some(2));
        assert_eq!(second.first_timestamp, first.first_timestamp);
        assert_eq!(second.last_timestamp, Some(Time(at(5))));
        assert!(matches!(
            correlator.observe(told("y"), at(5)),
            Verdict::New(_)
        ));
    }

    #[test]
    fn many_similar_events_become_one_and_spam_is_dropped() {
        let mut correlator = Correlator::new("kubelet", "n1");
        let mut combined = Vec::new();
        let mut spam = 0;
        for i in 0..30 {
            match correlator.observe(told(&format!("m{i}")), at(i)) {
                Verdict::Spam => spam += 1,
                Verdict::New(event) | Verdict::Again(event) => combined.push(event),
            }
        }
        assert_eq!((combined.len(), spam), (25, 5));
        assert_eq!(combined[9].message.as_deref(), Some("m9"));
        let last = &combined[24];
        let text = "(combined from similar events): m24";
        assert_eq!(last.message.as_deref(), Some(text));
        assert_eq!(last.count, Some(15));
        let later = at(29 + 300);
        assert!(!matches!(
            correlator.observe(told("z"), later),
            Verdict::Spam
        ));
    }
}
