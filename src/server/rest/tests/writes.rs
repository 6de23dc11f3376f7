//! Creates, updates, patches, applies.

use serde_json::{Value, json};

use super::harness::Api;
use crate::store::Store;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "content-type: application/merge-patch+json";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn a_create_fills_in_what_the_server_knows() {
    let api = Api::new().await;
    let (code, made) = api.call(&format!("POST {MAPS}"), map("a")).await;
    assert_eq!(code, 201);
    let meta = &made["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert_eq!(meta["managedFields"][0]["manager"], "test");
    assert_eq!(meta["managedFields"][0]["operation"], "Update");
    assert_eq!(
        meta["managedFields"][0]["fieldsV1"]["f:data"]["f:k"],
        json!({})
    );
    let read = api.ok(&format!("GET {MAPS}/a"), Value::Null).await;
    assert_eq!(read, made);
    let twice = api.err(&format!("POST {MAPS}"), map("a")).await;
    assert_eq!(twice, (409, "configmaps \"a\" already exists".to_owned()));
}

#[tokio::test]
async fn names_are_generated_and_wrong_ones_refused() {
    let api = Api::new().await;
    let wanted = json!({"metadata": {"generateName": "web-"}});
    let first = api.ok(&format!("POST {MAPS}"), wanted.clone()).await;
    let second = api.ok(&format!("POST {MAPS}"), wanted).await;
    assert!(
        first["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("web-")
    );
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    let (code, message) = api.err(&format!("POST {MAPS}"), map("No_Good")).await;
    assert_eq!(code, 422);
    assert!(message.starts_with("ConfigMap \"No_Good\" is invalid: metadata.name: Invalid value"));
    let (code, message) = api
        .err(&format!("POST {MAPS}"), json!({"metadata": {}}))
        .await;
    assert_eq!(code, 422);
    assert!(message.contains("metadata.name: Required value: name or generateName is required"));
    let elsewhere = json!({"metadata": {"name": "a", "namespace": "other"}});
    let (code, message) = api.err(&format!("POST {MAPS}"), elsewhere).await;
    let why =
        "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!((code, message.as_str()), (400, why));
    let (code, _) = api
        .err("POST /api/v1/namespaces/none/configmaps", map("a"))
        .await;
    assert_eq!(code, 404);
    assert_eq!(api.err("POST /api/v1/configmaps", map("a")).await.0, 405);
}

#[tokio::test]
async fn an_update_needs_the_version_it_is_based_on_or_none() {
    let api = Api::new().await;
    let made = api.ok(&format!("POST {MAPS}"), map("a")).await;
    let mut changed = made.clone();
    changed["data"]["k"] = "w".into();
    let updated = api.ok(&format!("PUT {MAPS}/a"), changed.clone()).await;
    assert_eq!(updated["data"]["k"], "w");
    assert_eq!(updated["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, message) = api.err(&format!("PUT {MAPS}/a"), changed).await;
    assert_eq!(code, 409);
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    let forced = api.ok(&format!("PUT {MAPS}/a"), map("a")).await;
    assert_eq!(forced["data"]["k"], "v");
    assert_eq!(
        forced["metadata"]["creationTimestamp"],
        made["metadata"]["creationTimestamp"]
    );
    let before = api.store.current().await.unwrap();
    let same = api.ok(&format!("PUT {MAPS}/a"), map("a")).await;
    assert_eq!(
        same["metadata"]["resourceVersion"],
        forced["metadata"]["resourceVersion"]
    );
    assert_eq!(
        api.store.current().await.unwrap(),
        before,
        "nothing is written"
    );
    assert_eq!(api.err(&format!("PUT {MAPS}/b"), map("b")).await.0, 404);
    let (code, message) = api.err(&format!("PUT {MAPS}/b"), map("a")).await;
    let why = "the name of the object (a) does not match the name on the URL (b)";
    assert_eq!((code, message.as_str()), (400, why));
    let mut other = map("a");
    other["metadata"]["uid"] = "x".into();
    assert_eq!(api.err(&format!("PUT {MAPS}/a"), other).await.0, 409);
}

#[tokio::test]
async fn all_kinds_of_patches_edit() {
    let api = Api::new().await;
    api.ok(&format!("POST {MAPS}"), map("a")).await;
    let line = format!("PATCH {MAPS}/a");
    let merge = json!({"data": {"m": "1"}});
    let merged = api.ok(&format!("{line} | {MERGE}"), merge).await;
    assert_eq!(merged["data"], json!({"k": "v", "m": "1"}));
    let json_patch = json!([{"op": "remove", "path": "/data/k"}]);
    let header = "content-type: application/json-patch+json";
    let patched = api.ok(&format!("{line} | {header}"), json_patch).await;
    assert_eq!(patched["data"], json!({"m": "1"}));
    let header = "content-type: application/strategic-merge-patch+json";
    let strategic = json!({"metadata": {"finalizers": ["a/b"]}});
    let patched = api.ok(&format!("{line} | {header}"), strategic).await;
    assert_eq!(patched["metadata"]["finalizers"], json!(["a/b"]));
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "y"}});
    assert_eq!(api.err(&format!("{line} | {MERGE}"), stale).await.0, 409);
    let header = "content-type: text/plain";
    assert_eq!(
        api.err(&format!("{line} | {header}"), json!({})).await.0,
        415
    );
    let renamed = json!({"metadata": {"name": "b"}});
    assert_eq!(api.err(&format!("{line} | {MERGE}"), renamed).await.0, 400);
    assert_eq!(
        api.err(&format!("PATCH {MAPS}/none | {MERGE}"), json!({}))
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn server_side_apply_makes_owns_and_conflicts() {
    let api = Api::new().await;
    let line = |manager: &str, more: &str| {
        format!(
            "PATCH {MAPS}/a?fieldManager={manager}{more} | \
             content-type: application/apply-patch+yaml"
        )
    };
    let config = |value: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
            "data": {"k": value},
        })
    };
    let (code, made) = api.call(&line("one", ""), config("1")).await;
    assert_eq!(code, 201, "{made:#}");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let (code, again) = api.call(&line("one", ""), config("1")).await;
    assert_eq!(code, 200);
    assert_eq!(again, made, "nothing changes");
    let (code, message) = api.err(&line("two", ""), config("2")).await;
    assert_eq!(code, 409);
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"one\": .data.k"
    );
    let taken = api.ok(&line("two", "&force=true"), config("2")).await;
    assert_eq!(taken["data"]["k"], "2");
    let removed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let removed = api.ok(&line("two", ""), removed).await;
    assert_eq!(removed.get("data"), None);
    let nobody = format!("PATCH {MAPS}/a | content-type: application/apply-patch+yaml");
    assert_eq!(api.err(&nobody, config("3")).await.0, 422);
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let api = Api::new().await;
    let before = api.store.current().await.unwrap();
    let (code, made) = api.call(&format!("POST {MAPS}?dryRun=All"), map("a")).await;
    assert_eq!((code, &made["data"]["k"]), (201, &json!("v")));
    assert!(made["metadata"]["uid"].is_string());
    assert_eq!(api.err(&format!("GET {MAPS}/a"), Value::Null).await.0, 404);
    assert_eq!(api.store.current().await.unwrap(), before);
    api.ok(&format!("POST {MAPS}"), map("a")).await;
    assert_eq!(
        api.err(&format!("POST {MAPS}?dryRun=All"), map("a"))
            .await
            .0,
        409
    );
    let before = api.store.current().await.unwrap();
    let patch = json!({"data": {"k": "w"}});
    let line = format!("PATCH {MAPS}/a?dryRun=All | {MERGE}");
    assert_eq!(api.ok(&line, patch).await["data"]["k"], "w");
    api.ok(&format!("DELETE {MAPS}/a?dryRun=All"), Value::Null)
        .await;
    assert_eq!(api.store.current().await.unwrap(), before);
}

#[tokio::test]
async fn unknown_fields_are_warned_of_or_refused() {
    let api = Api::new().await;
    let odd = json!({"metadata": {"name": "a"}, "dato": {}});
    let response = api
        .send(&format!("POST {MAPS}"), odd.clone())
        .await
        .unwrap();
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(
        warning.starts_with("299 - \"unknown field") && warning.contains("dato"),
        "{warning}"
    );
    let strict = format!("POST {MAPS}?fieldValidation=Strict");
    let (code, message) = api.err(&strict, odd).await;
    assert_eq!(code, 400);
    assert!(
        message.contains("strict decoding error: unknown field"),
        "{message}"
    );
    let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert_eq!(api.err(&format!("POST {MAPS}"), wrong).await.0, 400);
    assert_eq!(api.err(&format!("POST {MAPS}"), "not json").await.0, 400);
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec_alone() {
    let api = Api::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
        "status": {"replicas": 7},
    });
    let made = api.ok(&format!("POST {path}"), deployment).await;
    assert_eq!(made["metadata"]["generation"], 1);
    assert_ne!(made["status"]["replicas"], 7);
    let line = format!("PATCH {path}/web | {MERGE}");
    let labelled = api
        .ok(&line, json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = api
        .ok(
            &line,
            json!({"spec": {"replicas": 2}, "status": {"replicas": 9}}),
        )
        .await;
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert_ne!(scaled["status"]["replicas"], 9);
    let status = format!("PATCH {path}/web/status | {MERGE}");
    let patch = json!({"spec": {"replicas": 5}, "status": {"replicas": 2}});
    let reported = api.ok(&status, patch).await;
    assert_eq!(reported["status"]["replicas"], 2);
    assert_eq!(reported["spec"]["replicas"], 2);
    assert_eq!(reported["metadata"]["generation"], 2);
}

#[tokio::test]
async fn many_writers_of_one_object_all_get_their_turn() {
    let api = Api::new().await;
    api.ok(&format!("POST {MAPS}"), map("a")).await;
    let line = format!("PATCH {MAPS}/a | {MERGE}");
    let patches = (0..20).map(|n| {
        let patch = json!({"data": {format!("k{n}"): "v"}});
        api.ok(&line, patch)
    });
    futures_util::future::join_all(patches).await;
    let read = api.ok(&format!("GET {MAPS}/a"), Value::Null).await;
    assert_eq!(read["data"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn services_get_addresses_that_nobody_else_has() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str| {
        json!({
            "metadata": {"name": name},
            "spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}},
        })
    };
    let made = api.ok(&format!("POST {path}"), service("a")).await;
    let (ip, port) = (
        &made["spec"]["clusterIP"],
        &made["spec"]["ports"][0]["nodePort"],
    );
    assert!(ip.is_string() && port.is_number(), "{made:#}");
    let mut same = service("b");
    same["spec"]["clusterIP"] = ip.clone();
    let (code, message) = api.err(&format!("POST {path}"), same.clone()).await;
    assert_eq!(code, 422);
    assert!(
        message.contains("provided IP is already allocated"),
        "{message}"
    );
    let kept = api.ok(&format!("PUT {path}/a"), service("a")).await;
    assert_eq!(kept["spec"]["clusterIP"], *ip);
    api.ok(&format!("DELETE {path}/a"), Value::Null).await;
    let made = api.ok(&format!("POST {path}"), same).await;
    assert_eq!(made["spec"]["clusterIP"], *ip);
}

#[tokio::test]
async fn pods_run_as_an_account_with_its_token() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let made = api.ok(&format!("POST {path}"), pod.clone()).await;
    let spec = &made["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(
        mount["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let mut other = pod;
    other["spec"]["serviceAccountName"] = "none".into();
    other["metadata"]["name"] = "q".into();
    let (code, message) = api.err(&format!("POST {path}"), other).await;
    assert_eq!(
        (code, message.as_str()),
        (
            403,
            "pods \"q\" is forbidden: error looking up service account default/none: \
             serviceaccount \"none\" not found"
        )
    );
}
