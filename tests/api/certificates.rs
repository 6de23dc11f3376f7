//! Certificates by request: asked for, approved, signed, and good for the API.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use orch::client::{Client, Endpoint, HttpsTransport, Patch};
use orch::util::tls::{Identity, Trust};
use orch::util::x509::Key;
use serde_json::json;

use crate::world::World;

fn request(name: &str, pem: String, usages: &[&str]) -> CertificateSigningRequest {
    let mut request: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"request": "", "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": usages, "expirationSeconds": 3600},
    }))
    .unwrap();
    request.spec.request = ByteString(pem.into_bytes());
    request
}

async fn approve(world: &World, name: &str) {
    let api = world.client.all::<CertificateSigningRequest>();
    let mut request = api.get(name).await.unwrap();
    let condition = json!({"type": "Approved", "status": "True", "reason": "KubectlApprove",
        "message": "approved by a test"});
    let status = request.status.get_or_insert_default();
    status.conditions = Some(vec![serde_json::from_value(condition).unwrap()]);
    let approved = api.replace_subresource(name, "approval", &request).await;
    approved.unwrap();
}

/// Waits for the certificate, or the condition `Failed`.
async fn settled(world: &World, name: &str) -> Result<String, String> {
    let api = world.client.all::<CertificateSigningRequest>();
    world
        .until("signed or failed", || async {
            let status = api.get(name).await.unwrap().status.unwrap_or_default();
            if let Some(certificate) = status.certificate {
                return Ok(Ok(String::from_utf8(certificate.0).unwrap()));
            }
            let mut conditions = status.conditions.iter().flatten();
            match conditions.find(|one| one.type_ == "Failed") {
                Some(failed) => Ok(Err(failed.message.clone().unwrap_or_default())),
                None => Err(format!("{status:?}")),
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_request_becomes_a_user() {
    let world = World::start(0).await;
    let api = world.client.all::<CertificateSigningRequest>();
    let key = Key::generate().unwrap();
    let good = request(
        "alice",
        key.request("alice", "devs").unwrap(),
        &["client auth"],
    );
    let stored = api.create(&good).await.unwrap();
    assert_eq!(stored.spec.username.as_deref(), Some("test"));
    approve(&world, "alice").await;
    let certificate = settled(&world, "alice").await.unwrap();

    let server = world.server();
    let trust = Trust::Authorities(server.ca_pem().to_owned());
    let address = server.address().to_string();
    let mut endpoint = Endpoint::new(vec![address], trust);
    endpoint.identity = Some(Identity::new(&certificate, &key.pem()).unwrap());
    let transport = HttpsTransport::new(endpoint, &world.tasks).unwrap();
    let alice = Client::new(Arc::new(transport));
    let review = alice.all().create(&SelfSubjectReview::default()).await;
    let user = review.unwrap().status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("alice"));
    assert_eq!(
        user.groups.unwrap(),
        ["devs", "system:authenticated"].map(str::to_owned)
    );
    let refused = alice.all::<CertificateSigningRequest>().get("alice").await;
    assert_eq!(refused.unwrap_err().api().unwrap().code, 403);

    let bad = request("bad", key.request("bob", "").unwrap(), &["server auth"]);
    api.create(&bad).await.unwrap();
    approve(&world, "bad").await;
    let why = settled(&world, "bad").await.unwrap_err();
    assert_eq!(why, "invalid usage for client certificate: server auth");

    let master = key.request("eve", "system:masters").unwrap();
    let refused = api.create(&request("eve", master, &["client auth"])).await;
    let refused = refused.unwrap_err();
    let message = &refused.api().unwrap().message;
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not \
               allowed";
    assert!(message.ends_with(why), "{message}");
    let missing = api.patch_status("nobody", &Patch::Merge(json!({}))).await;
    assert!(missing.unwrap_err().is_not_found());
}
