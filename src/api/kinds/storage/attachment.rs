//! VolumeAttachment: that a volume is to be attached to a node, and whether it is.

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, driver_name};
use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, cells, prepare, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    scope: Scope::Cluster,
    subresources: &[rows::item("status", (GROUP, "v1", "VolumeAttachment"))],
    schema: "storage.v1.VolumeAttachment",
    storage: "volumeattachments.storage.k8s.io",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    unconditional_update: false,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    Column {
        format: "name",
        ..rows::string(
            "Attacher",
            "attacher indicates the name of the volume driver that MUST handle this request. This \
             is the name returned by GetPluginName().",
        )
    },
    rows::string(
        "PV",
        "persistentVolumeName represents the name of the persistent volume to attach.",
    ),
    rows::string(
        "Node",
        "nodeName represents the node that the volume should be attached to.",
    ),
    Column {
        kind: "boolean",
        ..rows::string(
            "Attached",
            "attached indicates the volume is successfully attached. This field must only be set \
             by the entity completing the attach operation, i.e. the external-attacher.",
        )
    },
    rows::AGE,
];

const SPEC: Path<'static> = Path::root("spec");

fn row(attachment: &Object, now: Timestamp) -> Vec<Value> {
    let spec = attachment.field("spec");
    vec![
        cells::name(attachment),
        text(&spec["attacher"]).into(),
        text(&spec["source"]["persistentVolumeName"]).into(),
        text(&spec["nodeName"]).into(),
        (attachment.field("status")["attached"] == true).into(),
        cells::age(attachment, now),
    ]
}

fn validate(attachment: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = attachment.field("spec");
    driver_name(
        &mut errors,
        text(&spec["attacher"]),
        &SPEC.field("attacher"),
    );
    let node = text(&spec["nodeName"]);
    errors.invalid_each(&SPEC.field("nodeName"), node, name::dns1123_subdomain(node));
    let source = &spec["source"];
    let volume = &source["persistentVolumeName"];
    let path = SPEC.field("source");
    match (volume, &source["inlineVolumeSpec"]) {
        (Value::Null, Value::Null) => {
            errors.required(
                &path,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            );
        }
        (Value::Null, _) => {}
        (volume, Value::Null) if text(volume).is_empty() => {
            errors.required(
                &path.field("persistentVolumeName"),
                "must specify non empty persistentVolumeName",
            );
        }
        (volume, Value::Null) => {
            let wrong = name::dns1123_subdomain(text(volume));
            errors.invalid_each(&path.field("persistentVolumeName"), text(volume), wrong);
        }
        _ => {
            let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.forbidden(&path, why);
        }
    }
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    errors.immutable(&SPEC, new.field("spec"), old.field("spec"));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn attachments_name_a_volume_and_stay() {
        let attachment = |source: Value| {
            let spec = json!({"attacher": "a.example.com", "nodeName": "n", "source": source});
            Object::from_value(json!({"spec": spec})).unwrap()
        };
        let good = attachment(json!({"persistentVolumeName": "v"}));
        assert!(validate(&good).is_empty());
        assert_eq!(row(&good, Timestamp::UNIX_EPOCH)[4], false);
        let none = attachment(json!({}));
        assert_eq!(
            validate(&none)[0].to_string(),
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and \
             persistentVolumeName"
        );
        assert_eq!(validate_update(&none, &good).len(), 2);
    }
}
