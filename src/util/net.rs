//! Which address and name this machine is known by where nobody said which.

use std::io;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;

const LOOPBACK: &str = "lo";
/// Links that orch makes begin like this (`orch0`, `orch.vxlan`): others do not reach them.
const OWN_LINKS: &str = "orch";

/// The address of the link of the default route; without such a route the first that is not
/// loopback's nor of our own making; else loopback's, which does for a cluster of one node.
///
/// Errors: the kernel does not list its addresses.
pub fn default_address() -> io::Result<Ipv4Addr> {
    let routes = std::fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let addresses: Vec<(String, Ipv4Addr)> = getifaddrs()?
        .filter_map(|entry| {
            let address = entry.address?.as_sockaddr_in()?.ip();
            Some((entry.interface_name, address))
        })
        .collect();
    Ok(choose(default_link(&routes), &addresses))
}

fn choose(default_link: Option<&str>, addresses: &[(String, Ipv4Addr)]) -> Ipv4Addr {
    let of = |wanted: &str| addresses.iter().find(|(link, _)| link == wanted);
    // The cluster DNS address is on loopback, beside 127.0.0.1.
    let is_own = |link: &str| link == LOOPBACK || link.starts_with(OWN_LINKS);
    let other = || {
        addresses
            .iter()
            .find(|(link, ip)| !ip.is_loopback() && !ip.is_link_local() && !is_own(link))
    };
    let chosen = default_link.and_then(of).or_else(other);
    chosen.map_or(Ipv4Addr::LOCALHOST, |(_, address)| *address)
}

/// The link of the default route in the text of `/proc/net/route`, the one of least metric.
fn default_link(routes: &str) -> Option<&str> {
    let rows = routes
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let defaults =
        rows.filter(|row| row.get(1) == Some(&"00000000") && row.get(7) == Some(&"00000000"));
    let metric = |row: &Vec<&str>| row.get(6).and_then(|m| m.parse::<u32>().ok());
    defaults
        .min_by_key(metric)
        .and_then(|row| row.first().copied())
}

/// The machine's name, in lower case as node names are.
pub fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let name = name.trim().to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
        eth1 00000000 0101A8C0 0003 0 0 200 00000000 0 0 0\n\
        eth0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0\n\
        eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";

    #[test]
    fn the_default_routes_link_is_preferred_and_ours_is_never_taken() {
        let address = |link: &str, ip: &str| (link.to_owned(), ip.parse().unwrap());
        let all = [
            address("lo", "127.0.0.1"),
            address("lo", "10.96.0.10"),
            address("orch0", "10.244.0.1"),
            address("orch.vxlan", "10.244.0.0"),
            address("eth1", "192.168.2.5"),
            address("eth0", "192.168.1.5"),
        ];
        assert_eq!(default_link(ROUTES), Some("eth0"));
        assert_eq!(
            choose(default_link(ROUTES), &all).to_string(),
            "192.168.1.5"
        );
        assert_eq!(choose(None, &all).to_string(), "192.168.2.5");
        assert_eq!(choose(None, &all[..4]).to_string(), "127.0.0.1");
    }
}
