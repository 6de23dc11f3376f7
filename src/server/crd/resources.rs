//! The rows of the table that a definition makes: one for each version that is served.

use std::sync::Arc;

use serde_json::Value;

use crate::api::custom::Custom;
use crate::api::gvk::{GroupVersionKind, GroupVersionResource};
use crate::api::object::Object;
use crate::server::registry::{ResourceDef, Rules, SubresourceDef};

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const ITEM_VERBS: [&str; 3] = ["get", "patch", "update"];

/// Whether objects of a definition are served.
pub(super) fn is_established(definition: &Object) -> bool {
    let conditions = definition.field("status")["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|of| of["type"] == "Established" && of["status"] == "True")
}

/// `crontabs.stable.example.com`
pub(super) fn storage(definition: &Object) -> String {
    let spec = definition.field("spec");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{}.{}",
        text(&spec["names"]["plural"]),
        text(&spec["group"])
    )
}

/// The rows; none before it is established.
pub(super) fn rows(definition: &Object) -> Vec<Arc<ResourceDef>> {
    if !is_established(definition) {
        return Vec::new();
    }
    let whole = Value::Object(definition.0.clone());
    let versions = whole["spec"]["versions"].as_array().into_iter().flatten();
    let served = versions.filter(|version| version["served"] == true);
    served
        .filter_map(|version| row(&whole, version["name"].as_str()?))
        .map(Arc::new)
        .collect()
}

fn row(definition: &Value, version: &str) -> Option<ResourceDef> {
    let custom = Custom::compile(definition, version)?;
    let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
    let group = text(&spec["group"]);
    let plural = text(&spec["names"]["plural"]);
    let versions = spec["versions"].as_array()?;
    let stored = versions.iter().find(|version| version["storage"] == true)?;
    let is_ending = definition["metadata"]["deletionTimestamp"].is_string();
    let verbs = VERBS.iter().filter(|verb| !is_ending || **verb != "create");
    Some(ResourceDef {
        gvr: GroupVersionResource::new(&group, version, &plural),
        gvk: custom.kind.clone(),
        list_kind: text(&names["listKind"]),
        singular: text(&names["singular"]),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        scope: custom.scope,
        verbs: verbs.map(|verb| (*verb).to_owned()).collect(),
        subresources: subresources(&custom),
        schema: String::new(),
        storage: format!("{plural}.{group}"),
        stored: GroupVersionKind::new(&group, &text(&stored["name"]), &custom.kind.kind),
        rules: Rules::Custom(Arc::new(custom)),
    })
}

fn subresources(custom: &Custom) -> Vec<SubresourceDef> {
    let made = |name: &str, gvk: GroupVersionKind| SubresourceDef {
        name: name.to_owned(),
        gvk,
        verbs: ITEM_VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
    };
    let status = custom
        .has_status
        .then(|| made("status", custom.kind.clone()));
    let scale = GroupVersionKind::new("autoscaling", "v1", "Scale");
    let scale = custom.scale.is_some().then(|| made("scale", scale));
    status.into_iter().chain(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_established_definition_makes_a_row_for_each_served_version() {
        let version = |name: &str, served: bool, storage: bool| {
            json!({"name": name, "served": served, "storage": storage, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object"}}})
        };
        let mut definition = Object::from_value(json!({
            "metadata": {"name": "foos.example.com"},
            "spec": {"group": "example.com", "scope": "Cluster",
                "names": {"plural": "foos", "kind": "Foo"},
                "versions": [version("v1", true, false), version("v2", true, true),
                    version("v3", false, false)]},
            "status": {"acceptedNames": {"plural": "foos", "singular": "foo", "kind": "Foo",
                "listKind": "FooList"}},
        }))
        .unwrap();
        assert!(rows(&definition).is_empty());
        definition.0["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        let made = rows(&definition);
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].gvr.version, "v1");
        assert_eq!(made[0].stored.version, "v2");
        assert_eq!(made[1].storage, "foos.example.com");
        assert_eq!(made[1].subresources[0].name, "status");
        assert!(made[1].serves("create"));
        definition.0["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert!(!rows(&definition)[0].serves("create"));
    }
}
