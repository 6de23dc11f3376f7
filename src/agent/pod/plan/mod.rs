//! Decides what to do next for a pod. Pure: the same pod, memory and time give the same plan.
//!
//! *Terms.* A container *runs again* where its restart policy says so; it *waits* while it is in a
//! crash loop; it is *finished* where it never runs again. A pod *ends* when it is deleted, when
//! the agent gives it up (deadline, refused), or when its containers are finished: what still runs
//! is stopped, sidecars last, then network, volumes and namespaces are taken down.
//!
//! *Invariants.* An action that is under way is never asked for twice. Nothing is taken down while
//! a container runs. The object is deleted from the API only after everything of it is gone from
//! the node and its last status has been taken by the server. A container that runs and whose
//! image, probes and hook are well is left alone, whatever else happens.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};

use crate::agent::probe::Failed;

use super::restart::{Role, containers, runs_again};
use super::state::{ContainerMemory, Ended, Hook, Instance, Memory};

/// Grace of a pod that names none.
const GRACE_SECONDS_DEFAULT: i64 = 30;
/// What a container gets to end after SIGTERM even where its hook took all the time, and a sidecar
/// even where the others did (kubelet `minimumGracePeriodInSeconds`).
const GRACE_LEAST: SignedDuration = SignedDuration::from_secs(2);
/// How long a failed pull is shown as such before it is shown as waiting.
pub(crate) const PULL_FAILURE_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The pod ends.
    Ending,
    /// Its image was changed.
    Changed,
    /// A probe says so.
    Probe(Failed),
    /// Its hook after the start failed.
    Hook,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the namespaces.
    Pin,
    /// Connect them and get addresses.
    Attach,
    /// Make volumes, or bring them up to date.
    SetUpVolumes,
    /// Find or fetch the image of the container's next attempt.
    FindImage { container: String },
    /// Make and start an attempt.
    Launch { container: String, attempt: u32 },
    /// Let a launch under way end at its next step.
    CancelLaunch { container: String },
    /// Stop a container: hook, SIGTERM, and SIGKILL at the given time.
    Stop {
        container: String,
        id: String,
        kill_at: Timestamp,
        why: Why,
    },
    /// Kill a container that is being stopped earlier than it was told.
    Hasten {
        container: String,
        kill_at: Timestamp,
    },
    /// Remove an attempt that has ended.
    Remove { container: String, id: String },
    /// Take down volumes, network, namespaces, cgroup.
    TearDown,
    /// Delete the pod from the API: it has ended.
    Delete,
    /// The agent ends the pod for good.
    GiveUp(Ended),
}

/// Where the pod is in its life on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is to run.
    #[default]
    Running,
    /// It is to end and something of it still runs.
    Ending,
    /// Nothing of it runs any more, or ever will.
    Ended,
    /// Nothing of it is left here: forget it.
    Gone,
}

/// What to do, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake_at: Option<Timestamp>,
    pub(crate) stage: Stage,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    /// The pod is no longer in the API.
    pub(crate) is_gone: bool,
    pub(crate) memory: &'a Memory,
    /// The status before this lap: the server's at first, then the worker's own.
    pub(crate) before: &'a PodStatus,
    pub(crate) now: Timestamp,
}

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// This attempt is to be made now.
    Due(u32),
    /// The next attempt is to be made then.
    Waits(Timestamp),
    Runs,
    /// Never runs again; ended with this code.
    Finished(i32),
}

/// What to do next.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if ends(view) {
        end(view, &mut plan);
    } else {
        run(view, &mut plan);
    }
    tidy(view, &mut plan);
    plan
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake(&mut self, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
        }
    }
}

impl View<'_> {
    fn container(&self, name: &str) -> &ContainerMemory {
        static NONE: std::sync::LazyLock<ContainerMemory> =
            std::sync::LazyLock::new(ContainerMemory::default);
        self.memory.containers.get(name).unwrap_or(&NONE)
    }

    fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    fn grace(&self) -> SignedDuration {
        let spec = self.pod.spec.as_ref();
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = self.pod.metadata.deletion_grace_period_seconds.or(own);
        SignedDuration::from_secs(seconds.unwrap_or(GRACE_SECONDS_DEFAULT).max(1))
    }
}

fn after(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(at)
}

/// Whether a pod joins a network namespace of its own.
pub(crate) fn has_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) != Some(true)
}

/// Whether namespaces must be made for the pod: for its network, for several containers to share
/// IPC, or for a shared process namespace.
pub(crate) fn has_namespaces(pod: &Pod) -> bool {
    let shares = pod.spec.as_ref().is_some_and(|spec| {
        spec.share_process_namespace == Some(true)
            || (spec.host_ipc != Some(true) && containers(pod).count() > 1)
    });
    has_network(pod) || shares
}

/// Whether the pod is to end, or has.
pub(crate) fn ends(view: &View<'_>) -> bool {
    view.is_gone
        || view.is_deleted()
        || view.memory.ended.is_some()
        || is_terminal(view.before)
        || is_finished(view)
}

/// The server knows that it ended: it never starts again.
pub(crate) fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Every container is finished, or one that all others wait for failed for good.
fn is_finished(view: &View<'_>) -> bool {
    let mut apps = 0;
    for (role, container) in containers(view.pod) {
        let standing = standing(view, role, container);
        match (role, standing) {
            (Role::Init, Standing::Finished(code)) if code != 0 => return true,
            (Role::App, Standing::Finished(_)) => apps += 1,
            (Role::App, _) => return false,
            _ => {}
        }
    }
    apps > 0
}

/// Where a container stands.
pub(crate) fn standing(view: &View<'_>, role: Role, container: &Container) -> Standing {
    let memory = view.container(&container.name);
    let Some(current) = memory.current() else {
        return standing_by_status(view, role, container);
    };
    let Some(exit) = current.exit() else {
        return if current.is_running() {
            Standing::Runs
        } else {
            Standing::Due(current.attempt)
        };
    };
    let is_never = restart_policy(view.pod) == "Never";
    if current.from_earlier_boot && role == Role::Init && !is_never {
        return Standing::Due(current.attempt + 1);
    }
    if !runs_again(view.pod, role, container, exit.code) {
        return Standing::Finished(exit.code);
    }
    let may_at = match memory.crash {
        Some(crash) if !current.from_earlier_boot => crash.may_restart_at(exit.at),
        _ => exit.at,
    };
    if may_at > view.now {
        Standing::Waits(may_at)
    } else {
        Standing::Due(current.attempt + 1)
    }
}

/// Where a container stands of which the runtime has nothing: as the last status says.
fn standing_by_status(view: &View<'_>, role: Role, container: &Container) -> Standing {
    let Some(before) = status_of(view.before, &container.name) else {
        return Standing::Due(0);
    };
    let state = before.state.as_ref();
    let last = before.last_state.as_ref();
    let ended = state
        .and_then(|s| s.terminated.as_ref())
        .or_else(|| last.and_then(|s| s.terminated.as_ref()));
    if let Some(ended) = ended
        && !runs_again(view.pod, role, container, ended.exit_code)
    {
        return Standing::Finished(ended.exit_code);
    }
    if before.container_id.is_none() && before.restart_count == 0 {
        return Standing::Due(0);
    }
    Standing::Due(before.restart_count.unsigned_abs() + 1)
}

/// The status of a container by its name, wherever it is listed.
pub(crate) fn status_of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .find(|status| status.name == name)
}

pub(crate) fn restart_policy(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.restart_policy.as_deref())
        .unwrap_or("Always")
}

// === A pod that is to run ===

fn run(view: &View<'_>, plan: &mut Plan) {
    if let Some(ended) = deadline(view, plan) {
        plan.act(Action::GiveUp(ended));
        return;
    }
    prepare(view, plan);
    let is_initialized = is_initialized(view);
    for (role, container) in containers(view.pod) {
        let standing = standing(view, role, container);
        if role == Role::Init && (is_initialized || standing == Standing::Finished(0)) {
            continue;
        }
        keep(view, standing, container, plan);
        if must_precede(view, role, container, is_initialized) {
            return;
        }
    }
}

/// Whether the containers after this one have to wait for it.
fn must_precede(view: &View<'_>, role: Role, container: &Container, is_initialized: bool) -> bool {
    let memory = view.container(&container.name);
    match role {
        Role::Init => true,
        Role::Sidecar => !is_initialized && !memory.is_started(),
        Role::App => {
            let hook = container.lifecycle.as_ref().map(|l| l.post_start.is_some());
            let is_starting = memory.running().is_none() || memory.launch.is_busy();
            let never_ran = memory.instances.is_empty();
            hook == Some(true)
                && (matches!(memory.hook, Hook::Running(_)) || (is_starting && never_ran))
        }
    }
}

/// App containers have started in this boot: init containers are over and do not run again.
fn is_initialized(view: &View<'_>) -> bool {
    containers(view.pod).any(|(role, container)| {
        role == Role::App && view.container(&container.name).of_this_boot().is_some()
    })
}

/// Namespaces, network and volumes, all at once.
fn prepare(view: &View<'_>, plan: &mut Plan) {
    let memory = view.memory;
    if has_namespaces(view.pod) {
        if memory.namespaces.is_due(view.now) {
            plan.act(Action::Pin);
        }
        plan.wake(memory.namespaces.retry_at());
        if memory.namespaces.done().is_some() && has_network(view.pod) {
            if memory.addresses.is_due(view.now) {
                plan.act(Action::Attach);
            }
            plan.wake(memory.addresses.retry_at());
        }
    }
    let is_old = memory.refresh_at.is_some_and(|at| at <= view.now);
    if memory.volumes.is_due(view.now) || (is_old && !memory.volumes.is_busy()) {
        plan.act(Action::SetUpVolumes);
    }
    plan.wake(memory.volumes.retry_at());
    if !memory.volumes.is_busy() {
        plan.wake(memory.refresh_at.filter(|at| *at > view.now));
    }
}

fn deadline(view: &View<'_>, plan: &mut Plan) -> Option<Ended> {
    let seconds = view.pod.spec.as_ref()?.active_deadline_seconds?;
    let started = view.before.start_time.as_ref()?.0;
    let at = after(started, SignedDuration::from_secs(seconds));
    if at > view.now {
        plan.wake(Some(at));
        return None;
    }
    Some(Ended {
        reason: "DeadlineExceeded",
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
    })
}

/// Brings one container to where it should be.
fn keep(view: &View<'_>, standing: Standing, container: &Container, plan: &mut Plan) {
    match standing {
        Standing::Runs => check(view, container, plan),
        Standing::Due(attempt) => start(view, container, attempt, plan),
        Standing::Waits(until) => plan.wake(Some(until)),
        Standing::Finished(_) => {}
    }
}

/// Whether a container that runs must be stopped.
fn check(view: &View<'_>, container: &Container, plan: &mut Plan) {
    let memory = view.container(&container.name);
    let Some(running) = memory.running() else {
        return;
    };
    if memory.stopping.is_some() || memory.launch.is_busy() {
        return;
    }
    let failed = (memory.probed.id == running.id)
        .then_some(memory.probed.failed)
        .flatten();
    let image = container.image.as_deref().unwrap_or_default();
    let why = match failed {
        Some(failed) => Why::Probe(failed),
        None if running.image != image => Why::Changed,
        None if memory.hook == Hook::Failed(running.id.clone()) => Why::Hook,
        None => return,
    };
    plan.act(Action::Stop {
        container: container.name.clone(),
        id: running.id.clone(),
        kill_at: after(
            view.now,
            probe_grace(container, failed).unwrap_or(view.grace()),
        ),
        why,
    });
}

/// The grace a probe's own field gives.
fn probe_grace(container: &Container, failed: Option<Failed>) -> Option<SignedDuration> {
    let probe = match failed? {
        Failed::Startup => container.startup_probe.as_ref(),
        Failed::Liveness => container.liveness_probe.as_ref(),
    };
    let seconds = probe?.termination_grace_period_seconds?;
    Some(SignedDuration::from_secs(seconds.max(1)))
}

/// Finds the image, then makes the attempt as soon as all it needs is there.
fn start(view: &View<'_>, container: &Container, attempt: u32, plan: &mut Plan) {
    let memory = view.container(&container.name);
    let name = || container.name.clone();
    if memory.launch.is_busy() {
        return;
    }
    if memory.image.done().is_none() {
        if memory.image.is_due(view.now) {
            plan.act(Action::FindImage { container: name() });
        }
        plan.wake(memory.image.retry_at());
        let shown_until = memory.image.failure.as_ref();
        let shown_until = shown_until.map(|f| after(f.at, PULL_FAILURE_SHOWN));
        plan.wake(shown_until.filter(|at| *at > view.now));
        return;
    }
    let has_namespaces = !has_namespaces(view.pod) || view.memory.namespaces.done().is_some();
    if !has_namespaces || view.memory.volumes.done().is_none() {
        return;
    }
    if memory.launch.is_due(view.now) {
        plan.act(Action::Launch {
            container: name(),
            attempt,
        });
    }
    plan.wake(memory.launch.retry_at());
}

// === A pod that is to end ===

fn end(view: &View<'_>, plan: &mut Plan) {
    plan.stage = Stage::Ending;
    let since = view.memory.ending_since.unwrap_or(view.now);
    let kill_at = after(since, view.grace());
    for (name, memory) in &view.memory.containers {
        if memory.launch.is_busy() {
            plan.act(Action::CancelLaunch {
                container: name.clone(),
            });
        }
    }
    stop_in_order(view, kill_at, plan);
    if view.memory.is_alive() {
        return;
    }
    plan.stage = Stage::Ended;
    take_down(view, plan);
}

/// Everything but sidecars at once; then sidecars one by one, the last of them first.
fn stop_in_order(view: &View<'_>, kill_at: Timestamp, plan: &mut Plan) {
    let is_sidecar =
        |name: &str| containers(view.pod).any(|(role, c)| role == Role::Sidecar && c.name == name);
    let mut others_run = false;
    for (name, memory) in &view.memory.containers {
        if is_sidecar(name) {
            continue;
        }
        others_run |= memory.launch.is_busy();
        for instance in memory.instances.iter().filter(|i| i.is_running()) {
            others_run = true;
            stop(memory, (name, instance), kill_at, plan);
        }
    }
    if others_run {
        return;
    }
    for (role, container) in containers(view.pod).rev() {
        let memory = view.container(&container.name);
        if role == Role::Sidecar && (memory.running().is_some() || memory.launch.is_busy()) {
            let kill_at = kill_at.max(after(view.now, GRACE_LEAST));
            if let Some(instance) = memory.running() {
                stop(memory, (&container.name, instance), kill_at, plan);
            }
            return;
        }
    }
}

fn stop(
    memory: &ContainerMemory,
    (name, instance): (&str, &Instance),
    kill_at: Timestamp,
    plan: &mut Plan,
) {
    match &memory.stopping {
        Some((id, before)) if *id == instance.id => {
            // A sidecar's time moves with `now`; only a really earlier end is passed on.
            if kill_at < *before {
                plan.act(Action::Hasten {
                    container: name.to_owned(),
                    kill_at,
                });
            }
        }
        _ => plan.act(Action::Stop {
            container: name.to_owned(),
            id: instance.id.clone(),
            kill_at,
            why: Why::Ending,
        }),
    }
}

fn take_down(view: &View<'_>, plan: &mut Plan) {
    let memory = view.memory;
    if memory.teardown.is_due(view.now) {
        plan.act(Action::TearDown);
    }
    plan.wake(memory.teardown.retry_at());
    let is_clean = memory.teardown.done().is_some()
        && memory
            .containers
            .values()
            .all(|c| c.instances.iter().all(|i| i.start_error.is_some()));
    if !is_clean {
        return;
    }
    if view.is_gone {
        plan.stage = Stage::Gone;
        return;
    }
    if view.is_deleted() && memory.is_reported {
        if memory.delete.is_due(view.now) {
            plan.act(Action::Delete);
        }
        plan.wake(memory.delete.retry_at());
    }
}

/// Removes attempts nobody asks about any more: all of a deleted pod that has ended, otherwise all
/// but the newest two.
fn tidy(view: &View<'_>, plan: &mut Plan) {
    let is_over = plan.stage != Stage::Running && plan.stage != Stage::Ending;
    let keep = if is_over && (view.is_gone || view.is_deleted()) {
        0
    } else {
        2
    };
    for (name, memory) in &view.memory.containers {
        let surplus = memory.instances.len().saturating_sub(keep);
        for instance in &memory.instances[..surplus] {
            let is_over = !instance.is_running() && instance.start_error.is_none();
            if is_over && !memory.launch.is_busy() && !memory.removing.contains(&instance.id) {
                plan.act(Action::Remove {
                    container: name.clone(),
                    id: instance.id.clone(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
