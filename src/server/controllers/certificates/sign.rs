//! Signs approved requests to the signers `kubernetes.io/…`; one that no signer may sign gets the
//! condition `Failed` (`pkg/controller/certificates/signer`).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};

use crate::api::object::ObjectKey;
use crate::api::status::ApiError;
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, Queue, Result};
use crate::util::clock::Clock;
use crate::util::csr::{Grant, Request};
use crate::util::x509::{self, Authority};

use super::super::{Setup, shared::wire};
use super::{certificate, checks, has, with_condition};

/// `--cluster-signing-duration`
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
const LIFETIME_MIN: Duration = Duration::from_secs(600);

struct Signer {
    requests: Cache<CertificateSigningRequest>,
    authority: Arc<Authority>,
    client: Client,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let Some(authority) = &setup.authority else {
        return;
    };
    let requests = setup.informers.cache::<CertificateSigningRequest>();
    let queue = Queue::new();
    wire::on_own(&requests, &queue);
    let controller = Signer {
        requests: requests.clone(),
        authority: Arc::clone(authority),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, 1, async move { requests.synced().await });
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Leave,
    Fail(String),
    Sign(Box<Request>, Grant),
}

fn plan(request: &CertificateSigningRequest) -> Result<Plan, x509::Error> {
    let is_open = has(request, "Approved")
        && !has(request, "Denied")
        && !has(request, "Failed")
        && certificate(request).is_none();
    let spec = &request.spec;
    if !is_open || !spec.signer_name.starts_with("kubernetes.io/") {
        return Ok(Plan::Leave);
    }
    let asked = Request::from_pem(&spec.request.0)?;
    let usages = spec.usages.clone().unwrap_or_default();
    Ok(match checks::check(&spec.signer_name, &asked, &usages) {
        None => Plan::Leave,
        Some(Err(why)) => Plan::Fail(why),
        Some(Ok(())) => {
            let lifetime = lifetime(spec);
            Plan::Sign(Box::new(asked), Grant { usages, lifetime })
        }
    })
}

/// As long as was asked for, within limits.
fn lifetime(spec: &CertificateSigningRequestSpec) -> Duration {
    let wanted = spec.expiration_seconds.map(i64::from);
    wanted.map_or(LIFETIME, |seconds| {
        let wanted = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        wanted.clamp(LIFETIME_MIN, LIFETIME)
    })
}

impl Reconcile for Signer {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "csr_signer"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Action::Done);
        };
        let failed = |doing: &str, error: x509::Error| {
            ApiError::internal(format!("{doing} csr {:?}: {error}", key.name))
        };
        let now = self.clock.now();
        let new = match plan(&request).map_err(|error| failed("unable to parse", error))? {
            Plan::Leave => return Ok(Action::Done),
            Plan::Fail(why) => {
                with_condition(&request, ("Failed", "SignerValidationFailure"), &why, now)
            }
            Plan::Sign(asked, grant) => {
                let pem = self.authority.grant(&asked, &grant, now);
                let pem = pem.map_err(|error| failed("error auto signing", error))?;
                let mut new = (*request).clone();
                let status = new.status.get_or_insert_default();
                status.certificate = Some(ByteString(pem.into_bytes()));
                new
            }
        };
        let api = self.client.all::<CertificateSigningRequest>();
        match api.replace_status(&key.name, &new).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::x509::Key;
    use jiff::Timestamp;

    fn request(usages: &[&str]) -> CertificateSigningRequest {
        let pem = Key::generate().unwrap().request("alice", "devs").unwrap();
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: checks::CLIENT.to_owned(),
                usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
                expiration_seconds: Some(700),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }

    #[test]
    fn only_what_was_approved_and_may_be_is_signed() {
        let approved = |request: &CertificateSigningRequest| {
            with_condition(request, ("Approved", "x"), "", Timestamp::UNIX_EPOCH)
        };
        let good = request(&["client auth"]);
        assert_eq!(plan(&good), Ok(Plan::Leave));
        let Ok(Plan::Sign(asked, grant)) = plan(&approved(&good)) else {
            panic!("not signed");
        };
        assert_eq!(asked.common_name, "alice");
        assert_eq!(grant.lifetime, Duration::from_secs(700));
        let why = "invalid usage for client certificate: server auth".to_owned();
        let bad = approved(&request(&["server auth"]));
        assert_eq!(plan(&bad), Ok(Plan::Fail(why)));
        let mut others = approved(&good);
        others.spec.signer_name = "example.com/a".to_owned();
        assert_eq!(plan(&others), Ok(Plan::Leave));
    }
}
