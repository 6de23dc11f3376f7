//! What the server does to the metadata of an object before it is checked and written: names,
//! what clients may not set, what an update keeps (`k8s.io/apiserver/pkg/registry/rest`).

use jiff::Timestamp;
use serde_json::Value;

use crate::api::object::{Object, child_mut};
use crate::api::status::ApiError;
use crate::api::{apply, time};
use crate::server::registry::ResourceDef;
use crate::server::request::User;
use crate::util::rng::Rng;

use super::call::{Call, type_of};
use super::errors;

/// Characters a generated name has beyond its prefix.
const SUFFIX_LEN: usize = 5;
/// Longest prefix that is kept of a `generateName`.
const PREFIX_BYTES_MAX: usize = 63 - SUFFIX_LEN;

/// Makes the object's namespace that of the request, or refuses it.
pub(super) fn place(call: &Call, object: &mut Object) -> Result<(), ApiError> {
    let asked = call.namespace();
    let said = object.namespace();
    if said == asked {
        return Ok(());
    }
    if asked.is_empty() {
        object.metadata_mut().remove("namespace");
        return Ok(());
    }
    if !said.is_empty() {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let asked = asked.to_owned();
    object
        .metadata_mut()
        .insert("namespace".into(), asked.into());
    Ok(())
}

/// Refuses an update whose object has another name or place than the path says.
pub(super) fn check_name(call: &Call, object: &Object) -> Result<(), ApiError> {
    let (name, said) = (call.info.name.as_str(), object.name());
    if said.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if said != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )));
    }
    let (namespace, said) = (call.namespace(), object.namespace());
    if !namespace.is_empty() && !said.is_empty() && said != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({said}) does not match the namespace on the request \
             ({namespace})"
        )));
    }
    Ok(())
}

/// Sets and clears what a new object does not bring along.
pub(super) fn new_object(
    def: &ResourceDef,
    object: &mut Object,
    now: Timestamp,
    rng: &Rng,
) -> Result<(), ApiError> {
    if !matches!(object.resource_version(), "" | "0") {
        return Err(ApiError::plain(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let meta = object.metadata_mut();
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        meta.remove(field);
    }
    drop_empty(meta);
    meta.insert("uid".into(), rng.uid().into());
    meta.insert("creationTimestamp".into(), time::seconds(now).into());
    def.rules.prepare_create(object);
    if def.rules.has_generation() {
        object.metadata_mut().insert("generation".into(), 1.into());
    }
    Ok(())
}

/// Folder of the requests for certificates.
pub(super) const SIGNING_REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";

/// Who asks for a certificate is who makes the request, whatever the request says: signers trust
/// these fields.
pub(super) fn record_requestor(request: &mut Object, user: &User) {
    let spec = child_mut(&mut request.0, "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".into(), user.name.clone().into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra = user.extra.iter();
        let extra = extra.map(|(key, values)| (key.clone(), Value::from(values.clone())));
        spec.insert("extra".into(), extra.collect());
    }
}

/// A name for an object that only has a `generateName`; `None` where it needs none.
pub(super) fn generated_name(object: &Object, rng: &Rng) -> Option<String> {
    let prefix = object.meta("generateName");
    if prefix.is_empty() || !object.name().is_empty() {
        return None;
    }
    let mut end = prefix.len().min(PREFIX_BYTES_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    Some(format!("{}{}", &prefix[..end], rng.suffix(SUFFIX_LEN)))
}

/// Puts what an update leaves out of the server's own fields back, and refuses one that is meant
/// for another object or another version of it.
pub(super) fn inherit(def: &ResourceDef, new: &mut Object, old: &Object) -> Result<(), ApiError> {
    let conflict =
        |why: &str| ApiError::conflict(&def.gvr.group, &def.gvr.resource, old.name(), why);
    if !new.uid().is_empty() && new.uid() != old.uid() {
        return Err(conflict(&format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            new.uid(),
            old.uid()
        )));
    }
    let version = new.resource_version();
    if !matches!(version, "" | "0") && version != old.resource_version() {
        return Err(conflict(errors::MODIFIED));
    }
    let meta = new.metadata_mut();
    meta.remove("selfLink");
    drop_empty(meta);
    for field in ["uid", "creationTimestamp", "resourceVersion", "namespace"] {
        put_back(meta, old, field);
    }
    if old.is_terminating() {
        put_back(meta, old, "deletionTimestamp");
        put_back(meta, old, "deletionGracePeriodSeconds");
    }
    Ok(())
}

/// Lists and maps of metadata without members are as good as absent, and upstream leaves them out.
fn drop_empty(meta: &mut serde_json::Map<String, Value>) {
    for field in ["annotations", "finalizers", "labels", "ownerReferences"] {
        let is_empty = match meta.get(field) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if is_empty {
            meta.remove(field);
        }
    }
}

fn put_back(meta: &mut serde_json::Map<String, Value>, old: &Object, field: &str) {
    match old.metadata().and_then(|old| old.get(field)) {
        Some(value) => meta.insert(field.to_owned(), value.clone()),
        None => meta.remove(field),
    };
}

/// Counts the changes of what is wanted: everything but `metadata` and `status`.
pub(super) fn count_generation(def: &ResourceDef, new: &mut Object, old: &Object) {
    if !def.rules.has_generation() {
        return;
    }
    let generation = |object: &Object| {
        let generation = object.at(&["metadata", "generation"]);
        generation.and_then(Value::as_i64).unwrap_or(0)
    };
    let step = i64::from(def.rules.is_new_generation(new, old));
    let now = generation(old) + step;
    let meta = new.metadata_mut();
    if now > 0 {
        meta.insert("generation".into(), now.into());
    } else {
        meta.remove("generation");
    }
}

/// The books of who wrote which field.
pub(super) fn track(
    def: &ResourceDef,
    old: Option<&Object>,
    new: &mut Object,
    writer: (&str, &str, Timestamp),
) -> Result<(), ApiError> {
    let writer = writer_of(def, writer)?;
    apply::track_update(old, new, &writer);
    Ok(())
}

/// Manager, subresource and time, as the books want them.
pub(super) fn writer_of<'a>(
    def: &'a ResourceDef,
    (manager, subresource, now): (&'a str, &'a str, Timestamp),
) -> Result<apply::Writer<'a>, ApiError> {
    Ok(apply::Writer {
        manager,
        subresource,
        now,
        schema: type_of(def)?,
        reset: apply::Reset::of(def.subresource("status").is_some(), subresource),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(name: &str, prefix: &str) -> Object {
        Object::from_value(json!({"metadata": {"name": name, "generateName": prefix}})).unwrap()
    }

    #[test]
    fn nobody_asks_for_a_certificate_in_the_name_of_another() {
        let spec = serde_json::json!({"username": "admin", "extra": {"a": ["b"]}, "request": ""});
        let request = serde_json::json!({"spec": spec});
        let mut request = Object::from_value(request).unwrap();
        let user = User {
            name: "jane".to_owned(),
            uid: String::new(),
            groups: vec!["dev".to_owned()],
            extra: std::collections::BTreeMap::new(),
        };
        record_requestor(&mut request, &user);
        assert_eq!(
            *request.field("spec"),
            serde_json::json!({"username": "jane", "groups": ["dev"], "request": ""})
        );
    }

    #[test]
    fn metadata_without_members_is_left_out() {
        let mut meta = serde_json::Map::new();
        meta.insert("finalizers".into(), json!([]));
        meta.insert("labels".into(), json!({"a": "b"}));
        meta.insert("annotations".into(), json!({}));
        drop_empty(&mut meta);
        assert_eq!(Value::Object(meta), json!({"labels": {"a": "b"}}));
    }

    #[test]
    fn names_are_generated_only_where_there_is_none() {
        let rng = Rng::seeded(1);
        assert_eq!(generated_name(&named("a", "b-"), &rng), None);
        assert_eq!(generated_name(&named("", ""), &rng), None);
        let name = generated_name(&named("", "web-"), &rng).unwrap();
        assert!(name.starts_with("web-") && name.len() == 9);
        let long = generated_name(&named("", &"ü".repeat(80)), &rng).unwrap();
        assert_eq!(long.chars().count(), 29 + SUFFIX_LEN);
    }
}
