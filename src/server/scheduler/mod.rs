//! Finds a node for every pod that waits for one.
//!
//! One task owns the [`Snapshot`], the [`PodQueue`] and the assumed pods. Each lap it takes what
//! changed (keys; the caches hold the truth), then decides for a batch of pods, one after another,
//! each against the snapshot as the decisions before left it. [`cycle`] is pure. Bindings are sent
//! by jobs of their own, so that a decision never waits for the API; a binding that fails gives
//! the room back and the pod is tried again later.
//!
//! Terms. *Placed*: on a node in the snapshot. *Assumed*: placed by our own decision, not yet seen
//! bound. *Parked*: no node took it and nothing that could help has happened since.
//!
//! After a crash here nothing is lost: the queue is made anew from the pods without a node, and a
//! binding that was under way either happened or did not.
//!
//! Deliberately not here: preemption, volumes, dynamic resources.

mod affinity;
mod assume;
mod bind;
mod cycle;
mod framework;
mod plugins;
mod pod;
mod profile;
mod queue;
mod resources;
mod snapshot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::object::ObjectKey;
use crate::client::{Cache, Client, Informers, Recorder, cache::Changes};
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

use assume::Assumed;
use bind::Binder;
use cycle::{Decision, Rejections};
use framework::Happening;
use pod::PodInfo;
use profile::Profile;
use queue::PodQueue;
use snapshot::Snapshot;

/// `spec.schedulerName` of the pods this is for, and the component of its events.
const SCHEDULER: &str = "default-scheduler";
/// Decisions before changes are looked at again.
const BATCH: usize = 64;
/// Bindings under way at once: enough to fill the store's group commits, few enough that a slow
/// server is not flooded.
const BINDINGS_MAX: usize = 256;

/// Starts the scheduler in `tasks`.
pub fn start(client: Client, informers: &Informers, tasks: &Tasks, clock: Clock, rng: Rng) {
    let client = client.named("kube-scheduler");
    let recorder = Recorder::new(client.clone(), tasks, clock.clone(), (SCHEDULER, ""));
    let (ended, bindings) = mpsc::channel(BINDINGS_MAX);
    let scheduler = Scheduler {
        pods: informers.cache(),
        nodes: informers.cache(),
        namespaces: informers.cache(),
        binder: Binder::new(client, recorder, clock),
        tasks: tasks.clone(),
        rng,
        profile: Profile::default(),
        snapshot: Snapshot::default(),
        queue: PodQueue::default(),
        assumed: Assumed::default(),
        search_start: 0,
        under_way: 0,
        ended,
    };
    let cancelled = tasks.cancelled();
    tasks.service("scheduler", async move {
        cancelled.run_until_cancelled(scheduler.run(bindings)).await;
    });
}

/// How a binding ended.
struct Ended {
    pod: Arc<PodInfo>,
    bound: bool,
}

struct Scheduler {
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
    binder: Binder,
    tasks: Tasks,
    rng: Rng,
    profile: Profile,
    snapshot: Snapshot,
    queue: PodQueue,
    assumed: Assumed,
    search_start: usize,
    /// Bindings sent and not ended.
    under_way: usize,
    ended: mpsc::Sender<Ended>,
}

/// What wakes the loop.
struct Wakes {
    pods: Changes,
    nodes: Changes,
    namespaces: Changes,
    bindings: mpsc::Receiver<Ended>,
}

impl Scheduler {
    async fn run(mut self, bindings: mpsc::Receiver<Ended>) {
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.pods.synced().await;
        let mut wakes = Wakes {
            pods: self.pods.changes(),
            nodes: self.nodes.changes(),
            namespaces: self.namespaces.changes(),
            bindings,
        };
        loop {
            self.take_changes(&mut wakes);
            self.schedule_batch();
            if self.under_way < BINDINGS_MAX && self.queue.has_active(Instant::now()) {
                tokio::task::yield_now().await;
            } else {
                self.wait(&mut wakes).await;
            }
        }
    }

    /// Waits until anything changed, or a pod's backoff is over.
    async fn wait(&mut self, wakes: &mut Wakes) {
        let due = self
            .queue
            .next_due()
            .filter(|_| self.under_way < BINDINGS_MAX);
        let at_due = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wakes.pods.changed() => {}
            () = wakes.nodes.changed() => {}
            () = wakes.namespaces.changed() => {}
            Some(ended) = wakes.bindings.recv() => self.binding_ended(ended),
            () = at_due => {}
        }
    }

    fn take_changes(&mut self, wakes: &mut Wakes) {
        let mut happenings = BTreeSet::new();
        for key in wakes.namespaces.take() {
            let namespace = self.namespaces.get(&key);
            let labels = namespace.map(|n| n.metadata.labels.clone().unwrap_or_default());
            self.snapshot.set_namespace(&key.name, labels);
        }
        for key in wakes.nodes.take() {
            happenings.extend(self.node_changed(&key));
        }
        while let Ok(ended) = wakes.bindings.try_recv() {
            self.binding_ended(ended);
        }
        for key in wakes.pods.take() {
            happenings.extend(self.pod_changed(&key));
        }
        let now = Instant::now();
        for happening in happenings {
            self.queue.wake(happening, now);
        }
    }

    fn node_changed(&mut self, key: &ObjectKey) -> Option<Happening> {
        let known = self.snapshot.node(&key.name).and_then(|n| n.node.clone());
        let Some(node) = self.nodes.get(key) else {
            self.snapshot.remove_node(&key.name);
            return None;
        };
        let happening = match known {
            None => Some(Happening::NodeAdded),
            Some(old) if !same_for_pods(&old, &node) => Some(Happening::NodeChanged),
            Some(_) => None,
        };
        self.snapshot.set_node(node);
        happening
    }

    fn pod_changed(&mut self, key: &ObjectKey) -> Option<Happening> {
        let pod = self.pods.get(key).map(|pod| Arc::new(PodInfo::new(pod)));
        let Some(pod) = pod.filter(|pod| !pod.has_ended()) else {
            self.queue.remove(key);
            self.assumed.confirm(key);
            return self.snapshot.unplace(key).map(|_| Happening::PodGone);
        };
        if let Some(node) = pod.node_name().map(str::to_owned) {
            self.queue.remove(key);
            self.assumed.confirm(key);
            let known = self.snapshot.pod(key);
            let same = known.is_some_and(|known| known.labels() == pod.labels());
            self.snapshot.place(pod, &node);
            return (!same).then_some(Happening::PodPlaced);
        }
        if self.assumed.is_assumed(&pod) {
            return None;
        }
        // Another pod of this name, deleted and made again between two laps, may still be placed.
        let gone = self.snapshot.unplace(key);
        self.assumed.confirm(key);
        if pod.is_waiting() {
            self.queue.set(pod);
        } else {
            self.queue.remove(key);
        }
        gone.map(|_| Happening::PodGone)
    }

    fn binding_ended(&mut self, ended: Ended) {
        self.under_way -= 1;
        if ended.bound || !self.assumed.forget(&mut self.snapshot, &ended.pod) {
            return;
        }
        let now = Instant::now();
        self.queue.failed(&ended.pod.key, now);
        self.queue.wake(Happening::PodGone, now);
    }

    fn schedule_batch(&mut self) {
        for _ in 0..BATCH {
            if self.under_way >= BINDINGS_MAX {
                return;
            }
            let Some(pod) = self.queue.pop(Instant::now()) else {
                return;
            };
            let decision = cycle::cycle(
                &self.snapshot,
                &pod,
                &self.profile,
                &mut self.search_start,
                &self.rng,
            );
            match decision {
                Decision::Bind(node) => self.bind(pod, node),
                Decision::Unschedulable(why) => self.refuse(pod, why),
            }
        }
    }

    /// The pod stays in the queue as taken until the watch shows it bound.
    fn bind(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        self.assumed.assume(&mut self.snapshot, &pod, &node);
        self.under_way += 1;
        let (binder, ended) = (self.binder.clone(), self.ended.clone());
        self.tasks.job("bind", async move {
            let bound = binder.bind(&pod, &node).await;
            // The loop is gone only when everything ends.
            let _ = ended.send(Ended { pod, bound }).await;
        });
    }

    fn refuse(&mut self, pod: Arc<PodInfo>, why: Rejections) {
        let message = why.message();
        tracing::debug!(pod = %pod.key, message, "fits nowhere");
        self.queue.park(&pod.key, why.plugins, Instant::now());
        let binder = self.binder.clone();
        self.tasks.job("refuse", async move {
            binder.refuse(pod, message).await;
        });
    }
}

/// Whether two states of a node take the same pods; heartbeats and images change nothing.
fn same_for_pods(a: &Node, b: &Node) -> bool {
    let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
    let cordoned = |n: &Node| n.spec.as_ref().and_then(|s| s.unschedulable);
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    a.metadata.labels == b.metadata.labels
        && taints(a) == taints(b)
        && cordoned(a) == cordoned(b)
        && allocatable(a) == allocatable(b)
}
