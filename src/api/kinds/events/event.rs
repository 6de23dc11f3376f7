//! Event of `events.k8s.io/v1`: the same objects as the core group's, under newer field names.

use crate::api::kinds::KindDef;
use crate::api::kinds::core::event as core_event;
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    group: "events.k8s.io",
    schema: "events.v1.Event",
    fields,
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
