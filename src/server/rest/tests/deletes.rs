//! Deletes: grace, finalizers, propagation, namespaces.

use serde_json::{Value, json};

use super::harness::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MERGE: &str = "content-type: application/merge-patch+json";

async fn pod(api: &Api, name: &str, node: &str) -> Value {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 20,
            "containers": [{"name": "c", "image": "i"}],
        },
    });
    api.ok(&format!("POST {PODS}"), pod).await
}

#[tokio::test]
async fn a_delete_answers_with_success_and_checks_preconditions() {
    let api = Api::new().await;
    let map = json!({"metadata": {"name": "a"}});
    let made = api.ok(&format!("POST {MAPS}"), map).await;
    let line = format!("DELETE {MAPS}/a");
    let other = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "x"}});
    let (code, message) = api.err(&line, other).await;
    assert_eq!(code, 409);
    assert!(message.contains("the UID in the precondition (x) does not match the UID in record"));
    let (code, gone) = api.call(&line, Value::Null).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
    assert_eq!(gone["details"]["uid"], made["metadata"]["uid"]);
    assert_eq!(gone["details"]["kind"], "configmaps");
    assert_eq!(api.err(&line, Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_pod_ends_in_its_grace_and_unscheduled_ones_at_once() {
    let api = Api::new().await;
    pod(&api, "free", "").await;
    let gone = api.ok(&format!("DELETE {PODS}/free"), Value::Null).await;
    assert_eq!(gone["kind"], "Pod");
    assert_eq!(
        api.err(&format!("GET {PODS}/free"), Value::Null).await.0,
        404
    );

    pod(&api, "bound", "n1").await;
    let line = format!("DELETE {PODS}/bound");
    let marked = api.ok(&line, Value::Null).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 20);
    assert_eq!(
        marked["metadata"]["deletionTimestamp"],
        "2026-01-02T03:04:25Z"
    );
    let longer = api.ok(&line, json!({"gracePeriodSeconds": 60})).await;
    assert_eq!(
        longer["metadata"]["deletionGracePeriodSeconds"], 20,
        "never longer"
    );
    let shorter = api.ok(&line, json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(
        shorter["metadata"]["deletionTimestamp"],
        "2026-01-02T03:04:10Z"
    );
    api.ok(&line, json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(
        api.err(&format!("GET {PODS}/bound"), Value::Null).await.0,
        404
    );
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let api = Api::new().await;
    let map = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
    api.ok(&format!("POST {MAPS}"), map).await;
    let mut events = api.watch(MAPS).await;
    assert_eq!(events.line().await, "ADDED a");
    let (code, marked) = api.call(&format!("DELETE {MAPS}/a"), Value::Null).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    api.ok(&format!("DELETE {MAPS}/a"), Value::Null).await;
    let line = format!("PATCH {MAPS}/a | {MERGE}");
    let more = json!({"metadata": {"finalizers": ["x/y", "new/one"]}});
    assert_eq!(api.err(&line, more).await.0, 422);
    let last = api
        .ok(&line, json!({"metadata": {"finalizers": null}}))
        .await;
    assert_eq!(last["metadata"].get("finalizers"), None);
    assert_eq!(api.err(&format!("GET {MAPS}/a"), Value::Null).await.0, 404);
    assert_eq!(events.line().await, "MODIFIED a");
    assert_eq!(events.line().await, "DELETED a");
}

#[tokio::test]
async fn propagation_is_left_to_the_collector_as_finalizers() {
    let api = Api::new().await;
    for (policy, finalizer, code) in [
        ("Foreground", "foregroundDeletion", 202),
        ("Orphan", "orphan", 200),
    ] {
        let map = json!({"metadata": {"name": "a"}});
        api.ok(&format!("POST {MAPS}"), map).await;
        let options = json!({"propagationPolicy": policy});
        let (answered, marked) = api.call(&format!("DELETE {MAPS}/a"), options).await;
        assert_eq!(answered, code);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        let done = json!({"metadata": {"finalizers": null}});
        api.ok(&format!("PATCH {MAPS}/a | {MERGE}"), done).await;
    }
    let map = json!({"metadata": {"name": "a"}});
    api.ok(&format!("POST {MAPS}"), map).await;
    let query = format!("DELETE {MAPS}/a?propagationPolicy=Background");
    assert_eq!(api.ok(&query, Value::Null).await["status"], "Success");
}

#[tokio::test]
async fn a_collection_is_deleted_as_selected() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        let map = json!({"metadata": {"name": name, "labels": {"on": (name != "b").to_string()}}});
        api.ok(&format!("POST {MAPS}"), map).await;
    }
    let line = format!("DELETE {MAPS}?labelSelector=on%3Dtrue");
    let gone = api.ok(&line, Value::Null).await;
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let left = api.ok(&format!("GET {MAPS}"), Value::Null).await;
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let api = Api::new().await;
    let made = api
        .ok(
            "POST /api/v1/namespaces",
            json!({"metadata": {"name": "n"}}),
        )
        .await;
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let marked = api.ok("DELETE /api/v1/namespaces/n", Value::Null).await;
    assert_eq!(marked["status"]["phase"], "Terminating");
    let again = api.ok("DELETE /api/v1/namespaces/n", Value::Null).await;
    assert_eq!(
        again["metadata"]["deletionTimestamp"],
        marked["metadata"]["deletionTimestamp"]
    );
    let map = json!({"metadata": {"name": "a"}});
    let (code, message) = api.err("POST /api/v1/namespaces/n/configmaps", map).await;
    assert_eq!(
        (code, message.as_str()),
        (
            403,
            "configmaps \"a\" is forbidden: unable to create new content in namespace n because \
             it is being terminated"
        )
    );
    let mut done = again;
    let mut kept = done.clone();
    kept["spec"]["finalizers"] = json!([]);
    let kept = api.ok("PUT /api/v1/namespaces/n", kept).await;
    assert_eq!(
        kept["spec"]["finalizers"],
        json!(["kubernetes"]),
        "only by finalize"
    );
    done["spec"]["finalizers"] = json!([]);
    done["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"].clone();
    api.ok("PUT /api/v1/namespaces/n/finalize", done).await;
    assert_eq!(
        api.err("GET /api/v1/namespaces/n", Value::Null).await.0,
        404
    );
    let refused = api
        .err("DELETE /api/v1/namespaces/default", Value::Null)
        .await;
    let why = "namespaces \"default\" is forbidden: this namespace may not be deleted";
    assert_eq!(refused, (403, why.to_owned()));
}
