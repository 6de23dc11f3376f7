//! Which nodes there are and which pod nets they have → ways to the others. Begins when this node
//! has its own pod net, which its Node object brings it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::{Network, Peer};
use crate::client::cache::{Cache, Changes};
use crate::util::{backoff::Backoff, rng::Rng, tasks::Tasks};

/// First and longest pause after the kernel refused a change.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Follows the Node objects until `tasks` end: the others' pod nets become routes.
pub fn start(network: Network, own_name: String, nodes: Cache<Node>, tasks: &Tasks) {
    let cancelled = tasks.cancelled();
    tasks.service("pod-network", async move {
        cancelled
            .run_until_cancelled(follow(network, own_name, nodes))
            .await;
    });
}

async fn follow(network: Network, own_name: String, nodes: Cache<Node>) {
    let changed = Changes::<()>::default();
    let told = changed.clone();
    nodes.on_change(move |_| told.add(()));
    nodes.synced().await;
    network.base().await;
    changed.add(());
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, Rng::from_system());
    loop {
        changed.next().await;
        if let Err(error) = sync(&network, &own_name, &nodes).await {
            tracing::warn!(%error, "pod network not as it should be, trying again");
            tokio::time::sleep(backoff.next_delay()).await;
            changed.add(());
        } else {
            backoff.reset();
        }
    }
}

async fn sync(network: &Network, own_name: &str, nodes: &Cache<Node>) -> std::io::Result<()> {
    let all = nodes.list();
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    let others = all.iter().filter(|node| name(node) != own_name);
    network
        .set_peers(others.filter_map(|node| peer(node)).collect())
        .await
}

fn peer(node: &Node) -> Option<Peer> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses
        .iter()
        .filter(|address| address.type_ == "InternalIP");
    let address = internal
        .filter_map(|address| address.address.parse().ok())
        .next()?;
    Some(Peer {
        pod_cidr: pod_cidr(node)?,
        address,
    })
}

fn pod_cidr(node: &Node) -> Option<ipnet::Ipv4Net> {
    let spec = node.spec.as_ref()?;
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|cidr| cidr.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_without_address_or_net_is_no_peer_yet() {
        let node = |value| serde_json::from_value::<Node>(value).unwrap();
        let addresses = json!({"addresses": [
            {"type": "Hostname", "address": "w"}, {"type": "InternalIP", "address": "192.168.1.6"}]});
        let whole = node(json!({"spec": {"podCIDR": "10.244.2.0/24"}, "status": addresses}));
        assert_eq!(
            peer(&whole),
            Some(Peer {
                pod_cidr: "10.244.2.0/24".parse().unwrap(),
                address: "192.168.1.6".parse().unwrap(),
            })
        );
        assert_eq!(peer(&node(json!({"spec": {}, "status": addresses}))), None);
    }
}
