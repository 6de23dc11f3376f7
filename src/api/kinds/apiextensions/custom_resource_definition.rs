//! CustomResourceDefinition: a kind that a user defines.

use serde_json::{Map, Value, json};

use super::validate;
use crate::api::gvk::Scope;
use crate::api::kinds::{KindDef, prepare, rows};
use crate::api::object::{Object, child_mut};

pub(in crate::api::kinds) const DEF: KindDef = KindDef {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    subresources: &[rows::item(
        "status",
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    )],
    schema: "apiextensions.v1.CustomResourceDefinition",
    storage: "customresourcedefinitions.apiextensions.k8s.io",
    columns: &[rows::NAME, CREATED_AT],
    cells: |object, _| {
        vec![
            object.name().into(),
            object.meta("creationTimestamp").into(),
        ]
    },
    default,
    prepare_create,
    prepare_update,
    prepare_status: prepare::only_status_without_labels,
    has_generation: true,
    validate: validate::new,
    validate_update: validate::update,
    validate_status: validate::status,
    ..KindDef::BASE
};

const CREATED_AT: crate::api::kinds::Column = crate::api::kinds::Column {
    kind: "date",
    ..rows::string("Created At", rows::AGE.description)
};

fn default(object: &mut Object) {
    if !object.0.get("spec").is_some_and(Value::is_object) {
        return;
    }
    let spec = child_mut(&mut object.0, "spec");
    let kind = spec.get("names").and_then(|names| names["kind"].as_str());
    let kind = kind.unwrap_or_default().to_owned();
    if spec.get("names").is_some_and(Value::is_object) && !kind.is_empty() {
        let names = child_mut(spec, "names");
        fill(names, "singular", &kind.to_lowercase());
        fill(names, "listKind", &format!("{kind}List"));
    }
    let strategy = |spec: &Map<String, Value>| spec.get("conversion").cloned();
    match strategy(spec) {
        None | Some(Value::Null) => {
            spec.insert("conversion".into(), json!({"strategy": "None"}));
        }
        Some(conversion) => {
            let service = &conversion["webhook"]["clientConfig"]["service"];
            if service.is_object() && service["port"].is_null() {
                spec["conversion"]["webhook"]["clientConfig"]["service"]["port"] = 443.into();
            }
        }
    }
}

fn fill(map: &mut Map<String, Value>, field: &str, value: &str) {
    let is_absent = map.get(field).is_none_or(|old| old.is_null() || old == "");
    if is_absent && !value.is_empty() {
        map.insert(field.to_owned(), value.into());
    }
}

/// The versions objects are stored in, as the spec has it: one, in a valid definition.
fn stored_in(object: &Object) -> Vec<Value> {
    let versions = object.at(&["spec", "versions"]).and_then(Value::as_array);
    let versions = versions.into_iter().flatten();
    let stored = versions.filter(|version| version["storage"] == true);
    stored.map(|version| version["name"].clone()).collect()
}

fn prepare_create(object: &mut Object) {
    let stored = stored_in(object);
    object.0.insert(
        "status".into(),
        json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}),
    );
}

fn prepare_update(new: &mut Object, old: &Object) {
    prepare::keep_status(new, old);
    let stored = stored_in(new);
    let status = child_mut(&mut new.0, "status");
    let list = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Value::Array(list) = list {
        for version in stored {
            if !list.contains(&version) {
                list.push(version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_conversion_are_defaulted_and_stored_versions_kept() {
        let mut made = Object::from_value(json!({"spec": {
            "names": {"kind": "CronTab", "plural": "crontabs"},
            "versions": [{"name": "v1", "storage": true}],
        }}))
        .unwrap();
        default(&mut made);
        prepare_create(&mut made);
        assert_eq!(made.field("spec")["names"]["singular"], "crontab");
        assert_eq!(made.field("spec")["names"]["listKind"], "CronTabList");
        assert_eq!(made.field("spec")["conversion"]["strategy"], "None");
        assert_eq!(made.field("status")["storedVersions"], json!(["v1"]));
        let mut newer = made.clone();
        newer.0["spec"]["versions"] = json!([{"name": "v1"}, {"name": "v2", "storage": true}]);
        prepare_update(&mut newer, &made);
        assert_eq!(newer.field("status")["storedVersions"], json!(["v1", "v2"]));
    }
}
