//! The scheduler's only writes: bindings, the `PodScheduled` condition of pods that fit nowhere,
//! and events about both.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;

use crate::client::{self, Client, Error, Patch, Recorder, Result};
use crate::util::{clock::Clock, errors::chain};

use super::pod::PodInfo;

/// Writes what was decided. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Binder {
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

impl Binder {
    pub(crate) fn new(client: Client, recorder: Recorder, clock: Clock) -> Self {
        Self {
            client,
            recorder,
            clock,
        }
    }

    /// Binds `pod` to `node`. `false`: it was not bound, and is to be tried again where it still
    /// waits.
    pub(crate) async fn bind(&self, pod: &PodInfo, node: &str) -> bool {
        match self.try_bind(pod, node).await {
            Ok(()) => {
                let text = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder
                    .normal(&client::reference(&*pod.pod), "Scheduled", text);
                true
            }
            Err(error) => {
                self.report(pod, &error);
                false
            }
        }
    }

    async fn try_bind(&self, pod: &PodInfo, node: &str) -> Result<()> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.key.name.clone()),
                namespace: Some(pod.key.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let pods = self.client.namespaced::<Pod>(&pod.key.namespace);
        pods.bind(&pod.key.name, &binding).await
    }

    fn report(&self, pod: &PodInfo, error: &Error) {
        // Gone, or bound by somebody else meanwhile: the watch tells.
        if error.is_not_found() || error.is_conflict() {
            tracing::debug!(pod = %pod.key, error = %chain(error), "not bound");
            return;
        }
        tracing::warn!(pod = %pod.key, error = %chain(error), "binding failed");
        let text = format!("binding rejected: {}", chain(error));
        self.recorder
            .warning(&client::reference(&*pod.pod), "FailedScheduling", text);
    }

    /// Says that `pod` fits nowhere and why. The condition is written only where it says
    /// something else already.
    pub(crate) async fn refuse(&self, pod: Arc<PodInfo>, message: String) {
        let about = client::reference(&*pod.pod);
        self.recorder
            .warning(&about, "FailedScheduling", message.clone());
        if says_already(&pod.pod, &message) {
            return;
        }
        let now = Time(self.clock.now());
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": pod.uid},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": message, "lastTransitionTime": now,
                "observedGeneration": pod.pod.metadata.generation}]},
        }));
        let pods = self.client.namespaced::<Pod>(&pod.key.namespace);
        match pods.patch_status(&pod.key.name, &patch).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                tracing::warn!(pod = %pod.key, error = %chain(&error), "status not written");
            }
        }
    }
}

fn says_already(pod: &Pod, message: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.message.as_deref() == Some(message)
    })
}
