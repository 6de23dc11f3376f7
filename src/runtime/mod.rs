//! Containers and images, not pods: what the agent asks of a container runtime, in plain types.
//!
//! The real implementation speaks containerd's own gRPC API (no CRI, nothing that 1.6 or 2.x
//! lacks); `fake` is for tests and hollow nodes. Every call may be repeated: making what exists is
//! [`Error::AlreadyExists`], removing what is gone is success.

pub mod containerd;
pub mod fake;
pub mod log;
pub mod managed;
pub mod registry;

mod error;
mod events;
mod spec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

pub use error::Error;

/// What runtime calls return.
pub type Result<T> = std::result::Result<T, Error>;

/// Name and version of the runtime, for `Node.status.nodeInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// For instance `containerd`.
    pub name: String,
    /// For instance `1.6.20`.
    pub version: String,
}

/// An image that is present and unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Every full reference it has, for instance `docker.io/library/nginx:1.25`.
    pub names: Vec<String>,
    /// Digest of the manifest (or index) the names point at.
    pub digest: String,
    /// Digest of the image configuration: the image's identity (`imageID`).
    pub id: String,
    /// Compressed size of all layers and the configuration.
    pub size_bytes: u64,
    /// Loaded from the images folder: never collected.
    pub pinned: bool,
    /// Defaults for containers made from it.
    pub config: ImageConfig,
}

/// The part of an image configuration that containers take over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; may be empty.
    pub user: String,
    /// `NAME=value`
    pub env: Vec<String>,
    /// See the OCI image specification.
    pub entrypoint: Vec<String>,
    /// See the OCI image specification.
    pub cmd: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
    /// Signal name or number; empty: SIGTERM.
    pub stop_signal: String,
}

/// User name and password (or identity token) for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credential {
    /// Registry host the credential is for, for instance `docker.io`; a path may follow.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// Which namespace of a kind a container joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// A new one of its own.
    Private,
    /// The host's.
    Host,
    /// The one bound at this path.
    Path(PathBuf),
}

/// A bind mount, or another mount by type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host, or the source as the file system wants it.
    pub source: PathBuf,
    /// Path in the container.
    pub destination: PathBuf,
    /// `bind`, `tmpfs` …
    pub kind: String,
    /// As in fstab: `rbind`, `ro`, `rprivate` …
    pub options: Vec<String>,
}

/// Limits for a cgroup; `None`: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// cgroup v1 `cpu.shares` (the v2 weight is computed from it).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota_us: Option<i64>,
    /// Length of a period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Bytes of memory.
    pub memory_limit_bytes: Option<i64>,
    /// Number of processes.
    pub pids_limit: Option<i64>,
    /// CPUs as a list, for instance `0-1`.
    pub cpuset_cpus: Option<String>,
}

/// Who the process is and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Numeric user; `None`: the image's `user`, looked up in the image's passwd where a name.
    pub user: Option<u32>,
    /// Numeric group; `None`: the user's own group.
    pub group: Option<u32>,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// All devices, capabilities and paths.
    pub privileged: bool,
    /// Capabilities beyond the default set, without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set, without `CAP_`; `ALL` for all.
    pub drop_capabilities: Vec<String>,
    /// `no_new_privs`
    pub no_new_privileges: bool,
    /// Root file system read-only.
    pub read_only_root: bool,
    /// Whether to filter system calls with the runtime's default profile.
    pub seccomp_default: bool,
    /// A seccomp profile file on the host in OCI form; wins over `seccomp_default`.
    pub seccomp_profile: Option<PathBuf>,
    /// AppArmor profile name; empty: none.
    pub apparmor: String,
    /// `/proc` without masked and read-only paths.
    pub unmasked_proc: bool,
}

/// All that makes a container.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Unique on the node.
    pub id: String,
    /// Reference or id of a present image.
    pub image: String,
    /// Program and arguments; empty entries of the image are filled in by the caller.
    pub args: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    /// Empty: the image's, else `/`.
    pub working_dir: String,
    /// Beyond proc, dev, sys and the rest every container has.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host to give to it.
    pub devices: Vec<PathBuf>,
    /// Network namespace.
    pub network: Namespace,
    /// IPC namespace.
    pub ipc: Namespace,
    /// Host name namespace.
    pub uts: Namespace,
    /// Process namespace.
    pub pid: Namespace,
    /// Full cgroup path, for instance `/kubepods/burstable/podUID/ID`.
    pub cgroup: String,
    /// Limits of that cgroup.
    pub resources: Resources,
    /// Adjustment wanted; clamped to what this process may set.
    pub oom_score_adj: i32,
    /// Who it is.
    pub security: Security,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a standard input.
    pub stdin: bool,
    /// Whether its standard input is closed when the first attached client leaves.
    pub stdin_once: bool,
    /// Log file in the kubelet's format, written by orch's log program.
    pub log: PathBuf,
    /// Kept with the container and given back in its state.
    pub labels: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        /// Its process on the host.
        pid: u32,
    },
    /// Its process ended.
    Exited(Exit),
    /// The runtime cannot say.
    Unknown,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 128 + signal for a signal.
    pub code: i32,
    /// When.
    pub at: Timestamp,
    /// The kernel ended it for want of memory.
    pub oom_killed: bool,
}

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// As given in its spec.
    pub id: String,
    /// As given in its spec.
    pub image: String,
    /// As given in its spec.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its process was started; kept by the implementation across restarts of the agent.
    pub started_at: Option<Timestamp>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// Something happened to a container; only a wake-up, the truth is in [`Runtime::container`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Started, ended, ran out of memory …
    Container {
        /// Its id.
        id: String,
    },
    /// Events may have been missed (reconnect): look at everything again.
    Resync,
}

/// A further process in a running container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub stdin: bool,
}

/// Standard streams and end of a process being run or attached to. Dropping it ends neither.
pub struct Process {
    /// Standard input, where asked for; dropping it closes it.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output (and error, with a terminal).
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error, without a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Terminal sizes `(columns, rows)` to set.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// `Some(code)` when it ended.
    pub exit: watch::Receiver<Option<i32>>,
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// Standard output and error as they came, cut at 16 KiB.
    pub output: Vec<u8>,
}

/// Figures of a container's cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// CPU time used since its start, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory that cannot be reclaimed at once, in bytes.
    pub memory_working_set_bytes: u64,
    /// Memory used, in bytes.
    pub memory_usage_bytes: u64,
    /// Number of processes.
    pub pids: u64,
}

/// The seam between the agent and what runs containers.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// What it is. Also says whether it answers at all.
    async fn version(&self) -> Result<Version>;

    /// A present image by reference (normalized by the implementation: `nginx` is
    /// `docker.io/library/nginx:latest`), manifest digest or id.
    async fn image(&self, reference: &str) -> Result<Option<Image>>;

    /// Every present image.
    async fn images(&self) -> Result<Vec<Image>>;

    /// Fetches and unpacks an image, trying `credentials` that fit its registry in turn.
    async fn pull(&self, reference: &str, credentials: &[Credential]) -> Result<Image>;

    /// Loads an OCI or docker archive (tar, gzip or zstd), pins what is in it and unpacks it.
    async fn import(&self, archive: &Path) -> Result<Vec<Image>>;

    /// Removes an image with all its names.
    async fn remove_image(&self, id: &str) -> Result<()>;

    /// Makes a container (snapshot, spec, task) without starting its process.
    async fn create(&self, spec: &ContainerSpec) -> Result<()>;

    /// Starts its process.
    async fn start(&self, id: &str) -> Result<()>;

    /// Sends a signal to its first process, or to all of them.
    async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<()>;

    /// Kills what runs and removes task, snapshot and container.
    async fn remove(&self, id: &str) -> Result<()>;

    /// One container.
    async fn container(&self, id: &str) -> Result<Option<ContainerState>>;

    /// Every container of this node.
    async fn containers(&self) -> Result<Vec<ContainerState>>;

    /// Changes limits of a running container.
    async fn update(&self, id: &str, resources: &Resources) -> Result<()>;

    /// Runs a command with streams.
    async fn exec(&self, spec: &ExecSpec) -> Result<Process>;

    /// Runs a command to its end. [`Error::Timeout`] where it takes longer; it is killed then.
    async fn exec_sync(&self, id: &str, args: &[String], timeout: Duration) -> Result<ExecOutput>;

    /// Attaches to a container's own streams; to its input where `stdin` and it has one.
    async fn attach(&self, id: &str, stdin: bool) -> Result<Process>;

    /// Whether everything an ended container wrote is in its log file.
    async fn log_is_complete(&self, _id: &str) -> bool {
        true
    }

    /// Figures of one container; `None` where it does not run.
    async fn stats(&self, id: &str) -> Result<Option<Stats>>;

    /// Events from now on. The implementation reconnects and then sends
    /// [`RuntimeEvent::Resync`]; it also sends that where the reader was too slow.
    fn events(&self) -> mpsc::Receiver<RuntimeEvent>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The plainest container there is.
    pub(crate) fn container_spec(id: &str, image: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            image: image.to_owned(),
            args: vec!["run".to_owned()],
            env: Vec::new(),
            working_dir: String::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            network: Namespace::Host,
            ipc: Namespace::Host,
            uts: Namespace::Host,
            pid: Namespace::Private,
            cgroup: "/a".to_owned(),
            resources: Resources::default(),
            oom_score_adj: 0,
            security: Security::default(),
            tty: false,
            stdin: false,
            stdin_once: false,
            log: PathBuf::new(),
            labels: BTreeMap::new(),
        }
    }
}
