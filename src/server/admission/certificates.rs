//! CertificateSigningRequests: only who may `approve` for a signer approves or denies, only who may
//! `sign` for it issues, and nobody asks for a certificate in `system:masters`
//! (`plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}`).

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::authz::{self, Authz, Verdict};
use crate::server::request::{RequestInfo, User};
use crate::util::csr::Request;

use super::{Attributes, Operation, Plugin};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

pub(super) struct Certificates {
    authz: Arc<Authz>,
}

impl Certificates {
    pub(super) fn new(authz: &Arc<Authz>) -> Self {
        Self {
            authz: Arc::clone(authz),
        }
    }

    /// For the signer itself, or for all of its domain.
    fn may(&self, user: &User, verb: &str, signer: &str) -> bool {
        let domain = signer.split('/').next().unwrap_or_default();
        [signer.to_owned(), format!("{domain}/*")]
            .into_iter()
            .any(|name| {
                let info = RequestInfo {
                    verb: verb.to_owned(),
                    is_resource: true,
                    group: GROUP.to_owned(),
                    version: "*".to_owned(),
                    resource: "signers".to_owned(),
                    name,
                    ..RequestInfo::default()
                };
                let asked = authz::Attributes {
                    user,
                    info: &info,
                    field_selector: "",
                };
                matches!(self.authz.authorize(&asked), Verdict::Allowed(_))
            })
    }
}

fn signer(request: &Object) -> &str {
    request.text_at(&["spec", "signerName"])
}

/// Whether a write of `status` says something about the certificate.
fn signs(new: &Object, old: &Object) -> bool {
    let part = |object: &Object, field: &str| object.field("status")[field].clone();
    ["certificate", "conditions"]
        .iter()
        .any(|field| part(new, field) != part(old, field))
}

/// Why a new request is refused.
fn restricted(request: &Object) -> Option<String> {
    if signer(request) != CLIENT_SIGNER {
        return None;
    }
    let text = request.text_at(&["spec", "request"]);
    let pem = base64::engine::general_purpose::STANDARD.decode(text);
    let parsed = match pem.map(|pem| Request::from_pem(&pem)) {
        Ok(Ok(parsed)) => parsed,
        Ok(Err(error)) => return Some(format!("failed to parse CSR: {error}")),
        Err(error) => return Some(format!("failed to parse CSR: {error}")),
    };
    let is_master = parsed.organizations.iter().any(|group| group == MASTERS);
    is_master.then(|| format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"))
}

#[async_trait]
impl Plugin for Certificates {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        let gvr = &attributes.def.gvr;
        gvr.group == GROUP && gvr.resource == "certificatesigningrequests"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(object) = object else {
            return Ok(());
        };
        let verb = match (attributes.operation, attributes.subresource) {
            (Operation::Create, "") => {
                return match restricted(object) {
                    Some(why) => Err(attributes.forbidden(&why)),
                    None => Ok(()),
                };
            }
            (Operation::Update, "approval") => "approve",
            (Operation::Update, "status") if attributes.old.is_none_or(|o| signs(object, o)) => {
                "sign"
            }
            _ => return Ok(()),
        };
        if self.may(attributes.user, verb, signer(object)) {
            return Ok(());
        }
        Err(attributes.forbidden(&format!(
            "user not permitted to {verb} requests with signerName {:?}",
            signer(object)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::x509::Key;
    use serde_json::json;

    #[test]
    fn nobody_becomes_a_master_by_certificate() {
        let request = |signer: &str, group: &str| {
            let pem = Key::generate().unwrap().request("alice", group).unwrap();
            let text = base64::engine::general_purpose::STANDARD.encode(pem);
            let request = json!({"spec": {"signerName": signer, "request": text}});
            restricted(&Object::from_value(request).unwrap())
        };
        assert_eq!(request(CLIENT_SIGNER, "devs"), None);
        assert_eq!(request("example.com/own", MASTERS), None);
        assert_eq!(
            request(CLIENT_SIGNER, MASTERS).unwrap(),
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not \
             allowed"
        );
    }

    #[test]
    fn only_certificate_and_conditions_are_signing() {
        let with = |status: serde_json::Value| {
            Object::from_value(json!({"metadata": {}, "status": status})).unwrap()
        };
        assert!(!signs(&with(json!({})), &with(json!({}))));
        assert!(signs(
            &with(json!({"certificate": "YQ=="})),
            &with(json!({}))
        ));
    }
}
