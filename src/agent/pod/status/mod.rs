//! What the server is told of a pod. Pure: `(pod, memory, status before, node, now) → PodStatus`,
//! as kubernetes `pkg/kubelet/kubelet_pods.go` and `pkg/kubelet/status/generate.go` do it.
//!
//! What is not the agent's stays as it was before: conditions of others, `nominatedNodeName`.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{PULL_FAILURE_SHOWN, View, has_network, restart_policy, status_of};
use super::restart::{Role, containers, go_duration, runs_again};
use super::state::{ContainerMemory, Hook, Instance};

/// What a status says of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeFacts {
    /// Addresses of the node, the main one first.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The status of the pod as it is now.
pub(crate) fn status(view: &View<'_>, node: &NodeFacts) -> PodStatus {
    let mut of_init = Vec::new();
    let mut of_apps = Vec::new();
    for (role, container) in containers(view.pod) {
        let status = container_status(view, role, container);
        if role == Role::App {
            of_apps.push(status);
        } else {
            of_init.push(status);
        }
    }
    let phase = phase(view, &of_init, &of_apps);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        observed_generation: view.pod.metadata.generation,
        start_time: view.before.start_time.clone().or(Some(second(view.now))),
        qos_class: view.before.qos_class.clone(),
        nominated_node_name: view.before.nominated_node_name.clone(),
        init_container_statuses: some(of_init),
        container_statuses: some(of_apps),
        ..PodStatus::default()
    };
    if let Some(ended) = &view.memory.ended {
        status.reason = Some(ended.reason.to_owned());
        status.message = Some(ended.message.clone());
    } else {
        status.reason.clone_from(&view.before.reason);
        status.message.clone_from(&view.before.message);
    }
    addresses(view, node, &mut status);
    status.conditions = Some(conditions(view, &status));
    status
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The API keeps seconds.
fn second(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn addresses(view: &View<'_>, node: &NodeFacts, status: &mut PodStatus) {
    let host: Vec<String> = node.addresses.iter().map(IpAddr::to_string).collect();
    let own: Vec<String> = if has_network(view.pod) {
        let given = view.memory.addresses.done();
        let given = given.map(|list| list.iter().map(IpAddr::to_string).collect());
        let before = || {
            let before = view.before.pod_ips.iter().flatten();
            before.map(|ip| ip.ip.clone()).collect()
        };
        given.unwrap_or_else(before)
    } else {
        host.clone()
    };
    status.host_ip = host.first().cloned();
    status.host_ips = some(host.into_iter().map(|ip| HostIP { ip }).collect());
    status.pod_ip = own.first().cloned();
    status.pod_ips = some(own.into_iter().map(|ip| PodIP { ip }).collect());
}

// === Containers ===

fn container_status(view: &View<'_>, role: Role, container: &Container) -> ContainerStatus {
    let empty = ContainerMemory::default();
    let memory = view.memory.containers.get(&container.name);
    let memory = memory.unwrap_or(&empty);
    let image = container.image.clone().unwrap_or_default();
    let mut status = match memory.current() {
        Some(current) => from_instance(view, container, memory, current),
        None => from_before(view, container, image),
    };
    if let Some(waiting) = waiting(view, role, container, memory) {
        let state = status.state.take().unwrap_or_default();
        if state.terminated.is_some() {
            status.last_state = Some(state);
        }
        status.state = Some(ContainerState {
            waiting: Some(waiting),
            ..ContainerState::default()
        });
    }
    let is_started = match role {
        Role::Init => memory.running().is_some(),
        Role::App | Role::Sidecar => memory.is_started(),
    };
    status.started = Some(is_started);
    status.ready = match role {
        Role::Init => exit_code(&status) == Some(0),
        Role::App | Role::Sidecar => is_started && memory.probed.ready,
    };
    if let Some(resources) = &container.resources {
        status.allocated_resources.clone_from(&resources.requests);
        status.resources = Some(resources.clone());
    }
    status
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    let ended = status.state.as_ref()?.terminated.as_ref()?;
    Some(ended.exit_code)
}

fn from_instance(
    view: &View<'_>,
    container: &Container,
    memory: &ContainerMemory,
    current: &Instance,
) -> ContainerStatus {
    let count = memory.instances.len();
    let previous = count.checked_sub(2).and_then(|at| memory.instances.get(at));
    let before = status_of(view.before, &container.name);
    let last_state = previous
        .and_then(|instance| terminated(memory, instance))
        .map(ended)
        .or_else(|| before.and_then(|before| last_state(before, current)));
    let image = if current.image_name.is_empty() {
        current.image.clone()
    } else {
        current.image_name.clone()
    };
    ContainerStatus {
        name: container.name.clone(),
        container_id: current.start_error.is_none().then(|| full_id(&current.id)),
        image,
        image_id: current.image_id.clone(),
        restart_count: i32::try_from(current.attempt).unwrap_or(i32::MAX),
        last_state,
        state: Some(state(memory, current)),
        ..ContainerStatus::default()
    }
}

/// `containerd://ID`
pub(crate) fn full_id(id: &str) -> String {
    format!("containerd://{id}")
}

fn ended(terminated: ContainerStateTerminated) -> ContainerState {
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

/// How the attempt before `current` ended, where the runtime no longer has it.
fn last_state(before: &ContainerStatus, current: &Instance) -> Option<ContainerState> {
    let is_other = |state: &ContainerStateTerminated| {
        state.container_id.as_deref() != Some(full_id(&current.id).as_str())
    };
    let state = before.state.as_ref().and_then(|s| s.terminated.clone());
    if let Some(state) = state.filter(|state| is_other(state) && current.start_error.is_none()) {
        return Some(ended(state));
    }
    before.last_state.clone()
}

fn state(memory: &ContainerMemory, current: &Instance) -> ContainerState {
    if let Some(terminated) = terminated(memory, current) {
        return ended(terminated);
    }
    let is_hooked = matches!(&memory.hook, Hook::Running(id) if *id == current.id);
    if !current.is_running() || is_hooked {
        return creating("ContainerCreating");
    }
    ContainerState {
        running: Some(ContainerStateRunning {
            started_at: current.started_at.map(second),
        }),
        ..ContainerState::default()
    }
}

fn creating(reason: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: None,
        }),
        ..ContainerState::default()
    }
}

fn terminated(memory: &ContainerMemory, instance: &Instance) -> Option<ContainerStateTerminated> {
    let exit = instance.exit()?;
    let reason = match exit.code {
        _ if instance.start_error.is_some() => "StartError",
        _ if exit.oom_killed => "OOMKilled",
        _ if !matches!(instance.phase, crate::runtime::Phase::Exited(_)) => {
            "ContainerStatusUnknown"
        }
        0 => "Completed",
        _ => "Error",
    };
    let message = instance.start_error.clone();
    let message = message.or_else(|| memory.messages.get(&instance.id).cloned());
    // A start that failed never had a beginning; the kubelet shows the epoch there.
    let started_at = instance.started_at.unwrap_or(Timestamp::UNIX_EPOCH);
    Some(ContainerStateTerminated {
        container_id: Some(full_id(&instance.id)),
        exit_code: exit.code,
        finished_at: Some(second(exit.at)),
        started_at: Some(second(started_at)),
        message: message.filter(|text| !text.is_empty()),
        reason: Some(reason.to_owned()),
        signal: None,
    })
}

/// The status of a container of which the runtime has nothing: what the server knew of it, or that
/// it is being made.
fn from_before(view: &View<'_>, container: &Container, image: String) -> ContainerStatus {
    let is_ending = super::plan::ends(view);
    let fresh = || ContainerStatus {
        name: container.name.clone(),
        image,
        state: Some(creating(default_reason(view))),
        ..ContainerStatus::default()
    };
    let Some(before) = status_of(view.before, &container.name) else {
        return fresh();
    };
    let was = before.state.as_ref();
    if was.is_some_and(|state| state.terminated.is_some()) {
        return before.clone();
    }
    if was.is_some_and(|state| state.running.is_some()) && is_ending {
        let lost = lost(before, view.now);
        return ContainerStatus {
            state: Some(ended(lost)),
            ..before.clone()
        };
    }
    ContainerStatus {
        restart_count: before.restart_count,
        last_state: before.last_state.clone(),
        ..fresh()
    }
}

fn lost(before: &ContainerStatus, now: Timestamp) -> ContainerStateTerminated {
    let running = before.state.as_ref().and_then(|s| s.running.as_ref());
    ContainerStateTerminated {
        container_id: before.container_id.clone(),
        exit_code: 137,
        finished_at: Some(second(now)),
        started_at: running.and_then(|running| running.started_at.clone()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        reason: Some("ContainerStatusUnknown".to_owned()),
        signal: None,
    }
}

fn default_reason(view: &View<'_>) -> &'static str {
    let has_init = view.pod.spec.as_ref().is_some_and(|spec| {
        spec.init_containers
            .as_ref()
            .is_some_and(|list| !list.is_empty())
    });
    if has_init {
        "PodInitializing"
    } else {
        "ContainerCreating"
    }
}

/// Why a container that should run does not, where something is known.
fn waiting(
    view: &View<'_>,
    role: Role,
    container: &Container,
    memory: &ContainerMemory,
) -> Option<ContainerStateWaiting> {
    if memory.running().is_some() {
        return None;
    }
    let exit = memory.current().and_then(Instance::exit);
    if let Some(exit) = &exit
        && !runs_again(view.pod, role, container, exit.code)
    {
        return None;
    }
    if super::plan::ends(view) && exit.is_some() {
        return None;
    }
    let made = |reason: &str, message: String| ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: Some(message),
    };
    if let Some(failure) = &memory.launch.failure {
        return Some(made(failure.reason, failure.message.clone()));
    }
    if let Some(failure) = &memory.image.failure {
        let shown_until = failure.at.saturating_add(PULL_FAILURE_SHOWN).ok()?;
        if failure.reason != "ErrImagePull" || view.now < shown_until {
            return Some(made(failure.reason, failure.message.clone()));
        }
        let image = container.image.as_deref().unwrap_or_default();
        let text = format!(
            "Back-off pulling image \"{image}\": ErrImagePull: {}",
            failure.message
        );
        return Some(made("ImagePullBackOff", text));
    }
    let crash = memory.crash?;
    let until = crash.may_restart_at(exit?.at);
    if until <= view.now {
        return None;
    }
    let meta = &view.pod.metadata;
    let text = format!(
        "back-off {} restarting failed container={} pod={}_{}({})",
        go_duration(crash.delay()),
        container.name,
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    );
    Some(made("CrashLoopBackOff", text))
}

// === Phase ===

#[derive(Default)]
struct Counts {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    pending_init: usize,
    pending_sidecars: usize,
    failed_init: usize,
}

fn phase(view: &View<'_>, init: &[ContainerStatus], apps: &[ContainerStatus]) -> &'static str {
    if view.memory.ended.is_some() {
        return "Failed";
    }
    match view.before.phase.as_deref() {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let mut counts = Counts::default();
    for ((role, _), status) in containers(view.pod).zip(init.iter().chain(apps)) {
        counts.add(role, status);
    }
    let never = restart_policy(view.pod) == "Never";
    if counts.failed_init > 0 && never {
        return "Failed";
    }
    // Once initialized, sidecars that start again do not make the pod pending.
    let was_initialized = condition(&view.before.conditions, "Initialized")
        .is_some_and(|condition| condition.status == "True");
    let is_pending = counts.pending_init > 0
        || (counts.pending_sidecars > 0 && !was_initialized)
        || counts.waiting > 0;
    if is_pending {
        return "Pending";
    }
    if counts.running > 0 {
        return "Running";
    }
    if counts.stopped == 0 {
        return "Pending";
    }
    let is_over = super::plan::ends(view) && !view.memory.is_alive();
    let policy = restart_policy(view.pod);
    match (is_over, counts.stopped == counts.succeeded) {
        (true, true) => "Succeeded",
        (true, false) => "Failed",
        (false, _) if policy == "Always" => "Running",
        (false, true) => "Succeeded",
        (false, false) if policy == "Never" => "Failed",
        (false, false) => "Running",
    }
}

impl Counts {
    fn add(&mut self, role: Role, status: &ContainerStatus) {
        let state = status.state.as_ref();
        let is_running = state.is_some_and(|s| s.running.is_some());
        let code = exit_code(status);
        let last = status.last_state.as_ref();
        let last = last.and_then(|s| s.terminated.as_ref().map(|t| t.exit_code));
        match role {
            Role::Init => match (is_running, code, last) {
                (true, ..) => self.pending_init += 1,
                (_, Some(0), _) => {}
                (_, Some(_), _) => self.failed_init += 1,
                (_, None, Some(code)) if code != 0 => self.failed_init += 1,
                (_, None, Some(_)) => {}
                (_, None, None) => self.pending_init += 1,
            },
            Role::Sidecar if is_running => {
                self.running += 1;
                self.pending_sidecars += usize::from(status.started != Some(true));
            }
            Role::Sidecar => {
                let is_new = code.is_none() && last.is_none();
                self.pending_sidecars += usize::from(is_new);
                self.waiting += usize::from(is_new);
            }
            Role::App => match (is_running, code, last) {
                (true, ..) => self.running += 1,
                (_, Some(code), _) => {
                    self.stopped += 1;
                    self.succeeded += usize::from(code == 0);
                }
                (_, None, Some(_)) => self.stopped += 1,
                (_, None, None) => self.waiting += 1,
            },
        }
    }
}

// === Conditions ===

/// The condition of a type, where there is one.
pub(crate) fn condition<'a>(
    conditions: &'a Option<Vec<PodCondition>>,
    kind: &str,
) -> Option<&'a PodCondition> {
    conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// What a condition says, before it has a time.
#[derive(Clone)]
struct Saying {
    is_true: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Saying {
    fn yes() -> Self {
        Self {
            is_true: true,
            reason: None,
            message: None,
        }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self {
            is_true: false,
            reason: Some(reason),
            message,
        }
    }
}

/// Conditions that are the agent's alone to say.
pub(crate) const OWN_CONDITIONS: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

fn conditions(view: &View<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let initialized = initialized(view, status);
    let containers_ready = containers_ready(view, status);
    let ready = if containers_ready.is_true {
        readiness_gates(view)
    } else {
        containers_ready.clone()
    };
    let may_start = can_start_containers(view);
    let ours = [
        ("PodReadyToStartContainers", may_start),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Saying::yes()),
    ];
    let mut all: Vec<PodCondition> = ours
        .into_iter()
        .map(|(name, saying)| stamped(view, name, saying))
        .collect();
    let others = view.before.conditions.iter().flatten();
    all.extend(
        others
            .filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str()))
            .cloned(),
    );
    all
}

fn stamped(view: &View<'_>, kind: &str, saying: Saying) -> PodCondition {
    let status = if saying.is_true { "True" } else { "False" };
    let before = condition(&view.before.conditions, kind);
    let since = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: saying.reason.map(str::to_owned),
        message: saying.message,
        last_probe_time: None,
        last_transition_time: since.or(Some(second(view.now))),
        observed_generation: view.pod.metadata.generation,
    }
}

fn can_start_containers(view: &View<'_>) -> Saying {
    let is_made = if has_network(view.pod) {
        view.memory.addresses.done().is_some()
    } else {
        view.memory.volumes.done().is_some() || view.memory.is_alive()
    };
    let is_over = super::plan::ends(view) && !view.memory.is_alive();
    Saying {
        is_true: is_made && !is_over,
        reason: None,
        message: None,
    }
}

fn initialized(view: &View<'_>, status: &PodStatus) -> Saying {
    let was = condition(&view.before.conditions, "Initialized");
    let was = was.is_some_and(|condition| condition.status == "True");
    let mut missing = Vec::new();
    let list = status.init_container_statuses.iter().flatten();
    for ((role, _), status) in containers(view.pod).zip(list) {
        let is_done = match role {
            Role::Sidecar => status.started == Some(true),
            Role::Init | Role::App => status.ready,
        };
        if !is_done {
            missing.push(status.name.as_str());
        }
    }
    if status.phase.as_deref() == Some("Succeeded") {
        return Saying {
            reason: Some("PodCompleted"),
            ..Saying::yes()
        };
    }
    // Init containers that are over and removed, and sidecars that start again, change nothing.
    let apps_began = view
        .memory
        .containers
        .iter()
        .any(|(name, memory)| is_app(view.pod, name) && memory.of_this_boot().is_some());
    if missing.is_empty() || was && apps_began {
        return Saying::yes();
    }
    let message = format!("containers with incomplete status: [{}]", missing.join(" "));
    Saying::no("ContainersNotInitialized", Some(message))
}

fn is_app(pod: &Pod, name: &str) -> bool {
    containers(pod).any(|(role, container)| role == Role::App && container.name == name)
}

fn containers_ready(view: &View<'_>, status: &PodStatus) -> Saying {
    match status.phase.as_deref() {
        Some("Succeeded") => return Saying::no("PodCompleted", None),
        Some("Failed") => return Saying::no("PodFailed", None),
        _ => {}
    }
    let init = status.init_container_statuses.iter().flatten();
    let all = init.chain(status.container_statuses.iter().flatten());
    let unready: Vec<&str> = containers(view.pod)
        .zip(all)
        .filter(|((role, _), status)| *role != Role::Init && !status.ready)
        .map(|(_, status)| status.name.as_str())
        .collect();
    if unready.is_empty() {
        return Saying::yes();
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Saying::no("ContainersNotReady", Some(message))
}

fn readiness_gates(view: &View<'_>) -> Saying {
    let spec = view.pod.spec.as_ref();
    let gates = spec.and_then(|spec| spec.readiness_gates.as_deref());
    let mut missing = Vec::new();
    for gate in gates.unwrap_or_default() {
        let kind = &gate.condition_type;
        // Gates are set by others: the server's copy counts, not the worker's.
        let status = view.pod.status.as_ref();
        match status.and_then(|status| condition(&status.conditions, kind)) {
            None => missing.push(format!(
                "corresponding condition of pod readiness gate \"{kind}\" does not exist."
            )),
            Some(condition) if condition.status != "True" => missing.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                condition.status
            )),
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        return Saying::yes();
    }
    Saying::no("ReadinessGatesNotReady", Some(missing.join(", ")))
}

#[cfg(test)]
mod tests;
