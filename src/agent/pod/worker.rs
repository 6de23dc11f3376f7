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
use crate::util::errors::chain;

use super::act::{self, Launch, NotLaunched, Outcome, ReportFailure};
use super::context::{Context, container_named, container_reference, uid};
use super::hooks::Stop;
use super::plan::{self, Action, Plan, Stage, View};
use super::restart::{self, CrashLoop, containers};
use super::state::{ContainerMemory, Hook, Instance, Memory, Progress};
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
    /// What the server has.
    sent: PodStatus,
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

    /// A handle that wakes the worker.
    pub(crate) fn signals(&self) -> Arc<Signals> {
        self.signals.clone()
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
                break;
            }
            let wake_at = [plan.wake_at, self.reporting.retry_at].into_iter().flatten().min();
            tokio::select! {
                () = cancelled.cancelled() => break,
                () = self.wait(wake_at) => {}
            }
        }
        self.context.pleg.unsubscribe(&uid);
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
        while let Some(Some(outcome)) =
            futures_util::FutureExt::now_or_never(self.running.next())
        {
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
            self.memory.namespaces = super::state::Step::default();
        }
        let forgets = self.is_gone || self.pod.metadata.deletion_timestamp.is_some();
        if forgets && !self.is_forgotten && self.memory.teardown.done().is_some() {
            // What was kept for an ended pod goes with the pod itself.
            self.memory.teardown = super::state::Step::default();
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
            let wants_log = spec.termination_message_policy.as_deref()
                == Some("FallbackToLogsOnError");
            for instance in &memory.instances {
                let Some(exit) = instance.exit() else { continue };
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

    // === Beginning actions ===

    fn begin(&mut self, action: &Action, now: Timestamp) {
        let context = self.context.clone();
        let pod = self.pod.clone();
        match action {
            Action::Pin => {
                self.memory.namespaces.begin();
                self.go(context.pin(pod));
            }
            Action::Attach => {
                let namespaces = self.memory.namespaces.done().cloned().unwrap_or_default();
                self.memory.addresses.begin();
                self.go(context.attach(pod, namespaces));
            }
            Action::SetUpVolumes => {
                self.memory.volumes.begin();
                self.go(context.set_up_volumes(pod));
            }
            Action::FindImage { container } => {
                self.container(container).image.begin();
                self.go(context.find_image(pod, container.clone()));
            }
            Action::Launch { container, attempt } => self.launch(container, *attempt, now),
            Action::CancelLaunch { container } => {
                if let Some(cancel) = self.launches.get(container) {
                    cancel.cancel();
                }
            }
            Action::Stop { .. } => self.stop(action, now),
            Action::Hasten { container, kill_at } => {
                if let Some(stop) = self.stops.get(container) {
                    stop.kill_at.send_replace(*kill_at);
                }
                if let Some((_, at)) = &mut self.container(container).stopping {
                    *at = *kill_at;
                }
            }
            Action::Remove { container, id } => {
                self.container(container).removing.insert(id.clone());
                self.go(context.remove(container.clone(), id.clone()));
            }
            Action::TearDown => {
                self.memory.teardown.begin();
                let forgets = self.is_gone || pod.metadata.deletion_timestamp.is_some();
                self.is_forgotten = forgets;
                self.go(context.tear_down(pod, forgets));
            }
            Action::Delete => {
                self.memory.delete.begin();
                self.go(context.delete(pod));
            }
            Action::GiveUp(ended) => {
                let about = reference(&*pod);
                let text = ended.message.clone();
                self.context.recorder.normal(&about, ended.reason, text);
                self.memory.ended = Some(ended.clone());
                self.signals.wake();
            }
        }
    }

    fn go(&mut self, action: impl Future<Output = Outcome> + Send + 'static) {
        self.running.push(Box::pin(action));
    }

    fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.memory.containers.entry(name.to_owned()).or_default()
    }

    fn launch(&mut self, container: &str, attempt: u32, now: Timestamp) {
        let memory = self.container(container);
        let Some(image) = memory.image.done().cloned() else {
            return;
        };
        memory.launch.begin();
        let ended = memory.current().and_then(Instance::exit);
        if let Some(ended) = ended {
            memory.crash = Some(CrashLoop::after_restart(memory.crash, ended.at, now));
        }
        let cancel = CancellationToken::new();
        self.launches.insert(container.to_owned(), cancel.clone());
        let namespaces = self.memory.namespaces.done().cloned().unwrap_or_default();
        let launch = Launch {
            pod: self.pod.clone(),
            container: container.to_owned(),
            attempt,
            image,
            namespaces,
            addresses: self.addresses.subscribe(),
            cancel,
        };
        self.go(self.context.clone().launch(launch));
    }

    fn stop(&mut self, action: &Action, now: Timestamp) {
        let Action::Stop {
            container,
            id,
            kill_at,
            why,
        } = action
        else {
            return;
        };
        self.container(container).stopping = Some((id.clone(), *kill_at));
        let (sender, receiver) = watch::channel(*kill_at);
        let ended = CancellationToken::new();
        let stopping = Stopping {
            id: id.clone(),
            kill_at: sender,
            ended: ended.clone(),
        };
        self.stops.insert(container.clone(), stopping);
        let states = self.context.pleg.of_pod(uid(&self.pod));
        let labels = states.iter().find(|state| state.id == *id);
        let signal = labels.and_then(|state| state.labels.get(names::STOP_SIGNAL).cloned());
        let stop = Stop {
            pod: self.pod.clone(),
            container: container.clone(),
            id: id.clone(),
            why: *why,
            has_grace: kill_at.duration_since(now) > jiff::SignedDuration::from_secs(1),
            signal: signal.unwrap_or_default(),
            address: self.address(),
            kill_at: receiver,
            ended,
        };
        self.go(self.context.clone().stop(stop));
    }

    // === Taking outcomes ===

    fn take(&mut self, outcome: Outcome) {
        let now = self.context.clock.now();
        let retry = restart::step_delay;
        match outcome {
            Outcome::Pinned(Ok(namespaces)) => self.memory.namespaces.succeed(namespaces),
            Outcome::Pinned(Err(why)) => {
                let what = ("CreatePodSandboxError", why);
                self.memory.namespaces.fail(what, retry, now);
            }
            Outcome::Attached(Ok(addresses)) => {
                self.context.write_hosts(&self.pod, &addresses);
                self.addresses.send_replace(addresses.clone());
                self.memory.addresses.succeed(addresses);
            }
            Outcome::Attached(Err(why)) => {
                let what = ("CreatePodSandboxError", why);
                self.memory.addresses.fail(what, retry, now);
            }
            Outcome::Volumes(Ok(refresh_at)) => {
                self.memory.volumes.succeed(());
                self.memory.refresh_at = refresh_at;
            }
            Outcome::Volumes(Err(why)) => self.volumes_failed(why, now),
            Outcome::Image { container, result } => {
                let image = &mut self.container(&container).image;
                match result {
                    Ok(found) => image.succeed(found),
                    Err(what) => image.fail(what, restart::image_delay, now),
                }
            }
            Outcome::Launched {
                container,
                attempt,
                result,
            } => self.launched(&container, attempt, result, now),
            Outcome::Hooked {
                container,
                id,
                result,
            } => {
                let hook = &mut self.container(&container).hook;
                if *hook == Hook::Running(id.clone()) {
                    *hook = result.map_or(Hook::Failed(id), |()| Hook::Over);
                }
            }
            Outcome::Stopped { container, id } => self.stopped(&container, &id),
            Outcome::Removed {
                container,
                id,
                result,
            } => {
                let memory = self.container(&container);
                memory.removing.remove(&id);
                if let Err(error) = result {
                    tracing::warn!(container, id, error, "container not removed, trying again");
                    memory.removing.insert(id.clone());
                    self.remove_later(container, id);
                }
            }
            Outcome::TornDown(Ok(())) => self.memory.teardown.succeed(()),
            Outcome::TornDown(Err(why)) => {
                tracing::warn!(pod = %self.name(), error = why, "pod not taken down, trying again");
                self.memory.teardown.fail(("TearDown", why), retry, now);
            }
            Outcome::Deleted(Ok(())) => self.memory.delete.succeed(()),
            Outcome::Deleted(Err(why)) => self.memory.delete.fail(("Delete", why), retry, now),
            Outcome::Reported(result) => self.reported(result, now),
        }
    }

    fn name(&self) -> String {
        let meta = &self.pod.metadata;
        format!(
            "{}/{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        )
    }

    /// Volumes that containers already use stay as they were.
    fn volumes_failed(&mut self, why: String, now: Timestamp) {
        let count = self.memory.volumes.failure.as_ref().map_or(0, |f| f.count);
        let what = ("ContainerCreating", why);
        self.memory.volumes.fail(what, restart::step_delay, now);
        let is_running = self.memory.is_alive();
        if is_running {
            self.memory.volumes.progress = Progress::Done(());
            let again = now.saturating_add(restart::step_delay(count + 1));
            self.memory.refresh_at = again.ok();
        }
    }

    fn launched(
        &mut self,
        container: &str,
        attempt: u32,
        result: Result<String, NotLaunched>,
        now: Timestamp,
    ) {
        self.launches.remove(container);
        let id = act::id_of(&self.pod, container, attempt);
        let spec = container_named(&self.pod, container);
        let image = spec.and_then(|spec| spec.image.clone()).unwrap_or_default();
        let has_hook = spec.is_some_and(|spec| {
            let lifecycle = spec.lifecycle.as_ref();
            lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
        });
        let memory = self.container(container);
        memory.launch.progress = Progress::Idle;
        match result {
            Ok(id) => {
                memory.launch.failure = None;
                memory.image = super::state::Step::default();
                if has_hook {
                    memory.hook = Hook::Running(id.clone());
                    let what = (container.to_owned(), id);
                    let address = self.address();
                    let context = self.context.clone();
                    self.go(context.after_start(self.pod.clone(), what, address));
                }
            }
            Err(NotLaunched::Cancelled) => {}
            Err(NotLaunched::Retry(reason, text)) => {
                memory.launch.fail((reason, text), restart::step_delay, now);
            }
            Err(NotLaunched::StartFailed(text)) => {
                memory.image = super::state::Step::default();
                memory.instances.retain(|i| i.id != id);
                memory.instances.push(failed_start(id, attempt, image, text, now));
                self.signals.wake();
            }
        }
    }

    fn stopped(&mut self, container: &str, id: &str) {
        let memory = self.container(container);
        if memory.stopping.as_ref().is_some_and(|(of, _)| of == id) {
            // Whether it has really ended, the next look at the runtime says.
            memory.stopping = None;
        }
    }

    fn remove_later(&mut self, container: String, id: String) {
        let context = self.context.clone();
        self.go(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            context.remove(container, id).await
        });
    }

    // === Telling ===

    /// Events for containers that have begun to wait.
    fn tell_waits(&mut self, now: Timestamp) {
        let mut events = Vec::new();
        for (name, memory) in &self.memory.containers {
            let Some(spec) = container_named(&self.pod, name) else {
                continue;
            };
            let about = || container_reference(&self.pod, spec);
            if let (Some(crash), Some(exit)) =
                (memory.crash, memory.current().and_then(Instance::exit))
                && crash.may_restart_at(exit.at) > now
                && self.memory.ended.is_none()
                && self.told_crash.get(name) != Some(&exit.at)
            {
                self.told_crash.insert(name.clone(), exit.at);
                let meta = &self.pod.metadata;
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    meta.name.as_deref().unwrap_or_default(),
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.uid.as_deref().unwrap_or_default()
                );
                events.push((about(), "Warning", "BackOff", text));
            }
            let waits = memory.image.failure.as_ref().filter(|failure| {
                let shown = failure.at.saturating_add(plan::PULL_FAILURE_SHOWN);
                failure.reason == "ErrImagePull" && shown.is_ok_and(|shown| shown <= now)
            });
            if let Some(failure) = waits
                && self.told_pull.get(name) != Some(&failure.at)
            {
                self.told_pull.insert(name.clone(), failure.at);
                let image = spec.image.as_deref().unwrap_or_default();
                let text = format!("Back-off pulling image \"{image}\"");
                events.push((about(), "Normal", "BackOff", text));
                events.push((about(), "Warning", "Failed", "Error: ImagePullBackOff".to_owned()));
            }
        }
        for (about, kind, reason, text) in events {
            match kind {
                "Normal" => self.context.recorder.normal(&about, reason, text),
                _ => self.context.recorder.warning(&about, reason, text),
            }
        }
    }

    /// Works out the status, shows it and has it sent.
    fn report(&mut self, now: Timestamp) {
        let facts = NodeFacts {
            addresses: self.context.config.node_ips.clone(),
        };
        let fresh = status(&self.view(now), &facts);
        self.before = fresh;
        self.show();
        self.memory.is_reported = self.before == self.reporting.sent || self.reporting.is_pointless;
        let waits = self.reporting.retry_at.is_some_and(|at| at > now);
        if self.is_gone || self.memory.is_reported || self.reporting.is_busy || waits {
            return;
        }
        let patch = report::patch(uid(&self.pod), &self.reporting.sent, &self.before);
        let Some(patch) = patch else { return };
        self.reporting.is_busy = true;
        self.reporting.retry_at = None;
        let (pod, sent) = (self.pod.clone(), self.before.clone());
        self.go(self.context.clone().send_status(pod, patch, sent));
    }

    fn show(&self) {
        let attempts = self.memory.containers.iter().map(|(name, memory)| {
            let of = memory.instances.iter().filter(|i| i.start_error.is_none());
            let list = of.map(|i| Attempt {
                id: i.id.clone(),
                number: i.attempt,
                is_running: i.is_running(),
            });
            (name.clone(), list.collect())
        });
        *self.shown.lock() = Shown {
            status: self.before.clone(),
            attempts: attempts.collect(),
        };
    }

    fn reported(&mut self, result: Result<Box<PodStatus>, ReportFailure>, now: Timestamp) {
        self.reporting.is_busy = false;
        match result {
            Ok(sent) => {
                self.reporting.sent = *sent;
                self.reporting.failures = 0;
            }
            Err(ReportFailure::Gone) => self.reporting.is_pointless = true,
            Err(ReportFailure::Again(why)) => {
                tracing::debug!(pod = %self.name(), error = why, "status not taken, trying again");
                let (first, most) = REPORT_RETRY;
                let delay = first * 2_u32.pow(self.reporting.failures.min(6));
                let delay = jiff::SignedDuration::try_from(delay.min(most)).unwrap_or_default();
                self.reporting.failures += 1;
                self.reporting.retry_at = now.saturating_add(delay).ok();
            }
        }
    }
}

impl Context {
    async fn send_status(
        self: Arc<Self>,
        pod: Arc<Pod>,
        patch: serde_json::Value,
        sent: PodStatus,
    ) -> Outcome {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api = self.client.namespaced::<Pod>(namespace);
        let name = meta.name.as_deref().unwrap_or_default();
        let result = api.patch_status(name, &Patch::Strategic(patch)).await;
        Outcome::Reported(match result {
            Ok(answer) if answer.metadata.uid == meta.uid => Ok(Box::new(sent)),
            Ok(_) => Err(ReportFailure::Gone),
            Err(error) if error.is_not_found() => Err(ReportFailure::Gone),
            Err(error) => Err(ReportFailure::Again(chain(&error))),
        })
    }
}

type Labels = BTreeMap<String, String>;

/// What downward volumes show of a pod that can change.
fn labels_of(pod: &Pod) -> (&Option<Labels>, &Option<Labels>) {
    (&pod.metadata.labels, &pod.metadata.annotations)
}

fn failed_start(
    id: String,
    attempt: u32,
    image: String,
    text: String,
    now: Timestamp,
) -> Instance {
    Instance {
        id,
        attempt,
        image,
        image_name: String::new(),
        image_id: String::new(),
        from_earlier_boot: false,
        created_at: now,
        started_at: None,
        phase: Phase::Exited(Exit {
            code: 128,
            at: now,
            oom_killed: false,
        }),
        start_error: Some(text),
    }
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
