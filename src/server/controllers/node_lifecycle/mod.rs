//! Notices nodes that fell silent, says so in their conditions and taints, and marks their pods.
//!
//! Writes: of a node whose agent is silent `status.conditions` (to Unknown); of every node the
//! taints that follow from its conditions; of pods on nodes that are not ready the condition
//! `Ready` (to False).
//!
//! Terms. A *sign of life* is a renewed Lease in `kube-node-lease` or a status with a newer
//! heartbeat. Silence is measured from when *we* saw the last sign, by the monotonic clock: clocks
//! of machines are never compared, and a server that starts grants everybody the whole grace.
//!
//! A Lease that is renewed wakes nobody: it only moves the time of the last sign. Each node has one
//! deadline; when it passes and there was a sign meanwhile, there is a new deadline.
//!
//! Where nearly everything is silent it is more likely that we are cut off than that all are dead:
//! then nodes keep their pods (see [`plan::Disruption`]).

mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::api::{meta, object::ObjectKey, pod};
use crate::client::{
    self, Cache, Client, ListParams, Patch, Queue, Recorder, Result,
    controller::{Action, Reconcile},
};
use crate::util::clock::Clock;

use super::Setup;
use super::shared::{nodes, wire};

use plan::{Disruption, View};

const WORKERS: usize = 4;
/// Between two nodes of which the pods are driven out (`--node-eviction-rate` 0.1).
const EVICTION_INTERVAL: Duration = Duration::from_secs(10);

struct NodeLifecycle {
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    signs: Arc<Signs>,
    /// When pods were last driven off a node, by zone.
    last_eviction: Mutex<HashMap<String, Instant>>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
    grace: Duration,
}

/// When each node last gave a sign of life.
#[derive(Default)]
struct Signs(Mutex<HashMap<String, Sign>>);

struct Sign {
    at: Instant,
    renewed: Option<MicroTime>,
    heartbeat: Option<Time>,
    is_silent: bool,
}

pub(super) fn start(setup: &Setup) {
    let informers = &setup.informers;
    let (nodes, pods) = (informers.cache::<Node>(), informers.cache::<Pod>());
    let leases =
        informers.cache_where::<Lease>(&ListParams::fields("metadata.namespace=kube-node-lease"));
    nodes::index_pods(&pods);
    let queue = Queue::new();
    let signs = Arc::new(Signs::default());
    wire::on_own(&nodes, &queue);
    on_leases(&leases, &signs, &queue);
    on_pods(&pods, &nodes, &queue);
    let controller = NodeLifecycle {
        nodes: nodes.clone(),
        pods: pods.clone(),
        signs,
        last_eviction: Mutex::default(),
        client: setup.client.clone(),
        recorder: setup.recorder("node-controller"),
        clock: setup.clock.clone(),
        grace: setup.node_grace,
    };
    setup.run(controller, queue, WORKERS, async move {
        nodes.synced().await;
        pods.synced().await;
        leases.synced().await;
    });
}

/// A renewed Lease is a sign; only that of a node held for silent is looked at.
fn on_leases(leases: &Cache<Lease>, signs: &Arc<Signs>, queue: &Queue<ObjectKey>) {
    let (signs, queue) = (signs.clone(), queue.clone());
    leases.on_change(move |change| {
        let Some(lease) = &change.new else { return };
        if meta::namespace(&lease.metadata) != "kube-node-lease" {
            return;
        }
        let name = meta::name(&lease.metadata);
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        if signs.saw_lease(name, renewed) {
            queue.add(ObjectKey::cluster(name));
        }
    });
}

/// A pod that says it is ready on a node that is not.
fn on_pods(pods: &Cache<Pod>, nodes: &Cache<Node>, queue: &Queue<ObjectKey>) {
    let (nodes, queue) = (nodes.clone(), queue.clone());
    pods.on_change(move |change| {
        let Some(pod) = change.new.as_ref().filter(|pod| pod::is_ready(pod)) else {
            return;
        };
        let key = ObjectKey::cluster(pod::node_name(pod));
        if nodes.get(&key).is_some_and(|node| !nodes::is_ready(&node)) {
            queue.add(key);
        }
    });
}

impl Signs {
    /// `true` where the node was held for silent.
    fn saw_lease(&self, node: &str, renewed: Option<MicroTime>) -> bool {
        let mut signs = self.0.lock();
        let sign = Self::of(&mut signs, node);
        if sign.renewed == renewed {
            return false;
        }
        sign.renewed = renewed;
        sign.at = Instant::now();
        sign.is_silent
    }

    /// How long the node has been silent, as of its status.
    fn silence(&self, node: &Node) -> Duration {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions
            .into_iter()
            .flatten()
            .find(|c| c.type_ == "Ready");
        let heartbeat = ready.and_then(|c| c.last_heartbeat_time.clone());
        let mut signs = self.0.lock();
        let sign = Self::of(&mut signs, meta::name(&node.metadata));
        if sign.heartbeat != heartbeat {
            sign.heartbeat = heartbeat;
            sign.at = Instant::now();
        }
        sign.at.elapsed()
    }

    fn held_for_silent(&self, node: &str, is_silent: bool) {
        Self::of(&mut self.0.lock(), node).is_silent = is_silent;
    }

    fn forget(&self, node: &str) {
        self.0.lock().remove(node);
    }

    fn of<'a>(signs: &'a mut HashMap<String, Sign>, node: &str) -> &'a mut Sign {
        signs.entry(node.to_owned()).or_insert_with(|| Sign {
            at: Instant::now(),
            renewed: None,
            heartbeat: None,
            is_silent: false,
        })
    }
}

impl Reconcile for NodeLifecycle {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "node_lifecycle"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(node) = self.nodes.get(key) else {
            self.signs.forget(&key.name);
            return Ok(Action::Done);
        };
        let silence = self.signs.silence(&node);
        let is_silent = silence >= self.grace;
        self.signs.held_for_silent(&key.name, is_silent);
        let (disruption, may_evict_in) = self.eviction(&node);
        let view = View {
            node: &node,
            is_silent,
            now: self.clock.now(),
            disruption,
            may_evict: may_evict_in.is_zero(),
        };
        let plan = plan::plan(&view);
        if let Some(conditions) = &plan.conditions {
            self.write_conditions(&node, conditions).await?;
        }
        if let Some(taints) = &plan.taints {
            self.write_taints(&node, taints).await?;
            if plan.evicts {
                let mut last = self.last_eviction.lock();
                last.insert(nodes::zone(&node).to_owned(), Instant::now());
            }
        }
        if !plan.is_ready {
            self.mark_pods(&node).await?;
        }
        let look = if is_silent {
            Action::Done
        } else {
            Action::After((self.grace - silence).max(Duration::from_millis(1)))
        };
        Ok(if plan.waits_to_evict {
            look.sooner(Action::After(may_evict_in.max(Duration::from_secs(1))))
        } else {
            look
        })
    }
}

impl NodeLifecycle {
    /// How badly the node's zone fares, and when the pods of its next node may be driven out.
    fn eviction(&self, node: &Node) -> (Disruption, Duration) {
        let zone = nodes::zone(node);
        let all = self.nodes.list();
        let disruption = Disruption::of(
            all.iter()
                .map(|other| (nodes::zone(other), nodes::is_ready(other))),
            zone,
        );
        let last = self.last_eviction.lock().get(zone).copied();
        let wait = last.map_or(Duration::ZERO, |last| {
            EVICTION_INTERVAL.saturating_sub(last.elapsed())
        });
        (disruption, wait)
    }

    async fn write_conditions(&self, node: &Node, conditions: &[NodeCondition]) -> Result<()> {
        let name = meta::name(&node.metadata);
        let patch = Patch::Strategic(json!({"metadata": {"uid": node.metadata.uid},
            "status": {"conditions": conditions}}));
        self.client.all::<Node>().patch_status(name, &patch).await?;
        tracing::info!(node = name, "node fell silent");
        let text = format!("Node {name} status is now: NodeNotReady");
        self.recorder
            .normal(&client::reference(node), "NodeNotReady", text);
        Ok(())
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<()> {
        // Another writer's taint must not be lost: only on what was looked at.
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": (!taints.is_empty()).then_some(taints)},
        }));
        let api = self.client.all::<Node>();
        api.patch(meta::name(&node.metadata), &patch).await?;
        Ok(())
    }

    /// Pods of a node that is not ready are not ready, so that no Service leads to them.
    async fn mark_pods(&self, node: &Node) -> Result<()> {
        let pods = nodes::pods_on(&self.pods, meta::name(&node.metadata));
        for pod in pods.iter().filter(|pod| pod::is_ready(pod)) {
            let patch = Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{"type": "Ready", "status": "False",
                    "lastTransitionTime": Time(self.clock.now())}]}}));
            let key = client::key_of(&pod.metadata);
            let api = self.client.namespaced::<Pod>(&key.namespace);
            match api.patch_status(&key.name, &patch).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {
                    let about = client::reference(&**pod);
                    self.recorder
                        .warning(&about, "NodeNotReady", "Node is not ready");
                }
            }
        }
        Ok(())
    }
}
