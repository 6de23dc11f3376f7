//! Which part of an object a path writes, and what such a write keeps of the rest.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::api::kinds::certificates;
use crate::api::object::{Object, child_mut};
use crate::api::schema::TypeRef;
use crate::api::selector::label;
use crate::api::status::{ApiError, FieldError};
use crate::api::validation::meta;
use crate::server::registry::ResourceDef;

use super::call::{named_type, type_of};

/// A path below an object that is read, updated and patched like the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The object itself.
    Main,
    Status,
    /// `spec.replicas`, seen as an `autoscaling/v1 Scale`.
    Scale,
    /// The same, where what is made is the whole object: server-side apply, which has to see who
    /// owns the field in it.
    ScaleOfWhole,
    /// Whether a CertificateSigningRequest is approved.
    Approval,
    /// `spec.finalizers` of a Namespace.
    Finalize,
    /// `spec.ephemeralContainers` of a Pod.
    EphemeralContainers,
    /// Resources of a Pod's containers.
    Resize,
    /// The server's own write (binding): nothing is kept, nothing is checked.
    Whole,
}

impl Part {
    /// `None`: the subresource is not of this sort.
    pub(super) fn of(subresource: &str) -> Option<Self> {
        Some(match subresource {
            "" => Part::Main,
            "status" => Part::Status,
            "scale" => Part::Scale,
            "approval" => Part::Approval,
            "finalize" => Part::Finalize,
            "ephemeralcontainers" => Part::EphemeralContainers,
            "resize" => Part::Resize,
            _ => return None,
        })
    }

    /// The type of the bodies.
    pub(super) fn ty(self, def: &ResourceDef) -> Result<TypeRef<'static>, ApiError> {
        match self {
            Part::Scale | Part::ScaleOfWhole => named_type("autoscaling.v1.Scale"),
            _ => type_of(def),
        }
    }

    /// What a client sees at the path.
    pub(super) fn view(self, object: &Object) -> Cow<'_, Object> {
        match self {
            Part::Scale => Cow::Owned(scale_of(object)),
            _ => Cow::Borrowed(object),
        }
    }

    /// The whole object after a client made `new` of what it saw.
    pub(super) fn merge(self, new: Object, old: &Object) -> Object {
        if self != Part::Scale {
            return new;
        }
        let mut object = old.clone();
        let replicas = new.at(&["spec", "replicas"]).cloned();
        child_mut(&mut object.0, "spec").insert("replicas".into(), replicas.unwrap_or(json!(0)));
        let version = new.resource_version();
        let uid = new.uid();
        let meta = object.metadata_mut();
        meta.insert("resourceVersion".into(), version.into());
        meta.insert("uid".into(), uid.into());
        object
    }

    /// Puts back what the path may not change.
    pub(super) fn prepare(self, def: &ResourceDef, new: &mut Object, old: &Object) {
        let kind = def.rules.kind();
        match self {
            Part::Main | Part::Scale | Part::ScaleOfWhole => (kind.prepare_update)(new, old),
            Part::Status => (kind.prepare_status)(new, old),
            Part::Approval => certificates::only_conditions(new, old),
            Part::Finalize => {
                let finalizers = new.at(&["spec", "finalizers"]).cloned();
                let labels = new.metadata().cloned().unwrap_or_default();
                *new = old.clone();
                *new.metadata_mut() = labels;
                let spec = child_mut(&mut new.0, "spec");
                match finalizers {
                    Some(finalizers) => spec.insert("finalizers".into(), finalizers),
                    None => spec.remove("finalizers"),
                };
            }
            Part::EphemeralContainers => {
                let added = new.at(&["spec", "ephemeralContainers"]).cloned();
                restore(new, old);
                if let Some(added) = added {
                    child_mut(&mut new.0, "spec").insert("ephemeralContainers".into(), added);
                }
            }
            Part::Resize => {
                let wanted = new.clone();
                restore(new, old);
                resize(new, &wanted);
            }
            Part::Whole => {}
        }
    }

    /// All that is wrong with the change.
    pub(super) fn validate(self, def: &ResourceDef, new: &Object, old: &Object) -> Vec<FieldError> {
        let kind = def.rules.kind();
        let mut wrong = match self {
            Part::Whole => return Vec::new(),
            _ => meta::validate_update(new, old),
        };
        match self {
            Part::Main => wrong.extend((kind.validate_update)(new, old)),
            Part::Scale | Part::ScaleOfWhole => {
                wrong.extend(wrong_replicas(new));
                wrong.extend((kind.validate_update)(new, old));
            }
            Part::Status => wrong.extend((kind.validate_status)(new, old)),
            Part::Approval => wrong.extend(certificates::conditions(new, old)),
            Part::EphemeralContainers => wrong.extend(wrong_ephemeral(new, old)),
            Part::Resize => wrong.extend((kind.validate)(new)),
            Part::Finalize | Part::Whole => {}
        }
        wrong
    }
}

/// Everything but the metadata as it was.
fn restore(new: &mut Object, old: &Object) {
    let meta = new.0.remove("metadata");
    *new = old.clone();
    if let Some(meta) = meta {
        new.0.insert("metadata".into(), meta);
    }
}

fn resize(pod: &mut Object, wanted: &Object) {
    let spec = child_mut(&mut pod.0, "spec");
    for list in ["containers", "initContainers"] {
        let wanted = wanted.at(&["spec", list]).and_then(Value::as_array);
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let same = |other: &&Value| other["name"] == container["name"];
            let Some(wanted) = wanted.and_then(|list| list.iter().find(same)) else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = wanted.get(field) {
                    container[field] = value.clone();
                }
            }
        }
    }
}

fn wrong_replicas(object: &Object) -> Option<FieldError> {
    let replicas = object.at(&["spec", "replicas"])?;
    let why = "must be greater than or equal to 0";
    let is_negative = replicas.as_i64().is_some_and(|count| count < 0);
    is_negative.then(|| FieldError::invalid("spec.replicas", replicas, why))
}

/// Ephemeral containers are added and never change.
fn wrong_ephemeral(new: &Object, old: &Object) -> Vec<FieldError> {
    const PATH: &str = "spec.ephemeralContainers";
    let list = |pod: &Object| {
        let list = pod.at(&["spec", "ephemeralContainers"]);
        list.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let (new, old) = (list(new), list(old));
    let mut wrong = Vec::new();
    for before in &old {
        let name = before["name"].as_str().unwrap_or_default();
        let why = match new.iter().find(|now| now["name"] == before["name"]) {
            None => format!("existing ephemeral containers \"{name}\" may not be removed"),
            Some(now) if now != before => {
                format!("existing ephemeral containers \"{name}\" may not be changed")
            }
            Some(_) => continue,
        };
        wrong.push(FieldError::forbidden(PATH, &why));
    }
    for (at, container) in new.iter().enumerate() {
        let path = format!("{PATH}[{at}]");
        let text = |field: &str| container[field].as_str().unwrap_or_default();
        if text("name").is_empty() {
            wrong.push(FieldError::required(format!("{path}.name"), ""));
        }
        if text("image").is_empty() {
            wrong.push(FieldError::required(format!("{path}.image"), ""));
        }
    }
    wrong
}

/// The object as a `Scale`.
fn scale_of(object: &Object) -> Object {
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
    let mut status = json!({"replicas": number(&["status", "replicas"])});
    if let Some(selector) = object.at(&["spec", "selector"]) {
        status["selector"] = selector_text(selector).into();
    }
    let scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": number(&["spec", "replicas"])}, "status": status,
    });
    Object::from_value(scale).unwrap_or_default()
}

/// A selector as a query string has it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_and_changes_the_replicas() {
        let object = Object::from_value(json!({
            "metadata": {"name": "web", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "paused": true},
            "status": {"replicas": 1},
        }))
        .unwrap();
        let mut scale = Part::Scale.view(&object).into_owned();
        assert_eq!(scale.text_at(&["status", "selector"]), "app=web");
        assert_eq!(scale.at(&["metadata", "labels"]), None);
        scale.0["spec"]["replicas"] = 5.into();
        let scaled = Part::Scale.merge(scale, &object);
        assert_eq!(scaled.0["spec"]["replicas"], 5);
        assert_eq!(scaled.0["spec"]["paused"], true);
        assert_eq!(scaled.resource_version(), "7");
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let pod = |list: Value| {
            Object::from_value(json!({"spec": {"ephemeralContainers": list}})).unwrap()
        };
        let old = pod(json!([{"name": "a", "image": "x"}]));
        let more = pod(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]));
        assert!(wrong_ephemeral(&more, &old).is_empty());
        assert_eq!(wrong_ephemeral(&pod(json!([])), &old).len(), 1);
        assert_eq!(
            wrong_ephemeral(&pod(json!([{"name": "a", "image": "z"}])), &old).len(),
            1
        );
    }
}
