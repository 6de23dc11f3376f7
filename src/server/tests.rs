//! The whole control plane, started as the command starts it, on a free port of loopback.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};

use crate::client::{Client, Endpoint, HttpsTransport, ListParams};
use crate::server::Server;
use crate::server::config::{Config, Options};
use crate::util::clock::Clock;
use crate::util::tasks::Tasks;
use crate::util::tls::{Identity, Trust};
use crate::util::x509::Key;

fn config(folder: &Path) -> Config {
    let options = Options {
        data_dir: folder.join("data"),
        bind_address: "127.0.0.1".into(),
        https_listen_port: 0,
        advertise_address: Some("192.0.2.7".into()),
        write_kubeconfig: folder.join("kubeconfig.yaml"),
        ..Options::default()
    };
    Config::check(options).unwrap()
}

async fn start(folder: &Path) -> Server {
    Server::start(config(folder), Clock::system(), &Tasks::new())
        .await
        .unwrap()
}

fn remote(server: &Server, identity: Option<Identity>, token: Option<&str>) -> Client {
    let trust = Trust::Authorities(server.ca_pem().to_owned());
    let endpoint = Endpoint {
        identity,
        token: token.map(str::to_owned),
        ..Endpoint::new(vec![server.address().to_string()], trust)
    };
    Client::new(Arc::new(
        HttpsTransport::new(endpoint, &Tasks::new()).unwrap(),
    ))
}

fn admin(server: &Server) -> Client {
    let pair = server.pki().admin().unwrap();
    let identity = Identity::new(&pair.certificate, &pair.key).unwrap();
    remote(server, Some(identity), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_has_its_first_objects() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let client = admin(&server);
    let namespaces = client
        .all::<Namespace>()
        .list(&ListParams::default())
        .await
        .unwrap();
    let mut names: Vec<_> = namespaces
        .items
        .iter()
        .filter_map(|n| n.metadata.name.as_deref())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    let service = client
        .namespaced::<Service>("default")
        .get("kubernetes")
        .await
        .unwrap();
    assert_eq!(
        service.spec.unwrap().cluster_ip.as_deref(),
        Some("10.96.0.1")
    );
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice: Value = client
        .request_json(http::Method::GET, slices, None)
        .await
        .unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.7"]));
    assert_eq!(slice["ports"][0]["port"], server.address().port());
    let ready: Result<Value, _> = client.request_json(http::Method::GET, "/apis", None).await;
    assert_eq!(ready.unwrap()["kind"], "APIGroupList");
    assert!(folder.path().join("kubeconfig.yaml").exists());
    assert!(server.token().starts_with("K10"));
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_identity_and_objects_and_writes_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path()).await;
    let made: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "mine", "namespace": "default"}, "data": {"a": "b"},
    }))
    .unwrap();
    let client = first.client("test");
    client
        .namespaced::<ConfigMap>("default")
        .create(&made)
        .await
        .unwrap();
    let roles = |client: Client| async move {
        let list = client
            .all::<ClusterRole>()
            .list(&ListParams::default())
            .await
            .unwrap();
        let mut versions: Vec<_> = list
            .items
            .into_iter()
            // A controller fills aggregated roles in at its own time.
            .filter(|role| role.aggregation_rule.is_none())
            .map(|role| (role.metadata.name, role.metadata.resource_version))
            .collect();
        versions.sort();
        versions
    };
    let before = (
        first.ca_pem().to_owned(),
        first.token(),
        roles(client).await,
    );
    assert!(first.stop().await);
    let second = start(folder.path()).await;
    let client = second.client("test");
    let kept = client
        .namespaced::<ConfigMap>("default")
        .get("mine")
        .await
        .unwrap();
    assert_eq!(kept.data, made.data);
    let after = (
        second.ca_pem().to_owned(),
        second.token(),
        roles(client).await,
    );
    assert_eq!(before, after);
    assert!(second.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_folder_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path()).await;
    let error = Server::start(config(folder.path()), Clock::system(), &Tasks::new())
        .await
        .unwrap_err();
    let text = crate::util::errors::chain(&error);
    assert!(text.contains("in use by another process"), "{text}");
    assert!(first.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_node_registers_itself_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let key = Key::generate().unwrap();
    let request = json!({"nodeName": "n1", "nodePassword": "0123456789abcdef",
        "csr": key.request("n1", "").unwrap()});
    let token = server.token();
    let secret = token.rsplit(':').next().unwrap();
    let joining = remote(&server, None, Some(secret));
    let answer: Value = joining
        .request_json(http::Method::POST, "/orch/v1/join", Some(&request))
        .await
        .unwrap();
    let certificate = answer["certificate"].as_str().unwrap();
    let identity = Identity::new(certificate, &key.pem()).unwrap();
    let node = remote(&server, Some(identity), None);
    let own = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    let path = "/api/v1/nodes";
    let created: Result<Value, _> = node
        .request_json(http::Method::POST, path, Some(&own))
        .await;
    assert_eq!(created.unwrap()["metadata"]["name"], "n1");
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}});
    let refused: Result<Value, _> = node
        .request_json(http::Method::POST, path, Some(&other))
        .await;
    assert_eq!(refused.unwrap_err().api().unwrap().code, 403);
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_quickly_when_the_server_stops() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let client = admin(&server);
    let call = crate::client::Call::new(http::Method::GET, "/api/v1/namespaces?watch=1");
    let body = client.open(call).await.unwrap();
    let reading = async {
        use http_body_util::BodyExt;
        body.collect().await.map(|_| ())
    };
    let stopping = tokio::time::timeout(Duration::from_secs(3), server.stop());
    let (ended, stopped) = tokio::join!(reading, stopping);
    assert!(ended.is_ok());
    assert_eq!(stopped, Ok(true));
}
