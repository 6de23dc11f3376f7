//! CSIStorageCapacity: how much room a class has where.

use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::quantity::Quantity;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    schema: "storage.v1.CSIStorageCapacity",
    storage: "csistoragecapacities.storage.k8s.io",
    columns: COLUMNS,
    cells: row,
    unconditional_update: false,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "StorageClassName",
        "storageClassName represents the name of the StorageClass that the reported capacity \
         applies to.",
    ),
    rows::string(
        "Capacity",
        "capacity is the value reported by the CSI driver in its GetCapacityResponse for a \
         GetCapacityRequest with topology and parameters that match the previous fields.",
    ),
];

fn row(capacity: &Object, _now: Timestamp) -> Vec<Value> {
    let shown = match capacity.field("capacity") {
        Value::Null => "<unset>",
        capacity => text(capacity),
    };
    vec![
        cells::name(capacity),
        text(capacity.field("storageClassName")).into(),
        shown.into(),
    ]
}

fn validate(capacity: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("nodeTopology");
    common::label_selector(&mut errors, capacity.field("nodeTopology"), &path);
    let class = text(capacity.field("storageClassName"));
    let wrong = name::dns1123_subdomain(class);
    errors.invalid_each(&Path::root("storageClassName"), class, wrong);
    let room = capacity.field("capacity");
    if Quantity::from_json(room).is_ok_and(Quantity::is_negative) {
        let why = "must be greater than or equal to 0";
        errors.invalid(&Path::root("capacity"), room.clone(), why);
    }
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for field in ["nodeTopology", "storageClassName"] {
        errors.immutable(&Path::root(field), new.field(field), old.field(field));
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_room_is_not_negative_and_its_class_stays() {
        let capacity = |class: &str, room: &str| {
            let capacity = json!({"storageClassName": class, "capacity": room});
            Object::from_value(capacity).unwrap()
        };
        assert!(validate(&capacity("a", "1Gi")).is_empty());
        assert_eq!(validate(&capacity("a", "-1")).len(), 1);
        assert_eq!(
            validate_update(&capacity("b", "1"), &capacity("a", "1")).len(),
            1
        );
    }
}
