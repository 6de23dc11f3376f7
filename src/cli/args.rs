//! The flags as typed: texts, not yet checked against one another. Defaults that depend on the
//! machine are filled in when the configuration is made.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Kubernetes as one small, fast program.
#[derive(Debug, Parser)]
#[command(
    name = "orch",
    version,
    about,
    disable_help_subcommand = false,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane, and on the same machine a node
    Server(Box<ServerArgs>),
    /// Run a node of an existing cluster
    Agent(Box<AgentArgs>),
    /// Show the server's token, or make, list and delete join tokens
    Token(TokenArgs),
    /// Show on one screen how the cluster is and what to do next
    Status(StatusArgs),
    /// Say why a Pod waits for a node, and what would help
    Explain(ExplainArgs),
    /// Save, list and restore the datastore
    Snapshot(SnapshotArgs),
    /// Check whether this machine can run orch
    Check(CheckArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// Flags of every long-running command.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Configuration file; every flag is also a key of it [default: /etc/orch/config.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines there are: error, warn, info, debug, or `target=level,…` [env: ORCH_LOG]
    #[arg(long, default_value = "info")]
    pub log_level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line each
    Text,
    /// One JSON object each
    Json,
}

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkBackend {
    /// In UDP packets between the nodes
    Vxlan,
    /// By routes over the nodes' common link
    HostGw,
    /// Somebody else does it
    None,
}

/// Parts that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Cluster DNS
    Dns,
    /// The service proxy
    ServiceProxy,
    /// Load balancer addresses for Services
    ServiceLb,
    /// The local-path volume provisioner
    LocalStorage,
    /// The metrics API
    Metrics,
    /// Network policies
    NetworkPolicy,
    /// The ingress controller
    Ingress,
}

/// Flags of `orch server`.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    #[command(flatten)]
    pub log: LogArgs,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: String,
    /// Port of the API server
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Address that agents and Pods are told [default: the default route's address]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_address: Option<String>,
    /// Further names or addresses of the serving certificate
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Token that agents join with [default: made at first start]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A second token, good only for joining as an agent
    #[arg(long, value_name = "TOKEN")]
    pub agent_token: Option<String>,
    /// Addresses of Pods
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12")]
    pub service_cidr: String,
    /// Ports of NodePort Services
    #[arg(long, value_name = "FROM-TO", default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Address of cluster DNS [default: the service CIDR's 10th]
    #[arg(long, value_name = "ADDRESS")]
    pub cluster_dns: Option<String>,
    /// Domain of cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// How Pods of different nodes reach each other
    #[arg(long, value_enum, default_value = "vxlan")]
    pub network_backend: NetworkBackend,
    /// External etcd, comma-separated URLs [default: the embedded store]
    #[arg(long, value_name = "URL,…")]
    pub datastore_endpoint: Option<String>,
    /// Authority that signed etcd's certificate
    #[arg(long, value_name = "FILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "datastore_keyfile")]
    pub datastore_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE", requires = "datastore_certfile")]
    pub datastore_keyfile: Option<PathBuf>,
    /// Folder whose manifests are applied [default: DATA/server/manifests]
    #[arg(long, value_name = "FOLDER")]
    pub manifests: Option<PathBuf>,
    /// Where the administrator's kubeconfig is written
    #[arg(long, value_name = "FILE", default_value = "/etc/orch/kubeconfig.yaml")]
    pub write_kubeconfig: PathBuf,
    /// Its mode
    #[arg(long, value_name = "MODE", default_value = "0600")]
    pub write_kubeconfig_mode: String,
    /// Parts to leave out
    #[arg(long, value_enum, value_name = "PART")]
    pub disable: Vec<Part>,
    /// Run no node on this machine
    #[arg(long)]
    pub disable_agent: bool,
    /// Which resources are kept encrypted: an EncryptionConfiguration
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    #[command(flatten)]
    pub audit: AuditArgs,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Flags of the audit log.
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// What is written about which requests: an audit Policy
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where audit events are written, one JSON line each
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes after which the audit log is turned over
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Old audit logs that are kept; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// Days old audit logs are kept; 0 for ever
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u32,
}

/// Flags of `orch agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    #[command(flatten)]
    pub log: LogArgs,
    /// Server to join, for instance https://192.168.1.5:6443
    #[arg(long, value_name = "URL")]
    pub join: String,
    /// Token to join with
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file")]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Flags of a node.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Folder of everything that is kept
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/orch")]
    pub data_dir: PathBuf,
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of the node [default: the default route's address]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<String>,
    /// Labels the node is registered with
    #[arg(long, value_name = "KEY=VALUE")]
    pub node_label: Vec<String>,
    /// Taints the node is registered with
    #[arg(long, value_name = "KEY=VALUE:EFFECT")]
    pub node_taint: Vec<String>,
    /// containerd's socket, or `managed`: run one [default: /run/containerd/containerd.sock where
    /// it answers, else managed]
    #[arg(long, value_name = "SOCKET")]
    pub containerd: Option<String>,
    /// containerd's snapshotter
    #[arg(long, value_name = "NAME", default_value = "overlayfs")]
    pub snapshotter: String,
    /// Control group of all Pods; several nodes on one machine need different ones
    #[arg(long, value_name = "PATH", default_value = "/kubepods")]
    pub cgroup_root: String,
    /// Pods the node takes
    #[arg(long, value_name = "COUNT", default_value_t = 110)]
    pub max_pods: u32,
    /// Percentage of disk use above which unused images are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 85)]
    pub image_gc_high_threshold: u8,
    /// Percentage of disk use down to which unused images are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80)]
    pub image_gc_low_threshold: u8,
    /// Thresholds at which Pods are evicted
    #[arg(
        long,
        value_name = "SIGNAL<VALUE,…",
        default_value = "memory.available<100Mi,nodefs.available<10%,imagefs.available<15%,nodefs.inodesFree<5%"
    )]
    pub eviction_hard: String,
}

/// How a command finds the cluster.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// kubeconfig of an administrator [default: $KUBECONFIG, else /etc/orch/kubeconfig.yaml]
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
}

/// `orch token`
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// What to do; without a verb the server's token is printed
    #[command(subcommand)]
    pub verb: Option<TokenVerb>,
    /// The server's data folder
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/var/lib/orch",
        global = true
    )]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Verbs of `orch token`.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a join token and print it
    Create {
        /// How long it is good, for instance 30m or 24h; 0 for ever
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        ttl: String,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// List the join tokens
    List,
    /// Delete a join token
    Delete {
        /// The token, or its id (what stands before the dot)
        token: String,
    },
}

/// `orch status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `orch explain`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// What to explain
    #[command(subcommand)]
    pub what: ExplainWhat,
}

/// What `orch explain` explains.
#[derive(Debug, Subcommand)]
pub enum ExplainWhat {
    /// Why a Pod waits: which rule refuses each node, and the smallest change that would let it fit
    Pod {
        /// NAMESPACE/NAME, or a name in `default`
        #[arg(value_name = "NAMESPACE/NAME")]
        pod: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// `orch snapshot`
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: SnapshotVerb,
    /// The server's data folder
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/var/lib/orch",
        global = true
    )]
    pub data_dir: PathBuf,
}

/// Verbs of `orch snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotVerb {
    /// Save the datastore at one revision
    Save {
        /// The file [default: DATA/server/snapshots/NAME]
        file: Option<PathBuf>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// List the snapshots in DATA/server/snapshots, or in a folder
    List {
        /// The folder
        folder: Option<PathBuf>,
    },
    /// Put a snapshot in place of the datastore; the server must be stopped
    Restore {
        /// The file
        file: PathBuf,
    },
}

/// `orch check`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// containerd's socket to look for
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub containerd: PathBuf,
    /// Port the API server would listen on
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
}
