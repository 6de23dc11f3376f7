//! `patch`: JSON patch, merge patch, strategic merge patch, and server-side apply, which also
//! makes what is not there.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::apply;
use crate::api::codec;
use crate::api::object::Object;
use crate::api::options::PatchOptions;
use crate::api::patch::{self, PatchType};
use crate::api::status::ApiError;
use crate::client::Body;

use super::call::{Call, mode, read_body};
use super::part::Part;
use super::update::{self, Change};
use super::{Core, create, errors, prepare};

pub(super) async fn patch(
    core: &Core,
    call: &Call,
    part: Part,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let media = call.content_type().split(';').next().unwrap_or_default();
    if media.trim() == patch::APPLY {
        let options = PatchOptions::from_query(&call.query, true)?;
        return apply_patch(core, call, (part, &options), &read_body(body).await?).await;
    }
    let kind = PatchType::of(media).ok_or_else(|| {
        ApiError::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            patch::APPLY,
        ])
    })?;
    let options = PatchOptions::from_query(&call.query, false)?;
    let body = read_body(body).await?;
    let ty = part.ty(&call.def)?;
    let make = |seen: &Object| {
        let current = seen.clone().into_value();
        let patched = patch::apply(kind, current, &body, ty)?;
        let checked = codec::check_patched(patched, ty, mode(options.write.field_validation));
        let (object, warnings) = checked?;
        call.warn(warnings);
        prepare::check_name(call, &object)?;
        Ok(object)
    };
    let manager = call.manager(&options.write);
    let change = Change {
        part,
        subresource: &call.info.subresource,
        manager: Some(&manager),
        dry_run: options.write.dry_run,
        make: &make,
    };
    let written = update::carry_out(core, call, &change).await?;
    let written = written.ok_or_else(|| errors::not_found(&call.def, &call.info.name))?;
    update::respond(core, call, part, (StatusCode::OK, &written))
}

async fn apply_patch(
    core: &Core,
    call: &Call,
    (part, options): (Part, &PatchOptions),
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    if part == Part::Scale {
        // DEVIATION: upstream maps the fields of a Scale to those of its object and back.
        return Err(ApiError::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
        ]));
    }
    let def = &call.def;
    let ty = part.ty(def)?;
    let read = apply::read(body, ty, mode(options.write.field_validation));
    let (mut config, warnings) = read?;
    call.warn(warnings);
    if config.name().is_empty() {
        let name = call.info.name.clone();
        config.metadata_mut().insert("name".into(), name.into());
    }
    prepare::check_name(call, &config)?;
    prepare::place(call, &mut config)?;
    let manager = options.write.field_manager.as_str();
    let subresource = call.info.subresource.as_str();
    let writer = prepare::writer_of(def, (manager, subresource, core.clock.now()))?;
    let change = Change {
        part,
        subresource,
        manager: None,
        dry_run: options.write.dry_run,
        make: &|live| apply::apply(Some(live), &config, &writer, options.force),
    };
    if let Some(written) = update::carry_out(core, call, &change).await? {
        return update::respond(core, call, part, (StatusCode::OK, &written));
    }
    if part != Part::Main || !config.uid().is_empty() {
        return Err(missing(call, &config));
    }
    core.may_create(call)?;
    let mut object = apply::apply(None, &config, &writer, options.force)?;
    (def.rules.kind().default)(&mut object);
    let made = create::make(core, call, object, (None, options.write.dry_run)).await;
    match made {
        // Somebody else made it meanwhile: now it is an apply to a live object.
        Err(error) if error.is_already_exists() => {
            let written = update::carry_out(core, call, &change).await?;
            let written = written.ok_or(error)?;
            update::respond(core, call, part, (StatusCode::OK, &written))
        }
        made => update::respond(core, call, part, (StatusCode::CREATED, &made?)),
    }
}

fn missing(call: &Call, config: &Object) -> ApiError {
    let (gvr, name) = (&call.def.gvr, &call.info.name);
    if config.uid().is_empty() {
        return errors::not_found(&call.def, name);
    }
    let why = format!(
        "uid mismatch: the provided object specified uid {}, and no existing object was found",
        config.uid()
    );
    ApiError::conflict(&gvr.group, &gvr.resource, name, &why)
}
