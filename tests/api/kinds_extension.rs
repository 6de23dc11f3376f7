//! Request and answer, kind by kind, of the groups that extend a cluster: admission, networking,
//! storage, node, aggregation. What is sent and what comes back are Kubernetes'.

use orch::api::gvk::GroupVersionResource;
use orch::api::object::Object;
use orch::client::{DynamicApi, ListParams};
use serde_json::{Value, json};

use crate::world::World;

fn api(world: &World, group: &str, resource: &str, namespace: &str) -> DynamicApi {
    let resource = GroupVersionResource::new(group, "v1", resource);
    world.client.dynamic(&resource, namespace)
}

fn object(group: &str, kind: &str, name: &str, rest: &Value) -> Object {
    let mut object = json!({"apiVersion": format!("{group}/v1"), "kind": kind,
        "metadata": {"name": name}});
    for (field, value) in rest.as_object().unwrap() {
        object[field] = value.clone();
    }
    Object::from_value(object).unwrap()
}

/// Group, kind, plural, namespace; what is sent; a pointer into the answer and what is there.
const DEFAULTS: &[[&str; 7]] = &[
    [
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "",
        r#"{"spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
            "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
            "validations": [{"expression": "object.spec.replicas <= 5"}]}}"#,
        "/spec/matchConstraints/matchPolicy",
        "Equivalent",
    ],
    [
        "networking.k8s.io",
        "NetworkPolicy",
        "networkpolicies",
        "default",
        r#"{"spec": {"podSelector": {}}}"#,
        "/spec/policyTypes/0",
        "Ingress",
    ],
    [
        "storage.k8s.io",
        "StorageClass",
        "storageclasses",
        "",
        r#"{"provisioner": "example.com/disk"}"#,
        "/volumeBindingMode",
        "Immediate",
    ],
    [
        "storage.k8s.io",
        "CSIDriver",
        "csidrivers",
        "",
        r#"{"spec": {}}"#,
        "/spec/fsGroupPolicy",
        "ReadWriteOnceWithFSType",
    ],
    [
        "node.k8s.io",
        "RuntimeClass",
        "runtimeclasses",
        "",
        r#"{"handler": "runsc"}"#,
        "/handler",
        "runsc",
    ],
];

/// Group, kind, plural, namespace; what is sent; the message that comes back.
const REFUSED: &[[&str; 6]] = &[
    [
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "",
        r#"{"webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "clientConfig": {}}]}"#,
        "ValidatingWebhookConfiguration.admissionregistration.k8s.io \"x\" is invalid: \
         webhooks[0].clientConfig: Required value: exactly one of url or service is required",
    ],
    [
        "networking.k8s.io",
        "Ingress",
        "ingresses",
        "default",
        r#"{"spec": {"rules": [{"host": "1.2.3.4"}]}}"#,
        "Ingress.networking.k8s.io \"x\" is invalid: spec.rules[0].host: Invalid value: \
         \"1.2.3.4\": must be a DNS name, not an IP address",
    ],
    [
        "storage.k8s.io",
        "StorageClass",
        "storageclasses",
        "",
        r#"{"provisioner": "a", "volumeBindingMode": "Later"}"#,
        "StorageClass.storage.k8s.io \"x\" is invalid: volumeBindingMode: Unsupported value: \
         \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
    ],
    [
        "apiregistration.k8s.io",
        "APIService",
        "apiservices",
        "",
        r#"{"spec": {"group": "g.example.com", "version": "v1", "groupPriorityMinimum": 1,
            "versionPriority": 1}}"#,
        "APIService.apiregistration.k8s.io \"x\" is invalid: metadata.name: Invalid value: \"x\": \
         must be `spec.version+\".\"+spec.group`: \"v1.g.example.com\"",
    ],
];

#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_extend_a_cluster_answer_as_upstream() {
    let world = World::start(0).await;
    for [group, kind, plural, namespace, sent, pointer, value] in DEFAULTS {
        let sent = serde_json::from_str(sent).unwrap();
        let api = api(&world, group, plural, namespace);
        let created = api.create(&object(group, kind, "x", &sent)).await.unwrap();
        let created = created.into_value();
        let found = created.pointer(pointer);
        assert_eq!(found, Some(&json!(value)), "{kind}: {created}");
    }
    for [group, kind, plural, namespace, sent, message] in REFUSED {
        let sent = serde_json::from_str(sent).unwrap();
        let api = api(&world, group, plural, namespace);
        let error = api.create(&object(group, kind, "x", &sent)).await;
        assert_eq!(error.unwrap_err().to_string(), *message);
    }
    let classes = api(&world, "node.k8s.io", "runtimeclasses", "");
    let mut class = classes.get("x").await.unwrap();
    class.0.insert("handler".into(), "kata".into());
    assert_eq!(
        classes.replace("x", &class).await.unwrap_err().to_string(),
        "RuntimeClass.node.k8s.io \"x\" is invalid: handler: Invalid value: \"kata\": field is \
         immutable"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_levels_and_schemas_are_there_from_the_start() {
    let world = World::start(0).await;
    let group = "flowcontrol.apiserver.k8s.io";
    for (resource, count) in [("prioritylevelconfigurations", 8), ("flowschemas", 13)] {
        let api = api(&world, group, resource, "");
        let names = api.list(&ListParams::default()).await.unwrap().items;
        assert_eq!(names.len(), count, "{resource}");
        assert!(names.iter().any(|object| object.name() == "catch-all"));
    }
}
