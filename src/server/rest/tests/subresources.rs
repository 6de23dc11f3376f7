//! Binding, eviction, scale, tokens, ephemeral containers.

use serde_json::{Value, json};

use super::harness::Api;
use crate::server::request::User;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MERGE: &str = "content-type: application/merge-patch+json";

async fn pod(api: &Api, name: &str) -> Value {
    let pod = json!({
        "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    api.ok(&format!("POST {PODS}"), pod).await
}

fn binding(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    })
}

#[tokio::test]
async fn a_pod_is_bound_once_by_either_path() {
    let api = Api::new().await;
    pod(&api, "p").await;
    pod(&api, "q").await;
    let (code, done) = api
        .call(&format!("POST {PODS}/p/binding"), binding("p", "n1"))
        .await;
    assert_eq!((code, &done["status"]), (201, &json!("Success")));
    let bound = api.ok(&format!("GET {PODS}/p"), Value::Null).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = api
        .err(&format!("POST {PODS}/p/binding"), binding("p", "n2"))
        .await;
    assert_eq!(again.0, 409);
    let path = "/api/v1/namespaces/default/bindings";
    api.ok(&format!("POST {path}"), binding("q", "n1")).await;
    assert_eq!(
        api.err(&format!("POST {path}"), binding("none", "n1"))
            .await
            .0,
        404
    );
    assert_eq!(
        api.err(&format!("POST {path}"), binding("q", "")).await.0,
        422
    );
    let on_node = format!("GET {PODS}?fieldSelector=spec.nodeName%3Dn1");
    let list = api.ok(&on_node, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_eviction_deletes_and_a_status_is_the_nodes() {
    let mut api = Api::new().await;
    let made = pod(&api, "p").await;
    api.ok(&format!("POST {PODS}/p/binding"), binding("p", "n1"))
        .await;
    api.user = User {
        name: "system:node:n1".to_owned(),
        groups: vec!["system:nodes".to_owned()],
        ..User::default()
    };
    let line = format!("PATCH {PODS}/p/status | {MERGE}");
    let running = api.ok(&line, json!({"status": {"phase": "Running"}})).await;
    assert_eq!(running["status"]["phase"], "Running");
    api.user.name = "system:node:n2".to_owned();
    let (code, message) = api.err(&line, json!({"status": {"phase": "Failed"}})).await;
    assert_eq!(code, 403);
    assert!(
        message.contains("node \"n2\" can only update pod status"),
        "{message}"
    );
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
        "deleteOptions": {"gracePeriodSeconds": 3},
    });
    let line = format!("POST {PODS}/p/eviction");
    assert_eq!(api.err(&line, eviction.clone()).await.0, 403);
    api.user = User::system("admin");
    assert_eq!(api.call(&line, eviction).await.0, 201);
    let ending = api.ok(&format!("GET {PODS}/p"), Value::Null).await;
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 3);
    assert_eq!(ending["metadata"]["uid"], made["metadata"]["uid"]);
}

#[tokio::test]
async fn a_scale_is_read_and_written() {
    let api = Api::new().await;
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    let set = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    api.ok(&format!("POST {path}"), set).await;
    let mut scale = api.ok(&format!("GET {path}/web/scale"), Value::Null).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"]),
        (&json!("Scale"), &json!(1))
    );
    assert_eq!(scale["status"]["selector"], "app=web");
    scale["spec"]["replicas"] = 3.into();
    let scaled = api
        .ok(&format!("PUT {path}/web/scale"), scale.clone())
        .await;
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(
        api.err(&format!("PUT {path}/web/scale"), scale).await.0,
        409
    );
    let patch = json!({"spec": {"replicas": 4}});
    api.ok(&format!("PATCH {path}/web/scale | {MERGE}"), patch)
        .await;
    let set = api.ok(&format!("GET {path}/web"), Value::Null).await;
    assert_eq!(
        (&set["spec"]["replicas"], &set["metadata"]["generation"]),
        (&json!(4), &json!(3))
    );
    let negative = json!({"spec": {"replicas": -1}});
    assert_eq!(
        api.err(&format!("PATCH {path}/web/scale | {MERGE}"), negative)
            .await
            .0,
        422
    );
}

#[tokio::test]
async fn a_scale_is_applied_and_its_owners_are_those_of_the_object() {
    const APPLY: &str = "content-type: application/apply-patch+yaml";
    let api = Api::new().await;
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    api.ok(&format!("POST {path}?fieldManager=maker"), set)
        .await;
    let scale = |replicas: u32| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": replicas}});
    let line = format!("PATCH {path}/web/scale?fieldManager=scaler");
    let refused = api.err(&format!("{line} | {APPLY}"), scale(4)).await;
    assert_eq!(
        refused,
        (
            409,
            "Apply failed with 1 conflict: conflict with \"maker\" using autoscaling/v1: \
             .spec.replicas"
                .to_owned()
        )
    );
    let forced = format!("{line}&force=true | {APPLY}");
    let applied = api.ok(&forced, scale(4)).await;
    assert_eq!(applied["kind"], "Scale");
    assert_eq!(applied["spec"]["replicas"], 4);
    let set = api.ok(&format!("GET {path}/web"), Value::Null).await;
    assert_eq!(
        set["spec"]["template"]["spec"]["containers"][0]["name"],
        "c"
    );
    let entries = set["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["manager"] == "scaler");
    let entry = entry.unwrap();
    assert_eq!(entry["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(
        (&entry["subresource"], &entry["apiVersion"]),
        (&json!("scale"), &json!("apps/v1"))
    );
    let maker = entries.iter().find(|entry| entry["manager"] == "maker");
    let still = &maker.unwrap()["fieldsV1"]["f:spec"];
    assert_eq!(still.get("f:replicas"), None);
    let again = api.ok(&format!("{line} | {APPLY}"), scale(5)).await;
    assert_eq!(again["spec"]["replicas"], 5);
}

#[tokio::test]
async fn a_token_is_bound_to_a_pod_of_its_account() {
    let api = Api::new().await;
    let made = pod(&api, "p").await;
    let line = "POST /api/v1/namespaces/default/serviceaccounts/default/token";
    let request = |uid: &Value| {
        json!({"spec": {
            "audiences": ["a"], "expirationSeconds": 600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid},
        }})
    };
    let token = api.ok(line, request(&made["metadata"]["uid"])).await;
    assert_eq!(token["status"]["token"], "token of default for Some(\"p\")");
    assert_eq!(
        token["status"]["expirationTimestamp"],
        "2026-01-02T03:14:05Z"
    );
    assert_eq!(api.err(line, request(&json!("other"))).await.0, 409);
    let short = json!({"spec": {"audiences": ["a"], "expirationSeconds": 10}});
    assert_eq!(api.err(line, short).await.0, 422);
    let unbound = api.ok(line, json!({"spec": {"audiences": []}})).await;
    assert_eq!(unbound["spec"]["audiences"], json!(["api"]));
}

#[tokio::test]
async fn an_ephemeral_container_is_added_and_stays() {
    let api = Api::new().await;
    pod(&api, "p").await;
    let line = format!(
        "PATCH {PODS}/p/ephemeralcontainers | \
        content-type: application/strategic-merge-patch+json"
    );
    let added = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "b"}]}});
    let pod = api.ok(&line, added).await;
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["name"], "debug");
    let changed = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "c"}]}});
    assert_eq!(api.err(&line, changed).await.0, 422);
    let missing = format!("PATCH {PODS}/none/ephemeralcontainers | {MERGE}");
    assert_eq!(api.err(&missing, json!({})).await.0, 404);
    assert_eq!(
        api.err(&format!("GET {PODS}/p/nothing"), Value::Null)
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn an_eviction_asks_the_budget_of_the_pod() {
    const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let api = Api::new().await;
    for name in ["a", "b", "sick"] {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec});
        api.ok(&format!("POST {PODS}"), pod).await;
        let ready = if name == "sick" { "False" } else { "True" };
        let status =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
        let line = format!("PATCH {PODS}/{name}/status | {MERGE}");
        api.ok(&line, json!({"status": status})).await;
    }
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let budget = json!({"metadata": {"name": "web"}, "spec": spec});
    api.ok(&format!("POST {BUDGETS}"), budget.clone()).await;
    let evict = |name: &str| format!("POST {PODS}/{name}/eviction");
    let eviction = || json!({"apiVersion": "policy/v1", "kind": "Eviction"});
    let (code, unknown) = api.call(&evict("a"), eviction()).await;
    assert_eq!((code, &unknown["reason"]), (429, &json!("TooManyRequests")));
    assert_eq!(unknown["details"]["retryAfterSeconds"], 10);
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 3});
    let line = format!("PATCH {BUDGETS}/web/status | {MERGE}");
    api.ok(&line, json!({"status": status})).await;
    let dry = format!("POST {PODS}/a/eviction?dryRun=All");
    assert_eq!(api.call(&dry, eviction()).await.0, 201);
    assert_eq!(api.call(&evict("a"), eviction()).await.0, 201);
    let left = api.ok(&format!("GET {BUDGETS}/web"), Value::Null).await;
    assert_eq!(left["status"]["disruptionsAllowed"], 0);
    assert_eq!(left["status"]["disruptedPods"]["a"], "2026-01-02T03:04:05Z");
    assert_eq!(
        left["status"]["conditions"][0]["reason"],
        "InsufficientPods"
    );
    let (code, refused) = api.call(&evict("b"), eviction()).await;
    assert_eq!(code, 429);
    assert_eq!(
        refused["message"],
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "DisruptionBudget",
            "message": "The disruption budget web needs 1 healthy pods and has 2 currently"}])
    );
    // Enough others are healthy: one that is not may go, and takes nothing.
    assert_eq!(api.call(&evict("sick"), eviction()).await.0, 201);
    let mut second = budget;
    second["metadata"]["name"] = "too".into();
    api.ok(&format!("POST {BUDGETS}"), second).await;
    let (code, message) = api.err(&evict("b"), eviction()).await;
    assert_eq!(code, 500);
    assert!(
        message.contains("more than one PodDisruptionBudget"),
        "{message}"
    );
}
