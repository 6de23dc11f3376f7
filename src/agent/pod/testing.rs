//! What tests of the pod modules share: pods by their JSON, memories in a state.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use crate::agent::probe::Report;
use crate::runtime::{ContainerState, Exit, Image, Phase};

use super::names;
use super::plan::View;
use super::state::{Memory, Namespaces};

pub(crate) const BOOT: &str = "boot";

/// The time that tests count seconds from.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A pod `n/p` with uid `u` and this spec; containers need a name only.
pub(crate) fn pod(mut spec: Value) -> Pod {
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            if container.get("image").is_none() {
                container["image"] = json!("image");
            }
        }
    }
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "a", "image": "image"}]);
    }
    if spec["initContainers"].is_null() {
        spec.as_object_mut().unwrap().remove("initContainers");
    }
    let meta = json!({"name": "p", "namespace": "n", "uid": "u"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

/// The pod, deleted with this grace.
pub(crate) fn deleted(mut pod: Pod, grace: i64) -> Pod {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    pod.metadata.deletion_timestamp = Some(Time(at(grace)));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

/// An attempt of a container as the runtime shows it.
pub(crate) fn instance(container: &str, attempt: u32, phase: Phase) -> ContainerState {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let started = !matches!(phase, Phase::Created);
    ContainerState {
        id: format!("{container}{attempt}"),
        image: "image".to_owned(),
        labels: BTreeMap::from([
            label(names::CONTAINER_NAME, container),
            label(names::RESTART_COUNT, &attempt.to_string()),
            label(names::IMAGE, "image"),
            label(names::IMAGE_ID, "sha256:1"),
            label(names::BOOT, BOOT),
        ]),
        created_at: at(0),
        started_at: started.then(|| at(1)),
        phase,
    }
}

pub(crate) fn running() -> Phase {
    Phase::Running { pid: 7 }
}

pub(crate) fn exited(code: i32, second: i64) -> Phase {
    Phase::Exited(Exit {
        code,
        at: at(second),
        oom_killed: false,
    })
}

/// A pod in a state, to plan and to tell the status of.
pub(crate) struct Scene {
    pub(crate) pod: Pod,
    pub(crate) is_gone: bool,
    pub(crate) memory: Memory,
    pub(crate) before: PodStatus,
}

impl Scene {
    /// Namespaces, network, volumes and images are there.
    pub(crate) fn ready(pod: Pod) -> Self {
        let mut scene = Self::new(pod);
        let memory = &mut scene.memory;
        memory.namespaces.succeed(Namespaces::default());
        memory.addresses.succeed(vec!["10.0.0.2".parse().unwrap()]);
        memory.volumes.succeed(());
        for container in memory.containers.values_mut() {
            container.image.succeed(Arc::new(Image::default()));
        }
        scene
    }

    /// Nothing has been done.
    pub(crate) fn new(pod: Pod) -> Self {
        Self {
            memory: Memory::of(&pod),
            pod,
            is_gone: false,
            before: PodStatus::default(),
        }
    }

    /// The runtime has these; those that run are well.
    pub(crate) fn with(mut self, states: &[ContainerState]) -> Self {
        self.memory.observe(states, BOOT);
        for container in self.memory.containers.values_mut() {
            if let Some(id) = container.running().map(|i| i.id.clone()) {
                container.probed = Report {
                    id,
                    started: true,
                    ready: true,
                    failed: None,
                };
            }
        }
        self
    }

    pub(crate) fn view(&self, second: i64) -> View<'_> {
        View {
            pod: &self.pod,
            is_gone: self.is_gone,
            memory: &self.memory,
            before: &self.before,
            now: at(second),
        }
    }
}
