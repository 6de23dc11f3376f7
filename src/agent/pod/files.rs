//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod
//! (kubernetes `pkg/kubelet/kubelet_pods.go`, `pkg/kubelet/network/dns`). Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::plan::has_network;

const NAMESERVERS_MOST: usize = 3;
const SEARCHES_MOST: usize = 32;
const SEARCHES_MOST_CHARS: usize = 2048;

/// What a resolver is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// What of the node the files depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Content of the host's `/etc/hosts`.
    pub(crate) hosts: String,
    pub(crate) resolver: Resolver,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
}

impl Resolver {
    /// Reads a `resolv.conf`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.nameservers.extend(words.next()),
                Some("search") => resolver.searches = words.collect(),
                Some("options") => resolver.options = words.collect(),
                _ => {}
            }
        }
        resolver
    }

    fn print(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

fn text(value: Option<&String>) -> &str {
    value.map(String::as_str).unwrap_or_default()
}

/// The host name without and with its domain; the latter only for a pod with a subdomain.
fn names(pod: &Pod, host: &Host) -> (String, Option<String>) {
    let meta = &pod.metadata;
    let Some(spec) = &pod.spec else {
        return (String::new(), None);
    };
    if let Some(name) = spec.hostname_override.as_ref().filter(|n| !n.is_empty()) {
        return (name.clone(), None);
    }
    let own = spec.hostname.as_ref().filter(|name| !name.is_empty());
    let name: String = text(own.or(meta.name.as_ref())).chars().take(63).collect();
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let subdomain = text(spec.subdomain.as_ref());
    let full = (!subdomain.is_empty()).then(|| {
        let namespace = text(meta.namespace.as_ref());
        format!("{name}.{subdomain}.{namespace}.svc.{}", host.cluster_domain)
    });
    (name, full)
}

/// The host name a pod's processes see.
pub(crate) fn hostname(pod: &Pod, host: &Host) -> String {
    if !has_network(pod) {
        return host.name.clone();
    }
    let wants_full = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn);
    match names(pod, host) {
        (_, Some(full)) if wants_full == Some(true) => full,
        (name, _) => name,
    }
}

/// `/etc/hosts`
pub(crate) fn hosts(pod: &Pod, host: &Host, addresses: &[IpAddr]) -> String {
    let mut content = if has_network(pod) {
        let (name, full) = names(pod, host);
        let mut content = String::from(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        for address in addresses {
            match &full {
                Some(full) => content.push_str(&format!("{address}\t{full}\t{name}\n")),
                None => content.push_str(&format!("{address}\t{name}\n")),
            }
        }
        content
    } else {
        format!(
            "# Kubernetes-managed hosts file (host network).\n{}",
            host.hosts
        )
    };
    let spec = pod.spec.as_ref();
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref());
    let aliases = aliases.unwrap_or_default();
    if !aliases.is_empty() {
        content.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default();
        content.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    content
}

/// `/etc/resolv.conf`
pub(crate) fn resolv_conf(pod: &Pod, host: &Host) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref());
    let is_cluster = match policy.unwrap_or("ClusterFirst") {
        "ClusterFirst" => has_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolver = if policy == Some("None") {
        Resolver::default()
    } else if is_cluster && !host.cluster_dns.is_empty() {
        of_cluster(text(pod.metadata.namespace.as_ref()), host)
    } else {
        host.resolver.clone()
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        extend(&mut resolver.nameservers, own.nameservers.iter().flatten());
        extend(&mut resolver.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = text(option.name.as_ref());
            let is_same = |have: &String| have.split(':').next() == Some(name);
            resolver.options.retain(|have| !is_same(have));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    cut(&mut resolver);
    resolver.print()
}

fn of_cluster(namespace: &str, host: &Host) -> Resolver {
    let domain = &host.cluster_domain;
    let mut searches = vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    extend(&mut searches, host.resolver.searches.iter());
    Resolver {
        nameservers: host.cluster_dns.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

/// Adds what is not in the list yet.
fn extend<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn cut(resolver: &mut Resolver) {
    resolver.nameservers.truncate(NAMESERVERS_MOST);
    resolver.searches.truncate(SEARCHES_MOST);
    while resolver.searches.join(" ").len() > SEARCHES_MOST_CHARS {
        resolver.searches.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pod::testing::pod;
    use serde_json::json;

    fn host() -> Host {
        Host {
            name: "node".into(),
            hosts: "127.0.0.1 localhost\n".into(),
            resolver: Resolver::parse("# x\nnameserver 9.9.9.9\nsearch lan\noptions edns0\n"),
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
        }
    }

    #[test]
    fn the_resolver_follows_the_policy() {
        let cluster = "search n.svc.cluster.local svc.cluster.local cluster.local lan\n\
            nameserver 10.96.0.10\noptions ndots:5\n";
        let default = "search lan\nnameserver 9.9.9.9\noptions edns0\n";
        let table = [
            (json!({}), cluster),
            (
                json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
                default,
            ),
            (
                json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
                cluster,
            ),
            (json!({"dnsPolicy": "Default"}), default),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"],
                    "searches": ["x.y"], "options": [{"name": "ndots", "value": "2"},
                    {"name": "rotate"}]}}),
                "search x.y\nnameserver 1.2.3.4\noptions ndots:2 rotate\n",
            ),
            (
                json!({"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["9.9.9.9", "1.1.1.1"],
                    "options": [{"name": "edns0"}, {"name": "ndots", "value": "1"}]}}),
                "search lan\nnameserver 9.9.9.9\nnameserver 1.1.1.1\noptions edns0 ndots:1\n",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(resolv_conf(&pod(spec.clone()), &host()), expected, "{spec}");
        }
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let spec = json!({"hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let address = ["10.0.0.2".parse().unwrap()];
        let text = hosts(&pod(spec), &host(), &address);
        assert!(
            text.contains("\n10.0.0.2\th.s.n.svc.cluster.local\th\n"),
            "{text}"
        );
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        let text = hosts(&pod(json!({"hostNetwork": true})), &host(), &address);
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"
        );
    }

    #[test]
    fn host_names_are_short_unless_asked_otherwise() {
        let name = |spec| hostname(&pod(spec), &host());
        assert_eq!(name(json!({})), "p");
        assert_eq!(name(json!({"hostNetwork": true})), "node");
        let full = json!({"subdomain": "s", "setHostnameAsFQDN": true});
        assert_eq!(name(full), "p.s.n.svc.cluster.local");
        assert_eq!(name(json!({"hostnameOverride": "o.example"})), "o.example");
    }
}
