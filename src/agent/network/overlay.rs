//! The way to the pods of other nodes: one VXLAN device with entries made by hand, or plain routes
//! where the nodes share a link (`host-gw`).
//!
//! The hardware address of a node's VXLAN device is computed from its pod net, so no node has to
//! tell another one anything but that net and its address, which its Node object says anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::agent::sys::netlink::{Mac, Netlink, Vxlan};

/// Name of the device.
pub const DEVICE: &str = "orch.vxlan";
/// flannel's and Cilium's identifiers are 1 and 2; a third avoids mixing by mistake.
const VNI: u32 = 17;
/// Linux' own default, as flannel uses it.
const PORT: u16 = 8472;
/// What VXLAN over IPv4 adds to a packet: 20 + 8 + 8 + 14.
pub const OVERHEAD_BYTES: u32 = 50;

/// How nodes reach one another's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In UDP packets between the nodes' addresses.
    Vxlan,
    /// By routes over the nodes' common link.
    HostGateway,
    /// Somebody else does it.
    None,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its pods' net.
    pub pod_cidr: Ipv4Net,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Hardware address of the VXLAN device of the node that has `pod_cidr`: locally administered,
/// with the net's address in it.
pub fn device_mac(pod_cidr: Ipv4Net) -> Mac {
    let [a, b, c, d] = pod_cidr.network().octets();
    [0x0e, 0x59, a, b, c, d]
}

/// Makes this node's device.
pub async fn ensure_device(
    netlink: &Netlink,
    own_cidr: Ipv4Net,
    local: Ipv4Addr,
    mtu: u32,
) -> io::Result<u32> {
    let wanted = Vxlan {
        vni: VNI,
        port: PORT,
        local,
        mac: device_mac(own_cidr),
        mtu,
    };
    let index = netlink.ensure_vxlan(DEVICE, &wanted).await?;
    let own = Ipv4Net::new(own_cidr.network(), 32).map_err(io::Error::other)?;
    netlink.add_address(index, own).await?;
    Ok(index)
}

/// Makes routes, neighbours and forwarding entries of `device` just those of `peers`.
pub async fn sync_vxlan(netlink: &Netlink, device: u32, peers: &[Peer]) -> io::Result<()> {
    for peer in peers {
        let mac = device_mac(peer.pod_cidr);
        let gateway = peer.pod_cidr.network();
        netlink.set_forwarding(device, mac, peer.address).await?;
        netlink.set_neighbour(device, gateway, mac).await?;
        netlink
            .set_route(peer.pod_cidr, device, Some(gateway))
            .await?;
    }
    let wanted: BTreeSet<_> = peers.iter().map(|peer| peer.pod_cidr).collect();
    for stale in netlink
        .routes_over(device)
        .await?
        .into_iter()
        .filter(|net| !wanted.contains(net))
    {
        netlink.delete_route(stale).await?;
    }
    let macs: BTreeSet<_> = peers.iter().map(|peer| device_mac(peer.pod_cidr)).collect();
    netlink
        .prune_neighbours(device, |mac| macs.contains(&mac))
        .await
}

/// Makes plain routes to `peers` and removes those of `before` that are no peers any more.
pub async fn sync_host_gateway(
    netlink: &Netlink,
    link: u32,
    before: &[Peer],
    peers: &[Peer],
) -> io::Result<()> {
    let wanted: BTreeMap<_, _> = peers
        .iter()
        .map(|peer| (peer.pod_cidr, peer.address))
        .collect();
    for (net, address) in &wanted {
        netlink.set_route(*net, link, Some(*address)).await?;
    }
    for stale in before
        .iter()
        .filter(|peer| !wanted.contains_key(&peer.pod_cidr))
    {
        netlink.delete_route(stale.pod_cidr).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_addresses_are_unicast_local_and_differ_by_net() {
        let mac = device_mac("10.244.3.0/24".parse().unwrap());
        assert_eq!(mac, [0x0e, 0x59, 10, 244, 3, 0]);
        assert_eq!(mac[0] & 0b11, 0b10, "locally administered, not multicast");
    }
}
