//! What an agent is told: validated, nothing left to guess.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;

/// Configuration of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of the node, the main one first; at least one.
    pub node_ips: Vec<IpAddr>,
    /// What the agent keeps is below `agent/` here.
    pub data_dir: PathBuf,
    /// Folder of the pods' logs; `None`: `/var/log/pods` for the default data folder, otherwise
    /// below the data folder.
    pub log_root: Option<PathBuf>,
    /// Cgroup of all pods, for instance `/kubepods`.
    pub cgroup_root: String,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Labels the node gets beside those every node has.
    pub labels: BTreeMap<String, String>,
    /// Taints a new node gets.
    pub taints: Vec<Taint>,
    /// Whether the control plane runs here too.
    pub is_control_plane: bool,
    /// Addresses of the cluster DNS; empty: pods use the node's resolver.
    pub cluster_dns: Vec<IpAddr>,
    /// For instance `cluster.local`.
    pub cluster_domain: String,
    /// As in `Node.status.nodeInfo.kubeletVersion`, for instance `v1.37.0+orch1`.
    pub version: String,
    /// Port of the node API in `Node.status.daemonEndpoints`.
    pub node_api_port: u16,
    /// Percent of the image file system in use above which unused images are removed.
    pub image_gc_high_percent: u8,
    /// Percent down to which they are removed.
    pub image_gc_low_percent: u8,
    /// When the node counts as short of something, for instance
    /// `memory.available` = `100Mi`, `nodefs.available` = `10%`.
    pub eviction_hard: BTreeMap<String, String>,
    /// This program's own file, which holds a shared process namespace as `FILE hold-processes`;
    /// `None`: pods that share one are refused.
    pub program: Option<PathBuf>,
}

impl Config {
    /// Defaults for a node of this name and address.
    pub fn new(node_name: &str, node_ip: IpAddr, data_dir: PathBuf) -> Self {
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let eviction_hard = [
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
            ("imagefs.available", "15%"),
        ];
        Self {
            node_name: node_name.to_owned(),
            node_ips: vec![node_ip],
            data_dir,
            log_root: None,
            cgroup_root: "/kubepods".to_owned(),
            max_pods: 110,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            is_control_plane: false,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            version: concat!("v1.37.0+orch", env!("CARGO_PKG_VERSION")).to_owned(),
            node_api_port: 10250,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            eviction_hard: eviction_hard.map(text).into(),
            program: None,
        }
    }
}
