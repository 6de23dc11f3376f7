//! What a worker knows of its pod between two laps. `plan` and `status` only read it; outcomes of
//! actions and looks at the runtime change it.
//!
//! Nothing here must survive the agent: all of it is found again from the runtime's containers and
//! their labels, the network's addresses and the pod's own last status.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::agent::probe::Report;
use crate::agent::seam::PinnedNamespaces;
use crate::runtime::{ContainerState, Exit, Image, Phase};

use super::names;
use super::restart::{self, CrashLoop};

/// Why and how often a step failed, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// As in `ContainerStateWaiting.reason`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Failures in a row.
    pub(crate) count: u32,
    pub(crate) at: Timestamp,
    pub(crate) retry_at: Timestamp,
}

/// How far a step is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Progress<T> {
    /// To be done, or done again.
    #[default]
    Idle,
    /// An action is at it.
    Busy,
    /// This came out.
    Done(T),
}

/// A step that may fail and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step<T> {
    pub(crate) progress: Progress<T>,
    /// The last failure; kept while it is tried again, gone with a success.
    pub(crate) failure: Option<Failure>,
}

impl<T> Default for Step<T> {
    fn default() -> Self {
        Self {
            progress: Progress::Idle,
            failure: None,
        }
    }
}

impl<T> Step<T> {
    pub(crate) fn done(&self) -> Option<&T> {
        match &self.progress {
            Progress::Done(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.progress, Progress::Busy)
    }

    /// Whether it is to be started now.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        matches!(self.progress, Progress::Idle)
            && self.failure.as_ref().is_none_or(|f| f.retry_at <= now)
    }

    /// When it is to be tried again, where it waits for that.
    pub(crate) fn retry_at(&self) -> Option<Timestamp> {
        match self.progress {
            Progress::Idle => self.failure.as_ref().map(|f| f.retry_at),
            _ => None,
        }
    }

    /// Tries a failed step again at once.
    pub(crate) fn hurry(&mut self, now: Timestamp) {
        if let Some(failure) = &mut self.failure {
            failure.retry_at = failure.retry_at.min(now);
        }
    }

    pub(crate) fn begin(&mut self) {
        self.progress = Progress::Busy;
    }

    pub(crate) fn succeed(&mut self, value: T) {
        self.progress = Progress::Done(value);
        self.failure = None;
    }

    pub(crate) fn fail(&mut self, what: (&'static str, String), retry: Retry, now: Timestamp) {
        let count = self.failure.as_ref().map_or(0, |f| f.count) + 1;
        let delay = retry(count);
        self.progress = Progress::Idle;
        self.failure = Some(Failure {
            reason: what.0,
            message: what.1,
            count,
            at: now,
            retry_at: now.saturating_add(delay).unwrap_or(now),
        });
    }
}

/// The delay after so many failures in a row.
pub(crate) type Retry = fn(u32) -> SignedDuration;

/// One attempt of a container as the runtime has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    /// The image as the pod named it then.
    pub(crate) image: String,
    pub(crate) image_name: String,
    pub(crate) image_id: String,
    /// Made before the machine was started last: its namespaces and mounts are gone.
    pub(crate) from_earlier_boot: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) phase: Phase,
    /// Why its start failed: there is no such container in the runtime.
    pub(crate) start_error: Option<String>,
}

impl Instance {
    /// The container's name and the instance; `None` where the labels are not ours.
    pub(crate) fn from_runtime(state: &ContainerState, boot: &str) -> Option<(String, Self)> {
        let label = |name: &str| state.labels.get(name).cloned().unwrap_or_default();
        let container = state.labels.get(names::CONTAINER_NAME)?.clone();
        let instance = Self {
            id: state.id.clone(),
            attempt: label(names::RESTART_COUNT).parse().ok()?,
            image: label(names::IMAGE),
            image_name: label(names::IMAGE_NAME),
            image_id: label(names::IMAGE_ID),
            from_earlier_boot: label(names::BOOT) != boot,
            created_at: state.created_at,
            started_at: state.started_at,
            phase: state.phase.clone(),
            start_error: None,
        };
        Some((container, instance))
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// How it ended, where it has. One of which the runtime knows nothing any more counts as
    /// killed.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match &self.phase {
            Phase::Exited(exit) => Some(exit.clone()),
            Phase::Unknown => Some(Exit {
                code: 137,
                at: self.started_at.unwrap_or(self.created_at),
                oom_killed: false,
            }),
            Phase::Created if self.from_earlier_boot => Some(Exit {
                code: 137,
                at: self.created_at,
                oom_killed: false,
            }),
            Phase::Created | Phase::Running { .. } => None,
        }
    }
}

/// The namespaces the pod's containers join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// Network, IPC and host name; `None` where the pod has the host's.
    pub(crate) pinned: Option<PinnedNamespaces>,
    /// The process namespace they share, where they do.
    pub(crate) processes: Option<PathBuf>,
}

/// Where the hook after a start is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hook {
    /// There is none, or it has ended well.
    #[default]
    Over,
    /// It runs for this container id.
    Running(String),
    /// It failed for this container id.
    Failed(String),
}

/// What a worker knows of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerMemory {
    /// Attempts that the runtime still has, oldest first.
    pub(crate) instances: Vec<Instance>,
    /// The image of the next attempt.
    pub(crate) image: Step<Arc<Image>>,
    /// Making and starting the next attempt.
    pub(crate) launch: Step<()>,
    pub(crate) hook: Hook,
    /// The id being stopped and when it is killed.
    pub(crate) stopping: Option<(String, Timestamp)>,
    pub(crate) crash: Option<CrashLoop>,
    pub(crate) probed: Report,
    /// Ids of which the removal is under way.
    pub(crate) removing: BTreeSet<String>,
    /// What each ended attempt left as a message.
    pub(crate) messages: BTreeMap<String, String>,
}

impl ContainerMemory {
    /// The newest attempt.
    pub(crate) fn current(&self) -> Option<&Instance> {
        self.instances.last()
    }

    /// The newest attempt, where it runs.
    pub(crate) fn running(&self) -> Option<&Instance> {
        self.current().filter(|instance| instance.is_running())
    }

    /// The newest attempt of this boot.
    pub(crate) fn of_this_boot(&self) -> Option<&Instance> {
        self.current().filter(|i| !i.from_earlier_boot)
    }

    /// Runs, its hook has ended, and its startup probe, if any, succeeded.
    pub(crate) fn is_started(&self) -> bool {
        self.running().is_some_and(|running| {
            self.hook == Hook::Over && self.probed.id == running.id && self.probed.started
        })
    }
}

/// Why the agent ended a pod for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What a worker knows of its pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) namespaces: Step<Namespaces>,
    pub(crate) addresses: Step<Vec<IpAddr>>,
    pub(crate) volumes: Step<()>,
    /// When volumes must be refreshed without anything having changed (tokens).
    pub(crate) refresh_at: Option<Timestamp>,
    pub(crate) containers: BTreeMap<String, ContainerMemory>,
    /// The agent itself ended the pod.
    pub(crate) ended: Option<Ended>,
    /// When the end began.
    pub(crate) ending_since: Option<Timestamp>,
    pub(crate) teardown: Step<()>,
    pub(crate) delete: Step<()>,
    /// The last status has been taken by the server.
    pub(crate) is_reported: bool,
}

impl Memory {
    /// An empty memory with a place for each container.
    pub(crate) fn of(pod: &Pod) -> Self {
        let mut memory = Self::default();
        for (_, container) in restart::containers(pod) {
            memory.containers.entry(container.name.clone()).or_default();
        }
        memory
    }

    /// Takes over what the runtime has of the pod. Attempts whose start failed are kept until a
    /// newer one exists.
    pub(crate) fn observe(&mut self, states: &[ContainerState], boot: &str) {
        let mut seen: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        for state in states {
            if let Some((name, instance)) = Instance::from_runtime(state, boot) {
                seen.entry(name).or_default().push(instance);
            }
        }
        for (name, container) in &mut self.containers {
            let mut found = seen.remove(name).unwrap_or_default();
            let failed = container.instances.drain(..);
            found.extend(failed.filter(|i| i.start_error.is_some()));
            found.sort_by_key(|instance| instance.attempt);
            container.instances = found;
            container.settle();
        }
        // A container that is not of the pod (any more) is only there to be removed.
        for (name, instances) in seen {
            self.containers.entry(name).or_default().instances = instances;
        }
    }

    /// Whether any container runs or may be started by an action under way.
    pub(crate) fn is_alive(&self) -> bool {
        self.containers
            .values()
            .any(|c| c.launch.is_busy() || c.instances.iter().any(Instance::is_running))
    }
}

impl ContainerMemory {
    /// Drops what refers to attempts that are no longer the newest, or no longer run.
    fn settle(&mut self) {
        let running = self.running().map(|i| i.id.clone());
        if let Some((id, _)) = &self.stopping
            && !self.instances.iter().any(|i| i.id == *id && i.is_running())
        {
            self.stopping = None;
        }
        let stale = match &self.hook {
            Hook::Over => false,
            Hook::Running(id) | Hook::Failed(id) => running.as_ref() != Some(id),
        };
        if stale {
            self.hook = Hook::Over;
        }
        let newest = self.current().map_or(0, |i| i.attempt);
        self.instances
            .retain(|i| i.start_error.is_none() || i.attempt + 1 >= newest);
        let ids: BTreeSet<&String> = self.instances.iter().map(|i| &i.id).collect();
        self.removing.retain(|id| ids.contains(id));
        self.messages.retain(|id, _| ids.contains(id));
        let recovered = self
            .current()
            .filter(|i| self.crash.is_none() && i.attempt > 0 && i.start_error.is_none())
            .and_then(|i| CrashLoop::recovered(i.attempt, i.started_at.unwrap_or(i.created_at)));
        if recovered.is_some() {
            self.crash = recovered;
        }
    }
}
