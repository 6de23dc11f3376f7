//! What the parts of the agent ask of one another, so that each can be built and faked alone.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

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
