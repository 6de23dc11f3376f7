//! Gets, lists and watches.

use std::sync::Arc;

use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::harness::Api;
use crate::api::codec::{self, Expect, MediaType, Mode};
use crate::api::schema::builtin;
use crate::store::Store;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(api: &Api, names: &[&str]) {
    for name in names {
        let map = json!({"metadata": {"name": name, "labels": {"name": name}}});
        api.ok(&format!("POST {MAPS}"), map).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_created_object_is_read_listed_and_selected() {
    let api = Api::new().await;
    make(&api, &["b", "a", "c"]).await;
    let made = api.ok(&format!("GET {MAPS}/a"), Value::Null).await;
    assert_eq!(made["kind"], "ConfigMap");
    assert_eq!(
        made["metadata"]["creationTimestamp"],
        "2026-01-02T03:04:05Z"
    );
    let list = api.ok(&format!("GET {MAPS}"), Value::Null).await;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(names(&list), ["a", "b", "c"]);
    for selected in [
        "labelSelector=name%3Db",
        "fieldSelector=metadata.name%3Db",
        "labelSelector=name+in+(b,x)&resourceVersion=0",
    ] {
        let list = api.ok(&format!("GET {MAPS}?{selected}"), Value::Null).await;
        assert_eq!(names(&list), ["b"], "{selected}");
    }
    let all = api.ok("GET /api/v1/configmaps", Value::Null).await;
    assert_eq!(names(&all).len(), 3);
    let (code, message) = api
        .err(&format!("GET {MAPS}?fieldSelector=data.x%3Dy"), Value::Null)
        .await;
    assert_eq!(code, 400);
    assert!(message.contains("field"), "{message}");
    let missing = api.err(&format!("GET {MAPS}/x"), Value::Null).await;
    assert_eq!(missing, (404, "configmaps \"x\" not found".to_owned()));
}

#[tokio::test]
async fn pages_of_a_list_are_of_one_revision() {
    let api = Api::new().await;
    make(&api, &["a", "b", "c", "d", "e"]).await;
    let first = api.ok(&format!("GET {MAPS}?limit=2"), Value::Null).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = format!("GET {MAPS}?limit=2&continue={token}");
    let unchanged = api.ok(&rest, Value::Null).await;
    assert_eq!(names(&unchanged), ["c", "d"]);
    // What happens between the pages is not seen in them.
    api.ok(&format!("DELETE {MAPS}/c"), Value::Null).await;
    make(&api, &["cc"]).await;
    let second = api.ok(&rest, Value::Null).await;
    assert_eq!(names(&second), ["c", "d"]);
    let revision = &first["metadata"]["resourceVersion"];
    assert_eq!(&second["metadata"]["resourceVersion"], revision);
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let token = second["metadata"]["continue"].as_str().unwrap().to_owned();
    let last = format!("GET {MAPS}?limit=2&continue={token}");
    let third = api.ok(&last, Value::Null).await;
    assert_eq!(names(&third), ["e"]);
    assert_eq!(third["metadata"].get("continue"), None);

    let selected = format!("GET {MAPS}?labelSelector=name+in+(c,e)&limit=1&continue={token}");
    assert_eq!(names(&api.ok(&selected, Value::Null).await), ["e"]);

    // After a fresh list the cache cannot be what it was at the token's revision any more.
    api.ok(&format!("GET {MAPS}"), Value::Null).await;
    let now = api.store.current().await.unwrap();
    api.store.compact(now).await.unwrap();
    let (code, message) = api.err(&last, Value::Null).await;
    assert_eq!(code, 410);
    assert!(message.starts_with("The provided continue parameter is too old"));
    // The rest is there as it is now, page by page.
    let refused = api.send(&last, Value::Null).await.unwrap_err();
    let rest = format!("GET {MAPS}?limit=2&continue={}", refused.continue_token);
    make(&api, &["f", "g"]).await;
    let page = api.ok(&rest, Value::Null).await;
    assert_eq!(names(&page), ["e", "f"]);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let last = format!("GET {MAPS}?limit=2&continue={token}");
    assert_eq!(names(&api.ok(&last, Value::Null).await), ["g"]);
}

#[tokio::test]
async fn builtin_kinds_are_read_listed_and_watched_in_protobuf() {
    const ACCEPT: &str = "accept: application/vnd.kubernetes.protobuf";
    let api = Api::new().await;
    make(&api, &["a", "b"]).await;
    let ty = builtin().get("core.v1.ConfigMap").unwrap();
    let read = |bytes: &[u8]| {
        let expect = Expect {
            ty,
            mode: Mode::Strict,
            bytes_max: 1 << 20,
        };
        let (object, _) = codec::decode(bytes, MediaType::Protobuf, &expect).unwrap();
        object
    };
    let line = format!("GET {MAPS}/a | {ACCEPT}");
    let one = api.send(&line, Value::Null).await.unwrap();
    assert_eq!(
        one.headers()["content-type"],
        "application/vnd.kubernetes.protobuf"
    );
    let bytes = one.into_body().collect().await.unwrap().to_bytes();
    let json = api.ok(&format!("GET {MAPS}/a"), Value::Null).await;
    assert_eq!(read(&bytes).into_value(), json);

    let line = format!("GET {MAPS} | {ACCEPT}");
    let list = api.send(&line, Value::Null).await.unwrap();
    let list = list.into_body().collect().await.unwrap();
    assert!(list.to_bytes().starts_with(b"k8s\0"));

    let watch = format!("WATCH {MAPS}?fieldSelector=metadata.name%3Db | {ACCEPT}");
    let watch = api.send(&watch, Value::Null).await.unwrap();
    assert_eq!(
        watch.headers()["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let mut body = watch.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(length as usize, frame.len() - 4);
    let at = frame.windows(4).position(|part| part == b"k8s\0").unwrap();
    assert_eq!(read(&frame[at..]).name(), "b");
}

#[tokio::test]
async fn a_list_is_as_new_or_as_old_as_asked_for() {
    let api = Api::new().await;
    make(&api, &["a"]).await;
    let before = api.ok(&format!("GET {MAPS}"), Value::Null).await;
    let before = before["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    make(&api, &["b"]).await;
    assert_eq!(
        names(&api.ok(&format!("GET {MAPS}"), Value::Null).await).len(),
        2
    );
    let exact = format!("GET {MAPS}?resourceVersionMatch=Exact&resourceVersion={before}");
    assert_eq!(names(&api.ok(&exact, Value::Null).await), ["a"]);
    let newer = format!("GET {MAPS}?resourceVersionMatch=NotOlderThan&resourceVersion={before}");
    assert_eq!(names(&api.ok(&newer, Value::Null).await), ["a", "b"]);
    tokio::time::pause();
    let (code, message) = api
        .err(&format!("GET {MAPS}?resourceVersion=99999"), Value::Null)
        .await;
    assert_eq!(code, 504);
    assert!(message.contains("Too large resource version: 99999, current: "));
    let (code, message) = api
        .err(&format!("GET {MAPS}?resourceVersion=x"), Value::Null)
        .await;
    assert_eq!((code, message.contains("\"x\"")), (400, true));
}

#[tokio::test]
async fn a_table_has_columns_and_rows_and_metadata_comes_alone() {
    let api = Api::new().await;
    make(&api, &["a", "b"]).await;
    let accept = "accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = api.ok(&format!("GET {MAPS} | {accept}"), Value::Null).await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][1]["cells"][0], "b");
    let object = &table["rows"][1]["object"];
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert_eq!(object["metadata"]["name"], "b");
    let one = api
        .ok(&format!("GET {MAPS}/a | {accept}"), Value::Null)
        .await;
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    let accept = "accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = api.ok(&format!("GET {MAPS} | {accept}"), Value::Null).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(names(&list), ["a", "b"]);
    let refused = api
        .err(
            &format!("GET {MAPS} | accept: application/cbor"),
            Value::Null,
        )
        .await;
    assert_eq!(refused.0, 406);
    let yaml = api
        .send(
            &format!("GET {MAPS}/a | accept: application/yaml"),
            Value::Null,
        )
        .await;
    assert_eq!(yaml.unwrap().headers()["content-type"], "application/yaml");
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_every_change_as_its_selector_does() {
    let api = Api::new().await;
    make(&api, &["a"]).await;
    let mut all = api.watch(MAPS).await;
    let mut selected = api.watch(&format!("{MAPS}?labelSelector=on%3Dyes")).await;
    assert_eq!(all.line().await, "ADDED a");
    let patch = |labels: Value| json!({"metadata": {"labels": labels}});
    let merge = "content-type: application/merge-patch+json";
    let line = format!("PATCH {MAPS}/a | {merge}");
    api.ok(&line, patch(json!({"on": "yes"}))).await;
    api.ok(&line, patch(json!({"more": "x"}))).await;
    let off = api.ok(&line, patch(json!({"on": null}))).await;
    api.ok(&format!("DELETE {MAPS}/a"), Value::Null).await;
    for expected in ["MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(all.line().await, expected);
    }
    assert_eq!(selected.line().await, "ADDED a");
    assert_eq!(selected.line().await, "MODIFIED a");
    let gone = selected.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    let metadata = &gone["object"]["metadata"];
    assert_eq!(
        metadata["labels"]["on"], "yes",
        "the object as it last was for the watcher"
    );
    assert_eq!(
        metadata["resourceVersion"],
        off["metadata"]["resourceVersion"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_marks_its_progress_and_ends() {
    let api = Api::new().await;
    make(&api, &["a"]).await;
    let list = api.ok(&format!("GET {MAPS}"), Value::Null).await;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    make(&api, &["b"]).await;
    let query =
        format!("{MAPS}?resourceVersion={revision}&allowWatchBookmarks=1&timeoutSeconds=90");
    let mut events = api.watch(&query).await;
    assert_eq!(events.line().await, "ADDED b");
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let now = api.store.current().await.unwrap().0.to_string();
    assert_eq!(
        bookmark["object"]["metadata"]["resourceVersion"],
        now.as_str()
    );
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    // The last one comes shortly before the end.
    assert_eq!(events.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_marked_bookmark() {
    let api = Api::new().await;
    make(&api, &["a", "b"]).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = api.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.line().await, "ADDED a");
    assert_eq!(events.line().await, "ADDED b");
    let end = events.next().await.unwrap();
    let annotations = &end["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    make(&api, &["c"]).await;
    assert_eq!(events.line().await, "ADDED c");
}

#[tokio::test]
async fn a_watch_of_one_object_and_of_tables() {
    let api = Api::new().await;
    make(&api, &["a", "b"]).await;
    let mut one = api
        .watch(&format!("{MAPS}?fieldSelector=metadata.name%3Db"))
        .await;
    assert_eq!(one.line().await, "ADDED b");
    let accept = "accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let response = api
        .send(&format!("WATCH {MAPS} | {accept}"), Value::Null)
        .await;
    let mut body = response.unwrap().into_body();
    let frame = http_body_util::BodyExt::frame(&mut body)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(events[0]["object"]["kind"], "Table");
    let columns = |at: usize| {
        events[at]["object"]["columnDefinitions"]
            .as_array()
            .map(Vec::len)
    };
    assert!(columns(0) > Some(1) && columns(1) == Some(0));
}

#[tokio::test]
async fn a_watch_goes_on_across_a_restart_or_is_told_it_cannot() {
    let api = Api::new().await;
    make(&api, &["a"]).await;
    let list = api.ok(&format!("GET {MAPS}"), Value::Null).await;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    make(&api, &["b"]).await;
    let query = format!("{MAPS}?resourceVersion={revision}");
    let again = Api::over(Arc::clone(&api.store)).await;
    assert_eq!(again.watch(&query).await.line().await, "ADDED b");
    let now = api.store.current().await.unwrap();
    api.store.compact(now).await.unwrap();
    let third = Api::over(Arc::clone(&api.store)).await;
    let mut events = third.watch(&query).await;
    let error = events.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn events_of_both_groups_are_the_same_objects() {
    let api = Api::new().await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"}, "reason": "Started",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "message": "text", "type": "Normal",
    });
    api.ok("POST /api/v1/namespaces/default/events", event)
        .await;
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let new = api.ok(&format!("GET {path}/e"), Value::Null).await;
    assert_eq!(new["apiVersion"], "events.k8s.io/v1");
    assert_eq!(
        (&new["regarding"]["name"], &new["note"]),
        (&json!("p"), &json!("text"))
    );
    let list = api
        .ok(
            "GET /api/v1/events?fieldSelector=involvedObject.name%3Dp",
            Value::Null,
        )
        .await;
    assert_eq!(names(&list), ["e"]);
    let list = api.ok(&format!("GET {path}"), Value::Null).await;
    assert_eq!(list["items"][0]["regarding"]["kind"], "Pod");
}
