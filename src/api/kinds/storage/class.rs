//! StorageClass and VolumeAttributesClass: names for how volumes are made, and how they behave.

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, parameters, provisioner};
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::set;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

pub(crate) const STORAGE: KindDef = KindDef {
    group: GROUP,
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    scope: Scope::Cluster,
    schema: "storage.v1.StorageClass",
    storage: "storageclasses.storage.k8s.io",
    columns: COLUMNS,
    cells: row,
    default,
    validate,
    validate_update,
    ..KindDef::BASE
};

pub(crate) const VOLUME_ATTRIBUTES: KindDef = KindDef {
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    schema: "storage.v1.VolumeAttributesClass",
    storage: "volumeattributesclasses.storage.k8s.io",
    columns: &[
        rows::NAME,
        rows::string(
            "DriverName",
            "Name of the CSI driver This field is immutable.",
        ),
        rows::AGE,
    ],
    cells: attributes_row,
    default: |_| {},
    validate: attributes,
    validate_update: attributes_update,
    ..STORAGE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Provisioner",
        "provisioner indicates the type of the provisioner.",
    ),
    rows::string(
        "ReclaimPolicy",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of \
         this storage class. Defaults to Delete.",
    ),
    rows::string(
        "VolumeBindingMode",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  \
         When unset, VolumeBindingImmediate is used. This field is only honored by servers that \
         enable the VolumeScheduling feature.",
    ),
    rows::string(
        "AllowVolumeExpansion",
        "allowVolumeExpansion shows whether the storage class allow volume expand.",
    ),
    rows::AGE,
];

const RECLAIM: [&str; 2] = ["Delete", "Retain"];
const BINDING: [&str; 2] = ["Immediate", "WaitForFirstConsumer"];
const DEFAULT_ANNOTATIONS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

fn row(class: &Object, now: Timestamp) -> Vec<Value> {
    let is_default = DEFAULT_ANNOTATIONS
        .iter()
        .any(|key| class.text_at(&["metadata", "annotations", key]) == "true");
    let name = if is_default {
        format!("{} (default)", class.name())
    } else {
        class.name().to_owned()
    };
    vec![
        name.into(),
        text(class.field("provisioner")).into(),
        text(class.field("reclaimPolicy")).into(),
        text(class.field("volumeBindingMode")).into(),
        (class.field("allowVolumeExpansion") == true).into(),
        cells::age(class, now),
    ]
}

fn default(class: &mut Object) {
    set(&mut class.0, "reclaimPolicy", "Delete");
    set(&mut class.0, "volumeBindingMode", "Immediate");
}

fn validate(class: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("provisioner");
    provisioner(&mut errors, class.field("provisioner"), &path);
    let path = Path::root("parameters");
    parameters(&mut errors, class.field("parameters"), &path);
    let policy = text(class.field("reclaimPolicy"));
    if !policy.is_empty() && !RECLAIM.contains(&policy) {
        errors.not_supported(&Path::root("reclaimPolicy"), policy, &RECLAIM);
    }
    let path = Path::root("volumeBindingMode");
    errors.one_of(&path, class.field("volumeBindingMode"), &BINDING);
    topologies(&mut errors, list(class.field("allowedTopologies")));
    errors.into_vec()
}

fn topologies(errors: &mut Errors, terms: &[Value]) {
    let path = Path::root("allowedTopologies");
    for (index, term) in terms.iter().enumerate() {
        let here = path.index(index);
        let here = here.field("matchLabelExpressions");
        for (at, expression) in list(&term["matchLabelExpressions"]).iter().enumerate() {
            let here = here.index(at);
            let key = text(&expression["key"]);
            errors.invalid_each(&here.field("key"), key, name::qualified_name(key));
            if list(&expression["values"]).is_empty() {
                errors.required(&here.field("values"), "");
            }
        }
        if terms[..index].contains(term) {
            errors.duplicate(&here, "");
        }
    }
}

fn forbid_change(errors: &mut Errors, new: &Object, old: &Object, field: &str) {
    if new.field(field) != old.field(field) {
        let why = format!("updates to {field} are forbidden.");
        errors.forbidden(&Path::root(field), &why);
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        forbid_change(&mut errors, new, old, field);
    }
    let path = Path::root("volumeBindingMode");
    let mode = new.field("volumeBindingMode");
    errors.immutable(&path, mode, old.field("volumeBindingMode"));
    errors.into_vec()
}

fn attributes_row(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(class),
        text(class.field("driverName")).into(),
        cells::age(class, now),
    ]
}

fn attributes(class: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("driverName");
    provisioner(&mut errors, class.field("driverName"), &path);
    let path = Path::root("parameters");
    if super::entries(class.field("parameters")).count() == 0 {
        errors.required(&path, "must contain at least one key/value pair");
    }
    parameters(&mut errors, class.field("parameters"), &path);
    errors.into_vec()
}

fn attributes_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for field in ["driverName", "parameters"] {
        forbid_change(&mut errors, new, old, field);
    }
    errors.extend(attributes(new));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classes_are_filled_in_and_do_not_change() {
        let class = |provisioner: &str| {
            let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
            let class = json!({"metadata": {"name": "fast", "annotations": annotations},
                "provisioner": provisioner});
            let mut class = Object::from_value(class).unwrap();
            default(&mut class);
            class
        };
        let good = class("example.com/disk");
        assert_eq!(texts(&validate(&good)), [""; 0]);
        let row = row(&good, Timestamp::UNIX_EPOCH);
        let shown = ["fast (default)", "example.com/disk", "Delete", "Immediate"];
        assert_eq!(row[..4], shown.map(Value::from));
        assert_eq!(
            texts(&validate(&class(""))),
            ["provisioner: Required value"]
        );
        assert_eq!(
            texts(&validate_update(&class("other"), &good)),
            ["provisioner: Forbidden: updates to provisioner are forbidden."]
        );
    }

    #[test]
    fn attributes_have_a_driver_and_parameters() {
        assert_eq!(
            texts(&attributes(&Object::default())),
            [
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair",
            ]
        );
    }
}
