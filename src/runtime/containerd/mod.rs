//! Containers through containerd's own gRPC API; nothing that 1.6 or 2.x lacks.
//!
//! Every reader of container states reads memory: this process is the only one that makes the
//! containers of its namespace, and containerd's events keep the memory right. When the connection
//! breaks, everything is listed again and readers are told to look at everything
//! ([`RuntimeEvent::Resync`]).
//!
//! A task is deleted when its process ends, which also ends its shim: what is left of an ended
//! container is a line in containerd's database, its writable layer, and a small file.
//!
//! After a crash of this process nothing is lost: tasks that ended meanwhile still have their shim
//! and are dealt with by the first listing.

mod archive;
mod channel;
mod containers;
mod content;
mod events;
mod host;
mod images;
mod import;
mod leases;
mod pull;
#[cfg(test)]
mod real_tests;
mod records;
mod rootfs;
mod snapshots;
mod tasks;
mod turns;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::{CreateNamespaceRequest, Namespace};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::runtime::events::Hub;
use crate::runtime::registry::{RegistriesConfig, Registry};
use crate::runtime::spec::UserDb;
use crate::runtime::{
    ContainerSpec, ContainerState, Credential, Error, ExecOutput, ExecSpec, Image, Process,
    Resources, Result, Runtime, RuntimeEvent, Stats, Version,
};
use crate::util::clock::Clock;
use crate::util::tasks::Tasks;

use channel::{Link, Step, existing_is_fine};
use host::Host;
use images::Known;
use records::Records;
use turns::Turns;

/// How containerd is reached and used.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// Its socket.
    pub address: PathBuf,
    /// Its namespace for our containers and images; nodes that share a containerd need different
    /// ones. `k8s.io` is what `crictl` and `ctr -n k8s.io` look at.
    pub namespace: String,
    /// For instance `overlayfs`.
    pub snapshotter: String,
    /// The program that writes log files, started by containerd's shim: orch's own executable.
    pub log_program: PathBuf,
    /// Folder for what a restart must find again.
    pub state_dir: PathBuf,
    /// OCI runtime binary; empty: containerd's default, runc.
    pub oci_runtime: String,
    /// What `/etc/orch/registries.yaml` says.
    pub registries: RegistriesConfig,
}

/// Containerd as a [`Runtime`].
pub struct Containerd {
    config: ContainerdConfig,
    clock: Clock,
    link: Link,
    host: Host,
    records: Arc<Records>,
    hub: Hub,
    jobs: Tasks,
    /// Images by the digest that leads to them.
    images: Mutex<HashMap<String, Arc<Known>>>,
    /// Users of images by chain id.
    users: Mutex<HashMap<String, Arc<UserDb>>>,
    registry: Registry,
    fetching: Turns,
    unpacking: Turns,
    /// Who changes a container: create, remove and reaping exclude one another.
    changing: Turns,
}

impl Containerd {
    /// Connects, learns of every container there is, and follows events until `tasks` end.
    pub async fn connect(
        config: ContainerdConfig,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Arc<Self>> {
        let failed = |error: std::io::Error| Error::Failed {
            doing: "open state folder",
            id: config.state_dir.display().to_string(),
            why: error.to_string(),
        };
        let records = Records::open(config.state_dir.clone()).map_err(failed)?;
        let link = Link::new(config.address.clone(), &config.namespace)?;
        let jobs = tasks.child();
        let registry = Registry::new(config.registries.clone(), jobs.clone());
        let containerd = Arc::new(Self {
            host: Host::read(),
            records: Arc::new(records),
            link,
            clock,
            hub: Hub::default(),
            jobs,
            images: Mutex::default(),
            users: Mutex::default(),
            registry,
            fetching: Turns::default(),
            unpacking: Turns::default(),
            changing: Turns::default(),
            config,
        });
        containerd.make_namespace().await?;
        containerd.remove_left_views().await?;
        events::follow(&containerd, tasks).await?;
        Ok(containerd)
    }

    async fn make_namespace(&self) -> Result<()> {
        let name = self.config.namespace.as_str();
        let request = self.link.request(CreateNamespaceRequest {
            namespace: Some(Namespace {
                name: name.to_owned(),
                labels: HashMap::new(),
            }),
        });
        let step = Step {
            what: "namespace",
            ..Step::container("make namespace", name)
        };
        let mut namespaces = self.link.namespaces();
        let create = namespaces.create(request);
        existing_is_fine(self.link.run(step, create).await).map(|_| ())
    }
}

#[async_trait]
impl Runtime for Containerd {
    async fn version(&self) -> Result<Version> {
        let step =
            Step::container("ask for the version of", "containerd").limit(Duration::from_secs(5));
        let answer = self.link.run(step, self.link.version().version(())).await?;
        let version = answer.version.trim_start_matches('v');
        Ok(Version {
            name: "containerd".to_owned(),
            // Debian appends its own build after a tilde.
            version: version.split('~').next().unwrap_or(version).to_owned(),
        })
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        self.find_image(reference).await
    }

    async fn images(&self) -> Result<Vec<Image>> {
        self.list_images().await
    }

    async fn pull(&self, reference: &str, credentials: &[Credential]) -> Result<Image> {
        self.pull_image(reference, credentials).await
    }

    async fn import(&self, archive: &Path) -> Result<Vec<Image>> {
        self.import_archive(archive).await
    }

    async fn remove_image(&self, id: &str) -> Result<()> {
        self.forget_image(id).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<()> {
        self.create_container(spec).await
    }

    async fn start(&self, id: &str) -> Result<()> {
        self.start_container(id).await
    }

    async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        self.signal_container(id, signal, all).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.remove_container(id).await
    }

    async fn container(&self, id: &str) -> Result<Option<ContainerState>> {
        Ok(self.records.get(id).map(|entry| entry.state(id)))
    }

    async fn containers(&self) -> Result<Vec<ContainerState>> {
        Ok(self.records.all())
    }

    async fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        self.update_container(id, resources).await
    }

    async fn exec(&self, spec: &ExecSpec) -> Result<Process> {
        self.run_exec(spec).await
    }

    async fn exec_sync(&self, id: &str, args: &[String], timeout: Duration) -> Result<ExecOutput> {
        self.run_exec_sync(id, args, timeout).await
    }

    async fn attach(&self, id: &str, stdin: bool) -> Result<Process> {
        self.attach_container(id, stdin).await
    }

    async fn log_is_complete(&self, id: &str) -> bool {
        crate::runtime::log::is_drained(&self.records.folder_of(id))
    }

    async fn stats(&self, id: &str) -> Result<Option<Stats>> {
        let Some(entry) = self.records.get(id) else {
            return Ok(None);
        };
        if !matches!(entry.phase, crate::runtime::Phase::Running { .. }) {
            return Ok(None);
        }
        Ok(self.host.stats(&entry.details.cgroup))
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        self.hub.subscribe()
    }
}
