//! Services and EndpointSlices → what the node translates, as a plain value. Pure.
//!
//! Terms. A *frontend* is an address, protocol and port that clients use; a *backend* is the
//! address and port of a ready endpoint it leads to. Which endpoints are used follows kube-proxy
//! (`pkg/proxy/topology.go`): ready ones; where none is ready, those that are serving while they
//! terminate; only those of this node where the traffic policy says `Local`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// As the API spells it; absent is TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As nftables spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// An address with a port.
pub type Backend = (Ipv4Addr, u16);

/// A place where clients reach a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// A cluster, external or load balancer address.
    Address(Ipv4Addr, Protocol, u16),
    /// A port of each of the node's own addresses.
    NodePort(Protocol, u16),
}

/// Where a frontend leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// In a fixed order; empty: refused.
    pub backends: Vec<Backend>,
    /// Seconds for which a client stays with its backend; `None`: each connection anew.
    pub affinity_seconds: Option<u32>,
    /// Clients from outside keep their address (`externalTrafficPolicy: Local`).
    pub keep_client_address: bool,
}

/// All that the node translates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Every frontend with its target.
    pub frontends: BTreeMap<Frontend, Target>,
    /// External and load balancer addresses: traffic to them from elsewhere is masqueraded.
    pub external: BTreeSet<Ipv4Addr>,
    /// Endpoints on this node, which may reach themselves through a service.
    pub local: BTreeSet<Ipv4Addr>,
}

/// What the node named `node` translates for `services` with `slices`.
pub fn model(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &str) -> Model {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|l| l.get("kubernetes.io/service-name")) {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            by_service
                .entry((namespace, service))
                .or_default()
                .push(slice);
        }
    }
    let mut model = Model::default();
    for service in services {
        let key = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        add_service(&mut model, service, slices, node);
    }
    model
}

fn add_service(model: &mut Model, service: &Service, slices: &[&EndpointSlice], node: &str) {
    let Some(spec) = &service.spec else { return };
    let proxied = service.metadata.labels.as_ref().is_none_or(|labels| {
        !labels.contains_key("service.kubernetes.io/service-proxy-name")
            && !labels.contains_key("service.kubernetes.io/headless")
    });
    let cluster_ip = spec
        .cluster_ip
        .as_deref()
        .and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let Some(cluster_ip) = cluster_ip.filter(|_| proxied) else {
        return;
    };
    let affinity_seconds = affinity_of(service);
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let external = external_addresses(service);
    for port in spec.ports.iter().flatten() {
        let Some((protocol, number)) = parse_port(port) else {
            continue;
        };
        let endpoints = Endpoints::of(slices, port, node);
        model.local.extend(endpoints.local_addresses());
        let target = |local: bool, keep: bool| Target {
            backends: endpoints.backends(local),
            affinity_seconds,
            keep_client_address: keep,
        };
        let frontend = Frontend::Address(cluster_ip, protocol, number);
        model
            .frontends
            .insert(frontend, target(internal_local, false));
        for address in &external {
            let frontend = Frontend::Address(*address, protocol, number);
            model
                .frontends
                .insert(frontend, target(external_local, external_local));
            if !external_local {
                model.external.insert(*address);
            }
        }
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
        if let Some(node_port) = node_port.filter(|port| *port != 0) {
            let frontend = Frontend::NodePort(protocol, node_port);
            model
                .frontends
                .insert(frontend, target(external_local, external_local));
        }
    }
}

fn parse_port(port: &ServicePort) -> Option<(Protocol, u16)> {
    Some((
        Protocol::parse(port.protocol.as_deref())?,
        u16::try_from(port.port).ok()?,
    ))
}

fn affinity_of(service: &Service) -> Option<u32> {
    let spec = service.spec.as_ref()?;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    Some(
        seconds
            .and_then(|s| u32::try_from(s).ok())
            .unwrap_or(10_800),
    )
}

fn external_addresses(service: &Service) -> BTreeSet<Ipv4Addr> {
    let spec = service.spec.as_ref();
    let listed = spec
        .and_then(|spec| spec.external_ips.as_ref())
        .into_iter()
        .flatten();
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|lb| lb.ingress.as_ref())
        .into_iter()
        .flatten();
    // `ipMode: Proxy` says that the load balancer itself must see the traffic.
    let balanced = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let balanced = balanced.filter_map(|i| i.ip.as_ref());
    listed
        .chain(balanced)
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

/// The endpoints of one service port, in the order of their addresses.
struct Endpoints {
    ready: BTreeMap<Backend, bool>,
    terminating: BTreeMap<Backend, bool>,
}

impl Endpoints {
    fn of(slices: &[&EndpointSlice], port: &ServicePort, node: &str) -> Self {
        let mut all = Self {
            ready: BTreeMap::new(),
            terminating: BTreeMap::new(),
        };
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let found = ports.filter(|p| {
                p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                    && Protocol::parse(p.protocol.as_deref())
                        == Protocol::parse(port.protocol.as_deref())
            });
            let numbers = found.filter_map(|p| u16::try_from(p.port?).ok());
            for number in numbers {
                for endpoint in slice.endpoints.iter().flatten() {
                    all.add(endpoint, number, node);
                }
            }
        }
        all
    }

    fn add(&mut self, endpoint: &Endpoint, port: u16, node: &str) {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        let is_local = endpoint.node_name.as_deref() == Some(node);
        let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
            return;
        };
        if ready {
            self.ready.insert((address, port), is_local);
        } else if serving && terminating {
            self.terminating.insert((address, port), is_local);
        }
    }

    fn backends(&self, only_local: bool) -> Vec<Backend> {
        let chosen = |all: &BTreeMap<Backend, bool>| -> Vec<Backend> {
            all.iter()
                .filter(|(_, local)| !only_local || **local)
                .map(|(b, _)| *b)
                .collect()
        };
        match chosen(&self.ready) {
            none if none.is_empty() => chosen(&self.terminating),
            ready => ready,
        }
    }

    fn local_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let all = self.ready.iter().chain(&self.terminating);
        all.filter(|(_, local)| **local)
            .map(|((address, _), _)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Arc<Service> {
        let value = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn slice(endpoints: Value) -> Arc<EndpointSlice> {
        let value = json!({
            "metadata": {"name": "web-1", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn backends(model: &Model, frontend: Frontend) -> Vec<String> {
        let target = &model.frontends[&frontend];
        target
            .backends
            .iter()
            .map(|(ip, port)| format!("{ip}:{port}"))
            .collect()
    }

    const CLUSTER: Frontend = Frontend::Address(Ipv4Addr::new(10, 96, 0, 7), Protocol::Tcp, 80);

    #[test]
    fn only_ready_endpoints_are_used_and_terminating_ones_when_none_is() {
        let web = service(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}));
        let ready = json!({"addresses": ["10.244.1.2"], "conditions": {"ready": true}});
        let ending = json!({"addresses": ["10.244.1.3"],
            "conditions": {"ready": false, "serving": true, "terminating": true}});
        let dead = json!({"addresses": ["10.244.1.4"], "conditions": {"ready": false}});
        let all = slice(json!([ready, ending, dead]));
        let seen = model(std::slice::from_ref(&web), &[all], "n1");
        assert_eq!(backends(&seen, CLUSTER), ["10.244.1.2:8080"]);
        let seen = model(&[web], &[slice(json!([ending, dead]))], "n1");
        assert_eq!(backends(&seen, CLUSTER), ["10.244.1.3:8080"]);
    }

    #[test]
    fn local_policies_use_only_this_nodes_endpoints() {
        let web = service(json!({"type": "NodePort", "clusterIP": "10.96.0.7",
            "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]}));
        let here = json!({"addresses": ["10.244.1.2"], "nodeName": "n1"});
        let there = json!({"addresses": ["10.244.2.2"], "nodeName": "n2"});
        let seen = model(&[web], &[slice(json!([here, there]))], "n1");
        assert_eq!(
            backends(&seen, CLUSTER),
            ["10.244.1.2:8080", "10.244.2.2:8080"]
        );
        let node_port = Frontend::NodePort(Protocol::Tcp, 30080);
        assert_eq!(backends(&seen, node_port), ["10.244.1.2:8080"]);
        assert!(seen.frontends[&node_port].keep_client_address);
        assert_eq!(seen.local.len(), 1);
    }

    #[test]
    fn headless_services_are_not_translated() {
        let web = service(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        assert_eq!(model(&[web], &[], "n1"), Model::default());
    }
}
