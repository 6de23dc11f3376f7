//! Documents as clients take them apart.

use serde_json::Value;

use super::*;
use crate::api::schema::type_for;

const ALL: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];

fn served(group: &str, version: &str, kind: &str, plural: &'static str) -> Served<'static> {
    let kind = GroupVersionKind::new(group, version, kind);
    Served {
        schema: type_for(&kind),
        subresources: vec![Part {
            name: "status",
            kind: kind.clone(),
            verbs: vec!["get", "update", "patch"],
        }],
        kind,
        plural,
        namespaced: plural != "nodes",
        verbs: ALL.to_vec(),
        custom: None,
    }
}

fn some() -> Vec<Served<'static>> {
    vec![
        served("", "v1", "Pod", "pods"),
        served("", "v1", "Node", "nodes"),
        served("apps", "v1", "Deployment", "deployments"),
        served("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ]
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Every reference of a document leads somewhere.
fn assert_references_resolve(document: &Value) {
    let mut open = vec![document];
    while let Some(value) = open.pop() {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        match value {
            Value::Object(map) => open.extend(map.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

#[test]
fn v3_documents_say_what_kubectl_looks_for() {
    let document = parsed(&v3::document(&some(), "apps", "v1").unwrap());
    assert_references_resolve(&document);
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let patch = &document["paths"][path]["patch"];
    let names: Vec<_> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(
        names,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    assert_eq!(
        patch["x-kubernetes-group-version-kind"]["kind"],
        "Deployment"
    );
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(
        document["paths"][path.to_owned() + "/status"]["put"]["x-kubernetes-action"],
        "put"
    );
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(
        spec["x-kubernetes-list-map-keys"],
        serde_json::json!(["name"])
    );
    assert_eq!(spec["x-kubernetes-patch-merge-key"], "name");
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert!(strategy["allOf"][0]["$ref"].is_string());
    let kinds = &schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"];
    assert_eq!(kinds[0]["group"], "apps");
    assert!(schemas.get("io.k8s.api.core.v1.Node").is_none());
    assert!(v3::document(&some(), "apps", "v2").is_none());
}

#[test]
fn the_index_points_at_documents_with_a_hash_that_follows_them() {
    let index = parsed(&v3::index(&some()));
    let paths = index["paths"].as_object().unwrap();
    let names: Vec<_> = paths.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "api/v1",
            "apis/apps/v1",
            "apis/rbac.authorization.k8s.io/v1"
        ]
    );
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let hash = v3::hash(&some(), "apps", "v1");
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={hash}"));
    let mut more = some();
    more.push(served("apps", "v1", "ReplicaSet", "replicasets"));
    assert_ne!(v3::hash(&more, "apps", "v1"), hash);
    assert_eq!(v3::hash(&more, "", "v1"), v3::hash(&some(), "", "v1"));
    let twice = [
        v3::document(&some(), "", "v1"),
        v3::document(&some(), "", "v1"),
    ];
    assert_eq!(twice[0], twice[1]);
}

#[test]
fn v2_holds_everything_in_one_document() {
    let document = parsed(&v2::json(&some()));
    assert_references_resolve(&document);
    assert_eq!(document["swagger"], "2.0");
    let paths = &document["paths"];
    assert_eq!(
        paths["/api/v1/nodes"]["get"]["operationId"],
        "listCoreV1Node"
    );
    let all = &paths["/api/v1/pods"]["get"]["operationId"];
    assert_eq!(all, "listCoreV1PodForAllNamespaces");
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles";
    let delete = &paths[roles]["delete"]["operationId"];
    assert_eq!(delete, "deleteRbacAuthorizationV1CollectionNamespacedRole");
    let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    assert!(
        pod["description"]
            .as_str()
            .unwrap()
            .starts_with("Pod is a collection")
    );
}

/// Reads one message: numbers with texts or messages.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        match key & 7 {
            2 => {
                let size = usize::try_from(varint(&mut bytes)).unwrap();
                found.push((key >> 3, &bytes[..size]));
                bytes = &bytes[size..];
            }
            0 => {
                varint(&mut bytes);
                found.push((key >> 3, &[]));
            }
            other => panic!("wire type {other}"),
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn named<'b>(message: &'b [u8], number: u64, name: &str) -> &'b [u8] {
    let entries = fields(message).into_iter().filter(|f| f.0 == number);
    let found = entries
        .map(|f| fields(f.1))
        .find(|f| f[0].1 == name.as_bytes());
    found.unwrap_or_else(|| panic!("no `{name}`"))[1].1
}

fn only(message: &[u8], number: u64) -> &[u8] {
    fields(message)
        .into_iter()
        .find(|f| f.0 == number)
        .unwrap()
        .1
}

#[test]
fn the_protobuf_form_has_paths_parameters_and_definitions() {
    let document = v2::protobuf(&some());
    assert_eq!(only(&document, 1), b"2.0");
    let path = named(
        only(&document, 8),
        2,
        "/api/v1/namespaces/{namespace}/pods/{name}",
    );
    let patch = only(path, 8);
    let extension = named(patch, 13, "x-kubernetes-group-version-kind");
    let kind: Value = serde_json::from_slice(only(extension, 2)).unwrap();
    assert_eq!(kind["kind"], "Pod");
    // ParametersItem.parameter.non_body_parameter.query_parameter_sub_schema.name
    let first = only(only(only(only(patch, 8), 1), 2), 3);
    assert_eq!(only(first, 4), b"dryRun");
    let spec = named(only(&document, 9), 1, "io.k8s.api.core.v1.PodSpec");
    let containers = named(only(spec, 25), 1, "containers");
    assert_eq!(only(only(containers, 22), 1), b"array");
    let key = named(containers, 31, "x-kubernetes-patch-merge-key");
    assert_eq!(only(key, 2), b"\"name\"\n");
}
