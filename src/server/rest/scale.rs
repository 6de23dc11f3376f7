//! An object seen as an `autoscaling/v1 Scale`: where its replicas and selector are.

use serde_json::{Map, Value, json};

use crate::api::custom::ScalePaths;
use crate::api::object::{Object, child_mut};
use crate::api::selector::label;
use crate::api::status::FieldError;
use crate::server::registry::ResourceDef;

const SPEC: [&str; 2] = ["spec", "replicas"];
const STATUS: [&str; 2] = ["status", "replicas"];

/// The paths of a custom object's scale; built-in kinds have theirs at the usual places.
fn paths(def: &ResourceDef) -> Option<&ScalePaths> {
    def.rules.custom()?.scale.as_ref()
}

fn texts(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

fn spec_path(def: &ResourceDef) -> Vec<&str> {
    paths(def).map_or_else(|| SPEC.to_vec(), |paths| texts(&paths.spec))
}

/// The object as a `Scale`.
pub(super) fn view(def: &ResourceDef, object: &Object) -> Object {
    let mut meta = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object.at(&["metadata", field]) {
            meta[field] = value.clone();
        }
    }
    let number = |path: &[&str]| object.at(path).cloned().unwrap_or(json!(0));
    let status_path = paths(def).map_or_else(|| STATUS.to_vec(), |paths| texts(&paths.status));
    let mut status = json!({"replicas": number(&status_path)});
    if let Some(selector) = selector(def, object) {
        status["selector"] = selector.into();
    }
    let scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": number(&spec_path(def))}, "status": status,
    });
    Object::from_value(scale).unwrap_or_default()
}

/// As a query string has it. Custom objects hold it as such a text.
fn selector(def: &ResourceDef, object: &Object) -> Option<String> {
    let Some(paths) = paths(def) else {
        return Some(selector_text(object.at(&["spec", "selector"])?));
    };
    let text = object.at(&texts(paths.selector.as_ref()?))?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn selector_text(selector: &Value) -> String {
    if let Some(labels) = plain_labels(selector) {
        return label::Selector::from_set(labels).to_string();
    }
    let parsed = label::Selector::from_label_selector(selector);
    parsed.map(|parsed| parsed.to_string()).unwrap_or_default()
}

/// The selector of a ReplicationController, which is nothing but labels.
fn plain_labels(selector: &Value) -> Option<Vec<(&str, &str)>> {
    let labels = selector.as_object().filter(|labels| !labels.is_empty())?;
    let pairs = labels.iter();
    pairs
        .map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect()
}

/// The whole object after a client made the scale `new` of what it saw.
pub(super) fn merge(def: &ResourceDef, new: &Object, old: &Object) -> Object {
    let mut object = old.clone();
    let replicas = new.at(&SPEC).cloned().unwrap_or(json!(0));
    put(&mut object.0, &spec_path(def), replicas);
    let version = new.resource_version();
    let uid = new.uid();
    let meta = object.metadata_mut();
    meta.insert("resourceVersion".into(), version.into());
    meta.insert("uid".into(), uid.into());
    object
}

fn put(map: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [field] => {
            map.insert((*field).to_owned(), value);
        }
        [field, below @ ..] => put(child_mut(map, field), below, value),
    }
}

/// Replicas are never negative.
pub(super) fn wrong_replicas(def: &ResourceDef, object: &Object) -> Option<FieldError> {
    let replicas = object.at(&spec_path(def))?;
    let why = "must be greater than or equal to 0";
    let is_negative = replicas.as_i64().is_some_and(|count| count < 0);
    is_negative.then(|| FieldError::invalid("spec.replicas", replicas, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    #[test]
    fn a_scale_shows_and_changes_the_replicas() {
        let table = Registry::builtin().snapshot();
        let def = table.find("apps", "v1", "deployments").unwrap();
        let object = Object::from_value(json!({
            "metadata": {"name": "web", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "paused": true},
            "status": {"replicas": 1},
        }))
        .unwrap();
        let mut scale = view(def, &object);
        assert_eq!(scale.text_at(&["status", "selector"]), "app=web");
        assert_eq!(scale.at(&["metadata", "labels"]), None);
        scale.0["spec"]["replicas"] = 5.into();
        let scaled = merge(def, &scale, &object);
        assert_eq!(scaled.0["spec"]["replicas"], 5);
        assert_eq!(scaled.0["spec"]["paused"], true);
        assert_eq!(scaled.resource_version(), "7");
    }
}
