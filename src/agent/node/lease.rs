//! The node's heartbeat: its Lease in `kube-node-lease`, renewed every ten seconds.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{Client, Patch};
use crate::util::{backoff::Backoff, clock::Clock, errors::chain, rng::Rng};

const NAMESPACE: &str = "kube-node-lease";
const SECONDS: i32 = 40;
const PERIOD: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(7);

/// Renews the lease for ever, from the moment the Node's UID is known.
pub(crate) async fn keep(
    client: Client,
    node: String,
    (clock, rng): (Clock, Rng),
    mut uid: watch::Receiver<String>,
) {
    if uid.wait_for(|uid| !uid.is_empty()).await.is_err() {
        return;
    }
    let mut pause = Backoff::new(RETRY_FIRST, RETRY_MOST, rng);
    let mut next = Instant::now();
    loop {
        tokio::time::sleep_until(next).await;
        let owner = uid.borrow().clone();
        match renew(&client, &node, &owner, clock.now()).await {
            Ok(()) => {
                pause.reset();
                next += PERIOD;
                // Time that was slept through is not caught up.
                next = next.max(Instant::now());
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "lease not renewed, trying again");
                next = Instant::now() + pause.next_delay();
            }
        }
    }
}

async fn renew(
    client: &Client,
    node: &str,
    owner: &str,
    now: Timestamp,
) -> crate::client::Result<()> {
    let api = client.namespaced::<Lease>(NAMESPACE);
    let time = crate::api::time::micros(now);
    let patch = json!({"spec": {"renewTime": time, "holderIdentity": node,
        "leaseDurationSeconds": SECONDS}});
    match api.patch(node, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(node.to_owned()),
                    namespace: Some(NAMESPACE.to_owned()),
                    owner_references: Some(vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Node".to_owned(),
                        name: node.to_owned(),
                        uid: owner.to_owned(),
                        ..OwnerReference::default()
                    }]),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(node.to_owned()),
                    lease_duration_seconds: Some(SECONDS),
                    renew_time: Some(MicroTime(now)),
                    ..LeaseSpec::default()
                }),
            };
            match api.create(&lease).await {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::ApiError;
    use crate::client::fake::Fake;
    use crate::util::tasks::Tasks;

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_made_and_then_renewed_every_ten_seconds() {
        let fake = Fake::new();
        let missing = ApiError::not_found("coordination.k8s.io", "leases", "n1");
        fake.fail(&format!("PATCH {PATH}/n1"), missing);
        fake.answer(&format!("POST {PATH}"), json!({"metadata": {}}));
        let uid = watch::Sender::new(String::new());
        let tasks = Tasks::new();
        let time = (Clock::system(), Rng::seeded(1));
        let keeping = keep(fake.client(), "n1".into(), time, uid.subscribe());
        let cancelled = tasks.cancelled();
        tasks.service("lease", async move {
            cancelled.run_until_cancelled(keeping).await;
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(fake.seen().is_empty(), "the node is not there yet");
        uid.send_replace("u1".into());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let made = fake.seen().pop().unwrap();
        assert_eq!(made.1["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(made.1["spec"]["leaseDurationSeconds"], 40);
        fake.answer(&format!("PATCH {PATH}/n1"), json!({"metadata": {}}));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(fake.seen().len(), 2 + 3);
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }
}
