//! What every kind has in common, as clients meet it: a table of requests and answers.

use http::Method;
use orch::client::{Call, Error};
use serde_json::{Value, json};

use crate::world::World;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";

/// Request line, media type and body, code, message. A path that does not begin with `/` is that of
/// a ConfigMap.
type Refusal = (
    &'static str,
    (&'static str, &'static str),
    u16,
    &'static str,
);

const REFUSALS: &[Refusal] = &[
    // Places.
    (
        "GET /api/v1/namespaces/default/nodes",
        ("", ""),
        404,
        "the server could not find the requested resource",
    ),
    (
        "GET /api/v1/namespaces/default/namespaces",
        ("", ""),
        404,
        "the server could not find the requested resource",
    ),
    (
        "GET /api/v1/configmaps/there",
        ("", ""),
        404,
        "the server could not find the requested resource",
    ),
    // Reads.
    (
        "GET /api/v1/pods?fieldSelector=a%3Db",
        ("", ""),
        400,
        "field label not supported: a",
    ),
    (
        "GET /api/v1/configmaps?fieldSelector=a%3Db",
        ("", ""),
        400,
        "\"a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    ),
    (
        "GET /api/v1/configmaps?continue=x",
        ("", ""),
        400,
        "invalid continue token: continue key is not valid",
    ),
    // Patches.
    (
        "PATCH there",
        (
            OPERATIONS,
            r#"[{"op":"test","path":"/data/a","value":"2"}]"#,
        ),
        422,
        "the server rejected our request due to an error in our request",
    ),
    (
        "PATCH there",
        (OPERATIONS, r#"[{"op":"jump","path":"/data/a"}]"#),
        422,
        "the server rejected our request due to an error in our request",
    ),
    (
        "PATCH there?fieldValidation=Strict",
        (STRATEGIC, r#"{"data":{"a":"1","a":"2"}}"#),
        422,
        " \"\" is invalid: patch: Invalid value: \"map[data:map[a:2]]\": \
             strict decoding error: duplicate field \"data.a\"",
    ),
    ("PATCH there", (MERGE, "[]"), 400, "Invalid JSON Patch"),
    (
        "PATCH there",
        ("text/plain", "{}"),
        415,
        "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml",
    ),
    (
        "PATCH there",
        (APPLY, "{}"),
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: \
             is required for apply patch",
    ),
    // Bodies.
    (
        "PUT there",
        ("text/plain", "{}"),
        415,
        "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf",
    ),
    (
        "PUT there",
        (
            JSON,
            r#"{"metadata":{"name":"there","resourceVersion":"1"}}"#,
        ),
        409,
        "Operation cannot be fulfilled on configmaps \"there\": the object has been modified; \
             please apply your changes to the latest version and try again",
    ),
    (
        "PUT there",
        (JSON, r#"{"metadata":{"name":"other"}}"#),
        400,
        "the name of the object (other) does not match the name on the URL (there)",
    ),
];

/// Code and message of the answer; the message of a success is empty.
async fn send(world: &World, line: &str, (media, body): (&str, &str)) -> (u16, String) {
    let (method, path) = line.split_once(' ').unwrap();
    let call = Call {
        content_type: media,
        body: body.to_owned().into(),
        ..Call::new(method.parse().unwrap(), path)
    };
    match world.client.call(call).await {
        Ok(_) => (200, String::new()),
        Err(Error::Api(error)) => (error.code, error.message),
        Err(error) => panic!("{line}: {error}"),
    }
}

async fn make(world: &World, name: &str) -> Value {
    let object = json!({"metadata": {"name": name}, "data": {"a": "1"}});
    let made = world.client.request_json(Method::POST, MAPS, Some(&object));
    made.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_upstreams_codes_and_words() {
    let world = World::start(0).await;
    make(&world, "there").await;
    for &(line, sent, code, message) in REFUSALS {
        let line = match line.split_once(' ') {
            Some((method, path)) if !path.starts_with('/') => format!("{method} {MAPS}/{path}"),
            _ => line.to_owned(),
        };
        let answer = send(&world, &line, sent).await;
        assert_eq!(answer, (code, message.to_owned()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_protobuf_gets_it_also_when_refused() {
    let world = World::start(0).await;
    make(&world, "there").await;
    let accept = "application/vnd.kubernetes.protobuf";
    let path = format!("{MAPS}/there");
    let call = Call {
        accept,
        ..Call::new(Method::GET, &path)
    };
    let body = world.client.call(call).await.unwrap();
    assert!(body.starts_with(b"k8s\0"), "{body:?}");
    let path = format!("{MAPS}/gone");
    let call = Call {
        accept,
        ..Call::new(Method::GET, &path)
    };
    // The test's own client reads JSON only: it shows the bytes of what it cannot read.
    let Err(Error::Api(refused)) = world.client.call(call).await else {
        panic!("not refused")
    };
    assert_eq!(refused.code, 404);
    assert!(refused.message.contains("k8s\0"), "{}", refused.message);
}
