//! Event of the core group, which is the stored form of both groups' Events.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::time;
use crate::api::validation::Errors;
use crate::api::validation::path::Path;

pub(crate) const DEF: KindDef = KindDef {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "core.v1.Event",
    storage: "events",
    columns: COLUMNS,
    cells: row,
    fields,
    validate: |event| validate(event, "reportingComponent"),
    creates_on_update: true,
    ..KindDef::BASE
};

pub(crate) const COLUMNS: &[Column] = &[
    rows::string(
        "Last Seen",
        "The time at which the most recent occurrence of this event was recorded.",
    ),
    rows::string(
        "Type",
        "Type of this event (Normal, Warning), new types could be added in the future",
    ),
    rows::string(
        "Reason",
        "This should be a short, machine understandable string that gives the reason for the \
         transition into the object's current status.",
    ),
    rows::string("Object", "The object that this event is about."),
    rows::wide(
        "Subobject",
        "The part of the object that this event is about.",
    ),
    rows::wide(
        "Source",
        "The component reporting this event. Should be a short machine understandable string.",
    ),
    rows::string(
        "Message",
        "A human-readable description of the status of this operation.",
    ),
    rows::wide(
        "First Seen",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    rows::wide("Count", "The number of times this event has occurred."),
    Column {
        priority: 1,
        format: "",
        ..rows::NAME
    },
];

/// Cells of an Event of either group.
pub(crate) fn row(event: &Object, now: Timestamp) -> Vec<Value> {
    let event = Event(event);
    let first = match event.of("firstTimestamp") {
        Value::Null => time::age(event.of("eventTime"), now),
        at => time::age(at, now),
    };
    let mut last = match event.of("lastTimestamp") {
        Value::Null => first.clone(),
        at => time::age(at, now),
    };
    let mut count = event.of("count").as_i64().filter(|n| *n != 0).unwrap_or(1);
    let series = event.of("series");
    if series.is_object() {
        last = time::age(&series["lastObservedTime"], now);
        count = series["count"].as_i64().unwrap_or(0);
    }
    let about = event.of("involvedObject");
    vec![
        last.into(),
        event.text("type").into(),
        event.text("reason").into(),
        target(about).into(),
        text(&about["fieldPath"]).into(),
        event.source_text().into(),
        event.text("message").trim().into(),
        first.into(),
        count.into(),
        event.0.name().into(),
    ]
}

/// An Event of either group, read by the core group's field names.
struct Event<'a>(&'a Object);

impl<'a> Event<'a> {
    fn of(&self, field: &str) -> &'a Value {
        match self.0.field(field) {
            Value::Null => self.0.field(other_name(field)),
            value => value,
        }
    }

    fn text(&self, field: &str) -> &'a str {
        text(self.of(field))
    }

    fn source_text(&self) -> Cow<'a, str> {
        let source = self.of("source");
        let or = |value: &'a Value, field: &str| match text(value) {
            "" => self.text(field),
            some => some,
        };
        let component = or(&source["component"], "reportingComponent");
        match or(&source["host"], "reportingInstance") {
            "" => component.into(),
            instance => format!("{component}, {instance}").into(),
        }
    }
}

/// The name in `events.k8s.io/v1` of a field of the core group's Event.
pub(crate) fn other_name(core: &str) -> &str {
    RENAMED
        .iter()
        .find(|(name, _)| *name == core)
        .map_or(core, |(_, other)| other)
}

/// Fields that the two groups name differently: core, `events.k8s.io`.
pub(crate) const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn target(about: &Value) -> String {
    let kind = text(&about["kind"]).to_lowercase();
    match text(&about["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn fields(event: &Object) -> Vec<(&'static str, String)> {
    values(event)
        .into_iter()
        .map(|(core, _, value)| (core, value))
        .collect()
}

/// Selectable fields as the core group and as `events.k8s.io` name them, with their value.
pub(crate) fn values(event: &Object) -> Vec<(&'static str, &'static str, String)> {
    let event = Event(event);
    let about = event.of("involvedObject");
    let controller = event.text("reportingComponent");
    let source = match text(&event.of("source")["component"]) {
        "" => controller,
        component => component,
    };
    let mut values: Vec<_> = ABOUT
        .iter()
        .map(|(field, core, other)| (*core, *other, text(&about[*field]).to_owned()))
        .collect();
    values.extend([
        ("reason", "reason", event.text("reason").to_owned()),
        (
            "reportingComponent",
            "reportingController",
            controller.to_owned(),
        ),
        ("source", "source", source.to_owned()),
        ("type", "type", event.text("type").to_owned()),
    ]);
    values
}

const ABOUT: [(&str, &str, &str); 7] = [
    ("kind", "involvedObject.kind", "regarding.kind"),
    (
        "namespace",
        "involvedObject.namespace",
        "regarding.namespace",
    ),
    ("name", "involvedObject.name", "regarding.name"),
    ("uid", "involvedObject.uid", "regarding.uid"),
    (
        "apiVersion",
        "involvedObject.apiVersion",
        "regarding.apiVersion",
    ),
    (
        "resourceVersion",
        "involvedObject.resourceVersion",
        "regarding.resourceVersion",
    ),
    (
        "fieldPath",
        "involvedObject.fieldPath",
        "regarding.fieldPath",
    ),
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What an Event of either group must have (`legacyValidateEvent`); `controller` is what the
/// group calls the reporting component.
pub(crate) fn validate(object: &Object, controller: &str) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let event = Event(object);
    let about = event.of("involvedObject");
    let (namespace, own) = (text(&about["namespace"]), object.namespace());
    let is_new = !event.of("eventTime").is_null();
    let agrees = match namespace {
        "" if is_new => matches!(own, "default" | "kube-system"),
        "" => matches!(own, "" | "default"),
        namespace => is_new || namespace == own,
    };
    if !agrees {
        let path = Path::root("involvedObject.namespace");
        errors.invalid(&path, namespace, "does not match event.namespace");
    }
    if !is_new {
        return errors.into_vec();
    }
    let reporting = event.text("reportingComponent");
    if reporting.is_empty() {
        errors.required(&Path::root(controller), "");
    }
    let wrong = name::qualified_name(reporting);
    errors.invalid_each(&Path::root(controller), reporting, wrong);
    for field in ["reportingInstance", "action", "reason"] {
        match event.text(field) {
            "" => errors.required(&Path::root(field), ""),
            value if value.len() > 128 => {
                errors.invalid(&Path::root(field), "", "can have at most 128 characters");
            }
            _ => {}
        }
    }
    if event.text("message").len() > 1024 {
        errors.invalid(
            &Path::root("message"),
            "",
            "can have at most 1024 characters",
        );
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_reads_both_forms() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let event = Object::from_value(json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Pulled", "message": " hello\n",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"},
            "source": {"component": "kubelet", "host": "n"}, "count": 3,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:50Z",
        }))
        .unwrap();
        let expected = json!([
            "10s",
            "Normal",
            "Pulled",
            "pod/p",
            "f",
            "kubelet, n",
            "hello",
            "60s",
            3,
            "e"
        ]);
        assert_eq!(Value::from(row(&event, now)), expected);
        let event = Object::from_value(json!({
            "metadata": {"name": "e"}, "type": "Warning", "reason": "R", "note": "n",
            "regarding": {"kind": "Node", "name": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "c", "reportingInstance": "i",
            "series": {"count": 7, "lastObservedTime": "2026-01-01T00:00:59.000000Z"},
        }))
        .unwrap();
        let expected = json!([
            "1s", "Warning", "R", "node/a", "", "c, i", "n", "60s", 7, "e"
        ]);
        assert_eq!(Value::from(row(&event, now)), expected);
    }

    #[test]
    fn old_events_live_beside_what_they_are_about() {
        let event = |own: &str, about: &str| {
            let event =
                json!({"metadata": {"namespace": own}, "involvedObject": {"namespace": about}});
            validate(&Object::from_value(event).unwrap(), "reportingComponent")
        };
        assert!(event("a", "a").is_empty() && event("default", "").is_empty());
        assert_eq!(
            event("a", "b")[0].to_string(),
            "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"
        );
        assert_eq!(event("a", "").len(), 1);
    }
}
