//! `create`: a new object, under its own name or a generated one.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::object::Object;
use crate::api::options::WriteOptions;
use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::admission::{Attributes, Operation};
use crate::server::storage::keys;

use super::call::{Call, read_body};
use super::write::{Target, Written, unwritten};
use super::{Core, prepare};

/// How often another name, address or port is tried where somebody else was quicker; names as
/// upstream.
const TRIES: usize = 8;

pub(super) async fn create(
    core: &Core,
    call: &Call,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::for_create(&call.query)?;
    let mut object = call.decode(&read_body(body).await?, &options)?;
    call.def.rules.default(&mut object);
    let manager = call.manager(&options);
    let made = make(core, call, object, (Some(&manager), options.dry_run)).await?;
    let made = core.converter.served(&call.def, made).await?;
    let renderer = call.renderer(core);
    Ok(renderer.respond(StatusCode::CREATED, renderer.object(&made)?))
}

/// Stores a decoded and defaulted object; also for updates and applies of what is not there.
/// Without a manager the object brings its `managedFields` along.
pub(super) async fn make(
    core: &Core,
    call: &Call,
    mut object: Object,
    (manager, dry_run): (Option<&str>, bool),
) -> Result<Bytes, ApiError> {
    let def = &call.def;
    prepare::place(call, &mut object)?;
    let now = core.clock.now();
    prepare::new_object(def, &mut object, now, &core.rng)?;
    if def.storage == prepare::SIGNING_REQUESTS {
        prepare::record_requestor(&mut object, &call.user);
    }
    if let Some(manager) = manager {
        prepare::track(def, None, &mut object, (manager, "", now))?;
    }
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let generated = prepare::generated_name(&object, &core.rng);
        // Only what may be tried again is copied.
        let may_clash = generated.is_some() || def.storage == "services";
        let mut candidate = match may_clash && tries > 0 {
            true => object.clone(),
            false => std::mem::take(&mut object),
        };
        let is_generated = generated.is_some();
        if let Some(name) = generated {
            candidate.metadata_mut().insert("name".into(), name.into());
        }
        match try_make(core, call, &mut candidate, dry_run).await? {
            Written::Done(bytes) => return Ok(bytes),
            Written::Again if tries > 0 => {}
            Written::Lost(_) if is_generated && tries > 0 => {}
            Written::Lost(_) if is_generated => return Err(none_free(call, &candidate)),
            Written::Again | Written::Lost(_) => return Err(taken(call, &candidate)),
        }
    }
}

async fn try_make(
    core: &Core,
    call: &Call,
    object: &mut Object,
    dry_run: bool,
) -> Result<Written, ApiError> {
    let def = &call.def;
    let name = object.name().to_owned();
    let attributes = Attributes {
        dry_run,
        ..call.attributes(Operation::Create, &name)
    };
    core.admission.mutate(&attributes, object).await?;
    let reservation = core.reserve(def, Some(object), None)?;
    validate(call, object)?;
    core.admission.validate(&attributes, Some(object)).await?;
    let key = keys::local(call.namespace(), &name);
    if dry_run {
        let there = core.fresh(def, &key).await?;
        return match there {
            Some(_) => Ok(Written::Lost(None)),
            None => unwritten(def, object).map(Written::Done),
        };
    }
    let target = Target {
        def,
        key: &key,
        name: &name,
    };
    let made = core.insert(target, object, reservation).await;
    if !matches!(made, Ok(Written::Done(_))) {
        core.admission.undo(&attributes, object).await;
    }
    made
}

fn validate(call: &Call, object: &Object) -> Result<(), ApiError> {
    let wrong = call.def.rules.validate(object);
    if wrong.is_empty() {
        return Ok(());
    }
    let name = match object.name() {
        "" => object.meta("generateName"),
        name => name,
    };
    Err(ApiError::invalid(
        &call.def.gvk.group,
        &call.def.gvk.kind,
        name,
        &wrong,
    ))
}

/// 409 after the last try of a generated name (`errors.NewGenerateNameConflict`).
fn none_free(call: &Call, object: &Object) -> ApiError {
    let error = taken(call, object);
    let mut details = error.details.clone().unwrap_or_default();
    details["retryAfterSeconds"] = 1.into();
    ApiError {
        message: format!(
            "{}, the server was not able to generate a unique name for the object",
            error.message
        ),
        details: Some(details),
        ..error
    }
}

fn taken(call: &Call, object: &Object) -> ApiError {
    let gvr = &call.def.gvr;
    ApiError::already_exists(&gvr.group, &gvr.resource, object.name())
}
