//! The heartbeat: a Lease that is renewed every ten seconds. What takes it for dead is the node
//! lifecycle controller, after forty.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;

use crate::api::time;
use crate::client::{Client, Patch, Result};
use crate::util::{clock::Clock, errors::chain};

const NAMESPACE: &str = "kube-node-lease";
/// How long a heartbeat counts (the kubelet's `nodeLeaseDurationSeconds`).
const DURATION_SECONDS: i32 = 40;
/// A quarter of it, as the kubelet's.
const RENEW: Duration = Duration::from_secs(10);
/// After a failure, a missed beat must not become a missed node.
const RENEW_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Renews one node's Lease.
pub(super) struct Heartbeat {
    node: String,
    client: Client,
    clock: Clock,
}

impl Heartbeat {
    pub(super) fn new(node: &str, client: &Client, clock: &Clock) -> Self {
        Self {
            node: node.to_owned(),
            client: client.clone(),
            clock: clock.clone(),
        }
    }

    /// For ever.
    pub(super) async fn run(self) {
        loop {
            match self.beat().await {
                Ok(()) => tokio::time::sleep(RENEW).await,
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "heartbeat failed, trying again");
                    tokio::time::sleep(RENEW_AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn beat(&self) -> Result<()> {
        let now = self.clock.now();
        let patch = json!({"spec": {
            "holderIdentity": self.node,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": time::micros(now),
        }});
        let api = self.client.namespaced::<Lease>(NAMESPACE);
        match api.patch(&self.node, &Patch::Merge(patch)).await {
            Err(error) if error.is_not_found() => {
                // Owned by its node, so that both go together; the node may not be there yet.
                let node = self.client.all::<Node>().get_opt(&self.node).await?;
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.node.clone()),
                        owner_references: node.map(|node| vec![owner(&node)]),
                        ..ObjectMeta::default()
                    },
                    spec: Some(LeaseSpec {
                        holder_identity: Some(self.node.clone()),
                        lease_duration_seconds: Some(DURATION_SECONDS),
                        renew_time: Some(MicroTime(now)),
                        ..LeaseSpec::default()
                    }),
                };
                api.create(&lease).await.map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }
}

fn owner(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}
