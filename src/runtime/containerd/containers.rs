//! A container from create to remove: record, writable layer, task.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use containerd_client::services::v1::container::Runtime as RuntimeRecord;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, KillRequest,
    StartRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_client::types::Mount;
use jiff::Timestamp;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use prost::Message;

use super::Containerd;
use super::channel::{LONG, Step, gone_is_fine};
use super::host;
use super::images::Known;
use super::records::{Details, Entry, Life};
use crate::runtime::log::LogArgs;
use crate::runtime::spec::{self, Facts, UserDb};
use crate::runtime::{ContainerSpec, Error, Phase, Resources, Result};
use crate::util::errors::OrLog;

/// Marks containers that are ours.
pub(super) const MANAGED_LABEL: &str = "orch.dev/managed";

/// Extension under which a container's details are kept.
pub(super) const DETAILS: &str = "orch.dev/details";

const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
const RUNTIME_NAME: &str = "io.containerd.runc.v2";

/// Containerd refuses labels whose key and value are longer than this together.
const LABEL_CHARS_MAX: usize = 4096;

/// Images whose users are kept in memory.
const USERS_MAX: usize = 256;

/// `containerd.runc.v1.Options`, the fields that are used.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
}

fn failed(doing: &'static str, id: &str, why: impl ToString) -> Error {
    Error::Failed {
        doing,
        id: id.to_owned(),
        why: why.to_string(),
    }
}

impl Containerd {
    pub(super) async fn create_container(&self, wanted: &ContainerSpec) -> Result<()> {
        let id = wanted.id.as_str();
        let _turn = self.changing.turn(id).await;
        if self.records.get(id).is_some() {
            return Err(Error::AlreadyExists {
                what: "container",
                id: id.to_owned(),
            });
        }
        let known = self.image_for(&wanted.image).await?;
        let facts = self.facts(wanted, &known).await?;
        let oci = spec::build(wanted, &facts).map_err(|e| failed("create container", id, e))?;
        let details = Details {
            image: wanted.image.clone(),
            labels: wanted.labels.clone(),
            cgroup: wanted.cgroup.clone(),
            log: wanted.log.clone(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdin_once: wanted.stdin_once,
        };
        self.make_folder(id, &details)
            .map_err(|e| failed("make the folder of container", id, e))?;
        let oci = serde_json::to_vec(&oci).map_err(|e| failed("create container", id, e))?;
        let made = self.make(id, &details, oci, known.chain_id()).await;
        let created_at = match made {
            Ok(at) => at,
            Err(error) => {
                let exists = matches!(error, Error::AlreadyExists { .. });
                if !exists {
                    self.take_apart(id)
                        .await
                        .ok_or_log("remove a half-made container");
                }
                return Err(error);
            }
        };
        self.records.insert(
            id,
            Entry {
                details,
                created_at,
                started_at: None,
                phase: Phase::Created,
            },
        );
        self.hub.container(id);
        Ok(())
    }

    /// The image a container is made of; it must be present and unpacked.
    async fn image_for(&self, reference: &str) -> Result<Arc<Known>> {
        let missing = || Error::NotFound {
            what: "image",
            id: reference.to_owned(),
        };
        let image = self.find_image(reference).await?.ok_or_else(missing)?;
        self.known(&image.digest).await?.ok_or_else(missing)
    }

    async fn facts(&self, wanted: &ContainerSpec, known: &Known) -> Result<Facts> {
        let privileged = wanted.security.privileged;
        let seccomp = match &wanted.security.seccomp_profile {
            None => None,
            Some(path) => Some(read_profile(path)?),
        };
        Ok(Facts {
            image: known.config.clone(),
            users: (*self.users_of(known.chain_id()).await?).clone(),
            devices: host::devices(&wanted.devices, privileged)?,
            oom_score_adj_min: self.host.oom_score_adj_min,
            cgroup_v2: self.host.cgroup_v2,
            swap_accounting: self.host.swap_accounting,
            seccomp,
        })
    }

    /// The users and groups in an image, read once.
    async fn users_of(&self, chain_id: &str) -> Result<Arc<UserDb>> {
        if let Some(users) = self.users.lock().get(chain_id) {
            return Ok(users.clone());
        }
        let users = if chain_id.is_empty() {
            UserDb::default()
        } else {
            let key = format!("orch-view-{}", uuid::Uuid::new_v4());
            let mounts = self.view(&key, chain_id).await?;
            let files = super::rootfs::read_users(&self.records.scratch_folder(), &mounts).await;
            self.remove_snapshot(&key)
                .await
                .ok_or_log("remove a look into an image");
            files.map_err(|e| failed("read the users of image", chain_id, e))?
        };
        let users = Arc::new(users);
        let mut all = self.users.lock();
        if all.len() >= USERS_MAX {
            all.clear();
        }
        all.insert(chain_id.to_owned(), users.clone());
        Ok(users)
    }

    fn make_folder(&self, id: &str, details: &Details) -> std::io::Result<()> {
        let folder = self.records.folder_of(id);
        std::fs::create_dir_all(&folder)?;
        if let Some(parent) = details.log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut fifos = Vec::new();
        if details.stdin {
            fifos.push("stdin");
            if !details.tty {
                fifos.extend(["stdout", "stderr"]);
            }
        }
        for name in fifos {
            let path = folder.join(name);
            // A create that failed before may have left one.
            let _ = std::fs::remove_file(&path);
            mkfifo(&path, Mode::from_bits_truncate(0o600))?;
        }
        Ok(())
    }

    /// Record, layer, task.
    async fn make(
        &self,
        id: &str,
        details: &Details,
        oci: Vec<u8>,
        chain_id: &str,
    ) -> Result<Timestamp> {
        let created_at = self.make_record(id, details, oci).await?;
        let mounts = self.prepare_root(id, chain_id).await?;
        self.make_task(id, details, mounts).await?;
        Ok(created_at)
    }

    async fn make_record(&self, id: &str, details: &Details, oci: Vec<u8>) -> Result<Timestamp> {
        let extension = prost_types::Any {
            type_url: "orch.dev/details.v1".to_owned(),
            value: serde_json::to_vec(details).map_err(|e| failed("create container", id, e))?,
        };
        let options = (!self.config.oci_runtime.is_empty()).then(|| prost_types::Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: RuncOptions {
                binary_name: self.config.oci_runtime.clone(),
            }
            .encode_to_vec(),
        });
        let request = self.link.request(CreateContainerRequest {
            container: Some(Container {
                id: id.to_owned(),
                labels: labels(details),
                image: details.image.clone(),
                runtime: Some(RuntimeRecord {
                    name: RUNTIME_NAME.to_owned(),
                    options,
                }),
                spec: Some(prost_types::Any {
                    type_url: SPEC_TYPE.to_owned(),
                    value: oci,
                }),
                snapshotter: self.config.snapshotter.clone(),
                snapshot_key: id.to_owned(),
                extensions: HashMap::from([(DETAILS.to_owned(), extension)]),
                ..Container::default()
            }),
        });
        let step = Step::container("create container", id);
        let made = self
            .link
            .run(step, self.link.containers().create(request))
            .await?;
        Ok(made
            .container
            .and_then(|container| container.created_at)
            .map_or_else(|| self.clock.now(), super::events::timestamp))
    }

    async fn make_task(&self, id: &str, details: &Details, rootfs: Vec<Mount>) -> Result<()> {
        let folder = self.records.folder_of(id);
        let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let by_fifo = details.stdin && !details.tty;
        let (stdout, stderr) = if by_fifo {
            self.start_logger(id, details)?;
            (path("stdout"), path("stderr"))
        } else {
            let uri = self.log_args(id, details).uri(&self.config.log_program);
            // With a terminal the shim wants no standard error.
            (uri.clone(), if details.tty { String::new() } else { uri })
        };
        let request = self.link.request(CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdin: if details.stdin {
                path("stdin")
            } else {
                String::new()
            },
            stdout,
            stderr,
            terminal: details.tty,
            ..CreateTaskRequest::default()
        });
        let step = Step::container("failed to create containerd task", id).limit(LONG);
        self.link
            .run(step, self.link.tasks().create(request))
            .await
            .map(|_| ())
    }

    pub(super) fn log_args(&self, id: &str, details: &Details) -> LogArgs {
        let folder = self.records.folder_of(id);
        LogArgs {
            fifos: (details.stdin && !details.tty).then(|| folder.clone()),
            attach: folder,
            log: details.log.clone(),
        }
    }

    /// Starts the log program of a container with standard input, which the shim cannot start
    /// itself. It outlives us.
    fn start_logger(&self, id: &str, details: &Details) -> Result<()> {
        let child = tokio::process::Command::new(&self.config.log_program)
            .args(self.log_args(id, details).command())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn();
        child
            .map(|_| ())
            .map_err(|e| failed("start the log program of", id, e))
    }

    /// Starts the log program of a running container again where it died with us.
    pub(super) fn restore_log(&self, id: &str) {
        let Some(entry) = self.records.get(id) else {
            return;
        };
        let details = &entry.details;
        if details.stdin
            && !details.tty
            && !crate::runtime::log::is_alive(&self.records.folder_of(id))
        {
            self.start_logger(id, details)
                .ok_or_log("start a log program again");
        }
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<()> {
        let _turn = self.changing.turn(id).await;
        let Some(entry) = self.records.get(id) else {
            return Err(Error::NotFound {
                what: "container",
                id: id.to_owned(),
            });
        };
        if entry.phase != Phase::Created {
            return Err(failed("start container", id, "it was started before"));
        }
        // Before the call, because a short process ends before it returns.
        let now = self.clock.now();
        self.records
            .change(id, |entry| entry.started_at = Some(now));
        let life = Life {
            started_at: Some(now),
            ..Life::default()
        };
        self.records
            .write_life(id, &life)
            .ok_or_log("write down the start of a container");
        let request = self.link.request(StartRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        let step = Step::container("failed to start containerd task", id).limit(LONG);
        match self.link.run(step, self.link.tasks().start(request)).await {
            Ok(started) => self.records.change(id, |entry| {
                if entry.phase == Phase::Created {
                    entry.phase = Phase::Running { pid: started.pid };
                }
            }),
            Err(error) => {
                self.records.change(id, |entry| entry.started_at = None);
                self.records
                    .write_life(id, &Life::default())
                    .ok_or_log("take back the start of a container");
                return Err(error);
            }
        }
        self.hub.container(id);
        Ok(())
    }

    pub(super) async fn signal_container(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let Some(entry) = self.records.get(id) else {
            return Err(Error::NotFound {
                what: "container",
                id: id.to_owned(),
            });
        };
        if matches!(entry.phase, Phase::Exited(_)) {
            return Ok(());
        }
        self.kill(id, "", signal, all).await
    }

    /// A process that has ended is not an error: it may have ended a moment ago.
    pub(super) async fn kill(&self, id: &str, exec_id: &str, signal: i32, all: bool) -> Result<()> {
        let request = self.link.request(KillRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal: u32::try_from(signal).map_err(|e| failed("signal container", id, e))?,
            all,
        });
        let step = Step::container("signal container", id);
        gone_is_fine(self.link.run(step, self.link.tasks().kill(request)).await)
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<()> {
        let _turn = self.changing.turn(id).await;
        let runs = self
            .records
            .get(id)
            .is_none_or(|entry| !matches!(entry.phase, Phase::Exited(_)));
        if runs {
            self.end_task(id).await?;
        }
        self.take_apart(id).await?;
        self.hub.container(id);
        Ok(())
    }

    /// Kills whatever a task has and waits for its end.
    async fn end_task(&self, id: &str) -> Result<()> {
        self.kill(id, "", libc::SIGKILL, true).await?;
        let request = self.link.request(WaitRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        let step = Step::container("wait for the end of", id).limit(LONG);
        let mut tasks = self.link.tasks();
        let wait = tasks.wait(request);
        gone_is_fine(self.link.run(step, wait).await.map(|_| ()))
    }

    /// Removes task, record, layer and folder, each of which may be gone.
    async fn take_apart(&self, id: &str) -> Result<()> {
        self.delete_task(id).await?;
        let request = self
            .link
            .request(DeleteContainerRequest { id: id.to_owned() });
        let step = Step::container("remove container", id);
        gone_is_fine(
            self.link
                .run(step, self.link.containers().delete(request))
                .await,
        )?;
        self.remove_snapshot(id).await?;
        self.records
            .remove(id)
            .map_err(|e| failed("remove the folder of container", id, e))
    }

    pub(super) async fn update_container(&self, id: &str, wanted: &Resources) -> Result<()> {
        let resources = spec::resources(wanted, self.host.swap_accounting);
        let request = self.link.request(UpdateTaskRequest {
            container_id: id.to_owned(),
            resources: Some(prost_types::Any {
                type_url: RESOURCES_TYPE.to_owned(),
                value: serde_json::to_vec(&resources)
                    .map_err(|e| failed("update container", id, e))?,
            }),
            ..UpdateTaskRequest::default()
        });
        let step = Step::container("update container", id);
        self.link.run(step, self.link.tasks().update(request)).await
    }
}

/// Our mark, and the container's own labels for whoever looks with `ctr`; those that containerd
/// would refuse are only in the details.
fn labels(details: &Details) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = details
        .labels
        .iter()
        .filter(|(key, value)| key.len() + value.len() <= LABEL_CHARS_MAX && !key.is_empty())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(MANAGED_LABEL.to_owned(), "true".to_owned());
    labels
}

fn read_profile(path: &Path) -> Result<serde_json::Value> {
    let why = |why: String| failed("read seccomp profile", &path.display().to_string(), why);
    let json = std::fs::read(path).map_err(|e| why(e.to_string()))?;
    serde_json::from_slice(&json).map_err(|e| why(e.to_string()))
}
