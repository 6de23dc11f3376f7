//! What the parts of the agent ask of one another, so that each can be built and faked alone.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

/// The pinned namespaces of a pod: files that a container joins by path and that outlive the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedNamespaces {
    /// Network namespace.
    pub network: PathBuf,
    /// IPC namespace.
    pub ipc: PathBuf,
    /// Host name namespace.
    pub uts: PathBuf,
}

/// A port of the host that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Address on the host; `None`: all.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Why a network or namespace step failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct NetworkError {
    /// The step.
    pub doing: String,
    /// The cause's text.
    pub why: String,
}

/// Makes and removes the namespaces of pods and connects them. Every call may be repeated.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Tells the range of pod addresses that the control plane gave this node. Until then
    /// [`PodNetwork::attach`] waits.
    async fn set_range(&self, _range: ipnet::IpNet) -> Result<(), NetworkError> {
        Ok(())
    }

    /// Makes network, IPC and UTS namespaces with `hostname` and `sysctls`, pinned by bind mounts
    /// at `folder/{net,ipc,uts}`; what is pinned already is kept. Loopback is up.
    async fn pin(
        &self,
        folder: &Path,
        hostname: &str,
        sysctls: &[(String, String)],
    ) -> Result<PinnedNamespaces, NetworkError>;

    /// Removes the pins.
    async fn unpin(&self, folder: &Path) -> Result<(), NetworkError>;

    /// Connects the namespace pinned at `network` for the pod `uid` and gives it addresses (the
    /// same ones again for a pod that has some). The first address is the pod's address.
    async fn attach(
        &self,
        uid: &str,
        network: &Path,
        ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, NetworkError>;

    /// Disconnects it and frees its addresses.
    async fn detach(&self, uid: &str) -> Result<(), NetworkError>;

    /// The pods that have addresses, to find what an earlier crash left behind.
    async fn attached(&self) -> Result<Vec<(String, Vec<IpAddr>)>, NetworkError>;
}

/// What a container of a pod is doing, as its status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Not started, or between two runs; the reason, for instance `ContainerCreating`.
    Waiting(String),
    /// Its process runs.
    Running,
    /// Its last run ended and there will be no other.
    Terminated,
}

/// A container of a pod (init and ephemeral ones too), for logs, exec and attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name in the pod.
    pub name: String,
    /// What it is doing.
    pub shown: Shown,
    /// The runtime's id of its present or last run; `None` before the first.
    pub id: Option<String>,
    /// Log file of that run; `None` where it left none.
    pub log: Option<PathBuf>,
    /// Log file of the run before (`lastState.terminated`).
    pub previous_log: Option<PathBuf>,
}

/// A pod of this node.
#[derive(Clone, Debug)]
pub struct PodView {
    /// With the newest status.
    pub pod: Arc<Pod>,
    /// Its pinned network namespace; `None`: the host's.
    pub network: Option<PathBuf>,
    /// Every container there is or was.
    pub containers: Vec<ContainerView>,
}

/// What the node's own HTTP API reads of the pods that run here. Answers from memory.
pub trait PodDirectory: Send + Sync + 'static {
    /// One pod.
    fn find(&self, namespace: &str, name: &str) -> Option<PodView>;

    /// Every pod.
    fn all(&self) -> Vec<PodView>;
}
