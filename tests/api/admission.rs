//! Webhooks: a real server calls real HTTPS servers of the test.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::ConfigMap;
use orch::client::{Api, DeleteParams};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::world::World;

/// What a webhook server does with a path and a request.
type Answer = fn(&str, &Value) -> Value;

/// An HTTPS server on this machine that answers reviews.
struct Hooks {
    port: u16,
    ca: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Hooks {
    async fn start(world: &World, answer: Answer) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let identity =
            orch::util::tls::Identity::new(&made.cert.pem(), &made.signing_key.serialize_pem())
                .unwrap();
        let mut config = orch::util::tls::server(&identity).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (shared, tasks) = (Arc::clone(&seen), world.tasks.clone());
        world.tasks.job("webhook server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&shared));
                tasks.job("webhook connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let seen = Arc::clone(&seen);
                        async move { Ok::<_, Infallible>(reply(request, &seen, answer).await) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    // The client ends connections as it likes.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let ca = base64::engine::general_purpose::STANDARD.encode(made.cert.pem());
        Self { port, ca, seen }
    }

    /// A `webhooks` entry for ConfigMaps.
    fn hook(&self, name: &str, operations: &[&str], more: &Value) -> Value {
        let url = format!("https://127.0.0.1:{}/{name}", self.port);
        let mut hook = json!({
            "name": format!("{name}.example.com"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": url, "caBundle": self.ca},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": operations,
                "resources": ["configmaps"]}],
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            hook[field] = value.clone();
        }
        hook
    }
}

async fn reply(
    request: Request<Incoming>,
    seen: &Mutex<Vec<(String, Value)>>,
    answer: Answer,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let mut response = answer(&path, &review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    seen.lock().push((path, review["request"].clone()));
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
    });
    Response::new(Full::new(review.to_string().into()))
}

fn patched(patch: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

fn answer(path: &str, request: &Value) -> Value {
    match path {
        "/label" => patched(&json!([
            {"op": "add", "path": "/metadata/labels", "value": {"hooked": "yes"}},
        ])),
        "/count" => {
            let labels = request["object"]["metadata"]["labels"].as_object();
            let labels = labels.map_or(0, serde_json::Map::len).to_string();
            patched(&json!([{"op": "add", "path": "/data", "value": {"labels": labels}}]))
        }
        "/deny" => {
            let is_bad = request["object"]["data"]["bad"] == "yes"
                || request["oldObject"]["data"]["keep"] == "yes";
            let mut answer = json!({"allowed": !is_bad, "warnings": ["looked at"]});
            if is_bad {
                answer["status"] = json!({"code": 403, "message": "it is bad"});
            }
            answer
        }
        _ => json!({"allowed": true}),
    }
}

fn maps(world: &World) -> Api<ConfigMap> {
    world.client.namespaced("default")
}

async fn configure(world: &World, mutating: Value, validating: Value) {
    let named = |hooks: Value| json!({"metadata": {"name": "test"}, "webhooks": hooks});
    let api = world.client.all::<MutatingWebhookConfiguration>();
    let config = serde_json::from_value(named(mutating)).unwrap();
    api.create(&config).await.unwrap();
    let api = world.client.all::<ValidatingWebhookConfiguration>();
    let config = serde_json::from_value(named(validating)).unwrap();
    api.create(&config).await.unwrap();
}

fn map(value: Value) -> ConfigMap {
    serde_json::from_value(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_change_and_refuse_writes() {
    let world = World::start(0).await;
    let hooks = Hooks::start(&world, answer).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    configure(
        &world,
        json!([
            hooks.hook("count", &["CREATE"], &again),
            hooks.hook("label", &["CREATE"], &json!({})),
        ]),
        json!([hooks.hook(
            "deny",
            &["CREATE", "UPDATE", "DELETE"],
            &json!({
                "matchConditions": [
                    {"name": "c", "expression": "request.name != 'ignored'"},
                ],
            })
        )]),
    )
    .await;
    let api = maps(&world);
    let made = api
        .create(&map(json!({"metadata": {"name": "a"}})))
        .await
        .unwrap();
    assert_eq!(made.metadata.labels.unwrap()["hooked"], "yes");
    // Asked again after the label was added.
    assert_eq!(made.data.unwrap()["labels"], "1");

    let bad = map(json!({"metadata": {"name": "b"}, "data": {"bad": "yes"}}));
    // The mutating webhook replaces the data; an update is not mutated.
    api.create(&bad).await.unwrap();
    let error = api.replace("b", &bad).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "admission webhook \"deny.example.com\" denied the request: it is bad"
    );
    let keep = map(json!({"metadata": {"name": "b"}, "data": {"keep": "yes"}}));
    api.replace("b", &keep).await.unwrap();
    let error = api.delete("b", &DeleteParams::default()).await.unwrap_err();
    assert!(error.to_string().contains("denied the request"), "{error}");
    let seen = hooks.seen.lock();
    let (_, delete) = seen.iter().rfind(|(path, _)| path == "/deny").unwrap();
    assert_eq!(delete["operation"], "DELETE");
    assert_eq!(delete["object"], Value::Null);
    assert_eq!(delete["oldObject"]["metadata"]["name"], "b");
    assert_eq!(delete["options"]["kind"], "DeleteOptions");
    assert_eq!(delete["resource"]["resource"], "configmaps");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_called_follows_its_failure_policy() {
    let world = World::start(0).await;
    let hooks = Hooks::start(&world, answer).await;
    let nowhere = |policy: &str| {
        json!({
            "failurePolicy": policy, "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:1/x", "caBundle": hooks.ca},
        })
    };
    configure(
        &world,
        json!([hooks.hook("open", &["CREATE"], &nowhere("Ignore"))]),
        json!([hooks.hook("closed", &["UPDATE"], &nowhere("Fail"))]),
    )
    .await;
    let api = maps(&world);
    let object = map(json!({"metadata": {"name": "a"}}));
    api.create(&object).await.unwrap();
    let changed = map(json!({"metadata": {"name": "a"}, "data": {"x": "y"}}));
    let error = api.replace("a", &changed).await.unwrap_err().to_string();
    let start = "Internal error occurred: failed calling webhook \"closed.example.com\": failed \
                 to call webhook: Post \"https://127.0.0.1:1/x?timeout=1s\": ";
    assert!(error.starts_with(start), "{error}");
}
