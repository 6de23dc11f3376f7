//! The pod network of this node.
//!
//! Each pod has a network namespace with one veth to the bridge and an address of its own with
//! prefix 32: everything a pod sends, also to its neighbour on the same bridge, goes through the
//! node's IP stack by the gateway's address. So service translation and policies see every packet
//! in both directions, without br_netfilter.
//!
//! After a crash: namespaces, veths and address records stand; `attach` finds and keeps them.
//! What has no pod any more is listed by `attached` and removed by `detach`.

pub mod ipam;
pub mod overlay;
pub mod peers;
pub mod rules;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use sha2::Digest;
use tokio::sync::Mutex;
use tokio::sync::watch;

use self::ipam::{Addresses, Lease};
use self::overlay::{Backend, Peer};
use super::nft;
use super::seam::{HostPort, NetworkError, PinnedNamespaces, PodNetwork};
use super::sys::netlink::{Mac, Netlink, VethPeer};
use super::sys::{netns, sysctl};

/// The bridge all pods of the node hang on.
pub const BRIDGE: &str = "orch0";
/// Name of a pod's own end of its veth.
const POD_LINK: &str = "eth0";
/// Where nothing else is known: Ethernet's.
const DEFAULT_MTU: u32 = 1500;
/// The most a bridge takes; loopback, the node's link in a one-node cluster, has one more.
const MOST_MTU: u32 = 65_535;

/// What the network is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder on a memory file system for address records.
    pub state_dir: PathBuf,
    /// All pods of the cluster.
    pub cluster_cidr: Ipv4Net,
    /// All services of the cluster.
    pub service_cidr: Ipv4Net,
    /// This node's address.
    pub node_ip: Ipv4Addr,
    /// How other nodes are reached.
    pub backend: Backend,
}

/// The pod network of this node; clones share it.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    netlink: Netlink,
    addresses: Mutex<Addresses>,
    /// Held while bridge, device and routes are changed; the value is what is there.
    mesh: Mutex<Mesh>,
    ready: watch::Sender<Option<Base>>,
}

#[derive(Default)]
struct Mesh {
    device: Option<u32>,
    peers: Vec<Peer>,
}

/// What pods are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Base {
    pod_cidr: Ipv4Net,
    gateway: Ipv4Addr,
    bridge: u32,
    mtu: u32,
}

impl Network {
    /// Reads address records and opens netlink in the calling thread's network namespace. Pods
    /// can be attached after [`Network::set_pod_cidr`].
    pub async fn open(config: Config) -> io::Result<Self> {
        let addresses = Addresses::open(config.state_dir.join("addresses"))?;
        let netlink = Netlink::here()?;
        let shared = Shared {
            config,
            netlink,
            addresses: Mutex::new(addresses),
            mesh: Mutex::new(Mesh::default()),
            ready: watch::Sender::new(None),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Makes bridge, masquerading and overlay device for the node's pod net. May be repeated.
    pub async fn set_pod_cidr(&self, pod_cidr: Ipv4Net) -> io::Result<()> {
        let shared = &self.shared;
        let mut mesh = shared.mesh.lock().await;
        if shared
            .ready
            .borrow()
            .is_some_and(|base| base.pod_cidr == pod_cidr)
        {
            return Ok(());
        }
        set_kernel_options()?;
        let mtu = self.pod_mtu().await?;
        let gateway = Ipv4Addr::from(u32::from(pod_cidr.network()) + 1);
        let bridge = shared
            .netlink
            .ensure_bridge(BRIDGE, mac_of(gateway), mtu)
            .await?;
        let address = Ipv4Net::new(gateway, pod_cidr.prefix_len()).map_err(io::Error::other)?;
        shared.netlink.add_address(bridge, address).await?;
        // Pods of one node talk through the gateway on purpose: no hints to go directly.
        sysctl::set(&format!("net/ipv4/conf/{BRIDGE}/send_redirects"), "0")?;
        sysctl::set(&format!("net/ipv4/conf/{BRIDGE}/route_localnet"), "1")?;
        // A packet to a service is translated on its way out of this machine, so there must be a
        // way; and where no rule translates it, it ends on the bridge and not at the default
        // gateway. Nor does a packet to a pod net that no node has.
        shared
            .netlink
            .set_route(shared.config.service_cidr, bridge, None)
            .await?;
        shared
            .netlink
            .set_unreachable(shared.config.cluster_cidr)
            .await?;
        nft::apply(&rules::masquerade(pod_cidr, shared.config.cluster_cidr)).await?;
        if shared.config.backend == Backend::Vxlan {
            let local = shared.config.node_ip;
            mesh.device =
                Some(overlay::ensure_device(&shared.netlink, pod_cidr, local, mtu).await?);
        }
        self.apply_host_ports(&*shared.addresses.lock().await)
            .await?;
        shared.ready.send_replace(Some(Base {
            pod_cidr,
            gateway,
            bridge,
            mtu,
        }));
        Ok(())
    }

    /// Makes the ways to other nodes just those to `peers`.
    pub async fn set_peers(&self, mut peers: Vec<Peer>) -> io::Result<()> {
        let shared = &self.shared;
        peers.sort();
        let mut mesh = shared.mesh.lock().await;
        if mesh.peers == peers {
            return Ok(());
        }
        match (shared.config.backend, mesh.device) {
            (Backend::Vxlan, Some(device)) => {
                overlay::sync_vxlan(&shared.netlink, device, &peers).await?;
            }
            (Backend::HostGateway, _) => {
                let link = self.node_link().await?;
                overlay::sync_host_gateway(&shared.netlink, link, &mesh.peers, &peers).await?;
            }
            (Backend::Vxlan, None) | (Backend::None, _) => return Ok(()),
        }
        mesh.peers = peers;
        Ok(())
    }

    async fn node_link(&self) -> io::Result<u32> {
        let node_ip = self.shared.config.node_ip;
        self.shared
            .netlink
            .link_holding(node_ip)
            .await?
            .ok_or_else(|| {
                io::Error::other(format!(
                    "no link of this machine has the node's address `{node_ip}`"
                ))
            })
    }

    async fn pod_mtu(&self) -> io::Result<u32> {
        let config = &self.shared.config;
        let mtu = self
            .shared
            .netlink
            .mtu_of(config.node_ip)
            .await?
            .unwrap_or(DEFAULT_MTU)
            .min(MOST_MTU);
        Ok(if config.backend == Backend::Vxlan {
            mtu - overlay::OVERHEAD_BYTES
        } else {
            mtu
        })
    }

    async fn base(&self) -> Base {
        let mut ready = self.shared.ready.subscribe();
        match ready
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|base| *base)
        {
            Some(base) => base,
            // The sender lives in `self`, so waiting cannot fail; never resolve rather than guess.
            None => std::future::pending().await,
        }
    }

    async fn connect(&self, uid: &str, network: &Path, lease: &Lease) -> io::Result<()> {
        let base = self.base().await;
        let name = link_name(uid);
        let netlink = &self.shared.netlink;
        if netlink.link(&name).await?.is_some() && has_address(network, lease.address).await? {
            return Ok(());
        }
        netlink.delete_link(&name).await?;
        let namespace = std::fs::File::open(network)?;
        let peer = VethPeer {
            name: POD_LINK.to_owned(),
            namespace: namespace.as_raw_fd(),
            mac: mac_of(lease.address),
            mtu: base.mtu,
        };
        netlink.add_veth(&name, base.bridge, &peer).await?;
        let address = lease.address;
        netns::within(network, move || configure(address, base.gateway)).await
    }

    async fn apply_host_ports(&self, addresses: &Addresses) -> io::Result<()> {
        nft::apply(&rules::host_ports(addresses.leases().values())).await
    }
}

#[async_trait]
impl PodNetwork for Network {
    async fn set_range(&self, range: ipnet::IpNet) -> Result<(), NetworkError> {
        // Only IPv4 pod nets are built; a second range of the other family is passed over.
        let ipnet::IpNet::V4(range) = range else {
            return Ok(());
        };
        let set = self.set_pod_cidr(range).await;
        set.map_err(|why| failed("set up the pod network", &why))
    }

    async fn pin(
        &self,
        folder: &Path,
        hostname: &str,
        sysctls: &[(String, String)],
    ) -> Result<PinnedNamespaces, NetworkError> {
        let pinned = netns::pin(folder, hostname, sysctls).await;
        pinned.map_err(|why| failed("make pod namespaces", &why))
    }

    async fn unpin(&self, folder: &Path) -> Result<(), NetworkError> {
        netns::unpin(folder)
            .await
            .map_err(|why| failed("remove pod namespaces", &why))
    }

    async fn attach(
        &self,
        uid: &str,
        network: &Path,
        ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let base = self.base().await;
        let lease = {
            let mut addresses = self.shared.addresses.lock().await;
            let lease = addresses.allocate(uid, base.pod_cidr, ports);
            let lease = lease.map_err(|why| failed("allocate a pod address", &why))?;
            if !ports.is_empty() {
                let applied = self.apply_host_ports(&addresses).await;
                applied.map_err(|why| failed("open host ports", &why))?;
            }
            lease
        };
        let connected = self.connect(uid, network, &lease).await;
        connected.map_err(|why| failed("connect the pod", &why))?;
        Ok(vec![IpAddr::V4(lease.address)])
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        let gone = self.shared.netlink.delete_link(&link_name(uid)).await;
        gone.map_err(|why| failed("disconnect the pod", &why))?;
        let mut addresses = self.shared.addresses.lock().await;
        let lease = addresses
            .free(uid)
            .map_err(|why| failed("free the pod's address", &why))?;
        if lease.is_some_and(|lease| !lease.ports.is_empty()) {
            let applied = self.apply_host_ports(&addresses).await;
            applied.map_err(|why| failed("close host ports", &why))?;
        }
        Ok(())
    }

    async fn attached(&self) -> Result<Vec<(String, Vec<IpAddr>)>, NetworkError> {
        let addresses = self.shared.addresses.lock().await;
        let all = addresses.leases().iter();
        Ok(all
            .map(|(uid, lease)| (uid.clone(), vec![IpAddr::V4(lease.address)]))
            .collect())
    }
}

/// Inside the pod's namespace: the link up, its address, and everything by the gateway.
async fn configure(address: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
    let netlink = Netlink::here()?;
    let link = netlink.index(POD_LINK).await?;
    netlink.add_address(link, host_net(address)).await?;
    netlink.set_up(POD_LINK).await?;
    netlink.set_route(host_net(gateway), link, None).await?;
    netlink
        .set_route(Ipv4Net::default(), link, Some(gateway))
        .await
}

async fn has_address(network: &Path, address: Ipv4Addr) -> io::Result<bool> {
    netns::within(network, move || async move {
        let netlink = Netlink::here()?;
        match netlink.link(POD_LINK).await? {
            Some(link) => Ok(netlink.address_of(link.header.index).await? == Some(address)),
            None => Ok(false),
        }
    })
    .await
}

fn set_kernel_options() -> io::Result<()> {
    sysctl::set("net.ipv4.ip_forward", "1")
}

fn host_net(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

/// A locally administered hardware address with the IPv4 address in it.
fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Name of the node's end of a pod's veth: links have at most 15 characters.
fn link_name(uid: &str) -> String {
    let hash = hex::encode(sha2::Sha256::digest(uid.as_bytes()));
    format!("pod{}", &hash[..12])
}

fn failed(doing: &str, why: &io::Error) -> NetworkError {
    NetworkError {
        doing: doing.to_owned(),
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests;
