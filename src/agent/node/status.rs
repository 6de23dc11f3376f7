//! What a node says of itself. Pure: facts, state and time → `NodeStatus`
//! (kubernetes `pkg/kubelet/nodestatus`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use crate::agent::config::Config;
use crate::runtime::{Image, Version};

use super::resources::{self, Facts, Free};

/// A status without changes is sent this often, to say that the node lives.
pub(crate) const HEARTBEAT: SignedDuration = SignedDuration::from_secs(300);
/// Pressure counts this long after it was last seen, so that pods do not come and go.
const PRESSURE_LASTS: SignedDuration = SignedDuration::from_secs(300);
/// As the kubelet: largest images, and names each.
const IMAGES_MOST: usize = 50;
const IMAGE_NAMES_MOST: usize = 5;

/// What changes about a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) runtime_version: Version,
    /// Why the runtime cannot be used; `None`: it can.
    pub(crate) runtime_down: Option<String>,
    /// Why pods get no network; `None`: they do.
    pub(crate) network_down: Option<String>,
    pub(crate) images: Vec<Image>,
    pub(crate) pressure: Pressure,
}

/// When the machine was last seen short of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
    processes: Option<Timestamp>,
}

impl Pressure {
    /// Takes in what is left now.
    pub(crate) fn see(
        &mut self,
        (facts, free): (&Facts, &Free),
        eviction_hard: &BTreeMap<String, String>,
        now: Timestamp,
    ) {
        let short = |signal: &str, left: u64, total: u64| {
            let least = eviction_hard.get(signal);
            let least = least.and_then(|text| resources::threshold(text, total));
            least.is_some_and(|least| left < least)
        };
        if short("memory.available", free.memory_bytes, facts.memory_bytes) {
            self.memory = Some(now);
        }
        let disk = |signal| short(signal, free.disk_bytes, free.disk_total_bytes);
        let inodes =
            free.inodes_total > 0 && short("nodefs.inodesFree", free.inodes, free.inodes_total);
        if free.disk_total_bytes > 0
            && (disk("nodefs.available") || disk("imagefs.available") || inodes)
        {
            self.disk = Some(now);
        }
        let left = free.processes_total.saturating_sub(free.processes);
        if short("pid.available", left, free.processes_total) {
            self.processes = Some(now);
        }
    }
}

/// The status now; `before` is the one the server has.
pub(crate) fn status(
    config: &Config,
    facts: &Facts,
    state: &State,
    (before, now): (&NodeStatus, Timestamp),
) -> NodeStatus {
    let version = &state.runtime_version;
    NodeStatus {
        addresses: Some(addresses(config)),
        capacity: Some(resources::capacity(facts, config.max_pods)),
        allocatable: Some(resources::allocatable(
            facts,
            config.max_pods,
            &config.eviction_hard,
        )),
        conditions: Some(conditions(state, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(config.node_api_port),
            }),
        }),
        images: Some(images(&state.images)),
        node_info: Some(NodeSystemInfo {
            architecture: facts.architecture.to_owned(),
            boot_id: facts.boot_id.clone(),
            container_runtime_version: format!("{}://{}", version.name, version.version),
            kernel_version: facts.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: config.version.clone(),
            machine_id: facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.os_image.clone(),
            system_uuid: facts.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn addresses(config: &Config) -> Vec<NodeAddress> {
    let made = |kind: &str, address: String| NodeAddress {
        type_: kind.to_owned(),
        address,
    };
    let mut all: Vec<NodeAddress> = config
        .node_ips
        .iter()
        .map(|ip: &IpAddr| made("InternalIP", ip.to_string()))
        .collect();
    all.push(made("Hostname", config.node_name.clone()));
    all
}

fn images(present: &[Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = present.iter().collect();
    sorted.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then(a.id.cmp(&b.id)));
    let made = |image: &Image| ContainerImage {
        names: Some(image.names.iter().take(IMAGE_NAMES_MOST).cloned().collect()),
        size_bytes: i64::try_from(image.size_bytes).ok(),
    };
    sorted.into_iter().take(IMAGES_MOST).map(made).collect()
}

fn conditions(state: &State, before: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let lasts = |seen: Option<Timestamp>| {
        seen.is_some_and(|seen| now.duration_since(seen) < PRESSURE_LASTS)
    };
    let pressure = &state.pressure;
    let network = match &state.network_down {
        None => (false, "PodNetworkIsUp", "pod network is up".to_owned()),
        Some(why) => (true, "PodNetworkNotReady", why.clone()),
    };
    let memory = if lasts(pressure.memory) {
        (
            true,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        )
    } else {
        (
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        )
    };
    let disk = if lasts(pressure.disk) {
        (true, "KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        (
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        )
    };
    let processes = if lasts(pressure.processes) {
        (
            true,
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        )
    } else {
        (
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        )
    };
    let owned = |(is, reason, text): (bool, &'static str, &str)| (is, reason, text.to_owned());
    [
        ("NetworkUnavailable", network),
        ("MemoryPressure", owned(memory)),
        ("DiskPressure", owned(disk)),
        ("PIDPressure", owned(processes)),
        ("Ready", ready(state)),
    ]
    .into_iter()
    .map(|(kind, saying)| condition(kind, saying, before, now))
    .collect()
}

fn ready(state: &State) -> (bool, &'static str, String) {
    let runtime = state
        .runtime_down
        .as_ref()
        .map(|why| format!("container runtime is down: {why}"));
    let network = state.network_down.as_ref().map(|why| {
        format!(
            "container runtime network not ready: NetworkReady=false \
             reason:NetworkPluginNotReady message:{why}"
        )
    });
    match (runtime, network) {
        (None, None) => (
            true,
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
        ),
        (Some(one), None) | (None, Some(one)) => (false, "KubeletNotReady", one),
        (Some(one), Some(other)) => (false, "KubeletNotReady", format!("[{one}, {other}]")),
    }
}

fn condition(
    kind: &str,
    (is_true, reason, message): (bool, &'static str, String),
    before: &NodeStatus,
    now: Timestamp,
) -> NodeCondition {
    let status = if is_true { "True" } else { "False" };
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let before = before.conditions.iter().flatten();
    let before = before.into_iter().find(|c| c.type_ == kind);
    let since = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(second)),
        last_transition_time: since.or(Some(Time(second))),
    }
}

/// The patch from the status the server has to `new`; `None` where nothing but heartbeats differ
/// and the last one is not old.
pub(crate) fn patch(server: &Node, new: &NodeStatus, now: Timestamp) -> Option<Value> {
    let empty = NodeStatus::default();
    let old = server.status.as_ref().unwrap_or(&empty);
    let is_due = last_heartbeat(old).is_none_or(|last| now.duration_since(last) >= HEARTBEAT);
    let (before, after) = (fields(old), fields(new));
    let mut changed: Map<String, Value> = after
        .into_iter()
        .filter(|(name, value)| name != "conditions" && before.get(name) != Some(value))
        .collect();
    if let Some(addresses) = changed.get_mut("addresses").and_then(Value::as_array_mut)
        && before.contains_key("addresses")
    {
        addresses.push(json!({"$patch": "replace"}));
    }
    let conditions = changed_conditions(old, new, is_due);
    if changed.is_empty() && conditions.is_empty() {
        return None;
    }
    if !conditions.is_empty() {
        changed.insert("conditions".to_owned(), Value::Array(conditions));
    }
    Some(json!({"status": changed}))
}

fn last_heartbeat(status: &NodeStatus) -> Option<Timestamp> {
    let mut all = status.conditions.iter().flatten();
    let ready = all.find(|c| c.type_ == "Ready")?;
    Some(ready.last_heartbeat_time.as_ref()?.0)
}

fn changed_conditions(old: &NodeStatus, new: &NodeStatus, is_due: bool) -> Vec<Value> {
    let same = |a: &NodeCondition, b: &NodeCondition| {
        (&a.status, &a.reason, &a.message) == (&b.status, &b.reason, &b.message)
    };
    let changed = new.conditions.iter().flatten().filter(|condition| {
        let before = old.conditions.iter().flatten();
        let before = before.into_iter().find(|c| c.type_ == condition.type_);
        is_due || before.is_none_or(|before| !same(before, condition))
    });
    changed
        .filter_map(|condition| serde_json::to_value(condition).ok())
        .collect()
}

fn fields(status: &NodeStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn config() -> Config {
        Config::new("n1", "192.168.1.6".parse().unwrap(), "/d".into())
    }

    fn run(state: &State, before: &NodeStatus, second: i64) -> NodeStatus {
        status(&config(), &Facts::default(), state, (before, at(second)))
    }

    fn says(status: &NodeStatus, kind: &str) -> (String, String) {
        let mut all = status.conditions.iter().flatten();
        let found = all.find(|c| c.type_ == kind).unwrap();
        (found.status.clone(), found.message.clone().unwrap())
    }

    #[test]
    fn a_node_is_ready_when_runtime_and_network_are() {
        let mut state = State::default();
        assert_eq!(
            says(&run(&state, &NodeStatus::default(), 0), "Ready").0,
            "True"
        );
        state.network_down = Some("no range of addresses yet".into());
        let status = run(&state, &NodeStatus::default(), 0);
        assert_eq!(says(&status, "NetworkUnavailable").0, "True");
        assert_eq!(
            says(&status, "Ready").1,
            "container runtime network not ready: NetworkReady=false \
             reason:NetworkPluginNotReady message:no range of addresses yet"
        );
        state.runtime_down = Some("no socket".into());
        let text = says(&run(&state, &NodeStatus::default(), 0), "Ready").1;
        assert!(text.starts_with("[container runtime is down: no socket, container"));
    }

    #[test]
    fn only_changes_and_old_heartbeats_are_sent() {
        let state = State::default();
        let mut node = Node {
            status: Some(run(&state, &NodeStatus::default(), 0)),
            ..Node::default()
        };
        let before = node.status.clone().unwrap();
        let later = run(&state, &before, 100);
        assert_eq!(patch(&node, &later, at(100)), None);
        let heartbeat = patch(&node, &run(&state, &before, 300), at(300)).unwrap();
        assert_eq!(
            heartbeat["status"]["conditions"].as_array().unwrap().len(),
            5
        );
        assert!(heartbeat["status"].get("capacity").is_none());
        let down = State {
            runtime_down: Some("x".into()),
            ..State::default()
        };
        let sent = patch(&node, &run(&down, &before, 100), at(100)).unwrap();
        let conditions = sent["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0]["lastTransitionTime"], at(100).to_string());
        node.status.as_mut().unwrap().addresses.as_mut().unwrap()[0].address = "1.1.1.1".into();
        let sent = patch(&node, &later, at(100)).unwrap();
        let list = sent["status"]["addresses"].as_array().unwrap();
        assert_eq!(list.last(), Some(&json!({"$patch": "replace"})));
    }

    #[test]
    fn pressure_lasts_a_while_after_it_was_seen() {
        let facts = Facts {
            memory_bytes: 1 << 30,
            ..Facts::default()
        };
        let mut pressure = Pressure::default();
        let free = Free {
            memory_bytes: 1 << 20,
            ..Free::default()
        };
        pressure.see((&facts, &free), &config().eviction_hard, at(0));
        let state = State {
            pressure,
            ..State::default()
        };
        let of = |second| {
            says(
                &run(&state, &NodeStatus::default(), second),
                "MemoryPressure",
            )
            .0
        };
        assert_eq!(
            (of(10).as_str(), of(299).as_str(), of(300).as_str()),
            ("True", "True", "False")
        );
        assert_eq!(
            says(&run(&state, &NodeStatus::default(), 1), "DiskPressure").0,
            "False"
        );
    }

    #[test]
    fn the_largest_images_are_told() {
        let image = |id: usize| Image {
            names: (0..7).map(|n| format!("{id}:{n}")).collect(),
            id: id.to_string(),
            size_bytes: id as u64,
            ..Image::default()
        };
        let all: Vec<Image> = (0..60).map(image).collect();
        let told = images(&all);
        assert_eq!(told.len(), IMAGES_MOST);
        assert_eq!(told[0].size_bytes, Some(59));
        assert_eq!(told[0].names.as_ref().unwrap().len(), IMAGE_NAMES_MOST);
    }
}
