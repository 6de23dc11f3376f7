//! `delete`: at once, after a grace period, or when the last finalizer is gone
//! (`registry.Store.Delete`, `rest.BeforeDelete`).
//!
//! What a delete does to a stored object is decided by [`plan`], which is pure.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::options::{DeleteOptions, Propagation, WriteOptions};
use crate::api::status::ApiError;
use crate::api::time;
use crate::client::Body;
use crate::server::admission::{Attributes, Operation};
use crate::server::registry::ResourceDef;
use crate::server::storage::{codec, keys};

use super::call::{Call, named_type, read_body};
use super::negotiate::{Form, Output};
use super::update::read_again;
use super::write::{Target, Written};
use super::{Core, errors, render};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const TRIES: usize = 100;
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// What holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Kinds whose deletes answer with the object (`ReturnDeletedObject`).
const ANSWERED_WITH_OBJECT: &[&str] = &[
    "pods",
    "services",
    "serviceaccounts",
    "persistentvolumes",
    "persistentvolumeclaims",
    "podtemplates",
    "resourcequotas",
];
/// Kinds whose dependents stay unless the delete says otherwise.
const ORPHANED_BY_DEFAULT: &[&str] = &["replicationcontrollers", "jobs.batch"];

/// What a delete left.
#[derive(Debug)]
pub(super) enum Deleted {
    /// Nothing; the object as it was.
    Gone(Bytes),
    /// The object, marked.
    Remains(Bytes),
}

pub(super) async fn delete(
    core: &Core,
    call: &Call,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = options(call, &read_body(body).await?)?;
    let name = call.info.name.clone();
    let deleted = remove(core, call, &name, &options).await?;
    let status = match &deleted {
        Deleted::Remains(_) if options.propagation == Some(Propagation::Foreground) => {
            StatusCode::ACCEPTED
        }
        _ => StatusCode::OK,
    };
    let renderer = call.renderer(core);
    let is_answered = ANSWERED_WITH_OBJECT.contains(&call.def.storage.as_str());
    match deleted {
        Deleted::Gone(was) if !is_answered => success(core, call, (status, &was)),
        Deleted::Gone(bytes) | Deleted::Remains(bytes) => {
            let bytes = core.converter.served(&call.def, bytes).await?;
            Ok(renderer.respond(status, renderer.object(&bytes)?))
        }
    }
}

/// `Status: Success` about the object that is gone.
fn success(
    core: &Core,
    call: &Call,
    (status, was): (StatusCode, &Bytes),
) -> Result<Response<Body>, ApiError> {
    let was = codec::parse(was).map_err(ApiError::internal)?;
    let gvr = &call.def.gvr;
    let mut details = json!({"name": was.name(), "kind": gvr.resource, "uid": was.uid()});
    if !gvr.group.is_empty() {
        details["group"] = gvr.group.as_str().into();
    }
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details,
    });
    // A Status is a Status, whatever form objects were asked for in.
    let output = Output {
        form: Form::Object,
        ..call.renderer(core).output
    };
    let json = serde_json::to_vec(&body).map_err(ApiError::internal)?;
    let body = render::encode(json.into(), output.encoding)?;
    Ok(render::respond(
        status,
        output.encoding,
        crate::client::body_from(body),
    ))
}

/// The options of a delete, from its body where there is one.
pub(super) fn options(call: &Call, body: &Bytes) -> Result<DeleteOptions, ApiError> {
    if body.is_empty() {
        return DeleteOptions::new(&call.query, None);
    }
    let ty = named_type("meta.v1.DeleteOptions")?;
    let sent = call.decode_as(body, ty, &WriteOptions::default())?;
    DeleteOptions::new(&call.query, Some(&sent.into_value()))
}

/// Deletes one object of the call's resource and namespace.
pub(super) async fn remove(
    core: &Core,
    call: &Call,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, ApiError> {
    let def = &call.def;
    let key = keys::local(call.namespace(), name);
    let target = Target {
        def,
        key: &key,
        name,
    };
    let missing = || errors::not_found(def, name);
    let mut stored = core.stored(def, &key).await?.ok_or_else(missing)?;
    for _ in 0..TRIES {
        let old = &stored.object;
        let attributes = Attributes {
            old: Some(old),
            dry_run: options.dry_run,
            delete: Some(options),
            ..call.attributes(Operation::Delete, name)
        };
        core.admission.validate(&attributes, None).await?;
        let plan = plan(def, old, options, core.clock.now())?;
        let (written, remains) = match &plan {
            Plan::Leave => (Written::Done(unwritten_stored(old)?), true),
            Plan::Mark(new) if options.dry_run => (Written::Done(unwritten_stored(new)?), true),
            Plan::Remove if options.dry_run => (Written::Done(unwritten_stored(old)?), false),
            Plan::Mark(new) => {
                let new = in_version(def, new);
                (
                    core.replace(target, &new, stored.revision, None).await?,
                    true,
                )
            }
            Plan::Remove => {
                let reservation = core.reserve(def, None, Some(old))?;
                let removed = core.remove(target, stored.revision, reservation).await?;
                (removed, false)
            }
        };
        match written {
            Written::Done(bytes) if remains => return Ok(Deleted::Remains(bytes)),
            Written::Done(_) => return Ok(Deleted::Gone(unwritten_stored(old)?)),
            Written::Again => {}
            Written::Lost(None) => return Err(missing()),
            Written::Lost(Some(current)) => stored = read_again(target, &current)?,
        }
    }
    let gvr = &def.gvr;
    Err(ApiError::conflict(
        &gvr.group,
        &gvr.resource,
        name,
        errors::MODIFIED,
    ))
}

/// A stored object as bytes to be rendered.
fn unwritten_stored(object: &Object) -> Result<Bytes, ApiError> {
    let bytes = serde_json::to_vec(&object.0);
    Ok(bytes.map_err(ApiError::internal)?.into())
}

/// Writes take objects in the version of the request.
fn in_version(def: &ResourceDef, stored: &Object) -> Object {
    let mut object = stored.clone();
    // A custom object is written back as it is.
    if def.rules.custom().is_none() {
        render::from_stored(def, &mut object);
    }
    object
}

/// What becomes of a stored object.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// It goes now.
    Remove,
    /// It is written with marks of its deletion, and goes later.
    Mark(Box<Object>),
    /// Its deletion is under way already.
    Leave,
}

fn plan(
    def: &ResourceDef,
    old: &Object,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Plan, ApiError> {
    check_preconditions(def, old, options)?;
    if def.storage == "namespaces" {
        return Ok(plan_namespace(def, old, options, now));
    }
    let mut new = old.clone();
    let grace = match grace(def, old, options) {
        Grace::Pending => return Ok(Plan::Leave),
        Grace::None => None,
        Grace::Seconds(seconds) => {
            mark(&mut new, seconds, now);
            Some(seconds)
        }
    };
    let mut finalizers = finalizers(def, old, options);
    if def.storage == DEFINITIONS && !old.is_terminating() {
        hold_definition(&mut new, &mut finalizers, now);
    }
    let is_held = !finalizers.is_empty();
    set_finalizers(&mut new, finalizers);
    if is_held && grace.is_none() {
        mark_held(&mut new, now);
    }
    Ok(match grace {
        Some(seconds) if seconds > 0 => Plan::Mark(Box::new(new)),
        _ if is_held && new == *old => Plan::Leave,
        _ if is_held => Plan::Mark(Box::new(new)),
        _ => Plan::Remove,
    })
}

/// A definition stays until its objects are gone.
fn hold_definition(new: &mut Object, finalizers: &mut Vec<String>, now: Timestamp) {
    if !finalizers.iter().any(|name| name == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
    let status = child_mut(&mut new.0, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Value::Array(conditions) = conditions {
        conditions.retain(|condition| condition["type"] != "Terminating");
        conditions.push(json!({
            "type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion \
                        will begin soon",
            "lastTransitionTime": time::seconds(now),
        }));
    }
}

pub(super) fn check_preconditions(
    def: &ResourceDef,
    old: &Object,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let gvr = &def.gvr;
    let conflict = |why: &str| ApiError::conflict(&gvr.group, &gvr.resource, old.name(), why);
    let wanted = &options.preconditions;
    if let Some(uid) = wanted.uid.as_deref().filter(|uid| *uid != old.uid()) {
        return Err(conflict(&format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). \
             The object might have been deleted and then recreated",
            old.uid()
        )));
    }
    let version = wanted.resource_version.as_deref();
    if let Some(version) = version.filter(|version| *version != old.resource_version()) {
        return Err(conflict(&format!(
            "the ResourceVersion in the precondition ({version}) does not match the \
             ResourceVersion in record ({}). The object might have been modified",
            old.resource_version()
        )));
    }
    Ok(())
}

/// How long the object has.
enum Grace {
    /// The kind has no grace.
    None,
    /// So long from the start of its deletion.
    Seconds(i64),
    /// It is ending already, and not later than asked for.
    Pending,
}

fn grace(def: &ResourceDef, old: &Object, options: &DeleteOptions) -> Grace {
    let Some(default) = def.rules.graceful() else {
        return Grace::None;
    };
    if old.is_terminating() {
        let current = old.at(&["metadata", "deletionGracePeriodSeconds"]);
        return match (
            current.and_then(Value::as_i64),
            options.grace_period_seconds,
        ) {
            (None, _) => Grace::None,
            (Some(current), Some(wanted)) if wanted < current => Grace::Seconds(at_least(wanted)),
            _ => Grace::Pending,
        };
    }
    let default = default(old);
    // The kind says 0 where there is nothing to end, whatever is asked for.
    Grace::Seconds(match options.grace_period_seconds {
        Some(wanted) if default != 0 => at_least(wanted),
        _ => at_least(default),
    })
}

/// Negative values mean one second, as upstream.
fn at_least(seconds: i64) -> i64 {
    if seconds < 0 { 1 } else { seconds }
}

/// Marks an object that ends `seconds` after its deletion was asked for.
fn mark(object: &mut Object, seconds: i64, now: Timestamp) {
    let before = object.at(&["metadata", "deletionGracePeriodSeconds"]);
    let before = before.and_then(Value::as_i64).unwrap_or(0);
    let start = match time::parse(object.meta("deletionTimestamp")) {
        Some(end) => end.saturating_sub(SignedDuration::from_secs(before)),
        None => Ok(now),
    };
    let start = start.unwrap_or(now);
    let end = start.saturating_add(SignedDuration::from_secs(seconds));
    let is_first = !object.is_terminating();
    let meta = object.metadata_mut();
    let end = time::seconds(end.unwrap_or(start));
    meta.insert("deletionTimestamp".into(), end.into());
    meta.insert("deletionGracePeriodSeconds".into(), seconds.into());
    if is_first {
        raise_generation(object);
    }
}

/// Marks an object of a kind without grace that finalizers hold.
fn mark_held(object: &mut Object, now: Timestamp) {
    let is_first = !object.is_terminating();
    let meta = object.metadata_mut();
    if is_first {
        meta.insert("deletionTimestamp".into(), time::seconds(now).into());
    }
    meta.insert("deletionGracePeriodSeconds".into(), 0.into());
    if is_first {
        raise_generation(object);
    }
}

fn raise_generation(object: &mut Object) {
    let generation = object.at(&["metadata", "generation"]);
    if let Some(generation) = generation.and_then(Value::as_i64).filter(|g| *g > 0) {
        let meta = object.metadata_mut();
        meta.insert("generation".into(), (generation + 1).into());
    }
}

/// The finalizers after this delete: those of garbage collection as the options, the object and
/// the kind say, in this order.
fn finalizers(def: &ResourceDef, old: &Object, options: &DeleteOptions) -> Vec<String> {
    let list = old
        .at(&["metadata", "finalizers"])
        .and_then(Value::as_array);
    let list: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let has = |name: &str| list.contains(&name);
    let (orphan, foreground) = match options.propagation {
        _ if def.storage == "events" => (false, false),
        Some(policy) => (
            policy == Propagation::Orphan,
            policy == Propagation::Foreground,
        ),
        None if has(ORPHAN) => (true, false),
        None if has(FOREGROUND) => (false, true),
        None => (ORPHANED_BY_DEFAULT.contains(&def.storage.as_str()), false),
    };
    let mut kept: Vec<String> = list
        .iter()
        .filter(|name| !matches!(**name, ORPHAN | FOREGROUND))
        .map(|name| (*name).to_owned())
        .collect();
    if orphan {
        kept.push(ORPHAN.to_owned());
    }
    if foreground {
        kept.push(FOREGROUND.to_owned());
    }
    kept
}

fn set_finalizers(object: &mut Object, finalizers: Vec<String>) {
    let meta = object.metadata_mut();
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".into(), finalizers.into());
    }
}

/// A Namespace ends when its content is gone: first it is marked, and what empties it takes away
/// `spec.finalizers` last (`pkg/registry/core/namespace/storage`).
fn plan_namespace(
    def: &ResourceDef,
    old: &Object,
    options: &DeleteOptions,
    now: Timestamp,
) -> Plan {
    if !old.is_terminating() {
        let mut new = old.clone();
        let meta = new.metadata_mut();
        meta.insert("deletionTimestamp".into(), time::seconds(now).into());
        child_mut(&mut new.0, "status").insert("phase".into(), "Terminating".into());
        let finalizers = finalizers(def, old, options);
        set_finalizers(&mut new, finalizers);
        return Plan::Mark(Box::new(new));
    }
    let is_empty = |path: &[&str]| {
        let list = old.at(path).and_then(Value::as_array);
        list.is_none_or(Vec::is_empty)
    };
    if is_empty(&["spec", "finalizers"]) && is_empty(&["metadata", "finalizers"]) {
        Plan::Remove
    } else {
        Plan::Leave
    }
}
