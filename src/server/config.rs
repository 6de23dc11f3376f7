//! Configuration of the control plane: [`Options`] as they were typed, [`Config`] checked, with
//! every path and address parsed and every default filled in. Pure: opens nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::api::name;

/// What `--disable` may name.
pub const FEATURES: &[&str] = &[
    "dns",
    "service-proxy",
    "service-lb",
    "local-storage",
    "metrics",
    "network-policy",
    "ingress",
];
/// What `--network-backend` may name.
pub const NETWORK_BACKENDS: &[&str] = &["vxlan", "host-gw", "none"];

/// The options of `orch server` as they were typed; `Default` is the contract's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--data-dir`
    pub data_dir: PathBuf,
    /// `--bind-address`
    pub bind_address: String,
    /// `--https-listen-port`; 0 takes a free one.
    pub https_listen_port: u16,
    /// `--advertise-address`
    pub advertise_address: Option<String>,
    /// `--tls-san`
    pub tls_san: Vec<String>,
    /// `--token`, or the content of `--token-file`
    pub token: Option<String>,
    /// `--agent-token`
    pub agent_token: Option<String>,
    /// `--cluster-cidr`
    pub cluster_cidr: String,
    /// `--service-cidr`
    pub service_cidr: String,
    /// `--service-node-port-range`
    pub service_node_port_range: String,
    /// `--cluster-dns`
    pub cluster_dns: Option<String>,
    /// `--cluster-domain`
    pub cluster_domain: String,
    /// `--network-backend`
    pub network_backend: String,
    /// `--datastore-endpoint`
    pub datastore_endpoint: String,
    /// `--datastore-cafile`
    pub datastore_cafile: Option<PathBuf>,
    /// `--datastore-certfile`
    pub datastore_certfile: Option<PathBuf>,
    /// `--datastore-keyfile`
    pub datastore_keyfile: Option<PathBuf>,
    /// `--manifests`
    pub manifests: Option<PathBuf>,
    /// `--write-kubeconfig`
    pub write_kubeconfig: PathBuf,
    /// `--write-kubeconfig-mode`
    pub write_kubeconfig_mode: String,
    /// `--disable`
    pub disable: Vec<String>,
    /// `--encryption-provider-config`
    pub encryption_provider_config: Option<PathBuf>,
    /// `--audit-…`
    pub audit: AuditOptions,
}

/// The options of the audit log as they were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditOptions {
    /// `--audit-policy-file`
    pub policy_file: Option<PathBuf>,
    /// `--audit-log-path`
    pub log_path: Option<PathBuf>,
    /// `--audit-log-maxsize`, MiB
    pub log_maxsize: u64,
    /// `--audit-log-maxbackup`
    pub log_maxbackup: usize,
    /// `--audit-log-maxage`, days
    pub log_maxage: u32,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            policy_file: None,
            log_path: None,
            log_maxsize: 100,
            log_maxbackup: 0,
            log_maxage: 0,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/orch".into(),
            bind_address: "0.0.0.0".to_owned(),
            https_listen_port: 6443,
            advertise_address: None,
            tls_san: Vec::new(),
            token: None,
            agent_token: None,
            cluster_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/12".to_owned(),
            service_node_port_range: "30000-32767".to_owned(),
            cluster_dns: None,
            cluster_domain: "cluster.local".to_owned(),
            network_backend: "vxlan".to_owned(),
            datastore_endpoint: String::new(),
            datastore_cafile: None,
            datastore_certfile: None,
            datastore_keyfile: None,
            manifests: None,
            write_kubeconfig: "/etc/orch/kubeconfig.yaml".into(),
            write_kubeconfig_mode: "0600".to_owned(),
            disable: Vec::new(),
            encryption_provider_config: None,
            audit: AuditOptions::default(),
        }
    }
}

/// A flag that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value `{value}` for `--{flag}`: {why}")]
pub struct Error {
    /// Without dashes.
    pub flag: &'static str,
    /// As typed.
    pub value: String,
    /// What would be right.
    pub why: String,
}

/// Where objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datastore {
    /// In this folder.
    Embedded(PathBuf),
    /// In an etcd cluster.
    Etcd(Etcd),
    /// Nowhere: gone with the process. For tests.
    Memory,
}

/// An external etcd v3 cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Etcd {
    /// `http(s)://host:port`
    pub endpoints: Vec<String>,
    /// Its authority; otherwise the public ones.
    pub ca_file: Option<PathBuf>,
    /// Our client certificate and its key.
    pub client_files: Option<(PathBuf, PathBuf)>,
}

/// The configuration of the control plane, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Everything the server keeps lies below.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Where others reach it; `None`: found out at start.
    pub advertise_address: Option<IpAddr>,
    /// More names of the serving certificate.
    pub tls_san: Vec<String>,
    /// Replaces the server token that is kept.
    pub token: Option<String>,
    /// A second secret that lets agents join.
    pub agent_token: Option<String>,
    /// Addresses of pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of services.
    pub service_cidr: Ipv4Net,
    /// Both ends included.
    pub node_port_range: RangeInclusive<u16>,
    /// In the service CIDR.
    pub cluster_dns: Ipv4Addr,
    /// Without a dot at the end.
    pub cluster_domain: String,
    /// One of [`NETWORK_BACKENDS`].
    pub network_backend: String,
    /// Where objects are kept.
    pub datastore: Datastore,
    /// The watched folder.
    pub manifests: PathBuf,
    /// `None`: not written.
    pub write_kubeconfig: Option<PathBuf>,
    /// Permissions of it.
    pub kubeconfig_mode: u32,
    /// Subset of [`FEATURES`].
    pub disable: BTreeSet<String>,
    /// Which resources are kept encrypted.
    pub encryption_provider_config: Option<PathBuf>,
    /// What is written about requests, and where; `None`: nothing.
    pub audit: Option<AuditConfig>,
}

/// The audit log, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// What is written about which requests.
    pub policy_file: PathBuf,
    /// Where.
    pub log_path: PathBuf,
    /// A larger file is turned over.
    pub size_mib_max: u64,
    /// Old files that are kept; 0: all.
    pub backups_max: usize,
    /// Days they are kept; 0: for ever.
    pub age_days_max: u32,
}

impl Config {
    /// Whether other servers may serve the same cluster: its datastore is outside of this one.
    pub fn is_shared(&self) -> bool {
        matches!(self.datastore, Datastore::Etcd(_))
    }

    /// Checks `options`; the first thing that is wrong is the error.
    pub fn check(options: Options) -> Result<Self, Error> {
        let Options {
            data_dir,
            bind_address,
            https_listen_port,
            advertise_address,
            tls_san,
            token,
            agent_token,
            cluster_cidr,
            service_cidr,
            service_node_port_range,
            cluster_dns,
            cluster_domain,
            network_backend,
            datastore_endpoint,
            datastore_cafile,
            datastore_certfile,
            datastore_keyfile,
            manifests,
            write_kubeconfig,
            write_kubeconfig_mode,
            disable,
            encryption_provider_config,
            audit,
        } = options;
        let service_cidr = cidr("service-cidr", &service_cidr, 8..=24)?;
        let cluster_cidr = cidr("cluster-cidr", &cluster_cidr, 8..=24)?;
        check_apart(cluster_cidr, service_cidr)?;
        let bind_ip = address("bind-address", &bind_address)?;
        let etcd = Etcd {
            endpoints: Vec::new(),
            ca_file: datastore_cafile,
            client_files: pair(datastore_certfile, datastore_keyfile)?,
        };
        Ok(Self {
            bind: SocketAddr::new(bind_ip, https_listen_port),
            advertise_address: advertise_address
                .map(|text| advertised(&text))
                .transpose()?,
            tls_san: sans(tls_san)?,
            token: token.map(|text| secret("token", text)).transpose()?,
            agent_token: agent_token
                .map(|text| secret("agent-token", text))
                .transpose()?,
            cluster_cidr,
            cluster_dns: dns_address(cluster_dns, service_cidr)?,
            service_cidr,
            node_port_range: port_range(&service_node_port_range)?,
            cluster_domain: domain(cluster_domain)?,
            network_backend: one_of("network-backend", network_backend, NETWORK_BACKENDS)?,
            datastore: datastore(&datastore_endpoint, etcd, data_dir.join("server/db"))?,
            manifests: manifests.unwrap_or_else(|| data_dir.join("server/manifests")),
            write_kubeconfig: (!write_kubeconfig.as_os_str().is_empty())
                .then_some(write_kubeconfig),
            kubeconfig_mode: mode(&write_kubeconfig_mode)?,
            disable: disable
                .into_iter()
                .map(|name| one_of("disable", name, FEATURES))
                .collect::<Result<_, _>>()?,
            encryption_provider_config,
            audit: audited(audit)?,
            data_dir,
        })
    }

    /// The first address of the service CIDR: that of the Service `kubernetes`.
    pub fn api_service_address(&self) -> Ipv4Addr {
        nth(self.service_cidr, 1)
    }
}

/// A policy without a place to write to, or the other way round, is a mistake.
fn audited(options: AuditOptions) -> Result<Option<AuditConfig>, Error> {
    let AuditOptions {
        policy_file,
        log_path,
        log_maxsize,
        log_maxbackup,
        log_maxage,
    } = options;
    match (policy_file, log_path) {
        (None, None) => Ok(None),
        (Some(file), None) => {
            let why = "it goes together with `--audit-log-path`";
            Err(wrong("audit-policy-file", file.display(), why))
        }
        (None, Some(path)) => {
            let why = "it goes together with `--audit-policy-file`";
            Err(wrong("audit-log-path", path.display(), why))
        }
        (Some(policy_file), Some(log_path)) => {
            if !log_path.is_absolute() {
                let why = "not the absolute path of a file";
                return Err(wrong("audit-log-path", log_path.display(), why));
            }
            Ok(Some(AuditConfig {
                policy_file,
                log_path,
                size_mib_max: if log_maxsize == 0 { 100 } else { log_maxsize },
                backups_max: log_maxbackup,
                age_days_max: log_maxage,
            }))
        }
    }
}

fn wrong(flag: &'static str, value: impl ToString, why: impl ToString) -> Error {
    Error {
        flag,
        value: value.to_string(),
        why: why.to_string(),
    }
}

fn address(flag: &'static str, text: &str) -> Result<IpAddr, Error> {
    text.parse()
        .map_err(|_| wrong(flag, text, "not an IP address"))
}

fn advertised(text: &str) -> Result<IpAddr, Error> {
    let address = address("advertise-address", text)?;
    if address.is_unspecified() {
        let why = "other machines need an address they can reach";
        return Err(wrong("advertise-address", text, why));
    }
    Ok(address)
}

fn cidr(flag: &'static str, text: &str, bits: RangeInclusive<u8>) -> Result<Ipv4Net, Error> {
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| wrong(flag, text, "not an IPv4 network such as 10.96.0.0/12"))?;
    if !bits.contains(&net.prefix_len()) {
        let why = format!("the prefix must be /{} to /{}", bits.start(), bits.end());
        return Err(wrong(flag, text, why));
    }
    if net.trunc() != net {
        let why = format!("the network's own address is {}", net.trunc());
        return Err(wrong(flag, text, why));
    }
    Ok(net)
}

fn check_apart(pods: Ipv4Net, services: Ipv4Net) -> Result<(), Error> {
    if pods.contains(&services) || services.contains(&pods) {
        let why = format!("it overlaps `--cluster-cidr` {pods}");
        return Err(wrong("service-cidr", services, why));
    }
    Ok(())
}

fn nth(net: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()).saturating_add(offset))
}

fn dns_address(given: Option<String>, services: Ipv4Net) -> Result<Ipv4Addr, Error> {
    let Some(text) = given else {
        return Ok(nth(services, 10));
    };
    let flag = "cluster-dns";
    let address: Ipv4Addr = text
        .parse()
        .map_err(|_| wrong(flag, &text, "not an IPv4 address"))?;
    if !services.contains(&address) || address == nth(services, 1) {
        let why = format!("it must be a free address of `--service-cidr` {services}");
        return Err(wrong(flag, &text, why));
    }
    Ok(address)
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, Error> {
    let flag = "service-node-port-range";
    let bad = || wrong(flag, text, "not a range of ports such as 30000-32767");
    let (first, last) = text.split_once('-').ok_or_else(bad)?;
    let first: u16 = first.trim().parse().map_err(|_| bad())?;
    let last: u16 = last.trim().parse().map_err(|_| bad())?;
    if first == 0 || first > last {
        return Err(bad());
    }
    Ok(first..=last)
}

fn domain(text: String) -> Result<String, Error> {
    let trimmed = text.trim_end_matches('.');
    match name::dns1123_subdomain(trimmed).first() {
        None => Ok(trimmed.to_owned()),
        Some(why) => Err(wrong("cluster-domain", &text, why)),
    }
}

fn one_of(flag: &'static str, value: String, known: &[&str]) -> Result<String, Error> {
    if known.contains(&value.as_str()) {
        return Ok(value);
    }
    let why = format!("it must be one of {}", known.join(", "));
    Err(wrong(flag, value, why))
}

fn sans(given: Vec<String>) -> Result<Vec<String>, Error> {
    for san in &given {
        let host = san.strip_prefix("*.").unwrap_or(san).to_ascii_lowercase();
        let is_address = san.parse::<IpAddr>().is_ok();
        if !is_address && !name::dns1123_subdomain(&host).is_empty() {
            return Err(wrong("tls-san", san, "neither a host name nor an address"));
        }
    }
    Ok(given)
}

/// Never prints the value.
fn secret(flag: &'static str, text: String) -> Result<String, Error> {
    let trimmed = text.trim();
    let is_plain = trimmed.bytes().all(|b| b.is_ascii_graphic());
    if trimmed.is_empty() || !is_plain {
        let why = "a token is not empty and has neither spaces nor control characters";
        return Err(wrong(flag, "…", why));
    }
    Ok(trimmed.to_owned())
}

fn mode(text: &str) -> Result<u32, Error> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(wrong(
            "write-kubeconfig-mode",
            text,
            "not an octal mode such as 0600",
        )),
    }
}

fn pair(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, Error> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(path), None) | (None, Some(path)) => Err(wrong(
            "datastore-certfile",
            path.display(),
            "it goes together with `--datastore-keyfile`",
        )),
    }
}

fn datastore(endpoint: &str, etcd: Etcd, folder: PathBuf) -> Result<Datastore, Error> {
    let flag = "datastore-endpoint";
    let endpoints: Vec<_> = endpoint
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect();
    if endpoints.is_empty() {
        return Ok(Datastore::Embedded(folder));
    }
    for endpoint in &endpoints {
        let uri: Option<http::Uri> = endpoint.parse().ok();
        let scheme = uri.as_ref().and_then(http::Uri::scheme_str);
        if !matches!(scheme, Some("http" | "https")) {
            return Err(wrong(
                flag,
                endpoint,
                "not a URL such as https://10.0.0.1:2379",
            ));
        }
    }
    Ok(Datastore::Etcd(Etcd { endpoints, ..etcd }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_contracts() {
        let config = Config::check(Options::default()).unwrap();
        assert_eq!(config.bind, "0.0.0.0:6443".parse().unwrap());
        assert_eq!(config.cluster_dns, Ipv4Addr::new(10, 96, 0, 10));
        assert_eq!(config.api_service_address(), Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(config.node_port_range, 30000..=32767);
        assert_eq!(
            config.datastore,
            Datastore::Embedded("/var/lib/orch/server/db".into())
        );
        assert_eq!(config.kubeconfig_mode, 0o600);
    }

    #[test]
    fn a_wrong_value_is_named_with_what_would_be_right() {
        let check = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            Config::check(options).unwrap_err().to_string()
        };
        for (text, change) in [
            (
                "not an IP address",
                (|o| o.bind_address = "here".into()) as fn(&mut Options),
            ),
            ("network's own address is 10.96.0.0/12", |o| {
                o.service_cidr = "10.97.0.0/12".into()
            }),
            ("overlaps", |o| o.cluster_cidr = "10.96.0.0/16".into()),
            ("30000-32767", |o| o.service_node_port_range = "9-1".into()),
            ("one of vxlan", |o| o.network_backend = "ipip".into()),
            ("one of dns", |o| o.disable = vec!["everything".into()]),
            ("octal", |o| o.write_kubeconfig_mode = "0999".into()),
            ("https://10.0.0.1:2379", |o| {
                o.datastore_endpoint = "10.0.0.1:2379".into()
            }),
            ("host name", |o| o.tls_san = vec!["a b".into()]),
            ("free address", |o| o.cluster_dns = Some("10.96.0.1".into())),
        ] {
            let message = check(change);
            assert!(message.contains(text), "{message}");
        }
        let secret = check(|o| o.token = Some("se cret".into()));
        assert!(!secret.contains("se cret"));
    }
}
