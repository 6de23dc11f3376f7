//! What webhooks and expressions are told of a write: the request
//! (`k8s.io/api/admission/v1.AdmissionRequest`), in the version they asked for.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::gvk::{GroupVersionKind, GroupVersionResource};
use crate::api::object::Object;
use crate::api::options::{DeleteOptions, Propagation};
use crate::server::registry::ResourceDef;

use super::{Attributes, Lookup, Operation};

/// Resource and kind a write is shown as.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The table's row.
    pub(super) def: Arc<ResourceDef>,
    /// Kind of the bodies at the path.
    pub(super) kind: GroupVersionKind,
}

impl Seen {
    /// As it was sent.
    pub(super) fn sent(attributes: &Attributes<'_>) -> Self {
        Self::of(Arc::new(attributes.def.clone()), attributes.subresource)
    }

    fn of(def: Arc<ResourceDef>, subresource: &str) -> Self {
        let sub = def.subresource(subresource);
        let kind = sub.map_or_else(|| def.gvk.clone(), |sub| sub.gvk.clone());
        Self { def, kind }
    }

    /// The other versions the same objects are served in.
    pub(super) fn equivalents(lookup: &Lookup, attributes: &Attributes<'_>) -> Vec<Self> {
        let def = attributes.def;
        if def.storage.is_empty() {
            return Vec::new();
        }
        let table = lookup.table();
        let same = table.resources().iter().filter(|other| {
            other.storage == def.storage
                && other.gvr != def.gvr
                && (attributes.subresource.is_empty()
                    || other.subresource(attributes.subresource).is_some())
        });
        same.map(|other| Self::of(Arc::clone(other), attributes.subresource))
            .collect()
    }

    /// An object that was sent, in this version.
    pub(super) fn show<'a>(
        &self,
        attributes: &Attributes<'_>,
        object: &'a Object,
    ) -> Cow<'a, Object> {
        if self.def.gvr == attributes.def.gvr {
            return Cow::Borrowed(object);
        }
        Cow::Owned(converted(object, attributes.def, &self.def))
    }

    /// An object of this version, as it was sent.
    pub(super) fn unshow(&self, attributes: &Attributes<'_>, object: Object) -> Object {
        if self.def.gvr == attributes.def.gvr {
            return object;
        }
        converted(&object, &self.def, attributes.def)
    }
}

/// A stored object in the version of `def`.
pub(super) fn from_stored(object: &Object, def: &ResourceDef) -> Object {
    let mut object = object.clone();
    if def.is_converted() {
        def.rules.from_storage(&mut object);
        name(&mut object, &def.gvk);
    }
    object
}

fn name(object: &mut Object, kind: &GroupVersionKind) {
    let version = kind.api_version();
    object.0.insert("apiVersion".into(), version.into());
    object.0.insert("kind".into(), kind.kind.as_str().into());
}

/// From one version to another by way of the stored one.
fn converted(object: &Object, from: &ResourceDef, to: &ResourceDef) -> Object {
    let mut object = object.clone();
    if from.is_converted() {
        from.rules.to_storage(&mut object);
    }
    name(&mut object, &to.stored);
    from_stored(&object, to)
}

fn kind(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource(resource: &GroupVersionResource) -> Value {
    json!({
        "group": resource.group, "version": resource.version, "resource": resource.resource,
    })
}

/// The request without `uid`, `object` and `oldObject`: what expressions get.
pub(super) fn request(attributes: &Attributes<'_>, seen: &Seen) -> Value {
    let def = attributes.def;
    let sub = def.subresource(attributes.subresource);
    let sent = sub.map_or(&def.gvk, |sub| &sub.gvk);
    let user = attributes.user;
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    let mut request = json!({
        "kind": kind(&seen.kind),
        "resource": resource(&seen.def.gvr),
        "requestKind": kind(sent),
        "requestResource": resource(&def.gvr),
        "operation": attributes.operation.name(),
        "userInfo": info,
        "dryRun": attributes.dry_run,
        "options": options(attributes),
    });
    for (field, text) in [
        ("name", attributes.name),
        ("namespace", namespace(attributes)),
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
    ] {
        if !text.is_empty() {
            request[field] = text.into();
        }
    }
    request
}

/// Requests on a Namespace are in the namespace of its name, as upstream.
pub(super) fn namespace<'a>(attributes: &Attributes<'a>) -> &'a str {
    match attributes.is_core("namespaces") {
        true => attributes.name,
        false => attributes.namespace,
    }
}

fn options(attributes: &Attributes<'_>) -> Value {
    let mut options = json!({"apiVersion": "meta.k8s.io/v1"});
    if let (Operation::Delete, Some(delete)) = (attributes.operation, attributes.delete) {
        fill_delete(&mut options, delete);
        return options;
    }
    options["kind"] = match attributes.info.verb.as_str() {
        "patch" => "PatchOptions",
        "update" => "UpdateOptions",
        _ => "CreateOptions",
    }
    .into();
    for (name, value) in form_urlencoded::parse(attributes.query.as_bytes()) {
        match &*name {
            "fieldManager" | "fieldValidation" => options[&*name] = value.into(),
            "force" => options["force"] = (value == "true" || value == "1").into(),
            "dryRun" => options["dryRun"] = json!([value]),
            _ => {}
        }
    }
    options
}

fn fill_delete(options: &mut Value, delete: &DeleteOptions) {
    options["kind"] = "DeleteOptions".into();
    if let Some(seconds) = delete.grace_period_seconds {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let propagation = delete.propagation.as_ref().map(|policy| match policy {
        Propagation::Orphan => "Orphan",
        Propagation::Background => "Background",
        Propagation::Foreground => "Foreground",
    });
    if let Some(propagation) = propagation {
        options["propagationPolicy"] = propagation.into();
    }
    let wanted = &delete.preconditions;
    for (field, value) in [
        ("uid", &wanted.uid),
        ("resourceVersion", &wanted.resource_version),
    ] {
        if let Some(value) = value {
            options["preconditions"][field] = value.as_str().into();
        }
    }
    if delete.dry_run {
        options["dryRun"] = json!(["All"]);
    }
}
