//! All three kinds of patch, through [`apply`].

use serde_json::json;

use super::*;
use crate::api::schema::builtin;

fn edit(kind: PatchType, ty: &str, current: Value, patch: Value) -> Result<Value, ApiError> {
    let ty = builtin().get(ty).unwrap();
    apply(kind, current, patch.to_string().as_bytes(), ty)
}

fn json_patch(current: Value, patch: Value) -> Result<Value, ApiError> {
    edit(PatchType::Json, "core.v1.ConfigMap", current, patch)
}

fn strategic(ty: &str, current: Value, patch: Value) -> Value {
    edit(PatchType::Strategic, ty, current, patch).unwrap()
}

#[test]
fn json_patch_counts_negative_indexes_from_the_end() {
    let list = json!({"a": [1, 2, 3]});
    let op = |op: &str, path: &str| json!([{"op": op, "path": path, "value": 9}]);
    assert_eq!(
        json_patch(list.clone(), op("replace", "/a/-1")).unwrap()["a"],
        json!([1, 2, 9])
    );
    assert_eq!(
        json_patch(list.clone(), op("remove", "/a/-3")).unwrap()["a"],
        json!([2, 3])
    );
    assert_eq!(
        json_patch(list.clone(), op("add", "/a/-1")).unwrap()["a"],
        json!([1, 2, 3, 9])
    );
    assert_eq!(
        json_patch(list.clone(), op("add", "/a/-2")).unwrap()["a"],
        json!([1, 2, 9, 3])
    );
    assert_eq!(
        json_patch(list.clone(), op("add", "/a/-")).unwrap()["a"],
        json!([1, 2, 3, 9])
    );
    let nested = json!({"a": [{"b": 1}, {"b": 2}]});
    let edited = json_patch(nested, op("replace", "/a/-1/b")).unwrap();
    assert_eq!(edited["a"][1]["b"], 9);
    assert_eq!(
        json_patch(list, op("replace", "/a/-4")).unwrap_err().code,
        422
    );
}

#[test]
fn json_patch_test_of_null_holds_where_nothing_is() {
    let test = |path: &str, value: Value| json!([{"op": "test", "path": path, "value": value}]);
    assert!(json_patch(json!({}), test("/x/y", Value::Null)).is_ok());
    let failed = json_patch(json!({"x": 1}), test("/x", json!(2))).unwrap_err();
    assert_eq!((failed.code, failed.reason), (422, "Invalid"));
    assert!(
        failed
            .message
            .starts_with("the server rejected our request")
    );
}

#[test]
fn json_patch_has_limits_and_refuses_rubbish() {
    let many = vec![json!({"op": "test", "path": "/x", "value": null}); 10_001];
    let refused = json_patch(json!({}), Value::Array(many)).unwrap_err();
    assert_eq!(refused.code, 413);
    let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
    let bomb = json_patch(
        json!({"a": ["x".repeat(1000)]}),
        Value::Array(vec![double; 60]),
    );
    assert_eq!(bomb.unwrap_err().code, 422);
    assert_eq!(json_patch(json!({}), json!({})).unwrap_err().code, 400);
    for rubbish in [json!([{"op": "jump", "path": "/"}]), json!([1])] {
        assert_eq!(json_patch(json!({}), rubbish).unwrap_err().code, 422);
    }
}

#[test]
fn merge_patch_replaces_lists_and_removes_nulls() {
    let current = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
    let patch = json!({"a": {"b": null, "d": {"e": null}}, "l": [3]});
    let merged = edit(
        PatchType::Merge,
        "core.v1.ConfigMap",
        current.clone(),
        patch,
    )
    .unwrap();
    assert_eq!(merged, json!({"a": {"c": 2, "d": {}}, "l": [3]}));
    let refused = edit(PatchType::Merge, "core.v1.ConfigMap", current, json!([])).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (400, "Invalid JSON Patch")
    );
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn strategic_merges_lists_by_key_and_new_items_come_first() {
    let current = pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let patch = pod(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3", "tty": null}]));
    let merged = strategic("core.v1.Pod", current, patch);
    let expected = json!([
        {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"},
    ]);
    assert_eq!(merged["spec"]["containers"], expected);
    let alone = strategic(
        "core.v1.Pod",
        pod(json!([{"name": "a"}])),
        pod(json!([{"name": "c"}])),
    );
    assert_eq!(
        alone["spec"]["containers"],
        json!([{"name": "c"}, {"name": "a"}])
    );
}

#[test]
fn strategic_lists_of_atomic_fields_are_replaced() {
    let current =
        pod(json!([{"name": "a", "args": ["x", "y"], "env": [{"name": "E", "value": "1"}]}]));
    let patch = pod(json!([{"name": "a", "args": ["z"], "env": [{"name": "F", "value": "2"}]}]));
    let merged = strategic("core.v1.Pod", current, patch);
    let container = &merged["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["z"]));
    let env = json!([{"name": "F", "value": "2"}, {"name": "E", "value": "1"}]);
    assert_eq!(container["env"], env);
}

#[test]
fn strategic_understands_patch_directives() {
    let three = || pod(json!([{"name": "a", "tty": true}, {"name": "b"}, {"name": "c"}]));
    let delete = pod(json!([{"name": "b", "$patch": "delete"}]));
    let merged = strategic("core.v1.Pod", three(), delete);
    assert_eq!(
        merged["spec"]["containers"],
        json!([{"name": "a", "tty": true}, {"name": "c"}])
    );
    let replace = pod(json!([{"name": "z"}, {"$patch": "replace"}]));
    let merged = strategic("core.v1.Pod", three(), replace);
    assert_eq!(merged["spec"]["containers"], json!([{"name": "z"}]));
    let labels = json!({"metadata": {"labels": {"a": "1"}}});
    let patch = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}});
    let merged = strategic("core.v1.Pod", labels.clone(), patch);
    assert_eq!(merged["metadata"]["labels"], json!({"b": "2"}));
    let patch = json!({"metadata": {"labels": {"$patch": "delete"}}});
    assert_eq!(
        strategic("core.v1.Pod", labels, patch)["metadata"]["labels"],
        json!({})
    );
    let fresh = strategic(
        "core.v1.Pod",
        json!({"spec": {}}),
        pod(json!([
            {"name": "a", "env": [{"name": "x", "$patch": "delete"}, {"name": "y"}]},
        ])),
    );
    assert_eq!(
        fresh["spec"]["containers"],
        json!([{"name": "a", "env": [{"name": "y"}]}])
    );
}

#[test]
fn strategic_merges_and_deletes_values_of_lists() {
    let current = || json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["b"],
        "$setElementOrder/finalizers": ["d", "a", "c"],
        "finalizers": ["d"],
    }});
    let merged = strategic("core.v1.Pod", current(), patch);
    assert_eq!(merged["metadata"]["finalizers"], json!(["d", "a", "c"]));
    let twice = json!({"metadata": {"finalizers": ["c", "a"]}});
    let merged = strategic("core.v1.Pod", current(), twice);
    assert_eq!(merged["metadata"]["finalizers"], json!(["b", "c", "a"]));
}

#[test]
fn strategic_orders_lists_as_told() {
    let current = pod(json!([{"name": "a"}, {"name": "injected"}, {"name": "b"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "a", "image": "x"}],
    }});
    let merged = strategic("core.v1.Pod", current.clone(), patch);
    let expected = json!([{"name": "injected"}, {"name": "b"}, {"name": "a", "image": "x"}]);
    assert_eq!(merged["spec"]["containers"], expected);
    let wrong = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}],
        "containers": [{"name": "a"}],
    }});
    assert!(edit(PatchType::Strategic, "core.v1.Pod", current, wrong).is_err());
}

#[test]
fn strategic_retains_only_the_keys_it_is_told() {
    let current =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let merged = strategic("apps.v1.Deployment", current.clone(), patch);
    assert_eq!(merged["spec"]["strategy"], json!({"type": "Recreate"}));
    let wrong = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    let refused = edit(PatchType::Strategic, "apps.v1.Deployment", current, wrong).unwrap_err();
    assert_eq!(refused.message, "invalid patch format of retainKeys");
}

#[test]
fn strategic_says_which_merge_key_is_missing() {
    let current = pod(json!([{"name": "a"}]));
    let refused = edit(
        PatchType::Strategic,
        "core.v1.Pod",
        current,
        pod(json!([{"image": "x"}])),
    );
    assert_eq!(
        refused.unwrap_err().message,
        "map: map[image:x] does not contain declared merge key: name"
    );
}
