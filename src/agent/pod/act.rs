//! Carries out what was decided: each action as a future with an outcome, over runtime, network,
//! volumes and images. Nothing is decided here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret, VolumeMount};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::image;
use crate::agent::seam::HostPort;
use crate::agent::volume::payload;
use crate::client::{DeleteParams, reference};
use crate::runtime::{self, Credential, Image, Mount};
use crate::util::errors::{OrLog, chain};

use super::context::{Context, container_named, container_reference, uid};
use super::plan::{has_namespaces, has_network};
use super::state::Namespaces;
use super::{env, files, names, security, translate};

/// What came of an action.
#[derive(Debug)]
pub(crate) enum Outcome {
    Pinned(Result<Namespaces, String>),
    Attached(Result<Vec<IpAddr>, String>),
    /// When volumes must be refreshed next.
    Volumes(Result<Option<Timestamp>, String>),
    Image {
        container: String,
        result: Result<Arc<Image>, image::Missing>,
    },
    Launched {
        container: String,
        attempt: u32,
        result: Result<String, NotLaunched>,
    },
    Hooked {
        container: String,
        id: String,
        result: Result<(), String>,
    },
    Stopped {
        container: String,
        id: String,
    },
    Removed {
        container: String,
        id: String,
        result: Result<(), String>,
    },
    TornDown(Result<(), String>),
    Deleted(Result<(), String>),
    Reported(Result<Sent, ReportFailure>),
}

/// A status that the server took.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) status: Box<k8s_openapi::api::core::v1::PodStatus>,
    /// The revision it has since.
    pub(crate) revision: u64,
}

impl Outcome {
    /// For the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pinned(_) => "pinned",
            Self::Attached(_) => "attached",
            Self::Volumes(_) => "volumes",
            Self::Image { .. } => "image",
            Self::Launched { .. } => "launched",
            Self::Hooked { .. } => "hooked",
            Self::Stopped { .. } => "stopped",
            Self::Removed { .. } => "removed",
            Self::TornDown(_) => "torn down",
            Self::Deleted(_) => "deleted",
            Self::Reported(_) => "reported",
        }
    }
}

/// Why a status was not taken.
#[derive(Debug)]
pub(crate) enum ReportFailure {
    /// The pod is no longer there, or another one of its name is: nothing is left to tell.
    Gone,
    /// To be tried again.
    Again(String),
}

/// Why a container was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotLaunched {
    /// It was called off.
    Cancelled,
    /// Tried again without counting as a restart: a reason and a text.
    Retry(&'static str, String),
    /// The runtime could not start it: that counts as a container that ended at once.
    StartFailed(String),
}

/// What one launch is about.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    pub(crate) attempt: u32,
    pub(crate) image: Arc<Image>,
    pub(crate) namespaces: Namespaces,
    /// The pod's addresses; empty until it has some.
    pub(crate) addresses: watch::Receiver<Vec<IpAddr>>,
    pub(crate) cancel: CancellationToken,
}

impl Context {
    /// Makes the pod's namespaces.
    pub(crate) async fn pin(self: Arc<Self>, pod: Arc<Pod>) -> Outcome {
        Outcome::Pinned(self.pinned(&pod).await)
    }

    async fn pinned(&self, pod: &Pod) -> Result<Namespaces, String> {
        let spec = pod.spec.as_ref();
        let context = spec.and_then(|spec| spec.security_context.as_ref());
        let sysctls = context.and_then(|context| context.sysctls.as_deref());
        let sysctls: Vec<(String, String)> = sysctls
            .unwrap_or_default()
            .iter()
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect();
        let hostname = files::hostname(pod, &self.host());
        let folder = self.folders.namespaces(uid(pod));
        let pinned = self.network.pin(&folder, &hostname, &sysctls).await;
        let failed = |why: String| {
            let text = format!("Failed to create pod sandbox: {why}");
            self.recorder
                .warning(&reference(pod), "FailedCreatePodSandBox", text.clone());
            text
        };
        let pinned = pinned.map_err(|error| failed(chain(&error)))?;
        let shares = spec.and_then(|spec| spec.share_process_namespace) == Some(true);
        let processes = if shares {
            let held = self.hold_processes(pod).await;
            Some(held.map_err(failed)?)
        } else {
            None
        };
        Ok(Namespaces {
            pinned: Some(pinned),
            processes,
        })
    }

    /// Connects the pod's network namespace.
    pub(crate) async fn attach(self: Arc<Self>, pod: Arc<Pod>, namespaces: Namespaces) -> Outcome {
        let Some(pinned) = namespaces.pinned else {
            return Outcome::Attached(Err("the pod has no network namespace".to_owned()));
        };
        let ports = host_ports(&pod);
        let attached = self
            .network
            .attach(uid(&pod), &pinned.network, &ports)
            .await;
        Outcome::Attached(attached.map_err(|error| {
            let text = format!(
                "Failed to create pod sandbox: failed to setup network: {}",
                chain(&error)
            );
            self.recorder
                .warning(&reference(&*pod), "FailedCreatePodSandBox", text.clone());
            text
        }))
    }

    /// Makes volumes, files and cgroup of the pod, or brings them up to date.
    pub(crate) async fn set_up_volumes(self: Arc<Self>, pod: Arc<Pod>) -> Outcome {
        Outcome::Volumes(self.volumes_made(&pod).await)
    }

    async fn volumes_made(&self, pod: &Pod) -> Result<Option<Timestamp>, String> {
        let failed = |reason: &str, text: String| {
            self.recorder.warning(&reference(pod), reason, text.clone());
            text
        };
        if let Err(error) = self.cgroups.set_up(pod) {
            let text = format!("failed to ensure that the pod: cgroups exist: {error}");
            return Err(failed("FailedCreatePodContainer", text));
        }
        if let Err(error) = self.write_files(pod) {
            let text = format!("error making pod data directories: {error}");
            return Err(failed("FailedMount", text));
        }
        let made = self.volumes.set_up(pod, &self.place(&[])).await;
        made.map_err(|error| failed("FailedMount", error.to_string()))
    }

    /// `hostname`, `resolv.conf` and, unless it has addresses already, `hosts`.
    fn write_files(&self, pod: &Pod) -> std::io::Result<()> {
        let folder = self.folders.pod(uid(pod));
        std::fs::create_dir_all(&folder)?;
        let host = self.host();
        let hostname = files::hostname(pod, &host) + "\n";
        std::fs::write(folder.join("hostname"), hostname)?;
        let resolver = files::resolv_conf(pod, &host);
        std::fs::write(folder.join("resolv.conf"), resolver)?;
        let hosts = folder.join("hosts");
        if !hosts.exists() {
            std::fs::write(hosts, files::hosts(pod, &host, &[]))?;
        }
        if spans_containers(pod) && !is_host_ipc(pod) && !self.cgroups.is_hollow() {
            let shm = folder.join("shm");
            crate::agent::sys::mount::tmpfs(&shm, 0o1777, Some(64 << 20))?;
        }
        Ok(())
    }

    /// Finds or pulls the image of a container.
    pub(crate) async fn find_image(self: Arc<Self>, pod: Arc<Pod>, container: String) -> Outcome {
        let result = match container_named(&pod, &container) {
            Some(spec) => {
                let about = container_reference(&pod, spec);
                let credentials = self.pull_secrets(&pod);
                let found = self.images.find(spec, &about, credentials).await;
                found.map(Arc::new)
            }
            None => Err((
                "InvalidImageName",
                "the pod has no such container".to_owned(),
            )),
        };
        Outcome::Image { container, result }
    }

    async fn pull_secrets(&self, pod: &Pod) -> Vec<Credential> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api = self.client.namespaced::<Secret>(namespace);
        let spec = pod.spec.as_ref();
        let names = spec.and_then(|spec| spec.image_pull_secrets.as_deref());
        let mut all = Vec::new();
        for name in names.unwrap_or_default() {
            match api.get(&name.name).await {
                Ok(secret) => all.extend(image::credentials::credentials(&secret)),
                Err(error) => {
                    let text = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the \
                         image may not succeed.",
                        name.name
                    );
                    self.recorder
                        .warning(&reference(pod), "FailedToRetrieveImagePullSecret", text);
                    tracing::debug!(error = %chain(&error), secret = name.name, "pull secret");
                }
            }
        }
        all
    }

    /// Makes and starts a container.
    pub(crate) async fn launch(self: Arc<Self>, launch: Launch) -> Outcome {
        let result = self.launched(&launch).await;
        Outcome::Launched {
            container: launch.container,
            attempt: launch.attempt,
            result,
        }
    }

    async fn launched(&self, launch: &Launch) -> Result<String, NotLaunched> {
        let pod = &*launch.pod;
        let Some(container) = container_named(pod, &launch.container) else {
            return Err(NotLaunched::Cancelled);
        };
        let about = container_reference(pod, container);
        if env::needs_addresses(container) {
            addresses(launch).await?;
        }
        let spec = self.spec(launch, container).await.map_err(|text| {
            self.recorder
                .warning(&about, "Failed", format!("Error: {text}"));
            NotLaunched::Retry("CreateContainerConfigError", text)
        })?;
        let id = spec.id.clone();
        {
            // The semaphore is never closed.
            let _permit = self.launches.acquire().await;
            if launch.cancel.is_cancelled() {
                return Err(NotLaunched::Cancelled);
            }
            tracing::debug!(pod = launch.pod.metadata.name, "create");
            self.create(&spec).await.map_err(|error| {
                let failed = not_created(&error);
                let text = match &failed {
                    NotLaunched::Retry(_, text) | NotLaunched::StartFailed(text) => text.clone(),
                    NotLaunched::Cancelled => String::new(),
                };
                self.recorder
                    .warning(&about, "Failed", format!("Error: {text}"));
                failed
            })?;
        }
        let text = format!("Created container: {}", container.name);
        self.recorder.normal(&about, "Created", text);
        if let Err(cancelled) = addresses(launch).await {
            self.runtime
                .remove(&id)
                .await
                .ok_or_log("remove a container that is no longer wanted");
            self.pleg.refresh(&id).await;
            return Err(cancelled);
        }
        tracing::debug!(pod = launch.pod.metadata.name, "start");
        let started = self.runtime.start(&id).await;
        self.pleg.refresh(&id).await;
        match started {
            Ok(()) => {
                let text = format!("Started container {}", container.name);
                self.recorder.normal(&about, "Started", text);
                Ok(id)
            }
            Err(error) => {
                let text = plain(&error);
                self.recorder
                    .warning(&about, "Failed", format!("Error: {text}"));
                self.runtime
                    .remove(&id)
                    .await
                    .ok_or_log("remove a container that did not start");
                self.pleg.refresh(&id).await;
                Err(NotLaunched::StartFailed(text))
            }
        }
    }

    /// What an earlier try left is made anew.
    async fn create(&self, spec: &runtime::ContainerSpec) -> runtime::Result<()> {
        match self.runtime.create(spec).await {
            Err(runtime::Error::AlreadyExists { .. }) => {
                self.runtime.remove(&spec.id).await?;
                self.runtime.create(spec).await
            }
            result => result,
        }
    }

    async fn spec(
        &self,
        launch: &Launch,
        container: &Container,
    ) -> Result<runtime::ContainerSpec, String> {
        let pod = &*launch.pod;
        let found = self.volumes.found(pod).await?;
        let place = self.place(&launch.addresses.borrow());
        let services = self.services_of(pod);
        let variables = env::variables(
            container,
            &env::Sources {
                pod,
                place: &place,
                found: &found,
                services: &services,
            },
        )?;
        let seccomp = self.config.data_dir.join("agent/seccomp");
        let security = security::security(pod, container, &launch.image.config, &seccomp)?;
        let mounts = self.mounts(pod, container, (launch.attempt, &variables))?;
        translate::container(translate::Recipe {
            pod,
            container,
            attempt: launch.attempt,
            image: &launch.image,
            variables: &variables,
            security,
            mounts,
            namespaces: &launch.namespaces,
            log: self.folders.log(pod, &container.name, launch.attempt),
            cgroup_root: &self.config.cgroup_root,
            memory_bytes: self.machine.memory_bytes,
            boot: &self.machine.boot,
            hostname: &files::hostname(pod, &self.host()),
        })
    }

    fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        (attempt, variables): (u32, &std::collections::BTreeMap<String, String>),
    ) -> Result<Vec<Mount>, String> {
        let mut mounts = Vec::new();
        for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let source = self.mount_source(pod, container, (at, mount), variables)?;
            let is_read_only = mount.read_only == Some(true) || is_always_read_only(pod, mount);
            mounts.push(translate::volume(mount, source, is_read_only));
        }
        let folder = self.folders.pod(uid(pod));
        let mut own = vec![
            (folder.join("hosts"), PathBuf::from("/etc/hosts")),
            (folder.join("hostname"), PathBuf::from("/etc/hostname")),
            (
                folder.join("resolv.conf"),
                PathBuf::from("/etc/resolv.conf"),
            ),
        ];
        if is_host_ipc(pod) {
            own.push(("/dev/shm".into(), "/dev/shm".into()));
        } else if spans_containers(pod) {
            own.push((folder.join("shm"), "/dev/shm".into()));
        }
        let log = self
            .folders
            .termination_log(uid(pod), &container.name, attempt);
        make_termination_log(&log).map_err(|error| format!("make {}: {error}", log.display()))?;
        own.push((log, translate::termination_path(container).to_owned()));
        for (source, destination) in own {
            if !mounts.iter().any(|mount| mount.destination == destination) {
                mounts.push(translate::bind(source, destination));
            }
        }
        Ok(mounts)
    }

    fn mount_source(
        &self,
        pod: &Pod,
        container: &Container,
        (at, mount): (usize, &VolumeMount),
        variables: &std::collections::BTreeMap<String, String>,
    ) -> Result<PathBuf, String> {
        let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
        let below = if expression.is_empty() {
            mount.sub_path.clone().unwrap_or_default()
        } else {
            let known = |name: &str| variables.get(name).cloned();
            super::expand::expand(expression, known)
        };
        if below.is_empty() {
            let path = self.volumes.path(pod, &mount.name);
            return path.ok_or_else(|| format!("volume \"{}\" not found", mount.name));
        }
        self.volumes
            .bind_sub_path(pod, (&mount.name, &below), (&container.name, at))
    }

    /// Rewrites `/etc/hosts` in place: containers have bound the file itself.
    pub(crate) fn write_hosts(&self, pod: &Pod, addresses: &[IpAddr]) {
        let path = self.folders.pod(uid(pod)).join("hosts");
        let content = files::hosts(pod, &self.host(), addresses);
        if std::fs::read_to_string(&path).is_ok_and(|before| before == content) {
            return;
        }
        std::fs::write(path, content).ok_or_log("write the hosts file of a pod");
    }

    /// Removes a container that has ended.
    pub(crate) async fn remove(self: Arc<Self>, container: String, id: String) -> Outcome {
        let removed = self.runtime.remove(&id).await;
        self.pleg.refresh(&id).await;
        Outcome::Removed {
            container,
            id,
            result: removed.map_err(|error| chain(&error)),
        }
    }

    /// Takes down volumes, network, namespaces and cgroup; goes on past failures and reports the
    /// first.
    pub(crate) async fn tear_down(self: Arc<Self>, pod: Arc<Pod>, forget: bool) -> Outcome {
        let uid = uid(&pod).to_owned();
        let mut first = Ok(());
        let mut note = |result: Result<(), String>| {
            if first.is_ok() {
                first = result;
            }
        };
        if has_network(&pod) {
            let detached = self.network.detach(&uid).await;
            note(detached.map_err(|error| chain(&error)));
        }
        if has_namespaces(&pod) {
            self.release_processes(&uid).await;
            let unpinned = self.network.unpin(&self.folders.namespaces(&uid)).await;
            note(unpinned.map_err(|error| chain(&error)));
        }
        note(self.remove_folders(&uid).await);
        note(
            self.cgroups
                .tear_down(&uid)
                .map_err(|e| format!("remove cgroup: {e}")),
        );
        if forget {
            let logs = self.folders.pod_logs(&pod);
            let folder = self.folders.pod(&uid);
            for path in [logs, folder] {
                match std::fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        note(Err(format!("remove {}: {error}", path.display())));
                    }
                    _ => {}
                }
            }
        }
        Outcome::TornDown(first)
    }

    /// Volumes may hold much: off the async threads.
    async fn remove_folders(&self, uid: &str) -> Result<(), String> {
        let volumes = self.volumes.clone();
        let owned = uid.to_owned();
        let removed = tokio::task::spawn_blocking(move || volumes.tear_down(&owned)).await;
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("remove volumes: {error}")),
            Err(error) => Err(format!("remove volumes: {error}")),
        }
    }

    /// Deletes the pod from the API, unless another one of its name is there by now.
    pub(crate) async fn delete(self: Arc<Self>, pod: Arc<Pod>) -> Outcome {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api = self.client.namespaced::<Pod>(namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::uid(uid(&pod))
        };
        let deleted = api
            .delete(meta.name.as_deref().unwrap_or_default(), &params)
            .await;
        Outcome::Deleted(match deleted {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(chain(&error)),
            _ => Ok(()),
        })
    }
}

/// Waits until the pod has addresses, where it gets some.
async fn addresses(launch: &Launch) -> Result<(), NotLaunched> {
    if !has_network(&launch.pod) {
        return Ok(());
    }
    let mut addresses = launch.addresses.clone();
    tokio::select! {
        given = addresses.wait_for(|list| !list.is_empty()) => {
            given.map(drop).map_err(|_| NotLaunched::Cancelled)
        }
        () = launch.cancel.cancelled() => Err(NotLaunched::Cancelled),
    }
}

/// A failure of the runtime as users know it: `step: cause`.
fn plain(error: &runtime::Error) -> String {
    match error {
        runtime::Error::Failed { doing, why, .. } => format!("{doing}: {why}"),
        other => chain(other),
    }
}

/// Whether a failed create counts as a start that failed: the OCI runtime said no.
fn not_created(error: &runtime::Error) -> NotLaunched {
    match error {
        runtime::Error::Failed { doing, .. } if doing.contains("task") => {
            NotLaunched::StartFailed(plain(error))
        }
        other => NotLaunched::Retry("CreateContainerError", plain(other)),
    }
}

/// The ports of the host that lead to the pod.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = crate::api::pod::host_ports(pod).into_iter();
    ports
        .filter_map(|port| {
            let address: Option<IpAddr> = port.address.parse().ok();
            Some(HostPort {
                host_ip: address.filter(|address| !address.is_unspecified()),
                host_port: u16::try_from(port.port).ok()?,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol,
            })
        })
        .collect()
}

fn is_host_ipc(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_ipc) == Some(true)
}

/// Several containers run side by side, so that they can share memory.
fn spans_containers(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| crate::api::pod::long_running(spec).count() > 1)
}

/// Volumes made of objects are never written by containers.
fn is_always_read_only(pod: &Pod, mount: &VolumeMount) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    let volume = volumes
        .unwrap_or_default()
        .iter()
        .find(|volume| volume.name == mount.name);
    volume.is_some_and(payload::is_payload)
}

fn make_termination_log(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, b"")?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// The id of the attempt.
pub(crate) fn id_of(pod: &Pod, container: &str, attempt: u32) -> String {
    names::container_id(uid(pod), container, attempt)
}
