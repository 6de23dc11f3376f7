//! Which servers of a cluster live, and that everybody is led to them.
//!
//! With a datastore outside the server there may be several. Each keeps a Lease
//! `kube-system/apiserver-<hash>` with its address, as upstream's API servers keep one for their
//! identity, and each brings the endpoints of the Service `kubernetes` in line with the Leases that
//! move: agents and Pods find all servers there. Whether a Lease moves is judged by when *we* saw it
//! change, never by comparing clocks of two machines; one that this server sees for the first time
//! counts as moving. Two servers that write at the same moment write the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::client::{Api, Client, DeleteParams, ListParams, Result};
use crate::util::clock::Clock;
use crate::util::errors::chain;
use crate::util::tasks::Tasks;

use super::bootstrap;

const NAMESPACE: &str = "kube-system";
/// Upstream's label of such Leases.
const LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// Where the server is reached.
const ADDRESS: &str = "orch.dev/address";
/// Between two signs of life.
const INTERVAL: Duration = Duration::from_secs(5);
/// A Lease that stood still this long is a dead server's.
const SILENCE: Duration = Duration::from_secs(20);

/// This server, among others.
pub(super) struct Servers {
    pub(super) client: Client,
    pub(super) clock: Clock,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// When each Lease was last seen to change: name → revision, since.
type Seen = BTreeMap<String, (String, Instant)>;

impl Servers {
    /// Keeps the Lease and the endpoints until `tasks` end; then takes this server out of both.
    pub(super) fn start(self, tasks: &Tasks) {
        let cancelled = tasks.cancelled();
        tasks.service("servers", async move {
            let mut seen = Seen::new();
            loop {
                if let Err(error) = self.round(&mut seen).await {
                    tracing::warn!(error = %chain(&error), "the list of servers is not kept");
                }
                tokio::select! {
                    () = cancelled.cancelled() => break,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
            }
            if let Err(error) = self.leave(&mut seen).await {
                // The others see the Lease stand still.
                tracing::debug!(error = %chain(&error), "this server stays listed for a while");
            }
        });
    }

    async fn round(&self, seen: &mut Seen) -> Result<()> {
        self.renew().await?;
        let leases = self.leases().list(&self.all()).await?.items;
        let alive = alive(&leases, seen, Instant::now());
        for name in alive.dead {
            // Another server may have removed it already.
            let removed = self.leases().delete(&name, &DeleteParams::default()).await;
            removed.or_else(|error| {
                if error.is_not_found() {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
        bootstrap::lead_to(&self.client, &alive.addresses, self.port).await
    }

    async fn leave(&self, seen: &mut Seen) -> Result<()> {
        self.leases()
            .delete(&self.name(), &DeleteParams::default())
            .await?;
        let leases = self.leases().list(&self.all()).await?.items;
        let alive = alive(&leases, seen, Instant::now());
        bootstrap::lead_to(&self.client, &alive.addresses, self.port).await
    }

    async fn renew(&self) -> Result<()> {
        let api = self.leases();
        match api.get_opt(&self.name()).await? {
            Some(mut lease) => {
                let spec = lease.spec.get_or_insert_default();
                spec.renew_time = Some(MicroTime(self.clock.now()));
                api.replace(&self.name(), &lease).await.map(|_| ())
            }
            None => api.create(&self.fresh()).await.map(|_| ()),
        }
    }

    fn fresh(&self) -> Lease {
        let now = MicroTime(self.clock.now());
        let seconds = i32::try_from(SILENCE.as_secs()).ok();
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(NAMESPACE.to_owned()),
                labels: Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into()),
                annotations: Some([(ADDRESS.to_owned(), self.address.to_string())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(format!("{}:{}", self.address, self.port)),
                lease_duration_seconds: seconds,
                renew_time: Some(now.clone()),
                acquire_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    fn name(&self) -> String {
        let digest = Sha256::digest(format!("{}:{}", self.address, self.port).as_bytes());
        format!("apiserver-{}", hex::encode(&digest[..10]))
    }

    fn leases(&self) -> Api<Lease> {
        self.client.namespaced(NAMESPACE)
    }

    fn all(&self) -> ListParams {
        ListParams::labels(&format!("{}={}", LABEL.0, LABEL.1))
    }
}

/// What the Leases say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Alive {
    addresses: BTreeSet<IpAddr>,
    /// Leases to remove.
    dead: Vec<String>,
}

fn alive(leases: &[Lease], seen: &mut Seen, now: Instant) -> Alive {
    let mut result = Alive::default();
    let before = std::mem::take(seen);
    for lease in leases {
        let meta = &lease.metadata;
        let (Some(name), Some(revision)) = (&meta.name, &meta.resource_version) else {
            continue;
        };
        let since = match before.get(name) {
            Some((old, since)) if old == revision => *since,
            _ => now,
        };
        seen.insert(name.clone(), (revision.clone(), since));
        let address = meta.annotations.as_ref().and_then(|all| all.get(ADDRESS));
        match address.and_then(|text| text.parse().ok()) {
            _ if now.duration_since(since) >= SILENCE => result.dead.push(name.clone()),
            Some(address) => {
                result.addresses.insert(address);
            }
            None => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, address: &str, revision: u64) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: Some(revision.to_string()),
                annotations: Some([(ADDRESS.to_owned(), address.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_lease_stands_still_is_no_longer_listed() {
        let mut seen = Seen::new();
        let start = Instant::now();
        let both = [lease("a", "10.0.0.1", 1), lease("b", "10.0.0.2", 2)];
        let first = alive(&both, &mut seen, start);
        assert_eq!(first.addresses.len(), 2);
        let later = start + SILENCE;
        let moved = [lease("a", "10.0.0.1", 7), lease("b", "10.0.0.2", 2)];
        let second = alive(&moved, &mut seen, later);
        assert_eq!(second.addresses, ["10.0.0.1".parse().unwrap()].into());
        assert_eq!(second.dead, ["b"]);
    }
}
