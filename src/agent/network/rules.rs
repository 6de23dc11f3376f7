//! The pod network's own packet rules, as text: masquerading and host ports.

use std::fmt::Write as _;

use ipnet::Ipv4Net;

use super::BRIDGE;
use super::ipam::Lease;
use crate::agent::nft::replace_table;

/// Table that gives packets from pods to the world the node's address.
pub const MASQUERADE_TABLE: &str = "orch-masquerade";
/// Table of the host's ports that lead to pods.
pub const HOST_PORT_TABLE: &str = "orch-hostport";

/// Packets of this node's pods that leave the cluster take the node's address.
pub fn masquerade(pod_cidr: Ipv4Net, cluster_cidr: Ipv4Net) -> String {
    replace_table(
        "ip",
        MASQUERADE_TABLE,
        &format!(
            "  chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n    \
         ip saddr {pod_cidr} ip daddr != {cluster_cidr} ip daddr != 224.0.0.0/4 \
         oifname != \"{BRIDGE}\" masquerade\n  }}\n"
        ),
    )
}

/// Host ports as maps, so that a packet costs the same with one or a thousand of them. A packet
/// of a pod to its own host port, and one from the host itself by loopback, is masqueraded so that
/// the answer comes back the same way.
pub fn host_ports<'a>(leases: impl Iterator<Item = &'a Lease>) -> String {
    let mut any = String::new();
    let mut bound = String::new();
    let mut own = String::new();
    for lease in leases.filter(|lease| !lease.ports.is_empty()) {
        let _ = write!(own, "{0} . {0}, ", lease.address);
        for port in &lease.ports {
            let protocol = port.protocol.to_lowercase();
            let target = format!("{} . {}", lease.address, port.container_port);
            // Writing to a String cannot fail.
            let _ = match port.host_ip.filter(|ip| !ip.is_unspecified()) {
                Some(ip) if ip.is_ipv4() => {
                    write!(bound, "{ip} . {protocol} . {} : {target}, ", port.host_port)
                }
                Some(_) => Ok(()),
                None => write!(any, "{protocol} . {} : {target}, ", port.host_port),
            };
        }
    }
    replace_table("ip", HOST_PORT_TABLE, &host_port_body(&any, &bound, &own))
}

fn host_port_body(any: &str, bound: &str, own: &str) -> String {
    let elements = |list: &str| match list.trim_end_matches(", ") {
        "" => String::new(),
        list => format!("    elements = {{ {list} }}\n"),
    };
    format!(
        "  map any {{
    type inet_proto . inet_service : ipv4_addr . inet_service
{}  }}
  map bound {{
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
{}  }}
  set own {{
    type ipv4_addr . ipv4_addr
{}  }}
  chain ports {{
    dnat ip to ip daddr . meta l4proto . th dport map @bound
    dnat ip to meta l4proto . th dport map @any
  }}
  chain prerouting {{
    type nat hook prerouting priority -95; policy accept;
    fib daddr type local jump ports
  }}
  chain output {{
    type nat hook output priority -95; policy accept;
    fib daddr type local jump ports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{BRIDGE}\" ct status dnat ip saddr 127.0.0.0/8 masquerade
    ip saddr . ip daddr @own masquerade
  }}
",
        elements(any),
        elements(bound),
        elements(own),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::seam::HostPort;

    #[test]
    fn host_ports_are_map_elements() {
        let port = |host_ip: Option<&str>, protocol: &str| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 8080,
            container_port: 80,
            protocol: protocol.into(),
        };
        let lease = Lease {
            address: "10.244.1.2".parse().unwrap(),
            ports: vec![port(None, "TCP"), port(Some("192.168.1.5"), "UDP")],
        };
        let text = host_ports([lease].iter());
        assert!(
            text.contains("elements = { tcp . 8080 : 10.244.1.2 . 80 }"),
            "{text}"
        );
        assert!(
            text.contains("elements = { 192.168.1.5 . udp . 8080 : 10.244.1.2 . 80 }"),
            "{text}"
        );
    }
}
