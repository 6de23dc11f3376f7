//! Puts a node together: container runtime, pod network, service proxy, cluster DNS, pods.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use ipnet::Ipv4Net;

use super::Failure;
use super::args::NodeArgs;
use super::node::{Containerd as Wanted, Facts, Taint};
use crate::agent::network::overlay::Backend;
use crate::agent::network::{self, Network};
use crate::agent::proxy::rules::Nets;
use crate::agent::{self, Agent, dns, proxy};
use crate::client::Transport;
use crate::runtime::containerd::{Containerd, ContainerdConfig};
use crate::runtime::managed::{Managed, ManagedConfig};
use crate::runtime::registry::RegistriesConfig;
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

/// containerd's namespace of our containers: the one `crictl` and `ctr -n k8s.io` look at.
const CONTAINERD_NAMESPACE: &str = "k8s.io";
/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Mirrors, credentials and TLS of registries.
const REGISTRIES: &str = "/etc/orch/registries.yaml";
/// Records that a reboot must forget.
const RUN: &str = "/run/orch";

/// What a node has to know of its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) pods: Ipv4Net,
    pub(crate) services: Ipv4Net,
    pub(crate) dns: Ipv4Addr,
    pub(crate) domain: String,
    pub(crate) backend: Backend,
    /// Names of parts to leave out.
    pub(crate) disabled: Vec<String>,
}

impl Cluster {
    /// From the texts a server tells its nodes.
    pub(crate) fn parse(
        (pods, services): (&str, &str),
        (dns, domain): (&str, &str),
        backend: &str,
    ) -> anyhow::Result<Self> {
        let net = |what: &str, text: &str| {
            text.parse::<Ipv4Net>()
                .with_context(|| format!("the server's {what} `{text}`"))
        };
        Ok(Self {
            pods: net("cluster CIDR", pods)?,
            services: net("service CIDR", services)?,
            dns: dns
                .parse()
                .with_context(|| format!("the server's cluster DNS `{dns}`"))?,
            domain: domain.to_owned(),
            backend: match backend {
                "vxlan" => Backend::Vxlan,
                "host-gw" => Backend::HostGateway,
                "none" => Backend::None,
                other => {
                    return Err(anyhow!(
                        "the server's network backend `{other}` is not known"
                    ));
                }
            },
            disabled: Vec::new(),
        })
    }

    fn has(&self, part: &str) -> bool {
        !self.disabled.iter().any(|name| name == part)
    }
}

/// Starts everything of a node, talking to the API through `transport`.
pub(crate) async fn start(
    (args, facts): (&NodeArgs, &Facts),
    cluster: &Cluster,
    transport: Arc<dyn Transport>,
    (clock, tasks): (&Clock, &Tasks),
) -> Result<(Agent, Arc<Containerd>), Failure> {
    let runtime = runtime(args, facts, (clock, tasks)).await?;
    let network = Network::open(network::Config {
        state_dir: state_dir(args),
        cluster_cidr: cluster.pods,
        service_cidr: cluster.services,
        node_ip: facts.address,
        backend: cluster.backend,
    })
    .await
    .context("open the pod network")?;
    let parts = agent::Parts {
        transport,
        runtime: runtime.clone(),
        network: Arc::new(network.clone()),
        clock: clock.clone(),
        rng: Rng::from_system(),
        cgroups: Some(PathBuf::from(CGROUPS)),
    };
    let agent = Agent::start(agent_config(args, facts, cluster)?, parts, tasks)?;
    let informers = agent.informers();
    network::peers::start(network, facts.name.clone(), informers.cache(), tasks);
    if cluster.has("service-proxy") {
        let nets = Nets {
            pods: cluster.pods,
            services: cluster.services,
            dns: cluster.dns,
        };
        proxy::start(
            proxy::Config {
                node: facts.name.clone(),
                nets,
            },
            &informers,
            tasks,
        );
    }
    if cluster.has("dns") {
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let config = dns::Config {
            address: cluster.dns,
            domain: cluster.domain.clone(),
            upstream: dns::nameservers(&resolv_conf),
        };
        let at = format!("answer DNS at {} (is port 53 taken?)", config.address);
        dns::start(config, &informers, tasks).await.context(at)?;
    }
    Ok((agent, runtime))
}

async fn runtime(
    args: &NodeArgs,
    facts: &Facts,
    (clock, tasks): (&Clock, &Tasks),
) -> Result<Arc<Containerd>, Failure> {
    let folder = args.data_dir.join("agent");
    let address = match &facts.containerd {
        Wanted::At(address) => address.clone(),
        Wanted::Managed => {
            let config = ManagedConfig::new(folder.join("containerd"));
            Managed::start(config, tasks).await?.address().to_owned()
        }
    };
    let config = ContainerdConfig {
        address,
        namespace: CONTAINERD_NAMESPACE.to_owned(),
        snapshotter: args.snapshotter.clone(),
        log_program: std::env::current_exe().context("find this program's own file")?,
        state_dir: folder.join("runtime"),
        oci_runtime: String::new(),
        registries: RegistriesConfig::load(Path::new(REGISTRIES))?,
    };
    Ok(Containerd::connect(config, clock.clone(), tasks).await?)
}

/// A folder of its own for each data folder: several nodes may share a machine.
fn state_dir(args: &NodeArgs) -> PathBuf {
    let name = args
        .data_dir
        .to_string_lossy()
        .trim_matches('/')
        .replace('/', "-");
    PathBuf::from(RUN).join(name)
}

fn agent_config(
    args: &NodeArgs,
    facts: &Facts,
    cluster: &Cluster,
) -> Result<agent::Config, Failure> {
    let address = IpAddr::V4(facts.address);
    let dns = cluster.has("dns").then_some(IpAddr::V4(cluster.dns));
    Ok(agent::Config {
        cgroup_root: args.cgroup_root.clone(),
        max_pods: args.max_pods,
        labels: facts.labels.iter().cloned().collect(),
        taints: facts.taints.iter().map(taint).collect(),
        cluster_dns: dns.into_iter().collect(),
        cluster_domain: cluster.domain.clone(),
        image_gc_high_percent: args.image_gc_high_threshold,
        image_gc_low_percent: args.image_gc_low_threshold,
        eviction_hard: facts.eviction_hard.clone(),
        program: Some(std::env::current_exe().context("find this program's own file")?),
        ..agent::Config::new(&facts.name, address, args.data_dir.clone())
    })
}

fn taint(taint: &Taint) -> k8s_openapi::api::core::v1::Taint {
    k8s_openapi::api::core::v1::Taint {
        key: taint.key.clone(),
        value: (!taint.value.is_empty()).then(|| taint.value.clone()),
        effect: taint.effect.clone(),
        time_added: None,
    }
}
