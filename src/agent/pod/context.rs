//! What every worker of the node shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::Semaphore;

use crate::agent::config::Config;
use crate::agent::image::Images;
use crate::agent::pleg::Pleg;
use crate::agent::seam::PodNetwork;
use crate::agent::volume::Volumes;
use crate::agent::volume::fields::Place;
use crate::client::{Cache, Client, Recorder, reference};
use crate::runtime::Runtime;
use crate::util::{clock::Clock, tasks::Tasks};

use super::cgroups::PodCgroups;
use super::files::{Host, Resolver};
use super::names::Folders;
use super::restart::{Role, containers};

/// Where systemd-resolved keeps what it really asks, beside the stub it shows.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The machine as pods see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// Changes with each start of the machine.
    pub(crate) boot: String,
    pub(crate) memory_bytes: u64,
    /// What pods may use of it, by resource.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// What every worker shares.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) machine: Machine,
    pub(crate) folders: Folders,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) client: Client,
    pub(crate) pleg: Pleg,
    pub(crate) volumes: Volumes,
    pub(crate) images: Images,
    pub(crate) recorder: Recorder,
    pub(crate) services: Cache<Service>,
    pub(crate) cgroups: PodCgroups,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    /// Containers being made at a time: more only wait for one another's processor.
    pub(crate) launches: Semaphore,
}

impl Context {
    /// What the downward API reads beside the pod.
    pub(crate) fn place(&self, pod_addresses: &[std::net::IpAddr]) -> Place {
        Place {
            pod_addresses: pod_addresses.to_vec(),
            host_addresses: self.config.node_ips.clone(),
            allocatable: self.machine.allocatable.clone(),
        }
    }

    /// What the files of a pod depend on, as it is now.
    pub(crate) fn host(&self) -> Host {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut resolver = Resolver::parse(&read("/etc/resolv.conf"));
        if resolver.nameservers == ["127.0.0.53"] {
            let real = Resolver::parse(&read(RESOLVED));
            if !real.nameservers.is_empty() {
                resolver = real;
            }
        }
        Host {
            name: self.config.node_name.clone(),
            hosts: read("/etc/hosts"),
            resolver,
            cluster_dns: self.config.cluster_dns.clone(),
            cluster_domain: self.config.cluster_domain.clone(),
        }
    }

    /// The services whose variables a pod gets.
    pub(crate) fn services_of(&self, pod: &Pod) -> Vec<Arc<Service>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut services = self.services.in_namespace(namespace);
        let master = crate::api::object::ObjectKey::new("default", "kubernetes");
        services.extend(self.services.get(&master));
        services
    }
}

/// What an event of a container refers to.
pub(crate) fn container_reference(pod: &Pod, container: &Container) -> ObjectReference {
    let role = containers(pod).find(|(_, c)| c.name == container.name);
    let list = match role {
        Some((Role::Init | Role::Sidecar, _)) => "initContainers",
        _ => "containers",
    };
    ObjectReference {
        field_path: Some(format!("spec.{list}{{{}}}", container.name)),
        ..reference(pod)
    }
}

/// The container of a pod by its name.
pub(crate) fn container_named<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    containers(pod).map(|(_, c)| c).find(|c| c.name == name)
}

/// The UID; empty where a pod has none, which the API does not let happen.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
