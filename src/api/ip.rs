//! IP addresses and networks as the API takes them: no leading zeros, no zones.

use std::net::IpAddr;

use ipnet::IpNet;

/// Families as the API names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `IPv4`
    V4,
    /// `IPv6`
    V6,
}

impl Family {
    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What is wrong with `text` as an address, in upstream's words.
pub fn wrong_address(text: &str) -> Option<&'static str> {
    let is_address = text.parse::<IpAddr>().is_ok();
    (!is_address).then_some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
}

/// What is wrong with `text` as a network, in upstream's words.
pub fn wrong_network(text: &str) -> Option<&'static str> {
    let is_network = text.parse::<IpNet>().is_ok();
    (!is_network).then_some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
}

/// Why `text` cannot be the address of an endpoint: those addresses do not leave a node or a
/// link.
pub fn wrong_endpoint(text: &str) -> Vec<&'static str> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return wrong_address(text).into_iter().collect();
    };
    let (is_link_local, is_link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    [
        (
            address.is_unspecified(),
            "may not be unspecified (0.0.0.0 or ::)",
        ),
        (
            address.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            is_link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
        (
            is_link_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ]
    .into_iter()
    .filter_map(|(is_wrong, why)| is_wrong.then_some(why))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_checked() {
        assert!(wrong_address("10.0.0.1").is_none() && wrong_address("fd00::1").is_none());
        assert!(wrong_address("10.0.0.01").is_some() && wrong_address("a").is_some());
        assert!(wrong_network("10.0.0.0/8").is_none() && wrong_network("10.0.0.0").is_some());
        assert!(wrong_endpoint("10.0.0.1").is_empty());
        assert_eq!(wrong_endpoint("127.0.0.1").len(), 1);
        assert_eq!(wrong_endpoint("fe80::1").len(), 1);
    }
}
