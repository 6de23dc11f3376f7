//! `update`, and the loop that every change of a stored object goes through: read, change, check,
//! write if nobody else wrote meanwhile, else again.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::api::object::Object;
use crate::api::options::WriteOptions;
use crate::api::status::{ApiError, FieldError};
use crate::client::Body;
use crate::server::admission::{Attributes, Operation};
use crate::server::storage::codec;
use crate::store::{KeyValue, Revision};

use super::call::{Call, read_body};
use super::part::Part;
use super::read::Stored;
use super::write::{Target, Written, unwritten};
use super::{Core, create, errors, prepare, render};

/// Others may win so often before a change is given up: one of them wins each time, so this is
/// many clients writing one object at once.
const TRIES: usize = 100;

/// Kinds that an update makes where they are not there (`AllowCreateOnUpdate`).
const CREATED_BY_UPDATE: &[&str] = &["leases.coordination.k8s.io", "events", "endpoints"];
/// Kinds whose updates must say which version they are based on (`!AllowUnconditionalUpdate`).
const NEVER_UNCONDITIONAL: &[&str] = &["leases.coordination.k8s.io", "serviceaccounts"];

/// Makes the new view of what is stored of the old one.
pub(super) type Make<'a> = dyn Fn(&Object) -> Result<Object, ApiError> + Send + Sync + 'a;

/// A change of a stored object.
pub(super) struct Change<'a> {
    pub(super) part: Part,
    /// As managed fields and plugins name it.
    pub(super) subresource: &'a str,
    /// Whom the changed fields belong to; `None` where `make` does those books itself.
    pub(super) manager: Option<&'a str>,
    pub(super) dry_run: bool,
    pub(super) make: &'a Make<'a>,
}

pub(super) async fn update(
    core: &Core,
    call: &Call,
    part: Part,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::for_update(&call.query)?;
    let body = read_body(body).await?;
    let mut sent = match part {
        Part::Scale => call.decode_as(&body, part.ty(&call.def)?, &options)?,
        _ => call.decode(&body, &options)?,
    };
    prepare::check_name(call, &sent)?;
    prepare::place(call, &mut sent)?;
    let manager = call.manager(&options);
    let change = Change {
        part,
        subresource: &call.info.subresource,
        manager: Some(&manager),
        dry_run: options.dry_run,
        make: &|_| Ok(sent.clone()),
    };
    let is_unconditional = part == Part::Main
        && sent.resource_version().is_empty()
        && NEVER_UNCONDITIONAL.contains(&call.def.storage.as_str());
    if is_unconditional && core.stored(&call.def, &call.local_key()).await?.is_some() {
        return Err(unconditional(call));
    }
    if let Some(written) = carry_out(core, call, &change).await? {
        return respond(core, call, part, (StatusCode::OK, &written)).await;
    }
    if part != Part::Main || !may_create(core, call, &sent) {
        return Err(errors::not_found(&call.def, &call.info.name));
    }
    call.def.rules.default(&mut sent);
    let made = create::make(core, call, sent, (Some(&manager), options.dry_run)).await?;
    respond(core, call, part, (StatusCode::CREATED, &made)).await
}

/// Whether an update may make the object: the kind allows it, and the user may create.
fn may_create(core: &Core, call: &Call, sent: &Object) -> bool {
    CREATED_BY_UPDATE.contains(&call.def.storage.as_str())
        && sent.resource_version().is_empty()
        && core.may_create(call).is_ok()
}

fn unconditional(call: &Call) -> ApiError {
    let error = FieldError::invalid(
        "metadata.resourceVersion",
        &0.into(),
        "must be specified for an update",
    );
    let gvr = &call.def.gvr;
    ApiError::invalid(&gvr.group, &gvr.resource, &call.info.name, &[error])
}

/// The answer to a change: the stored object, or the part of it the path shows.
pub(super) async fn respond(
    core: &Core,
    call: &Call,
    part: Part,
    (status, stored): (StatusCode, &Bytes),
) -> Result<Response<Body>, ApiError> {
    let renderer = call.renderer(core);
    let stored = core.converter.served(&call.def, stored.clone()).await?;
    if part != Part::Scale {
        return Ok(renderer.respond(status, renderer.object(&stored)?));
    }
    let object = codec::parse(&stored).map_err(ApiError::internal)?;
    let scale = part.view(&call.def, &object).into_owned().into_value();
    let json = serde_json::to_vec(&scale).map_err(ApiError::internal)?;
    let body = render::encode(json.into(), renderer.output.encoding)?;
    Ok(renderer.respond(status, body))
}

/// Changes the object of the path; `None` where there is none. The answer is the stored object.
pub(super) async fn carry_out(
    core: &Core,
    call: &Call,
    change: &Change<'_>,
) -> Result<Option<Bytes>, ApiError> {
    let def = &call.def;
    let key = call.local_key();
    let name = &call.info.name;
    let Some(mut stored) = core.stored(def, &key).await? else {
        return Ok(None);
    };
    let target = Target {
        def,
        key: &key,
        name,
    };
    for _ in 0..TRIES {
        match attempt(core, call, change, (target, &stored)).await? {
            Written::Done(bytes) => return Ok(Some(bytes)),
            Written::Again => {}
            Written::Lost(None) => return Ok(None),
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

pub(super) fn read_again(target: Target<'_>, current: &KeyValue) -> Result<Stored, ApiError> {
    let revision = current.modified;
    let object = codec::decode(&current.value, revision);
    let object = object.map_err(|e| errors::storage(e, target.def, target.name))?;
    Ok(Stored { object, revision })
}

async fn attempt(
    core: &Core,
    call: &Call,
    change: &Change<'_>,
    (target, stored): (Target<'_>, &Stored),
) -> Result<Written, ApiError> {
    let def = &call.def;
    let old = versioned(core, call, stored).await?;
    let made = (change.make)(&change.part.view(def, &old))?;
    let mut new = change.part.merge(def, made, &old);
    def.rules.default(&mut new);
    prepare::inherit(def, &mut new, &old)?;
    change.part.prepare(def, &mut new, &old);
    prepare::count_generation(def, &mut new, &old);
    if let Some(manager) = change.manager {
        let writer = (manager, change.subresource, core.clock.now());
        prepare::track(def, Some(&old), &mut new, writer)?;
    }
    let attributes = Attributes {
        subresource: change.subresource,
        old: Some(&old),
        dry_run: change.dry_run,
        ..call.attributes(Operation::Update, target.name)
    };
    core.admission.mutate(&attributes, &mut new).await?;
    let reservation = match change.part {
        Part::Main => core.reserve(def, Some(&mut new), Some(&old))?,
        _ => None,
    };
    let wrong = change.part.validate(def, &new, &old);
    if !wrong.is_empty() {
        let error = ApiError::invalid(&def.gvk.group, &def.gvk.kind, target.name, &wrong);
        return Err(error);
    }
    core.admission.validate(&attributes, Some(&new)).await?;
    if new == *old || change.dry_run {
        return unwritten(def, &new).map(Written::Done);
    }
    if is_last_update(def.storage.as_str(), &new, &old) {
        drop(reservation);
        return finish(core, (target, &old), &new, stored.revision).await;
    }
    let written = core.replace(target, &new, stored.revision, reservation);
    let written = written.await;
    if !matches!(written, Ok(Written::Done(_))) {
        core.admission.undo(&attributes, &new).await;
    }
    written
}

/// The stored object in the version of the request.
async fn versioned<'a>(
    core: &Core,
    call: &Call,
    stored: &'a Stored,
) -> Result<Cow<'a, Object>, ApiError> {
    if !call.def.is_converted() {
        return Ok(Cow::Borrowed(&stored.object));
    }
    let mut object = core
        .converter
        .to_served(&call.def, stored.object.clone())
        .await?;
    render::from_stored(&call.def, &mut object);
    Ok(Cow::Owned(object))
}

/// Whether the update takes away the last thing that kept a deleted object
/// (`registry.ShouldDeleteDuringUpdate`).
fn is_last_update(storage: &str, new: &Object, old: &Object) -> bool {
    let is_empty = |path: &[&str]| {
        let list = new.at(path).and_then(Value::as_array);
        list.is_none_or(Vec::is_empty)
    };
    let grace = old.at(&["metadata", "deletionGracePeriodSeconds"]);
    old.is_terminating()
        && grace.and_then(Value::as_i64).unwrap_or(0) == 0
        && is_empty(&["metadata", "finalizers"])
        && (storage != "namespaces" || is_empty(&["spec", "finalizers"]))
}

/// Removes instead of writing; the answer is the object as it would have been written.
async fn finish(
    core: &Core,
    (target, old): (Target<'_>, &Object),
    new: &Object,
    revision: Revision,
) -> Result<Written, ApiError> {
    let reservation = core.reserve(target.def, None, Some(old))?;
    Ok(match core.remove(target, revision, reservation).await? {
        Written::Done(_) => Written::Done(unwritten(target.def, new)?),
        lost => lost,
    })
}
