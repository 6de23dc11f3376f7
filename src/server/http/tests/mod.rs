//! The handler behind real TLS, over a substitute of the REST verbs that keeps objects as they
//! are sent.

mod fixture;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::authn::service_account::{ClaimsSpec, Reference};
use crate::server::join;
use crate::util::tls::Identity;
use crate::util::x509::{Authority, Key, Profile, Usage};

use fixture::{As, Fixture};

#[tokio::test]
async fn only_health_and_version_answer_without_credentials() {
    let fixture = Fixture::start().await;
    for path in [
        "/livez",
        "/readyz?verbose",
        "/healthz",
        "/version",
        "/cacerts",
    ] {
        assert_eq!(fixture.get(As::Nobody, path).await.0, 200, "{path}");
    }
    for path in [
        "/api",
        "/apis",
        "/metrics",
        "/openapi/v3",
        "/api/v1/pods",
        "/nonsense",
    ] {
        let (code, status) = fixture.get(As::Nobody, path).await;
        assert_eq!(
            (code, &status["reason"]),
            (401, &json!("Unauthorized")),
            "{path}"
        );
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("kubeconfig"), "{message}");
    }
}

#[tokio::test]
async fn the_administrator_is_served_over_both_protocols() {
    let fixture = Fixture::start().await;
    let (code, body) = fixture
        .get(As::Admin, "/api/v1/namespaces/a/pods?limit=1")
        .await;
    assert_eq!(code, 200);
    assert_eq!(body["verb"], "list");
    assert_eq!(body["user"], "system:admin");
    let answer = fixture.http1("GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("\r\naudit-id: "), "{answer}");
    let head = fixture.http1("HEAD /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let head = head.await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let length = head.lines().find_map(|l| {
        l.to_lowercase()
            .strip_prefix("content-length: ")
            .map(str::to_owned)
    });
    assert!(length.unwrap().parse::<u32>().unwrap() > 100);
}

#[tokio::test]
async fn a_foreign_certificate_is_an_answer_and_not_a_broken_handshake() {
    let fixture = Fixture::start().await;
    let now = fixture.clock.now();
    let (authority, _) = Authority::generate("other", now, Duration::from_secs(600)).unwrap();
    let key = Key::generate().unwrap();
    let profile = Profile {
        common_name: "system:admin".into(),
        organization: Some("system:masters".into()),
        usage: Usage::Client,
        dns_names: vec![],
        addresses: vec![],
        lifetime: Duration::from_secs(600),
    };
    let pem = authority.sign(&profile, &key, now).unwrap();
    let identity = Identity::new(&pem, &key.pem()).unwrap();
    let (code, status) = fixture.get(As::Certificate(identity), "/api").await;
    assert_eq!(code, 401);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("not issued by this cluster")
    );
}

#[tokio::test]
async fn a_service_account_token_ends_with_the_pod_it_is_bound_to() {
    let fixture = Fixture::start().await;
    fixture
        .put(
            "serviceaccounts",
            &json!({"metadata": {"namespace": "a", "name": "web", "uid": "1"}}),
        )
        .await;
    fixture
        .put(
            "pods",
            &json!({"metadata": {"namespace": "a", "name": "p", "uid": "2"}}),
        )
        .await;
    let reference = |name: &str, uid: &str| Reference {
        name: name.into(),
        uid: uid.into(),
    };
    let spec = ClaimsSpec {
        namespace: "a".into(),
        service_account: reference("web", "1"),
        pod: Some(reference("p", "2")),
        lifetime_seconds: 600,
        ..ClaimsSpec::default()
    };
    let token = fixture.tokens.issue(&spec, fixture.clock.now()).unwrap();
    let review = json!({"spec": {"token": token}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (code, answer) = fixture.send(As::Admin, Method::POST, path, &review).await;
    assert_eq!(code, 201);
    assert_eq!(
        answer["status"]["user"]["username"],
        "system:serviceaccount:a:web"
    );
    let (code, refused) = fixture
        .get(As::Token(&token), "/api/v1/namespaces/a/pods")
        .await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"system:serviceaccount:a:web\" cannot list resource \"pods\" in \
         API group \"\" in the namespace \"a\""
    );
    fixture.delete("pods", "a/p").await;
    let (code, status) = fixture
        .get(As::Token(&token), "/api/v1/namespaces/a/pods")
        .await;
    assert_eq!(code, 401);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("pod it is bound to")
    );
    let (_, answer) = fixture.send(As::Admin, Method::POST, path, &review).await;
    assert_eq!(answer["status"]["authenticated"], Value::Null);
}

#[tokio::test]
async fn a_role_counts_from_the_moment_it_is_bound() {
    let fixture = Fixture::start().await;
    let token = fixture.account_token("a", "web").await;
    let path = "/api/v1/namespaces/a/pods";
    assert_eq!(fixture.get(As::Token(&token), path).await.0, 403);
    let rbac = "rbac.authorization.k8s.io";
    fixture
        .put(
            &format!("roles.{rbac}"),
            &json!({"metadata": {"namespace": "a", "name": "r"},
            "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]}),
        )
        .await;
    fixture
        .put(
            &format!("rolebindings.{rbac}"),
            &json!({"metadata": {"namespace": "a", "name": "b"},
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "a"}]}),
        )
        .await;
    assert_eq!(fixture.get(As::Token(&token), path).await.0, 200);
    let review = json!({"spec": {"namespace": "a"}});
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, answer) = fixture
        .send(As::Token(&token), Method::POST, rules, &review)
        .await;
    // Even this is for users who may: nothing was bound that lets an account ask.
    assert_eq!(answer["reason"], "Forbidden");
    fixture.delete(&format!("rolebindings.{rbac}"), "a/b").await;
    assert_eq!(fixture.get(As::Token(&token), path).await.0, 403);
}

/// What node n1 may: it runs the pod `a/mine`, which names the secret `s1`.
const NODE_REQUESTS: &[(Method, &str, bool)] = &[
    (Method::GET, "/api/v1/namespaces/a/secrets/s1", true),
    (
        Method::GET,
        "/api/v1/namespaces/a/secrets?watch=1&fieldSelector=metadata.name%3Ds1",
        true,
    ),
    (Method::GET, "/api/v1/namespaces/a/secrets/s2", false),
    (Method::GET, "/api/v1/namespaces/a/secrets", false),
    (Method::GET, "/api/v1/secrets", false),
    (Method::PUT, "/api/v1/namespaces/a/secrets/s1", false),
    (
        Method::GET,
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
        true,
    ),
    (
        Method::GET,
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2",
        false,
    ),
    (Method::GET, "/api/v1/pods", false),
    (Method::GET, "/api/v1/namespaces/a/pods/mine", true),
    (Method::GET, "/api/v1/namespaces/a/pods/other", false),
    (Method::PATCH, "/api/v1/namespaces/a/pods/mine/status", true),
    (
        Method::PATCH,
        "/api/v1/namespaces/a/pods/other/status",
        false,
    ),
    (Method::PATCH, "/api/v1/namespaces/a/pods/mine", false),
    (Method::DELETE, "/api/v1/namespaces/a/pods/mine", true),
    (Method::DELETE, "/api/v1/namespaces/a/pods/other", false),
    (Method::GET, "/api/v1/namespaces/a/pods/mine/exec", false),
    (Method::PATCH, "/api/v1/nodes/n1/status", true),
    (Method::PATCH, "/api/v1/nodes/n2/status", false),
    (Method::DELETE, "/api/v1/nodes/n1", false),
    (Method::GET, "/api/v1/nodes", true),
    (Method::GET, "/api/v1/services", true),
    (Method::POST, "/api/v1/services", false),
    (
        Method::PUT,
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1",
        true,
    ),
    (
        Method::PUT,
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2",
        false,
    ),
    (
        Method::PUT,
        "/apis/coordination.k8s.io/v1/namespaces/a/leases/n1",
        false,
    ),
    (
        Method::POST,
        "/api/v1/namespaces/a/serviceaccounts/default/token",
        true,
    ),
    (
        Method::POST,
        "/api/v1/namespaces/b/serviceaccounts/default/token",
        false,
    ),
    (Method::POST, "/api/v1/namespaces/a/events", true),
];

#[tokio::test]
async fn a_node_reads_and_writes_only_what_is_its_own() {
    let fixture = Fixture::start().await;
    let node = fixture.node_identity("n1");
    let pod = |name: &str, node: &str, secret: &str| {
        json!({"metadata": {"namespace": "a", "name": name}, "spec": {"nodeName": node,
            "volumes": [{"name": "v", "secret": {"secretName": secret}}]}})
    };
    fixture.put("pods", &pod("mine", "n1", "s1")).await;
    fixture.put("pods", &pod("other", "n2", "s2")).await;
    let node = || As::Certificate(node.clone());
    for (method, path, allowed) in NODE_REQUESTS {
        let answer = fixture.send(node(), method.clone(), path, &json!({})).await;
        assert_eq!(answer.0 != 403, *allowed, "{method} {path}: {}", answer.1);
    }
    fixture.delete("pods", "a/mine").await;
    let (code, _) = fixture.get(node(), "/api/v1/namespaces/a/secrets/s1").await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn impersonation_is_for_those_who_may() {
    let fixture = Fixture::start().await;
    let headers = [("impersonate-user", "bob"), ("impersonate-group", "devs")];
    let (code, body) = fixture.get_with(As::Admin, "/api/v1/pods", &headers).await;
    assert_eq!(code, 403);
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .contains("User \"bob\" cannot list"),
        "{body}"
    );
    let token = fixture.account_token("a", "web").await;
    let (code, body) = fixture.get_with(As::Token(&token), "/api", &headers).await;
    assert_eq!(code, 403);
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .contains("cannot impersonate resource"),
        "{body}"
    );
    let only_group = [("impersonate-group", "system:masters")];
    assert_eq!(
        fixture.get_with(As::Admin, "/api", &only_group).await.0,
        400
    );
}

#[tokio::test]
async fn what_is_too_large_or_panics_is_an_answer() {
    let fixture = Fixture::start().await;
    let large = json!({"data": "x".repeat(3 << 20)});
    let path = "/api/v1/namespaces/a/configmaps";
    let (code, status) = fixture.send(As::Admin, Method::POST, path, &large).await;
    assert_eq!(
        (code, &status["reason"]),
        (413, &json!("RequestEntityTooLarge"))
    );
    let (code, status) = fixture.get(As::Admin, "/api/v1/panic").await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")));
    assert_eq!(fixture.get(As::Admin, "/api/v1/pods").await.0, 200);
    let (code, status) = fixture.get(As::Admin, "/nonsense").await;
    assert_eq!((code, &status["kind"]), (404, &json!("Status")));
    assert_eq!(
        fixture
            .send(As::Admin, Method::POST, "/apis", &json!({}))
            .await
            .0,
        405
    );
}

#[tokio::test]
async fn a_refusal_reaches_who_still_sends() {
    let fixture = Fixture::start().await;
    let path = "/api/v1/namespaces/a/configmaps";
    for size in [1, 100_000, 2 << 20] {
        let body = json!({"data": "x".repeat(size)});
        let (code, _) = fixture.send(As::Nobody, Method::POST, path, &body).await;
        assert_eq!(code, 401, "{size}");
        let text = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nImpersonate-Group: g\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        let answer = fixture.http1(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{size}: {answer}");
    }
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let fixture = Fixture::start().await;
    let response = fixture.open(As::Admin, "/api/v1/pods?watch=1").await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), Bytes::from_static(b"event\n"));
    fixture.tasks.cancel();
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
    assert!(fixture.tasks.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn discovery_is_sent_once_to_a_client_that_keeps_it() {
    let fixture = Fixture::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let first = fixture
        .open_with(As::Admin, "/apis", &[("accept", accept)])
        .await;
    assert_eq!(first.headers()["content-type"], accept);
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    let again = [("accept", accept), ("if-none-match", &etag)];
    let second = fixture.open_with(As::Admin, "/apis", &again).await;
    assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
    let (_, list) = fixture.get(As::Admin, "/api/v1").await;
    assert_eq!(list["kind"], "APIResourceList");
    let (_, paths) = fixture.get(As::Admin, "/").await;
    assert!(
        paths["paths"]
            .as_array()
            .unwrap()
            .contains(&json!("/apis/apps/v1"))
    );
}

#[tokio::test]
async fn openapi_documents_have_urls_that_never_change_what_they_mean() {
    let fixture = Fixture::start().await;
    let (_, index) = fixture.get(As::Admin, "/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let response = fixture.open(As::Admin, url).await;
    assert_eq!(response.headers()["cache-control"], "public, immutable");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["openapi"], "3.0.0");
    let old = fixture
        .open(As::Admin, "/openapi/v3/apis/apps/v1?hash=old")
        .await;
    assert_eq!(old.status(), 301);
    assert_eq!(old.headers()["location"], url);
    assert_eq!(
        fixture.get(As::Admin, "/openapi/v3/apis/none/v1").await.0,
        404
    );
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let headers = [("accept", protobuf), ("accept-encoding", "gzip")];
    let v2 = fixture.open_with(As::Admin, "/openapi/v2", &headers).await;
    assert_eq!(v2.status(), 200);
    assert_eq!(v2.headers()["content-encoding"], "gzip", "{v2:?}");
    assert!(
        v2.headers()["content-type"]
            .to_str()
            .unwrap()
            .ends_with("+protobuf")
    );
}

#[tokio::test]
async fn a_machine_joins_with_a_token_and_keeps_its_name() {
    let fixture = Fixture::start().await;
    let key = Key::generate().unwrap();
    let request = |password: &str| json!({"nodeName": "n1", "nodePassword": password, "csr": key.request("any", "").unwrap()});
    let (mine, other) = (request("0123456789abcdef"), request("fedcba9876543210"));
    let (code, status) = fixture.join(As::Token("wrong"), &mine).await;
    assert_eq!(code, 401);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("orch token create") && message.contains("/token`"),
        "{message}"
    );
    assert_eq!(fixture.join(As::Nobody, &mine).await.0, 401);
    for token in [
        "server-secret",
        "server:server-secret",
        "K10ab::server:server-secret",
    ] {
        let (code, answer) = fixture.join(As::Token(token), &mine).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(answer["clusterDNS"], "10.96.0.10");
        assert_eq!(answer["ca"], fixture.pki.ca_pem());
        let chain = answer["certificate"].as_str().unwrap();
        let identity = Identity::new(chain, &key.pem()).unwrap();
        let path = "/orch/v1/renew";
        let body = json!({"csr": key.request("any", "").unwrap()});
        let sent = fixture.send(As::Certificate(identity), Method::POST, path, &body);
        assert_eq!(sent.await.0, 200);
    }
    fixture
        .put("nodes", &json!({"metadata": {"name": "n1"}}))
        .await;
    assert_eq!(fixture.join(As::Token("server-secret"), &mine).await.0, 200);
    let (code, status) = fixture.join(As::Token("server-secret"), &other).await;
    assert_eq!(code, 403);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("kubectl delete node n1")
    );
    fixture.delete("nodes", "n1").await;
    assert_eq!(
        fixture.join(As::Token("server-secret"), &other).await.0,
        200
    );
    let bad = json!({"nodeName": "N 1", "nodePassword": "0123456789abcdef", "csr": "x"});
    assert_eq!(fixture.join(As::Token("server-secret"), &bad).await.0, 400);
}

#[tokio::test]
async fn only_administrators_get_a_snapshot() {
    let fixture = Fixture::start().await;
    let path = crate::server::snapshot::PATH;
    assert_eq!(fixture.get(As::Nobody, path).await.0, 401);
    let node = fixture.node_identity("n1");
    assert_eq!(fixture.get(As::Certificate(node), path).await.0, 403);
    let answer = fixture.open(As::Admin, path).await;
    assert_eq!(answer.status(), 200);
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&bytes[..8], b"ORCHSNAP");
}

#[tokio::test]
async fn a_bootstrap_token_lets_a_machine_join() {
    use base64::Engine;
    let fixture = Fixture::start().await;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let secret = |expiration: &str| {
        json!({
            "metadata": {"namespace": "kube-system", "name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token", "data": {
                "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
                "usage-bootstrap-authentication": encode("true"),
                "expiration": encode(expiration),
            }
        })
    };
    let key = Key::generate().unwrap();
    let body = json!({"nodeName": "n1", "nodePassword": "0123456789abcdef",
        "csr": key.request("any", "").unwrap()});
    let token = As::Token("abcdef.0123456789abcdef");
    assert_eq!(fixture.join(token, &body).await.0, 401);
    fixture
        .put("secrets", &secret("2999-01-01T00:00:00Z"))
        .await;
    let token = As::Token("abcdef.0123456789abcdef");
    assert_eq!(fixture.join(token, &body).await.0, 200);
    fixture
        .put("secrets", &secret("2020-01-01T00:00:00Z"))
        .await;
    let token = As::Token("abcdef.0123456789abcdef");
    let (code, status) = fixture.join(token, &body).await;
    assert_eq!(code, 401);
    assert!(status["message"].as_str().unwrap().contains("expired"));
}

#[tokio::test]
async fn a_node_leaves_a_connection_to_be_called_back_through() {
    let mut fixture = Fixture::start().await;
    let identity = fixture.node_identity("n1");
    let mut io = fixture
        .upgrade(As::Certificate(identity), join::TUNNEL_PATH)
        .await
        .unwrap();
    let (node, mut other_end) = fixture.tunnels.recv().await.unwrap();
    assert_eq!(node, "n1");
    other_end.write_all(b"ping").await.unwrap();
    let mut read = [0; 4];
    io.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
    assert!(fixture.upgrade(As::Admin, join::TUNNEL_PATH).await.is_err());
}

#[tokio::test]
async fn metrics_count_what_was_served() {
    let fixture = Fixture::start().await;
    fixture.get(As::Admin, "/api/v1/namespaces/a/pods").await;
    let response = fixture.open(As::Admin, "/metrics").await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(
        text.contains(
            "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",\
             resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1"
        ),
        "{text}"
    );
    assert!(text.contains("process_resident_memory_bytes"));
}

#[tokio::test]
async fn access_reviews_say_who_may_what() {
    let fixture = Fixture::start().await;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = |groups: Value| {
        json!({"spec": {"user": "bob", "groups": groups,
            "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "a"}}})
    };
    let (code, answer) = fixture
        .send(
            As::Admin,
            Method::POST,
            path,
            &review(json!(["system:masters"])),
        )
        .await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    assert_eq!(answer["kind"], "SubjectAccessReview");
    let (_, answer) = fixture
        .send(As::Admin, Method::POST, path, &review(json!([])))
        .await;
    assert_eq!(answer["status"]["allowed"], false);
    let (code, status) = fixture
        .send(As::Admin, Method::POST, path, &json!({"spec": {}}))
        .await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("exactly one of"),
        "{status}"
    );
    let own = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (_, answer) = fixture.send(As::Admin, Method::POST, own, &json!({})).await;
    assert_eq!(answer["status"]["userInfo"]["username"], "system:admin");
}
