//! Links, addresses, routes and neighbours by rtnetlink, each step one that may be repeated.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope, RouteType};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
};

/// A hardware address.
pub type Mac = [u8; 6];

/// A netlink socket in one network namespace.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

/// What a VXLAN device is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Outer source address.
    pub local: Ipv4Addr,
    /// Hardware address of the device.
    pub mac: Mac,
    /// Largest inner packet.
    pub mtu: u32,
}

/// One end of a veth pair that is to stand in another namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPeer {
    /// Its name there.
    pub name: String,
    /// The namespace, as an open file's number.
    pub namespace: std::os::fd::RawFd,
    /// Its hardware address.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u32,
}

impl Netlink {
    /// A socket in the calling thread's network namespace, driven by the current async runtime.
    pub fn here() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "ends by itself when the last handle is dropped; also used on short-lived runtimes"
        )]
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The link named `name`.
    pub async fn link(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(failed("find link", name, error)),
        }
    }

    /// Index of the link named `name`.
    pub async fn index(&self, name: &str) -> io::Result<u32> {
        match self.link(name).await? {
            Some(link) => Ok(link.header.index),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no link `{name}`"),
            )),
        }
    }

    /// Brings a link up.
    pub async fn set_up(&self, name: &str) -> io::Result<()> {
        let up = LinkUnspec::new_with_name(name).up().build();
        self.handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(|e| failed("bring up", name, e))
    }

    /// Makes a bridge unless it exists.
    pub async fn ensure_bridge(&self, name: &str, mac: Mac, mtu: u32) -> io::Result<u32> {
        if self.link(name).await?.is_none() {
            let bridge = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).build();
            let made = self.handle.link().add(bridge).execute().await;
            ignore(made, libc::EEXIST).map_err(|e| failed("make bridge", name, e))?;
        }
        self.set_up(name).await?;
        self.index(name).await
    }

    /// Makes a VXLAN device as `wanted`; one that differs is replaced.
    pub async fn ensure_vxlan(&self, name: &str, wanted: &Vxlan) -> io::Result<u32> {
        if let Some(link) = self.link(name).await? {
            if has_mac_and_mtu(&link, wanted.mac, wanted.mtu)
                && has_vxlan_local(&link, wanted.local)
            {
                self.set_up(name).await?;
                return Ok(link.header.index);
            }
            self.delete_link(name).await?;
        }
        let device = LinkVxlan::new(name, wanted.vni)
            .local(wanted.local)
            .port(wanted.port)
            .learning(false)
            .address(wanted.mac.to_vec())
            .mtu(wanted.mtu)
            .build();
        let made = self.handle.link().add(device).execute().await;
        made.map_err(|e| failed("make vxlan", name, e))?;
        self.set_up(name).await?;
        self.index(name).await
    }

    /// Makes a veth pair: `name` here, on the bridge with index `bridge`; the peer elsewhere.
    pub async fn add_veth(&self, name: &str, bridge: u32, peer: &VethPeer) -> io::Result<()> {
        let other = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.name.clone())
            .address(peer.mac.to_vec())
            .mtu(peer.mtu)
            .setns_by_fd(peer.namespace)
            .build();
        let pair = LinkVeth::new(name, &peer.name)
            .set_info_data(rtnetlink::packet_route::link::InfoData::Veth(
                rtnetlink::packet_route::link::InfoVeth::Peer(other),
            ))
            .mtu(peer.mtu)
            .controller(bridge)
            .up()
            .build();
        self.handle
            .link()
            .add(pair)
            .execute()
            .await
            .map_err(|e| failed("make veth", name, e))
    }

    /// Removes a link; one that is gone is fine.
    pub async fn delete_link(&self, name: &str) -> io::Result<()> {
        let Some(link) = self.link(name).await? else {
            return Ok(());
        };
        let gone = self.handle.link().del(link.header.index).execute().await;
        ignore(gone, libc::ENODEV).map_err(|e| failed("delete link", name, e))
    }

    /// Gives a link an address; one it has already is fine.
    pub async fn add_address(&self, link: u32, address: Ipv4Net) -> io::Result<()> {
        let ip = IpAddr::V4(address.addr());
        let added = self.handle.address().add(link, ip, address.prefix_len());
        let added = added.replace().execute().await;
        ignore(added, libc::EEXIST).map_err(|e| failed("add address", &address.to_string(), e))
    }

    /// A route to `to` over `link`, by `gateway` where there is one (which need not be on the
    /// link's own net). Replaces an older one to the same net.
    pub async fn set_route(
        &self,
        to: Ipv4Net,
        link: u32,
        gateway: Option<Ipv4Addr>,
    ) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .output_interface(link);
        let route = match gateway {
            Some(gateway) => route.gateway(gateway).onlink(),
            None => route.scope(RouteScope::Link),
        };
        let set = self
            .handle
            .route()
            .add(route.build())
            .replace()
            .execute()
            .await;
        set.map_err(|e| failed("set route", &to.to_string(), e))
    }

    /// Packets to `to` that no narrower route takes are refused.
    pub async fn set_unreachable(&self, to: Ipv4Net) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .kind(RouteType::Unreachable);
        let set = self
            .handle
            .route()
            .add(route.build())
            .replace()
            .execute()
            .await;
        set.map_err(|e| failed("set unreachable", &to.to_string(), e))
    }

    /// Removes every route to `to`; none is fine.
    pub async fn delete_route(&self, to: Ipv4Net) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .build();
        let gone = self.handle.route().del(route).execute().await;
        ignore(gone, libc::ESRCH).map_err(|e| failed("delete route", &to.to_string(), e))
    }

    /// Nets routed over `link`.
    pub async fn routes_over(&self, link: u32) -> io::Result<Vec<Ipv4Net>> {
        let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<_> = self
            .handle
            .route()
            .get(every)
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("list routes", "all", e))?;
        let nets = routes.into_iter().filter_map(|route| {
            let over = route
                .attributes
                .iter()
                .any(|a| matches!(a, RouteAttribute::Oif(i) if *i == link));
            let to = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(*to),
                _ => None,
            })?;
            if !over || route.header.table != 254 {
                return None;
            }
            Ipv4Net::new(to, route.header.destination_prefix_length).ok()
        });
        Ok(nets.collect())
    }

    /// The way to the link's default gateway's link: index and source address of the default
    /// route's link.
    pub async fn default_route(&self) -> io::Result<Option<u32>> {
        let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(every).execute();
        while let Some(route) = routes
            .try_next()
            .await
            .map_err(|e| failed("list", "routes", e))?
        {
            if route.header.destination_prefix_length != 0 {
                continue;
            }
            let link = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            if link.is_some() {
                return Ok(link);
            }
        }
        Ok(None)
    }

    /// A permanent neighbour entry: `address` is at `mac` on `link`.
    pub async fn set_neighbour(&self, link: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let set = self
            .handle
            .neighbours()
            .add(link, IpAddr::V4(address))
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await;
        set.map_err(|e| failed("set neighbour", &address.to_string(), e))
    }

    /// A permanent forwarding entry of a VXLAN device: frames for `mac` go to `remote`.
    pub async fn set_forwarding(&self, link: u32, mac: Mac, remote: Ipv4Addr) -> io::Result<()> {
        let set = self
            .handle
            .neighbours()
            .add_bridge(link, &mac)
            // Of the device itself; without it the kernel looks for a bridge the device is on.
            .flags(NeighbourFlags::Own)
            .destination(IpAddr::V4(remote))
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await;
        set.map_err(|e| failed("set forwarding entry", &remote.to_string(), e))
    }

    /// Removes the neighbour and forwarding entries of `link` whose hardware address `keep`
    /// refuses.
    pub async fn prune_neighbours(&self, link: u32, keep: impl Fn(Mac) -> bool) -> io::Result<()> {
        for family in [AddressFamily::Inet, AddressFamily::Bridge] {
            let entries: Vec<_> = self
                .handle
                .neighbours()
                .get()
                .set_address_family(family)
                .execute()
                .try_collect()
                .await
                .map_err(|e| failed("list", "neighbours", e))?;
            for entry in entries
                .into_iter()
                .filter(|entry| entry.header.ifindex == link)
            {
                let mac = entry.attributes.iter().find_map(|a| match a {
                    NeighbourAttribute::LinkLayerAddress(mac) => Mac::try_from(&mac[..]).ok(),
                    _ => None,
                });
                if entry.header.state != NeighbourState::Permanent || mac.is_none_or(&keep) {
                    continue;
                }
                let gone = self.handle.neighbours().del(entry).execute().await;
                ignore(gone, libc::ENOENT).map_err(|e| failed("delete", "neighbour", e))?;
            }
        }
        Ok(())
    }

    /// Index of the link that holds `address`.
    pub async fn link_holding(&self, address: Ipv4Addr) -> io::Result<Option<u32>> {
        let wanted = IpAddr::V4(address);
        let mut addresses = self
            .handle
            .address()
            .get()
            .set_address_filter(wanted)
            .execute();
        let found = addresses
            .try_next()
            .await
            .map_err(|e| failed("list", "addresses", e))?;
        Ok(found.map(|found| found.header.index))
    }

    /// Largest packet of the link that holds `address`.
    pub async fn mtu_of(&self, address: Ipv4Addr) -> io::Result<Option<u32>> {
        let Some(index) = self.link_holding(address).await? else {
            return Ok(None);
        };
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links
            .try_next()
            .await
            .map_err(|e| failed("find link of", "address", e))?;
        Ok(link.and_then(|link| {
            link.attributes.iter().find_map(|a| match a {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
        }))
    }

    /// Names of the links that begin with `prefix`.
    pub async fn links_named(&self, prefix: &str) -> io::Result<Vec<String>> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("list", "links", e))?;
        let names = links.into_iter().filter_map(|link| {
            link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfName(name) if name.starts_with(prefix) => Some(name),
                _ => None,
            })
        });
        Ok(names.collect())
    }

    /// The first IPv4 address of the link with index `link`.
    pub async fn address_of(&self, link: u32) -> io::Result<Option<Ipv4Addr>> {
        let mut addresses = self
            .handle
            .address()
            .get()
            .set_link_index_filter(link)
            .execute();
        while let Some(found) = addresses
            .try_next()
            .await
            .map_err(|e| failed("list", "addresses", e))?
        {
            let address = found.attributes.iter().find_map(|a| match a {
                rtnetlink::packet_route::address::AddressAttribute::Address(IpAddr::V4(
                    address,
                )) => Some(*address),
                _ => None,
            });
            if address.is_some() {
                return Ok(address);
            }
        }
        Ok(None)
    }
}

fn has_mac_and_mtu(link: &LinkMessage, mac: Mac, mtu: u32) -> bool {
    let has = |wanted: &LinkAttribute| link.attributes.contains(wanted);
    has(&LinkAttribute::Address(mac.to_vec())) && has(&LinkAttribute::Mtu(mtu))
}

fn has_vxlan_local(link: &LinkMessage, local: Ipv4Addr) -> bool {
    use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkInfo};
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(parts)) => parts.contains(&InfoVxlan::Local(local)),
            _ => false,
        }),
        _ => false,
    })
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(e) if e.raw_code() == -errno)
}

fn ignore(result: Result<(), rtnetlink::Error>, errno: i32) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is(&error, errno) => Ok(()),
        other => other,
    }
}

fn failed(doing: &str, what: &str, error: rtnetlink::Error) -> io::Error {
    io::Error::other(format!("{doing} `{what}`: {error}"))
}
