//! CSINode: which CSI drivers a node has.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, driver_name};
use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    scope: Scope::Cluster,
    schema: "storage.v1.CSINode",
    storage: "csinodes.storage.k8s.io",
    columns: COLUMNS,
    cells: row,
    validate,
    validate_update,
    unconditional_update: false,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::integer(
        "Drivers",
        "Drivers indicates the number of CSI drivers registered on the node",
    ),
    rows::AGE,
];

const DRIVERS: Path<'static> = Path::root("spec.drivers");
const NODE_ID_MAX: usize = 256;

fn drivers(node: &Object) -> &[Value] {
    list(&node.field("spec")["drivers"])
}

fn row(node: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(node),
        drivers(node).len().into(),
        cells::age(node, now),
    ]
}

fn validate(node: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut names = BTreeSet::new();
    for (index, driver) in drivers(node).iter().enumerate() {
        let here = DRIVERS.index(index);
        let name = text(&driver["name"]);
        driver_name(&mut errors, name, &here.field("name"));
        let (id, id_path) = (text(&driver["nodeID"]), here.field("nodeID"));
        if id.is_empty() {
            errors.required(&id_path, "");
        } else if id.len() > NODE_ID_MAX {
            let why = format!("must be {NODE_ID_MAX} characters or less");
            errors.invalid(&id_path, id, &why);
        }
        let count = &driver["allocatable"]["count"];
        errors.nonnegative(&here.field("allocatable").field("count"), count);
        if !names.insert(name) {
            errors.duplicate(&here.field("name"), name);
        }
        topology_keys(&mut errors, list(&driver["topologyKeys"]), &here);
    }
    errors.into_vec()
}

fn topology_keys(errors: &mut Errors, keys: &[Value], path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for key in keys.iter().map(text) {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !seen.insert(key) {
            errors.duplicate(path, key);
        }
        errors.invalid_each(path, key, name::qualified_name(key));
    }
}

/// A driver stays as it is while it is there, but for how many volumes it takes.
fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        if let Some(driver) = driver.as_object_mut() {
            driver.remove("allocatable");
        }
        driver
    };
    for was in drivers(old) {
        for now in drivers(new).iter().filter(|now| now["name"] == was["name"]) {
            errors.immutable(&DRIVERS, &fixed(now), &fixed(was));
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drivers_are_whole_and_stay() {
        let node = |id: &str| {
            let drivers = json!([{"name": "d.example.com", "nodeID": id}]);
            Object::from_value(json!({"spec": {"drivers": drivers}})).unwrap()
        };
        assert!(validate(&node("n")).is_empty());
        assert_eq!(
            validate(&node(""))[0].to_string(),
            "spec.drivers[0].nodeID: Required value"
        );
        assert_eq!(validate_update(&node("m"), &node("n")).len(), 1);
        assert_eq!(row(&node("n"), Timestamp::UNIX_EPOCH)[1], 1);
    }
}
