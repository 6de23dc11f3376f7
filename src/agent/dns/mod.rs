//! Cluster DNS, answered on each node from the same caches the service proxy uses, at the cluster
//! DNS address, which every node holds on its loopback. Names follow the Kubernetes DNS
//! specification 1.1; everything else is asked of the host's own name servers.

mod forward;
pub mod records;
mod server;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::Name;
use tokio::net::{TcpListener, UdpSocket};

use self::forward::Upstream;
use self::records::Records;
use self::server::Server;
use super::sys::netlink::Netlink;
use crate::client::Informers;
use crate::util::tasks::Tasks;

/// DNS' own port.
const PORT: u16 = 53;

/// What the server answers for and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster DNS address.
    pub address: Ipv4Addr,
    /// For instance `cluster.local`.
    pub domain: String,
    /// The host's own name servers.
    pub upstream: Vec<IpAddr>,
}

/// Takes the cluster DNS address on loopback and answers there until `tasks` end.
///
/// Errors: the domain is not a name, or the address or port cannot be had.
pub async fn start(config: Config, informers: &Informers, tasks: &Tasks) -> std::io::Result<()> {
    let netlink = Netlink::here()?;
    let loopback = netlink.index("lo").await?;
    netlink.add_address(loopback, config.address.into()).await?;
    let at = SocketAddr::from((config.address, PORT));
    let udp = UdpSocket::bind(at).await?;
    let tcp = TcpListener::bind(at).await?;
    serve(&config, udp, tcp, (informers, tasks))
}

fn serve(
    config: &Config,
    udp: UdpSocket,
    tcp: TcpListener,
    (informers, tasks): (&Informers, &Tasks),
) -> std::io::Result<()> {
    let mut domain = Name::from_ascii(&config.domain).map_err(std::io::Error::other)?;
    domain.set_fqdn(true);
    let records = Records::new(domain, informers.cache(), informers.cache());
    let own = IpAddr::V4(config.address);
    let upstream = config
        .upstream
        .iter()
        .copied()
        .filter(|address| *address != own);
    let upstream = Upstream::new(
        upstream
            .map(|address| SocketAddr::new(address, PORT))
            .collect(),
    );
    let server = Arc::new(Server::new(records, upstream, tasks.clone()));
    let (server_udp, cancelled) = (server.clone(), tasks.cancelled());
    tasks.service("dns-udp", async move {
        cancelled
            .run_until_cancelled(server_udp.serve_udp(Arc::new(udp)))
            .await;
    });
    let cancelled = tasks.cancelled();
    tasks.service("dns-tcp", async move {
        cancelled.run_until_cancelled(server.serve_tcp(tcp)).await;
    });
    Ok(())
}

/// The name servers of a resolv.conf.
pub fn nameservers(resolv_conf: &str) -> Vec<IpAddr> {
    let words = resolv_conf
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let servers = words.filter(|words| words.first() == Some(&"nameserver"));
    servers
        .filter_map(|words| words.get(1)?.parse().ok())
        .collect()
}
