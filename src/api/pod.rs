//! Pure readings of a typed Pod that scheduler, controllers and agent share.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::meta;
use super::quantity::Quantity;

/// Amounts by resource name (`cpu`, `memory`, `example.com/thing`).
pub type Resources = BTreeMap<String, Quantity>;

/// How well a pod is protected when its node runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Qos {
    /// Asks for nothing.
    BestEffort,
    /// Something between.
    Burstable,
    /// Every container has limits of both processor and memory, and asks for exactly those.
    Guaranteed,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

/// A port of the host that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `0.0.0.0` where the pod takes it on all addresses.
    pub address: String,
    /// On the host.
    pub port: i32,
    /// Of the container.
    pub container_port: i32,
}

impl HostPort {
    /// Whether both cannot be on one host.
    pub fn collides_with(&self, other: &Self) -> bool {
        let is_any = |address: &str| matches!(address, "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || is_any(&self.address) || is_any(&other.address))
    }
}

/// `status.phase`; empty where absent.
pub fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// `spec.nodeName`; empty where the pod is not bound.
pub fn node_name(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

/// Whether all containers have ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether `metadata.deletionTimestamp` is set.
pub fn is_terminating(pod: &Pod) -> bool {
    meta::is_terminating(&pod.metadata)
}

/// Whether the pod counts for a workload: neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

/// Whether the condition `Ready` is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}

/// When a ready pod has been ready for `min_ready_seconds`; `None` where it is not ready.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    if min_ready_seconds == 0 {
        return Some(Timestamp::MIN);
    }
    let since = ready.last_transition_time.as_ref()?.0;
    let delay = SignedDuration::from_secs(i64::from(min_ready_seconds));
    since.checked_add(delay).ok()
}

/// Whether the pod is the API's picture of one that a node runs from a file.
pub fn is_mirror(pod: &Pod) -> bool {
    meta::annotation(&pod.metadata, "kubernetes.io/config.mirror").is_some()
}

/// The condition of one type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

/// Puts `new` in the place of the condition of its type. The time of transition is kept where the
/// status is the same. `false`: nothing changed.
pub fn set_condition(conditions: &mut Vec<PodCondition>, mut new: PodCondition) -> bool {
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time
            .clone_from(&old.last_transition_time);
    }
    if *old == new {
        return false;
    }
    *old = new;
    true
}

/// The owner that controls the pod.
pub fn controller(pod: &Pod) -> Option<&OwnerReference> {
    meta::controller_of(&pod.metadata)
}

/// How often containers were restarted, all together.
pub fn restart_count(pod: &Pod) -> i64 {
    statuses(pod).map(|s| i64::from(s.restart_count)).sum()
}

/// The status of every init container and container.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|s| s.init_container_statuses.as_ref());
    let main = status.and_then(|s| s.container_statuses.as_ref());
    init.into_iter().chain(main).flatten()
}

/// Whether an init container runs beside the others instead of before them.
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// The containers that run while the pod runs: sidecars and the containers proper.
pub fn long_running(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    init.iter()
        .filter(|c| is_sidecar(c))
        .chain(&spec.containers)
}

/// The host's ports that the pod takes.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let on_host = spec.host_network == Some(true);
    let ports = long_running(spec).flat_map(|c| c.ports.as_deref().unwrap_or_default());
    ports
        .filter_map(|port| {
            let default = on_host.then_some(port.container_port);
            let host_port = port.host_port.filter(|p| *p != 0).or(default)?;
            let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: address.unwrap_or("0.0.0.0").to_owned(),
                port: host_port,
                container_port: port.container_port,
            })
        })
        .collect()
}

/// The number of the container port named `name`, as probes and services look it up.
pub fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let ports = long_running(spec).flat_map(|c| c.ports.as_deref().unwrap_or_default());
    ports
        .filter(|port| port.name.as_deref() == Some(name))
        .find(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|port| port.container_port)
}

/// What the scheduler and the node must set aside for the pod: containers and sidecars together,
/// or an init container and the sidecars before it where that is more; and the overhead.
pub fn requests(pod: &Pod) -> Resources {
    total(
        pod,
        |container| container.resources.as_ref()?.requests.as_ref(),
        |spec| spec.resources.as_ref()?.requests.as_ref(),
    )
}

/// The most the pod may use, where limits are set; as [`requests`].
pub fn limits(pod: &Pod) -> Resources {
    total(
        pod,
        |container| container.resources.as_ref()?.limits.as_ref(),
        |spec| spec.resources.as_ref()?.limits.as_ref(),
    )
}

type Amounts = BTreeMap<String, QuantityText>;

fn total(
    pod: &Pod,
    of_container: fn(&Container) -> Option<&Amounts>,
    of_pod: fn(&PodSpec) -> Option<&Amounts>,
) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::new();
    };
    let mut sum = Resources::new();
    for container in &spec.containers {
        add(&mut sum, &parsed(of_container(container)));
    }
    let mut sidecars = Resources::new();
    let mut most_of_init = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        let mut needed = parsed(of_container(container));
        if is_sidecar(container) {
            add(&mut sum, &needed);
            add(&mut sidecars, &needed);
            needed.clone_from(&sidecars);
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut most_of_init, &needed);
    }
    raise(&mut sum, &most_of_init);
    sum.extend(parsed(of_pod(spec)));
    add(&mut sum, &parsed(spec.overhead.as_ref()));
    sum
}

fn parsed(amounts: Option<&Amounts>) -> Resources {
    let amounts = amounts.into_iter().flatten();
    amounts
        .filter_map(|(name, amount)| Some((name.clone(), amount.0.parse().ok()?)))
        .collect()
}

/// Adds `other` to `sum`, resource by resource.
pub fn add(sum: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(most: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        let slot = most.entry(name.clone()).or_default();
        *slot = (*slot).max(*amount);
    }
}

/// The pod's class; computed, not read from `status`.
pub fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else {
        return Qos::BestEffort;
    };
    if let Some(own) = &spec.resources {
        let own = [(parsed(own.requests.as_ref()), parsed(own.limits.as_ref()))];
        if own
            .iter()
            .any(|(requests, limits)| !requests.is_empty() || !limits.is_empty())
        {
            return qos_of(own);
        }
    }
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    qos_of(containers.map(|container| {
        let resources = container.resources.as_ref();
        let requests = parsed(resources.and_then(|r| r.requests.as_ref()));
        let limits = parsed(resources.and_then(|r| r.limits.as_ref()));
        (requests, limits)
    }))
}

/// The class from each container's requests and limits (`ComputePodQOS`).
pub fn qos_of(containers: impl IntoIterator<Item = (Resources, Resources)>) -> Qos {
    let (mut requests, mut limits) = (Resources::new(), Resources::new());
    let mut is_guaranteed = true;
    for (mut asked, mut limited) in containers {
        for resources in [&mut asked, &mut limited] {
            resources.retain(|name, amount| {
                matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO
            });
        }
        is_guaranteed &= limited.len() == 2;
        add(&mut requests, &asked);
        add(&mut limits, &limited);
    }
    if requests.is_empty() && limits.is_empty() {
        Qos::BestEffort
    } else if is_guaranteed && requests == limits {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn asking(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn requests_count_init_containers_and_sidecars() {
        let sidecar = |cpu: &str| {
            let mut container = asking(cpu);
            container["restartPolicy"] = "Always".into();
            container
        };
        let cpu = |spec: Value| requests(&pod(spec))["cpu"].to_string();
        let two = json!([asking("1"), asking("500m")]);
        assert_eq!(cpu(json!({"containers": two})), "1500m");
        assert_eq!(
            cpu(json!({"containers": two, "initContainers": [asking("1")]})),
            "1500m"
        );
        assert_eq!(
            cpu(json!({"containers": two, "initContainers": [asking("2")]})),
            "2"
        );
        let init = json!([sidecar("1"), asking("2")]);
        assert_eq!(cpu(json!({"containers": two, "initContainers": init})), "3");
        let init = json!([asking("2"), sidecar("1")]);
        assert_eq!(
            cpu(json!({"containers": two, "initContainers": init})),
            "2500m"
        );
        assert_eq!(
            cpu(json!({"containers": two, "overhead": {"cpu": "1"}})),
            "2500m"
        );
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        let of = |resources: Value| {
            qos(&pod(
                json!({"containers": [{"name": "a", "resources": resources}]}),
            ))
            .name()
        };
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(of(json!({})), "BestEffort");
        assert_eq!(
            of(json!({"requests": {"example.com/x": "1"}})),
            "BestEffort"
        );
        assert_eq!(of(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(of(json!({"limits": both})), "Burstable");
        assert_eq!(of(json!({"limits": both, "requests": both})), "Guaranteed");
        let written_otherwise = json!({"cpu": "1000m", "memory": "1024Mi"});
        assert_eq!(
            of(json!({"limits": both, "requests": written_otherwise})),
            "Guaranteed"
        );
    }

    #[test]
    fn conditions_keep_their_time_while_the_status_stays() {
        let make = |status: &str, at: &str| -> PodCondition {
            serde_json::from_value(
                json!({"type": "Ready", "status": status, "lastTransitionTime": at}),
            )
            .unwrap()
        };
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z");
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, make("True", early)));
        assert!(!set_condition(&mut conditions, make("True", late)));
        let mut pod = pod(json!({"containers": []}));
        pod.status = Some(Default::default());
        pod.status.as_mut().unwrap().conditions = Some(conditions.clone());
        let at = |text: &str| text.parse().unwrap();
        assert!(is_ready(&pod) && is_available(&pod, 5, at("2026-01-01T00:00:05Z")));
        assert!(!is_available(&pod, 6, at("2026-01-01T00:00:05Z")));
        assert!(set_condition(&mut conditions, make("False", late)));
    }

    #[test]
    fn host_ports_collide_by_address() {
        let pod = pod(json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 81},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1", "name": "dns"},
        ]}]}));
        let ports = host_ports(&pod);
        assert_eq!(ports.len(), 2);
        let elsewhere = HostPort {
            address: "10.0.0.2".into(),
            ..ports[1].clone()
        };
        assert!(!ports[1].collides_with(&elsewhere));
        let any = HostPort {
            address: "0.0.0.0".into(),
            ..ports[1].clone()
        };
        assert!(ports[1].collides_with(&any) && !ports[0].collides_with(&any));
        assert_eq!(named_port(&pod, "dns", "UDP"), Some(53));
        assert_eq!(named_port(&pod, "dns", "TCP"), None);
    }
}
