//! PersistentVolumeClaim: a namespace's request for a piece of storage.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::pod::update::differences;
use super::resource_name as resource;
use super::volume;
use crate::api::kinds::defaults::{set, text as set_text};
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::name;
use crate::api::object::{Object, child_mut};
use crate::api::quantity::Quantity;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, list, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    subresources: SUBRESOURCES,
    schema: "core.v1.PersistentVolumeClaim",
    storage: "persistentvolumeclaims",
    columns: COLUMNS,
    cells: row,
    fields: |claim| vec![("name", claim.name().to_owned())],
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[rows::item("status", ("", "v1", "PersistentVolumeClaim"))];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Status",
        "phase represents the current phase of PersistentVolumeClaim.",
    ),
    rows::string(
        "Volume",
        "volumeName is the binding reference to the PersistentVolume backing this claim.",
    ),
    rows::string(
        "Capacity",
        "capacity represents the actual resources of the underlying volume.",
    ),
    rows::string(
        "Access Modes",
        "accessModes contains the actual access modes the volume backing the PVC has. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1",
    ),
    rows::string(
        "StorageClass",
        "storageClassName is the name of the StorageClass required by the claim. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#class-1",
    ),
    rows::string(
        "VolumeAttributesClass",
        "volumeAttributesClassName may be used to set the VolumeAttributesClass used by this \
         claim.",
    ),
    rows::AGE,
    rows::wide(
        "VolumeMode",
        "volumeMode defines what type of volume is required by the claim. Value of Filesystem is \
         implied when not included in claim spec.",
    ),
];

fn row(claim: &Object, now: Timestamp) -> Vec<Value> {
    let status = claim.field("status");
    let volume = claim.text_at(&["spec", "volumeName"]);
    let (capacity, modes) = match volume {
        "" => Default::default(),
        _ => (
            resource::printed(&status["capacity"]["storage"]),
            volume::short_modes(&status["accessModes"]),
        ),
    };
    vec![
        cells::name(claim),
        volume::phase(claim).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        volume::class(claim).into(),
        volume::or_unset(claim, "volumeAttributesClassName"),
        cells::age(claim, now),
        volume::or_unset(claim, "volumeMode"),
    ]
}

pub(in crate::api::kinds) fn default(claim: &mut Object) {
    default_claim(&mut claim.0);
}

/// Defaults of a claim and of a StatefulSet's template of one.
pub(in crate::api::kinds) fn default_claim(claim: &mut Map<String, Value>) {
    set_text(child_mut(claim, "status"), "phase", "Pending");
    set(child_mut(claim, "spec"), "volumeMode", "Filesystem");
}

fn prepare_create(claim: &mut Object) {
    claim
        .0
        .insert("status".to_owned(), json!({"phase": "Pending"}));
    same_data_sources(claim);
}

fn prepare_update(new: &mut Object, old: &Object) {
    prepare::keep_status(new, old);
    same_data_sources(new);
}

/// `dataSource` and `dataSourceRef` say the same, but a source in another namespace only the
/// second can name.
fn same_data_sources(claim: &mut Object) {
    let spec = child_mut(&mut claim.0, "spec");
    let of = |field: &str| spec.get(field).filter(|v| v.is_object()).cloned();
    match (of("dataSource"), of("dataSourceRef")) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".to_owned(), source);
        }
        (None, Some(source)) if text(&source["namespace"]).is_empty() => {
            spec.insert("dataSource".to_owned(), source);
        }
        _ => {}
    }
}

const SPEC: Path<'static> = Path::root("spec");

fn validate(claim: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    validate_spec(&mut errors, claim.field("spec"), &SPEC);
    errors.into_vec()
}

/// Of a claim, and of the templates of claims.
pub(crate) fn validate_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let modes_path = path.field("accessModes");
    if list(&spec["accessModes"]).is_empty() {
        errors.required(&modes_path, "at least 1 access mode is required");
    }
    common::label_selector(errors, &spec["selector"], &path.field("selector"));
    volume::access_modes(errors, &spec["accessModes"], &modes_path);
    let resources = path.field("resources");
    let storage = &spec["resources"]["requests"]["storage"];
    match storage.is_null() {
        true => errors.required(&resources.key("storage"), ""),
        false => resource::positive(errors, storage, &resources.key("storage")),
    }
    volume::class_names(errors, spec, path);
    volume::volume_mode(errors, spec, path);
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (field, value) in [("dataSource", source), ("dataSourceRef", reference)] {
        if value.is_object() {
            data_source(errors, value, &path.field(field));
        }
    }
    let is_elsewhere = !text(&reference["namespace"]).is_empty();
    if source.is_object() && reference.is_object() && source != reference && !is_elsewhere {
        let at = path.field("dataSource").to_string();
        errors.invalid(path, at, "must match dataSourceRef");
    }
    if source.is_object() && is_elsewhere {
        let at = path.field("dataSource").to_string();
        let why = "may not be specified when dataSourceRef.namespace is specified";
        errors.invalid(path, at, why);
    }
}

fn data_source(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    for field in ["name", "kind"] {
        if text(&source[field]).is_empty() {
            errors.required(&path.field(field), "");
        }
    }
    let (group, kind) = (text(&source["apiGroup"]), text(&source["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(path, kind, why);
    }
    if !group.is_empty() {
        let wrong = name::dns1123_subdomain(group);
        errors.invalid_each(&path.field("apiGroup"), group, wrong);
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let (spec, was) = (new.field("spec"), old.field("spec"));
    let munged = munge(spec, was, new.text_at(&["status", "phase"]) == "Bound");
    if munged != *was {
        let why = format!(
            "spec is immutable after creation except resources.requests and \
             volumeAttributesClassName for bound claims\n{}",
            differences(&munged, was)
        );
        errors.forbidden(&SPEC, &why);
    }
    let size = |value: &Value| Quantity::from_json(&value["storage"]).unwrap_or(Quantity::ZERO);
    let requested = size(&spec["resources"]["requests"]);
    let is_smaller = requested < size(&was["resources"]["requests"]);
    if is_smaller && requested <= size(&old.field("status")["capacity"]) {
        let path = Path::root("spec.resources.requests.storage");
        errors.forbidden(&path, "field can not be less than status.capacity");
    }
    let mode = Path::root("volumeMode");
    errors.immutable(&mode, &spec["volumeMode"], &was["volumeMode"]);
    let class = |spec: &Value| {
        spec["volumeAttributesClassName"]
            .as_str()
            .map(str::to_owned)
    };
    let path = SPEC.field("volumeAttributesClassName");
    match (class(was).as_deref(), class(spec).as_deref()) {
        (Some(old), None) if !old.is_empty() => {
            errors.forbidden(&path, "update from non-nil value to nil is forbidden");
        }
        (Some(old), Some("")) if !old.is_empty() => {
            let why = "update from non-nil value to an empty string is forbidden";
            errors.forbidden(&path, why);
        }
        _ => {}
    }
    errors.into_vec()
}

/// The new spec with everything that may change put back.
fn munge(spec: &Value, was: &Value, is_bound: bool) -> Value {
    let (Some(new), Some(old)) = (spec.as_object(), was.as_object()) else {
        return spec.clone();
    };
    let mut new = new.clone();
    let mut put_back = |field: &str| match old.get(field) {
        Some(value) => {
            new.insert(field.to_owned(), value.clone());
        }
        None => {
            new.remove(field);
        }
    };
    put_back("volumeAttributesClassName");
    if text(&was["volumeName"]).is_empty() {
        put_back("volumeName");
    }
    // Given afterwards to a claim that waited for a default class.
    if was["storageClassName"].is_null() {
        put_back("storageClassName");
    }
    let mut new = Value::Object(new);
    if is_bound && new["resources"]["requests"].is_object() {
        new["resources"]["requests"]["storage"] = was["resources"]["requests"]["storage"].clone();
    }
    new
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("status.capacity");
    for (name, amount) in crate::api::validation::entries(&new.field("status")["capacity"]) {
        if resource::quantity(&mut errors, amount, &path.key(name))
            .is_some_and(Quantity::is_negative)
        {
            let why = "must be a valid resource quantity";
            errors.invalid(&path.key(name), amount.clone(), why);
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        change(&mut value);
        let mut claim = Object::from_value(value).unwrap();
        default(&mut claim);
        claim
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_claim_is_filled_in_and_printed() {
        let mut claim = claim(|c| c["spec"]["dataSource"] = json!({"kind": "x", "name": "y"}));
        prepare_create(&mut claim);
        let spec = claim.field("spec");
        assert_eq!(spec["volumeMode"], "Filesystem");
        assert_eq!(spec["dataSource"], spec["dataSourceRef"]);
        let row = row(&claim, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..5],
            [json!("Pending"), json!(""), json!(""), json!("")]
        );
    }

    #[test]
    fn each_rule_has_its_words() {
        let wrong = claim(|c| {
            c["spec"] = json!({"volumeMode": "Tape", "dataSource": {"kind": "Disk", "name": "d"},
                "storageClassName": "-"})
        });
        let wrong = texts(&validate(&wrong));
        assert_eq!(
            wrong[..2],
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
        assert!(wrong[2].starts_with("spec.storageClassName: Invalid value: \"-\""));
        assert_eq!(
            wrong[3..],
            [
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \
                 \"Filesystem\"",
                "spec.dataSource: Invalid value: \"Disk\": must be 'PersistentVolumeClaim' when \
                 referencing the default apiGroup",
            ]
        );
    }

    #[test]
    fn only_a_bound_claim_grows() {
        let bound = |size: &str| {
            claim(|c| {
                c["spec"]["resources"]["requests"]["storage"] = size.into();
                c["spec"]["volumeName"] = "v".into();
                c["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
            })
        };
        assert_eq!(
            texts(&validate_update(&bound("2Gi"), &bound("1Gi"))),
            [""; 0]
        );
        assert_eq!(
            texts(&validate_update(&bound("500Mi"), &bound("1Gi"))),
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than \
              status.capacity"
            ]
        );
        let larger = claim(|c| c["spec"]["resources"]["requests"]["storage"] = "2Gi".into());
        let wrong = texts(&validate_update(&larger, &claim(|_| {})));
        assert!(wrong[0].starts_with("spec: Forbidden: spec is immutable after creation except"));
        let named = claim(|c| c["spec"]["volumeName"] = "v".into());
        assert_eq!(texts(&validate_update(&named, &claim(|_| {}))), [""; 0]);
    }
}
