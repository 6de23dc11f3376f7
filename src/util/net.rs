//! Which addresses this machine has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Addresses of documentation networks (RFC 5737): routed like any other, never anybody's.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The address others reach this machine at: that of the default route, or else of the first
/// interface that is up and not loopback. Sends nothing.
pub fn default_address() -> Option<IpAddr> {
    routed().or_else(first_interface)
}

/// Connecting a datagram socket only chooses the source address.
fn routed() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

fn first_interface() -> Option<IpAddr> {
    use nix::net::if_::InterfaceFlags;
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    interfaces
        .filter(|interface| {
            let flags = interface.flags;
            flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .filter_map(|interface| interface.address)
        .find_map(|address| {
            let address = address.as_sockaddr_in()?.ip();
            (!address.is_link_local()).then_some(IpAddr::V4(address))
        })
}

/// The machine's name, in lower case as node names are.
pub fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let name = name.trim().to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}
