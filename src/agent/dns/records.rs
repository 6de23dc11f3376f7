//! Names of the cluster and what they mean (Kubernetes DNS specification 1.1). Looks things up in
//! caches and does no IO.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::api::object::ObjectKey;
use crate::client::cache::Cache;

/// Seconds an answer may be kept: CoreDNS' default for cluster names.
const TTL_SECONDS: u32 = 5;
/// Version of the specification, served at `dns-version.<domain>`.
const SPEC_VERSION: &str = "1.1.0";
const BY_SERVICE: &str = "dns-service";
const BY_ADDRESS: &str = "dns-address";
const BY_CLUSTER_IP: &str = "dns-cluster-ip";

/// What is known about a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Not a name of the cluster: ask elsewhere.
    Elsewhere,
    /// A name of the cluster's domain that does not exist.
    NoSuchName,
    /// The name exists; there may be no record of the type asked for.
    Found(Vec<Record>),
    /// The name is an alias of one outside (`ExternalName`).
    Alias(Box<Record>, Name),
}

/// The records of the cluster.
#[derive(Clone)]
pub struct Records {
    domain: Name,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
}

impl Records {
    /// Over `domain`, from caches of all Services and EndpointSlices.
    pub fn new(domain: Name, services: Cache<Service>, slices: Cache<EndpointSlice>) -> Self {
        services.index(BY_CLUSTER_IP, |service| {
            service
                .spec
                .as_ref()
                .and_then(|spec| spec.cluster_ip.clone())
                .into_iter()
                .collect()
        });
        slices.index(BY_SERVICE, |slice| service_of(slice).into_iter().collect());
        slices.index(BY_ADDRESS, |slice| {
            slice
                .endpoints
                .iter()
                .flatten()
                .flat_map(|e| e.addresses.clone())
                .collect()
        });
        Self {
            domain: domain.to_lowercase(),
            services,
            slices,
        }
    }

    /// The start-of-authority record that goes with "no such name".
    pub fn authority(&self) -> Record {
        let prefixed =
            |label: &str| Name::from_ascii(label).and_then(|n| n.append_domain(&self.domain));
        let server = prefixed("ns.dns").unwrap_or_else(|_| self.domain.clone());
        let mailbox = prefixed("hostmaster").unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86_400, TTL_SECONDS);
        Record::from_rdata(self.domain.clone(), TTL_SECONDS, RData::SOA(soa))
    }

    /// What is known about `name` for queries of type `kind`.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let lower = name.to_lowercase();
        if let Some(address) = reverse_address(&lower) {
            return self.reverse(name, address);
        }
        if !self.domain.zone_of(&lower) {
            return Answer::Elsewhere;
        }
        let labels: Vec<String> = lower
            .iter()
            .map(|label| String::from_utf8_lossy(label).into_owned())
            .collect();
        let below = labels.len() - self.domain.iter().count();
        let labels: Vec<&str> = labels[..below].iter().map(String::as_str).collect();
        self.below_domain(name, &labels, kind)
    }

    fn below_domain(&self, name: &Name, labels: &[&str], kind: RecordType) -> Answer {
        match labels {
            [] | ["svc" | "pod"] => Answer::Found(Vec::new()),
            ["dns-version"] => found(
                name,
                kind,
                vec![RData::TXT(TXT::new(vec![SPEC_VERSION.into()]))],
            ),
            [namespace, "svc"] if self.has_namespace(namespace) => Answer::Found(Vec::new()),
            [address, _namespace, "pod"] => match dashed_address(address) {
                Some(address) => found(name, kind, vec![RData::A(A(address))]),
                None => Answer::NoSuchName,
            },
            [service, namespace, "svc"] => self.service(name, &key(namespace, service), kind),
            [host, service, namespace, "svc"] => {
                self.host(name, &key(namespace, service), host, kind)
            }
            [port, protocol, service, namespace, "svc"] => {
                self.port(name, &key(namespace, service), port, protocol)
            }
            _ => Answer::NoSuchName,
        }
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        !self.services.in_namespace(namespace).is_empty()
    }

    fn service(&self, name: &Name, key: &ObjectKey, kind: RecordType) -> Answer {
        let Some(service) = self.services.get(key) else {
            return Answer::NoSuchName;
        };
        if let Some(target) = external_name(&service) {
            let record = Record::from_rdata(
                name.clone(),
                TTL_SECONDS,
                RData::CNAME(CNAME(target.clone())),
            );
            return Answer::Alias(Box::new(record), target);
        }
        if kind == RecordType::SRV {
            return found(name, kind, self.all_ports(&service, key));
        }
        let addresses: BTreeSet<Ipv4Addr> = match cluster_ip(&service) {
            Some(address) => [address].into(),
            None => self
                .endpoints(key)
                .iter()
                .filter_map(|e| e.address())
                .collect(),
        };
        // A headless service without ready pods has no addresses, and clients must not cache that
        // as "there is no such service": the name exists.
        found(
            name,
            kind,
            addresses.into_iter().map(|a| RData::A(A(a))).collect(),
        )
    }

    fn host(&self, name: &Name, key: &ObjectKey, host: &str, kind: RecordType) -> Answer {
        let endpoints = self.endpoints(key);
        let matching = endpoints
            .iter()
            .filter(|endpoint| endpoint.host_label() == Some(host.into()));
        let addresses: BTreeSet<_> = matching.filter_map(|e| e.address()).collect();
        if addresses.is_empty() {
            return Answer::NoSuchName;
        }
        found(
            name,
            kind,
            addresses.into_iter().map(|a| RData::A(A(a))).collect(),
        )
    }

    fn port(&self, name: &Name, key: &ObjectKey, port: &str, protocol: &str) -> Answer {
        let Some(service) = self.services.get(key) else {
            return Answer::NoSuchName;
        };
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
        else {
            return Answer::NoSuchName;
        };
        let ports = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten());
        let wanted = ports.filter(|p| {
            p.name.as_deref() == Some(port)
                && p.protocol
                    .as_deref()
                    .unwrap_or("TCP")
                    .eq_ignore_ascii_case(protocol)
        });
        let data: Vec<_> = wanted
            .flat_map(|p| self.srv(&service, key, p.name.as_deref(), p.port))
            .collect();
        match data.is_empty() {
            true => Answer::NoSuchName,
            false => found(name, RecordType::SRV, data),
        }
    }

    fn all_ports(&self, service: &Service, key: &ObjectKey) -> Vec<RData> {
        let ports = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten());
        ports
            .flat_map(|port| self.srv(service, key, port.name.as_deref(), port.port))
            .collect()
    }

    /// SRV data of one port: one for a cluster address, one for each endpoint of a headless one.
    fn srv(
        &self,
        service: &Service,
        key: &ObjectKey,
        port_name: Option<&str>,
        port: i32,
    ) -> Vec<RData> {
        let Some(base) = self.service_name(key) else {
            return Vec::new();
        };
        let port = u16::try_from(port).unwrap_or_default();
        if cluster_ip(service).is_some() {
            return vec![RData::SRV(SRV::new(0, 100, port, base))];
        }
        let endpoints = self.endpoints(key);
        let targets = endpoints.iter().filter_map(|endpoint| {
            let number = endpoint.port(port_name)?;
            let host = Name::from_ascii(endpoint.host_label()?).ok()?;
            Some(RData::SRV(SRV::new(
                0,
                100,
                number,
                host.append_domain(&base).ok()?,
            )))
        });
        targets.collect()
    }

    fn reverse(&self, name: &Name, address: Ipv4Addr) -> Answer {
        let text = address.to_string();
        let mut names = Vec::new();
        for service in self.services.by_index(BY_CLUSTER_IP, &text) {
            names.extend(self.service_name(&crate::client::key_of(&service.metadata)));
        }
        for slice in self.slices.by_index(BY_ADDRESS, &text) {
            let Some(base) = service_key(&slice).and_then(|key| self.service_name(&key)) else {
                continue;
            };
            let endpoints = slice.endpoints.iter().flatten();
            let hosts = endpoints.filter(|e| e.addresses.contains(&text));
            let hosts = hosts.filter_map(|e| Name::from_ascii(e.hostname.as_ref()?).ok());
            names.extend(hosts.filter_map(|host| host.append_domain(&base).ok()));
        }
        match names.is_empty() {
            true => Answer::Elsewhere,
            false => found(
                name,
                RecordType::PTR,
                names.into_iter().map(|n| RData::PTR(PTR(n))).collect(),
            ),
        }
    }

    fn service_name(&self, key: &ObjectKey) -> Option<Name> {
        let name = Name::from_ascii(format!("{}.{}.svc", key.name, key.namespace)).ok()?;
        name.append_domain(&self.domain).ok()
    }

    fn endpoints(&self, key: &ObjectKey) -> Vec<Ready> {
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        let ipv4 = slices
            .into_iter()
            .filter(|slice| slice.address_type == "IPv4");
        ipv4.flat_map(|slice| Ready::all_of(&slice)).collect()
    }
}

/// A ready endpoint and the slice it is of.
struct Ready {
    slice: Arc<EndpointSlice>,
    index: usize,
}

impl Ready {
    fn all_of(slice: &Arc<EndpointSlice>) -> Vec<Self> {
        let endpoints = slice.endpoints.iter().flatten().enumerate();
        let ready =
            endpoints.filter(|(_, e)| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
        ready
            .map(|(index, _)| Self {
                slice: slice.clone(),
                index,
            })
            .collect()
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        self.slice.endpoints.as_ref()?.get(self.index)
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.endpoint()?.addresses.first()?.parse().ok()
    }

    /// The pod's host name, or its address with dashes.
    fn host_label(&self) -> Option<String> {
        let endpoint = self.endpoint()?;
        let dashed = || Some(self.address()?.to_string().replace('.', "-"));
        endpoint.hostname.clone().or_else(dashed)
    }

    fn port(&self, name: Option<&str>) -> Option<u16> {
        let named = |port: &&EndpointPort| {
            port.name.as_deref().unwrap_or_default() == name.unwrap_or_default()
        };
        let port = self.slice.ports.as_ref()?.iter().find(named)?;
        u16::try_from(port.port?).ok()
    }
}

fn found(name: &Name, kind: RecordType, data: Vec<RData>) -> Answer {
    let wanted = data
        .into_iter()
        .filter(|d| kind == RecordType::ANY || d.record_type() == kind);
    Answer::Found(
        wanted
            .map(|d| Record::from_rdata(name.clone(), TTL_SECONDS, d))
            .collect(),
    )
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

fn cluster_ip(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

fn external_name(service: &Service) -> Option<Name> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() != Some("ExternalName") {
        return None;
    }
    let mut name = Name::from_ascii(spec.external_name.as_ref()?).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn service_of(slice: &EndpointSlice) -> Option<String> {
    service_key(slice).map(|key| key.to_string())
}

fn service_key(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = labels.get("kubernetes.io/service-name")?;
    Some(ObjectKey::new(
        slice.metadata.namespace.as_deref().unwrap_or_default(),
        service,
    ))
}

/// `10-244-1-2` as an address.
fn dashed_address(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}

/// The address of a whole `d.c.b.a.in-addr.arpa.`.
fn reverse_address(name: &Name) -> Option<Ipv4Addr> {
    let text = name.to_ascii();
    let reversed = text.trim_end_matches('.').strip_suffix(".in-addr.arpa")?;
    let mut octets: Vec<_> = reversed.split('.').collect();
    octets.reverse();
    octets.join(".").parse().ok()
}
