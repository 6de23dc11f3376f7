//! Removes pods that nobody else would: those of nodes that are gone, those that were deleted
//! before they had a node, and the oldest ended ones when there are too many.
//!
//! Writes: deletes pods at once, after marking orphaned ones Failed, as upstream's
//! `pkg/controller/podgc`. A node that has just gone gets a while to come back.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::api::{meta, object::ObjectKey, pod};
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, DeleteParams, Patch, Queue, Result, key_of};
use crate::util::clock::Clock;

use super::Setup;

const WORKERS: usize = 2;
/// How long a node may be gone before its pods are removed (upstream's quarantine).
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods that are kept (upstream's `--terminated-pod-gc-threshold`).
const ENDED_MAX: usize = 12_500;
/// Key of the one unit of work that is no node.
const ENDED: &str = "";
const BY_NODE: &str = "pod-gc-node";
const BY_END: &str = "pod-gc-ended";

struct PodGc {
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    client: Client,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let (pods, nodes) = (
        setup.informers.cache::<Pod>(),
        setup.informers.cache::<Node>(),
    );
    pods.index(BY_NODE, |pod| vec![pod::node_name(pod).to_owned()]);
    pods.index(BY_END, |pod| {
        if pod::is_terminal(pod) {
            vec![ENDED.into()]
        } else {
            Vec::new()
        }
    });
    let queue: Queue<ObjectKey> = Queue::new();
    let gone = queue.clone();
    nodes.on_change(move |change| {
        if change.new.is_none() {
            gone.add_after(change.key(), QUARANTINE);
        }
    });
    let (changed, known) = (queue.clone(), nodes.clone());
    pods.on_change(move |change| {
        let Some(pod) = &change.new else { return };
        let node = pod::node_name(pod);
        let key = ObjectKey::cluster(node);
        if !node.is_empty() && known.get(&key).is_none() {
            changed.add_after(key, QUARANTINE);
        } else if pod::is_terminal(pod) || (node.is_empty() && pod::is_terminating(pod)) {
            changed.add(ObjectKey::cluster(ENDED));
        }
    });
    let controller = PodGc {
        pods: pods.clone(),
        nodes: nodes.clone(),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        pods.synced().await;
        nodes.synced().await;
    });
}

impl Reconcile for PodGc {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "pod_gc"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        if key.name == ENDED {
            return self.remove_ended().await;
        }
        if self.nodes.get(key).is_some() {
            return Ok(Action::Done);
        }
        let pods = self.pods.by_index(BY_NODE, &key.name);
        // The cache may be behind: a node that registered a moment ago is there for sure.
        if pods.is_empty()
            || self
                .client
                .all::<Node>()
                .get_opt(&key.name)
                .await?
                .is_some()
        {
            return Ok(Action::Done);
        }
        for pod in pods {
            self.remove_orphan(&pod).await?;
        }
        Ok(Action::Done)
    }
}

impl PodGc {
    async fn remove_ended(&self) -> Result<Action> {
        let unbound = self.pods.by_index(BY_NODE, "");
        for pod in unbound.iter().filter(|pod| pod::is_terminating(pod)) {
            self.remove(pod).await?;
        }
        for pod in surplus(self.pods.by_index(BY_END, ENDED), ENDED_MAX) {
            self.remove(&pod).await?;
        }
        Ok(Action::Done)
    }

    async fn remove_orphan(&self, pod: &Pod) -> Result<()> {
        if !pod::is_terminal(pod) {
            let key = key_of(&pod.metadata);
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {
                "phase": "Failed",
                "conditions": [{
                    "type": "DisruptionTarget", "status": "True",
                    "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists",
                    "lastTransitionTime": crate::api::time::seconds(self.clock.now()),
                }],
            }});
            let api = self.client.namespaced::<Pod>(&key.namespace);
            match api.patch_status(&key.name, &Patch::Strategic(patch)).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        self.remove(pod).await
    }

    async fn remove(&self, pod: &Pod) -> Result<()> {
        let key = key_of(&pod.metadata);
        let params = DeleteParams {
            uid: pod.metadata.uid.clone(),
            ..DeleteParams::now()
        };
        match self
            .client
            .namespaced::<Pod>(&key.namespace)
            .delete(&key.name, &params)
            .await
        {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

/// The oldest of `ended` beyond `most`.
fn surplus(mut ended: Vec<Arc<Pod>>, most: usize) -> Vec<Arc<Pod>> {
    let surplus = ended.len().saturating_sub(most);
    if surplus == 0 {
        return Vec::new();
    }
    ended.sort_by_key(|pod| {
        let made = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (made, meta::name(&pod.metadata).to_owned())
    });
    ended.truncate(surplus);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ended_pods_beyond_the_limit_go() {
        let pod = |name: &str, at: &str| {
            let value = json!({"metadata": {"name": name, "creationTimestamp": at}});
            Arc::new(serde_json::from_value::<Pod>(value).unwrap())
        };
        let pods = vec![
            pod("new", "2026-01-03T00:00:00Z"),
            pod("old", "2026-01-01T00:00:00Z"),
            pod("mid", "2026-01-02T00:00:00Z"),
        ];
        let names = |most| -> Vec<String> {
            surplus(pods.clone(), most)
                .iter()
                .map(|p| meta::name(&p.metadata).to_owned())
                .collect()
        };
        assert_eq!(names(1), ["old", "mid"]);
        assert!(names(3).is_empty());
    }
}
