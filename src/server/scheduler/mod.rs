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
//! A pod that fits nowhere may have others ended for it (`preempt`). It waits as *nominated* to the
//! node they leave, and counts there for everybody less important.
//!
//! Deliberately not here: dynamic resources.

mod affinity;
mod assume;
mod bind;
mod budget;
mod cycle;
pub mod explain;
mod framework;
mod group;
mod hint;
mod nominate;
mod plugins;
mod pod;
mod preempt;
#[cfg(test)]
mod preempt_tests;
mod profile;
mod queue;
mod resources;
mod snapshot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;
mod volumes;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::object::ObjectKey;
use crate::client::{self, Cache, Client, Informers, Recorder, cache::Changes};
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

use assume::Assumed;
use bind::{Binder, Nominate};
use cycle::{Decision, Rejections};
use explain::{Explainer, Question};
use framework::{Happening, Plugin};
use hint::Event;
use pod::PodInfo;
use preempt::{Outcome, Victim};
use profile::Profile;
use queue::PodQueue;
use snapshot::Snapshot;
use volumes::Step;

/// `spec.schedulerName` of the pods this is for, and the component of its events.
const SCHEDULER: &str = "default-scheduler";
/// Decisions before changes are looked at again.
const BATCH: usize = 64;
/// Bindings under way at once: enough to fill the store's group commits, few enough that a slow
/// server is not flooded.
const BINDINGS_MAX: usize = 256;

/// Starts the scheduler in `tasks`; it answers what `explainer` is asked.
pub fn start(
    client: Client,
    informers: &Informers,
    tasks: &Tasks,
    explainer: &Explainer,
    (clock, rng): (Clock, Rng),
) {
    let questions = explainer.open();
    let client = client.named("kube-scheduler");
    let recorder = Recorder::new(client.clone(), tasks, clock.clone(), (SCHEDULER, ""));
    let (ended, bindings) = mpsc::channel(BINDINGS_MAX);
    let scheduler = Scheduler {
        pods: informers.cache(),
        nodes: informers.cache(),
        namespaces: informers.cache(),
        budgets: informers.cache(),
        claims: informers.cache(),
        volumes: informers.cache(),
        classes: informers.cache(),
        csi_nodes: informers.cache(),
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
        cancelled
            .run_until_cancelled(scheduler.run(bindings, questions))
            .await;
    });
}

/// How a job ended.
enum Ended {
    Binding {
        pod: Arc<PodInfo>,
        bound: bool,
    },
    /// Not all victims could be ended for this pod.
    PreemptionFailed(Arc<PodInfo>),
    /// What the pod's claims are to have could not be written.
    NotPrepared(Arc<PodInfo>, Vec<Step>),
}

struct Scheduler {
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
    budgets: Cache<PodDisruptionBudget>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    csi_nodes: Cache<CSINode>,
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
    budgets: Changes,
    claims: Changes,
    volumes: Changes,
    classes: Changes,
    csi_nodes: Changes,
    bindings: mpsc::Receiver<Ended>,
    questions: mpsc::Receiver<Question>,
}

impl Scheduler {
    async fn run(mut self, bindings: mpsc::Receiver<Ended>, questions: mpsc::Receiver<Question>) {
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.budgets.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
        self.pods.synced().await;
        let mut wakes = Wakes {
            pods: self.pods.changes(),
            nodes: self.nodes.changes(),
            namespaces: self.namespaces.changes(),
            budgets: self.budgets.changes(),
            claims: self.claims.changes(),
            volumes: self.volumes.changes(),
            classes: self.classes.changes(),
            csi_nodes: self.csi_nodes.changes(),
            bindings,
            questions,
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
            () = wakes.budgets.changed() => {}
            () = wakes.claims.changed() => {}
            () = wakes.volumes.changed() => {}
            () = wakes.classes.changed() => {}
            () = wakes.csi_nodes.changed() => {}
            Some(ended) = wakes.bindings.recv() => self.job_ended(ended),
            Some(question) = wakes.questions.recv() => self.answer(question),
            () = at_due => {}
        }
    }

    fn take_changes(&mut self, wakes: &mut Wakes) {
        let mut events = Vec::new();
        for key in wakes.namespaces.take() {
            let namespace = self.namespaces.get(&key);
            let labels = namespace.map(|n| n.metadata.labels.clone().unwrap_or_default());
            self.snapshot.set_namespace(&key.name, labels);
        }
        for key in wakes.budgets.take() {
            let budget = self.budgets.get(&key);
            self.snapshot.budgets_mut().set(&key, budget);
        }
        if self.take_volumes(wakes) {
            events.push(Event::plain(Happening::VolumesChanged));
        }
        for key in wakes.nodes.take() {
            events.extend(self.node_changed(&key));
        }
        if let Ok(question) = wakes.questions.try_recv() {
            self.answer(question);
        }
        while let Ok(ended) = wakes.bindings.try_recv() {
            self.job_ended(ended);
        }
        for key in wakes.pods.take() {
            events.extend(self.pod_changed(&key));
        }
        self.wake(&events);
    }

    fn wake(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let snapshot = &self.snapshot;
        self.queue.wake(Instant::now(), |pod, rejected_by, parked| {
            hint::helps(snapshot, pod, rejected_by, events, parked)
        });
    }

    /// Whether anything about storage changed.
    fn take_volumes(&mut self, wakes: &mut Wakes) -> bool {
        let storage = self.snapshot.volumes_mut();
        let mut any = false;
        for key in wakes.claims.take() {
            storage.set_claim(&key, self.claims.get(&key));
            any = true;
        }
        for key in wakes.volumes.take() {
            storage.set_volume(&key.name, self.volumes.get(&key));
            any = true;
        }
        for key in wakes.classes.take() {
            storage.set_class(&key.name, self.classes.get(&key));
            any = true;
        }
        for key in wakes.csi_nodes.take() {
            storage.set_csi_node(&key.name, self.csi_nodes.get(&key));
            any = true;
        }
        any
    }

    fn node_changed(&mut self, key: &ObjectKey) -> Option<Event> {
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
        happening.map(|what| Event::of_node(what, &key.name))
    }

    fn pod_changed(&mut self, key: &ObjectKey) -> Option<Event> {
        let pod = self.pods.get(key).map(|pod| Arc::new(PodInfo::new(pod)));
        let Some(pod) = pod.filter(|pod| !pod.has_ended()) else {
            self.queue.remove(key);
            self.assumed.confirm(key);
            self.snapshot.nominations_mut().withdraw(key);
            return self.gone(key);
        };
        if let Some(node) = pod.node_name().map(str::to_owned) {
            self.queue.remove(key);
            self.assumed.confirm(key);
            self.snapshot.nominations_mut().withdraw(key);
            let known = self.snapshot.pod(key);
            let same = known.is_some_and(|known| known.labels() == pod.labels());
            self.snapshot.place(pod.clone(), &node);
            return (!same).then(|| Event::of_pod(Happening::PodPlaced, pod, &node));
        }
        if self.assumed.is_assumed(&pod) {
            return None;
        }
        // Another pod of this name, deleted and made again between two laps, may still be placed.
        let gone = self.gone(key);
        self.assumed.confirm(key);
        if pod.is_waiting() {
            if let Some(node) = pod.nominated_node() {
                let nominations = self.snapshot.nominations_mut();
                nominations.set(pod.clone(), node);
            } else if self
                .queue
                .pod(key)
                .is_some_and(|old| old.nominated_node().is_some())
            {
                self.snapshot.nominations_mut().withdraw(key);
            }
            self.queue.set(pod);
        } else {
            self.snapshot.nominations_mut().withdraw(key);
            self.queue.remove(key);
        }
        gone
    }

    fn gone(&mut self, key: &ObjectKey) -> Option<Event> {
        let pod = self.snapshot.pod(key)?.clone();
        let node = self.snapshot.unplace(key)?;
        Some(Event::of_pod(Happening::PodGone, pod, &node))
    }

    fn job_ended(&mut self, ended: Ended) {
        let now = Instant::now();
        match ended {
            Ended::Binding { pod, bound } => {
                self.under_way -= 1;
                if !bound && self.assumed.forget(&mut self.snapshot, &pod) {
                    self.queue.failed(&pod.key, now);
                    self.wake(&[Event::plain(Happening::PodGone)]);
                }
            }
            Ended::PreemptionFailed(pod) => self.queue.failed(&pod.key, now),
            Ended::NotPrepared(pod, steps) => {
                for step in steps {
                    if let Step::Take(volume, _) = step {
                        let name = volume.metadata.name.as_deref().unwrap_or_default();
                        self.snapshot.volumes_mut().take_back(name);
                    }
                }
                self.snapshot.nominations_mut().withdraw(&pod.key);
                self.queue.failed(&pod.key, now);
            }
        }
    }

    fn answer(&self, question: Question) {
        let pod = self.pods.get(&question.pod);
        let explanation = pod.map(|pod| {
            let pod = PodInfo::new(pod);
            explain::explain(&self.snapshot, &pod, &self.profile)
        });
        // Who asked may have gone away.
        let _ = question.answer.send(explanation);
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
                Decision::Bind(node) => match self.steps(&pod, &node) {
                    steps if steps.is_empty() => self.bind(pod, node),
                    steps => self.prepare(pod, node, steps),
                },
                Decision::Unschedulable(why, outcome) => self.refuse(pod, why, outcome),
            }
        }
    }

    fn steps(&self, pod: &PodInfo, node: &str) -> Vec<Step> {
        let node = self.snapshot.node(node);
        let steps = node.and_then(|node| self.snapshot.volumes().plan(pod, node));
        steps.unwrap_or_default()
    }

    /// The pod waits for its volumes, with its room on `node` kept.
    fn prepare(&mut self, pod: Arc<PodInfo>, node: Arc<str>, steps: Vec<Step>) {
        self.snapshot.nominations_mut().set(pod.clone(), &node);
        for step in &steps {
            if let Step::Take(volume, claim) = step {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let claim = client::key_of(&claim.metadata);
                self.snapshot.volumes_mut().promise(name, &claim);
            }
        }
        self.queue.hold(&pod.key, Plugin::Volumes, Instant::now());
        if steps.iter().all(|step| *step == Step::Wait) {
            return;
        }
        let (binder, ended) = (self.binder.clone(), self.ended.clone());
        self.tasks.job("prepare", async move {
            if !binder.prepare(&pod, &node, &steps).await {
                // The loop is gone only when everything ends.
                let _ = ended.send(Ended::NotPrepared(pod, steps)).await;
            }
        });
    }

    /// The pod stays in the queue as taken until the watch shows it bound.
    fn bind(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        self.snapshot.nominations_mut().withdraw(&pod.key);
        self.assumed.assume(&mut self.snapshot, &pod, &node);
        self.under_way += 1;
        let (binder, ended) = (self.binder.clone(), self.ended.clone());
        self.tasks.job("bind", async move {
            let bound = binder.bind(&pod, &node).await;
            // The loop is gone only when everything ends.
            let _ = ended.send(Ended::Binding { pod, bound }).await;
        });
    }

    fn refuse(&mut self, pod: Arc<PodInfo>, why: Rejections, outcome: Outcome) {
        let message = why.message_after(&outcome);
        tracing::debug!(pod = %pod.key, message, "fits nowhere");
        self.queue.park(&pod.key, why.plugins, Instant::now());
        let nominate = match outcome {
            Outcome::Ineligible(_) => Nominate::Keep,
            Outcome::Useless(_) => {
                self.snapshot.nominations_mut().withdraw(&pod.key);
                Nominate::Nowhere
            }
            Outcome::Room { node, victims } => {
                self.make_room(&pod, &node, victims);
                Nominate::Node(node)
            }
        };
        let binder = self.binder.clone();
        self.tasks.job("refuse", async move {
            binder.refuse(pod, message, nominate).await;
        });
    }

    fn make_room(&mut self, pod: &Arc<PodInfo>, node: &Arc<str>, victims: Vec<Victim>) {
        self.yield_to(pod, node);
        self.snapshot.nominations_mut().set(pod.clone(), node);
        let (binder, ended) = (self.binder.clone(), self.ended.clone());
        let (pod, node) = (pod.clone(), node.clone());
        let victims: Vec<_> = victims.into_iter().map(|victim| victim.0).collect();
        self.tasks.job("preempt", async move {
            if !binder.preempt(&pod, &node, &victims).await {
                // The loop is gone only when everything ends.
                let _ = ended.send(Ended::PreemptionFailed(pod)).await;
            }
        });
    }

    /// Less important pods that were to come to `node` look for another one.
    fn yield_to(&mut self, pod: &PodInfo, node: &str) {
        let guests = self.snapshot.nominations().on(node);
        let lower = guests.filter(|guest| guest.priority < pod.priority);
        let lower: Vec<_> = lower.cloned().collect();
        for guest in lower {
            self.snapshot.nominations_mut().withdraw(&guest.key);
            self.queue.retry(&guest.key, Instant::now());
            let binder = self.binder.clone();
            self.tasks.job("denominate", async move {
                binder.denominate(&guest).await;
            });
        }
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
