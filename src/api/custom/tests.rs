//! What the verbs ask of a custom resource.

use serde_json::{Value, json};

use super::*;

pub(super) fn cron_tab() -> Custom {
    let definition = json!({"spec": {
        "group": "stable.example.com", "scope": "Namespaced",
        "names": {"kind": "CronTab", "plural": "crontabs"},
        "versions": [{
            "name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector"}},
            "selectableFields": [{"jsonPath": ".spec.image"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {
                    "image": {"type": "string"},
                    "replicas": {"type": "integer", "default": 1}}},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
        }],
    }});
    Custom::compile(&definition, "v1").unwrap()
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

#[test]
fn a_status_has_its_own_path_and_leaves_the_rest_alone() {
    let custom = cron_tab();
    let old = object(json!({"metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"image": "i"}, "status": {"replicas": 1}}));
    let mut new = object(json!({"metadata": {"name": "a"}, "spec": {"image": "j"}}));
    custom.prepare_update(&mut new, &old);
    assert_eq!(new.field("status")["replicas"], 1);
    assert!(custom.is_new_generation(&new, &old));
    let mut new = object(json!({"metadata": {"name": "a", "managedFields": []},
        "spec": {"image": "j"}, "status": {"replicas": 2}}));
    custom.prepare_status(&mut new, &old);
    assert_eq!(new.field("spec")["image"], "i");
    assert_eq!(new.field("status")["replicas"], 2);
    assert_eq!(new.at(&["metadata", "labels", "x"]), Some(&json!("y")));
    assert!(!custom.is_new_generation(&new, &old));
}

#[test]
fn objects_are_defaulted_selected_and_validated() {
    let custom = cron_tab();
    let mut made = object(
        json!({"apiVersion": "stable.example.com/v1beta1", "kind": "CronTab",
        "metadata": {"name": "a", "namespace": "b"}, "spec": {"image": "i", "odd": 1}}),
    );
    custom.coerce(&mut made);
    assert_eq!(made.api_version(), "stable.example.com/v1");
    assert_eq!(made.field("spec"), &json!({"image": "i", "replicas": 1}));
    let fields = custom.fields(&made);
    assert_eq!(fields, [("spec.image".to_owned(), "i".to_owned())]);
    assert!(custom.validate(&made).is_empty());
    made.0["spec"]["replicas"] = (-1).into();
    let wrong = custom.validate(&made);
    assert_eq!(
        wrong[0].to_string(),
        "spec.replicas: Invalid value: -1: should be a non-negative integer"
    );
    assert_eq!(custom.scale.as_ref().unwrap().spec, ["spec", "replicas"]);
    assert!(custom.merged().is_some() && custom.envelope().is_some());
    assert_eq!(
        definition_name(&custom.kind),
        "com.example.stable.v1.CronTab"
    );
}
