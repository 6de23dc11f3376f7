//! Gives every node a net for its pods out of the cluster's.
//!
//! Writes: `spec.podCIDR` and `spec.podCIDRs` of nodes that have none. One worker: what is given
//! out is computed from all nodes each time, so nothing has to be remembered over a restart.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use crate::api::object::ObjectKey;
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, Error, Patch, Queue, Recorder, Result, events};

use super::{Setup, shared::wire};

/// One worker: two could give the same net.
const WORKERS: usize = 1;
/// Prefix of a node's net: upstream's default, for 254 addresses.
const NODE_PREFIX: u8 = 24;

struct NodeIpam {
    nodes: Cache<Node>,
    client: Client,
    recorder: Recorder,
    cluster: Ipv4Net,
    /// Given and perhaps not yet in the cache.
    given: Mutex<BTreeSet<Ipv4Net>>,
}

pub(super) fn start(setup: &Setup) {
    let nodes = setup.informers.cache::<Node>();
    let queue = Queue::new();
    wire::on_own(&nodes, &queue);
    // A net that is free again may be what another node waits for; its retries find it.
    let controller = NodeIpam {
        nodes: nodes.clone(),
        client: setup.client.clone(),
        recorder: setup.recorder("cidrAllocator"),
        cluster: setup.cluster_cidr,
        given: Mutex::default(),
    };
    setup.run(
        controller,
        queue,
        WORKERS,
        async move { nodes.synced().await },
    );
}

impl Reconcile for NodeIpam {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "node_ipam"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(node) = self
            .nodes
            .get(key)
            .filter(|node| cidrs(node).next().is_none())
        else {
            return Ok(Action::Done);
        };
        let mut used: BTreeSet<Ipv4Net> = self
            .nodes
            .list()
            .iter()
            .flat_map(|node| cidrs(node).collect::<Vec<_>>())
            .collect();
        self.given.lock().retain(|net| !used.contains(net));
        used.extend(self.given.lock().iter().copied());
        let Some(free) = next_free(self.cluster, &used) else {
            let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder
                .normal(&events::reference(&*node), "CIDRNotAvailable", text);
            let why = format!(
                "no /{NODE_PREFIX} is free in the cluster's `{}`",
                self.cluster
            );
            return Err(Error::Config(why));
        };
        let text = free.to_string();
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": text, "podCIDRs": [text]},
        });
        self.given.lock().insert(free);
        let patched = self
            .client
            .all::<Node>()
            .patch(&key.name, &Patch::Merge(patch))
            .await;
        if patched.is_err() {
            self.given.lock().remove(&free);
        }
        match patched {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

fn cidrs(node: &Node) -> impl Iterator<Item = Ipv4Net> + '_ {
    let all = node
        .spec
        .iter()
        .flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    all.filter_map(|cidr| cidr.parse().ok())
}

/// The lowest net of a node's size that overlaps none of `used`.
fn next_free(cluster: Ipv4Net, used: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let prefix = NODE_PREFIX.max(cluster.prefix_len());
    let mut nets = cluster.subnets(prefix).ok()?;
    nets.find(|net| !used.contains(net) && !used.iter().any(|u| u.contains(net) || net.contains(u)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(cluster: &str, used: &[&str]) -> Option<String> {
        let used = used.iter().map(|net| net.parse().unwrap()).collect();
        next_free(cluster.parse().unwrap(), &used).map(|net| net.to_string())
    }

    #[test]
    fn the_lowest_free_net_is_given() {
        assert_eq!(free("10.244.0.0/16", &[]).unwrap(), "10.244.0.0/24");
        assert_eq!(
            free("10.244.0.0/16", &["10.244.0.0/24", "10.244.2.0/24"]).unwrap(),
            "10.244.1.0/24"
        );
        assert_eq!(
            free("10.244.0.0/16", &["10.244.0.0/23"]).unwrap(),
            "10.244.2.0/24"
        );
        assert_eq!(
            free("10.244.0.0/23", &["10.244.0.0/24", "10.244.1.0/25"]),
            None
        );
    }
}
