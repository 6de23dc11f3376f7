//! `patch`: JSON patch, merge patch, strategic merge patch, and server-side apply, which also
//! makes what is not there.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::apply;
use crate::api::codec::{self, Patched};
use crate::api::object::Object;
use crate::api::options::PatchOptions;
use crate::api::patch::{self, PatchType};
use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::registry::ResourceDef;

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
    let is_custom = call.def.rules.custom().is_some();
    let kind = PatchType::of(media).filter(|kind| {
        // Nothing says how the lists of a custom object would merge.
        *kind != PatchType::Strategic || !is_custom
    });
    let kind = kind.ok_or_else(|| {
        let strategic = (!is_custom).then_some("application/strategic-merge-patch+json");
        let others = [
            "application/json-patch+json",
            "application/merge-patch+json",
        ];
        let all = others.into_iter().chain(strategic).chain([patch::APPLY]);
        ApiError::unsupported_media_type(&all.collect::<Vec<_>>())
    })?;
    let options = PatchOptions::from_query(&call.query, false)?;
    let body = read_body(body).await?;
    let ty = part.ty(&call.def)?;
    let make = |seen: &Object| {
        let current = seen.clone().into_value();
        let patched = patch::apply(kind, current, &body, ty)?;
        let patched = Patched {
            shown: patch::shown(kind, &body, &patched),
            duplicates: patch::duplicates(&body),
            object: patched,
        };
        let mode = mode(options.write.field_validation);
        let checked = match (call.def.rules.custom(), part) {
            (None, _) | (_, Part::Scale) => codec::check_patched(patched, ty, mode),
            (Some(custom), _) => custom.check_patched(patched, mode),
        };
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
    update::respond(core, call, part, (StatusCode::OK, &written)).await
}

async fn apply_patch(
    core: &Core,
    call: &Call,
    (part, options): (Part, &PatchOptions),
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
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
    let make = |live: &Object| match part {
        Part::Scale => {
            let config = config_of_scale(def, &config, live);
            let applied = apply::apply(Some(live), &config, &writer, options.force);
            applied.map_err(|error| in_scale(error, live))
        }
        _ => apply::apply(Some(live), &config, &writer, options.force),
    };
    let change = Change {
        part: match part {
            Part::Scale => Part::ScaleOfWhole,
            part => part,
        },
        subresource,
        manager: None,
        dry_run: options.write.dry_run,
        make: &make,
    };
    if let Some(written) = update::carry_out(core, call, &change).await? {
        return update::respond(core, call, part, (StatusCode::OK, &written)).await;
    }
    if part != Part::Main || !config.uid().is_empty() {
        return Err(missing(call, &config));
    }
    core.may_create(call)?;
    let mut object = apply::apply(None, &config, &writer, options.force)?;
    def.rules.default(&mut object);
    let made = create::make(core, call, object, (None, options.write.dry_run)).await;
    match made {
        // Somebody else made it meanwhile: now it is an apply to a live object.
        Err(error) if error.is_already_exists() => {
            let written = update::carry_out(core, call, &change).await?;
            let written = written.ok_or(error)?;
            update::respond(core, call, part, (StatusCode::OK, &written)).await
        }
        made => update::respond(core, call, part, (StatusCode::CREATED, &made?)).await,
    }
}

/// What an applied `Scale` wants of the object it scales: the fields are those of the object, so
/// that it is merged, and its owners are compared, there (`managedfields.ScaleHandler`).
fn config_of_scale(def: &ResourceDef, scale: &Object, live: &Object) -> Object {
    let mut like = Object::default();
    for field in ["apiVersion", "kind"] {
        if let Some(value) = live.0.get(field) {
            like.0.insert(field.to_owned(), value.clone());
        }
    }
    let mut config = Part::Scale.merge(def, scale.clone(), &like);
    let meta = config.metadata_mut();
    meta.retain(|_, value| value.as_str() != Some(""));
    for field in ["name", "namespace"] {
        if let Some(value) = scale.at(&["metadata", field]) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    config
}

/// A conflict in the words of the path: owners are compared as owners of a `Scale`.
fn in_scale(error: ApiError, live: &Object) -> ApiError {
    let own = format!(" using {}", live.api_version());
    let said = |text: &str| text.replace(&own, " using autoscaling/v1");
    let details = error
        .details
        .as_ref()
        .map(|details| said(&details.to_string()));
    ApiError {
        message: said(&error.message),
        details: details.and_then(|details| serde_json::from_str(&details).ok()),
        ..error
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
