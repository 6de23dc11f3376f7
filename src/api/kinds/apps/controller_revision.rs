//! ControllerRevision: a state of a DaemonSet or StatefulSet to go back to.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    schema: "apps.v1.ControllerRevision",
    storage: "controllerrevisions.apps",
    columns: COLUMNS,
    cells: row,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Controller", "Controller of the object"),
    rows::string(
        "Revision",
        "Revision indicates the revision of the state represented by Data.",
    ),
    rows::AGE,
];

fn row(revision: &Object, now: Timestamp) -> Vec<Value> {
    let owners = revision.field("metadata")["ownerReferences"].as_array();
    let mut owners = owners.into_iter().flatten();
    let controller = match owners.find(|owner| owner["controller"] == true) {
        Some(owner) => controller(owner),
        None => "<none>".to_owned(),
    };
    vec![
        cells::name(revision),
        controller.into(),
        cells::number(revision.field("revision")),
        cells::age(revision, now),
    ]
}

/// `daemonset.apps/name`
fn controller(owner: &Value) -> String {
    let kind = text(&owner["kind"]).to_lowercase();
    let name = text(&owner["name"]);
    match text(&owner["apiVersion"]).split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

fn validate(revision: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if revision.field("data").is_null() {
        errors.required(&Path::root("data"), "data is mandatory");
    }
    errors.nonnegative(&Path::root("revision"), revision.field("revision"));
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    errors.immutable(&Path::root("data"), new.field("data"), old.field("data"));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_has_data_that_stays() {
        let revision = |data: Value| Object::from_value(json!({"data": data, "revision": 2}));
        let (old, new) = (revision(json!({"a": 1})), revision(Value::Null));
        let (mut old, new) = (old.unwrap(), new.unwrap());
        let wrong = validate_update(&new, &old);
        let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            wrong,
            [
                "data: Required value: data is mandatory",
                "data: Invalid value: null: field is immutable",
            ]
        );
        old.0.insert(
            "metadata".to_owned(),
            json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet",
                "name": "x", "controller": true}]}),
        );
        let row = row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..3], [json!("daemonset.apps/x"), json!(2)]);
    }
}
