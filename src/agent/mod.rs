//! The node: pods, containers, network, service proxy, DNS.
//!
//! [`Agent::start`] joins the parts that keep the node and its pods; network, proxy and DNS are
//! started beside it by whoever wires the program, over the same [`Agent::informers`].
//!
//! Stopping, killing or upgrading an agent touches no container: all it knows is found again in
//! the API, the runtime and its folders.

mod checkpoint;
pub mod config;
pub mod dns;
pub mod http;
mod image;
pub mod network;
pub mod nft;
pub mod node;
mod pleg;
pub mod pod;
mod probe;
pub mod proxy;
pub mod seam;
pub mod servers;
pub mod sys;
pub mod tunnel;
pub mod volume;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio::sync::Semaphore;

use crate::client::{Client, Informers, ListParams, Recorder, Transport};
use crate::runtime::Runtime;
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

pub use config::Config;
pub use pod::Pods;

use node::Keeper;
use pleg::Pleg;
use seam::PodNetwork;
use sys::cgroup::Cgroups;

/// How long the agent's own tasks have to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What an agent is made of.
pub struct Parts {
    /// To the API server, as this node.
    pub transport: Arc<dyn Transport>,
    /// What runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// What connects pods.
    pub network: Arc<dyn PodNetwork>,
    /// Wall time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Where cgroups are mounted, normally `/sys/fs/cgroup`; `None`: a hollow node, for which no
    /// cgroup is made and nothing mounted.
    pub cgroups: Option<PathBuf>,
}

/// An agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder it needs cannot be made.
    #[error("make folder `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The memory file system for secrets cannot be mounted.
    #[error("mount a memory file system for secrets at `{}`", path.display())]
    Memory {
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The images folder cannot be made or watched.
    #[error("follow the images folder")]
    Images(#[source] notify::Error),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(&'static str),
}

/// A running agent.
pub struct Agent {
    pods: Pods,
    client: Client,
    informers: Informers,
    tasks: Tasks,
}

impl Agent {
    /// Starts the node: nothing is waited for, the parts find one another as they come up. Its
    /// tasks are a group below `tasks`.
    ///
    /// Errors: folders that cannot be made.
    pub fn start(config: Config, parts: Parts, tasks: &Tasks) -> Result<Self, Error> {
        if config.node_ips.is_empty() {
            return Err(Error::Config("a node needs an address"));
        }
        let tasks = tasks.child();
        let log_root = config.log_root.clone();
        let log_root = log_root.unwrap_or_else(|| pod::log_root(&config.data_dir));
        let folders = pod::Folders::new(&config.data_dir, &log_root);
        for folder in [folders.pods(), folders.logs().to_owned()] {
            make_folder(&folder)?;
        }
        let memory = folders.memory();
        if parts.cgroups.is_none() {
            make_folder(&memory)?;
        } else {
            sys::mount::tmpfs(&memory, 0o700, None).map_err(|source| Error::Memory {
                path: memory,
                source,
            })?;
        }
        let client = Client::new(parts.transport.clone()).named("kubelet");
        let informers = Informers::new(client.clone(), tasks.clone());
        let facts = node::resources::facts(&config.data_dir);
        let pleg = Pleg::new(parts.runtime.clone());
        let keeper = node::Parts {
            config: config.clone(),
            facts: facts.clone(),
            client: client.clone(),
            runtime: parts.runtime.clone(),
            network: parts.network.clone(),
            nodes: informers.cache_where::<Node>(&ListParams::fields(&format!(
                "metadata.name={}",
                config.node_name
            ))),
            runtime_health: pleg.health(),
            clock: parts.clock.clone(),
            rng: parts.rng.clone(),
        };
        let agent_folder = config.data_dir.join("agent");
        image::folder::start(
            agent_folder.join("images"),
            agent_folder.join("images-loaded.json"),
            parts.runtime.clone(),
            &tasks,
        )
        .map_err(Error::Images)?;
        Keeper::start(keeper, &tasks);
        tasks.service("pleg", pleg.clone().run(parts.rng.clone(), tasks.clone()));
        let on_node = ListParams::fields(&format!("spec.nodeName={}", config.node_name));
        let own_pods = informers.cache_where::<Pod>(&on_node);
        let machine = machine(&config, &facts);
        let shared = Shared {
            client: &client,
            informers: &informers,
            tasks: &tasks,
        };
        let context = context((config, machine, folders), parts, pleg, &shared);
        let pods = Pods::new(context);
        tasks.service("pods", pods.clone().run(own_pods));
        Ok(Self {
            pods,
            client,
            informers,
            tasks,
        })
    }

    /// The pods of this node, for whoever serves their logs and streams.
    pub fn pods(&self) -> Pods {
        self.pods.clone()
    }

    /// The client the agent itself uses.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The caches the agent itself uses (Services among them).
    pub fn informers(&self) -> Informers {
        self.informers.clone()
    }

    /// Ends the agent's tasks. Containers run on.
    pub async fn stop(self) {
        if !self.tasks.shutdown(STOP_LIMIT).await {
            tracing::warn!("some tasks of the agent did not end in time");
        }
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::Folder {
        path: path.to_owned(),
        source,
    })
}

fn machine(config: &Config, facts: &node::resources::Facts) -> pod::Machine {
    pod::Machine {
        boot: facts.boot_id.clone(),
        memory_bytes: facts.memory_bytes,
        allocatable: node::resources::allocatable(facts, config.max_pods, &config.eviction_hard),
    }
}

struct Shared<'a> {
    client: &'a Client,
    informers: &'a Informers,
    tasks: &'a Tasks,
}

fn context(
    (config, machine, folders): (Config, pod::Machine, pod::Folders),
    parts: Parts,
    pleg: Pleg,
    shared: &Shared<'_>,
) -> Arc<pod::Context> {
    let (client, tasks) = (shared.client, shared.tasks);
    let source = ("kubelet", config.node_name.as_str());
    let recorder = Recorder::new(client.clone(), tasks, parts.clock.clone(), source);
    let roots = volume::Roots {
        pods: folders.pods(),
        memory: folders.memory(),
    };
    let time = (parts.clock.clone(), parts.rng.clone());
    let cgroups = parts.cgroups.as_deref().map(Cgroups::at);
    // One more than processors, so that none waits while another waits for the runtime.
    let launches = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    Arc::new(pod::Context {
        cgroups: pod::PodCgroups::new(cgroups, &config.cgroup_root),
        machine,
        folders,
        images: image::Images::new(parts.runtime.clone(), recorder.clone()),
        runtime: parts.runtime,
        network: parts.network,
        client: client.clone(),
        pleg,
        volumes: volume::Volumes::new(roots, client, time, tasks),
        recorder,
        services: shared.informers.cache::<Service>(),
        clock: parts.clock,
        tasks: tasks.clone(),
        launches: Semaphore::new(launches),
        config,
    })
}
