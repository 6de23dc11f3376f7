//! Ownership through whole histories of writes, as clients see them.

use serde_json::json;

use super::*;
use crate::api::codec::Mode;
use crate::api::schema::builtin;

const NOW: i64 = 1_700_000_000;

fn writer<'a>(manager: &'a str, ty: &str, minute: i64) -> Writer<'a> {
    let schema = builtin().get(ty).unwrap();
    Writer {
        manager,
        subresource: "",
        now: Timestamp::from_second(NOW + 60 * minute).unwrap(),
        schema,
        reset: Reset::of(schema.field("status").is_some(), ""),
    }
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn config_map(data: Value) -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "b"}, "data": data,
    }))
}

fn deployment(more: Value) -> Object {
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "nginx", "image": "nginx:1"}]},
            },
        },
    });
    json_patch::merge(&mut deployment, &more);
    object(deployment)
}

/// `manager operation` to the owned fields.
fn owners(object: &Object) -> Vec<(String, Value)> {
    let entries = object.0["metadata"]
        .get("managedFields")
        .cloned()
        .unwrap_or(json!([]));
    let entry = |e: &Value| {
        let text = |field: &str| e[field].as_str().unwrap_or_default().to_owned();
        let name = format!(
            "{} {} {}",
            text("manager"),
            text("operation"),
            text("subresource")
        );
        (name.trim().to_owned(), e["fieldsV1"].clone())
    };
    entries.as_array().unwrap().iter().map(entry).collect()
}

fn owned(object: &Object, who: &str) -> Value {
    let found = owners(object).into_iter().find(|(name, _)| name == who);
    found
        .unwrap_or_else(|| panic!("no `{who}` in {:?}", owners(object)))
        .1
}

fn apply_as(live: Option<&Object>, config: &Object, who: &str, ty: &str) -> Object {
    apply(live, config, &writer(who, ty, 1), false).unwrap()
}

#[test]
fn a_create_owns_what_it_sets_and_looks_as_upstream() {
    let mut new = deployment(json!({
        "metadata": {"uid": "u", "labels": {"app": "web"}, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"replicas": 3, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"spec": {"containers": [{
                "name": "nginx", "image": "nginx:1", "resources": {},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
            }], "securityContext": {}}}},
        "status": {"replicas": 1},
    }));
    track_update(
        None,
        &mut new,
        &writer("kubectl-create", "apps.v1.Deployment", 0),
    );
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"nginx\"}": {
                        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                            {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }},
                    "f:securityContext": {},
                },
            },
        },
    });
    assert_eq!(owned(&new, "kubectl-create Update"), expected);
    let entry = &new.0["metadata"]["managedFields"][0];
    assert_eq!(entry["time"], "2023-11-14T22:13:20Z");
    assert_eq!(entry["apiVersion"], "apps/v1");
}

#[test]
fn an_update_takes_changed_fields_and_drops_removed_ones() {
    let mut first = config_map(json!({"a": "1", "b": "1", "c": "1"}));
    track_update(None, &mut first, &writer("one", "core.v1.ConfigMap", 0));
    let mut second = config_map(json!({"a": "2", "b": "1", "d": "1"}));
    track_update(
        Some(&first),
        &mut second,
        &writer("two", "core.v1.ConfigMap", 1),
    );
    assert_eq!(
        owned(&second, "one Update"),
        json!({"f:data": {".": {}, "f:b": {}}})
    );
    assert_eq!(
        owned(&second, "two Update"),
        json!({"f:data": {"f:a": {}, "f:d": {}}})
    );
    let mut same = second.clone();
    same.metadata_mut().remove("managedFields");
    track_update(
        Some(&second),
        &mut same,
        &writer("three", "core.v1.ConfigMap", 2),
    );
    assert_eq!(same, second, "a write that changes nothing leaves no trace");
}

#[test]
fn entries_can_be_edited_and_reset_by_clients() {
    let mut first = config_map(json!({"a": "1"}));
    track_update(None, &mut first, &writer("one", "core.v1.ConfigMap", 0));
    let mut edited = first.clone();
    edited.metadata_mut().get_mut("managedFields").unwrap()[0]["manager"] = "renamed".into();
    track_update(
        Some(&first),
        &mut edited,
        &writer("x", "core.v1.ConfigMap", 1),
    );
    assert_eq!(owners(&edited)[0].0, "renamed Update");
    let mut rubbish = first.clone();
    rubbish
        .metadata_mut()
        .insert("managedFields".into(), json!([{"operation": "Jump"}]));
    track_update(
        Some(&first),
        &mut rubbish,
        &writer("x", "core.v1.ConfigMap", 1),
    );
    assert_eq!(rubbish, first);
    let mut reset = first.clone();
    reset
        .metadata_mut()
        .insert("managedFields".into(), json!([{}]));
    track_update(
        Some(&first),
        &mut reset,
        &writer("x", "core.v1.ConfigMap", 1),
    );
    assert!(owners(&reset).is_empty());
    let mut later = config_map(json!({"a": "2"}));
    track_update(
        Some(&reset),
        &mut later,
        &writer("x", "core.v1.ConfigMap", 2),
    );
    assert!(
        owners(&later).is_empty(),
        "not tracked until the next apply"
    );
    let applied = apply_as(
        Some(&later),
        &config_map(json!({"b": "1"})),
        "y",
        "core.v1.ConfigMap",
    );
    let before = json!({"f:data": {".": {}, "f:a": {}}});
    assert_eq!(owned(&applied, "before-first-apply Update"), before);
}

#[test]
fn the_status_subresource_does_not_own_spec_and_the_main_resource_not_status() {
    let ty = "apps.v1.Deployment";
    let mut first = deployment(json!({"status": {"replicas": 1}}));
    track_update(None, &mut first, &writer("a", ty, 0));
    assert!(owned(&first, "a Update").get("f:status").is_none());
    let mut second = first.clone();
    second.0["spec"]["replicas"] = 9.into();
    second.0["status"] =
        json!({"replicas": 2, "conditions": [{"type": "Ready", "status": "True"}]});
    let status = Writer {
        subresource: "status",
        reset: Reset::of(true, "status"),
        ..writer("kcm", ty, 1)
    };
    track_update(Some(&first), &mut second, &status);
    let expected = json!({"f:status": {"f:replicas": {}, "f:conditions":
        {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:type": {}, "f:status": {}}}}});
    assert_eq!(owned(&second, "kcm Update status"), expected);
}

#[test]
fn more_than_ten_updaters_become_ancient_changes() {
    let ty = "core.v1.ConfigMap";
    let mut live: Option<Object> = None;
    let names: Vec<_> = (0..15).map(|n| format!("m{n:02}")).collect();
    for (minute, name) in (0..).zip(&names) {
        let mut data = live
            .as_ref()
            .map_or(json!({}), |live| live.0["data"].clone());
        data[name] = "x".into();
        let mut new = config_map(data);
        track_update(live.as_ref(), &mut new, &writer(name, ty, minute));
        live = Some(new);
    }
    let live = live.unwrap();
    let names: Vec<_> = owners(&live).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 10);
    let ancient = owned(&live, "ancient-changes Update");
    assert_eq!(ancient["f:data"].as_object().unwrap().len(), 7, "{ancient}");
    assert!(names.contains(&"m14 Update".to_owned()));
}

#[test]
fn an_apply_owns_its_fields_and_removes_what_it_no_longer_applies() {
    let ty = "core.v1.ConfigMap";
    let first = apply_as(None, &config_map(json!({"a": "1", "b": "1"})), "me", ty);
    assert_eq!(
        owned(&first, "me Apply"),
        json!({"f:data": {"f:a": {}, "f:b": {}}})
    );
    let second = apply_as(Some(&first), &config_map(json!({"b": "2"})), "me", ty);
    assert_eq!(second.0["data"], json!({"b": "2"}));
    assert_eq!(owned(&second, "me Apply"), json!({"f:data": {"f:b": {}}}));
    let none = object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    let third = apply_as(Some(&second), &none, "me", ty);
    assert!(
        third.0.get("data").is_none_or(|data| data == &json!({})),
        "{third:?}"
    );
    assert_eq!(third.name(), "a");
}

#[test]
fn what_another_one_owns_too_stays() {
    let ty = "core.v1.ConfigMap";
    let first = apply_as(None, &config_map(json!({"a": "1", "b": "1"})), "me", ty);
    let shared = apply_as(Some(&first), &config_map(json!({"a": "1"})), "you", ty);
    assert_eq!(owned(&shared, "you Apply"), json!({"f:data": {"f:a": {}}}));
    let third = apply_as(Some(&shared), &config_map(json!({"c": "1"})), "me", ty);
    assert_eq!(third.0["data"], json!({"a": "1", "c": "1"}));
    let again = apply(
        Some(&third),
        &config_map(json!({"c": "1"})),
        &writer("me", ty, 9),
        false,
    );
    assert_eq!(
        again.unwrap(),
        third,
        "the same again changes nothing, not even the time"
    );
}

#[test]
fn a_conflict_names_owner_and_field_and_force_takes_it() {
    let ty = "apps.v1.Deployment";
    let live = apply_as(
        None,
        &deployment(json!({"spec": {"replicas": 3}})),
        "gitops",
        ty,
    );
    let mut scaled = live.clone();
    scaled.0["spec"]["replicas"] = 5.into();
    track_update(Some(&live), &mut scaled, &writer("kubectl-scale", ty, 2));
    let config = deployment(json!({"spec": {"replicas": 4}}));
    let refused = apply(Some(&scaled), &config, &writer("gitops", ty, 3), false).unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-scale\" using apps/v1: .spec.replicas"
    );
    let cause = json!({
        "reason": "FieldManagerConflict", "field": ".spec.replicas",
        "message": "conflict with \"kubectl-scale\" using apps/v1",
    });
    assert_eq!(refused.details, Some(json!({"causes": [cause]})));
    let forced = apply(Some(&scaled), &config, &writer("gitops", ty, 3), true).unwrap();
    assert_eq!(forced.0["spec"]["replicas"], 4);
    assert_eq!(owners(&forced).len(), 1);
    let other = deployment(
        json!({"spec": {"replicas": 1, "template": {"spec": {"containers":
        [{"name": "nginx", "image": "nginx:2"}]}}}}),
    );
    let refused = apply(Some(&forced), &other, &writer("me", ty, 4), false).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 2 conflicts: conflicts with \"gitops\":\n- .spec.replicas\n\
         - .spec.template.spec.containers[name=\"nginx\"].image"
    );
}

#[test]
fn items_of_lists_with_keys_are_owned_one_by_one() {
    let ty = "core.v1.Service";
    let service = |ports: Value| {
        object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"ports": ports}}),
        )
    };
    let mine = service(json!([{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}]));
    let first = apply_as(None, &mine, "me", ty);
    assert_eq!(
        owned(&first, "me Apply"),
        json!({"f:spec": {"f:ports": {
            "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:name": {}},
            "k:{\"port\":53,\"protocol\":\"UDP\"}": {".": {}, "f:port": {}, "f:protocol": {}},
        }}})
    );
    let yours = service(
        json!([{"port": 443, "name": "https"}, {"port": 80, "protocol": "TCP", "targetPort": 8080}]),
    );
    let both = apply_as(Some(&first), &yours, "you", ty);
    let ports: Vec<_> = both.0["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["port"].clone())
        .collect();
    assert_eq!(ports, [443, 80, 53]);
    let less = service(json!([{"port": 53, "protocol": "UDP"}]));
    let third = apply_as(Some(&both), &less, "me", ty);
    let expected = json!([
        {"port": 443, "name": "https"},
        {"port": 80, "protocol": "TCP", "targetPort": 8080},
        {"port": 53, "protocol": "UDP"},
    ]);
    assert_eq!(third.0["spec"]["ports"], expected);
}

#[test]
fn sets_merge_and_atomic_fields_are_replaced() {
    let ty = "core.v1.Service";
    let service = |finalizers: Value, selector: Value| {
        object(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "s", "finalizers": finalizers}, "spec": {"selector": selector}}))
    };
    let first = apply_as(None, &service(json!(["a"]), json!({"x": "1"})), "me", ty);
    let fields = owned(&first, "me Apply");
    assert_eq!(fields["f:metadata"]["f:finalizers"], json!({"v:\"a\"": {}}));
    assert_eq!(fields["f:spec"]["f:selector"], json!({}));
    let forced = apply(
        Some(&first),
        &service(json!(["b"]), json!({"y": "2"})),
        &writer("you", ty, 2),
        true,
    );
    let forced = forced.unwrap();
    assert_eq!(forced.0["metadata"]["finalizers"], json!(["a", "b"]));
    assert_eq!(forced.0["spec"]["selector"], json!({"y": "2"}));
    let removed = apply_as(
        Some(&forced),
        &service(json!(["c"]), json!({"y": "2"})),
        "you",
        ty,
    );
    assert_eq!(removed.0["metadata"]["finalizers"], json!(["a", "c"]));
}

#[test]
fn kubectl_takes_over_from_its_client_side_apply() {
    let ty = "apps.v1.Deployment";
    let config = deployment(json!({"spec": {"replicas": 3}}));
    let annotation = Value::Object(config.0.clone()).to_string();
    let key = "kubectl.kubernetes.io/last-applied-configuration";
    let mut live = config.clone();
    live.metadata_mut()
        .insert("annotations".into(), json!({key: annotation}));
    track_update(None, &mut live, &writer("kubectl-client-side-apply", ty, 0));
    let wish = deployment(json!({"spec": {"replicas": 4}}));
    let other = apply(Some(&live), &wish, &writer("argo", ty, 1), false);
    assert_eq!(other.unwrap_err().code, 409);
    let taken = apply(Some(&live), &wish, &writer("kubectl", ty, 1), false).unwrap();
    assert_eq!(taken.0["spec"]["replicas"], 4);
    let kept: Value =
        serde_json::from_str(taken.text_at(&["metadata", "annotations", key])).unwrap();
    assert_eq!(kept["spec"]["replicas"], 4);
    let mut drifted = live.clone();
    drifted.0["spec"]["replicas"] = 7.into();
    track_update(Some(&live), &mut drifted, &writer("hpa", ty, 1));
    let refused = apply(Some(&drifted), &wish, &writer("kubectl", ty, 2), false).unwrap_err();
    assert!(refused.message.contains("\"hpa\""), "{}", refused.message);
}

#[test]
fn owners_by_another_version_are_owners_all_the_same() {
    let ty = "apps.v1.Deployment";
    let mut live = apply_as(
        None,
        &deployment(json!({"spec": {"replicas": 1}})),
        "old",
        ty,
    );
    let entry = &mut live.metadata_mut()["managedFields"][0];
    entry["apiVersion"] = "apps/v1beta1".into();
    entry["operation"] = "Update".into();
    let wish = deployment(json!({"spec": {"replicas": 2}}));
    let refused = apply(Some(&live), &wish, &writer("me", ty, 1), false).unwrap_err();
    assert!(
        refused
            .message
            .contains("conflict with \"old\" using apps/v1beta1: .spec.replicas"),
        "{}",
        refused.message
    );
    let forced = apply(Some(&live), &wish, &writer("me", ty, 1), true).unwrap();
    let entries = forced.at(&["metadata", "managedFields"]).unwrap();
    let old = entries.as_array().unwrap().iter();
    let mut old = old.filter(|entry| entry["manager"] == "old");
    let fields = &old.next().unwrap()["fieldsV1"];
    assert_eq!(fields.pointer("/f:spec/f:replicas"), None);
}

#[test]
fn configurations_with_entries_or_another_version_are_refused() {
    let ty = "apps.v1.Deployment";
    let live = apply_as(None, &deployment(json!({})), "me", ty);
    let with = deployment(json!({"metadata": {"managedFields": [{}]}}));
    let refused = apply(Some(&live), &with, &writer("me", ty, 1), false).unwrap_err();
    assert_eq!(refused.message, "metadata.managedFields must be nil");
    let version = deployment(json!({"apiVersion": "apps/v1beta1"}));
    assert_eq!(
        apply(Some(&live), &version, &writer("me", ty, 1), false)
            .unwrap_err()
            .code,
        400
    );
}

#[test]
fn bodies_of_applies_are_checked_in_upstreams_words() {
    let ty = builtin().get("apps.v1.Deployment").unwrap();
    let message = |body: Value| {
        let body = body.to_string();
        read(body.as_bytes(), ty, Mode::Ignore).unwrap_err().message
    };
    let head = "failed to create typed patch object (/web; apps/v1, Kind=Deployment): ";
    let unknown = message(deployment(json!({"spec": {"replcas": 1}})).into_value());
    assert_eq!(
        unknown,
        format!("{head}.spec.replcas: field not declared in schema")
    );
    let two = message(deployment(json!({"spec": {"replicas": "1", "template": {"spec": {"containers":
        [{"name": "a", "ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "TCP"}]}]}}}}))
        .into_value());
    assert_eq!(
        two,
        format!(
            "{head}errors:\n  .spec.replicas: expected numeric (int or float), got string\n  \
                 .spec.template.spec.containers[name=\"a\"].ports: duplicate entries for key \
                 [containerPort=1,protocol=\"TCP\"]"
        )
    );
    let key = message(
        deployment(json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}))
            .into_value(),
    );
    assert!(
        key.contains("containers: element 0: associative list with keys has an element"),
        "{key}"
    );
    let label = message(deployment(json!({"metadata": {"labels": {"a": 1}}})).into_value());
    assert!(
        label.ends_with(
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}"
        ),
        "{label}"
    );
    let selector = message(deployment(json!({"spec": {"selector": {"x": 1}}})).into_value());
    assert!(
        selector.ends_with(".spec.selector.x: field not declared in schema"),
        "{selector}"
    );
}

#[test]
fn bodies_of_applies_may_be_yaml_and_are_normalized() {
    let ty = builtin().get("core.v1.Pod").unwrap();
    let body = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  creationTimestamp: null\nspec:\n  \
                containers:\n  - name: a\n    resources: {limits: {cpu: 0.5, memory: 1024Ki}}\n    \
                name: b\n";
    let (pod, warnings) = read(body.as_bytes(), ty, Mode::Warn).unwrap();
    let container = &pod.0["spec"]["containers"][0];
    assert_eq!(
        container["resources"]["limits"],
        json!({"cpu": "500m", "memory": "1Mi"})
    );
    assert_eq!(warnings, ["duplicate field \"spec.containers[0].name\""]);
    assert_eq!(
        read(body.as_bytes(), ty, Mode::Strict).unwrap_err().code,
        400
    );
    assert_eq!(read(b"a: [", ty, Mode::Warn).unwrap_err().code, 400);
    assert_eq!(read(b"", ty, Mode::Warn).unwrap_err().code, 400);
}

mod any_object {
    use super::*;
    use proptest::prelude::*;

    /// Values that look like objects and are not.
    fn rubbish() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z$=:/. ]{0,4}".prop_map(Value::from),
        ];
        scalar.prop_recursive(6, 40, 5, |inner| {
            let key = prop_oneof![
                Just("metadata"),
                Just("spec"),
                Just("template"),
                Just("containers"),
                Just("name"),
                Just("ports"),
                Just("containerPort"),
                Just("labels"),
                Just("finalizers"),
                Just("managedFields"),
                Just("fieldsV1"),
                Just("manager"),
                Just("operation"),
                Just("f:spec"),
                Just("k:{}"),
                Just("v:1"),
                Just("."),
                Just("$patch"),
                Just("$setElementOrder/containers"),
                Just("$retainKeys"),
                Just("strategy"),
                Just("$deleteFromPrimitiveList/finalizers"),
                Just("resources"),
                Just("limits"),
                Just("status"),
                Just("conditions"),
                Just("type"),
                Just("op"),
                Just("path"),
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(key.prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn services() -> impl Strategy<Value = Object> {
        let port = ("[a-c]", 1..4i32, proptest::option::of("TCP|UDP"));
        let ports = proptest::collection::vec(port, 0..4);
        let labels = proptest::collection::btree_map("[a-c]", "[x-z]", 1..3);
        let finalizers = proptest::collection::btree_set("[p-r]", 0..3);
        (
            ports,
            labels,
            finalizers,
            proptest::option::of("None|Client"),
        )
            .prop_map(|(ports, labels, finalizers, affinity)| {
                let mut seen = std::collections::BTreeSet::new();
                let ports: Vec<_> = ports
                    .into_iter()
                    .filter(|(_, port, protocol)| {
                        seen.insert((*port, protocol.clone().unwrap_or("TCP".into())))
                    })
                    .map(|(name, port, protocol)| {
                        let mut port = json!({"name": name, "port": port});
                        if let Some(protocol) = protocol {
                            port["protocol"] = protocol.into();
                        }
                        port
                    })
                    .collect();
                let mut service = json!({"apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": "s", "labels": labels, "finalizers": finalizers},
                    "spec": {"ports": ports}});
                if let Some(affinity) = affinity {
                    service["spec"]["sessionAffinity"] = affinity.into();
                }
                object(service)
            })
    }

    proptest! {
        #[test]
        fn nothing_panics_on_rubbish(a in rubbish(), b in rubbish()) {
            use crate::api::{codec, patch};
            let ty = builtin().get("apps.v1.Deployment").unwrap();
            let (bytes_a, bytes_b) = (a.to_string().into_bytes(), b.to_string().into_bytes());
            let expect = codec::Expect { ty, mode: Mode::Strict, bytes_max: 1 << 20 };
            codec::decode(&bytes_a, codec::MediaType::Json, &expect).ok();
            codec::decode(&bytes_a, codec::MediaType::Yaml, &expect).ok();
            let patched = codec::Patched {
                shown: String::new(),
                duplicates: patch::duplicates(&bytes_b),
                object: a.clone(),
            };
            codec::check_patched(patched, ty, Mode::Strict).ok();
            if let Ok(bytes) = codec::protobuf::write::object(&a) {
                codec::decode(&bytes, codec::MediaType::Protobuf, &expect).ok();
            }
            read(&bytes_a, ty, Mode::Strict).ok();
            for kind in [patch::PatchType::Json, patch::PatchType::Merge, patch::PatchType::Strategic] {
                patch::apply(kind, a.clone(), &bytes_b, ty).ok();
            }
            let (a, mut b) = (codec::prune(&a, ty), codec::prune(&b, ty));
            apply(Some(&a), &b, &writer("me", "apps.v1.Deployment", 1), false).ok();
            apply(None, &b, &writer("kubectl", "apps.v1.Deployment", 1), true).ok();
            track_update(Some(&a), &mut b, &writer("me", "apps.v1.Deployment", 1));
            codec::yaml::value(&codec::yaml::to_string(&b.into_value())).unwrap();
        }

        #[test]
        fn a_forced_apply_wins_and_is_idempotent(a in services(), b in services(), c in services()) {
            let ty = "core.v1.Service";
            let force = |live: Option<&Object>, config: &Object, who: &str| {
                apply(live, config, &writer(who, ty, 1), true).unwrap()
            };
            let live = force(Some(&force(None, &a, "one")), &b, "two");
            let live = force(Some(&live), &c, "one");
            prop_assert_eq!(&force(Some(&live), &c, "one"), &live);
            let node = Node::root(builtin().get(ty).unwrap());
            let wanted = schema::fields_of(node, &c.0);
            let present = schema::fields_of(node, &live.0);
            prop_assert!(wanted.is_within(&present));
            let compared = Comparison::of(node, &live.0, &c.0);
            prop_assert!(compared.modified.intersection(&wanted).is_empty());
            // The other one's fields that this one did not change are still there.
            let mine = force(None, &b, "two");
            let kept = Managed::of(&live).0.into_iter().find(|m| m.id.manager == "two");
            for path in kept.iter().flat_map(|m| m.set.paths()) {
                let had = Managed::of(&mine).0[0].set.paths();
                prop_assert!(had.contains(&path), "{}", path);
            }
        }

        #[test]
        fn no_field_without_an_owner_after_updates(a in services(), b in services()) {
            let ty = "core.v1.Service";
            let (mut first, mut second) = (a, b);
            track_update(None, &mut first, &writer("one", ty, 0));
            track_update(Some(&first), &mut second, &writer("two", ty, 1));
            let node = Node::root(builtin().get(ty).unwrap());
            let mut bare = second.clone();
            bare.metadata_mut().remove("managedFields");
            let present = schema::fields_of(node, &bare.0).difference(&SYSTEM);
            let owners = Managed::of(&second).0;
            let all = owners.iter().fold(Set::default(), |all, m| all.union(m.set.clone()));
            prop_assert!(present.is_within(&all), "{} not in {}", present.print(), all.print());
            let both = owners.iter().map(|m| &m.set).collect::<Vec<_>>();
            if let [one, two] = both.as_slice() {
                prop_assert!(one.intersection(two).is_empty());
            }
        }
    }
}
