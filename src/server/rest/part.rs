//! Which part of an object a path writes, and what such a write keeps of the rest.

use std::borrow::Cow;

use serde_json::Value;

use crate::api::kinds::certificates;
use crate::api::object::{Object, child_mut};
use crate::api::schema::TypeRef;
use crate::api::status::{ApiError, FieldError};
use crate::api::validation::meta;
use crate::server::registry::ResourceDef;

use super::call::{named_type, type_of};
use super::scale;

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
    pub(super) fn ty(self, def: &ResourceDef) -> Result<TypeRef<'_>, ApiError> {
        match self {
            Part::Scale | Part::ScaleOfWhole => named_type("autoscaling.v1.Scale"),
            _ => type_of(def),
        }
    }

    /// What a client sees at the path.
    pub(super) fn view<'o>(self, def: &ResourceDef, object: &'o Object) -> Cow<'o, Object> {
        match self {
            Part::Scale => Cow::Owned(scale::view(def, object)),
            _ => Cow::Borrowed(object),
        }
    }

    /// The whole object after a client made `new` of what it saw.
    pub(super) fn merge(self, def: &ResourceDef, new: Object, old: &Object) -> Object {
        match self {
            Part::Scale => scale::merge(def, &new, old),
            _ => new,
        }
    }

    /// Puts back what the path may not change.
    pub(super) fn prepare(self, def: &ResourceDef, new: &mut Object, old: &Object) {
        match self {
            Part::Main | Part::Scale | Part::ScaleOfWhole => def.rules.prepare_update(new, old),
            Part::Status => def.rules.prepare_status(new, old),
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
        let mut wrong = match self {
            Part::Whole => return Vec::new(),
            _ => meta::validate_update(new, old),
        };
        match self {
            Part::Main => wrong.extend(def.rules.validate_update(new, old)),
            Part::Scale | Part::ScaleOfWhole => {
                wrong.extend(scale::wrong_replicas(def, new));
                wrong.extend(def.rules.validate_update(new, old));
            }
            Part::Status => wrong.extend(def.rules.validate_status(new, old)),
            Part::Approval => wrong.extend(certificates::conditions(new, old)),
            Part::EphemeralContainers => wrong.extend(wrong_ephemeral(new, old)),
            Part::Resize => {
                let kind = def.rules.builtin().into_iter();
                wrong.extend(kind.flat_map(|kind| (kind.validate)(new)));
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
