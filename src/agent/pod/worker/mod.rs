//! The worker of one pod: one task, from the pod's first appearance until nothing of it is left.
//!
//! Each lap looks at everything (the wish, the runtime, probes), plans, begins the planned
//! actions, works out the status and has it sent, and waits for whatever comes first: a newer
//! wish, news of a container or probe, the end of an action, or the time the plan named. What
//! wakes a worker only wakes it; the next lap looks at everything again.
//!
//! Actions run inside the worker's task, side by side. Nothing the worker knows must survive it:
//! after a crash of the agent the next worker finds the same pod in the API or on disk, and the
//! same containers in the runtime.

mod begin;
mod take;
mod tell;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::probe::{self, Kind, Outcome as Probed, Probes, Subject};
use crate::client::{Patch, reference};
use crate::runtime::{Exit, Phase};
use crate::util::errors::{OrLog, chain};

use super::act::{self, Launch, NotLaunched, Outcome, ReportFailure, Sent};
use super::context::{Context, container_named, container_reference, uid};
use super::hooks::Stop;
use super::plan::{self, Action, Plan, Stage, View};
use super::restart::{self, CrashLoop, containers};
use super::state::{ContainerMemory, Hook, Instance, Memory, Progress, Step};
use super::status::{NodeFacts, full_id, status};
use super::{message, names, report};

/// First and longest pause before a status is sent again.
const REPORT_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What the rest of the agent wants of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) pod: Arc<Pod>,
    /// It is no longer in the API.
    pub(crate) is_gone: bool,
    /// The agent ends it for good.
    pub(crate) ended: Option<super::state::Ended>,
}

/// What a worker shows of itself to others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) status: PodStatus,
    /// Newest and previous attempt of each container: id, attempt, whether it runs.
    pub(crate) attempts: BTreeMap<String, Vec<Attempt>>,
}

/// An attempt of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) id: String,
    pub(crate) number: u32,
    pub(crate) is_running: bool,
}

/// What wakes a worker.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    wake: Notify,
    /// Something volumes or variables are made from has changed.
    objects_changed: AtomicBool,
}

impl Signals {
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    fn objects(&self) {
        self.objects_changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// Stops under way: how to hasten one and how to say that it has ended.
struct Stopping {
    id: String,
    kill_at: watch::Sender<Timestamp>,
    ended: CancellationToken,
}

/// The status on its way to the server.
struct Reporting {
    /// What the server has, as far as is known.
    sent: PodStatus,
    /// The revision of the pod at which it had that.
    revision: u64,
    is_busy: bool,
    failures: u32,
    retry_at: Option<Timestamp>,
    /// The server has no such pod any more.
    is_pointless: bool,
}

/// One pod's worker.
pub(crate) struct Worker {
    context: Arc<Context>,
    wishes: watch::Receiver<Wish>,
    pod: Arc<Pod>,
    is_gone: bool,
    signals: Arc<Signals>,
    memory: Memory,
    /// Torn down for good, not only because its containers have ended.
    is_forgotten: bool,
    before: PodStatus,
    reporting: Reporting,
    addresses: watch::Sender<Vec<IpAddr>>,
    launches: HashMap<String, CancellationToken>,
    stops: HashMap<String, Stopping>,
    probes: Probes,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
    told_crash: HashMap<String, Timestamp>,
    told_pull: HashMap<String, Timestamp>,
    shown: Arc<Mutex<Shown>>,
}

impl Worker {
    pub(crate) fn new(context: &Arc<Context>, wishes: watch::Receiver<Wish>) -> Self {
        let wish = wishes.borrow().clone();
        let pod = wish.pod;
        let signals = Arc::new(Signals::default());
        let before = pod.status.clone().unwrap_or_default();
        let mut memory = Memory::of(&pod);
        memory.ended = wish.ended;
        Self {
            probes: probes(context, &pod, &signals),
            context: context.clone(),
            wishes,
            is_gone: wish.is_gone,
            signals,
            memory,
            is_forgotten: false,
            reporting: Reporting {
                sent: before.clone(),
                revision: 0,
                is_busy: false,
                failures: 0,
                retry_at: None,
                is_pointless: false,
            },
            before,
            addresses: watch::Sender::new(Vec::new()),
            launches: HashMap::new(),
            stops: HashMap::new(),
            running: FuturesUnordered::new(),
            told_crash: HashMap::new(),
            told_pull: HashMap::new(),
            shown: Arc::default(),
            pod,
        }
    }

    /// What the worker shows of itself.
    pub(crate) fn shown(&self) -> Arc<Mutex<Shown>> {
        self.shown.clone()
    }

    /// Runs until nothing of the pod is left on the node, or the agent ends.
    pub(crate) async fn run(mut self) {
        let uid = uid(&self.pod).to_owned();
        let signals = self.signals.clone();
        let wake = signals.clone();
        self.context
            .pleg
            .subscribe(&uid, Arc::new(move || wake.wake()));
        let is_over = plan::is_terminal(&self.before) || self.is_gone;
        if !is_over {
            let changed: crate::agent::volume::objects::Wake = Arc::new(move || signals.objects());
            self.context.volumes.hold(&self.pod, &changed);
        }
        let cancelled = self.context.tasks.cancelled();
        loop {
            let plan = self.lap();
            if plan.stage == Stage::Gone {
                self.remove_folder();
                break;
            }
            let wake_at = [plan.wake_at, self.reporting.retry_at]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                () = cancelled.cancelled() => break,
                () = self.wait(wake_at) => {}
            }
        }
        self.context.pleg.unsubscribe(&uid);
    }

    /// The last news of a pod may have been kept on disk after it was taken down.
    fn remove_folder(&self) {
        let folder = self.context.folders.pod(uid(&self.pod));
        if folder.exists() {
            std::fs::remove_dir_all(folder).ok_or_log("remove the folder of a pod");
        }
    }

    async fn wait(&mut self, wake_at: Option<Timestamp>) {
        let now = self.context.clock.now();
        let sleep = async {
            match wake_at {
                // A little late rather than early, so that the time has come at the next lap.
                Some(at) => {
                    let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                    tokio::time::sleep(left + Duration::from_millis(1)).await;
                }
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            changed = self.wishes.changed() => {
                if changed.is_err() {
                    // Whoever wished has ended: the agent is on its way out.
                    self.context.tasks.cancelled().cancelled().await;
                }
                None
            }
            () = self.signals.wake.notified() => None,
            Some(outcome) = self.running.next() => Some(outcome),
            () = sleep => None,
        };
        if let Some(outcome) = outcome {
            self.take(outcome);
        }
        // What else has ended by now need not wait for laps of its own.
        while let Some(Some(outcome)) = futures_util::FutureExt::now_or_never(self.running.next()) {
            self.take(outcome);
        }
    }

    fn lap(&mut self) -> Plan {
        self.look();
        let now = self.context.clock.now();
        let plan = plan::plan(&self.view(now));
        for action in &plan.actions {
            self.begin(action, now);
        }
        if plan.stage != Stage::Running && self.memory.ending_since.is_none() {
            self.memory.ending_since = Some(now);
        }
        self.tell_waits(now);
        self.report(now);
        plan
    }

    fn view(&self, now: Timestamp) -> View<'_> {
        View {
            pod: &self.pod,
            is_gone: self.is_gone,
            memory: &self.memory,
            before: &self.before,
            now,
        }
    }

    /// Takes in wish, containers and probes.
    fn look(&mut self) {
        let wish = self.wishes.borrow_and_update().clone();
        let is_changed = wish.pod.metadata.resource_version != self.pod.metadata.resource_version;
        if is_changed && labels_of(&wish.pod) != labels_of(&self.pod) {
            self.signals.objects_changed.store(true, Ordering::Release);
        }
        self.pod = wish.pod;
        self.is_gone |= wish.is_gone;
        self.memory.ended = self.memory.ended.take().or(wish.ended);
        let states = self.context.pleg.of_pod(uid(&self.pod));
        self.memory.observe(&states, &self.context.machine.boot);
        if self.signals.objects_changed.swap(false, Ordering::AcqRel) {
            self.refresh_objects();
        }
        self.end_stops();
        self.read_messages();
        self.follow_probes();
        let lost = self.memory.namespaces.done();
        let lost = lost.and_then(|namespaces| namespaces.processes.as_ref());
        if lost.is_some_and(|path| !path.exists()) {
            self.memory.namespaces = Step::default();
        }
        let forgets = self.is_gone || self.pod.metadata.deletion_timestamp.is_some();
        if forgets && !self.is_forgotten && self.memory.teardown.done().is_some() {
            // What was kept for an ended pod goes with the pod itself.
            self.memory.teardown = Step::default();
        }
    }

    fn refresh_objects(&mut self) {
        let now = self.context.clock.now();
        if matches!(self.memory.volumes.progress, Progress::Done(())) {
            self.memory.refresh_at = Some(now);
        }
        self.memory.volumes.hurry(now);
        for container in self.memory.containers.values_mut() {
            container.launch.hurry(now);
        }
    }

    /// Tells stops whose container has ended.
    fn end_stops(&mut self) {
        let memory = &self.memory;
        self.stops.retain(|name, stop| {
            let container = memory.containers.get(name);
            let runs = container.is_some_and(|container| {
                let mut instances = container.instances.iter();
                instances.any(|i| i.id == stop.id && i.is_running())
            });
            if !runs {
                stop.ended.cancel();
            }
            runs
        });
    }

    fn read_messages(&mut self) {
        let folders = &self.context.folders;
        let uid = uid(&self.pod);
        for (name, memory) in &mut self.memory.containers {
            let Some(spec) = container_named(&self.pod, name) else {
                continue;
            };
            let wants_log =
                spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
            for instance in &memory.instances {
                let Some(exit) = instance.exit() else {
                    continue;
                };
                if memory.messages.contains_key(&instance.id) || instance.start_error.is_some() {
                    continue;
                }
                let file = folders.termination_log(uid, name, instance.attempt);
                let log = folders.log(&self.pod, name, instance.attempt);
                let log = (wants_log && exit.code != 0).then_some(log.as_path());
                let text = message::read(&file, log);
                memory.messages.insert(instance.id.clone(), text);
            }
        }
    }

    fn follow_probes(&mut self) {
        let address = self.address();
        let mut subjects = Vec::new();
        for (_, spec) in containers(&self.pod) {
            let Some(memory) = self.memory.containers.get(&spec.name) else {
                continue;
            };
            let Some(running) = memory.running() else {
                continue;
            };
            if memory.hook != Hook::Over || memory.launch.is_busy() {
                continue;
            }
            let id = full_id(&running.id);
            let before = plan::status_of(&self.before, &spec.name);
            let before = before.filter(|b| b.container_id.as_deref() == Some(id.as_str()));
            subjects.push(Subject {
                container: Arc::new(spec.clone()),
                id: running.id.clone(),
                address,
                started_at: running.started_at.unwrap_or(running.created_at),
                was_started: before.is_some_and(|b| b.started == Some(true)),
                was_ready: before.is_some_and(|b| b.ready),
            });
        }
        self.probes.follow(subjects);
        for (name, report) in self.probes.reports() {
            if let Some(memory) = self.memory.containers.get_mut(&name) {
                memory.probed = report;
            }
        }
    }

    /// The pod's address: its own, or the node's.
    fn address(&self) -> Option<IpAddr> {
        if plan::has_network(&self.pod) {
            let given = self.memory.addresses.done()?;
            return given.first().copied();
        }
        self.context.config.node_ips.first().copied()
    }
}

type Labels = BTreeMap<String, String>;

/// What downward volumes show of a pod that can change.
fn labels_of(pod: &Pod) -> (&Option<Labels>, &Option<Labels>) {
    (&pod.metadata.labels, &pod.metadata.annotations)
}

fn probes(context: &Arc<Context>, pod: &Arc<Pod>, signals: &Arc<Signals>) -> Probes {
    let wake = signals.clone();
    let wake: probe::Wake = Arc::new(move || wake.wake());
    let (recorder, pod) = (context.recorder.clone(), pod.clone());
    let tell: probe::Tell = Arc::new(move |container, kind: Kind, outcome| {
        let about = container_reference(&pod, container);
        let text = match outcome {
            Probed::Success(_) => return,
            Probed::Failure(why) => format!("{} probe failed: {why}", kind.name()),
            Probed::Unknown(why) => format!(
                "{} probe errored and resulted in unknown state: {why}",
                kind.name()
            ),
        };
        recorder.warning(&about, "Unhealthy", text);
    });
    Probes::new(
        context.runtime.clone(),
        context.clock.clone(),
        context.tasks.child(),
        (tell, wake),
    )
}
