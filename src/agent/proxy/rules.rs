//! The model as an nftables table, and the smallest change from one to the next. Pure.
//!
//! Everything is a map or a set element: a packet is looked up once whatever the number of
//! services, and a changed endpoint is a few elements. There is one chain for each *number* of
//! backends (`lb3` picks one of three), shared by all frontends that have so many; the picked
//! index travels in the packet mark for the length of one chain.
//!
//! ```text
//! prerouting, output ─► services ─► @services    ─► lbN ─► dnat @service_backends[frontend . index]
//!                              └──► @node_ports  ─► npN ─► dnat @node_port_backends[port . index]
//! forward, output, input: what is still addressed to a service has no backend ─► reject
//! postrouting: masquerade what would not find its way back
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipnet::Ipv4Net;

use super::model::{Backend, Frontend, Model, Target};
use crate::agent::nft::replace_table;

/// Name of the table.
pub const TABLE: &str = "orch-proxy";
/// Priority of translation at the output hook, where nftables 1.0 has no name for it.
const OUTPUT_DSTNAT: i32 = -100;

/// Bit of the connection mark that asks for masquerading; the one kube-proxy uses for packets.
const MASQUERADE_MARK: u32 = 0x4000;

/// Sets and maps with their declarations.
const SETS: &[(&str, &str)] = &[
    (
        "services",
        "map services { type ipv4_addr . inet_proto . inet_service : verdict; }",
    ),
    (
        "service_backends",
        "map service_backends { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service; }",
    ),
    (
        "node_ports",
        "map node_ports { type inet_proto . inet_service : verdict; }",
    ),
    (
        "node_port_backends",
        "map node_port_backends { type inet_proto . inet_service . mark : ipv4_addr . inet_service; }",
    ),
    (
        "empty_ports",
        "set empty_ports { type inet_proto . inet_service; }",
    ),
    (
        "empty_services",
        "set empty_services { type ipv4_addr . inet_proto . inet_service; }",
    ),
    ("external", "set external { type ipv4_addr; }"),
    ("hairpin", "set hairpin { type ipv4_addr . ipv4_addr; }"),
];

/// Clients that stay with their backend; filled by the packets themselves.
const AFFINITY_SET: &str = "map affinity { type ipv4_addr . ipv4_addr . inet_proto . inet_service : mark; \
     flags dynamic, timeout; size 65535; }";

/// The cluster's own nets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nets {
    /// All pods.
    pub pods: Ipv4Net,
    /// All services.
    pub services: Ipv4Net,
    /// Answered on the node itself, never translated or refused.
    pub dns: std::net::Ipv4Addr,
}

/// How a chain picks a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pick {
    node_port: bool,
    masquerade: bool,
    backends: usize,
    affinity_seconds: Option<u32>,
}

/// The table's contents as sets of elements: key and, for maps, value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    sets: BTreeMap<&'static str, BTreeMap<String, Option<String>>>,
    picks: BTreeSet<Pick>,
    sticky: BTreeMap<String, Vec<Backend>>,
}

impl Rules {
    /// The contents for `model`.
    pub fn of(model: &Model) -> Self {
        let mut rules = Self::default();
        for (frontend, target) in &model.frontends {
            rules.add_frontend(frontend, target);
        }
        for address in &model.external {
            rules.put("external", address.to_string(), None);
        }
        for address in &model.local {
            rules.put("hairpin", format!("{address} . {address}"), None);
        }
        rules
    }

    fn add_frontend(&mut self, frontend: &Frontend, target: &Target) {
        let (key, entry, backends, empty) = match frontend {
            Frontend::Address(ip, protocol, port) => (
                format!("{ip} . {} . {port}", protocol.name()),
                "services",
                "service_backends",
                "empty_services",
            ),
            Frontend::NodePort(protocol, port) => (
                format!("{} . {port}", protocol.name()),
                "node_ports",
                "node_port_backends",
                "empty_ports",
            ),
        };
        if target.backends.is_empty() {
            self.put(empty, key, None);
            return;
        }
        let node_port = matches!(frontend, Frontend::NodePort(..));
        let pick = Pick {
            node_port,
            masquerade: node_port && !target.keep_client_address,
            backends: target.backends.len(),
            affinity_seconds: target.affinity_seconds,
        };
        self.put(entry, key.clone(), Some(format!("goto {}", pick.chain())));
        for (index, (ip, port)) in target.backends.iter().enumerate() {
            self.put(
                backends,
                format!("{key} . {index}"),
                Some(format!("{ip} . {port}")),
            );
        }
        if target.affinity_seconds.is_some() {
            self.sticky.insert(key, target.backends.clone());
        }
        self.picks.insert(pick);
    }

    fn put(&mut self, set: &'static str, key: String, value: Option<String>) {
        self.sets.entry(set).or_default().insert(key, value);
    }

    /// The whole table, whatever was there before.
    pub fn full(&self, nets: Nets) -> String {
        let mut body = String::new();
        for (_, declaration) in SETS {
            line(&mut body, declaration);
        }
        line(&mut body, AFFINITY_SET);
        for pick in &self.picks {
            let _ = writeln!(
                body,
                "  chain {} {{\n{}  }}",
                pick.chain(),
                pick.rules("    ")
            );
        }
        body.push_str(&base_chains(nets));
        let mut text = replace_table("ip", TABLE, &body);
        for (set, elements) in &self.sets {
            add_elements(&mut text, set, elements.iter());
        }
        text
    }

    /// The commands that lead from `before` to `self`; empty where nothing changed. Deletions come
    /// first: nftables refuses a key that is there with another value.
    pub fn change_from(&self, before: &Self) -> String {
        let mut text = String::new();
        let none = BTreeMap::new();
        for (set, _) in SETS {
            let (old, new) = (
                before.sets.get(set).unwrap_or(&none),
                self.sets.get(set).unwrap_or(&none),
            );
            let gone = old
                .iter()
                .filter(|(key, value)| new.get(*key) != Some(*value));
            delete_elements(&mut text, set, gone.map(|(key, _)| key));
        }
        for pick in self.picks.difference(&before.picks) {
            let chain = pick.chain();
            let _ = writeln!(
                text,
                "add chain ip {TABLE} {chain}\nflush chain ip {TABLE} {chain}"
            );
            for rule in pick.rules("").lines() {
                let _ = writeln!(text, "add rule ip {TABLE} {chain} {rule}");
            }
        }
        for (set, _) in SETS {
            let (old, new) = (
                before.sets.get(set).unwrap_or(&none),
                self.sets.get(set).unwrap_or(&none),
            );
            add_elements(
                &mut text,
                set,
                new.iter().filter(|(key, v)| old.get(*key) != Some(*v)),
            );
        }
        // An index kept for a client may now mean another backend, or none.
        if before
            .sticky
            .iter()
            .any(|(key, backends)| self.sticky.get(key) != Some(backends))
        {
            let _ = writeln!(text, "flush map ip {TABLE} affinity");
        }
        text
    }
}

impl Pick {
    fn chain(self) -> String {
        let kind = match (self.node_port, self.masquerade) {
            (true, true) => "np",
            (true, false) => "np_keep",
            (false, _) => "lb",
        };
        match self.affinity_seconds {
            Some(seconds) => format!("{kind}{}_{seconds}s", self.backends),
            None => format!("{kind}{}", self.backends),
        }
    }

    fn rules(self, indent: &str) -> String {
        let count = self.backends;
        let pick = format!("meta mark set numgen random mod {count}");
        let target = if self.node_port {
            "meta l4proto . th dport . meta mark map @node_port_backends"
        } else {
            "ip daddr . meta l4proto . th dport . meta mark map @service_backends"
        };
        let client = "ip saddr . ip daddr . meta l4proto . th dport";
        // The mark lives as long as the connection, and says at its end that it came from outside.
        let mark = format!("ct mark set ct mark or {MASQUERADE_MARK:#x}");
        let mark = self.masquerade.then_some(mark);
        let rules = match self.affinity_seconds {
            None => vec![
                pick,
                format!("meta l4proto {{ tcp, udp, sctp }} dnat ip to {target}"),
            ],
            Some(seconds) => vec![
                "meta mark set 0xffffffff".to_owned(),
                format!("meta mark set {client} map @affinity"),
                format!("meta mark 0xffffffff {pick}"),
                format!("update @affinity {{ {client} timeout {seconds}s : meta mark }}"),
                format!("meta l4proto {{ tcp, udp, sctp }} dnat ip to {target}"),
            ],
        };
        mark.iter()
            .chain(&rules)
            .map(|rule| format!("{indent}{rule}\n"))
            .collect()
    }
}

/// Chains at the kernel's hooks.
fn base_chains(nets: Nets) -> String {
    let Nets {
        pods,
        services,
        dns,
    } = nets;
    format!(
        "  chain services {{
    ip daddr . meta l4proto . th dport vmap @services
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @node_ports
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain nat_output {{
    type nat hook output priority {OUTPUT_DSTNAT}; policy accept;
    jump services
  }}
  chain refuse {{
    ip daddr {dns} return
    ip daddr {services} reject
    ip daddr . meta l4proto . th dport @empty_services reject
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state new jump refuse
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    ct state new jump refuse
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ct state new fib daddr type local meta l4proto . th dport @empty_ports reject
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ct original ip daddr {services} ip saddr != {pods} masquerade
    ct status dnat ct original ip daddr @external masquerade
    ct mark and {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} masquerade
    ip saddr . ip daddr @hairpin masquerade
  }}
"
    )
}

fn line(text: &mut String, content: &str) {
    text.push_str("  ");
    text.push_str(content);
    text.push('\n');
}

fn add_elements<'a>(
    text: &mut String,
    set: &str,
    elements: impl Iterator<Item = (&'a String, &'a Option<String>)>,
) {
    let list: Vec<_> = elements
        .map(|(key, value)| match value {
            Some(value) => format!("{key} : {value}"),
            None => key.clone(),
        })
        .collect();
    if !list.is_empty() {
        let _ = writeln!(
            text,
            "add element ip {TABLE} {set} {{ {} }}",
            list.join(", ")
        );
    }
}

fn delete_elements<'a>(text: &mut String, set: &str, keys: impl Iterator<Item = &'a String>) {
    let list: Vec<_> = keys.map(String::as_str).collect();
    if !list.is_empty() {
        let _ = writeln!(
            text,
            "delete element ip {TABLE} {set} {{ {} }}",
            list.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Protocol;
    use super::*;
    use std::net::Ipv4Addr;

    fn model(backends: &[&str]) -> Model {
        let parse = |text: &&str| (text.parse().unwrap(), 8080);
        let target = Target {
            backends: backends.iter().map(parse).collect(),
            ..Target::default()
        };
        let address = Frontend::Address(Ipv4Addr::new(10, 96, 0, 7), Protocol::Tcp, 80);
        Model {
            frontends: [(address, target)].into(),
            ..Model::default()
        }
    }

    #[test]
    fn one_more_backend_changes_only_its_elements() {
        let one = Rules::of(&model(&["10.244.1.2"]));
        let two = Rules::of(&model(&["10.244.1.2", "10.244.1.3"]));
        assert_eq!(
            two.change_from(&one),
            "delete element ip orch-proxy services { 10.96.0.7 . tcp . 80 }\n\
             add chain ip orch-proxy lb2\nflush chain ip orch-proxy lb2\n\
             add rule ip orch-proxy lb2 meta mark set numgen random mod 2\n\
             add rule ip orch-proxy lb2 meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport . meta mark map @service_backends\n\
             add element ip orch-proxy services { 10.96.0.7 . tcp . 80 : goto lb2 }\n\
             add element ip orch-proxy service_backends { 10.96.0.7 . tcp . 80 . 1 : 10.244.1.3 . 8080 }\n"
        );
        assert_eq!(two.change_from(&two), "");
    }

    #[test]
    fn node_ports_are_masqueraded_unless_clients_keep_their_address() {
        let chain = |keep_client_address| {
            let backends = vec![("10.244.1.2".parse().unwrap(), 8080)];
            let target = Target {
                backends,
                keep_client_address,
                ..Target::default()
            };
            let frontends = [(Frontend::NodePort(Protocol::Tcp, 30080), target)].into();
            Rules::of(&Model {
                frontends,
                ..Model::default()
            })
            .change_from(&Rules::default())
        };
        assert!(
            chain(false).contains("np1 ct mark set ct mark or 0x4000"),
            "{}",
            chain(false)
        );
        assert!(!chain(true).contains("ct mark"), "{}", chain(true));
    }

    #[test]
    fn a_service_without_backends_is_refused() {
        let none = Rules::of(&model(&[]));
        let some = Rules::of(&model(&["10.244.1.2"]));
        let change = none.change_from(&some);
        assert!(
            change.contains("add element ip orch-proxy empty_services { 10.96.0.7 . tcp . 80 }")
        );
        assert!(change.starts_with("delete element ip orch-proxy services"));
    }
}
