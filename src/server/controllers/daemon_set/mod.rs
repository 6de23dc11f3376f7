//! Gives every node that a DaemonSet is for one of its pods.
//!
//! Writes: pods it controls; ControllerRevisions; `status` of the set.
//!
//! The controller chooses nodes, the scheduler binds ([`placement`]). A look costs as much as there
//! are nodes; a node makes sets look again only where it becomes or ceases to be one of theirs, so
//! heartbeats cost nothing.
//!
//! A pod that failed is replaced after a delay that doubles: the node may refuse the next one too.
//! The delays are forgotten at a restart, which then tries once at once.

mod failures;
mod placement;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::api::{meta, object::ObjectKey};
use crate::client::{
    self, Cache, Client, Queue, Recorder, Result,
    controller::{Action, Reconcile},
};
use crate::util::clock::Clock;

use super::Setup;
use super::shared::{
    adopt,
    expectations::{Expectations, UNANSWERED_MOST},
    history,
    pod_control::PodControl,
    pods, status, wire,
};

use failures::Failures;
use placement::Placement;
use plan::{End, Plan, View};

const WORKERS: usize = 2;
/// Pods created in one go, as upstream's `BurstReplicas`.
const BURST: usize = 250;

struct DaemonSets {
    sets: Cache<DaemonSet>,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    revisions: Cache<ControllerRevision>,
    expectations: Arc<Expectations>,
    failures: Failures,
    client: Client,
    control: PodControl,
    recorder: Recorder,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let (sets, nodes) = (
        setup.informers.cache::<DaemonSet>(),
        setup.informers.cache::<Node>(),
    );
    let pods = setup.informers.cache::<Pod>();
    let revisions = setup.informers.cache::<ControllerRevision>();
    let queue = Queue::new();
    let expectations = Arc::new(Expectations::default());
    adopt::index_orphans(&pods);
    adopt::index_orphans(&revisions);
    wire::on_own(&sets, &queue);
    pods::observe(&pods, &expectations);
    wire::on_owned(&pods, DaemonSet::KIND, &queue);
    wire::on_owned(&revisions, DaemonSet::KIND, &queue);
    wire::on_orphan(
        &pods,
        &sets,
        |set: &DaemonSet, pod| selector(set).matches(&pod.labels),
        &queue,
    );
    on_node(&nodes, &sets, &queue);
    let recorder = setup.recorder("daemonset-controller");
    let controller = DaemonSets {
        sets: sets.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        revisions: revisions.clone(),
        failures: Failures::default(),
        client: setup.client.clone(),
        control: PodControl {
            client: setup.client.clone(),
            recorder: recorder.clone(),
            expectations: expectations.clone(),
        },
        expectations,
        recorder,
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        sets.synced().await;
        nodes.synced().await;
        pods.synced().await;
        revisions.synced().await;
    });
}

/// A node that becomes or ceases to be one of a set's makes the set look.
fn on_node(nodes: &Cache<Node>, sets: &Cache<DaemonSet>, queue: &Queue<ObjectKey>) {
    let (sets, queue) = (sets.clone(), queue.clone());
    nodes.on_change(move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new) {
            let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone());
            let same_labels = old.metadata.labels == new.metadata.labels;
            if same_labels && taints(old) == taints(new) {
                return;
            }
        }
        for set in sets.list() {
            let placement = Placement::of(&set);
            let verdict = |node: &Option<Arc<Node>>| node.as_ref().map(|n| placement.judge(n));
            if verdict(&change.old) != verdict(&change.new) {
                queue.add(client::key_of(&set.metadata));
            }
        }
    });
}

fn selector(set: &DaemonSet) -> crate::api::selector::label::Selector {
    adopt::selector_of(&set.spec.selector)
}

impl Reconcile for DaemonSets {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "daemon_set"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Action::Done);
        };
        let selector = selector(&set);
        if selector.is_empty() {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            let about = client::reference(&*set);
            self.recorder.warning(&about, "SelectingAll", text);
            return Ok(Action::Done);
        }
        let uid = meta::uid(&set.metadata);
        if meta::is_terminating(&set.metadata) {
            self.expectations.forget(uid);
            return Ok(Action::Done);
        }
        let claim = adopt::claim(&set.metadata, &selector, &self.pods);
        adopt::settle(&self.client, &*set, &claim).await?;
        let mut revisions = adopt::claim(&set.metadata, &selector, &self.revisions);
        adopt::settle(&self.client, &*set, &revisions).await?;
        history::sort(&mut revisions.mine);
        let action = self.look(&set, &claim.mine, &revisions.mine).await?;
        if self.expectations.are_met(uid) {
            return Ok(action);
        }
        Ok(action.sooner(Action::After(UNANSWERED_MOST)))
    }
}

impl DaemonSets {
    /// `revisions`: oldest first.
    async fn look(
        &self,
        set: &DaemonSet,
        pods: &[Arc<Pod>],
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Action> {
        let spec = &set.spec;
        let uid = meta::uid(&set.metadata);
        let known = set.status.as_ref().and_then(|s| s.collision_count);
        let owner = history::Owner {
            meta: &set.metadata,
            reference: meta::controller_ref(DaemonSet::API_VERSION, DaemonSet::KIND, &set.metadata),
            template: &spec.template,
            hash_label: history::POD_REVISION,
            collisions: known.unwrap_or(0),
        };
        let choice = history::choose(revisions, &spec.template);
        let (current, collisions) = history::settle(&self.client, &owner, choice).await?;
        let hash = meta::label(&current.metadata, history::POD_REVISION).unwrap_or_default();
        let plan = plan::plan(&View {
            set,
            nodes: &self.nodes.list(),
            pods,
            hash,
            collisions,
            is_settled: self.expectations.are_met(uid),
            hold: &|node| self.failures.hold(uid, node),
            now: self.clock.now(),
        });
        let action = plan.look_in.map_or(Action::Done, Action::After);
        let result = self.carry_out(set, hash, &plan).await;
        self.write_status(set, &plan.status).await?;
        result?;
        let used = history::of_pods(pods.iter().map(|pod| &pod.metadata));
        let in_use = |r: &ControllerRevision| {
            let label = meta::label(&r.metadata, history::POD_REVISION);
            r.metadata.name == current.metadata.name || label.is_some_and(|l| used.contains(l))
        };
        let limit = spec.revision_history_limit.unwrap_or(10);
        history::delete(&self.client, &history::surplus(revisions, in_use, limit)).await?;
        Ok(action)
    }

    async fn carry_out(&self, set: &DaemonSet, hash: &str, plan: &Plan) -> Result<()> {
        let about = client::reference(set);
        for (end, pod) in &plan.ended {
            let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
            let node = placement::node_of(pod);
            match end {
                End::Failed => {
                    self.failures.note(meta::uid(&set.metadata), node);
                    let text = format!(
                        "Found failed daemon pod {namespace}/{name} on node {node}, will try to \
                         kill it"
                    );
                    self.recorder.warning(&about, "FailedDaemonPod", text);
                }
                End::Succeeded => {
                    let text = format!(
                        "Found succeeded daemon pod {namespace}/{name} on node {node}, will try \
                         to delete it"
                    );
                    self.recorder.normal(&about, "SucceededDaemonPod", text);
                }
            }
        }
        let pod = placement::pod(set, hash);
        let nodes: Vec<_> = plan.create.iter().take(BURST).collect();
        let make = |number: usize| match nodes.get(number) {
            Some(node) => placement::tie(pod.clone(), node),
            None => pod.clone(),
        };
        let created = self.control.create(&about, nodes.len(), make).await;
        let doomed = plan.delete.get(..BURST).unwrap_or(&plan.delete);
        let deleted = self.control.delete(&about, doomed).await;
        created.and(deleted)
    }

    async fn write_status(&self, set: &DaemonSet, new: &DaemonSetStatus) -> Result<()> {
        let Some(patch) = status::patch(&set.metadata, set.status.as_ref(), new) else {
            return Ok(());
        };
        let api = self
            .client
            .namespaced::<DaemonSet>(meta::namespace(&set.metadata));
        match api.patch_status(meta::name(&set.metadata), &patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
