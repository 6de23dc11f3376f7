//! Deletes requests nobody needs any more: pending for a day, settled for an hour, or with a
//! certificate that has expired (`pkg/controller/certificates/cleaner`).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::api::{meta, object::ObjectKey};
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, DeleteParams, Queue, Result};
use crate::util::clock::Clock;
use crate::util::x509::Facts;

use super::super::{Setup, shared::wire};
use super::{certificate, conditions};

const PENDING: SignedDuration = SignedDuration::from_hours(24);
const SETTLED: SignedDuration = SignedDuration::from_hours(1);

struct Cleaner {
    requests: Cache<CertificateSigningRequest>,
    client: Client,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let requests = setup.informers.cache::<CertificateSigningRequest>();
    let queue = Queue::new();
    wire::on_own(&requests, &queue);
    let controller = Cleaner {
        requests: requests.clone(),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, 1, async move { requests.synced().await });
}

/// When the request is deleted; `None`: it is kept. One that was approved and not issued waits for
/// its signer.
fn due(request: &CertificateSigningRequest) -> Option<Timestamp> {
    if conditions(request).next().is_none() {
        let created = request.metadata.creation_timestamp.as_ref()?.0;
        return created.checked_add(PENDING).ok();
    }
    let certificate = certificate(request);
    let settled = conditions(request)
        .filter(|one| match one.type_.as_str() {
            "Approved" => certificate.is_some(),
            "Denied" | "Failed" => true,
            _ => false,
        })
        .filter_map(|one| one.last_update_time.as_ref()?.0.checked_add(SETTLED).ok());
    let pem = certificate.and_then(|pem| std::str::from_utf8(pem).ok());
    let expires = pem.and_then(|pem| Some(Facts::from_pem(pem).ok()?.not_after));
    settled.chain(expires).min()
}

impl Reconcile for Cleaner {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "csr_cleaner"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Action::Done);
        };
        let Some(due) = due(&request) else {
            return Ok(Action::Done);
        };
        let left = Duration::try_from(due.duration_since(self.clock.now())).unwrap_or_default();
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let api = self.client.all::<CertificateSigningRequest>();
        let params = DeleteParams::uid(meta::uid(&request.metadata));
        match api.delete(&key.name, &params).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::with_condition;
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn pending_stays_a_day_and_settled_an_hour() {
        let at = |hours: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
        let mut pending = CertificateSigningRequest::default();
        pending.metadata.creation_timestamp = Some(Time(at(0)));
        assert_eq!(due(&pending), Some(at(24)));
        let with = |kind: &str| with_condition(&pending, (kind, "x"), "", at(2));
        assert_eq!(due(&with("Denied")), Some(at(3)));
        assert_eq!(due(&with("Failed")), Some(at(3)));
        let mut approved = with("Approved");
        assert_eq!(due(&approved), None);
        let status = approved.status.get_or_insert_default();
        status.certificate = Some(ByteString(b"x".to_vec()));
        assert_eq!(due(&approved), Some(at(3)));
    }
}
