//! Event of `events.k8s.io/v1`: the same objects as the core group's, under newer field names.

use crate::api::kinds::KindDef;
use crate::api::kinds::core::event as core_event;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "events.k8s.io",
    schema: "events.v1.Event",
    fields,
    validate,
    to_storage,
    from_storage,
    ..core_event::DEF
};

fn fields(event: &Object) -> Vec<(&'static str, String)> {
    core_event::values(event)
        .into_iter()
        .map(|(_, name, value)| (name, value))
        .collect()
}

fn to_storage(event: &mut Object) {
    for (core, name) in core_event::RENAMED {
        rename(event, name, core);
    }
    event.0.insert("apiVersion".to_owned(), "v1".into());
}

fn from_storage(event: &mut Object) {
    for (core, name) in core_event::RENAMED {
        rename(event, core, name);
    }
    event
        .0
        .insert("apiVersion".to_owned(), "events.k8s.io/v1".into());
}

fn rename(event: &mut Object, from: &str, to: &str) {
    if let Some(value) = event.0.remove(from) {
        event.0.insert(to.to_owned(), value);
    }
}

/// The stricter rules of this group.
fn validate(event: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(core_event::validate(event, "reportingController"));
    let series = event.field("series");
    if series.is_object() {
        if series["count"].as_i64().unwrap_or(0) < 2 {
            errors.invalid(&Path::root("series.count"), "", "should be at least 2");
        }
        if series["lastObservedTime"].is_null() {
            errors.required(&Path::root("series.lastObservedTime"), "");
        }
    }
    if event.field("eventTime").is_null() {
        errors.required(&Path::root("eventTime"), "");
    }
    let kind = text(event.field("type"));
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(
            &Path::root("type"),
            "",
            &format!("has invalid value: {kind}"),
        );
    }
    for (field, name) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
    ] {
        if !event.field(field).is_null() {
            errors.invalid(&Path::root(name), "", "needs to be unset");
        }
    }
    let source = event.field("deprecatedSource");
    if ["component", "host"]
        .iter()
        .any(|field| !text(&source[*field]).is_empty())
    {
        errors.invalid(&Path::root("source"), "", "needs to be unset");
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_survives_the_way_to_the_store_and_back() {
        let mut event = Object::from_value(json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "hello",
            "regarding": {"kind": "Pod", "name": "a"}, "reportingController": "x",
            "deprecatedCount": 3,
        }))
        .unwrap();
        let before = event.clone();
        to_storage(&mut event);
        assert_eq!(event.text_at(&["message"]), "hello");
        assert_eq!(event.text_at(&["involvedObject", "name"]), "a");
        assert_eq!(event.api_version(), "v1");
        let name = |fields: Vec<(&'static str, String)>, label| {
            fields.into_iter().find(|(l, _)| *l == label).unwrap().1
        };
        assert_eq!(
            name((core_event::DEF.fields)(&event), "involvedObject.name"),
            "a"
        );
        assert_eq!(name(fields(&event), "regarding.name"), "a");
        from_storage(&mut event);
        assert_eq!(event, before);
    }
}
