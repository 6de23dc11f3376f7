//! What the machine is → `Node.status`, with the kubelet's conditions, reasons and texts. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::resources::Machine;
use crate::agent::config::Config;
use crate::api::{quantity::Quantity, time};
use crate::runtime::{Image, Version};

/// Most images in the status (the kubelet's `nodeStatusMaxImages`).
const IMAGES_MAX: usize = 50;
/// Names an image may have in the status.
const NAMES_PER_IMAGE_MAX: usize = 5;

/// What the status is computed from.
pub(super) struct Observed<'a> {
    pub(super) machine: Machine,
    pub(super) runtime: &'a Version,
    pub(super) images: &'a [Image],
    /// Why the runtime does not answer.
    pub(super) runtime_problem: Option<String>,
    pub(super) network_ready: bool,
}

/// `Node.status` as JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status(pub(super) Value);

impl Status {
    /// Whether there is a difference that others should know of: heartbeat times are none.
    pub(super) fn differs_from(&self, other: &Self) -> bool {
        let bare = |status: &Self| {
            let mut value = status.0.clone();
            for condition in value["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastHeartbeatTime"] = Value::Null;
            }
            value
        };
        bare(self) != bare(other)
    }
}

/// Labels every node has, and those it was configured with.
pub(super) fn labels(config: &Config) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ];
    let own = own
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.chain(config.labels.clone()).collect()
}

/// The status of now; condition transition times are kept from `before`.
pub(super) fn status(
    config: &Config,
    observed: &Observed<'_>,
    before: Option<&Status>,
    now: Timestamp,
) -> Status {
    let machine = &observed.machine;
    Status(json!({
        "addresses": addresses(config),
        "capacity": capacity(config, machine, 0),
        "allocatable": capacity(config, machine, reserved_memory(config, machine)),
        "conditions": conditions(config, observed, before, now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.node_api_port}},
        "images": images(observed.images),
        "nodeInfo": {
            "architecture": architecture(),
            "bootID": machine.boot_id,
            "containerRuntimeVersion":
                format!("{}://{}", observed.runtime.name, observed.runtime.version),
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": config.version,
            "kubeletVersion": config.version,
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.system_uuid,
        },
    }))
}

/// As container images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn addresses(config: &Config) -> Value {
    let internal = config
        .node_ips
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip}));
    let hostname = json!({"type": "Hostname", "address": config.node_name});
    internal.chain([hostname]).collect()
}

fn capacity(config: &Config, machine: &Machine, reserved_memory_bytes: u64) -> Value {
    let memory = machine.memory_bytes.saturating_sub(reserved_memory_bytes);
    json!({
        "cpu": machine.cpus.to_string(),
        "memory": format!("{}Ki", memory / 1024),
        "ephemeral-storage": format!("{}Ki", machine.disk_bytes / 1024),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "pods": config.max_pods.to_string(),
    })
}

/// What eviction keeps free cannot be promised to pods.
fn reserved_memory(config: &Config, machine: &Machine) -> u64 {
    let threshold = config.eviction_hard.get("memory.available");
    threshold
        .and_then(|text| threshold_of(text, machine.memory_bytes))
        .unwrap_or(0)
}

/// A quantity, or a percentage of `whole`.
fn threshold_of(text: &str, whole: u64) -> Option<u64> {
    if let Some(percent) = text.strip_suffix('%') {
        let part = percent.parse::<f64>().ok()? / 100.0;
        return Some((whole as f64 * part) as u64);
    }
    u64::try_from(text.parse::<Quantity>().ok()?.value()).ok()
}

/// The name, the reasons and the texts of a pressure condition.
struct Pressure {
    kind: &'static str,
    bad: (&'static str, &'static str),
    good: (&'static str, &'static str),
}

const MEMORY: Pressure = Pressure {
    kind: "MemoryPressure",
    bad: (
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
    ),
    good: (
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
};
const DISK: Pressure = Pressure {
    kind: "DiskPressure",
    bad: ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    good: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
};
const PIDS: Pressure = Pressure {
    kind: "PIDPressure",
    bad: (
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
    ),
    good: (
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    ),
};

fn conditions(
    config: &Config,
    observed: &Observed<'_>,
    before: Option<&Status>,
    now: Timestamp,
) -> Value {
    let machine = &observed.machine;
    let below = |signal: &str, left: u64, whole: u64| {
        let threshold = config.eviction_hard.get(signal);
        threshold
            .and_then(|text| threshold_of(text, whole))
            .is_some_and(|least| left < least)
    };
    let memory = below(
        "memory.available",
        machine.memory_available_bytes,
        machine.memory_bytes,
    );
    let disk = below(
        "nodefs.available",
        machine.disk_available_bytes,
        machine.disk_bytes,
    ) || below(
        "imagefs.available",
        machine.disk_available_bytes,
        machine.disk_bytes,
    ) || below("nodefs.inodesFree", machine.inodes_free, machine.inodes);
    let pids = below(
        "pid.available",
        machine.pids.saturating_sub(machine.pids_used),
        machine.pids,
    );
    let pressures = [(MEMORY, memory), (DISK, disk), (PIDS, pids)].map(|(pressure, is_bad)| {
        let (reason, message) = if is_bad { pressure.bad } else { pressure.good };
        (pressure.kind, is_bad, reason, message.to_owned())
    });
    let (is_ready, reason, message) = ready(observed);
    let all = pressures
        .into_iter()
        .chain([("Ready", is_ready, reason, message)]);
    all.map(|(kind, is_true, reason, message)| {
        let status = if is_true { "True" } else { "False" };
        let since = before.and_then(|before| since(before, kind, status));
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": time::seconds(now),
            "lastTransitionTime": since.unwrap_or_else(|| time::seconds(now)),
        })
    })
    .collect()
}

fn ready(observed: &Observed<'_>) -> (bool, &'static str, String) {
    if let Some(problem) = &observed.runtime_problem {
        return (
            false,
            "KubeletNotReady",
            format!("container runtime is down: {problem}"),
        );
    }
    if !observed.network_ready {
        let message = "container runtime network not ready: the node has no pod network yet";
        return (false, "KubeletNotReady", message.to_owned());
    }
    (
        true,
        "KubeletReady",
        "kubelet is posting ready status".to_owned(),
    )
}

fn since(before: &Status, kind: &str, status: &str) -> Option<String> {
    let conditions = before.0["conditions"].as_array()?;
    let same = conditions
        .iter()
        .find(|c| c["type"] == kind && c["status"] == status)?;
    same["lastTransitionTime"].as_str().map(str::to_owned)
}

/// The largest images, as the kubelet reports them.
fn images(images: &[Image]) -> Value {
    let mut images: Vec<_> = images.iter().collect();
    images.sort_by(|a, b| {
        b.size_bytes
            .cmp(&a.size_bytes)
            .then_with(|| a.id.cmp(&b.id))
    });
    let entries = images.into_iter().take(IMAGES_MAX).map(|image| {
        let names: Vec<_> = image.names.iter().take(NAMES_PER_IMAGE_MAX).collect();
        json!({"names": names, "sizeBytes": image.size_bytes})
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(network_ready: bool) -> Observed<'static> {
        static RUNTIME: Version = Version {
            name: String::new(),
            version: String::new(),
        };
        Observed {
            machine: Machine {
                cpus: 2,
                memory_bytes: 1 << 30,
                memory_available_bytes: 1 << 29,
                disk_bytes: 100 << 30,
                disk_available_bytes: 50 << 30,
                inodes: 1000,
                inodes_free: 500,
                pids: 1000,
                ..Machine::default()
            },
            runtime: &RUNTIME,
            images: &[],
            runtime_problem: None,
            network_ready,
        }
    }

    fn config() -> Config {
        Config::new("n1", "192.168.1.5".parse().unwrap(), "/tmp".into())
    }

    fn condition(status: &Status, kind: &str) -> (String, String) {
        let all = status.0["conditions"].as_array().unwrap();
        let found = all.iter().find(|c| c["type"] == kind).unwrap();
        (
            found["status"].as_str().unwrap().into(),
            found["reason"].as_str().unwrap().into(),
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_node_is_ready_when_runtime_and_network_are() {
        let status_with = |observed: &Observed<'_>| status(&config(), observed, None, at(1));
        let ready = status_with(&observed(true));
        assert_eq!(
            condition(&ready, "Ready"),
            ("True".into(), "KubeletReady".into())
        );
        let unconnected = status_with(&observed(false));
        assert_eq!(
            condition(&unconnected, "Ready"),
            ("False".into(), "KubeletNotReady".into())
        );
        let mut dead = observed(true);
        dead.runtime_problem = Some("no answer".into());
        assert_eq!(condition(&status_with(&dead), "Ready").0, "False");
    }

    #[test]
    fn pressure_follows_the_thresholds() {
        let mut short = observed(true);
        short.machine.memory_available_bytes = 50 << 20;
        short.machine.disk_available_bytes = 5 << 30;
        let status = status(&config(), &short, None, at(1));
        assert_eq!(condition(&status, "MemoryPressure").0, "True");
        assert_eq!(
            condition(&status, "DiskPressure").1,
            "KubeletHasDiskPressure"
        );
        assert_eq!(condition(&status, "PIDPressure").0, "False");
        assert_eq!(
            status.0["allocatable"]["memory"],
            format!("{}Ki", (1024 - 100) * 1024)
        );
    }

    #[test]
    fn only_news_make_a_difference_and_transitions_keep_their_time() {
        let first = status(&config(), &observed(true), None, at(1));
        let second = status(&config(), &observed(true), Some(&first), at(60));
        assert!(!second.differs_from(&first));
        assert_eq!(
            second.0["conditions"][3]["lastTransitionTime"],
            "1970-01-01T00:00:01Z"
        );
        let third = status(&config(), &observed(false), Some(&second), at(70));
        assert!(third.differs_from(&second));
        assert_eq!(
            third.0["conditions"][3]["lastTransitionTime"],
            "1970-01-01T00:01:10Z"
        );
    }
}
