//! Approves kubelets' requests for client certificates: a node's own renewal and a joining node's
//! first, each where its requester may (`pkg/controller/certificates/approver`).

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};

use crate::api::object::ObjectKey;
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, Queue, Result};
use crate::util::clock::Clock;
use crate::util::csr::Request;

use super::super::{Setup, shared::wire};
use super::checks::{KUBELET_CLIENT, kubelet_client};
use super::{certificate, has, with_condition};

/// Permissions may come later than the request.
const ASK_AGAIN: Duration = Duration::from_secs(60);

struct Approver {
    requests: Cache<CertificateSigningRequest>,
    client: Client,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let requests = setup.informers.cache::<CertificateSigningRequest>();
    let queue = Queue::new();
    wire::on_own(&requests, &queue);
    let controller = Approver {
        requests: requests.clone(),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, 1, async move { requests.synced().await });
}

/// The permissions by which `spec` is approved, the first that is held counts; with the text of the
/// approval. Empty: not a kubelet's.
fn ways(spec: &CertificateSigningRequestSpec) -> Vec<(&'static str, &'static str)> {
    if spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let Ok(request) = Request::from_pem(&spec.request.0) else {
        return Vec::new();
    };
    if kubelet_client(&request, spec.usages.as_deref().unwrap_or_default()).is_err() {
        return Vec::new();
    }
    let own = (
        "selfnodeclient",
        "Auto approving self kubelet client certificate after SubjectAccessReview.",
    );
    let any = (
        "nodeclient",
        "Auto approving kubelet client certificate after SubjectAccessReview.",
    );
    match spec.username.as_ref() == Some(&request.common_name) {
        true => vec![own, any],
        false => vec![any],
    }
}

fn review(spec: &CertificateSigningRequestSpec, subresource: &str) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(subresource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

impl Reconcile for Approver {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "csr_approver"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Action::Done);
        };
        let is_settled =
            certificate(&request).is_some() || has(&request, "Approved") || has(&request, "Denied");
        if is_settled {
            return Ok(Action::Done);
        }
        let ways = ways(&request.spec);
        for (subresource, message) in &ways {
            let review = review(&request.spec, subresource);
            let answer = self.client.all().create(&review).await?;
            if !answer.status.is_some_and(|status| status.allowed) {
                continue;
            }
            let why = ("Approved", "AutoApproved");
            let approved = with_condition(&request, why, message, self.clock.now());
            let api = self.client.all::<CertificateSigningRequest>();
            return match api
                .replace_subresource(&key.name, "approval", &approved)
                .await
            {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Action::Done),
            };
        }
        match ways.is_empty() {
            true => Ok(Action::Done),
            false => Ok(Action::After(ASK_AGAIN)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::x509::Key;
    use k8s_openapi::ByteString;

    #[test]
    fn a_node_renews_its_own_and_a_bootstrapper_makes_any() {
        let key = Key::generate().unwrap();
        let spec = |user: &str, group: &str| {
            let pem = key.request("system:node:a", group).unwrap();
            let spec = CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: KUBELET_CLIENT.to_owned(),
                usages: Some(vec!["digital signature".into(), "client auth".into()]),
                username: Some(user.to_owned()),
                ..CertificateSigningRequestSpec::default()
            };
            let ways = ways(&spec).into_iter();
            ways.map(|(subresource, _)| subresource).collect::<Vec<_>>()
        };
        assert_eq!(
            spec("system:node:a", "system:nodes"),
            ["selfnodeclient", "nodeclient"]
        );
        assert_eq!(spec("system:bootstrap:x", "system:nodes"), ["nodeclient"]);
        assert!(spec("system:node:a", "devs").is_empty());
    }
}
