//! The scheduler's only writes: bindings, the `PodScheduled` condition and `nominatedNodeName` of
//! pods that fit nowhere, the end of those that make room, and events about all of it.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::client::{self, Client, DeleteParams, Error, Patch, Recorder, Result};
use crate::util::{clock::Clock, errors::chain};

use super::SCHEDULER;
use super::pod::PodInfo;
use super::preempt::BY_SCHEDULER;
use super::volumes::{SELECTED_NODE, Step};

/// Victims of one preemption that are ended at the same time.
const ENDED_AT_ONCE: usize = 8;

/// What becomes of a refused pod's `nominatedNodeName`.
#[derive(Clone, Debug)]
pub(crate) enum Nominate {
    /// It stays as it is.
    Keep,
    /// Room is being made here.
    Node(Arc<str>),
    /// There is nothing to wait for.
    Nowhere,
}

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

    /// Says that `pod` fits nowhere and why, and where room is made. The status is written only
    /// where it says something else already.
    pub(crate) async fn refuse(&self, pod: Arc<PodInfo>, message: String, nominate: Nominate) {
        let about = client::reference(&*pod.pod);
        self.recorder
            .warning(&about, "FailedScheduling", message.clone());
        let nominated = match nominate {
            Nominate::Keep => None,
            Nominate::Node(node) => Some(json!(&*node)),
            Nominate::Nowhere => pod.nominated_node().map(|_| Value::Null),
        };
        if nominated.is_none() && says_already(&pod.pod, &message) {
            return;
        }
        let now = Time(self.clock.now());
        let mut status = json!({"conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": message, "lastTransitionTime": now,
            "observedGeneration": pod.pod.metadata.generation}]});
        if let Some(nominated) = nominated {
            status["nominatedNodeName"] = nominated;
        }
        self.patch_status(&pod, status).await;
    }

    /// `pod` does not wait for its node any more.
    pub(crate) async fn denominate(&self, pod: &PodInfo) {
        let status = json!({"nominatedNodeName": null});
        self.patch_status(pod, status).await;
    }

    /// Ends `victims`, so that `pod` has room on `node`. `false`: not all of them could be ended.
    pub(crate) async fn preempt(
        &self,
        pod: &PodInfo,
        node: &str,
        victims: &[Arc<PodInfo>],
    ) -> bool {
        let all = victims.iter().map(|victim| self.end(pod, node, victim));
        let all = stream::iter(all.collect::<Vec<_>>()).buffer_unordered(ENDED_AT_ONCE);
        let ended: Vec<_> = all.collect().await;
        ended.iter().all(|ended| *ended)
    }

    async fn end(&self, pod: &PodInfo, node: &str, victim: &PodInfo) -> bool {
        let now = Time(self.clock.now());
        let text = format!("{SCHEDULER}: preempting to accommodate a higher priority pod");
        let status = json!({"conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": BY_SCHEDULER, "message": text, "lastTransitionTime": now,
            "observedGeneration": victim.pod.metadata.generation}]});
        if !self.patch_status(victim, status).await {
            return false;
        }
        let pods = self.client.namespaced::<Pod>(&victim.key.namespace);
        let only = DeleteParams::uid(&victim.uid);
        match pods.delete(&victim.key.name, &only).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => return true,
            Err(error) => {
                tracing::warn!(pod = %victim.key, error = %chain(&error), "victim not ended");
                return false;
            }
        }
        let about = client::reference(&*victim.pod);
        let text = format!("Preempted by pod {} on node {node}", pod.uid);
        self.recorder.normal(&about, "Preempted", text);
        true
    }

    /// Writes what volumes a pod's claims are to have on `node`. `false`: not all of it could be
    /// written, and the pod is to be decided for again.
    pub(crate) async fn prepare(&self, pod: &PodInfo, node: &str, steps: &[Step]) -> bool {
        for step in steps {
            let written = match step {
                Step::Wait => Ok(()),
                Step::Provision(claim) => self.select_node(claim, node).await,
                Step::Take(volume, claim) => self.take(volume, claim).await,
            };
            if let Err(error) = written {
                tracing::warn!(pod = %pod.key, error = %chain(&error), "volumes not chosen");
                return false;
            }
        }
        true
    }

    async fn select_node(&self, claim: &PersistentVolumeClaim, node: &str) -> Result<()> {
        let key = client::key_of(&claim.metadata);
        let patch = Patch::Merge(json!({"metadata": {
            "resourceVersion": claim.metadata.resource_version,
            "annotations": {SELECTED_NODE: node}}}));
        let claims = self
            .client
            .namespaced::<PersistentVolumeClaim>(&key.namespace);
        claims.patch(&key.name, &patch).await.map(drop)
    }

    async fn take(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<()> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version,
                "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": client::reference(claim)}}));
        let volumes = self.client.all::<PersistentVolume>();
        volumes.patch(name, &patch).await.map(drop)
    }

    /// `false`: it could not be written. A pod that is gone needs no status.
    async fn patch_status(&self, pod: &PodInfo, status: Value) -> bool {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
        let pods = self.client.namespaced::<Pod>(&pod.key.namespace);
        match pods.patch_status(&pod.key.name, &patch).await {
            Ok(_) => true,
            Err(error) if error.is_not_found() || error.is_conflict() => true,
            Err(error) => {
                tracing::warn!(pod = %pod.key, error = %chain(&error), "status not written");
                false
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
