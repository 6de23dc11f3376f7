//! What becomes of CertificateSigningRequests: kubelets' are approved, approved ones are signed, old
//! ones are deleted.
//!
//! Writes: the `Approved` condition of kubelets' requests; `status.certificate` and the `Failed`
//! condition of requests to the signers `kubernetes.io/…`; deletes requests.

mod approve;
mod checks;
mod clean;
mod sign;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Setup;

pub(super) fn start(setup: &Setup) {
    approve::start(setup);
    sign::start(setup);
    clean::start(setup);
}

fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    let status = request.status.iter();
    status.flat_map(|status| status.conditions.iter().flatten())
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).any(|condition| condition.type_ == kind)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|bytes| !bytes.is_empty())
}

/// The request with one condition more.
fn with_condition(
    request: &CertificateSigningRequest,
    (kind, reason): (&str, &str),
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    let status = request.status.get_or_insert_default();
    status
        .conditions
        .get_or_insert_default()
        .push(CertificateSigningRequestCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        });
    request
}
